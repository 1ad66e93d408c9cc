"""Windows of episodes as index views, with the state at their start where it conditions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from ambient_curate.data.cache import Frames
from ambient_curate.data.normalizer import ROWS, Normalizer, fit_normalizer
from ambient_curate.errors import ConfigError
from ambient_curate.options import Representation
from ambient_curate.readers.episodes import count_windows as count_windows


def nearest_windows(
    start: Int64[np.ndarray, " *shape"],
    length: Int64[np.ndarray, " *shape"],
    horizon: int,
    stride: int,
) -> Int64[np.ndarray, " *shape"]:
    """Find the whole window nearest to a trainer's window, which may leave its episode.

    Parameters
    ----------
    start : ndarray, int64
        First frame of each window in its episode; negative where it is padded before it.
    length : ndarray, int64
        Frames of that episode, >= horizon.
    horizon, stride : int
        Of the whole windows, which start at 0, stride, ...
    """
    inside = np.clip(start, 0, length - horizon)
    return np.minimum((inside + stride // 2) // stride, count_windows(length, horizon, stride) - 1)


@dataclass(frozen=True, eq=False)
class Windows:
    """The whole windows of one member, as index views into its flat frames.

    Parameters
    ----------
    action : Tensor, float32, shape (frame, action)
        Flat frames of all episodes, possibly memory-mapped.
    state : Tensor, float32, shape (frame, action), or None
        What ``relative`` and ``delta`` refer to; None: the window's first action.
    offset, length : ndarray, int64, shape (episode,)
        First frame and number of frames of every episode.
    horizon, stride : int
        Frames in a window and between two starts.
    represent : {"absolute", "relative", "delta"}
        Actions as stored, minus the reference, or differences, the first one to the reference.
    normalizer : Normalizer or None
        None: windows are given unscaled.
    """

    action: Tensor
    state: Tensor | None
    offset: Int64[np.ndarray, " episode"]
    length: Int64[np.ndarray, " episode"]
    horizon: int
    stride: int
    represent: Representation = "absolute"
    normalizer: Normalizer | None = None

    @property
    def counts(self) -> Int64[np.ndarray, " episode"]:
        """Number of whole windows of every episode."""
        return count_windows(self.length, self.horizon, self.stride)

    @property
    def condition_dim(self) -> int:
        """Dimensions of what is known beside the actions, at the end of a flattened window."""
        return 0

    @property
    def dim(self) -> int:
        """Length of a flattened window."""
        return self.horizon * int(self.action.shape[1]) + self.condition_dim

    def gather(
        self, episode: Int64[np.ndarray, " window"], number: Int64[np.ndarray, " window"]
    ) -> Float32[Tensor, "window horizon action"]:
        """Read windows: the `number`-th (from 0) whole window of each `episode`."""
        first = torch.from_numpy(self.offset[episode] + number * self.stride)
        return self.read(first[:, None] + torch.arange(self.horizon))

    def read(
        self, frames: Int64[Tensor, "window horizon"]
    ) -> Float32[Tensor, "window horizon action"]:
        """Read windows of any frames; the first of each is what it refers to."""
        windows = self.action[frames]
        if self.represent != "absolute":
            windows = self._centre(windows, frames[:, 0])
        return windows if self.normalizer is None else self.normalizer.apply(windows)

    def _centre(self, windows: Tensor, first: Tensor) -> Tensor:
        reference = windows[:, :1] if self.state is None else self.state[first][:, None]
        if self.represent == "relative":
            return windows - reference
        return torch.diff(windows, dim=1, prepend=reference)

    def of_episode(self, episode: int) -> Float32[Tensor, "window horizon action"]:
        """Read all whole windows of one episode, by start."""
        number = np.arange(self.counts[episode], dtype=np.int64)
        return self.gather(np.full_like(number, episode), number)


def restore_actions(
    windows: Float32[Tensor, "window horizon action"],
    represent: Representation,
    reference: Float32[Tensor, "window action"] | None,
) -> Float32[Tensor, "window horizon action"]:
    """Give the actions that represented, unscaled windows stand for.

    Parameters
    ----------
    windows : Tensor, float32, shape (window, horizon, action)
        In the dataset's units.
    represent : {"absolute", "relative", "delta"}
        As in `Windows`.
    reference : Tensor, float32, shape (window, action), or None
        What relative windows and differences refer to; None: absolute ones.
    """
    if represent == "absolute" or reference is None:
        return windows
    if represent == "delta":
        windows = windows.cumsum(dim=1)
    return windows + reference[:, None]


def clean_values(windows: Windows) -> Float[np.ndarray, "n action"]:
    """Values a normaliser is fitted on: the frames, or what the representation makes of them."""
    if windows.represent == "absolute":
        return windows.action.numpy()
    parts = [windows.of_episode(int(e)).flatten(0, 1) for e in np.flatnonzero(windows.counts)]
    return torch.cat(parts).numpy()


def read_values(windows: Mapping[str, Windows]) -> Iterator[Float[np.ndarray, "n action"]]:
    """Yield the same values of several members, a part at a time."""
    for each in windows.values():
        if each.represent == "absolute":
            values = each.action.numpy()
            yield from (values[at : at + ROWS] for at in range(0, len(values), ROWS))
        else:
            whole = np.flatnonzero(each.counts).tolist()
            yield from (each.of_episode(episode).flatten(0, 1).numpy() for episode in whole)


def draw_windows(
    windows: Windows,
    episodes: Sequence[int] | Int64[np.ndarray, " episode"],
    count: int,
    rng: np.random.Generator,
    *,
    by_window: bool = False,
) -> tuple[Float32[Tensor, "count horizon action"], Int64[np.ndarray, " count"]]:
    """Draw `count` windows as `pick_windows` does; return them, and the episode of each.

    Parameters
    ----------
    windows : Windows
        Where to draw from.
    episodes : sequence of int
        Episodes to draw from, each with at least one whole window.
    count, rng, by_window
        As in `pick_windows`.
    """
    rows = np.asarray(episodes, dtype=np.int64)
    picked, number = pick_windows(rows, windows.counts[rows], count, rng, by_window=by_window)
    return windows.gather(picked, number), picked


def pick_windows(
    episodes: Int64[np.ndarray, " episode"],
    counts: Int64[np.ndarray, " episode"],
    count: int,
    rng: np.random.Generator,
    *,
    by_window: bool = False,
) -> tuple[Int64[np.ndarray, " count"], Int64[np.ndarray, " count"]]:
    """Pick windows with replacement: an episode uniformly, then one of its windows uniformly.

    Episodes come in turns of a fresh shuffle, so that their shares are equal to within one draw.

    Parameters
    ----------
    episodes, counts : ndarray, int64, shape (episode,)
        Episodes to draw from, and how many windows each has, > 0.
    count : int
        Windows to pick.
    rng : Generator
        Source of the draw.
    by_window : bool
        Draw an episode in proportion to its number of windows instead.

    Returns
    -------
    tuple of ndarray, int64, shape (count,)
        Episode and number, from 0, of each window.
    """
    if by_window:
        place = rng.choice(episodes.size, size=count, p=counts / counts.sum())
    else:
        turns = -(-count // episodes.size)
        order = np.tile(np.arange(episodes.size), (turns, 1))
        place = rng.permuted(order, axis=1).ravel()[:count]
    return episodes[place], (rng.random(count) * counts[place]).astype(np.int64)


@dataclass(frozen=True, eq=False, kw_only=True)
class ObservedWindows(Windows):
    """Windows, each given as one row: its actions frame by frame, then the state at its first.

    Parameters
    ----------
    observed : Tensor, float32, shape (frame, state)
        States of all frames.
    scale : Normalizer
        Of the states, fitted on the clean set.
    """

    observed: Tensor
    scale: Normalizer

    @property
    def condition_dim(self) -> int:
        """Dimensions of the state."""
        return int(self.observed.shape[1])

    def read(self, frames: Int64[Tensor, "window horizon"]) -> Float32[Tensor, "window 1 dim"]:
        """Read windows of any frames; the state is that of the first of each."""
        actions = super().read(frames).flatten(1)
        return torch.cat([actions, self.scale.apply(self.observed[frames[:, 0]])], dim=1)[:, None]


def observe(
    windows: Mapping[str, Windows], frames: Mapping[str, Frames], clean: str
) -> dict[str, ObservedWindows]:
    """Let the windows of all members be followed by the state.

    Parameters
    ----------
    windows, frames : mapping by member
        Of a study.
    clean : str
        The clean set, whose states have mean 0 and standard deviation 1 afterwards.

    Raises
    ------
    ConfigError
        If a member has no states, or of another size than the clean set.
    """
    dims = {name: member.state_dim for name, member in frames.items()}
    differing = [name for name, dim in dims.items() if dim != dims[clean]]
    if dims[clean] == 0 or differing:
        shown = ", ".join(f"{name}: {dims[name]}" for name in [clean, *differing])
        raise ConfigError(
            f"condition = state needs one state in all datasets; dimensions found: {shown}",
            "name the same `state` columns for each in ambient.toml, or leave condition out",
        )
    scale = fit_normalizer("gaussian", frames[clean].data["state"].numpy())
    return {
        name: ObservedWindows(**vars(each), observed=frames[name].data["state"], scale=scale)
        for name, each in windows.items()
    }
