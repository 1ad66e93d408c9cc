"""The Push-T example: its pusher pushes as it imagines, and its data are what was done."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ambient_curate import open_collection

pytest.importorskip("gym_pusht")

from examples.pusht import pusher
from examples.pusht.__main__ import (
    MODES,
    Size,
    Watched,
    describe_results,
    run_study,
)
from examples.pusht.demonstrations import (
    CLUMSY,
    STEADY,
    record_episode,
    write_demonstrations,
)
from examples.pusht.environment import make, unroll_angle

GOAL = (256.0, 256.0, np.pi / 4)


def place(world: Any, x: float, y: float, angle: float) -> None:
    world.block.angle = angle
    world.block.position = x, y


def pose(world: Any) -> np.ndarray:
    return np.array([*world.block.position, world.block.angle])


def body_points(world: Any) -> np.ndarray:
    """Points spread evenly over the block: the bar, then the stem."""
    bar = np.mgrid[-58:60:4, 2:30:4].reshape(2, -1).T
    stem = np.mgrid[-13:15:4, 32:120:4].reshape(2, -1).T
    return np.array([world.block.local_to_world(tuple(map(float, p))) for p in [*bar, *stem]])


@pytest.mark.parametrize("offset", [(0, 0, 0), (9, -4, 0), (0, 0, 0.5), (-30, 12, -2.0)])
def test_the_distance_is_that_of_the_blocks_points(offset: tuple[float, float, float]) -> None:
    world: Any = make().unwrapped
    world.reset(seed=0)
    place(world, *GOAL)
    goal = body_points(world)
    place(world, *np.add(GOAL, offset))
    expected = np.sqrt(((body_points(world) - goal) ** 2).sum(axis=1).mean())
    # the centre of gravity of the simulation is not the block's centroid
    assert pusher._distance(world) == pytest.approx(expected, rel=0.1, abs=1e-9)


@pytest.mark.parametrize("seed", [1, 5, 8])
def test_a_push_does_what_was_imagined_and_the_way_to_it_next_to_nothing(seed: int) -> None:
    environment = make()
    environment.reset(seed=seed)
    world: Any = environment.unwrapped
    for _ in range(10):  # where the block begins in a wall, it comes out
        environment.step(np.array(world.agent.position))
    ring = pusher._Ring(world)
    rng = np.random.default_rng(seed)
    push = pusher._choose_push(pusher._Imagination(), world, ring, STEADY, rng)
    before, start = pusher._distance(world), pose(world)
    for target in pusher._travel(world, ring.find_way(push.start), pusher.WALKING):
        environment.step(target)
    np.testing.assert_allclose(pose(world), start, atol=2)  # of pushes of 100
    way = [ring.points[push.start], push.end]
    for target in pusher._travel(world, way, pusher.PUSHING):
        environment.step(target)
    assert push.gain > 20
    assert before - pusher._distance(world) == pytest.approx(push.gain, rel=0.05)


def test_a_steady_hand_succeeds_and_its_record_can_be_replayed() -> None:
    for seed in (0, 14):
        episode = record_episode(STEADY, seed)
        assert episode.succeeded
        environment = make()
        state, _ = environment.reset(seed=seed)
        for seen, action in zip(episode.state, episode.action, strict=True):
            np.testing.assert_allclose(seen, state, atol=1e-3)
            state, _, ended, _, info = environment.step(action)
        assert ended and info["coverage"] > 0.95
        assert np.abs(np.diff(episode.action, axis=0)).max() < 2 * pusher.WALKING


def test_a_clumsy_hand_trembles() -> None:
    steady, clumsy = (record_episode(hand, 14).action for hand in (STEADY, CLUMSY))
    jerk = [np.abs(np.diff(each, n=3, axis=0)).mean() for each in (steady, clumsy)]
    assert jerk[1] > 1.5 * jerk[0]


def test_the_observation_says_where_the_block_is_without_a_jump() -> None:
    near, far = (unroll_angle(np.array([1, 2, 3, 4, angle])) for angle in (1e-6, 2 * np.pi - 1e-6))
    np.testing.assert_allclose(near, [1, 2, 3, 4, 1, 0], atol=1e-5)
    np.testing.assert_allclose(near, far, atol=1e-5)


def test_the_collection_opens_and_is_left_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "data"
    found = write_demonstrations(out, 2, 1)
    assert found["clean"]["successes"] == 2
    assert found["clumsy"]["attempts"] == 1
    collection = open_collection(out)
    assert sorted(member.name for member in collection.members) == ["clean", "clumsy"]
    held = np.load(out / "clean.npz")
    assert held["state"].shape == (held["episode_ends"][-1], 6)
    assert held["action"].shape == (held["episode_ends"][-1], 2)
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert write_demonstrations(out, 2, 1) == found
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
    with pytest.raises(SystemExit, match="choose another --out"):
        write_demonstrations(out, 3, 1)


def test_the_largest_coverage_is_remembered() -> None:
    environment = Watched(make())
    environment.reset(seed=0)
    world: Any = environment.unwrapped
    place(world, *np.add(GOAL, (3, 0, 0)))
    _, _, _, _, info = environment.step(np.array(world.agent.position))
    assert environment.best == info["coverage"] > 0.8
    place(world, 100, 100, 0)
    environment.step(np.array(world.agent.position))
    assert environment.best == info["coverage"]


def test_results_are_laid_out_by_mode() -> None:
    rows = {
        "mode": ["clean", "clean", "cotrain", "ambient"],
        "success": [True, False, False, True],
        "frames": [100, 300, 300, 80],
        "coverage": [0.96, 0.5, 0.25, 0.96],
        "low": [0.1, 0.1, 0.0, 0.2],
        "high": [0.9, 0.9, 0.8, 1.0],
    }
    lines = describe_results(pa.table(rows)).splitlines()
    assert lines[1].split() == ["clean", "0.50", "[0.10,", "0.90]", "0.730", "200"]
    assert lines[3].split() == ["ambient", "1.00", "[0.20,", "1.00]", "0.960", "80"]


@pytest.mark.slow
def test_the_study_ends_with_a_row_an_episode_and_continues(tmp_path: Path) -> None:
    size = Size(clean=6, clumsy=6, steps=20, rollouts=2)
    results = run_study(tmp_path, size, workers=1)
    assert results["mode"].to_pylist() == [mode for mode in MODES for _ in range(2)]
    assert pq.read_table(tmp_path / "results.parquet").equals(results)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.*")}
    assert run_study(tmp_path, size, workers=1).equals(results)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.*")} == times
