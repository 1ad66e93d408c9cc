"""The maze example: walls hold, planners keep off them, and the figures are what they say."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("pydrake", reason="the extra maze is not installed")
pytest.importorskip("ompl", reason="the extra maze is not installed")

from gymnasium.utils.env_checker import check_env

from ambient_curate.data.collection import open_collection, read_episodes
from ambient_curate.policy.denoiser import Denoiser
from ambient_curate.policy.losses import signal_scale
from ambient_curate.policy.preconditioning import PerMode
from examples.maze.__main__ import main
from examples.maze.control import LinearLast
from examples.maze.demonstrations import WAIT_AFTER, WAIT_BEFORE, make_paths, tabulate
from examples.maze.environment import MOST_FRAMES, REACHED, MazeEnv
from examples.maze.paths import RATE_HZ, SPEED, retime, squared_acceleration
from examples.maze.planners import TreePlanner, plan_optimized, plan_smooth
from examples.maze.study import QUICK, choose, plan_trials, plan_validation
from examples.maze.tables import acceleration_ratio, success_gain, wilson
from examples.maze.world import PADDING, Maze, make_maze

MAZE = make_maze()


def cross(one: tuple[int, int], other: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.add(one, 0.5), np.add(other, 0.5)


def test_every_cell_can_be_reached_and_walls_stand_where_nothing_is_open() -> None:
    assert len(MAZE.openings) == 24 + 2  # a tree of 25 cells, and two more
    reached, before = {(0, 0)}, 0
    while len(reached) > before:
        before = len(reached)
        for pair in MAZE.openings:
            reached |= set(pair) if reached & set(pair) else set()
    assert len(reached) == 25
    cells = [(i, j) for i in range(5) for j in range(5)]
    neighbours = [
        (a, b) for a in cells for b in cells if (b[0] - a[0], b[1] - a[1]) in [(1, 0), (0, 1)]
    ]
    for pair in neighbours:
        assert MAZE.is_clear(*cross(*pair)) == (pair in MAZE.openings)


@pytest.mark.parametrize("end", [(-0.5, 0.5), (0.5, 5.5), (1e9, 1.0), (np.nan, 0.5), (4.5, 4.5)])
def test_nothing_leaves_or_jumps_over_walls(end: tuple[float, float]) -> None:
    assert not MAZE.is_clear((0.5, 0.5), end)


def test_rooms_are_free_and_cover_what_is_free() -> None:
    points = np.random.default_rng(0).uniform(0, 5, (4000, 2))
    inside = np.zeros(len(points), dtype=bool)
    for x0, y0, x1, y1 in MAZE.rooms:
        inside |= ((points > (x0, y0)) & (points < (x1, y1))).all(axis=1)
    np.testing.assert_array_equal(inside, MAZE.is_free(points, padding=PADDING))


def test_acceleration_of_a_cubic_and_of_a_circle() -> None:
    time = np.arange(31) / RATE_HZ
    cubic = np.stack([time**3, 2.0 - time**2], axis=1)
    exact = 36 * time[-1] ** 2 / 3 + 4  # mean of (6 t)^2 + 2^2
    assert squared_acceleration(cubic) == pytest.approx(exact, rel=1e-9)
    circle = 0.5 * np.stack([np.cos(time / 0.5), np.sin(time / 0.5)], axis=1)
    assert squared_acceleration(circle) == pytest.approx(1 / 0.5**2, rel=0.01)


def test_a_path_has_even_steps_and_its_ends() -> None:
    corner = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.03]])
    path = retime(corner)
    np.testing.assert_allclose(path[[0, -1]], corner[[0, -1]])
    steps = np.hypot(*np.diff(path, axis=0).T)
    assert len(steps) == 20
    assert np.median(steps) == pytest.approx(2.03 / 20)
    assert np.median(steps) * RATE_HZ == pytest.approx(SPEED, rel=0.02)


@pytest.fixture(scope="module")
def plans() -> dict[str, list[Any]]:
    """Plans of each planner between the same places."""
    rng, tree = np.random.default_rng(1), TreePlanner(MAZE, 0)
    pairs = [MAZE.draw_pair(rng, apart=2.0) for _ in range(6)]
    jagged = [tree(*pair) for pair in pairs]
    smooth = [plan_smooth(MAZE, *pair) for pair in pairs]
    optimized = [plan_optimized(MAZE, each) for each in jagged if each is not None]
    return {"pairs": pairs, "jagged": jagged, "smooth": smooth, "optimized": optimized}


@pytest.mark.parametrize("planner", ["jagged", "smooth", "optimized"])
def test_plans_join_their_places_and_touch_no_wall(plans: dict[str, Any], planner: str) -> None:
    for plan, pair in zip(plans[planner], plans["pairs"], strict=True):
        np.testing.assert_allclose(plan[[0, -1]], pair, atol=1e-6)
        every = plan[:: max(1, len(plan) // 100)]  # the tree looks every 7 cm, so half is kept
        assert all(MAZE.is_clear(*step, padding=0.5 * PADDING) for step in pairwise(every))
        assert all(MAZE.is_clear(*step) for step in pairwise(retime(plan)))


def test_smooth_plans_are_smoother(plans: dict[str, Any]) -> None:
    mean = {
        name: np.mean([squared_acceleration(retime(plan)) for plan in plans[name]])
        for name in ("jagged", "smooth", "optimized")
    }
    assert mean["smooth"] < 0.25 * mean["jagged"]
    assert mean["optimized"] < 0.25 * mean["jagged"]


def test_demonstrations_are_read_as_they_are(tmp_path: Path) -> None:
    paths = make_paths(MAZE, TreePlanner(MAZE, 0), np.random.default_rng(0))
    episodes = [path for path, _ in zip(paths, range(3), strict=False)]
    (tmp_path / "set" / "clean").mkdir(parents=True)
    pq.write_table(tabulate(episodes), tmp_path / "set" / "clean" / "data.parquet")
    collection = open_collection(tmp_path / "set")
    read = list(read_episodes(collection.members[0]))
    for episode, path in zip(read, episodes, strict=True):
        held = np.concatenate([path[:1], path, np.repeat(path[-1:], WAIT_AFTER, axis=0)])
        assert WAIT_BEFORE == 1
        np.testing.assert_allclose(episode.action, held[1:], atol=1e-6)
        np.testing.assert_allclose(episode.state, held[:-1], atol=1e-6)
        assert episode.labels["goal_x"] == pytest.approx(path[-1, 0])
        assert episode.labels["goal_y"] == pytest.approx(path[-1, 1])


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized")  # these are metres
def test_the_environment_keeps_gymnasiums_contract() -> None:
    check_env(MazeEnv(MAZE), skip_render_check=True)


def test_an_episode_ends_at_the_goal_at_a_wall_or_late() -> None:
    world = MazeEnv(MAZE)
    seen, _ = world.reset(seed=3)
    assert world.reset(seed=3)[0]["state"].tolist() == seen["state"].tolist()
    plan = plan_smooth(MAZE, world.path[0], world.goal)
    assert plan is not None
    for number, place in enumerate(retime(plan)[1:], start=1):  # noqa: B007
        _, reward, terminated, truncated, told = world.step(place)
        if terminated:
            break
    assert (reward, truncated, told) == (1.0, False, {"is_success": True, "collided": False})
    assert np.hypot(*(world.path[-1] - world.goal)) <= REACHED
    assert len(world.path) == number + 1
    world.reset(seed=3)
    start = world.path[0]
    _, _, terminated, _, told = world.step(np.array([-1.0, 2.0]))
    assert (terminated, told["collided"], world.path) == (True, True, [start])
    world.reset(seed=3)
    late = [world.step(start)[3] for _ in range(MOST_FRAMES)]
    assert late == [False] * (MOST_FRAMES - 1) + [True]


class Nowhere(torch.nn.Module):
    def forward(self, x: torch.Tensor, time: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(x)


def test_the_controls_last_step_is_the_wiener_filter_of_the_clean_set() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator).double()
    covariance, mean = root @ root.mT, torch.randn(6, generator=generator).double()
    variance, basis = torch.linalg.eigh(covariance)
    band = torch.zeros(2, dtype=torch.int64)
    clean = PerMode(band, mean[None].float(), basis[None].float(), variance[None].float())
    sigma = torch.tensor([0.1, 0.6])
    other = PerMode(band, *(torch.rand(1, *shape) + 0.1 for shape in ((6,), (6, 6), (6,))))
    policy = Denoiser(Nowhere(), "wiener", sigma, other)
    control = LinearLast(policy, Denoiser(Nowhere(), "wiener", sigma, clean))
    x_t = torch.randn(5, 3, 2, generator=generator)
    lowest, told = torch.zeros(5, dtype=torch.int64), torch.zeros(5, 0)
    a, s = signal_scale(sigma[0]).double(), sigma[0].double()
    gain = a * covariance @ torch.linalg.inv(a**2 * covariance + s**2 * torch.eye(6))
    expected = mean + (x_t.flatten(1).double() - a * mean) @ gain.mT
    found = control.estimate_x0(x_t, lowest, told)
    torch.testing.assert_close(found.flatten(1).double(), expected, rtol=1e-4, atol=1e-4)
    above = lowest + 1
    assert torch.equal(control.estimate_x0(x_t, above, told), policy.estimate_x0(x_t, above, told))


def frame_of(arm: str, success: list[bool], acceleration: list[float | None]) -> pd.DataFrame:
    pairs = range(len(success))
    return pd.DataFrame(
        {"arm": arm, "seed": 1, "pair": pairs, "success": success, "acceleration": acceleration}
    )


def test_arms_are_compared_on_common_pairs() -> None:
    frame = pd.concat(
        [
            frame_of("a", [True, True, False, True], [1.0, 3.0, None, 2.0]),
            frame_of("cotrain", [True, False, False, True], [4.0, None, None, 8.0]),
        ]
    )
    gain, least = success_gain(frame, "a", "cotrain")
    assert gain == 0.25
    assert least == pytest.approx(0.25 - 1.6449 * 0.5 / 2, abs=1e-4)  # sd of (0, 1, 0, 0) is .5
    ratio, low, high = acceleration_ratio(frame, "a", "cotrain")
    assert ratio == pytest.approx((1 + 2) / (4 + 8))
    assert (low, high) == (0.25, 0.25)  # both pairs have the same ratio
    assert wilson(pd.Series([True] * 8 + [False] * 2)) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_the_bound_of_a_gain_holds_as_often_as_it_says() -> None:
    rng, held, runs = np.random.default_rng(0), 0, 400
    for _ in range(runs):
        hard = rng.uniform(size=200)
        a, b = hard < rng.uniform(0.7, 1.0, 200), hard < rng.uniform(0.6, 1.0, 200)
        frame = pd.concat([frame_of("a", a, [None] * 200), frame_of("cotrain", b, [None] * 200)])
        held += success_gain(frame, "a", "cotrain")[1] <= 0.05
    assert held / runs >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / runs)


def test_choices_are_made_on_validation_pairs_and_tried_on_others() -> None:
    validation = list(plan_validation(QUICK, 0.05))
    best = {"sweep_0.05": 0.9, "sweep_0.3": 0.88, "clean_50_octaves0": 0.3, "cotrain_0.1": 0.9}
    rows = [
        {
            "training": trial.training.name,
            "success": number < 100 * best.get(trial.training.name, 0.1),
            "acceleration": 2.0 if trial.training.name == "sweep_0.3" else 3.0,
        }
        for trial in validation
        for number in range(100)
    ]
    chosen = choose(pa.Table.from_pylist(rows), validation)
    assert chosen["best of sweep"] == {"mode": "ambient", "sigma_min": 0.3, "steps": QUICK.steps}
    assert chosen["clean"] == {"mode": "clean", "steps": 50, "octaves": 0}
    assert chosen["cotrain"]["clean_weight"] == 0.1
    less = [row | {"success": row["success"] and row["acceleration"] > 2.0} for row in rows]
    assert choose(pa.Table.from_pylist(less), validation)["best of sweep"]["sigma_min"] == 0.05
    trials = list(plan_trials(QUICK, chosen))
    seen = {seed for t in validation for seed in range(t.first, t.first + t.count)}
    fresh = {seed for t in trials for seed in range(t.first, t.first + t.count)}
    assert not seen & fresh
    assert len({trial.name for trial in trials}) == len(trials)


@pytest.mark.timeout(1800)
@pytest.mark.slow
def test_the_quick_study_writes_all_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--out", str(tmp_path / "maze"), "--quick", "--workers", "2"]
    main(words)
    text = capsys.readouterr().out
    assert (tmp_path / "maze" / "results.md").read_text() == text
    assert text.count("| rrt | 8 |") == 1
    assert "| best of sweep | 12 |" in text
    assert "| cotrain, linear last step | 12 |" in text
    for name in ("rollouts", "sweep", "accuracy"):
        assert (tmp_path / "maze" / f"{name}.png").stat().st_size > 10_000
    trials = sorted((tmp_path / "maze" / "trials").iterdir())
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


def test_a_maze_without_walls_between_cells_is_one_room() -> None:
    assert len(Maze(2, frozenset(), "closed").rooms) == 4
    every = frozenset({((0, 0), (0, 1)), ((0, 0), (1, 0)), ((0, 1), (1, 1)), ((1, 0), (1, 1))})
    np.testing.assert_allclose(Maze(2, every, "open").rooms, [[0.15, 0.15, 1.85, 1.85]])
