"""Gradient boosting on simple features of noised windows, out of fold by episode.

A second kind of classifier, fitted anew in every run and never stored: `challenger` compares it
with the one in use.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from ambient_curate.noise import signal_scale

MOST_WINDOWS = 2_048  # a side
MOST_FOLDS = 5  # more are merged
TREES = (12, 40)  # of every group, and of the best where the last of them still help
BEST_GROUPS = 2
LEAVES = 6
RATE = 0.3
BINS = 64
LARGEST_SLOPE = 3.0


@dataclass(frozen=True, eq=False)
class SampledWindows:
    """Windows of one side, without noise.

    Parameters
    ----------
    values : ndarray, float32, shape (window, horizon, action)
        Normalised.
    episode : ndarray, int64, shape (window,)
        Row of the window's episode in the tables of the network's scores.
    fold : ndarray, int64, shape (window,)
        Held-out fold of the window's episode; both sides count them alike.
    """

    values: Float32[np.ndarray, "window horizon action"]
    episode: Int64[np.ndarray, " window"]
    fold: Int64[np.ndarray, " window"]


@dataclass(frozen=True, eq=False)
class ChallengerSide:
    """Out-of-fold scores of the challenger for the episodes of one side, at one level.

    Parameters
    ----------
    statistics : ndarray, float64, shape (3, episode)
        Mean calibrated probability of "clean", its Brier score, share of right answers.
    episode : ndarray, int64, shape (episode,)
        Rows of `SampledWindows.episode` that occur, rising.
    fold : ndarray, int64, shape (episode,)
        Which boosting scored each; at most `MOST_FOLDS`.
    """

    statistics: Float64[np.ndarray, "3 episode"]
    episode: Int64[np.ndarray, " episode"]
    fold: Int64[np.ndarray, " episode"]


def draw_windows(
    counts: Int64[np.ndarray, " episode"], rng: np.random.Generator, most: int = MOST_WINDOWS
) -> tuple[Int64[np.ndarray, " window"], Int64[np.ndarray, " window"]]:
    """Draw windows for the challenger: as many of every episode, as far as they reach.

    Parameters
    ----------
    counts : ndarray, int64, shape (episode,)
        Windows of every episode, >= 1.
    rng : Generator
        Of the draw.
    most : int
        Windows in all, >= 1.

    Returns
    -------
    tuple of ndarray
        Episode (its place in `counts`) and number of every drawn window, by episode; no window
        occurs twice. With more episodes than `most` some are left out by chance.
    """
    order = rng.permutation(counts.size)
    share = np.zeros(counts.size, dtype=np.int64)
    left = min(most, int(counts.sum()))
    while left:
        open_ = order[share[order] < counts[order]]
        each = max(left // open_.size, 1)
        given = np.minimum(counts[open_] - share[open_], each)[:left]
        share[open_[: given.size]] += given
        left -= int(given.sum())
    number = [
        np.sort(rng.choice(int(count), int(some), replace=False, shuffle=False))
        for count, some in zip(counts, share, strict=True)
    ]
    return np.repeat(np.arange(counts.size), share), np.concatenate(number)


def challenge(
    clean: SampledWindows, corrupt: SampledWindows, sigma: float, *, seed: int
) -> tuple[ChallengerSide, ChallengerSide]:
    """Score the episodes of both sides at one noise level, out of fold.

    Every fold is scored by boostings of other folds, one for each small group of features; one
    further fold decides how many trees they have and how their logits add up to a calibrated one.
    An episode counts the same whatever its number of windows, and both classes count the same. A
    fold for which there are no episodes left to fit, or to stop, of both classes gets 1/2.

    Parameters
    ----------
    clean, corrupt : SampledWindows
        Of equal horizon and action.
    sigma : float
        VP noise level in (0, 1).
    seed : int
        Of the noise, which is the same at every level.
    """
    sample = _Sample.join(clean, corrupt, sigma, seed)
    c = np.full(sample.weight.size, 0.5)
    binned = [_bin(group) for group in _describe(sample.values)]
    groups = [group for group in binned if group.shape[1]]
    for held_out in np.unique(sample.fold):
        split = _split(sample, int(held_out))
        if split is not None and groups:
            c[split.test] = _predict(groups, sample, split)
    first = clean.episode.size
    return (
        _by_episode(c[:first], clean, is_clean=True),
        _by_episode(c[first:], corrupt, is_clean=False),
    )


@dataclass(frozen=True, eq=False)
class _Sample:
    """Noisy windows of both sides, the clean ones first."""

    values: Float32[np.ndarray, "window horizon action"]
    is_clean: Bool[np.ndarray, " window"]
    fold: Int64[np.ndarray, " window"]
    weight: Float64[np.ndarray, " window"]
    order: Int64[np.ndarray, " window"]  # rank of the window's episode on its side

    @classmethod
    def join(
        cls, clean: SampledWindows, corrupt: SampledWindows, sigma: float, seed: int
    ) -> "_Sample":
        x0 = np.concatenate([clean.values, corrupt.values])
        noise = np.random.default_rng(seed).standard_normal(x0.shape, dtype=np.float32)
        values = np.float32(signal_scale(sigma)) * x0 + np.float32(sigma) * noise
        weight, order = [], []
        for side in (clean, corrupt):
            _, rank, count = np.unique(side.episode, return_inverse=True, return_counts=True)
            weight.append(1.0 / count[rank])
            order.append(rank)
        is_clean = np.arange(len(values)) < len(clean.values)
        fold = np.concatenate([clean.fold, corrupt.fold]) % MOST_FOLDS
        return cls(values, is_clean, fold, np.concatenate(weight), np.concatenate(order))


@dataclass(frozen=True, eq=False)
class _Split:
    """Windows that are scored, that stop and calibrate, and that are fitted."""

    test: Int64[np.ndarray, " test"]
    validation: Int64[np.ndarray, " validation"]
    train: Int64[np.ndarray, " train"]


def _split(sample: _Sample, held_out: int) -> _Split | None:
    """Validate on the next fold that leaves both classes on both sides; of two folds, on a part."""
    test = sample.fold == held_out
    folds = np.unique(sample.fold)
    place = int(np.searchsorted(folds, held_out))
    if folds.size > 2:
        choices = [sample.fold == value for value in np.roll(folds, -place)[1:]]
    else:
        choices = [~test & (sample.order % 6 < 2)]  # both folds have ranks of all remainders
    for validation in choices:
        train = ~test & ~validation
        if all(np.unique(sample.is_clean[part]).size == 2 for part in (validation, train)):
            return _Split(*(np.flatnonzero(part) for part in (test, validation, train)))
    return None


def _describe(x: np.ndarray) -> Iterator[np.ndarray]:
    """Small groups of features: a tree finds a weak difference among few, not among many."""
    per_dim = _steps_and_extremes(x)
    yield _relative(x)
    yield per_dim.reshape(len(x), -1)
    yield per_dim.mean(axis=2)
    yield _positions(x)


def _spaced(horizon: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, horizon - 1, min(most, horizon)).round().astype(np.int64))


def _relative(x: np.ndarray) -> np.ndarray:
    """Frames minus the first one, and Haar steps: means of halves, and of quarters, compared."""
    horizon = x.shape[1]
    parts = [x[:, _spaced(horizon, 6)[1:]] - x[:, :1]]
    for pieces in (2, 4):
        size = horizon // pieces
        if size:
            means = x[:, : pieces * size].reshape(len(x), pieces, size, -1).mean(axis=2)
            parts.append(means[:, 1::2] - means[:, ::2])
    return np.concatenate(parts, axis=1).reshape(len(x), -1)


def _steps_and_extremes(x: np.ndarray) -> np.ndarray:
    """Sizes of steps (small ones: repeats), their size in phases, extremes and spread.

    Shape (window, feature, action); no order of time in them but the steps'.
    """
    horizon = x.shape[1]
    if horizon < 2:
        return x[:, :0]
    step = np.diff(x, axis=1)
    sizes, square = np.sort(np.abs(step), axis=1), np.square(step)
    far = min(4, horizon - 1)
    heights = np.sort(np.abs(x), axis=1)
    phases = [
        np.min([square[:, first::period].mean(axis=1) for first in range(period)], axis=0)
        for period in (2, 4)
        if period < horizon
    ]
    features = [
        *(sizes[:, i] for i in (step.shape[1] // 4, step.shape[1] // 2, -1)),
        square.mean(axis=1),
        *phases,
        np.square(x[:, far:] - x[:, :-far]).mean(axis=1),
        x.max(axis=1),
        x.min(axis=1),
        x.var(axis=1),
        heights[:, -1],
        heights[:, -2],
        np.sqrt(heights).mean(axis=1),
    ]
    return np.stack(features, axis=1)


def _positions(x: np.ndarray) -> np.ndarray:
    """Where the window lies: its mean, three frames, and steps between a few frames."""
    few = [x[:, _spaced(x.shape[1], 3)], np.diff(x[:, _spaced(x.shape[1], 6)], axis=1)]
    return np.concatenate([x.mean(axis=1, keepdims=True), *few], axis=1).reshape(len(x), -1)


def _bin(features: np.ndarray) -> np.ndarray:
    """Ranks in `BINS` equal parts, without features that do not vary.

    Both sides count, which is which plays no part. Boosting alone finds such parts ten times as
    slowly.
    """
    binned = np.empty(features.shape, dtype=np.float32)
    places = np.arange(1, BINS) * len(features) // BINS
    for column, values in enumerate(features.T):
        edges = np.unique(np.sort(values)[places])
        binned[:, column] = np.searchsorted(edges, values, side="right")
    return binned[:, np.ptp(binned, axis=0) > 0]


def _balanced(sample: _Sample, rows: np.ndarray) -> np.ndarray:
    """Weights with a mean of 1; each class has half of them."""
    weight = sample.weight[rows].copy()
    for label in (True, False):
        of_class = sample.is_clean[rows] == label
        weight[of_class] *= 0.5 * rows.size / weight[of_class].sum()
    return weight


def _predict(groups: list[np.ndarray], sample: _Sample, split: _Split) -> np.ndarray:
    """Calibrated probability of "clean" for the windows that are held out."""
    boostings = [_Boosting(group, sample, split) for group in groups]
    for trees, best in zip(TREES, (len(groups), BEST_GROUPS), strict=True):
        for boosting in sorted(boostings, key=lambda boosting: boosting.loss)[:best]:
            boosting.grow(trees)
    logits = np.stack([boosting.logits for boosting in boostings], axis=1)
    size = split.validation.size
    truth = sample.is_clean[split.validation]
    slopes = _add_up(logits[:size], truth, _balanced(sample, split.validation))
    return np.asarray(1.0 / (1.0 + np.exp(-(logits[size:] @ slopes))))


class _Boosting:
    """Boosting of one group of features; `logits` are the validation windows', then the test's."""

    def __init__(self, features: np.ndarray, sample: _Sample, split: _Split) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        self.train = features[split.train], sample.is_clean[split.train]
        self.weight = _balanced(sample, split.train)
        self.truth = sample.is_clean[split.validation]
        self.share = _balanced(sample, split.validation)
        self.wanted = features[np.concatenate([split.validation, split.test])]
        self.model = HistGradientBoostingClassifier(
            learning_rate=RATE,
            max_leaf_nodes=LEAVES,
            max_bins=BINS,
            early_stopping=False,
            warm_start=True,
            random_state=0,
        )
        self.logits, self.loss, self.improving = np.zeros(len(self.wanted)), 0.0, True

    def grow(self, trees: int) -> None:
        """Grow up to `trees` trees if the last third of them helped; keep the best number."""
        if not self.improving:
            return
        self.model.set_params(max_iter=trees)
        self.model.fit(*self.train, sample_weight=self.weight)
        stages = np.stack([s.copy() for s in self.model.staged_decision_function(self.wanted)])
        known = stages[:, : self.truth.size]
        losses = np.logaddexp(0.0, np.where(self.truth, -known, known)) @ self.share
        best = int(np.argmin(losses))
        self.logits, self.loss = stages[best], float(losses[best])
        self.improving = best >= 2 * trees // 3


def _add_up(logits: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Slopes >= 0 of a logistic regression without intercept; all 0 where they tell nothing."""
    from scipy.optimize import minimize

    sign, weight = np.where(truth, -1.0, 1.0), weight / weight.sum()

    def loss(slopes: np.ndarray) -> tuple[float, np.ndarray]:
        wrong = sign * (logits @ slopes)
        slope = weight * sign * np.exp(-np.logaddexp(0.0, -wrong))
        return float(weight @ np.logaddexp(0.0, wrong)), logits.T @ slope

    number = logits.shape[1]
    start, bounds = np.full(number, 0.5 / number), [(0.0, LARGEST_SLOPE)] * number
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B")
    return np.asarray(found.x if found.fun < np.log(2.0) else np.zeros(number), dtype=np.float64)


def _by_episode(c: np.ndarray, side: SampledWindows, *, is_clean: bool) -> ChallengerSide:
    episode, first, rank = np.unique(side.episode, return_index=True, return_inverse=True)
    right = c if is_clean else 1.0 - c
    windows = (c, np.square(1.0 - right), (right > 0.5) + 0.5 * (right == 0.5))
    sums = np.stack([np.bincount(rank, value, episode.size) for value in windows])
    return ChallengerSide(
        sums / np.bincount(rank, minlength=episode.size), episode, side.fold[first] % MOST_FOLDS
    )
