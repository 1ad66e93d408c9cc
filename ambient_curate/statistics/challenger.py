"""The challenger: gradient boosting that checks every classifier for what it misses.

It takes no part in the answer where the classifier is the better one. Where it beats the
classifier by more than chance, that misses a difference, and sigma_min is too low.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from ambient_curate.errors import write_count
from ambient_curate.statistics.boosting import MOST_FOLDS, ChallengerSide, SampledWindows, challenge
from ambient_curate.statistics.bootstrap import bootstrap_means, few_folds, stretch
from ambient_curate.statistics.sigma_min import last_crossing, rising_fit

FEWEST_EPISODES = 5  # a side
ALPHA = 0.01  # error over the levels tried together
FURTHER_LEVELS = (1, 2, 4)  # steps above the crossing, for the upper end
CONFIDENCE = 0.95  # of the upper end, two-sided
C, BRIER, ACCURACY = range(3)


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
                "cannot be computed, "
                f"{write_count(episodes, f'{name} episode')} where {FEWEST_EPISODES} are needed"
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
