"""Every exported row joins with its frame in the source, by the source's number of the episode."""

import json
import tempfile
from pathlib import Path

import numbered_writer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_writer import DIM, WRITERS, Numbered
from small_run import annotate_small
from small_worker import make_small

from ambient_curate.annotation.rows import Found, manifest_metadata, tabulate_shard
from ambient_curate.annotation.shards import plan_shards
from ambient_curate.data.collection import open_collection
from ambient_curate.data.study import Study, prepare_study
from ambient_curate.export.export import WRITERS as EXPORTERS
from ambient_curate.export.export import _lay_job, export_run
from ambient_curate.export.trainers import ExportOptions
from ambient_curate.integrations import FrameAnnotations
from ambient_curate.options import AnnotateOptions
from ambient_curate.progress import silent
from ambient_curate.run.records import Run
from ambient_curate.run.tables import read_manifest, write_part

HORIZON = 3
GRID = np.array([0.1, 0.9])


def mark(action: np.ndarray) -> np.ndarray:
    """A sigma_min that tells frames apart: it follows from what the action is."""
    return 1.0 / (1.0 + np.exp(-action[..., 0].astype(np.float64)))


def make_actions(numbers: list[int], lengths: list[int]) -> dict[int, np.ndarray]:
    return {
        number: np.random.default_rng([number, 1]).normal(size=(length, DIM)).astype(np.float32)
        for number, length in zip(numbers, lengths, strict=True)
    }


def annotate(folder: Path) -> tuple[Run, Study]:
    """Write the manifest of a run in which every window has the mark of its first action."""
    options = AnnotateOptions(
        horizon=HORIZON, folds=3, granularity="datapoint", represent="absolute"
    )
    study = prepare_study(open_collection(folder / "data"), options, folder / "study", silent)
    (folder / "run" / "manifest").mkdir(parents=True)
    for shard in plan_shards(study):
        frames, windows = study.frames[shard.dataset], study.windows[shard.dataset]
        action = frames.data["action"].numpy()
        first = [
            frames.offset[row] + np.arange(windows.counts[row]) for row in shard.episodes.tolist()
        ]
        found = mark(action[np.concatenate(first).astype(int)])
        if shard.dataset == "clean":
            found = np.zeros_like(found)
        metadata = manifest_metadata(study, GRID, "digest")
        part = tabulate_shard(study, shard, "ok", Found(np.stack([found] * 3)), metadata)
        write_part(part, folder / "run" / "manifest" / f"part-{shard.number:05d}.parquet")
    (folder / "run" / "run.json").write_text("{}")
    info = {"digest": "digest", "options": {"horizon": HORIZON}, "schema_version": 2}
    return Run(folder / "run", info), study


def export(run: Run, study: Study, folder: Path, to: str) -> Path:
    options = ExportOptions(to=to, n_obs_steps=1)
    collection = open_collection(folder / "data")
    EXPORTERS[to](_lay_job(run, study, collection, folder / to, options, 1.0))
    return folder / to


def check_rows(table: pa.Table, source: Numbered) -> None:
    """Every frame of the source has one row; where its window is whole, it has the frame's mark."""
    rows = table.to_pylist()
    named = [(row["episode_index"], row["frame_index"]) for row in rows]
    expected = {(number, k) for number, action in source.items() for k in range(len(action))}
    assert len(named) == len(expected) and set(named) == expected
    for row in rows:
        action = source[row["episode_index"]]
        if row["frame_index"] + HORIZON <= len(action):
            assert row["sigma_min"] == pytest.approx(mark(action[row["frame_index"]]))


@pytest.mark.parametrize("name", WRITERS)
@given(
    numbers=st.lists(st.integers(0, 2000), min_size=4, max_size=6, unique=True),
    short=st.integers(1, HORIZON - 1),
)
@settings(max_examples=3, deadline=None)
def test_exported_rows_join_with_the_source_by_number_and_frame(
    name: str, numbers: list[int], short: int
) -> None:
    lengths = [short, *(HORIZON + k for k in range(1, len(numbers)))]
    source = make_actions(numbers, lengths)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        clean = make_actions(list(range(5000, 5006)), [HORIZON + 2] * 6)  # no copies of the others
        numbered_writer.write_robomimic(folder / "data" / "clean", clean)
        WRITERS[name](folder / "data" / "set", source)
        run, study = annotate(folder)
        check_manifest(read_manifest(run.path), source)
        data = export(run, study, folder, "lerobot") / "set"
        check_rows(pq.read_table(data / "ambient.parquet"), source)
        unusable = json.loads((data / "exclude_episodes.json").read_text())
        assert unusable == [numbers[0]]
        table = pq.read_table(export(run, study, folder, "parquet") / "windows.parquet")
        check_rows(table.filter(pa.compute.equal(table["dataset"], "set")), source)
        table = pq.read_table(export(run, study, folder, "gr00t") / "set" / "trajectories.parquet")
        assert sorted(table["episode_index"].to_pylist()) == sorted(numbers)
        unweighted = [row["episode_index"] for row in table.to_pylist() if row["weight"] == 0]
        assert unweighted == [numbers[0]]
        data = export(run, study, folder, "diffusion-policy") / "set"
        with np.load(data / "sampler.npz") as file:
            found = dict(zip(file["number"].tolist(), file["episode"].tolist(), strict=True))
        assert found == {number: rank for rank, number in enumerate(sorted(numbers))}


def check_manifest(manifest: pa.Table, source: Numbered) -> None:
    for row in manifest.filter(pa.compute.equal(manifest["dataset"], "set")).to_pylist():
        if row["status"] == "ok":
            action = source[row["episode_index"]][row["start"]]
            assert row["sigma_min"] == pytest.approx(mark(action))
        else:
            assert len(source[row["episode_index"]]) < HORIZON


def test_a_global_index_that_repeats_joins_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch.setattr)
    source = make_actions([0, 1, 5, 7], [HORIZON + k for k in (1, 2, 3, 4)])
    clean = make_actions(list(range(5000, 5006)), [HORIZON + 2] * 6)
    numbered_writer.write_robomimic(tmp_path / "data" / "clean", clean)
    root = numbered_writer.write_lerobot2(tmp_path / "data" / "merged", source)
    for number in (5, 7):  # as a merge that leaves the index as it was
        (file,) = (root / "data").rglob(f"episode_{number:06d}.parquet")
        table = pq.read_table(file)
        place = table.column_names.index("index")
        frames = pa.compute.subtract(table["index"], len(source[0]) + len(source[1]))
        pq.write_table(table.set_column(place, "index", frames), file)
    run = annotate_small(
        tmp_path / "data", tmp_path / "run", horizon=HORIZON, granularity="datapoint"
    )
    assert run.manifest()["index"].null_count == run.manifest().num_rows
    out = export_run(run, to="lerobot", out=tmp_path / "out", n_obs_steps=1)
    (note,) = (note for note in out.info["notes"] if note.startswith("merged: "))
    assert "join by episode_index and frame_index" in note
    file = out.path / "data" / "merged" / "ambient.parquet"
    table = pq.read_table(file)
    assert table["index"].to_pylist() == list(range(sum(map(len, source.values()))))
    known = {(row["episode_index"], row["start"]): row for row in run.manifest().to_pylist()}
    annotations = FrameAnnotations(file)
    for number in source:
        low, _, _ = annotations.of_frames(torch.tensor([number]), torch.tensor([0]))
        assert float(low) == pytest.approx(known[number, 0]["sigma_min"])
