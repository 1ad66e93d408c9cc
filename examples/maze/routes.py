"""Which way round a wall: up to which noise a plan tells it, and up to which its planner.

``python -m examples.maze.routes --out DIR [--quick]``, from the root of the checkout, with the
extra ``maze``. Plans from below a wall to above it go round its left or its right end.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ambient_curate.analysis.probes import Probe
from ambient_curate.analysis.survey import probes_table, survey_probes, write_probes
from ambient_curate.cli.console import ConsoleProgress
from ambient_curate.progress import Progress, track
from ambient_curate.report.source_plots import plot_probe
from examples.maze.demonstrations import SETTINGS
from examples.maze.paths import Path2d, retime
from examples.maze.planners import Place, TreePlanner, plan_smooth
from examples.maze.world import PADDING, Maze, make_maze

MAZE = make_maze(extra=4)  # the maze, with two more openings: one wall touches no other
WALL_X, WALL_Y = (1.0, 3.0), 1.0  # that wall
BELOW, ABOVE = ((1.0, 3.0), (0.0, 1.0)), ((1.0, 3.0), (1.0, 2.0))  # x and y of starts and of goals
SHORTEST = 17  # frames of a demonstration: one window of 16


def main(arguments: Sequence[str] | None = None) -> None:
    """Plan, probe, and draw."""
    parser = argparse.ArgumentParser(prog="python -m examples.maze.routes")
    parser.add_argument("--out", type=Path, required=True, help="directory of all that is made")
    parser.add_argument("--quick", action="store_true", help="a minute, to see that it runs")
    given = parser.parse_args(arguments)
    progress, count = ConsoleProgress(), 24 if given.quick else 200
    data = given.out / "data"
    if not data.exists():
        write_routes(data, count, progress)
    probes = [
        *survey_probes(data, "route", progress=progress),
        *survey_probes(data, "dataset", progress=progress),
    ]
    write_probes(probes, given.out / "probes.json")
    draw_probes(probes, given.out / "routes.png")
    columns, rows = probes_table(probes)
    lines = [columns, ["---"] * len(columns), *rows]
    sys.stdout.write("".join(f"| {' | '.join(line)} |\n" for line in lines))


def write_routes(directory: Path, count: int, progress: Progress, *, seed: int = 0) -> None:
    """Write a collection of `count` smooth plans and as many jagged ones, with their ``route``."""
    tree = TreePlanner(MAZE, seed)
    planners = {"clean": lambda a, b: plan_smooth(MAZE, a, b), "rrt": tree}
    for number, (name, plan) in enumerate(planners.items()):
        rng, episodes = np.random.default_rng([seed, number]), []
        with track(progress, f"planning {name}", count) as advance:
            while len(episodes) < count:
                points = plan(_draw(rng, MAZE, BELOW), _draw(rng, MAZE, ABOVE))
                path = None if points is None else retime(points)
                if path is None or (route := name_route(path)) is None:
                    continue
                episodes.append((cut_path(path), route))
                advance(1)
        (directory / name).mkdir(parents=True)
        pq.write_table(_tabulate(episodes), directory / name / "data.parquet")
    (directory / "ambient.toml").write_text(SETTINGS, encoding="utf-8")


def _draw(rng: np.random.Generator, maze: Maze, box: Sequence[tuple[float, float]]) -> Place:
    """Draw a free place in a box."""
    while True:
        place = np.array([rng.uniform(*side) for side in box])
        if maze.is_free(place[None], padding=PADDING).all():
            return place


def name_route(path: Path2d) -> str | None:
    """Say round which end of the wall a path goes; None: it passes its line elsewhere, or more."""
    crossings = [
        a[0] + (b[0] - a[0]) * (WALL_Y - a[1]) / (b[1] - a[1])
        for a, b in pairwise(path)
        if (a[1] <= WALL_Y) != (b[1] <= WALL_Y)
    ]
    if len(crossings) != 1:
        return None
    (x,) = crossings
    sides = {"left": WALL_X[0] - 1.0 < x < WALL_X[0], "right": WALL_X[1] < x < WALL_X[1] + 1.0}
    return next((side for side, passed in sides.items() if passed), None)


def cut_path(path: Path2d) -> Path2d:
    """Keep the way to the wall's end: beyond it a path comes back, as on the other route."""
    above = int(np.argmax(path[:, 1] > WALL_Y))
    return path[: max(above, SHORTEST)]


def _tabulate(episodes: Sequence[tuple[Path2d, str]]) -> pa.Table:
    parts = [pa.table(dict(_columns(n, *episode))) for n, episode in enumerate(episodes)]
    return pa.concat_tables(parts)


def _columns(number: int, path: Path2d, route: str) -> Iterator[tuple[str, Any]]:
    frames = len(path) - 1
    yield "episode_index", np.full(frames, number)
    yield "frame_index", np.arange(frames)
    yield "route", [route] * frames
    for axis in range(2):
        yield f"state_{axis}", path[:-1, axis].astype(np.float32)
        yield f"action_{axis}", path[1:, axis].astype(np.float32)


def draw_probes(probes: Sequence[Probe], path: Path) -> None:
    """Draw all probes in one figure."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    plot_probe(probes, ax=axes)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
