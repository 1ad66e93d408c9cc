"""What is true of two laws with exact densities, and what can be read of their episodes.

`find_truth` gives sigma_min and Delta under a run's normaliser, `read_oracle` the sigma_min that a
perfect classifier would have read from the run's own episodes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from power_laws import (
    DRAWS,
    ERRORS,
    HORIZON,
    MOST_WINDOWS,
    TRUTH_LEVELS,
    Array,
    Episodes,
    Scaling,
    WindowLaw,
)
from scipy.special import expit

from ambient_curate.noise import log_snr, sigma_from_log_snr, ve_from_sigma
from ambient_curate.statistics.bootstrap import draw_evenly
from ambient_curate.statistics.sigma_min import last_crossing, rising_fit


@dataclass(frozen=True, eq=False)
class Truth:
    """What is true of two laws, from Monte Carlo over their exact densities.

    Parameters
    ----------
    sigma_min : float
        Noise level above which Delta stays below ``4 epsilon``.
    lower, upper : float
        The same of the curve less and plus `ERRORS` standard errors.
    sigma, delta : ndarray, float64, shape (level,)
        Delta over noise levels.
    """

    sigma_min: float
    lower: float
    upper: float
    sigma: Array
    delta: Array


@dataclass(frozen=True, eq=False)
class Reading:
    """What the exact likelihood ratio reads from given episodes.

    Parameters
    ----------
    sigma_min : float
        Last crossing of the isotonic fit of `corrupt`.
    clean, corrupt : ndarray, float64, shape (level,)
        Means of the probability of "clean" over the episodes of either set.
    """

    sigma_min: float
    clean: Array
    corrupt: Array


def find_truth(
    p: WindowLaw,
    q: WindowLaw,
    scaling: Scaling,
    grid: Array,
    *,
    epsilon: float,
    draws: int = 8_000,
) -> Truth:
    """Find sigma_min and Delta of two laws under a normaliser.

    ``Delta = 2 E t^2`` under ``(p + q) / 2``, where ``t = (p - q) / (p + q)``.

    Parameters
    ----------
    p, q : WindowLaw
        Clean and corrupt.
    scaling : Scaling
        Normaliser of the run.
    grid : ndarray, shape (level,)
        Levels of the run: the truth lies between its ends.
    epsilon : float
        Margin of the rule.
    draws : int
        Windows of each law.
    """
    first, last = log_snr(grid[[0, -1]])
    sigma = sigma_from_log_snr(np.linspace(first, last, TRUTH_LEVELS))
    rng, squares = np.random.default_rng(99), []
    for law in (p, q):
        x = scaling.apply(law.draw_windows(rng, draws))
        ratio = _log_ratio(p, q, x, rng.standard_normal(x.shape), sigma, scaling)
        squares.append(2.0 * np.tanh(0.5 * ratio) ** 2)
    delta = np.mean(squares, axis=(0, 1))
    error = np.sqrt(np.var(squares, axis=1).mean(axis=0) / (2.0 * draws))
    found, lower, upper = (
        float(last_crossing(0.5 - (delta + by * error) / 4.0, sigma, 0.5 - epsilon))
        for by in (0.0, -ERRORS, ERRORS)
    )
    return Truth(found, lower, upper, sigma, delta)


def _log_ratio(
    p: WindowLaw, q: WindowLaw, x: Array, z: Array, sigma: Array, scaling: Scaling
) -> Array:
    """Shape (window, level); exactly 0 for one and the same law."""
    if p is q:
        return np.zeros((len(x), sigma.size))
    noise_std = ve_from_sigma(sigma)
    p_log, q_log = (law.log_density(x, z, noise_std, scaling) for law in (p, q))
    return np.asarray(p_log - q_log)


def read_oracle(
    p: WindowLaw,
    q: WindowLaw,
    clean: Episodes,
    corrupt: Episodes,
    scaling: Scaling,
    grid: Array,
    *,
    epsilon: float,
) -> Reading:
    """Read sigma_min from a run's episodes with the exact likelihood ratio.

    As a run does: all windows of an episode, at most 64, two draws of noise each, means over
    windows and then over episodes, an isotonic fit, the last crossing.
    """
    rng = np.random.default_rng(7)
    means = []
    for episodes in (clean, corrupt):
        x, owner = _windows_scored(episodes, scaling, rng)
        c = expit(_log_ratio(p, q, x, rng.standard_normal(x.shape), grid, scaling))
        of_episode = np.zeros((len(episodes), grid.size))
        np.add.at(of_episode, owner, c)
        means.append((of_episode / np.bincount(owner)[:, None]).mean(axis=0))
    crossing = last_crossing(rising_fit(means[1]), grid, 0.5 - epsilon)
    return Reading(float(crossing), *means)


def _windows_scored(
    episodes: Episodes, scaling: Scaling, rng: np.random.Generator
) -> tuple[Array, NDArray[np.int64]]:
    """Normalised windows, each as often as noise is drawn for it, and their episodes."""
    windows, owner = [], []
    for number, episode in enumerate(episodes):
        starts = draw_evenly(len(episode) - HORIZON + 1, MOST_WINDOWS, rng)
        stored = np.asarray(episode, dtype=np.float32).astype(np.float64)
        windows.append(stored[starts[:, None] + np.arange(HORIZON)])
        owner.append(np.full(len(starts), number))
    x = scaling.apply(np.concatenate(windows))
    return np.repeat(x, DRAWS, axis=0), np.repeat(np.concatenate(owner), DRAWS)
