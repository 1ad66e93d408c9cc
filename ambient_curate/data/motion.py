"""Motion of a dataset's actions: running sums over episodes, and what they show to be odd."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

CONSTANT = 1e-6  # a dimension whose spread is this share of its magnitude carries float32 noise
ABSOLUTE_RATIO = 5.0  # root mean square over root mean square deviation within a window
WINDOW = 16  # frames, the default horizon
MOVING_SHARE = 0.1  # of the frames; a dimension that changes less often is a command
SATURATED = 0.1  # share of the frames at one end of the range, where a dimension is cut off
IDLE = 1e-3  # of an episode's range in each dimension, within which it has not begun to move

Range = tuple[Float64[np.ndarray, " action"], Float64[np.ndarray, " action"]]


def is_constant(
    low: Float64[np.ndarray, " action"], high: Float64[np.ndarray, " action"]
) -> Bool[np.ndarray, " action"]:
    """Whether a range is no wider than the noise of float32 values."""
    return np.asarray((high - low) / 2 <= CONSTANT * np.maximum(np.abs(low), np.abs(high)))


def count_outside(
    values: Float[np.ndarray, "n action"],
    low: Float64[np.ndarray, " action"],
    high: Float64[np.ndarray, " action"],
) -> Int64[np.ndarray, " action"]:
    """Count the values outside a range, by dimension; noise of float32 at its ends is inside."""
    slack = CONSTANT * np.maximum(np.abs(low), np.abs(high))
    return np.count_nonzero((values < low - slack) | (values > high + slack), axis=0)


@dataclass
class Motion:
    """Sums over the frames of a dataset, by action dimension or over all of them.

    Parameters
    ----------
    low, high : ndarray, float64, shape (action,)
        Extremes.
    squares, squares_within : ndarray, float64, shape (action,)
        Of values, and of values about their window's mean.
    changes : ndarray, int64, shape (action,)
        Frames that differ from the one before.
    at_low, at_high : ndarray, int64, shape (action,)
        Frames at the extremes.
    clean : tuple of ndarray, or None
        Lowest and highest value of the clean set's actions.
    outside : ndarray, int64, shape (action,)
        Frames outside the range of `clean`.
    frames, repeated, idle : int
        Frames, those in which no dimension differs from the frame before, and those before an
        episode begins to move or after it has ended, by `IDLE`; episodes that never move have
        neither.
    """

    low: Float64[np.ndarray, " action"]
    high: Float64[np.ndarray, " action"]
    squares: Float64[np.ndarray, " action"]
    squares_within: Float64[np.ndarray, " action"]
    changes: Int64[np.ndarray, " action"]
    at_low: Int64[np.ndarray, " action"]
    at_high: Int64[np.ndarray, " action"]
    outside: Int64[np.ndarray, " action"]
    clean: Range | None = None
    frames: int = 0
    repeated: int = 0
    idle: int = 0
    _pairs: Int64[np.ndarray, "2 pair"] = field(default_factory=lambda: np.zeros((2, 0), np.int64))

    @classmethod
    def zeros(cls, size: int, clean: Range | None = None) -> "Motion":
        """Start with no frame of `size` dimensions."""
        low, high = np.full(size, np.inf), np.full(size, -np.inf)
        squares, counts = np.zeros((2, size)), np.zeros((4, size), np.int64)
        changes, at_low, at_high, outside = counts
        return cls(low, high, squares[0], squares[1], changes, at_low, at_high, outside, clean)

    def add(self, action: Float64[np.ndarray, "frame action"]) -> None:
        """Count the frames of one episode in."""
        self._find_copies(action)
        self._count_ends(action)
        whole = len(action) // WINDOW * WINDOW
        windows = action[:whole].reshape(-1, WINDOW, action.shape[1])
        self.squares += (windows**2).sum(axis=(0, 1))
        self.squares_within += ((windows - windows.mean(axis=1, keepdims=True)) ** 2).sum(
            axis=(0, 1)
        )
        changes = np.diff(action, axis=0) != 0
        self.changes += changes.sum(axis=0)
        if changes.any():
            self.repeated += int((~changes.any(axis=1)).sum())
            self.idle += _count_idle(action)
        if self.clean is not None:
            self.outside += count_outside(action, *self.clean)
        self.frames += len(action)

    def _find_copies(self, action: Float64[np.ndarray, "frame action"]) -> None:
        if self.frames == 0:
            self._pairs = np.array(np.triu_indices(action.shape[1], 1))
            first = action[0]
            self._pairs = self._pairs[:, first[self._pairs[0]] == first[self._pairs[1]]]
        one, other = self._pairs
        self._pairs = self._pairs[:, (action[:, one] == action[:, other]).all(axis=0)]

    def _count_ends(self, action: Float64[np.ndarray, "frame action"]) -> None:
        low, high = action.min(axis=0), action.max(axis=0)
        self.at_low = np.where(low < self.low, 0, self.at_low)
        self.at_high = np.where(high > self.high, 0, self.at_high)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.at_low += (action == self.low).sum(axis=0)
        self.at_high += (action == self.high).sum(axis=0)

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
        return np.flatnonzero(far & self._moving()).tolist()

    def saturated_dims(self) -> list[int]:
        """List the dimensions with at least `SATURATED` of the frames at one end of their range.

        Commands are left out: they hardly change, as in `absolute_dims`, or most of their frames
        are at the two ends.
        """
        at_end = np.maximum(self.at_low, self.at_high) >= SATURATED * self.frames
        command = 2 * (self.at_low + self.at_high) > self.frames
        return np.flatnonzero(at_end & ~command & self._moving()).tolist()

    def copied_dims(self) -> list[list[int]]:
        """List the groups of dimensions that are equal in every frame, but for constant ones."""
        moving = self.low < self.high
        groups: dict[int, list[int]] = {}
        copies = set[int]()
        for one, other in self._pairs.T.tolist():
            if moving[one] and one not in copies:
                groups.setdefault(one, [one]).append(other)
                copies.add(other)
        return list(groups.values())

    def moves_where_constant(self) -> list[int]:
        """List the dimensions that are constant in the clean set and have another value here."""
        if self.clean is None:
            return []
        return np.flatnonzero(is_constant(*self.clean) & (self.outside > 0)).tolist()

    def share_outside(self) -> float:
        """Share of the values outside the clean set's range; 0 without one."""
        return float(self.outside.sum()) / max(self.frames * self.low.size, 1)

    def _moving(self) -> np.ndarray:
        return np.asarray(self.changes >= MOVING_SHARE * self.frames)


def _count_idle(action: Float64[np.ndarray, "frame action"]) -> int:
    """Frames of an episode before it leaves its first action, and after it comes to its last."""
    slack = IDLE * np.ptp(action, axis=0)
    begun = (np.abs(action - action[0]) > slack).any(axis=1)
    ending = (np.abs(action - action[-1]) > slack).any(axis=1)
    # the first and the last frame are there in every episode
    return max(int(np.argmax(begun)) - 1, 0) + max(int(np.argmax(ending[::-1])) - 1, 0)


def name_dims(dims: Sequence[int], kind: str = "action") -> str:
    """Name dimensions of actions (or of states) in words, neighbours as a range."""
    starts = [dim for dim in dims if dim - 1 not in dims]
    ends = [dim for dim in dims if dim + 1 not in dims]
    runs = [f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    return f"{kind} dimension{'s' * (len(dims) > 1)} {', '.join(runs)}"
