"""Noised finite sets on a line, and their exact divergences by quadrature."""

import numpy as np
from numpy.typing import NDArray

from ambient_curate.noise import ve_from_sigma
from ambient_curate.statistics.upper_bounds import Measure

Array = NDArray[np.float64]


def uniform(points: Array) -> Measure:
    return Measure(points, np.full(len(points), 1.0 / len(points)))


def weighted(points: Array, shares: Array) -> Measure:
    return Measure(points, shares / shares.sum())


def direction(dim: int) -> Array:
    """A unit vector with no zero."""
    ramp = np.arange(1.0, dim + 1.0)
    return ramp / np.linalg.norm(ramp)


def along(line: Array, dim: int) -> Array:
    """Points of a line laid into `dim` dimensions: the other directions carry noise alone."""
    return line[:, None] * direction(dim)


def exact_divergences(clean: Measure, corrupt: Measure, sigma: float) -> tuple[float, float]:
    """Delta and TV of two noised sets of one dimension, by the trapezoidal rule."""
    noise_std = float(ve_from_sigma(sigma))
    centres = np.concatenate([clean.points, corrupt.points])[:, 0]
    reach = 10.0 * noise_std
    count = int(40.0 * (np.ptp(centres) + 2.0 * reach) / noise_std) + 1
    x = np.linspace(centres.min() - reach, centres.max() + reach, count)
    p, q = (
        np.exp(-0.5 * ((x[:, None] - side.points[:, 0]) / noise_std) ** 2) @ side.weights
        for side in (clean, corrupt)
    )
    total = np.maximum(p + q, 1e-300)
    norm = np.trapezoid(p, x)
    delta, tv = np.trapezoid((p - q) ** 2 / total, x), np.trapezoid(np.abs(p - q), x) / 2.0
    return float(delta / norm), float(tv / norm)
