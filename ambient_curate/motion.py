"""How a member's actions move: extremes, and whether a dimension looks like a position."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

ABSOLUTE_RATIO = 5.0  # root mean square over root mean square deviation within a window
WINDOW = 16  # frames, the default horizon
MOVING_SHARE = 0.1  # of the frames; a dimension that changes less often is a command


@dataclass
class Motion:
    """Per action dimension: extremes, squares, squares about the window's mean, and changes."""

    low: Float64[np.ndarray, " action"]
    high: Float64[np.ndarray, " action"]
    squares: Float64[np.ndarray, " action"]
    squares_within: Float64[np.ndarray, " action"]
    changes: Int64[np.ndarray, " action"]
    frames: int = 0

    @classmethod
    def zeros(cls, size: int) -> "Motion":
        """Start with no frame of `size` dimensions."""
        low, high = np.full(size, np.inf), np.full(size, -np.inf)
        return cls(low, high, np.zeros(size), np.zeros(size), np.zeros(size, np.int64))

    def add(self, action: Float64[np.ndarray, "frame action"]) -> None:
        """Count the frames of one episode in."""
        self.low = np.minimum(self.low, action.min(axis=0))
        self.high = np.maximum(self.high, action.max(axis=0))
        whole = len(action) // WINDOW * WINDOW
        windows = action[:whole].reshape(-1, WINDOW, action.shape[1])
        self.squares += (windows**2).sum(axis=(0, 1))
        self.squares_within += ((windows - windows.mean(axis=1, keepdims=True)) ** 2).sum(
            axis=(0, 1)
        )
        self.changes += (np.diff(action, axis=0) != 0).sum(axis=0)
        self.frames += len(action)

    def constant_dims(self) -> list[int]:
        """List the dimensions that never change."""
        return np.flatnonzero(self.low == self.high).tolist()

    def absolute_dims(self) -> list[int]:
        """List the dimensions far from zero for the distance they move.

        Over whole windows, the root mean square is more than `ABSOLUTE_RATIO` times the root mean
        square deviation from the window's own mean. Dimensions that change in less than
        `MOVING_SHARE` of the frames (a gripper command, a constant) are not positions.
        """
        far = self.squares > ABSOLUTE_RATIO**2 * self.squares_within
        return np.flatnonzero(far & (self.changes >= MOVING_SHARE * self.frames)).tolist()


def name_dims(dims: Sequence[int]) -> str:
    """Name action dimensions in words, neighbours as a range."""
    starts = [dim for dim in dims if dim - 1 not in dims]
    ends = [dim for dim in dims if dim + 1 not in dims]
    runs = [f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    return f"action dimension{'s' * (len(dims) > 1)} {', '.join(runs)}"
