"""What a datapoint's sigma_min costs, in evaluations of the classifier, and how far it is off.

    python tests/benchmarks/bench_estimators.py [WINDOWS]

One fold's classifier is fitted to normal laws (500 and 25,000 episodes of one window, 8 dimensions)
and to the real tape recordings with planted corruption (every fourth command held), if they lie
beside this checkout. The classifier is read at 33 levels. The oracle of every window is the
crossing of its curve over 65,538 evaluations, in antithetic pairs. Against it stand what the
manifest's rows come from, a student or 8 pairs of noise draws; what was tried and left: plain
draws, fewer, more draws for the windows of which a student is least sure; and the procedure of the
released image annotator, as its paper describes it: fresh noise at 2,048 random levels, here of
those that the classifier is read at, four draws each, exponential smoothing of span 32 along the
levels, the first crossing. The same windows serve all. Evaluations are counted as noised windows at
a level; those that a student is taught with count as for five folds, over 100,000 windows.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("", "annotation", "readers")]

from oracle_study import SIGMA as GRID
from oracle_study import channel_of, gaussian_episodes, make_population
from test_planted import read_actions
from threadpoolctl import threadpool_limits

from ambient_curate.annotation.part_writer import LOWEST_DRAWS
from ambient_curate.classifier.distillation import (
    Student,
    StudentOptions,
    predict_curves,
    teach_student,
)
from ambient_curate.classifier.fit import FitOptions, FoldClassifier, PairClassifier, fit_fold
from ambient_curate.data.populations import Population
from ambient_curate.noise import draw_pairs
from ambient_curate.statistics.sigma_min import last_crossing, sparse_levels

THRESHOLD = 0.45  # 1/2 less the default epsilon
WINDOWS = 500
ORACLE_DRAWS = 1_986  # times 33 levels
FOLDS, FOLD = 5, 0
LEVELS, DRAWS, SPAN = 2_048, 4, 32  # of the released annotator
TAPE = Path(__file__).resolve().parents[3] / "shared" / "data" / "so101_tape"

Estimator = Callable[[FoldClassifier, torch.Tensor, np.random.Generator], np.ndarray]
SIGMA = GRID[sparse_levels(GRID.size)]
ALL = np.arange(SIGMA.size)
SET = 100_000  # windows among which what a student is taught with is shared
MARK = 82  # evaluations a window


def average_curves(
    classifier: FoldClassifier,
    windows: torch.Tensor,
    draws: int,
    rng: np.random.Generator,
    levels: np.ndarray,
    *,
    antithetic: bool = False,
) -> np.ndarray:
    """Mean probability of "clean" at some levels, each draw of noise serving all of them."""
    curves = np.zeros((len(windows), levels.size))
    for number, window in enumerate(windows):
        for first in range(0, draws, 64):
            now = min(64, draws - first)
            shape = 1, now, window.numel()
            noise = draw_pairs(rng, *shape) if antithetic else rng.standard_normal(shape)
            noise = torch.from_numpy(noise.astype(np.float32))
            c = classifier.predict(window[None], noise, [0], levels)
            curves[number] += c[:, 0, :, 0].sum(dim=1).double().numpy() / draws
    return curves


def draw(draws: int, *, antithetic: bool = False) -> Estimator:
    """Make the last crossing of a curve of common random numbers."""

    def estimate(
        classifier: FoldClassifier, windows: torch.Tensor, rng: np.random.Generator
    ) -> np.ndarray:
        curves = average_curves(classifier, windows, draws, rng, ALL, antithetic=antithetic)
        return last_crossing(curves, SIGMA, THRESHOLD)

    return estimate


def refine(student: Student, share: float, budget: int) -> Estimator:
    """Spend `budget` evaluations a window on the share whose intervals are widest.

    Around its interval such a window's curve moves half way to that of its draws.
    """

    def estimate(
        classifier: FoldClassifier, windows: torch.Tensor, rng: np.random.Generator
    ) -> np.ndarray:
        curves = predict_curves(student.network, windows)
        lower, upper = find_interval(student, curves)
        widest = np.argsort(lower - upper)[: int(share * len(windows))]
        for number in widest.tolist():
            first = max(int(np.searchsorted(SIGMA, lower[number])) - 1, 0)
            last = min(int(np.searchsorted(SIGMA, upper[number])) + 1, SIGMA.size - 1)
            at = np.unique(np.linspace(first, last, 9).round().astype(int))
            draws = int(budget / share) // (2 * at.size) * 2
            window = windows[number : number + 1]
            drawn = average_curves(classifier, window, draws, rng, at, antithetic=True)[0]
            curves[number] += 0.5 * np.interp(ALL, at, drawn - curves[number, at])
        return last_crossing(curves, SIGMA, THRESHOLD)

    return estimate


def find_interval(student: Student, curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of sigma_min's interval."""
    up, down = student.margins
    lower, upper = (
        last_crossing(moved, SIGMA, THRESHOLD) for moved in (curves + up, curves - down)
    )
    return lower, upper


def released_procedure(
    classifier: FoldClassifier, windows: torch.Tensor, rng: np.random.Generator
) -> np.ndarray:
    """First crossings of smoothed curves of fresh noise at random levels."""
    return np.array([_first_crossing(classifier, window, rng) for window in windows])


def _first_crossing(
    classifier: FoldClassifier, window: torch.Tensor, rng: np.random.Generator
) -> float:
    numbers, times = np.unique(rng.integers(SIGMA.size, size=LEVELS), return_counts=True)
    parts = []
    for number, count in zip(numbers.tolist(), times.tolist(), strict=True):
        noise = rng.standard_normal((1, count * DRAWS, window.numel()), dtype=np.float32)
        level = slice(number, number + 1)
        c = classifier.predict(window[None], torch.from_numpy(noise), [0], level)
        parts.append(c.reshape(count, DRAWS).mean(dim=1).numpy())
    smooth = pd.Series(np.concatenate(parts)).ewm(span=SPAN).mean().to_numpy()
    above = smooth > THRESHOLD
    level = SIGMA[np.repeat(numbers, times)]
    first = float(level[np.argmax(above)]) if above.any() else 1.0
    return 0.0 if above[0] else first


class Counter:
    """Evaluations of the first pair of a classifier: rows times levels."""

    def __init__(self, classifier: FoldClassifier) -> None:
        self.evaluations, self.pair = 0, classifier.pairs[0]
        self.classifier = replace(classifier, pairs={0: self})

    @property
    def slope(self) -> torch.Tensor:
        return self.pair.slope

    def predict(self, windows: torch.Tensor, *rest: Any) -> torch.Tensor:
        found = PairClassifier.predict(self.pair, windows, *rest)
        self.evaluations += found.numel()
        return found


def make_sets() -> Iterator[tuple[str, Population, Population]]:
    """Name, clean and corrupt population."""
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(4, 2))
    mean *= 0.9 / np.linalg.norm(mean)
    clean = gaussian_episodes(rng, 500, 0.0 * mean, 0.1)
    corrupt = gaussian_episodes(rng, 25_000, mean, 0.1)
    yield (
        "normal laws",
        make_population("clean", clean, 4, FOLDS),
        make_population("q", corrupt, 4, FOLDS),
    )
    if not TAPE.is_dir():
        print(f"no {TAPE}: left out")
        return
    episodes = read_actions(TAPE)
    low, high = (end(np.concatenate(episodes[:20]), axis=0) for end in (np.min, np.max))
    scaled = [2.0 * (episode - low) / (high - low) - 1.0 for episode in episodes]
    held = [episode[np.arange(len(episode)) // 4 * 4] for episode in scaled[20:]]
    yield (
        "tape, held",
        make_population("clean", scaled[:20], 16, FOLDS),
        make_population("q", held, 16, FOLDS),
    )


def measure(name: str, clean: Population, corrupt: Population, count: int) -> None:
    """Print a line an estimator."""
    classifier = fit_fold(clean, [corrupt], FOLD, channel_of(clean), FitOptions(folds=FOLDS))
    rows = torch.cat([corrupt.windows.of_episode(int(e)) for e in corrupt.in_folds([FOLD])])
    picked = np.random.default_rng(1).permutation(len(rows))[:count]
    windows = rows[np.sort(picked)]
    exact = draw(ORACLE_DRAWS, antithetic=True)(classifier, windows, np.random.default_rng(2))
    options = StudentOptions(
        windows=min(StudentOptions.windows, len(rows) - StudentOptions.test_windows)
    )
    start, counted = time.perf_counter(), Counter(classifier)
    student = teach_student(counted.classifier, corrupt, FOLD, 0, options)
    taught = LOWEST_DRAWS + 1 + FOLDS * counted.evaluations // SET
    print(
        f"{name}: {len(rows):,} windows in the fold, a student taught in "
        f"{time.perf_counter() - start:.1f} s; its judges say it errs by {student.error:.4f}"
    )

    def ask_student(
        _: FoldClassifier, windows: torch.Tensor, __: np.random.Generator
    ) -> np.ndarray:
        return last_crossing(predict_curves(student.network, windows), SIGMA, THRESHOLD)

    ways: dict[str, tuple[int, Estimator]] = {
        "released procedure": (LEVELS * DRAWS, released_procedure),
        "16 draws": (16 * SIGMA.size, draw(16)),
        "8 pairs": (16 * SIGMA.size, draw(16, antithetic=True)),
        "1 pair": (2 * SIGMA.size, draw(2, antithetic=True)),
        "student": (taught, ask_student),
        "student, 5 % refined": (MARK, refine(student, 0.05, MARK - taught)),
        "student, 20 % refined": (MARK, refine(student, 0.2, MARK - taught)),
    }
    for way, (evaluations, estimate) in ways.items():
        start = time.perf_counter()
        error = estimate(classifier, windows, np.random.default_rng(3)) - exact
        seconds = time.perf_counter() - start
        print(
            f"{name:12} {way:21} {evaluations:6,} evaluations  mean error "
            f"{np.abs(error).mean():.4f}  95 % {np.quantile(np.abs(error), 0.95):.3f}  bias "
            f"{error.mean():+.4f}  {1e3 * seconds / len(windows):8.3f} ms",
            flush=True,
        )
    curves = predict_curves(student.network, windows)
    lower, upper = find_interval(student, curves)
    held = np.mean((lower <= exact) & (exact <= upper))
    print(
        f"{name:12} the student's intervals hold {held:.3f}, mean width "
        f"{np.mean(upper - lower):.3f}"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with threadpool_limits(1):
        for each in make_sets():
            measure(*each, int(sys.argv[1]) if len(sys.argv) > 1 else WINDOWS)
