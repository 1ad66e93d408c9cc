"""Does clumsy data help to push a T? The whole path, from data to success rates.

``python -m examples.pusht --out DIR [--quick]``, from the root of the checkout, with the packages
``gymnasium`` and ``gym-pusht``. A scripted pusher makes the data, `annotate` finds sigma_min, and
`train_policy` trains on the clean set alone, on everything everywhere, and on everything where its
sigma_min admits it. The same command continues what was interrupted.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import pyarrow as pa
import pyarrow.parquet as pq

from ambient_curate import annotate, load_policy, roll_out, train_policy
from examples.pusht.demonstrations import write_demonstrations
from examples.pusht.environment import MOST_FRAMES, make

MODES = ("clean", "cotrain", "ambient")
FIRST_SEED = 2_000_000  # of the rollouts; the demonstrations begin at others


@dataclass(frozen=True)
class Size:
    """How much is made, trained and tried."""

    clean: int
    clumsy: int
    steps: int
    rollouts: int


FULL = Size(clean=100, clumsy=300, steps=6000, rollouts=50)
QUICK = Size(clean=12, clumsy=24, steps=200, rollouts=4)


class Watched(gym.Wrapper[Any, Any, Any, Any]):
    """An environment that remembers its largest coverage."""

    best = 0.0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Act, and look at the coverage."""
        step = super().step(action)
        self.best = max(self.best, float(step[4]["coverage"]))
        return step


def run_study(out: Path, size: Size, *, workers: int | None = None) -> pa.Table:
    """Make the data, annotate, train, and try every policy.

    Parameters
    ----------
    out : Path
        Gets ``data``, ``run``, a policy for each mode, and ``records.parquet``.
    size : Size
        How much of everything.
    workers : int or None
        Of `annotate`; None: every core.

    Returns
    -------
    pyarrow.Table
        A row a mode and episode.
    """
    started = time.monotonic()
    found = write_demonstrations(out / "data", size.clean, size.clumsy)
    for name, pusher in found.items():
        _tell(started, f"{name}: {pusher['successes']} of {pusher['attempts']} attempts succeeded")
    run = annotate(out / "data", out=out / "run", workers=workers)
    for row in run.info["verdict"]:
        _tell(started, f"{row['dataset']}: {row['status']}, sigma_min {row['sigma_min']}")
    tables = []
    for mode in MODES:
        trained = train_policy(run, mode=mode, steps=size.steps, out=out / f"policy_{mode}")
        _tell(started, f"{mode}: trained")
        tables.append(_try_policy(trained.path, mode, size.rollouts))
        _tell(started, f"{mode}: {sum(tables[-1]['success'].to_pylist())} successes")
    results = pa.concat_tables(tables)
    pq.write_table(results, out / "results.parquet")
    return results


def _try_policy(path: Path, mode: str, count: int) -> pa.Table:
    watched: list[Watched] = []  # in the order of the seeds

    def make_watched() -> Watched:
        watched.append(Watched(make()))
        return watched[-1]

    seeds = range(FIRST_SEED, FIRST_SEED + count)
    found = roll_out(load_policy(path), make_watched, seeds, most_frames=MOST_FRAMES)
    low, high = found.interval
    return pa.table(
        {
            "mode": [mode] * count,
            "seed": found.seeds,
            "success": found.successes,
            "frames": found.frames,
            "coverage": [each.best for each in watched],
            "low": [low] * count,
            "high": [high] * count,
        }
    )


def describe_results(results: pa.Table) -> str:
    """Lay out the success rates and the mean of the largest coverages, a line a mode."""
    lines = ["mode     success  95 % interval  coverage  frames"]
    for mode in MODES:
        rows = [row for row in results.to_pylist() if row["mode"] == mode]
        rate, coverage, frames = (
            sum(row[name] for row in rows) / len(rows) for name in ("success", "coverage", "frames")
        )
        interval = f"[{rows[0]['low']:.2f}, {rows[0]['high']:.2f}]"
        lines.append(f"{mode:7}  {rate:7.2f}  {interval:13}  {coverage:8.3f}  {frames:6.0f}")
    return "\n".join(lines)


def _tell(started: float, text: str) -> None:
    print(f"{time.monotonic() - started:6.0f} s  {text}", file=sys.stderr)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m examples.pusht")
    parser.add_argument("--out", type=Path, required=True, help="directory of all that is made")
    parser.add_argument("--quick", action="store_true", help="a minute, to see that it runs")
    parser.add_argument("--workers", type=int, help="processes of the annotation; all cores")
    given = parser.parse_args(arguments)
    results = run_study(given.out, QUICK if given.quick else FULL, workers=given.workers)
    print(describe_results(results))  # noqa: T201


if __name__ == "__main__":
    main()
