"""Episodes of two normal laws, scored by given classifiers: p = N(0, 1), q = N(distance, 1)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from ambient_curate.divergence import gaussian_delta
from ambient_curate.statistics.lower_bounds import Losses

Array = NDArray[np.float64]
SMALLEST = 0.01
MOST_WINDOWS = 40
LOSSES = ("brier", "errors", "bce")


@dataclass(frozen=True)
class Classifier:
    """Logit ``scale * exact + shift`` of "clean"; one scale and shift, or one an episode."""

    scale: float | Array = 1.0
    shift: float | Array = 0.0

    def in_folds(self, fold: NDArray[np.int64]) -> "Classifier":
        """Another classifier in each of five folds."""
        step = fold - 2.0
        return Classifier(self.scale * (1.0 + 0.1 * step), self.shift + 0.1 * step)

    def of(self, rows: NDArray[np.int64]) -> "Classifier":
        """Classifier of some episodes, for windows of shape (episode, repetition, window)."""
        scale, shift = (np.asarray(v, dtype=np.float32) for v in (self.scale, self.shift))
        column = (slice(None), None, None)
        return Classifier(*(v[rows][column] if v.ndim else v for v in (scale, shift)))


CLASSIFIERS = {
    "exact": Classifier(),
    "tempered": Classifier(scale=1 / 3),
    "tilted": Classifier(shift=1.0),
    "constant": Classifier(scale=0.0),
    "over-confident": Classifier(scale=3.0),
}


def distance_at(delta: float) -> float:
    return float(brentq(lambda d: float(gaussian_delta(d)) - delta, 1e-6, 12.0))


def losses(x: Array, classifier: Classifier, distance: float, is_clean: bool) -> Iterator[Array]:
    """Losses of windows at `x`, in the order of `LOSSES`."""
    logit = classifier.scale * (distance**2 / 2 - distance * x) + classifier.shift
    wrong = 1.0 / (1.0 + np.exp(np.clip(logit if is_clean else -logit, -60.0, 60.0)))
    yield wrong**2
    yield (wrong > 0.5) + 0.5 * (wrong == 0.5)
    yield -np.log(np.clip(1.0 - wrong, SMALLEST, 1.0 - SMALLEST))


def true_losses(classifier: Classifier, distance: float, is_clean: bool) -> dict[str, float]:
    """Means over a window's law, by 200,000 mid-quantiles."""
    x = norm.ppf((np.arange(200_000) + 0.5) / 200_000) + (0.0 if is_clean else distance)
    values = losses(x, classifier, distance, is_clean)
    return {name: float(v.mean()) for name, v in zip(LOSSES, values, strict=True)}


def simulate(
    rng: np.random.Generator,
    episodes: int,
    repetitions: int,
    distance: float,
    *,
    is_clean: bool,
    classifiers: Mapping[str, Classifier],
    within: float = 0.5,
) -> dict[tuple[str, str], Array]:
    """Mean losses of episodes, shape (episode, repetition), by classifier and loss.

    Episodes have 1 to `MOST_WINDOWS` windows; those of one episode have correlation `within`,
    and each by itself has the oracle's law.
    """
    counts = rng.integers(1, MOST_WINDOWS + 1, episodes)
    means = {
        (name, loss): np.empty((episodes, repetitions)) for name in classifiers for loss in LOSSES
    }
    for count in np.unique(counts):
        rows = np.flatnonzero(counts == count)
        shape = (rows.size, repetitions, count)
        own = rng.standard_normal((*shape[:2], 1), dtype=np.float32)
        x = np.float32(within**0.5) * own
        x = x + np.float32((1.0 - within) ** 0.5) * rng.standard_normal(shape, dtype=np.float32)
        x += np.float32(0.0 if is_clean else distance)
        for name, classifier in classifiers.items():
            values = losses(x, classifier.of(rows), np.float32(distance), is_clean)
            for loss, value in zip(LOSSES, values, strict=True):
                means[name, loss][rows] = value.mean(axis=2, dtype=np.float64)
    return means


def in_fold(losses: Losses, fold: int) -> Losses:
    clean, corrupt = losses.clean_fold == fold, losses.corrupt_fold == fold
    return Losses(
        losses.clean[clean],
        losses.corrupt[corrupt],
        losses.clean_fold[clean],
        losses.corrupt_fold[corrupt],
    )
