"""Lookup: frames by index, unknown ones never usable."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ambient_curate.errors import ManifestError
from ambient_curate.integrations import FrameAnnotations
from ambient_curate.noise import schedule_levels


def write(path: Path, index: list[int], **columns: list[float]) -> Path:
    rows = {
        "index": index,
        "sigma_min": [0.1 * n for n in range(len(index))],
        "sigma_max": [0.01 * n for n in range(len(index))],
        "weight": [float(n) for n in range(len(index))],
    }
    pq.write_table(pa.table(rows | columns), path)
    return path


def test_frames_are_found_in_any_order(tmp_path: Path) -> None:
    annotations = FrameAnnotations(write(tmp_path / "a.parquet", [7, 3, 20, 4]))
    low, high, weight = annotations.of(torch.tensor([[20], [7], [4], [3]]))
    torch.testing.assert_close(low, torch.tensor([0.2, 0.0, 0.3, 0.1]))
    torch.testing.assert_close(high, torch.tensor([0.02, 0.0, 0.03, 0.01]))
    assert weight.tolist() == [2.0, 0.0, 3.0, 1.0]
    assert len(annotations) == 4


def test_a_frame_that_is_not_there_may_never_be_used(tmp_path: Path) -> None:
    for known in ([5, 6], []):
        annotations = FrameAnnotations(write(tmp_path / "a.parquet", known))
        low, high, weight = annotations.of(torch.tensor([-1, 4, 7, 10**12]))
        assert low.tolist() == [1.0] * 4
        assert high.tolist() == weight.tolist() == [0.0] * 4


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="frame 1 is there twice, with other levels"):
        FrameAnnotations(write(tmp_path / "a.parquet", [1, 2, 1]))
    pq.write_table(pa.table({"index": [1]}), tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes(b"nothing")
    for name in ("b.parquet", "c.parquet", "missing.parquet"):
        with pytest.raises(ManifestError, match="no table of annotated frames"):
            FrameAnnotations(tmp_path / name)


def write_repeated(path: Path) -> Path:
    """Two episodes whose frames have the same global index, as an export writes them."""
    rows = {
        "index": [0, 1, 2, 3],
        "episode_index": [4, 4, 10**15, 10**15],
        "frame_index": [0, 1, 0, 1],
        "sigma_min": [0.1, 0.2, 0.3, 0.4],
        "sigma_max": [0.0] * 4,
        "weight": [1.0, 2.0, 3.0, 4.0],
    }
    table = pa.table(rows).replace_schema_metadata({"joined_by": "episode_index, frame_index"})
    pq.write_table(table, path)
    return path


def test_where_the_index_repeats_frames_are_found_by_episode_and_frame(tmp_path: Path) -> None:
    annotations = FrameAnnotations(write_repeated(tmp_path / "a.parquet"))
    assert annotations.by_frame
    episode = torch.tensor([[10**15], [4], [10**15], [4], [5], [10**16], [4]])
    frame = torch.tensor([[0], [1], [1], [2], [0], [0], [-1]])
    low, _, weight = annotations.of_frames(episode, frame)
    torch.testing.assert_close(low, torch.tensor([0.3, 0.2, 0.4, 1.0, 1.0, 1.0, 1.0]))
    assert weight.tolist() == [3.0, 2.0, 4.0, 0.0, 0.0, 0.0, 0.0]
    with pytest.raises(ManifestError, match=r"index of the dataset of .* repeats"):
        annotations.of(torch.tensor([1]))
    assert len(FrameAnnotations(tmp_path / "a.parquet", tmp_path / "a.parquet")) == 4
    alone = FrameAnnotations(write(tmp_path / "b.parquet", [1]))
    with pytest.raises(ManifestError, match="joined by their global index"):
        alone.of_frames(episode, frame)


def test_a_frame_that_two_runs_agree_on_may_be_in_both(tmp_path: Path) -> None:
    """Such as one of a clean set that both were annotated with; their weights are of no use."""
    one = write(tmp_path / "a.parquet", [4, 5, 6], sigma_min=[0, 0, 0.3], weight=[1.0, 2.0, 3.0])
    other = write(tmp_path / "b.parquet", [5, 4, 9], sigma_max=[0.01, 0, 0], weight=[8.0, 1.0, 3.0])
    with pytest.raises(ManifestError, match="frame 4 is there twice"):
        FrameAnnotations(one, other)
    other = write(
        tmp_path / "b.parquet",
        [5, 4, 9],
        sigma_min=[0, 0, 0.7],
        sigma_max=[0.01, 0, 0],
        weight=[8.0, 1.0, 3.0],
    )
    found = FrameAnnotations(one, other)
    assert len(found) == 4
    low, _, weight = found.of(torch.tensor([4, 5, 6, 9]))
    torch.testing.assert_close(low, torch.tensor([0.0, 0.0, 0.3, 0.7]))
    torch.testing.assert_close(weight, torch.tensor([1.0, torch.nan, 3.0, 3.0]), equal_nan=True)


def test_no_level_is_admitted_that_the_table_does_not(tmp_path: Path) -> None:
    """A sigma_min is often a level of the trainer itself, and float32 would round half of them."""
    levels = schedule_levels("squaredcos_cap_v2:100")
    numbers = list(range(100))
    file = write(tmp_path / "a.parquet", numbers, sigma_min=levels, sigma_max=levels)
    low, high, _ = FrameAnnotations(file).of(torch.tensor(numbers))
    assert (low.double().numpy() >= levels).all()
    assert (high.double().numpy() <= levels).all()
    torch.testing.assert_close(low, high, rtol=1e-6, atol=0)
