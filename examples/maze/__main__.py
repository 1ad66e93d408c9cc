"""A few smooth plans and many jagged ones: which should teach a policy at which noise.

``python -m examples.maze --out DIR [--quick]``, from the root of the checkout, with the extra
``maze``. The same command continues what was interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ambient_curate.cli.console import ConsoleProgress
from examples.maze.figures import draw_figures
from examples.maze.study import QUICK, Size, Study
from examples.maze.tables import describe_results
from examples.maze.world import make_maze


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m examples.maze")
    parser.add_argument("--out", type=Path, required=True, help="directory of all that is made")
    parser.add_argument("--quick", action="store_true", help="minutes, to see that it runs")
    parser.add_argument("--maze", type=int, default=3, help="seed of the maze")
    parser.add_argument("--openings", type=int, default=2, help="walls opened beyond a tree")
    parser.add_argument("--clean", choices=("gcs", "trajopt"), default="gcs", help="clean planner")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    given = parser.parse_args(arguments)
    maze = make_maze(seed=given.maze, extra=given.openings)
    torch.set_num_threads(1)
    progress = ConsoleProgress()
    size = QUICK if given.quick else Size()
    study = Study(given.out, size, maze, given.clean, progress, given.workers)
    results, run = study.run()
    text = describe_results(results, run)
    (given.out / "results.md").write_text(text, encoding="utf-8")
    draw_figures(given.out, results, run, maze)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
