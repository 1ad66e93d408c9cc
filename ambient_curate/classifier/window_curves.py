"""Curves of single windows: the mean probability of "clean" over noise draws, and sigma_min."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from ambient_curate.classifier.fit import FoldClassifier, rows_at_once
from ambient_curate.statistics.sigma_min import (
    avoid_levels,
    find_legibility,
    last_crossing,
    sparse_levels,
)

CONFIDENCE = 0.95
WIDENED = 2.0  # means of pairs are skewed
HEAVIER = 2.0  # so many pairs tell of their spread what one of normal values would


@dataclass(frozen=True, eq=False)
class Curves:
    """Mean probability of "clean" of some windows at the `sigma_min.sparse_levels`.

    Parameters
    ----------
    means, errors : ndarray, float64, shape (window, level)
        Means over the pairs of noise draws, and their standard errors.
    """

    means: Float64[np.ndarray, "window level"]
    errors: Float64[np.ndarray, "window level"]


def draw_curves(
    classifier: FoldClassifier,
    windows: Float32[Tensor, "window horizon action"],
    noise: Float32[Tensor, "window draw dim"],
    head: int,
) -> Curves:
    """Average over pairs of noise draws, of which each serves all levels of its window.

    Common random numbers keep the curve of a window smooth, so that noise makes no crossings of
    its own.

    Parameters
    ----------
    classifier : FoldClassifier
        Of the fold that holds the windows out.
    windows : Tensor, float32, shape (window, horizon, action)
        Normalised windows.
    noise : Tensor, float32, shape (window, draw, dim)
        Of `noise.draw_pairs`, >= 2 pairs.
    head : int
        Corrupt population.
    """
    levels = sparse_levels(classifier.sigma.size)
    rows = rows_at_once(classifier.device)
    at_once = max(1, rows // (noise.shape[0] * noise.shape[1]))
    parts = [
        classifier.predict(windows, noise, [head], levels[i : i + at_once])[..., 0]
        for i in range(0, levels.size, at_once)
    ]
    c = torch.cat(parts).double()  # (level, window, draw)
    pairs = torch.stack(c.chunk(2, dim=2)).mean(dim=0)
    errors = pairs.std(dim=2) / pairs.shape[2] ** 0.5
    return Curves(c.mean(dim=2).T.numpy(), errors.T.numpy())


def draw_lowest(
    classifier: FoldClassifier,
    windows: Float32[Tensor, "window horizon action"],
    noise: Float32[Tensor, "window draw dim"],
    heads: Sequence[int],
) -> Float32[np.ndarray, "window head"]:
    """Mean probability of "clean" over noise draws at the lowest level alone."""
    c = classifier.predict(windows, noise, heads, slice(0, 1))[0]
    return c.mean(dim=1).numpy()


def pool_episodes(curves: Curves, counts: Int64[np.ndarray, " episode"]) -> Curves:
    """Means over the windows of episodes that have `counts` of them, > 0, and their errors."""
    if counts.size == 0:
        return curves
    first, size = np.cumsum(counts) - counts, counts[:, None]
    means = np.add.reduceat(curves.means, first, axis=0) / size
    errors = np.sqrt(np.add.reduceat(np.square(curves.errors), first, axis=0)) / size
    return Curves(means, errors)


def spread_of(
    errors: Float64[np.ndarray, "row level"], freedom: Float[np.ndarray, " row"]
) -> Float64[np.ndarray, "row level"]:
    """Half-width of a 95 % interval: what other draws of noise would change.

    Student's t for half the degrees of freedom, twice: pairs cancel what is odd in the noise, and
    what is left is skewed and has heavy tails (method.md section 4).
    """
    from scipy.special import stdtrit

    return WIDENED * np.asarray(stdtrit(freedom / HEAVIER, 0.5 + CONFIDENCE / 2))[:, None] * errors


def cross_legibility(
    means: Float64[np.ndarray, "row level"], sigma: Float64[np.ndarray, " grid"], epsilon: float
) -> Float64[np.ndarray, " row"]:
    """Level up to which noise hides less than `epsilon`, of curves at the `sparse_levels`."""
    levels = sigma[sparse_levels(sigma.size)]
    return avoid_levels(find_legibility(means, levels, epsilon), sigma)


def cross_curves(
    means: Float64[np.ndarray, "row level"],
    up: Float64[np.ndarray, "#row level"],
    down: Float64[np.ndarray, "#row level"],
    sigma: Float64[np.ndarray, " grid"],
    threshold: float,
) -> Float64[np.ndarray, "3 row"]:
    """Last crossing of every curve, and of the curve moved up and down.

    Parameters
    ----------
    means : ndarray, float64, shape (row, level)
        At the `sigma_min.sparse_levels` of `sigma`.
    up, down : ndarray, float64, shape (row or 1, level)
        By how much the curve is moved for the lower and the upper end, >= 0.
    sigma : ndarray, float64, shape (grid,)
        The whole grid, no level of which is a crossing.
    threshold : float
        1/2 - epsilon.

    Returns
    -------
    ndarray, float64, shape (3, row)
        sigma_min, its lower and its upper end.
    """
    levels = sigma[sparse_levels(sigma.size)]
    found, lower, upper = (
        avoid_levels(last_crossing(curves, levels, threshold), sigma)
        for curves in (means, means + up, means - down)
    )
    return np.stack([found, np.minimum(lower, found), np.maximum(upper, found)])
