"""The sorting example: the world is one, the expert sorts, and the study goes on where it was."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

pytest.importorskip("gymnasium", reason="gymnasium is not installed")

from gymnasium.utils.env_checker import check_env

from ambient_curate.policy.options import PolicyOptions
from examples.sorting.__main__ import main
from examples.sorting.demonstrations import WRONG_RULE, demonstrate, tabulate
from examples.sorting.environment import (
    BIN_Y,
    BINS,
    GAP,
    GRASP,
    MOST_FRAMES,
    REACH,
    RIGHT_RULE,
    WALL,
    SortingEnv,
    find_bin,
)
from examples.sorting.expert import MISSES, WAIT, sort_block, step_jerkless
from examples.sorting.study import (
    QUICK,
    Size,
    choose,
    plan_trials,
    plan_validation,
    use_below,
)
from examples.sorting.tables import compare_arms, success_gain, wilson


@pytest.mark.filterwarnings("ignore:.*alternative render modes.*:UserWarning")
def test_the_world_is_an_environment() -> None:
    check_env(SortingEnv())


def test_a_block_is_held_where_fingers_close_on_it_and_goes_where_they_open() -> None:
    world = SortingEnv()
    world.reset(seed=3)
    world.place = world.block + np.array([GRASP + 0.001, 0.0])
    world.step(np.array([0.0, 0.0, 1.0]))
    assert not world.held
    world.step(np.array([0.0, 0.0, 0.0]))
    world.place = world.block + np.array([GRASP - 0.001, 0.0])
    world.step(np.array([0.0, 0.0, 1.0]))
    assert world.held
    world.place = np.array([np.mean(BINS["left"]), np.mean(BIN_Y)])
    _, _, ended, _, told = world.step(np.array([0.01, 0.0, 1.0]))
    assert not ended
    assert not told["placed"]
    _, reward, ended, _, told = world.step(np.array([0.0, 0.0, 0.0]))
    assert ended
    assert told["placed"]
    right = RIGHT_RULE[world.color] == "left"
    assert (told["is_success"], reward) == (right, float(right))


@pytest.mark.parametrize(("aside", "collides"), [(-GAP / 2 - 0.01, True), (GAP / 2 - 0.01, False)])
def test_the_wall_is_open_at_its_gap_alone(aside: float, collides: bool) -> None:
    for side in (-1.0, 1.0):
        world = SortingEnv()
        world.reset(seed=0)
        world.place = np.array([world.gap + aside, WALL + side * 0.03])
        _, _, ended, _, told = world.step(np.array([0.0, -side * 0.06, 0.0]))
        assert (ended, world.collided) == (collides, collides)
        assert not told["placed"]


def test_an_episode_ends_in_time_and_nothing_leaves_the_table() -> None:
    world = SortingEnv()
    world.reset(seed=0)
    for frame in range(MOST_FRAMES):
        seen, _, ended, late, _ = world.step(np.array([REACH, -REACH, 0.0]))
        assert world.observation_space.contains(seen)
        assert (ended, late) == (False, frame == MOST_FRAMES - 1)
    np.testing.assert_array_equal(world.place, [1.0, 0.0])


def test_bins_are_where_they_are() -> None:
    assert find_bin(np.array([0.1, 0.8])) == "left"
    assert find_bin(np.array([0.9, 0.8])) == "right"
    assert find_bin(np.array([0.5, 0.8])) is None
    assert find_bin(np.array([0.1, 0.6])) is None


def test_the_expert_sorts_every_block_by_either_rule_and_no_two_alike() -> None:
    rng, lengths, missed = np.random.default_rng(0), set(), 0
    for rule in (RIGHT_RULE, WRONG_RULE):
        for _ in range(100):
            shown = demonstrate(rule, rng)  # raises where a block is not in the bin of the rule
            assert np.abs(shown["action"][:, :2]).max() <= REACH
            assert not shown["action"][-WAIT:].any()
            assert shown["rule"] == (rule is RIGHT_RULE)
            lengths.add(len(shown["action"]))
            missed += int(((np.diff(shown["action"][:, 2]) < 0.0).sum()) > 5)
    assert len(lengths) > 20
    assert abs(missed / 200 - MISSES) < 0.12  # twice as many turns; four standard errors
    world = SortingEnv()
    for seed in range(50):
        world.reset(seed=seed)
        told: dict[str, Any] = {}
        for action in sort_block(world, RIGHT_RULE, rng):
            told = world.step(action)[4]
        assert told["is_success"]


def test_a_motion_is_the_one_of_least_jerk() -> None:
    way, frames = np.array([0.3, -0.1]), 12
    at, velocity, acceleration = np.zeros(2), np.zeros(2), np.zeros(2)
    for frame in range(frames):
        step, velocity, acceleration = step_jerkless(
            way - at, velocity, acceleration, float(frames - frame)
        )
        at = at + step
        t = (frame + 1) / frames
        np.testing.assert_allclose(at, way * (10 * t**3 - 15 * t**4 + 6 * t**5), atol=1e-12)
    np.testing.assert_allclose(velocity, 0.0, atol=1e-12)


def test_both_rules_move_alike_until_the_gap() -> None:
    right, wrong = (
        demonstrate(rule, np.random.default_rng(5)) for rule in (RIGHT_RULE, WRONG_RULE)
    )
    until = int(np.flatnonzero(right["state"][:, 1] > WALL)[0])
    np.testing.assert_array_equal(right["state"][:until], wrong["state"][:until])
    assert tabulate([right, wrong]).num_rows == len(right["action"]) + len(wrong["action"])


def test_choices_are_made_on_validation_blocks_and_tried_on_others() -> None:
    size = Size(validated=100, tried=10, seeds=2)
    validation = list(plan_validation(size))
    best = {"below_0.3": 0.9, "cotrain_0.5": 0.5, "clean_2000": 0.4}
    rows = [
        {
            "training": trial.training.name,
            "success": number < 100 * best.get(trial.training.name, 0.1),
        }
        for trial in validation
        for number in range(100)
    ]
    chosen = choose(pa.Table.from_pylist(rows), validation)
    assert chosen["locality, sigma_max swept"] == use_below(0.3) | {"steps": size.steps}
    assert chosen["clean"] == {"mode": "clean", "steps": 2000}
    assert chosen["cotrain, best share"]["clean_weight"] == 0.5
    assert chosen["exclusive bands"]["sigma_max"] == 0.3
    for options in chosen.values():
        PolicyOptions(**options)
    trials = list(plan_trials(size, chosen))
    seen = {seed for t in validation for seed in range(t.first, t.first + t.count)}
    fresh = [seed for t in trials for seed in range(t.first, t.first + t.count)]
    assert not seen & set(fresh)
    assert len(set(fresh)) == size.seeds * size.tried
    assert len({trial.name for trial in trials}) == len(trials)


def test_the_intervals_are_wilsons_and_blocks_are_compared_with_themselves() -> None:
    assert wilson(pd.Series([True] * 8 + [False] * 2)) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(pd.Series([], dtype=bool)) == (0.0, 1.0)
    rows = [
        {"arm": arm, "seed": 1, "block": block, "success": block in won}
        for arm, won in (("cotrain", {0}), ("locality", {0, 1, 2}))
        for block in (range(4) if arm == "cotrain" else reversed(range(4)))
    ]
    frame = pd.DataFrame(rows)
    gain, least = success_gain(frame, "locality", "cotrain")
    assert gain == 0.5
    assert least == pytest.approx(0.5 - 1.6449 * 0.57735 / 2, abs=1e-4)  # sd of (0, 1, 1, 0)
    assert "| locality | +50.0, at least +2.5 |" in list(compare_arms(frame))


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_the_quick_study_writes_all_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sorting"
    words = ["--out", str(out), "--quick", "--workers", "2"]
    main(words)
    text = capsys.readouterr().out
    assert (out / "results.md").read_text() == text
    assert f"| locality 0.3 | {QUICK.validated} |" in text
    assert f"| exclusive bands | {QUICK.tried} |" in text
    for name in ("arms", "sweep", "rollouts"):
        assert (out / f"{name}.png").stat().st_size > 10_000
    found = pq.read_table(out / "results.parquet")
    assert not pc.any(pc.and_(found["success"], pc.invert(found["placed"]))).as_py()
    trials = sorted((out / "trials").iterdir())
    times = [file.stat().st_mtime_ns for file in trials[1:]]
    lost = pq.read_table(trials[0])
    trials[0].unlink()
    main(words)
    assert capsys.readouterr().out == text
    assert [file.stat().st_mtime_ns for file in trials[1:]] == times
    assert pq.read_table(trials[0]).equals(lost)


def test_other_data_is_not_taken_for_this_studys(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ambient.toml").write_text("# another\n")
    with pytest.raises(SystemExit, match="is not the data of this study"):
        main(["--out", str(tmp_path), "--quick"])
