"""Confidence bounds for the mean of independent values in [0, 1], one per episode.

Every bound holds for finite n and any law, level by level; several levels at once need a
correction or a fixed sequence (method.md section 4).
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float64

Side = Literal["both", "lower", "upper"]
Values = Float[np.ndarray, "n *level"]
Bound = Callable[[np.ndarray, float], np.ndarray]

MARGIN = 0.1  # bets stop short of ruin: one loss of 1 costs at most a factor of about 11
HALVINGS = 52  # of [0, 1]: down to the spacing of float64 below 1


class Interval(NamedTuple):
    """Ends of a confidence interval.

    Parameters
    ----------
    lower, upper : ndarray, float64, shape (...)
        Both in [0, 1]; a one-sided interval has 0 or 1 as its other end.
    """

    lower: np.ndarray
    upper: np.ndarray


def betting(values: Values, *, alpha: float = 0.05, side: Side = "both") -> Interval:
    """Interval for a mean by betting against each candidate.

    The bets learn the variance from the values seen so far, so the order of the values moves the
    bounds a little; it must not have been chosen by looking at them.

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
    Waudby-Smith and Ramdas (2024), JRSS-B 86(1), Theorem 3 and section 4; the bets are those of
    `stakes`.
    """
    return _interval(_betting_upper, values, alpha, side)


def past_moments(values: Values) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the values before each one, and of one more from the uniform law.

    Parameters
    ----------
    values : ndarray, shape (n, ...)
        In [0, 1].

    Returns
    -------
    tuple of ndarray, float64, shape (n, ...)
        Row i depends on rows 0 .. i - 1 of `values` only; the first rows are 1/2 and 1/12.
    """
    count = np.arange(2, len(values) + 2, dtype=np.float64).reshape(-1, *[1] * (values.ndim - 1))
    mean = (0.5 + np.cumsum(values, axis=0)) / count
    variance = (1.0 / 12.0 + np.cumsum((values - mean) ** 2, axis=0)) / count
    return _delay(mean, 0.5), _delay(variance, 1.0 / 12.0)


def stakes(values: Values, alpha: float) -> np.ndarray:
    """Bets that values are small, each made before its value is seen.

    A bet is the `a` of a factor ``(a - z) / (a - m)`` of capital. If the mean is at least m, the
    factor has a mean of at most 1 for every `a` >= 1, and the product of all reaches ``1 / alpha``
    with probability at most `alpha`. The smallest m that is rejected is about as small as it can
    be for ``a - m = sqrt(n variance / (2 ln(1 / alpha)))``.

    Parameters
    ----------
    values : ndarray, shape (n, ...)
        In [0, 1].
    alpha : float in (0, 1)
        Error the bets are tuned for; they are fair at any.
    """
    mean, variance = past_moments(values)
    return np.maximum(
        1.0 + MARGIN, mean + np.sqrt(len(values) * variance / (2.0 * math.log(1.0 / alpha)))
    )


def smallest_rejected(
    log_capital: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], alpha: float
) -> Float64[np.ndarray, "*level"]:
    """Upper confidence bound: smallest mean in [0, 1] whose capital reaches ``1 / alpha``.

    Parameters
    ----------
    log_capital : callable
        From a mean of shape `shape` to the logarithm of the capital against "the mean is at least
        this", non-decreasing.
    shape : tuple of int
        Of the bound.
    alpha : float in (0, 1)
        Error.

    Returns
    -------
    ndarray, float64, shape `shape`
        A rejected mean at most 2^-52 above one that is not; 1 where none is rejected.
    """
    low, high = np.zeros(shape), np.ones(shape)
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        rejected = log_capital(middle) >= math.log(1.0 / alpha)
        low, high = np.where(rejected, low, middle), np.where(rejected, middle, high)
    return high


def check_unit_values(values: np.ndarray) -> np.ndarray:
    """Float64 copy of values whose first axis counts episodes.

    Raises
    ------
    ValueError
        If there are none, or one is outside [0, 1] or not a number.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim == 0 or len(values) == 0:
        raise ValueError(f"values have shape {values.shape}; expected (n, ...) with n >= 1")
    wrong = ~((values >= 0.0) & (values <= 1.0))
    if wrong.any():
        raise ValueError(f"a value is {values[wrong][0]}; expected numbers in [0, 1]")
    return values


def check_alpha(alpha: float) -> float:
    """Return `alpha`, or raise ValueError if it is outside (0, 1)."""
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is {alpha}; expected a number in (0, 1)")
    return alpha


def _tail(alpha: float, side: Side) -> float:
    check_alpha(alpha)
    if side not in ("both", "lower", "upper"):
        raise ValueError(f"side is {side!r}; expected 'both', 'lower' or 'upper'")
    return alpha / 2.0 if side == "both" else alpha


def _interval(upper: Bound, values: np.ndarray, alpha: float, side: Side) -> Interval:
    """From an upper bound of a mean to its interval, mirrored at 1/2 for the lower end."""
    values, tail = check_unit_values(values), _tail(alpha, side)
    shape = values.shape[1:]
    low = np.zeros(shape) if side == "upper" else 1.0 - upper(1.0 - values, tail)
    high = np.ones(shape) if side == "lower" else upper(values, tail)
    return Interval(np.asarray(low), np.asarray(high))


def _betting_upper(values: np.ndarray, alpha: float) -> np.ndarray:
    bets = stakes(values, alpha)
    gained = np.log(bets - values).sum(axis=0)
    return smallest_rejected(
        lambda mean: gained - np.log(bets - mean).sum(axis=0), values.shape[1:], alpha
    )


def _delay(rows: np.ndarray, first: float) -> np.ndarray:
    """Move every row one down, with `first` on top."""
    return np.concatenate([np.full_like(rows[:1], first), rows[:-1]])
