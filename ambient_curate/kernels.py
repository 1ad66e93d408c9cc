"""Delta and total variation of two noised empirical measures, by their exact classifier.

Noised windows of a finite set are a mixture of normal laws with known centres, so the best
classifier of two such sets is known and nothing is trained. What is left is an integral, taken by
Monte Carlo with a one-sided margin that holds for any number of draws (METHOD.md section 4).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from ambient_curate.intervals import betting
from ambient_curate.measures import Measure, interior_noise_stds

DRAWS = 2_000
BLOCK = 2**20  # pairs of draw and centre held at once: 8 MiB an array
LEAST_EXPONENT = -600.0  # exp is slow where it underflows

Levels = Float64[np.ndarray, " level"]


@dataclass(frozen=True, eq=False)
class KernelDivergence:
    """Divergences of two noised empirical measures at every level.

    Parameters
    ----------
    delta, tv : ndarray, float64, shape (level,)
        Unbiased Monte Carlo estimates, in [0, 2] and [0, 1].
    delta_upper, tv_upper : ndarray, float64, shape (level,)
        Upper confidence bounds, each at each level by itself; never above 2 and 1.
    """

    delta: Levels
    tv: Levels
    delta_upper: Levels
    tv_upper: Levels


def kernel_divergence(
    clean: Measure,
    corrupt: Measure,
    sigmas: Float[np.ndarray, " level"],
    *,
    draws: int = DRAWS,
    alpha: float = 0.01,
    rng: np.random.Generator,
) -> KernelDivergence:
    """Estimate Delta and total variation of two noised empirical measures, with upper bounds.

    A draw is a window of either measure and a noise ``z``, and serves all levels. With the
    mixture densities ``p`` and ``q`` there, ``t = |p - q| / (p + q)`` has mean TV, and
    ``2 t^2`` has mean Delta, under ``(p + q) / 2``. A draw of each measure makes a pair; pairs are
    independent and alike, and bounds for the mean of such values are known.

    Parameters
    ----------
    clean, corrupt : Measure
        With the same `dim`.
    sigmas : ndarray, shape (level,)
        VP noise levels in (0, 1), in any order.
    draws : int >= 1, default 2000
        Pairs of draws. Time grows with draws x windows x levels.
    alpha : float in (0, 1), default 0.01
        Probability, over the draws, that one upper bound at one level is too low.
    rng : Generator
        Source of the draws.

    Returns
    -------
    KernelDivergence
        A statement about these two finite sets. On average over data sets the empirical
        divergence is above the population's; `measures.population_upper` adds what it lacks.

    Raises
    ------
    ValueError
        If dimensions differ, a level is outside (0, 1), or `draws` or `alpha` is out of range.
    """
    noise_stds = interior_noise_stds(sigmas)
    if clean.points.shape[1] != corrupt.points.shape[1]:
        raise ValueError(f"dims differ: {clean.points.shape[1]} and {corrupt.points.shape[1]}")
    if draws < 1:
        raise ValueError(f"draws must be >= 1, got {draws}")
    centres = np.concatenate([clean.points, corrupt.points]).astype(np.float64)
    centres -= centres.mean(axis=0)  # distances are differences of squares: keep those small
    weights = np.zeros((len(centres), 2))
    weights[: len(clean.points), 0] = clean.weights
    weights[len(clean.points) :, 1] = corrupt.weights
    separation = np.stack(
        [_separation(centres, weights, side, noise_stds, draws=draws, rng=rng) for side in range(2)]
    )
    pairs, squares = separation.mean(axis=0), (separation**2).mean(axis=0)
    return KernelDivergence(
        delta=2.0 * squares.mean(axis=0),
        tv=pairs.mean(axis=0),
        delta_upper=2.0 * betting(squares, alpha=alpha, side="upper").upper,
        tv_upper=betting(pairs, alpha=alpha, side="upper").upper,
    )


def _separation(
    centres: Float64[np.ndarray, "centre dim"],
    weights: Float64[np.ndarray, "centre 2"],
    side: int,
    noise_stds: Float64[np.ndarray, " level"],
    *,
    draws: int,
    rng: np.random.Generator,
) -> Float64[np.ndarray, "draw level"]:
    """``|p - q| / (p + q)`` at draws of one of the two noised measures."""
    picked = rng.choice(len(centres), size=draws, p=weights[:, side])
    half_norms = 0.5 * np.einsum("cd,cd->c", centres, centres)
    rows = max(1, BLOCK // len(centres))
    separation = np.empty((draws, noise_stds.size))
    for start in range(0, draws, rows):
        base = centres[picked[start : start + rows]]
        # -|x + s z - c|^2 / (2 s^2), less what all centres c share, is near / s^2 + along / s
        near = base @ centres.T
        near -= half_norms
        along = rng.standard_normal(base.shape) @ centres.T
        for level, noise_std in enumerate(noise_stds):
            clean, corrupt = _mixtures(near, along, weights, float(noise_std))
            separation[start : start + rows, level] = np.abs(clean - corrupt) / (clean + corrupt)
    return separation


def _mixtures(
    near: Float64[np.ndarray, "draw centre"],
    along: Float64[np.ndarray, "draw centre"],
    weights: Float64[np.ndarray, "centre 2"],
    noise_std: float,
) -> Float64[np.ndarray, "2 draw"]:
    """Both densities at every draw, up to a factor that they share."""
    exponent = near / noise_std
    exponent += along
    exponent -= exponent.max(axis=1, keepdims=True)
    exponent /= noise_std
    np.maximum(exponent, LEAST_EXPONENT, out=exponent)
    np.exp(exponent, out=exponent)
    return (exponent @ weights).T
