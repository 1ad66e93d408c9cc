"""Delta and total variation of two distributions, from a classifier's mean probabilities.

With balanced classes and c* the best possible classifier, ``E_q c* = 1/2 - Delta/4``, where
``Delta = int (p - q)^2 / (p + q)`` is the triangular discrimination in [0, 2], and
``2 TV^2 <= Delta <= 2 TV`` (Topsoe 2000; method.md section 3).
"""

import functools

import numpy as np
from numpy.typing import ArrayLike

Numbers = ArrayLike | float | int  # run-time checkers take no float for ArrayLike's complex


def delta_from_mean(mean_c_corrupt: Numbers) -> np.ndarray:
    """Plug-in Delta, ``2 - 4 E_q c`` clipped to [0, 2]: right only if c is the best classifier.

    Parameters
    ----------
    mean_c_corrupt : array_like
        Mean over corrupt data of the predicted probability of "clean", in [0, 1].
    """
    return np.asarray(np.clip(2.0 - 4.0 * np.asarray(mean_c_corrupt, dtype=np.float64), 0.0, 2.0))


def tv_from_accuracy(accuracy: Numbers) -> np.ndarray:
    """Plug-in total variation, ``2 accuracy - 1`` clipped to [0, 1], of a balanced accuracy."""
    return np.asarray(np.clip(2.0 * np.asarray(accuracy, dtype=np.float64) - 1.0, 0.0, 1.0))


def delta_at(epsilon: float) -> float:
    """Delta below which the rule ``E_q c > 1/2 - epsilon`` admits a noise level: 4 epsilon."""
    return 4.0 * epsilon


def tv_range_at(epsilon: float) -> tuple[float, float]:
    """Lowest and highest total variation at the very crossing of the rule.

    Returns
    -------
    tuple of float
        ``(2 epsilon, sqrt(2 epsilon))``; above the crossing only the upper end holds.

    Examples
    --------
    >>> tuple(round(end, 3) for end in tv_range_at(0.05))
    (0.1, 0.316)
    """
    return 2.0 * epsilon, float(np.sqrt(2.0 * epsilon))


def gaussian_delta(distance: Numbers) -> np.ndarray:
    """Delta between N(0, 1) and N(distance, 1), by Gauss-Hermite quadrature.

    The log-likelihood ratio is normal with mean ``distance^2 / 2`` and variance ``distance^2``
    under either hypothesis, and ``Delta = 2 E tanh^2(ratio / 2)``.

    Parameters
    ----------
    distance : array_like
        Distance of the means in standard deviations, >= 0.
    """
    distance = np.asarray(distance, dtype=np.float64)
    nodes, weights = _hermite()
    ratio = distance[..., None] ** 2 / 2 + distance[..., None] * nodes
    return np.asarray(2.0 * (np.tanh(ratio / 2) ** 2 @ (weights / weights.sum())))


@functools.cache
def _hermite() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.hermite_e.hermegauss(201)
