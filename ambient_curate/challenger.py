"""A challenger of the network: gradient boosting of simple features, fitted anew in every run.

It takes no part in the answer where the network is the better classifier. Where it beats the
network by more than chance, the network misses a difference, and sigma_min is too low.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from ambient_curate.crossing import bootstrap_means, few_folds, last_crossing, rising_fit, stretch
from ambient_curate.noise import signal_scale

MOST_WINDOWS = 2_048  # a side
MOST_FOLDS = 5  # more are merged
FEWEST_EPISODES = 5  # a side
ALPHA = 0.01  # error over the levels tried together
TREES = (12, 40)  # of every group, and of the best where the last of them still help
BEST_GROUPS = 2
LEAVES = 6
RATE = 0.3
BINS = 64
LARGEST_SLOPE = 3.0
FURTHER_LEVELS = (1, 2, 4)  # steps above the crossing, for the upper end
CONFIDENCE = 0.95  # of the upper end, two-sided
C, BRIER, ACCURACY = range(3)


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
class NetworkScores:
    """What the network's out-of-fold scores say of the episodes of one side.

    Parameters
    ----------
    brier, accuracy : ndarray, float64, shape (episode, level)
        Mean squared error of the probability, and share of right answers.
    weight : ndarray, float64, shape (episode,)
        What an episode counts for in a mean, > 0.
    """

    brier: Float64[np.ndarray, "episode level"]
    accuracy: Float64[np.ndarray, "episode level"]
    weight: Float64[np.ndarray, " episode"]


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


@dataclass(frozen=True)
class ChallengerLevel:
    """Both classifiers at one noise level, on the same episodes, classes of equal weight.

    Parameters
    ----------
    sigma : float
        Noise level.
    accuracy, network_accuracy : float
        Balanced accuracy, in [0, 1].
    brier, network_brier : float
        Balanced Brier score; 1/4: nothing is known.
    reading : float
        ``1/2 - (E_p c - E_q c) / 2`` of the challenger: E_q c of a calibrated classifier.
    p_value : float
        One-sided, that the challenger's Brier score is no lower than the network's.
    """

    sigma: float
    accuracy: float
    network_accuracy: float
    brier: float
    network_brier: float
    reading: float
    p_value: float


@dataclass(frozen=True)
class ChallengerFinding:
    """What the challenger found.

    Parameters
    ----------
    status : {"raised", "better", "not better", "not computed"}
        "better": it beats the network at some level, but its sigma_min is not above the network's.
    levels : tuple of ChallengerLevel
        All levels it was tried at, rising.
    sigma_min, upper : float or None
        Its crossing and the upper end of a 95 % interval, approximate; None: not raised.
    sentence : str
        The same in plain words.
    """

    status: Literal["raised", "better", "not better", "not computed"]
    levels: tuple[ChallengerLevel, ...]
    sigma_min: float | None
    upper: float | None
    sentence: str

    @property
    def numbers(self) -> Mapping[str, float]:
        """Of the level where the challenger is most surely better; empty if not computed."""
        if not self.levels:
            return {}
        most = min(self.levels, key=lambda level: level.p_value)
        found = {} if self.sigma_min is None else {"sigma_min": self.sigma_min}
        return {**vars(most), **found}


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


def compare_by_episode(
    clean: Float64[np.ndarray, " clean"], corrupt: Float64[np.ndarray, " corrupt"]
) -> float:
    """One-sided p-value that the balanced mean of paired differences is above 0 by chance.

    Parameters
    ----------
    clean, corrupt : ndarray, float64, shape (episode,)
        The network's Brier score minus the challenger's, of every episode of each class.

    Returns
    -------
    float
        In [0, 1]; 1 where a class has fewer than two episodes or the mean is not above 0.

    Notes
    -----
    Student's t with Welch's degrees of freedom. Given the fitted classifiers the episodes are
    independent, and where the laws are equal every fixed classifier has a balanced Brier score of
    1/4 or more in expectation.
    """
    from scipy.special import stdtr

    sides = (clean, corrupt)
    mean = 0.5 * sum(float(side.mean()) for side in sides)
    if min(side.size for side in sides) < 2 or mean <= 0.0:
        return 1.0
    parts = [0.25 * float(side.var(ddof=1)) / side.size for side in sides]
    if sum(parts) == 0.0:
        return 0.0
    below = sum(part**2 / (side.size - 1) for part, side in zip(parts, sides, strict=True))
    return float(stdtr(sum(parts) ** 2 / below, -mean / np.sqrt(sum(parts))))


def choose_levels(sigma: Float64[np.ndarray, " level"], sigma_min: float) -> list[int]:
    """Places of the levels that tell most of a sigma_min that is too low: at most three.

    The lowest level, where all differences are largest, and two above `sigma_min`: the first one,
    and one a quarter of the way up. Where `sigma_min` is 0: at 3/10 and half of the grid.

    Examples
    --------
    >>> grid = np.linspace(0.1, 0.9, 21)
    >>> choose_levels(grid, 0.0), choose_levels(grid, 0.5), choose_levels(grid, 1.0)
    ([0, 6, 10], [0, 11, 14], [])
    """
    last = sigma.size - 1
    above = int(np.searchsorted(sigma, sigma_min, side="right"))
    if above > last:
        return []
    if above == 0:
        return sorted({0, round(0.3 * last), round(0.5 * last)})
    return sorted({0, above, above + (last - above + 3) // 4})


class _Contest:
    """Levels at which both classifiers are compared, each when it is first asked for."""

    def __init__(
        self,
        samples: tuple[SampledWindows, SampledWindows],
        network: tuple[NetworkScores, NetworkScores],
        sigma: np.ndarray,
        seed: int,
    ) -> None:
        self.samples, self.network, self.sigma, self.seed = samples, network, sigma, seed
        self.scores: dict[int, tuple[ChallengerSide, ChallengerSide]] = {}
        self.levels: dict[int, ChallengerLevel] = {}

    def at(self, place: int) -> ChallengerLevel:
        if place not in self.levels:
            sigma = float(self.sigma[place])
            self.scores[place] = challenge(*self.samples, sigma, seed=self.seed)
            self.levels[place] = self._compare(place)
        return self.levels[place]

    def _compare(self, place: int) -> ChallengerLevel:
        gaps, challenger, network = [], [], []
        for side, scores in zip(self.scores[place], self.network, strict=True):
            rows = side.episode
            gaps.append(scores.brier[rows, place] - side.statistics[BRIER])
            challenger.append(np.average(side.statistics, axis=1, weights=scores.weight[rows]))
            theirs = np.stack([scores.brier[rows, place], scores.accuracy[rows, place]])
            network.append(np.average(theirs, axis=1, weights=scores.weight[rows]))
        both, other = 0.5 * (challenger[0] + challenger[1]), 0.5 * (network[0] + network[1])
        return ChallengerLevel(
            sigma=float(self.sigma[place]),
            accuracy=float(both[ACCURACY]),
            network_accuracy=float(other[1]),
            brier=float(both[BRIER]),
            network_brier=float(other[0]),
            reading=float(0.5 - 0.5 * (challenger[0][C] - challenger[1][C])),
            p_value=compare_by_episode(*gaps),
        )

    def redraw(self, places: list[int]) -> Float64[np.ndarray, "redraw level"]:
        """Bootstrap of the readings, by episode inside folds that both classes share."""
        means = []
        for number, scores in enumerate(self.network):
            sides = [self.scores[place][number] for place in places]
            means.append(
                bootstrap_means(
                    np.stack([side.statistics[C] for side in sides], axis=1),
                    scores.weight[sides[0].episode],
                    np.random.default_rng([self.seed, number]),
                    fold=sides[0].fold,
                    fold_rng=np.random.default_rng(self.seed),
                )
            )
        return 0.5 - 0.5 * (means[0] - means[1])


def cross_challenger(
    clean: tuple[SampledWindows, NetworkScores],
    corrupt: tuple[SampledWindows, NetworkScores],
    sigma: Float64[np.ndarray, " level"],
    *,
    sigma_min: float,
    epsilon: float,
    seed: int,
) -> ChallengerFinding:
    """Test whether boosting tells the two sides apart better than the network, and from where on.

    Parameters
    ----------
    clean, corrupt : tuple of SampledWindows and NetworkScores
        Of each side; no episode of the network's scores but those in the sample is compared.
    sigma : ndarray, float64, shape (level,)
        Rising VP noise levels in (0, 1) of the network's scores; some 33 are enough.
    sigma_min : float
        The network's, in [0, 1].
    epsilon : float
        Margin of the rule, in (0, 1/2).
    seed : int
        Of the noise and of the bootstrap; the result is the same for one seed and one thread.

    Returns
    -------
    ChallengerFinding
        `sigma_min` is given only where the challenger beats the network at one of the levels of
        `choose_levels`, at an error of `ALPHA` over all of them, and its curve crosses
        ``1/2 - epsilon`` above the network's.

    Notes
    -----
    Above the network's sigma_min Delta falls with the noise, so that halving the interval finds
    the crossing with few fits. The upper end is a percentile of a bootstrap by episode, stretched
    for the number of folds as that of the network's curve is: approximate.
    """
    samples, network = (clean[0], corrupt[0]), (clean[1], corrupt[1])
    reason = _find_obstacle(*samples)
    if reason is not None:
        return ChallengerFinding("not computed", (), None, None, f"{_NAME}: {reason}")
    contest = _Contest(samples, network, sigma, seed)
    tried = choose_levels(sigma, sigma_min)
    least = min((contest.at(place).p_value for place in tried), default=1.0)
    better = least <= ALPHA / max(len(tried), 1)
    crossing = _cross(contest, sigma_min, 0.5 - epsilon) if better else None
    levels = tuple(contest.levels[place] for place in sorted(contest.levels))
    if not tried:
        sentence = f"{_NAME}: not needed, no level is above the network's sigma_min"
        return ChallengerFinding("not computed", (), None, None, sentence)
    if crossing is None:
        status: Literal["better", "not better"] = "better" if better else "not better"
        return ChallengerFinding(status, levels, None, None, _say(levels, status, sigma_min, None))
    sentence = _say(levels, "raised", sigma_min, crossing[0])
    return ChallengerFinding("raised", levels, *crossing, sentence)


_NAME = "gradient boosting of simple features"


def _find_obstacle(clean: SampledWindows, corrupt: SampledWindows) -> str | None:
    for name, side in (("clean", clean), ("corrupt", corrupt)):
        episodes = np.unique(side.episode).size
        if episodes < FEWEST_EPISODES:
            return (
                f"cannot be computed, {episodes} {name} episodes where {FEWEST_EPISODES} are needed"
            )
    if np.unique(np.concatenate([clean.fold, corrupt.fold]) % MOST_FOLDS).size < 2:
        return "cannot be computed, all episodes are in one fold"
    return None


def _cross(contest: _Contest, sigma_min: float, threshold: float) -> tuple[float, float] | None:
    """Crossing of the challenger's curve and its upper end, if it is above the network's."""
    sigma = contest.sigma
    start = int(np.searchsorted(sigma, sigma_min, side="right"))

    def fails(place: int) -> bool:
        level = contest.at(place)
        return level.reading <= threshold and level.brier < level.network_brier

    known = [place for place in contest.levels if place >= start]
    low = max((place for place in known if fails(place)), default=start - 1)
    if low < start:
        return None
    high = min((place for place in known if place > low), default=sigma.size)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fails(middle) else (low, middle)
    return _read_crossing(contest, low, threshold)


def _read_crossing(contest: _Contest, last: int, threshold: float) -> tuple[float, float]:
    """Crossing after the level `last`, and the upper end of its interval."""
    sigma, tail = contest.sigma, (1.0 - CONFIDENCE) / 2
    top = last + 1
    for step in FURTHER_LEVELS:
        if top + step >= sigma.size:
            break
        if np.quantile(contest.redraw([top])[:, 0], tail) > threshold:
            break
        top += step
        contest.at(top)
    places = sorted(contest.levels)
    grid = sigma[places]
    curve = np.array([contest.levels[place].reading for place in places])
    failing = np.where(np.array(places) <= last, np.minimum(curve, threshold), curve)
    passing = np.where(np.array(places) > last, np.nextafter(threshold, 1.0), -np.inf)
    found = float(last_crossing(np.maximum(rising_fit(failing), passing), grid, threshold))
    drawn = np.stack([rising_fit(row) for row in contest.redraw(places)])
    end = float(np.quantile(last_crossing(drawn, grid, threshold), 1.0 - tail))
    folds = np.unique(np.concatenate([side.fold for side in contest.scores[last]])).size
    return found, max(found, stretch(found, end, few_folds(folds)))


def _say(
    levels: tuple[ChallengerLevel, ...], status: str, before: float, after: float | None
) -> str:
    most = min(levels, key=lambda level: level.p_value)
    where = f"at sigma {most.sigma:.3f}"
    reach = f"a balanced accuracy of {most.accuracy:.3f} where the network reaches "
    numbers = f"{reach}{most.network_accuracy:.3f}, {where} (p = {most.p_value:.1g})"
    if status == "not better":
        return f"{_NAME} does no better than the network: {numbers}"
    if after is None:
        return f"{_NAME} reaches {numbers}; no reason to raise sigma_min from {before:.3f}"
    return f"{_NAME} reaches {numbers}: sigma_min was raised from {before:.3f} to {after:.3f}"
