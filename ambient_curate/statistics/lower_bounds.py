"""Certified lower bounds on Delta, TV and JSD, from held-out losses of any classifier.

With b a classifier's balanced loss, the mean of its mean losses on clean and on corrupt episodes,

    Delta >= 2 - 8 b (Brier),    TV >= 1 - 2 b (errors),    JSD >= ln 2 - b (cross-entropy),

whatever the classifier, and Delta >= 2 TV^2. Each fold bets, block of episodes by block, against
"b is at least m". Folds are taken in a random order: the greatest of the means of the first
capital, the first two, the first three ... reaches 1 / alpha with probability at most alpha,
however the folds depend on each other (Ramdas and Manole 2023; method.md section 4).
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from ambient_curate.divergence import Numbers
from ambient_curate.statistics.intervals import (
    MARGIN,
    check_alpha,
    check_unit_values,
    past_moments,
    smallest_rejected,
)

ROUNDING = 1e-6  # float32 may round a cross-entropy over the logarithm that bounds it
EVEN_BLOCKS = 20  # as many blocks in a fold bet on Delta evenly, by Brier score and by errors
LEAST_BY_ERRORS = 0.05  # share kept for errors, which see through a timid classifier
CONSTANT = 1e-12  # a variance of c below this is the rounding of its moments


@dataclass(frozen=True, eq=False)
class Losses:
    """Held-out losses of the episodes of two classes.

    Parameters
    ----------
    clean, corrupt : ndarray, float64, shape (episode, level)
        Mean loss of each episode over its windows and noise, by the classifier of its fold, which
        saw no episode of that fold.
    clean_fold, corrupt_fold : ndarray, int64, shape (episode,)
        Fold of each episode. Their numbers are a uniformly random order of the folds.
    """

    clean: Float64[np.ndarray, "clean level"]
    corrupt: Float64[np.ndarray, "corrupt level"]
    clean_fold: Int64[np.ndarray, " clean"]
    corrupt_fold: Int64[np.ndarray, " corrupt"]


def certify_delta(
    brier: Losses, errors: Losses, *, alpha: float = 0.05
) -> Float64[np.ndarray, " level"]:
    """Lower confidence bound on Delta at each level, in [0, 2]; 0 says nothing.

    The capital bets on the Brier score, the sharper with many episodes, and on the error rate, the
    sharper with few: evenly where the rarer class has 20 episodes a fold.

    Parameters
    ----------
    brier, errors : Losses
        Squared errors and shares of wrong answers, an undecided one counting a half, of the same
        episodes, drawn independently from each class; in [0, 1]. The order of episodes moves the
        bound a little and must not have been chosen by looking at losses.
    alpha : float in (0, 1), default 0.05
        Probability, at any one level, that the bound exceeds Delta.

    Returns
    -------
    ndarray, float64, shape (level,)
        0 throughout where no fold holds episodes of both classes.

    Raises
    ------
    ValueError
        If a loss is outside [0, 1] or not a number, a class has no episode, or `alpha` is outside
        (0, 1).
    """
    squares, wrongs = _bet_folds(brier, alpha), _bet_folds(errors, alpha)
    similarity = smallest_rejected(
        lambda u: _delta_capital(squares, wrongs, u), brier.clean.shape[1:], alpha
    )
    return 2.0 * (1.0 - similarity)


def log_evidence(
    brier: Losses, errors: Losses, delta: float, *, alpha: float = 0.05
) -> Float64[np.ndarray, " level"]:
    """Logarithm of the e-value against "Delta <= `delta`" at each level.

    Where that hypothesis holds, it reaches ``ln(1 / alpha)`` with probability at most `alpha`;
    but for rounding, reaching it is ``certify_delta(brier, errors, alpha=alpha) >= delta``.
    Levels tested in an order fixed beforehand, up to the first that fails, need no correction.

    Parameters
    ----------
    brier, errors, alpha
        As for `certify_delta`; `alpha` tunes the bets, which are fair whatever it is.
    delta : float in [0, 2]
        Hypothesis.

    Raises
    ------
    ValueError
        As `certify_delta`, or if `delta` is outside [0, 2].
    """
    if not 0.0 <= delta <= 2.0:
        raise ValueError(f"delta is {delta}; expected a number in [0, 2]")
    similarity = np.full(brier.clean.shape[1], 1.0 - delta / 2.0)
    return _delta_capital(_bet_folds(brier, alpha), _bet_folds(errors, alpha), similarity)


def certify_tv(errors: Losses, *, alpha: float = 0.05) -> Float64[np.ndarray, " level"]:
    """Lower confidence bound on the total variation at each level, in [0, 1].

    Parameters and errors are those of `certify_delta`.
    """
    bets = _bet_folds(errors, alpha)
    similarity = smallest_rejected(
        lambda u: _merge(_capitals(bets, u / 2.0)), errors.clean.shape[1:], alpha
    )
    return 1.0 - similarity


def certify_jsd(
    bce: Losses, *, smallest: float, alpha: float = 0.05
) -> Float64[np.ndarray, " level"]:
    """Lower confidence bound on the Jensen-Shannon divergence at each level, in [0, ln 2] nats.

    `bce` are cross-entropies in nats of probabilities clipped to ``[smallest, 1 - smallest]``. The
    bound is coarse where their range, ``-ln(smallest)``, is large. All else is as for
    `certify_delta`, and `smallest` outside (0, 1/2) is a ValueError as well.
    """
    if not 0.0 < smallest < 0.5:
        raise ValueError(f"smallest is {smallest}; expected a number in (0, 1/2)")
    highest, top = -math.log(smallest) + ROUNDING, math.log(2.0)
    scaled = replace(bce, clean=bce.clean / highest, corrupt=bce.corrupt / highest)
    bets = _bet_folds(scaled, alpha)
    similarity = smallest_rejected(
        lambda u: _merge(_capitals(bets, u * (top / highest))), bce.clean.shape[1:], alpha
    )
    return top * (1.0 - similarity)


def delta_ratio(
    mean_c_clean: Numbers,
    mean_c_corrupt: Numbers,
    brier_clean: Numbers,
    brier_corrupt: Numbers,
) -> np.ndarray:
    """Plug-in Delta of the best rescaling of c: an estimate from below, not a certified bound.

    ``G^2 / (E_p (c - b)^2 + E_q (c - b)^2)`` with ``G = E_p c - E_q c`` and b midway between the
    two means. With the true means it is at most Delta, at least ``2 - 8 Brier``, and the same for
    any ``scale * c + shift``, so over-confidence does not lower it.

    Parameters
    ----------
    mean_c_clean, mean_c_corrupt : array_like
        ``E_p c`` and ``E_q c``.
    brier_clean, brier_corrupt : array_like
        ``E_p (1 - c)^2`` and ``E_q c^2``.

    Returns
    -------
    ndarray
        In [0, 2]; 0 where c is constant to about a millionth.

    Examples
    --------
    >>> delta_ratio([0.9, 0.5], [0.1, 0.5], [0.05, 0.25], [0.05, 0.25]).round(3).tolist()
    [1.6, 0.0]
    """
    p, q = np.asarray(mean_c_clean, dtype=np.float64), np.asarray(mean_c_corrupt, dtype=np.float64)
    middle, gap = (p + q) / 2.0, p - q
    around_clean = np.asarray(brier_clean) - (1.0 - middle) * (2.0 * (1.0 - p) - (1.0 - middle))
    around_corrupt = np.asarray(brier_corrupt) - middle * (2.0 * q - middle)
    spread = around_clean + around_corrupt
    ratio = gap**2 / np.maximum(spread, CONSTANT)
    return np.asarray(np.where(spread > CONSTANT, np.minimum(ratio, 2.0), 0.0))


@dataclass(frozen=True, eq=False)
class _Bets:
    """Bets of one fold that its balanced loss is small.

    A block holds n clean and n' corrupt episodes, and a factor ``prod (a - X) prod (a' - Y)`` of
    their losses. If ``E X + E Y >= 2 m``, its mean, ``(a - E X)^n (a' - E Y)^n'``, is at most
    ``n^n n'^n' (room / (n + n'))^(n + n')`` with ``room = a + a' - 2 m``: the weighted inequality
    of the arithmetic and the geometric mean. The quotient of the two is fair at any split of m.
    """

    gained: Float64[np.ndarray, " level"]  # log of the factors, less that of n^n n'^n'
    reach: Float64[np.ndarray, "block level"]  # a + a'
    size: Float64[np.ndarray, "block 1"]  # n + n'

    def log_capital(self, mean: np.ndarray) -> np.ndarray:
        """Logarithm of the capital against "the balanced loss is at least `mean`"."""
        room = (self.reach - 2.0 * mean) / self.size
        return self.gained - (self.size * np.log(room)).sum(axis=0)


def _bet(clean: np.ndarray, corrupt: np.ndarray, alpha: float) -> _Bets:
    """Deal the episodes of a fold into blocks, and bet on each from the blocks before it."""
    sides = (clean, corrupt)
    count = min(len(clean), len(corrupt))
    dealt = [np.arange(len(side)) % count for side in sides]
    sizes = [np.bincount(block).astype(np.float64)[:, None] for block in dealt]
    means, variances = zip(
        *(past_moments(_block_means(side, count)) for side in sides), strict=True
    )
    # a - E X = n s and a' - E Y = n' s make the inequality tight; s as in `intervals.stakes`
    s = np.sqrt(count * sum(variances) / (2.0 * math.log(1.0 / alpha)))
    for mean, size in zip(means, sizes, strict=True):
        s = np.maximum(s, (1.0 + MARGIN - mean) / size)
    bets = [mean + size * s for mean, size in zip(means, sizes, strict=True)]
    gained = sum(
        np.log(bet[block] - side).sum(axis=0) - (size * np.log(size)).sum()
        for bet, block, side, size in zip(bets, dealt, sides, sizes, strict=True)
    )
    return _Bets(np.asarray(gained), bets[0] + bets[1], sizes[0] + sizes[1])


def _block_means(losses: np.ndarray, count: int) -> np.ndarray:
    return np.stack([losses[block::count].mean(axis=0) for block in range(count)])


def _bet_folds(losses: Losses, alpha: float) -> list[_Bets]:
    """Bets of every fold with episodes of both classes."""
    check_alpha(alpha)
    clean, corrupt = check_unit_values(losses.clean), check_unit_values(losses.corrupt)
    return [
        _bet(clean[losses.clean_fold == fold], corrupt[losses.corrupt_fold == fold], alpha)
        for fold in np.intersect1d(losses.clean_fold, losses.corrupt_fold)
    ]


def _merge(capitals: Float64[np.ndarray, "fold level"]) -> Float64[np.ndarray, " level"]:
    """Logarithm of the greatest of the means of the first capital, the first two, and so on."""
    if not len(capitals):
        return np.zeros(capitals.shape[1:])
    counts = np.log(np.arange(1, len(capitals) + 1))[:, None]
    return (np.logaddexp.accumulate(capitals, axis=0) - counts).max(axis=0)


def _capitals(bets: list[_Bets], mean: np.ndarray) -> Float64[np.ndarray, "fold level"]:
    """Logarithms of the capitals against "the balanced loss is at least `mean`"."""
    return np.array([bet.log_capital(mean) for bet in bets]).reshape(len(bets), *mean.shape)


def _delta_capital(squares: list[_Bets], wrongs: list[_Bets], similarity: np.ndarray) -> np.ndarray:
    """Logarithm of the capital against "1 - Delta/2 is at least `similarity`"."""
    blocks = np.array([len(bet.size) for bet in wrongs])[:, None]
    by_errors = np.maximum(1.0 / (1.0 + (blocks / EVEN_BLOCKS) ** 2), LEAST_BY_ERRORS)
    tv = np.sqrt(1.0 - similarity)  # at most, by Delta >= 2 TV^2
    return _merge(
        np.logaddexp(
            _capitals(squares, similarity / 4.0) + np.log1p(-by_errors),
            _capitals(wrongs, (1.0 - tv) / 2.0) + np.log(by_errors),
        )
    )
