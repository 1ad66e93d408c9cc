"""Populations: the episodes that stand for the clean distribution p and for each corrupt q_i."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64
from torch import Tensor

from ambient_curate.data.windows import Windows

PopulationName = tuple[str, str | None]  # dataset and group


Windowed = Float32[Tensor, "window horizon action"]
Numbers = Int64[np.ndarray, " window"]


@runtime_checkable
class Planted(Protocol):
    """A change of windows that depends on nothing but the window."""

    def apply(self, windows: Windowed, episode: Numbers, number: Numbers) -> Windowed:
        """Change windows.

        Parameters
        ----------
        windows : Tensor, float32, shape (window, horizon, action)
            As `Windows.gather` gives them; they are left as they are.
        episode, number : ndarray, int64, shape (window,)
            Which they are: episode of the member, and window of the episode from 0. The same
            window is changed in the same way in every batch.
        """


@dataclass(frozen=True, eq=False)
class Population:
    """Episodes of one member that stand for one distribution.

    Parameters
    ----------
    dataset : str
        Name of the member.
    group : str or None
        Label of the group; None: the whole member.
    windows : Windows
        The member's windows.
    episodes : ndarray, int64, shape (episode,)
        Episodes of the member that belong to the population, each with at least one whole window.
    fold : ndarray, int64, shape (member's episodes,)
        Held-out fold of every episode of the member.
    planted : Planted or None
        What is done to its windows: how a control is planted.
    clean_episodes : ndarray, int64, shape (episode,), or None
        Episodes of the clean population it is compared with; None: all.
    planted_clean : Planted or None
        What is done to the clean windows that it is compared with.
    """

    dataset: str
    group: str | None
    windows: Windows
    episodes: Int64[np.ndarray, " episode"]
    fold: Int64[np.ndarray, " member_episode"]
    planted: Planted | None = None
    clean_episodes: Int64[np.ndarray, " clean_episode"] | None = None
    planted_clean: Planted | None = None

    def gather(self, episode: Numbers, number: Numbers) -> Windowed:
        """Read windows as `Windows.gather` does, with what is planted in them."""
        windows = self.windows.gather(episode, number)
        return windows if self.planted is None else self.planted.apply(windows, episode, number)

    def compared_with(self, corrupt: "Population") -> "Population":
        """Return this clean population as `corrupt` is compared with it."""
        episodes = self.episodes
        if corrupt.clean_episodes is not None:
            episodes = np.intersect1d(episodes, corrupt.clean_episodes)
        return replace(self, episodes=episodes, planted=corrupt.planted_clean)

    def in_folds(self, folds: Sequence[int]) -> Int64[np.ndarray, " episode"]:
        """Episodes of the population whose fold is one of `folds`."""
        return self.episodes[np.isin(self.fold[self.episodes], folds)]
