"""Plans as demonstrations: a collection of a few smooth ones and many jagged ones."""

import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ambient_curate.progress import Progress, track
from examples.maze.paths import RATE_HZ, Path2d, retime
from examples.maze.planners import Place, Plan, TreePlanner, plan_optimized, plan_smooth
from examples.maze.world import Maze

Clean = Literal["gcs", "trajopt"]
WAIT_BEFORE, WAIT_AFTER = 1, 15  # frames that a demonstration holds still, so that windows of 16
# frames begin wherever a policy may plan: also at the start, and also close to the goal
SETTINGS = f"""\
clean = "clean"
horizon = 16
represent = "relative"

[datasets]
clean.rate_hz = {RATE_HZ:g}
rrt.rate_hz = {RATE_HZ:g}
"""


def write_demonstrations(
    directory: Path,
    maze: Maze,
    clean: int,
    corrupt: int,
    progress: Progress,
    *,
    source: Clean = "gcs",
    seed: int = 0,
) -> None:
    """Write the collection; what is there already is left as it is.

    Parameters
    ----------
    directory : Path
        Gets ``ambient.toml``, and the members ``clean`` and ``rrt``, in Parquet.
    maze : Maze
        Where.
    clean, corrupt : int
        Plans of each.
    progress : Progress
        Told of every plan.
    source : {"gcs", "trajopt"}
        Planner of the clean ones.
    seed : int
        Of starts, goals and trees.
    """
    settings = f"# {clean} plans of {source}, {corrupt} of RRT, seed {seed}, {maze.name}\n"
    settings += SETTINGS
    if directory.exists():
        if (directory / "ambient.toml").read_text(encoding="utf-8") != settings:
            raise SystemExit(f"{directory} is not the data of this study: choose another --out")
        return
    half_made = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(half_made, ignore_errors=True)
    tree = TreePlanner(maze, seed)
    planners: dict[str, tuple[int, Callable[[Place, Place], Plan | None]]] = {
        "clean": (clean, lambda a, b: plan_clean(source, maze, tree, a, b)),
        "rrt": (corrupt, tree),
    }
    for number, (name, (wanted, plan)) in enumerate(planners.items()):
        with track(progress, f"planning {name}", wanted) as advance:
            episodes = []
            for path in make_paths(maze, plan, np.random.default_rng([seed, number])):
                episodes.append(path)
                advance(1)
                if len(episodes) == wanted:
                    break
        (half_made / name).mkdir(parents=True)
        pq.write_table(tabulate(episodes), half_made / name / "data.parquet")
    (half_made / "ambient.toml").write_text(settings, encoding="utf-8")
    half_made.rename(directory)


def plan_clean(
    source: Clean, maze: Maze, tree: TreePlanner, start: Place, goal: Place
) -> Plan | None:
    """Plan a smooth way by either planner."""
    if source == "gcs":
        return plan_smooth(maze, start, goal)
    first = tree(start, goal)
    return None if first is None else plan_optimized(maze, first)


def make_paths(
    maze: Maze, plan: Callable[[Place, Place], Plan | None], rng: np.random.Generator
) -> Iterator[Path2d]:
    """Yield re-timed plans between random places, without end; one that hits a wall is left out."""
    while True:
        found = plan(*maze.draw_pair(rng))
        if found is None:
            continue
        path = retime(found)
        if all(maze.is_clear(*step) for step in pairwise(path)):
            yield path


def tabulate(episodes: list[Path2d]) -> pa.Table:
    """Lay out paths as a dataset: the action is the next place, the goal the last one."""
    columns: dict[str, list[np.ndarray]] = {}

    def add(name: str, values: Any) -> None:
        columns.setdefault(name, []).append(np.asarray(values))

    for number, path in enumerate(episodes):
        held = np.concatenate(
            [
                np.repeat(path[:1], WAIT_BEFORE, axis=0),
                path,
                np.repeat(path[-1:], WAIT_AFTER, axis=0),
            ]
        ).astype(np.float32)
        frames = len(held) - 1
        add("episode_index", np.full(frames, number))
        add("frame_index", np.arange(frames))
        for axis, letter in enumerate("xy"):
            add(f"state_{axis}", held[:-1, axis])
            add(f"action_{axis}", held[1:, axis])
            add(f"goal_{letter}", np.full(frames, float(held[-1, axis])))
    return pa.table({name: np.concatenate(parts) for name, parts in columns.items()})
