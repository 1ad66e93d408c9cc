"""Radii: how large a neighbourhood of every frame may be for it to look clean, window by window."""

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from ambient_curate.classifier import FoldClassifier
from ambient_curate.crops import radius_at
from ambient_curate.crossing import last_crossing

AROUND = 2  # noise draws a centre, a pair
NEXT_TO = 1e-6  # frames: a crossing this near to a whole radius is at it
ROWS = 2048  # of one call of a network, over all radii


def score_crops(
    classifier: FoldClassifier,
    windows: Float32[Tensor, "window horizon action"],
    noise: Float32[Tensor, "window draw dim"],
    head: int,
) -> Float64[np.ndarray, "window centre level"]:
    """Mean probability of "clean" of the crops about every frame.

    Parameters
    ----------
    classifier : FoldClassifier
        Of crops, of the fold that holds the windows out.
    windows : Tensor, float32, shape (window, horizon, action)
        Normalised.
    noise : Tensor, float32, shape (window, draw, dim)
        `AROUND` draws for each frame, which go round the frames.
    head : int
        Corrupt arm.
    """
    horizon, levels = windows.shape[1], slice(0, classifier.sigma.size)
    at_once = max(1, ROWS // (noise.shape[1] * classifier.sigma.size))
    parts = [
        classifier.predict(windows[i : i + at_once], noise[i : i + at_once], [head], levels)
        for i in range(0, len(windows), at_once)
    ]
    c = torch.cat(parts, dim=1)[..., 0].double()  # (level, window, draw)
    around = c.reshape(*c.shape[:2], -1, horizon).mean(dim=2)
    return around.permute(1, 2, 0).numpy()


def cross_crops(
    curves: Float64[np.ndarray, "row level"],
    levels: Float64[np.ndarray, " level"],
    threshold: float,
) -> Int64[np.ndarray, " row"]:
    """Largest radius up to which every curve stays above `threshold`; -1: not even single frames.

    Parameters
    ----------
    curves : ndarray, float64, shape (row, level)
        Mean probability of "clean".
    levels : ndarray, float64, shape (level,)
        Of `crops.radius_levels`.
    threshold : float
        1/2 - epsilon.
    """
    return find_radius(last_crossing(curves, levels, threshold), levels.size)


def find_radius(crossing: Float64[np.ndarray, "*rows"], horizon: int) -> Int64[np.ndarray, "*rows"]:
    """Largest whole radius beyond a crossing on the axis of levels; see `crops.radius_levels`.

    Examples
    --------
    >>> find_radius(np.array([0.0, 0.5, 1.0]), 3).tolist()
    [2, 1, -1]
    """
    inside = (crossing > 0.0) & (crossing < 1.0)
    exact = radius_at(np.where(inside, crossing, 0.5), horizon)
    radius = np.clip(np.ceil(exact - NEXT_TO) - 1, -1, horizon - 1).astype(np.int64)
    return np.where(inside, radius, np.where(crossing <= 0.0, horizon - 1, -1))


def reach_at(
    radius: Int64[np.ndarray, "*rows"], reaches: Float64[np.ndarray, " radius"]
) -> Float64[np.ndarray, "*rows"]:
    """sigma_max of a radius, from `fields.list_reaches`; 0 for -1."""
    return np.append(reaches, 0.0)[radius]
