"""Members: the windows that a trainer makes of a dataset, each with its annotation."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from ambient_curate.frames import Frames
from ambient_curate.windows import Windows, nearest_windows

ROWS = 1 << 20  # that are laid out together


@dataclass(frozen=True, eq=False)
class Samples:
    """Some windows of a trainer; one that is padded takes the values of the nearest whole window.

    Parameters
    ----------
    episode : ndarray, int64, shape (row,)
        Number of the episode among the member's.
    start : ndarray, int64, shape (row,)
        First frame in the episode; negative where it is padded.
    sigma_min, sigma_max : ndarray, float64, shape (row,)
        Usable above, and at or below, in VP noise of the trainer's scaled actions. A sigma_min of 1
        and a sigma_max of 0: never.
    weight : ndarray, float64, shape (row,)
        Unbiased weight; NaN where the run has none.
    """

    episode: Int64[np.ndarray, " row"]
    start: Int64[np.ndarray, " row"]
    sigma_min: Float64[np.ndarray, " row"]
    sigma_max: Float64[np.ndarray, " row"]
    weight: Float64[np.ndarray, " row"]

    @property
    def usable(self) -> np.ndarray:
        """Whether there is a noise level at which a window may be used."""
        return (self.sigma_min < 1.0) | (self.sigma_max > 0.0)


@dataclass(frozen=True, eq=False)
class AnnotatedMember:
    """A dataset with what its run says of every whole window.

    Parameters
    ----------
    name : str
        Of the dataset.
    is_clean : bool
        Whether it is the clean set.
    frames : Frames
        Its episodes.
    windows : Windows
        Those that were annotated.
    values : mapping of str to ndarray, float64, shape (window,)
        ``sigma_min``, ``sigma_max`` and ``weight`` of every whole window, NaN for null.
    format : str
        Of its files.
    files : tuple of Path
        That hold its episodes.
    """

    name: str
    is_clean: bool
    frames: Frames
    windows: Windows
    values: Mapping[str, Float64[np.ndarray, " window"]]
    format: str
    files: tuple[Path, ...]

    @property
    def first_frame(self) -> Int64[np.ndarray, " episode"]:
        """Global index of every episode's first frame: the source's own, else by position."""
        own = self.frames.first_frame
        return own if self.has_index else self.frames.offset

    @property
    def has_index(self) -> bool:
        """Whether the source has a global index of frames."""
        return bool((self.frames.first_frame >= 0).all())

    def at_frames(self, before: int) -> Iterator[Samples]:
        """Yield the windows that begin `before` frames before each frame of each episode."""
        yield from self.samples(before, self.frames.length)

    def samples(self, before: int, count: Int64[np.ndarray, " episode"]) -> Iterator[Samples]:
        """Yield `count` windows of each episode, the first of which starts at ``-before``."""
        ends = np.cumsum(count)
        first = 0
        while first < len(count):
            begun = ends[first] - count[first]
            last = max(int(np.searchsorted(ends, begun + ROWS, side="right")), first + 1)
            yield self._lay(before, np.arange(first, last), count[first:last])
            first = last

    def _lay(self, before: int, episodes: np.ndarray, count: np.ndarray) -> Samples:
        episode = np.repeat(episodes, count)
        first = np.repeat(np.cumsum(count) - count, count)
        start = np.arange(count.sum()) - first - before
        windows, length = self.windows, self.windows.length[episode]
        begun = np.cumsum(windows.counts) - windows.counts
        whole = windows.counts[episode] > 0
        place = np.full(len(episode), -1)  # the value of those too short
        place[whole] = begun[episode[whole]] + nearest_windows(
            start[whole], length[whole], windows.horizon, windows.stride
        )
        found = {name: np.append(values, np.nan)[place] for name, values in self.values.items()}
        return Samples(
            episode,
            start,
            np.nan_to_num(found["sigma_min"], nan=1.0),
            np.nan_to_num(found["sigma_max"], nan=0.0),
            found["weight"],
        )
