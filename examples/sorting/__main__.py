"""A few demonstrations of the right rule, many of the wrong one: what may the wrong ones teach.

``python -m examples.sorting --out DIR [--quick]``, from the root of the checkout; it needs
gymnasium. The same command continues what was interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ambient_curate.cli.console import ConsoleProgress
from examples.sorting.figures import draw_figures
from examples.sorting.study import QUICK, Size, Study
from examples.sorting.tables import describe_results


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m examples.sorting")
    parser.add_argument("--out", type=Path, required=True, help="directory of all that is made")
    parser.add_argument("--quick", action="store_true", help="minutes, to see that it runs")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    size = QUICK if given.quick else Size()
    results, run = Study(given.out, size, ConsoleProgress(), given.workers).run()
    text = describe_results(results, run)
    (given.out / "results.md").write_text(text, encoding="utf-8")
    draw_figures(given.out, results, run)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
