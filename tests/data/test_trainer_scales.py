"""A trainer's file of statistics: windows become what the trainer makes of them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_study import HORIZON, make_collection
from trainer_rules import CASES, TRAINERS, measure, write_episodes, write_file

from ambient_curate.data.normalizer import Normalizer, Scaling, fit_normalizer
from ambient_curate.data.selection import MemberOptions
from ambient_curate.data.study import Study, prepare_study
from ambient_curate.data.trainer_scales import (
    compare_scales,
    fit_length,
    read_trainer_scales,
)
from ambient_curate.errors import ConfigError
from ambient_curate.options import AnnotateOptions
from ambient_curate.progress import silent
from ambient_curate.readers.episodes import Episode

LENGTHS = (6, 3, 9, 5, 4, 7)
Data = Mapping[str, list[Episode]]


def make_data(**constants: float) -> dict[str, list[Episode]]:
    """Dimensions: two that move, one that never does, a gripper of 0 and 1."""
    made = {}
    for number, name in enumerate(("clean", "a", "b")):
        rng = np.random.default_rng(number)
        made[name] = []
        for i, length in enumerate(LENGTHS):
            moves = rng.normal(size=(length, 2)) * (1.0, 30.0)
            still = np.full((length, 1), constants.get(name, 7.3))
            action = np.hstack([moves, still, rng.integers(2, size=(length, 1))])
            made[name].append(Episode(f"demo_{i}", i, action.astype(np.float32), Path(name)))
    return made


def gather(data: Data) -> np.ndarray:
    return np.concatenate([e.action for each in data.values() for e in each]).astype(np.float64)


def study(folder: Path, data: Data, file: Path, kind: str, **options: Any) -> Study:
    collection = make_collection(data)
    scales = read_trainer_scales(file, kind)
    scalings = {name: scales.of(name) for name in data}
    chosen = AnnotateOptions(horizon=HORIZON, folds=3, normalize=kind, **options)
    return prepare_study(collection, chosen, folder / "frames", silent, scalings)


@pytest.mark.parametrize(("trainer", "kind"), CASES)
def test_windows_are_those_of_arrays_that_the_trainer_has_scaled(
    tmp_path: Path, trainer: str, kind: str
) -> None:
    data = make_data()
    stats = measure(gather(data))
    made = study(tmp_path, data, write_file(tmp_path, trainer, stats, kind), kind)
    assert made.normalizer.trainer is not None
    assert made.normalizer.trainer.source["format"] == trainer
    assert not made.scaled_apart
    for name, episodes in data.items():
        for number, episode in enumerate(episodes):
            scaled = TRAINERS[trainer][0](episode.action.astype(np.float64), stats, kind)
            whole = range(len(episode.action) - HORIZON + 1)
            expected = np.array([scaled[at : at + HORIZON] for at in whole], dtype=np.float32)
            found = made.windows[name].of_episode(number).numpy()
            np.testing.assert_array_equal(found, expected.reshape(found.shape))


def test_statistics_of_episodes_are_those_of_all_their_frames(tmp_path: Path) -> None:
    data = make_data()
    episodes = [e.action.astype(np.float64) for each in data.values() for e in each]
    whole = measure(np.concatenate(episodes))
    file = write_episodes(tmp_path / "episodes_stats.jsonl", episodes)
    for kind in ("minmax", "gaussian"):
        found = read_trainer_scales(file, kind).of("any")
        expected = read_trainer_scales(write_file(tmp_path, "lerobot", whole, kind), kind).of("any")
        np.testing.assert_allclose(found.scale[[0, 1, 3]], expected.scale[[0, 1, 3]], rtol=1e-12)
        np.testing.assert_allclose(found.offset, expected.offset, rtol=1e-12)
    with pytest.raises(ConfigError, match="has no q01") as error:
        read_trainer_scales(file, "quantile")
    assert "--normalize minmax or gaussian" in str(error.value.hint)


def test_what_a_trainer_does_not_use_is_refused_with_what_it_does(tmp_path: Path) -> None:
    stats = measure(gather(make_data()))
    for trainer, other in (("openpi", "gaussian or quantile"), ("robomimic", "")):
        file = write_file(tmp_path, trainer, stats, "gaussian")
        if other:
            with pytest.raises(ConfigError, match="has no min of actions; it has mean") as error:
                read_trainer_scales(file, "minmax")
            assert str(error.value.hint).endswith(f"--normalize {other}")
        else:  # offset and scale say all
            read_trainer_scales(file, "minmax")


def test_relative_windows_take_the_scale_alone(tmp_path: Path) -> None:
    """Statistics of actions far from zero would shift differences that are near it."""
    data = make_data()
    stats = measure(gather(data))
    stats |= {name: stats[name] + 100.0 for name in ("q01", "q99")}
    file = write_file(tmp_path, "openvla", stats, "quantile")
    made = study(tmp_path, data, file, "quantile", represent="relative")
    raw = data["clean"][0].action[:HORIZON].astype(np.float64)
    found = made.windows["clean"].of_episode(0)[0].double().numpy()
    expected = np.diff(raw, axis=0) * made.normalizer.scale
    np.testing.assert_allclose(np.diff(found, axis=0), expected, atol=1e-5)
    assert np.abs(found).max() < 20.0  # 100 actions away from the centre it would be more
    assert made.normalizer.trainer is not None and not made.normalizer.trainer.clipped.any()


def test_each_dataset_is_scaled_by_its_own_statistics_where_the_trainer_does(
    tmp_path: Path,
) -> None:
    """Octo and OpenVLA: what differs by scale alone, and by a constant, is the same to them."""
    data = make_data(a=-1.0)
    twice = [replace(e, action=e.action * 2) for e in data["clean"]]
    data = {"clean": data["clean"], "a": data["a"], "b": twice}
    own = {name: measure(gather({name: each})) for name, each in data.items()}
    content = {
        name: {"action": {key: np.asarray(v).tolist() for key, v in each.items()}}
        for name, each in own.items()
    }
    file = tmp_path / "dataset_statistics.json"
    file.write_text(json.dumps(content))
    made = study(tmp_path, data, file, "minmax")
    assert made.scaled_apart
    np.testing.assert_allclose(
        made.windows["clean"].of_episode(2).numpy(),
        made.windows["b"].of_episode(2).numpy(),
        atol=1e-6,
    )
    assert (made.windows["a"].of_episode(0)[..., 2] == 0.0).all()
    assert made.normalizer.constant == []  # nobody is refused for what the trainer never sees
    with pytest.raises(ConfigError, match="statistics of clean, a, b, none of 'c'"):
        read_trainer_scales(file, "minmax").of("c")


def test_the_dimensions_that_are_kept_are_those_that_are_scaled(tmp_path: Path) -> None:
    scaling = read_trainer_scales(
        write_file(tmp_path, "lerobot", measure(gather(make_data())), "minmax"), "minmax"
    ).of("clean")
    assert fit_length(scaling, (), 4) is scaling
    assert fit_length(scaling, (3, 0), 2).scale.tolist() == scaling.scale[[3, 0]].tolist()
    assert fit_length(scaling.take((0, 1)), (0, 3), 2).scale.size == 2  # of these two already
    with pytest.raises(ConfigError, match="4 action dimensions, the data 3"):
        fit_length(scaling, (), 3)
    assert MemberOptions(dims=(3, 0)).dims == (3, 0)


def test_statistics_that_leave_nothing_of_what_moves_are_refused(tmp_path: Path) -> None:
    stats = measure(gather(make_data()))
    stats |= {name: np.array([0.0, 0.0, 7.3, 0.0]) for name in ("min", "max")}
    stats |= {"min": stats["min"] - (0, 0, 1, 0)}
    file = write_file(tmp_path, "gr00t", stats, "minmax")
    with pytest.raises(Exception, match="multiplies every action dimension that moves"):
        study(tmp_path, make_data(), file, "minmax")


def test_a_constant_far_from_the_trainers_centre_is_put_there(tmp_path: Path) -> None:
    """A mean that is rounded, times 1e8: float32 would hold nothing beside it."""
    data = make_data()
    stats = measure(gather(data))
    stats |= {"mean": stats["mean"] + (0, 0, 1e-5, 0), "std": stats["std"] * (1, 1, 0, 1)}
    made = study(tmp_path, data, write_file(tmp_path, "lerobot", stats, "gaussian"), "gaussian")
    assert made.windows["a"].of_episode(0)[..., 2].abs().max() < 1.0
    again = Normalizer.from_dict(json.loads(json.dumps(made.normalizer.as_dict())))
    assert again.as_dict() == made.normalizer.as_dict()


def test_undo_gives_the_actions_back(tmp_path: Path) -> None:
    data = make_data()
    made = study(
        tmp_path, data, write_file(tmp_path, "lerobot", measure(gather(data)), "minmax"), "minmax"
    )
    action = made.frames["a"].data["action"]
    back = made.normalizer.undo(made.normalizer.apply(action))
    np.testing.assert_allclose(back.numpy(), action.numpy(), rtol=1e-5, atol=1e-5)


def test_a_plain_scale_and_a_run_are_read_and_nonsense_refused(tmp_path: Path) -> None:
    file = tmp_path / "scale.json"
    file.write_text('{"scale": [1, 2.5]}')
    assert read_trainer_scales(file, "minmax").of("any").scale.tolist() == [1.0, 2.5]
    own = fit_normalizer("minmax", np.array([[0.0, 1.0, 5.0], [4.0, 2.0, 5.0]]))
    file.write_text(json.dumps({"normaliser": own.as_dict(), "members": {"clean": {}}}))
    found = read_trainer_scales(file, "minmax").of("any")
    assert found.scale.tolist() == own.scale.tolist() == [0.5, 2.0, 0.0]
    assert found.offset.tolist() == own.offset.tolist()
    bad = ["", "[1]", "{}", "3", '{"scale": "x"}', '{"scale": [0, 1]}', '{"scale": [[1]]}']
    bad += ['{"scale": [-1.0]}', '{"scale": [NaN]}', '{"norm_stats": {}}', '{"a": {}, "b": {}}']
    bad += ['{"action": {"min": [0, 1], "max": [2]}}', '{"action": {"min": [NaN], "max": [0]}}']
    bad += ['{"actions": {"offset": [[0]], "scale": [[0]]}}', '{"action": {"min": [], "max": []}}']
    for text in bad:
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"scale\.json") as error:
            read_trainer_scales(file, "minmax")
        assert "stats.json" in str(error.value.hint), text
    with pytest.raises(ConfigError, match="missing"):
        read_trainer_scales(tmp_path / "missing", "minmax")


def plain(scale: list[float], offset: float = 0.0) -> Scaling:
    size = len(scale)
    return Scaling(np.full(size, offset), np.array(scale), np.zeros(size), np.zeros(size, bool))


def fitted(scale: list[float], spread: float = 0.0) -> Normalizer:
    own, zero = np.array(scale), np.zeros(len(scale))
    high = np.where(own > 0, 2 / np.where(own > 0, own, 1), spread)
    return Normalizer("minmax", zero, own, zero, high)


def test_one_factor_for_all_dimensions_is_found_and_two_are_refused() -> None:
    own = {"a": fitted([1.0, 2.0, 4.0])}
    assert compare_scales(own, {"a": plain([3.0, 6.0, 12.0], 5.0)}) == pytest.approx(3.0)
    with pytest.raises(ConfigError) as error:
        compare_scales(own, {"a": plain([1.0, 2.0, 5.0])})
    assert "[1, 2, 4]" in str(error.value) and "[1, 2, 5]" in str(error.value)
    with pytest.raises(ConfigError, match="by \\[1, 2\\]"):
        compare_scales(own, {"a": plain([1.0, 2.0])})
    with pytest.raises(ConfigError, match="no multiple"):
        compare_scales(own, {"a": plain([0.0, 2.0, 4.0])})


def test_a_constant_dimension_stops_no_export_unless_the_trainer_makes_it_large() -> None:
    """Who moves there has no sigma_min; for the others noise hides the same at any scale there."""
    own = {"a": fitted([0.0, 1.0])}
    assert compare_scales(own, {"a": plain([1e8, 2.0])}) == pytest.approx(2.0)
    assert compare_scales(own, {"a": plain([0.0, 2.0])}) == pytest.approx(2.0)
    rounded = {"a": fitted([0.0, 1.0], spread=1e-5)}
    assert compare_scales(rounded, {"a": plain([1.0, 2.0])}) == pytest.approx(2.0)
    with pytest.raises(ConfigError, match="compared nothing"):
        compare_scales(rounded, {"a": plain([1e8, 2.0])})


def test_an_offset_matters_only_where_datasets_have_others() -> None:
    own = {"a": fitted([1.0]), "b": fitted([1.0])}
    assert compare_scales(own, {"a": plain([2.0], 5.0), "b": plain([2.0], 5.0)}) == 2.0
    for other in (plain([2.0], 6.0), plain([4.0], 5.0)):
        with pytest.raises(ConfigError, match="every dataset by its own statistics"):
            compare_scales(own, {"a": plain([2.0], 5.0), "b": other})
