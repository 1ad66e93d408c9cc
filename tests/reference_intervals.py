"""Intervals that those of the package are compared with."""

import math

import numpy as np
from numpy.typing import ArrayLike

from ambient_curate.statistics.intervals import Interval, Side, Values, _interval, _tail


def hoeffding(values: Values, *, alpha: float = 0.05, side: Side = "both") -> Interval:
    """Interval for a mean from the number of its values and their range alone.

    Parameters
    ----------
    values : ndarray, shape (n, ...)
        Independent along the first axis, in [0, 1], with equal means; n >= 1.
    alpha : float in (0, 1), default 0.05
        Probability, over repeated experiments, that the interval misses the mean.
    side : {"both", "lower", "upper"}, default "both"
        Which end is wanted; two cost `alpha` / 2 each.

    Raises
    ------
    ValueError
        If a value is outside [0, 1] or not a number, there are none, or `alpha` is outside (0, 1).

    References
    ----------
    Hoeffding (1963), JASA 58, Theorem 1.

    Examples
    --------
    >>> lower, upper = hoeffding(np.full(100, 0.3), side="upper")
    >>> round(float(upper), 3)
    0.422
    """
    return _interval(_hoeffding_upper, values, alpha, side)


def bernstein(values: Values, *, alpha: float = 0.05, side: Side = "both") -> Interval:
    """Interval for a mean from the variance of its values; [0, 1] for n = 1.

    Parameters, errors and guarantee are those of `hoeffding`.

    References
    ----------
    Maurer and Pontil (2009), COLT, Theorem 11: independent values, not only identical laws.
    """
    return _interval(_bernstein_upper, values, alpha, side)


def clopper_pearson(
    successes: ArrayLike | int, trials: ArrayLike | int, *, alpha: float = 0.05, side: Side = "both"
) -> Interval:
    """Exact interval for a success probability.

    Parameters
    ----------
    successes, trials : array_like of int
        Counts of independent episodes, ``0 <= successes <= trials``; no trial gives [0, 1].
    alpha, side
        As for `hoeffding`.

    Raises
    ------
    ValueError
        If ``0 <= successes <= trials`` fails, or `alpha` is outside (0, 1).

    References
    ----------
    Clopper and Pearson (1934), Biometrika 26(4).

    Examples
    --------
    >>> lower, upper = clopper_pearson(9, 10)
    >>> round(float(lower), 3), round(float(upper), 3)
    (0.555, 0.997)
    """
    from scipy.special import betaincinv

    tail = _tail(alpha, side)
    hits, n = np.broadcast_arrays(np.asarray(successes), np.asarray(trials))
    if not ((hits >= 0) & (hits <= n)).all():
        raise ValueError(f"successes are {hits}, trials {n}; expected 0 <= successes <= trials")
    low, high = np.zeros(hits.shape), np.ones(hits.shape)
    if side != "upper":
        low = np.where(hits > 0, betaincinv(np.maximum(hits, 1), n - hits + 1, tail), 0.0)
    if side != "lower":
        rest = np.maximum(n - hits, 1)
        high = np.where(hits < n, betaincinv(hits + 1, rest, 1.0 - tail), 1.0)
    return Interval(low, high)


def _hoeffding_upper(values: np.ndarray, alpha: float) -> np.ndarray:
    width = math.sqrt(math.log(1.0 / alpha) / (2.0 * len(values)))
    return np.asarray(np.minimum(values.mean(axis=0) + width, 1.0))


def _bernstein_upper(values: np.ndarray, alpha: float) -> np.ndarray:
    n, cost = len(values), math.log(2.0 / alpha)
    if n == 1:
        return np.ones(values.shape[1:])
    width = np.sqrt(2.0 * values.var(axis=0, ddof=1) * cost / n) + 7.0 * cost / (3.0 * (n - 1))
    return np.asarray(np.minimum(values.mean(axis=0) + width, 1.0))
