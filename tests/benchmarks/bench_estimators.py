"""What a datapoint's sigma_min costs, in evaluations of the classifier, and how far it is off.

    python tests/benchmarks/bench_estimators.py [WINDOWS]

One fold's classifier is fitted to normal laws (500 and 5,000 episodes of one window, 8 dimensions)
and to the real tape recordings with planted corruption (every fourth command held), if they lie
beside this checkout. The oracle of every window is the crossing of its curve over 65,532
evaluations. Against it stand the rows of the manifest and the procedure of the released image
annotator, as its paper describes it: fresh noise at 2,048 random levels, here of the grid that the
classifier is calibrated on, four draws each, exponential smoothing of span 32 along the levels, the
first crossing. The same windows serve all.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "readers")]

from oracle_study import SIGMA, gaussian_episodes, make_arm
from test_planted import read_actions
from threadpoolctl import threadpool_limits

from ambient_curate.arms import Arm
from ambient_curate.classifier import FitOptions, FoldClassifier, fit_fold
from ambient_curate.crossing import last_crossing
from ambient_curate.parts import SCORED

THRESHOLD = 0.45  # 1/2 less the default epsilon
WINDOWS = 500
ORACLE_DRAWS = 508  # times 129 levels
FOLDS, FOLD = 5, 0
LEVELS, DRAWS, SPAN = 2_048, 4, 32  # of the released annotator
TAPE = Path(__file__).resolve().parents[3] / "shared" / "data" / "so101_tape"

Estimator = Callable[[FoldClassifier, torch.Tensor, np.random.Generator], tuple[float, int]]


def average_curve(
    classifier: FoldClassifier, window: torch.Tensor, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """Mean probability of "clean" at every level, each draw of noise serving all of them."""
    total = np.zeros(SIGMA.size)
    for first in range(0, draws, 64):
        shape = (1, min(64, draws - first), window.numel())
        noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        c = classifier.predict(window[None], noise, [0], slice(None))
        total += c[:, 0, :, 0].sum(dim=1).double().numpy()
    return total / draws


def common_numbers(draws: int) -> Estimator:
    """The last crossing of a curve of common random numbers."""

    def estimate(
        classifier: FoldClassifier, window: torch.Tensor, rng: np.random.Generator
    ) -> tuple[float, int]:
        curve = average_curve(classifier, window, draws, rng)
        return float(last_crossing(curve, SIGMA, THRESHOLD)), draws * SIGMA.size

    return estimate


def released_procedure(
    classifier: FoldClassifier, window: torch.Tensor, rng: np.random.Generator
) -> tuple[float, int]:
    """The first crossing of a smoothed curve of fresh noise at random levels."""
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
    return (0.0 if above[0] else first), LEVELS * DRAWS


def make_sets() -> Iterator[tuple[str, Arm, Arm]]:
    """Name, clean arm and corrupt arm."""
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(4, 2))
    mean *= 0.9 / np.linalg.norm(mean)
    clean = gaussian_episodes(rng, 500, 0.0 * mean, 0.1)
    corrupt = gaussian_episodes(rng, 5_000, mean, 0.1)
    yield "normal laws", make_arm("clean", clean, 4, FOLDS), make_arm("q", corrupt, 4, FOLDS)
    if not TAPE.is_dir():
        print(f"no {TAPE}: left out")
        return
    episodes = read_actions(TAPE)
    low, high = (end(np.concatenate(episodes[:20]), axis=0) for end in (np.min, np.max))
    scaled = [2.0 * (episode - low) / (high - low) - 1.0 for episode in episodes]
    held = [episode[np.arange(len(episode)) // 4 * 4] for episode in scaled[20:]]
    yield "tape, held", make_arm("clean", scaled[:20], 16, FOLDS), make_arm("q", held, 16, FOLDS)


def measure(name: str, clean: Arm, corrupt: Arm, count: int) -> None:
    """Print a line an estimator."""
    classifier = fit_fold(clean, [corrupt], FOLD, SIGMA, FitOptions(folds=FOLDS))
    rows = torch.cat([corrupt.windows.of_episode(int(e)) for e in corrupt.in_folds([FOLD])])
    picked = np.random.default_rng(1).permutation(len(rows))[:count]
    windows = rows[np.sort(picked)]
    exact = np.array(
        [
            last_crossing(
                average_curve(classifier, window, ORACLE_DRAWS, np.random.default_rng([2, number])),
                SIGMA,
                THRESHOLD,
            )
            for number, window in enumerate(windows)
        ]
    )
    ways: dict[str, Estimator] = {
        "released procedure": released_procedure,
        "rows of the manifest": common_numbers(SCORED["datapoint"].draws),
    }
    for way, estimate in ways.items():
        start = time.perf_counter()
        found = [
            estimate(classifier, window, np.random.default_rng([3, number]))
            for number, window in enumerate(windows)
        ]
        seconds = time.perf_counter() - start
        error = np.array([value for value, _ in found]) - exact
        print(
            f"{name:12} {way:21} {found[0][1]:6,} evaluations  mean error "
            f"{np.abs(error).mean():.4f}  95 % {np.quantile(np.abs(error), 0.95):.3f}  bias "
            f"{error.mean():+.4f}  {1e3 * seconds / len(windows):7.1f} ms",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with threadpool_limits(1):
        for each in make_sets():
            measure(*each, int(sys.argv[1]) if len(sys.argv) > 1 else WINDOWS)
