"""Certified upper bounds on Delta and TV, from weighted empirical measures of windows."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from ambient_curate.noise import Numbers, ve_from_sigma
from ambient_curate.statistics.intervals import betting

SUM_ERROR = 1e-13  # by which weights may miss a sum of 1


@dataclass(frozen=True, eq=False)
class Measure:
    """A finite weighted set of flattened windows: the empirical law that a trainer trains on.

    Parameters
    ----------
    points : ndarray, float32 or float64, shape (window, dim)
        Normalised windows, finite.
    weights : ndarray, float64, shape (window,)
        Positive, with sum 1 to within 1e-13. For `population_upper` the weights of every
        episode's windows must sum to one over the number of episodes.

    Raises
    ------
    ValueError
        If there is no window, a value is not finite, or the weights are not as above.
    """

    points: Float[np.ndarray, "window dim"]
    weights: Float64[np.ndarray, " weight"]

    def __post_init__(self) -> None:
        if self.weights.shape != self.points.shape[:1] or not self.weights.size:
            raise ValueError(f"weights {self.weights.shape} do not fit points {self.points.shape}")
        if not np.isfinite(self.points).all():
            raise ValueError("points hold a value that is not finite")
        total = self.weights.sum()
        if not (self.weights > 0.0).all() or not abs(total - 1.0) <= SUM_ERROR:
            raise ValueError(
                f"weights must be positive and sum to 1, got {self.weights.min()} as the least "
                f"and {total} as the sum"
            )


def interior_noise_stds(
    sigmas: Float[np.ndarray, " level"],
) -> Float64[np.ndarray, " level"]:
    """VE noise standard deviations of VP levels that are neither no noise nor noise alone.

    Raises
    ------
    ValueError
        If a level is outside (0, 1).
    """
    if not ((sigmas > 0.0) & (sigmas < 1.0)).all():
        raise ValueError(f"levels must lie in (0, 1), got {sigmas}")
    return ve_from_sigma(sigmas)


def population_upper(
    delta_hat_upper: Numbers, tv_hat_upper: Numbers, n_clean: int, n_corrupt: int, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Upper confidence bounds on the population's Delta and total variation.

    Parameters
    ----------
    delta_hat_upper, tv_hat_upper : array_like
        Upper bounds on Delta and total variation of the two noised empirical measures, from
        `kernels`; of one shape.
    n_clean, n_corrupt : int >= 1
        Independent episodes behind each measure, weighing the same.
    alpha : float in (0, 1)
        Probability, over data sets, that one of the bounds is too low. What `kernels` was given
        for its own bounds comes on top: once for TV, twice for Delta, which uses both.

    Returns
    -------
    tuple of ndarray
        Bounds on Delta and on total variation, each by itself, at each level by itself. NaN where
        they say nothing: at or above 2, and 1.

    Raises
    ------
    ValueError
        If a count is below 1 or `alpha` is outside (0, 1).

    Notes
    -----
    The empirical measures have the population's as their means, and both divergences are jointly
    convex: by Jensen's inequality they are, on average, no lower than the population's. Replacing
    an episode moves its measure by ``1/n``, hence TV by at most ``1/n`` and Delta by at most
    ``4/n`` (its derivative in ``p`` is ``u (2 - u)`` with ``u = (p - q)/(p + q)``, from -3 to 1).
    Windows count as normalised by constants, though a normaliser comes from the clean episodes.
    McDiarmid's inequality gives, with ``r = ln(1/alpha) (1/n_clean + 1/n_corrupt)``,

        TV <= TV^ + sqrt(r/2),    Delta <= Delta^ + sqrt(8 r),
        Delta <= 2 TV <= 2 TV^ + sqrt(2 r).

    Of the two for Delta neither rules. The last has half of the margin: with many corrupt episodes
    and ``alpha = 0.05`` it is below 0.2 from 185 clean ones on, the other from 738. But ``2 TV^``
    falls only as the root of ``Delta^``, so that the last shows a small Delta next to full noise
    at best, and the other, once it can, at far lower levels. Each therefore gets ``alpha / 2`` and
    the smaller counts: a tenth more margin, and nothing left to choose after seeing data.

    References
    ----------
    McDiarmid (1989), On the method of bounded differences, lemma 1.2.

    Examples
    --------
    >>> delta, tv = population_upper([0.03, 1.9], [0.1, 0.97], 1_000, 5_000, 0.05)
    >>> delta.round(3).tolist(), tv.round(3).tolist()
    ([0.218, nan], [0.142, nan])
    """
    if min(n_clean, n_corrupt) < 1 or not 0.0 < alpha < 1.0:
        raise ValueError(
            f"episodes must be >= 1 and alpha in (0, 1), got {n_clean}, {n_corrupt} and {alpha}"
        )
    delta_hat = np.asarray(delta_hat_upper, dtype=np.float64)
    tv_hat = np.asarray(tv_hat_upper, dtype=np.float64)
    share = 1.0 / n_clean + 1.0 / n_corrupt
    single, halved = np.log(1.0 / alpha) * share, np.log(2.0 / alpha) * share
    tv = tv_hat + np.sqrt(single / 2.0)
    delta = np.minimum(delta_hat + np.sqrt(8.0 * halved), 2.0 * tv_hat + np.sqrt(2.0 * halved))
    return np.where(delta < 2.0, delta, np.nan), np.where(tv < 1.0, tv, np.nan)


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
        divergence is above the population's; `upper_bounds.population_upper` adds what it lacks.

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
