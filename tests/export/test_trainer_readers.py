"""Trainers read what is written for them: by their own code, restated, not by ours."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from known_run import HORIZON, LENGTHS, Known, expected
from trainer_laws import draw_gr00t, draw_gr00t_n15, draw_openpi, draw_rlds, draw_robomimic

from ambient_curate.export.export import Export, export_run
from ambient_curate.run.records import Run

FRAMES = {name: sum(lengths) for name, lengths in LENGTHS.items()}


def export(made: tuple[Run, Known], out: Path, to: str, **options: object) -> Export:
    return export_run(made[0], to=to, out=out / to, **options)


def read_json(path: Path) -> object:
    return json.loads(path.read_text())


def meant(done: Export) -> dict[str, float]:
    """Shares in proportion to the windows that may be used, counted from the rows themselves."""
    steps = {}
    for name in LENGTHS:
        rows = pq.read_table(done.path / "data" / name / "ambient.parquet")
        if done.info["options"]["schedule"].startswith("squared"):
            share = (100 - rows["t_min"].to_numpy() + rows["t_max"].to_numpy() + 1) / 100
        elif done.info["options"]["schedule"] == "flow":
            share = 1.0 - rows["t_min"].to_numpy() + rows["t_max"].to_numpy()
        else:
            share = rows["t_min"].to_numpy() + 1.0 - rows["t_max"].to_numpy()
        steps[name] = share.sum()
    return {name: count / sum(steps.values()) for name, count in steps.items()}


@pytest.mark.parametrize("to", ["octo", "openvla"])
def test_octo_and_openvla_draw_the_shares_that_are_meant(
    made_known: tuple[Run, Known], tmp_path: Path, to: str
) -> None:
    done = export(made_known, tmp_path, to)
    mixture = read_json(done.path / "data" / "mixture.json")
    assert draw_rlds(mixture, FRAMES) == pytest.approx(meant(done))


def test_openpi_draws_the_shares_that_are_meant_of_the_frames_that_pass(
    made_known: tuple[Run, Known], tmp_path: Path
) -> None:
    done = export(made_known, tmp_path, "openpi")
    assert draw_openpi(read_json(done.path / "data" / "weights.json")) == pytest.approx(meant(done))
    for name, lengths in LENGTHS.items():
        passing = set()  # of step ids, as its hash table of frames holds them
        ranges = read_json(done.path / "data" / name / "filter_dict.json")
        for key, kept in ranges.items():
            for start, end in kept:
                passing |= {f"{key}--{t}" for t in range(start, end)}
        rows = pq.read_table(done.path / "data" / name / "ambient.parquet").to_pylist()
        usable = {f"{row['episode_id']}--{row['frame_index']}" for row in rows if row["usable"]}
        assert passing == usable
        assert len(rows) == sum(lengths)


def test_gr00ts_factories_draw_the_shares_that_are_meant(
    made_known: tuple[Run, Known], tmp_path: Path
) -> None:
    done = export(made_known, tmp_path, "gr00t")
    data = done.path / "data"
    old = draw_gr00t_n15(read_json(data / "mixture_n1.5.json"), FRAMES)
    assert old == pytest.approx(meant(done))
    ratio = read_json(data / "mix_ratio_n1.7.json")
    shards = {name: [7, 3, 5][: i + 1] for i, name in enumerate(ratio)}
    assert draw_gr00t(ratio, shards) == pytest.approx(meant(done))
    assert any("LeRobotMixtureDataset" in note for note in done.info["notes"])
    for name, lengths in LENGTHS.items():  # a trajectory, then any of its frames
        weight = pq.read_table(data / name / "trajectories.parquet")["weight"].to_numpy()
        rows = pq.read_table(data / name / "ambient.parquet")
        share = rows["t_min"].to_numpy() + 1.0 - rows["t_max"].to_numpy()
        each = np.bincount(rows["episode_index"].to_numpy(), share, minlength=len(lengths))
        np.testing.assert_allclose(weight / weight.sum(), each / each.sum())


def test_robomimic_draws_the_shares_that_are_meant_of_the_demonstrations_of_its_key(
    made_known: tuple[Run, Known], tmp_path: Path
) -> None:
    done = export(made_known, tmp_path, "robomimic")
    entries = read_json(done.path / "data" / "train_data.json")
    assert all(entry.keys() == {"path", "filter_key", "weight"} for entry in entries)
    found: dict[str, float] = {}
    for (path, _), share in draw_robomimic(entries, done.path / "data").items():
        name = Path(path).parts[0]
        found[name] = found.get(name, 0.0) + share
    assert found == pytest.approx(meant(done))


@pytest.mark.parametrize("n_obs_steps", [1, 2])
def test_lerobot_finds_a_batch_by_its_index_and_pads_as_many_frames(
    made_known: tuple[Run, Known], tmp_path: Path, n_obs_steps: int
) -> None:
    _, known = made_known
    done = export(made_known, tmp_path, "lerobot", n_obs_steps=n_obs_steps)
    left_out = [0, 0]
    for name, lengths in LENGTHS.items():
        rows = pq.read_table(done.path / "data" / name / "ambient.parquet").to_pylist()
        by_index = {row["index"]: row for row in rows}
        first = 0
        for episode, length in enumerate(lengths):
            for frame in range(length):  # delta_indices of the action: from 1 - n_obs_steps on
                wanted = first + frame + 1 - n_obs_steps + np.arange(HORIZON)
                is_pad = (wanted < first) | (wanted >= first + length)
                row = by_index[first + frame]
                assert row["padded"] == is_pad.sum()
                low, _ = expected(known, name, episode, frame + 1 - n_obs_steps)
                assert row["sigma_min"] == low
                left_out[int(row["padded"] > 0)] += 1
            first += length
        assert done.info["members"][name]["padded"] == sum(row["padded"] > 0 for row in rows)
    assert min(left_out) > 0


def test_diffusion_policys_sampler_pads_as_many_frames(
    made_known: tuple[Run, Known], tmp_path: Path
) -> None:
    done = export(made_known, tmp_path, "diffusion-policy", n_obs_steps=3, n_action_steps=3)
    for name, lengths in LENGTHS.items():
        found = np.load(done.path / "data" / name / "sampler.npz", allow_pickle=False)
        outside = []
        for length in lengths:  # create_indices: from -pad_before to length - horizon + pad_after
            for start in range(-2, length - HORIZON + 2 + 1):
                inside = min(start + HORIZON, length) - max(start, 0)
                outside.append(HORIZON - inside)
        assert found["padded"].tolist() == outside
