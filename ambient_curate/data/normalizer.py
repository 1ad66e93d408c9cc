"""The action normaliser: offset and scale per dimension, fitted on the clean set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from ambient_curate.data.motion import count_outside, is_constant
from ambient_curate.options import Normalization
from ambient_curate.readers.episodes import count_windows as count_windows

ROWS = 65_536  # of values read at a time


@dataclass(frozen=True)
class Normalizer:
    """Affine scaling of every action dimension, fitted on the clean set: ``(x - offset) * scale``.

    Parameters
    ----------
    kind : {"minmax", "quantile", "gaussian", "none"}
        What was fitted.
    offset, scale : ndarray, float64, shape (action,)
        A dimension that is constant in the clean set has scale 0 and becomes 0; with ``none``
        every scale is 1.
    low, high : ndarray, float64, shape (action,)
        Range of the clean set, before scaling.
    """

    kind: Normalization
    offset: Float64[np.ndarray, " action"]
    scale: Float64[np.ndarray, " action"]
    low: Float64[np.ndarray, " action"]
    high: Float64[np.ndarray, " action"]

    @property
    def constant(self) -> list[int]:
        """Dimensions without a scale: they are constant in the clean set, and not compared."""
        return np.flatnonzero(self.scale == 0.0).tolist()

    @property
    def still(self) -> list[int]:
        """Dimensions that are constant in the clean set, whatever their scale."""
        return np.flatnonzero(is_constant(self.low, self.high)).tolist()

    def apply(self, windows: Float32[Tensor, "*batch action"]) -> Float32[Tensor, "*batch action"]:
        """Scale raw actions; values outside the clean range are not clipped."""
        offset, scale = torch.from_numpy(self.offset), torch.from_numpy(self.scale)
        return ((windows.double() - offset) * scale).float()

    def undo(self, scaled: Float32[Tensor, "*batch action"]) -> Float32[Tensor, "*batch action"]:
        """Inverse of `apply`; a constant dimension gets its constant."""
        moving = self.scale != 0.0
        back = np.divide(1.0, self.scale, out=np.zeros_like(self.scale), where=moving)
        values = scaled.double() * torch.from_numpy(back) + torch.from_numpy(self.offset)
        return values.float()

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        arrays = {name: getattr(self, name).tolist() for name in ("offset", "scale", "low", "high")}
        return {"kind": self.kind, **arrays}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Normalizer":
        """Inverse of `as_dict`."""
        names = ("offset", "scale", "low", "high")
        return cls(stored["kind"], *(np.asarray(stored[name], dtype=np.float64) for name in names))


def fit_normalizer(kind: Normalization, values: Float[np.ndarray, "n action"]) -> Normalizer:
    """Fit a normaliser on the clean set's values.

    Parameters
    ----------
    kind : {"minmax", "quantile", "gaussian", "none"}
        Range to [-1, 1], 1 % and 99 % quantiles to [-1, 1], mean 0 and standard deviation 1, or
        left as stored. A dimension whose two quantiles are the same (a gripper that hardly ever
        moves) has its range to [-1, 1]: without a scale it would not be compared.
    values : ndarray, shape (n, action)
        Finite, n >= 1.
    """
    values = values.astype(np.float64)
    low, high = values.min(axis=0), values.max(axis=0)
    if kind == "none":
        return Normalizer(kind, np.zeros_like(low), np.ones_like(low), low, high)
    if kind == "gaussian":
        centre, half = values.mean(axis=0), values.std(axis=0)
    else:
        ends = (low, high) if kind == "minmax" else np.quantile(values, [0.01, 0.99], axis=0)
        ends = np.where(is_constant(*ends), (low, high), ends)
        centre, half = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
    constant = is_constant(low, high)
    scale = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, half))
    return Normalizer(kind, centre, scale, low, high)


def share_outside(values: Float[np.ndarray, "n action"], normalizer: Normalizer) -> float:
    """Share of the values that lie outside the clean set's range in their dimension."""
    count = 0
    for first in range(0, len(values), ROWS):  # the values may be a file larger than memory
        part = values[first : first + ROWS]
        count += int(count_outside(part, normalizer.low, normalizer.high).sum())
    return count / values.size
