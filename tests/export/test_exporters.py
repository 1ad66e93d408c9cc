"""Exporters: every file read back by other code, every window compared with the manifest."""

import csv
import json
import os
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from known_run import (
    LENGTHS,
    Known,
    all_frames,
    expected,
    flatten,
    read_json,
    sampler_starts,
)

from ambient_curate.errors import ConfigError
from ambient_curate.export import robomimic
from ambient_curate.export.export import WRITERS, export_run
from ambient_curate.export.trainers import TRAINERS
from ambient_curate.noise import schedule_levels
from ambient_curate.run import source_data
from ambient_curate.run.records import Run

LEVELS = schedule_levels("squaredcos_cap_v2:100")
FRAME_TABLES = ["lerobot", "openpi", "robomimic", "octo", "openvla", "gr00t"]


@pytest.fixture
def made(made_known: tuple[Run, Known]) -> tuple[Run, Known]:
    return made_known


def check_rows(rows: list[dict], known: Known, before: int) -> None:
    """Rows of all frames say what the manifest says of the window `before` frames earlier."""
    assert [(r["dataset"], r["episode_index"], r["frame_index"]) for r in rows] == all_frames()
    for row in rows:
        name, episode, frame = row["dataset"], row["episode_index"], row["frame_index"]
        low, high = expected(known, name, episode, frame - before)
        assert (row["sigma_min"], row["sigma_max"]) == (low, high)
        steps = np.arange(100)
        usable = (low < LEVELS) | (high >= LEVELS)
        if row.get("steps", True):
            found = (steps >= row["t_min"]) | (steps <= row["t_max"])
            assert found.tolist() == usable.tolist()
        assert row["usable"] == (low < 1.0 or high > 0.0)


def frame_rows(data: Path) -> list[dict]:
    rows = []
    for name in sorted(LENGTHS):
        table = pq.read_table(data / name / "ambient.parquet").to_pylist()
        rows += [{"dataset": name, **row} for row in table]
    return rows


@pytest.mark.parametrize("n_obs_steps", [1, 2, 3])
@pytest.mark.parametrize("to", FRAME_TABLES)
def test_every_frame_has_the_values_of_its_window(
    made: tuple[Run, Known], tmp_path: Path, to: str, n_obs_steps: int
) -> None:
    run, known = made
    out = export_run(
        run, to=to, out=tmp_path / "out", n_obs_steps=n_obs_steps, schedule="squaredcos_cap_v2:100"
    )
    rows = frame_rows(out.path / "data")
    check_rows(rows, known, n_obs_steps - 1)
    for name in LENGTHS:
        own = [row for row in rows if row["dataset"] == name]
        assert [row["index"] for row in own] == list(range(len(own)))
        member = out.info["members"][name]
        assert member["rows"] == len(own)
        assert member["never_usable"] == sum(not row["usable"] for row in own)
        steps = sum(100 - row["t_min"] + row["t_max"] + 1 for row in own)
        assert member["effective"] == pytest.approx(steps / 100)
    assert sum(member["share"] for member in out.info["members"].values()) == pytest.approx(1.0)


@pytest.mark.parametrize("to", ["parquet", "csv", "jsonl"])
def test_plain_tables_have_all_windows_of_all_members(
    made: tuple[Run, Known], tmp_path: Path, to: str
) -> None:
    run, known = made
    out = export_run(run, to=to, out=tmp_path / "out", n_obs_steps=2)
    file = out.path / "data" / f"windows.{to}"
    if to == "parquet":
        rows = pq.read_table(file).to_pylist()
    elif to == "jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    else:
        with file.open() as lines:
            rows = list(csv.DictReader(lines))
        for row in rows:
            row |= {k: int(row[k]) for k in ("episode_index", "frame_index", "start")}
            row |= {k: float(row[k]) for k in ("sigma_min", "sigma_max", "t_min", "t_max")}
            row |= {k: row[k] == "True" for k in ("usable", "whole")}
    check_rows(rows, known, 1)
    for row in rows:
        length = LENGTHS[row["dataset"]][row["episode_index"]]
        assert row["start"] == row["frame_index"] - 1
        assert row["whole"] == (0 <= row["start"] <= length - 4)
    weights = {row["weight"] for row in rows if row["episode_id"] == "demo_2"}
    assert {None, ""} & weights  # the one that is too short


@pytest.mark.parametrize(("n_obs_steps", "n_action_steps"), [(1, 1), (2, 3), (3, 2)])
def test_diffusion_policys_sampler_finds_its_windows_in_order(
    made: tuple[Run, Known], tmp_path: Path, n_obs_steps: int, n_action_steps: int
) -> None:
    run, known = made
    steps = {"n_obs_steps": n_obs_steps, "n_action_steps": n_action_steps}
    out = export_run(run, to="diffusion-policy", out=tmp_path / "out", **steps)
    for name in LENGTHS:
        found = np.load(out.path / "data" / name / "sampler.npz", allow_pickle=False)
        starts = sampler_starts(name, n_obs_steps - 1, n_action_steps - 1)
        values = [expected(known, name, episode, start) for episode, start in starts]
        assert list(zip(found["sigma_min"], found["sigma_max"], strict=True)) == values
        episodes = np.repeat(found["episode"], found["count"])
        assert episodes.tolist() == [episode for episode, _ in starts]
        assert int(found["before"]) == n_obs_steps - 1
        low = np.array([value for value, _ in values])
        assert np.array_equal(found["t_min"], (low[:, None] >= LEVELS).sum(axis=1))


def test_openpi_keeps_the_frames_whose_window_may_be_used(
    made: tuple[Run, Known], tmp_path: Path
) -> None:
    run, known = made
    out = export_run(run, to="openpi", out=tmp_path / "out")
    assert out.info["rule"] == "usable at times t > t_min and at t <= t_max"
    for name, lengths in LENGTHS.items():
        ranges = read_json(out.path / "data" / name / "filter_dict.json")
        for episode, length in enumerate(lengths):
            values = [expected(known, name, episode, frame) for frame in range(length)]
            usable = [n for n, (low, high) in enumerate(values) if low < 1.0 or high > 0.0]
            assert flatten(ranges[f"demo_{episode}"]) == usable
    weights = read_json(out.path / "data" / "weights.json")
    assert weights == pytest.approx({name: m["share"] for name, m in out.info["members"].items()})


def test_robomimic_gets_a_filter_key_in_copies_and_the_sources_stay(
    made: tuple[Run, Known], tmp_path: Path
) -> None:
    run, known = made
    sources = {n: run.path.parent / "set" / n / "demos.hdf5" for n in LENGTHS}
    before = {name: path.read_bytes() for name, path in sources.items()}
    out = export_run(run, to="robomimic", out=tmp_path / "out")
    assert {name: path.read_bytes() for name, path in sources.items()} == before
    for name, lengths in LENGTHS.items():
        usable = [
            f"demo_{episode}".encode()
            for episode in range(len(lengths))
            if any(low < 1 or high > 0 for low, high in known.get((name, episode), {}).values())
        ]
        with h5py.File(out.path / "data" / name / "demos.hdf5") as file:
            assert file["mask/ambient"][()].tolist() == usable
            assert len(file["data"]) == len(lengths)
    assert b"demo_2" not in usable or name != "jitter"


def test_a_filter_key_that_is_there_is_not_overwritten(
    made: tuple[Run, Known], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = made
    monkeypatch.setattr(robomimic, "KEY", "train")
    source = run.path.parent / "set" / "far" / "demos.hdf5"
    times = source.stat()
    content = source.read_bytes()
    with h5py.File(source, "r+") as file:
        file["mask/train"] = np.array([b"demo_0"])
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    monkeypatch.setattr(source_data, "describe_files", lambda member: described(run, member.name))
    try:
        with pytest.raises(ConfigError, match=r"demos\.hdf5 has a filter key 'train' already"):
            export_run(run, to="robomimic", out=tmp_path / "out")
    finally:
        source.write_bytes(content)
        os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not (tmp_path / "out").exists()


def described(run: Run, name: str) -> dict[str, str]:
    """Files of a member as they were when it was annotated."""
    return run.info["sources"][name]["files"]


def test_lerobot_leaves_out_the_episodes_without_a_usable_window(
    made: tuple[Run, Known], tmp_path: Path
) -> None:
    run, _ = made
    out = export_run(run, to="lerobot", out=tmp_path / "out")
    left_out = read_json(out.path / "data" / "jitter" / "exclude_episodes.json")
    assert 2 in left_out
    assert read_json(out.path / "data" / "clean" / "exclude_episodes.json") == []
    assert any("no global index" in note for note in out.info["notes"])


def test_gr00ts_time_runs_backwards(made: tuple[Run, Known], tmp_path: Path) -> None:
    run, known = made
    out = export_run(run, to="gr00t", out=tmp_path / "out")
    for row in frame_rows(out.path / "data"):
        low, high = expected(known, row["dataset"], row["episode_index"], row["frame_index"])
        for time in np.linspace(0.01, 0.99, 25):
            sigma = (1 - time) / np.hypot(1 - time, time)  # of (1 - t) noise + t data
            usable = time < row["t_min"] or time >= row["t_max"]
            assert usable == (sigma > low or sigma <= high)
    total = pq.read_table(out.path / "data" / "clean" / "trajectories.parquet")
    assert total["weight"].to_pylist() == [float(length) for length in LENGTHS["clean"]]


def test_every_trainer_says_what_it_honours_and_what_is_lost() -> None:
    for trainer in TRAINERS.values():
        assert trainer.honours and trainer.lost
    assert list(WRITERS) == list(TRAINERS)
