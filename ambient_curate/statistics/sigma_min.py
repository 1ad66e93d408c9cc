"""sigma_min of a curve: the noise level above which it stays over the threshold."""

import numpy as np
from jaxtyping import Float, Float64, Int64

from ambient_curate.noise import log_snr, sigma_from_log_snr

SPARSE = 33  # levels at which the curve of a single window is known
EDGE = 1e-3  # a crossing stays this share of an interval away from the levels at its ends


def last_crossing(
    curve: Float[np.ndarray, "*rows level"], sigma: Float64[np.ndarray, " level"], threshold: float
) -> Float64[np.ndarray, "*rows"]:
    """Noise level above which a curve stays over `threshold`.

    ``sup{sigma : curve(sigma) <= threshold}``, interpolated linearly in log-SNR between the last
    failing and the first passing level, strictly between the two: the first passing level is
    admitted by ``sigma > sigma_min``, and no stored value equals a level of the grid.

    Parameters
    ----------
    curve : ndarray, shape (..., level)
        Mean probability of "clean" at each level; one that is not a number fails.
    sigma : ndarray, float64, shape (level,)
        Rising noise levels in (0, 1).
    threshold : float
        1/2 - epsilon.

    Returns
    -------
    ndarray, float64, shape (...)
        0 where every level passes, 1 where the highest fails.

    Examples
    --------
    >>> levels = np.array([0.1, 0.2, 0.4])
    >>> curves = np.array([[0.5, 0.5, 0.5], [0.5, 0.4, 0.5], [0.5, 0.5, 0.4]])
    >>> last_crossing(curves, levels, 0.45).round(3).tolist()
    [0.0, 0.286, 1.0]
    """
    curve = np.asarray(curve, dtype=np.float64)
    failing = ~(curve > threshold)
    last = sigma.size - 1 - np.argmax(failing[..., ::-1], axis=-1)
    after = np.minimum(last + 1, sigma.size - 1)
    below = np.take_along_axis(curve, last[..., None], axis=-1)[..., 0]
    above = np.take_along_axis(curve, after[..., None], axis=-1)[..., 0]
    rise = np.subtract(above, below, out=np.ones_like(above), where=above > below)
    share = np.fmin(np.fmax((threshold - below) / rise, EDGE), 1.0 - EDGE)  # NaN: EDGE
    x = log_snr(sigma)
    inside = sigma_from_log_snr(x[last] + share * (x[after] - x[last]))
    crossing = np.where(last == sigma.size - 1, 1.0, inside)
    return np.where(failing.any(axis=-1), crossing, 0.0)


def first_crossing(
    curve: Float[np.ndarray, "*rows level"], sigma: Float64[np.ndarray, " level"], threshold: float
) -> Float64[np.ndarray, "*rows"]:
    """Noise level up to which a curve stays under `threshold`, or at it.

    The counterpart of `last_crossing` from the other side, strictly between two levels likewise.

    Returns
    -------
    ndarray, float64, shape (...)
        1 where every level passes, 0 where the lowest fails.

    Examples
    --------
    >>> levels = np.array([0.1, 0.2, 0.4])
    >>> curves = np.array([[0.0, 0.0, 0.0], [0.0, 0.1, 0.0], [0.1, 0.0, 0.0]])
    >>> first_crossing(curves, levels, 0.05).round(3).tolist()
    [1.0, 0.142, 0.0]
    """
    found = last_crossing(-np.asarray(curve)[..., ::-1], sigma[::-1], np.nextafter(-threshold, -1))
    return np.select([found == 0.0, found == 1.0], [1.0, 0.0], found)


def find_legibility(
    curve: Float[np.ndarray, "*rows level"], sigma: Float64[np.ndarray, " level"], epsilon: float
) -> Float64[np.ndarray, "*rows"]:
    """Noise level up to which noise hides less than `epsilon` of what tells a row from clean data.

    Parameters
    ----------
    curve : ndarray, shape (..., level)
        Mean probability of "clean" at each level: what it has gained since the lowest was hidden.
    sigma : ndarray, float64, shape (level,)
        Rising noise levels in (0, 1).
    epsilon : float
        Margin: of a dataset's mean, Delta has then fallen by less than 4 epsilon (method.md
        section 11).
    """
    return first_crossing(curve - curve[..., :1], sigma, epsilon)


def sparse_levels(levels: int) -> Int64[np.ndarray, " sparse"]:
    """Places of at most `SPARSE` levels of a grid, at equal ranks, both ends among them.

    Examples
    --------
    >>> sparse_levels(129)[:4].tolist(), sparse_levels(8).tolist()
    ([0, 4, 8, 12], [0, 1, 2, 3, 4, 5, 6, 7])
    """
    places = np.linspace(0, levels - 1, min(levels, SPARSE))
    return np.unique(places.round().astype(np.int64))


def expand_levels(
    curves: Float64[np.ndarray, "row sparse"], sigma: Float64[np.ndarray, " level"]
) -> Float64[np.ndarray, "row level"]:
    """Curves at all levels from those at the `sparse_levels`, linear in log-SNR between them."""
    return curves @ sparse_shares(sigma)


def sparse_shares(
    sigma: Float64[np.ndarray, " level"],
) -> Float64[np.ndarray, "sparse level"]:
    """Share of each of the `sparse_levels` in every level, linear in log-SNR between them."""
    places, x = sparse_levels(sigma.size), -log_snr(sigma)  # rising
    return np.stack([np.interp(x, x[places], row) for row in np.eye(places.size)])


def avoid_levels(
    crossing: Float64[np.ndarray, "*rows"], sigma: Float64[np.ndarray, " level"]
) -> Float64[np.ndarray, "*rows"]:
    """Move crossings of a sparser grid off the levels of `sigma`, as `last_crossing` does.

    Parameters
    ----------
    crossing : ndarray, float64
        0, 1, or between the lowest and the highest level.
    sigma : ndarray, float64, shape (level,)
        Rising noise levels in (0, 1).
    """
    inside = (crossing > sigma[0]) & (crossing < sigma[-1])
    x = log_snr(sigma)
    value = log_snr(np.where(inside, crossing, sigma[0]))
    below = np.clip(np.searchsorted(sigma, crossing, side="right") - 1, 0, sigma.size - 2)
    share = np.clip((value - x[below]) / (x[below + 1] - x[below]), EDGE, 1.0 - EDGE)
    moved = sigma_from_log_snr(x[below] + share * (x[below + 1] - x[below]))
    return np.where(inside, moved, crossing)


def find_shifts(
    curves: Float64[np.ndarray, "row level"],
    scale: Float64[np.ndarray, " level"],
    sigma: Float64[np.ndarray, " level"],
    crossing: Float64[np.ndarray, " row"],
    *,
    missed: float,
) -> tuple[float, float]:
    """How far to move curves so that their crossings of 0 enclose the right ones.

    Split conformal (method.md section 4): for a further exchangeable row the crossing of
    ``curve + up * scale`` lies above the right one with a probability of at most `missed`, and
    that of ``curve - down * scale`` below it. Where there are fewer than ``1 / missed - 1`` rows
    nothing can be said, and both are infinite.

    Parameters
    ----------
    curves : ndarray, float64, shape (row, level)
        Approximate curves of some rows, less the threshold.
    scale : ndarray, float64, shape (level,)
        By how much a shift of 1 moves a curve at each level, > 0.
    sigma : ndarray, float64, shape (level,)
        Rising noise levels in (0, 1).
    crossing : ndarray, float64, shape (row,)
        The right crossings: 0, 1, or between the levels.
    missed : float
        In (0, 1).

    Returns
    -------
    tuple of float
        `up` and `down`, >= 0.
    """
    lowest = _least_above(curves, scale, sigma, crossing)
    up = np.where(crossing >= 1.0, -np.inf, -lowest)
    down = np.where(crossing <= 0.0, -np.inf, lowest)
    return _exceeded(up, missed), _exceeded(down, missed)


def _least_above(
    curves: np.ndarray, scale: np.ndarray, sigma: np.ndarray, crossing: np.ndarray
) -> np.ndarray:
    """Least ratio of every curve to `scale` from its crossing upwards.

    Both are linear in log-SNR between levels: their ratio is not, but it is monotone.
    """
    rows, top = np.arange(len(curves)), sigma.size - 1
    inside = np.clip(crossing, sigma[0], sigma[-1])
    above = np.clip(np.searchsorted(sigma, inside, side="left"), 1, top)
    x = log_snr(sigma)
    share = (log_snr(inside) - x[above - 1]) / (x[above] - x[above - 1])
    at = (1.0 - share) * curves[rows, above - 1] + share * curves[rows, above]
    at /= (1.0 - share) * scale[above - 1] + share * scale[above]
    ratio = curves / scale
    least = np.minimum.accumulate(ratio[:, ::-1], axis=1)[:, ::-1]  # from a level on
    return np.where(inside < sigma[-1], np.minimum(at, least[rows, above]), ratio[:, top])


def _exceeded(values: Float64[np.ndarray, " row"], share: float) -> float:
    """Least value, 0 or more, that a further exchangeable one exceeds with at most this chance."""
    place = int(np.ceil((values.size + 1) * (1.0 - share)))
    if place > values.size:
        return float(np.inf)
    return max(float(np.sort(values)[place - 1]), 0.0)


def rising_fit(curve: Float64[np.ndarray, " level"]) -> Float64[np.ndarray, " level"]:
    """Closest non-decreasing curve: a dataset's divergence cannot grow with noise."""
    from scipy.optimize import isotonic_regression

    return np.asarray(isotonic_regression(curve).x, dtype=np.float64)
