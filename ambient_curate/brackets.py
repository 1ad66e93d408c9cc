"""Brackets of sigma_min: fixed-sequence walks over levels whose order is known beforehand."""

import numpy as np
from jaxtyping import Bool, Float64


def walk_up(sigma: Float64[np.ndarray, " level"], differs: Bool[np.ndarray, " level"]) -> float:
    """Lower end: the last of the levels, from the lowest on, at which the laws surely differ.

    Delta never rises with sigma. Hypotheses "Delta < 4 epsilon" are therefore tested from the
    lowest level up and the walk ends at the first that cannot be rejected: a true one is rejected
    only if the first true one is, so that no level needs a correction for the others.

    Parameters
    ----------
    sigma : ndarray, float64, shape (level,)
        Rising noise levels.
    differs : ndarray, bool, shape (level,)
        Whether each level's own test, at the full error rate, says ``Delta >= 4 epsilon``.

    Returns
    -------
    float
        A lower bound of sigma_min; 0 if the first test says nothing, 1 if all of them do.

    References
    ----------
    Maurer, Hothorn and Lehmacher, Multiple comparisons in drug clinical trials and preclinical
    assays: a-priori ordered hypotheses, 1995; METHOD.md section 4.

    Examples
    --------
    >>> levels = np.array([0.1, 0.2, 0.4])
    >>> walk_up(levels, np.array([True, False, True]))
    0.1
    """
    steps = int(np.argmin(np.append(differs, False)))
    if steps == sigma.size:
        return 1.0
    return float(sigma[steps - 1]) if steps else 0.0


def walk_down(sigma: Float64[np.ndarray, " level"], alike: Bool[np.ndarray, " level"]) -> float:
    """Upper end: the last of the levels, from the highest down, at which the laws are surely alike.

    Parameters
    ----------
    sigma : ndarray, float64, shape (level,)
        Rising noise levels.
    alike : ndarray, bool, shape (level,)
        Whether each level's own test, at the full error rate, says ``Delta < 4 epsilon``.

    Returns
    -------
    float
        An upper bound of sigma_min; 1 if the first test says nothing, 0 if all of them do.

    Examples
    --------
    >>> walk_down(np.array([0.1, 0.2, 0.4]), np.array([True, False, True]))
    0.4
    """
    steps = int(np.argmin(np.append(alike[::-1], False)))
    if steps == sigma.size:
        return 0.0
    return float(sigma[sigma.size - steps]) if steps else 1.0
