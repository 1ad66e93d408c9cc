"""Replay: windows found by the sampler's own indices, which are restated here from its rule."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ambient_curate.errors import ManifestError
from ambient_curate.integrations import AnnotatedWindows, SamplerAnnotations, pop_annotation

LENGTHS, HORIZON, BEFORE, AFTER = (9, 3, 12, 4), 4, 1, 2
ENDS = np.cumsum(LENGTHS)


def create_indices(mask: list[bool]) -> list[tuple[int, int, int, int]]:
    """(buffer start, buffer end, start in the window, end in the window) of every window."""
    found = []
    for episode, (length, end) in enumerate(zip(LENGTHS, ENDS.tolist(), strict=True)):
        if not mask[episode]:
            continue
        begin = end - length
        for start in range(-BEFORE, length - HORIZON + AFTER + 1):
            first, last = max(start, 0), min(start + HORIZON, length)
            found.append((begin + first, begin + last, first - start, last - start))
    return found


def write(path: Path, episodes: list[int]) -> dict[tuple[int, int], float]:
    """A table of these episodes; give the value of every (episode, start)."""
    keys = [
        (episode, start)
        for episode in episodes
        for start in range(-BEFORE, LENGTHS[episode] - HORIZON + AFTER + 1)
    ]
    value = np.arange(len(keys)) / 100.0
    count = [max(LENGTHS[e] - HORIZON + 1 + BEFORE + AFTER, 0) for e in episodes]
    np.savez(
        path,
        sigma_min=value,
        sigma_max=value / 2,
        weight=value * 3,
        episode=np.array(episodes),
        count=np.array(count),
        before=BEFORE,
    )
    return dict(zip(keys, value.tolist(), strict=True))


@pytest.mark.parametrize("mask", [[True] * 4, [False, True, True, False]])
def test_windows_have_their_own_values_whatever_is_left_out(
    tmp_path: Path, mask: list[bool]
) -> None:
    known = write(tmp_path / "s.npz", [0, 1, 2, 3])
    indices = create_indices(mask)
    found = SamplerAnnotations(tmp_path / "s.npz", episode_ends=ENDS.tolist()).of(np.array(indices))
    for number, (begin, _, inside, _) in enumerate(indices):
        episode = int(np.searchsorted(ENDS, begin, side="right"))
        start = begin - (ENDS[episode] - LENGTHS[episode]) - inside
        value = known[episode, int(start)]
        assert float(found["sigma_min"][number]) == pytest.approx(value)
        assert float(found["sigma_max"][number]) == pytest.approx(value / 2)
        assert float(found["weight"][number]) == pytest.approx(value * 3)


def test_an_episode_that_was_not_annotated_is_never_used(tmp_path: Path) -> None:
    write(tmp_path / "s.npz", [0, 2])
    annotations = SamplerAnnotations(tmp_path / "s.npz", episode_ends=ENDS.tolist())
    one = annotations.of(create_indices([False, False, False, True])[0])
    assert {name: float(value) for name, value in one.items()} == {
        "sigma_min": 1.0,
        "sigma_max": 0.0,
        "weight": 0.0,
    }


def test_the_annotation_is_taken_out_before_a_normaliser_sees_the_batch(tmp_path: Path) -> None:
    batch = {"obs": 1, "sigma_min": 2, "sigma_max": 3, "weight": 4}
    assert pop_annotation(batch) == {"sigma_min": 2, "sigma_max": 3, "weight": 4}
    assert batch == {"obs": 1}


def test_other_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "s.npz", [0, 3])
    with pytest.raises(ManifestError, match="has episode 3; the replay buffer has 2"):
        SamplerAnnotations(tmp_path / "s.npz", episode_ends=[9, 12])
    np.savez(tmp_path / "other.npz", a=1)
    (tmp_path / "bad.npz").write_bytes(b"x")
    for name in ("other.npz", "bad.npz", "missing.npz"):
        with pytest.raises(ManifestError, match="no table of annotated windows"):
            SamplerAnnotations(tmp_path / name, episode_ends=ENDS.tolist())


def test_values_are_tensors_that_a_loader_collates(tmp_path: Path) -> None:
    write(tmp_path / "s.npz", [0])
    annotations = SamplerAnnotations(tmp_path / "s.npz", episode_ends=ENDS.tolist())
    samples = [annotations.of(row) for row in create_indices([True, False, False, False])[:3]]
    batch = torch.utils.data.default_collate(samples)
    assert batch["sigma_min"].shape == (3,)
    assert batch["sigma_min"].dtype == torch.float32
