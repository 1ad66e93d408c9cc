"""Answers: what a run's manifest says of a trainer's window, looked up without the export."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import chi2


def read_arguments(description: str) -> argparse.Namespace:
    """Read the command line of a check, and make its directory."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a LeRobot v3.0 dataset")
    parser.add_argument("--out", type=Path, required=True, help="a directory to make")
    parser.add_argument("--command", default="ambient-curate", help="the program, if not on PATH")
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    return given


class Answers:
    """The sigma_min of every whole window of a run; others have that of the nearest of them."""

    def __init__(self, run: Path) -> None:
        manifest = pq.read_table(run / "manifest").to_pandas()
        self.options = json.loads((run / "run.json").read_text())["options"]
        self._levels: dict[tuple[str, int], dict[int, float]] = {}
        for row in manifest[manifest.status != "too-short"].itertuples():
            level = 1.0 if np.isnan(row.sigma_min) else row.sigma_min
            self._levels.setdefault((row.dataset, row.episode_index), {})[int(row.start)] = level
            assert not row.sigma_max > 0.0, "these checks look from above only"
        self._last = {key: max(levels) for key, levels in self._levels.items()}
        begin = manifest[manifest.start == 0].sort_values("index")
        self._index = begin["index"].to_numpy()
        self._owner = list(zip(begin.dataset, begin.episode_index, strict=True))

    def of(self, dataset: str, episode: int, start: int) -> float:
        """Give the sigma_min of the window from `start`; 1: never, or no window is whole."""
        levels = self._levels.get((dataset, episode))
        return 1.0 if levels is None else levels[min(max(start, 0), self._last[dataset, episode])]

    def find(self, index: int) -> tuple[str, int, int]:
        """Give dataset, episode and frame of a global index."""
        number = int(np.searchsorted(self._index, index, side="right")) - 1
        dataset, episode = self._owner[number]
        return dataset, int(episode), int(index - self._index[number])


def compare(name: str, count: np.ndarray, law: np.ndarray) -> None:
    """Compare how often times were drawn with how often they should have been.

    Fails if one that is due 20 times is missing, or if chance does less than once in 10,000 times.
    """
    missed = (law > 0) & (count == 0)
    some = law >= 5
    chance = 1.0
    if some.sum() > 1:
        chance = chi2.sf(((count - law)[some] ** 2 / law[some]).sum(), some.sum() - 1)
    say(
        f"{name}: {count.sum():.0f} draws over {(law > 0).sum()} times or ranges of them, "
        f"{missed.sum()} never drawn (due together {law[missed].sum():.1f} times), "
        f"chi-square of {some.sum()} p = {chance:.3f}"
    )
    assert (law[missed] < 20).all() and chance > 1e-4


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(line + "\n")
