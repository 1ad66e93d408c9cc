"""Populations: the episodes of the clean distribution p and of each corrupt q_i, and groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ambient_curate.data.cache import Frames
from ambient_curate.data.windows import Windows
from ambient_curate.errors import ConfigError

UNNAMED = "(none)"
_POINTS = 16  # moments at which a motion is compared
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


def label_groups(
    frames: Mapping[str, Frames], windows: Mapping[str, Windows], group_by: str, *, seed: int
) -> dict[str, list[str]]:
    """Give every episode of every member a group label.

    Parameters
    ----------
    frames, windows : mapping
        By member; the same names. The windows carry the normaliser.
    group_by : str
        ``task``, ``cluster:K``, or the name of an episode column.
    seed : int
        Of the clustering.

    Returns
    -------
    dict of str to list of str
        A label an episode; ``(none)`` where an episode has no task or lacks the column.

    Raises
    ------
    ConfigError
        If no member has the column; the hint lists those there are.
    """
    if group_by == "task":
        return {name: [task or UNNAMED for task in member.task] for name, member in frames.items()}
    if group_by.startswith("cluster:"):
        return _cluster(windows, int(group_by.removeprefix("cluster:")), seed)
    columns = sorted({key for m in frames.values() for labels in m.labels() for key in labels})
    if group_by not in columns:
        raise ConfigError(
            f"no episode has a column {group_by!r} to group by",
            f"use task, cluster:K, or one of: {', '.join(columns) or '(no columns)'}",
        )
    return {
        name: [str(labels.get(group_by, UNNAMED)) for labels in member.labels()]
        for name, member in frames.items()
    }


def _cluster(windows: Mapping[str, Windows], count: int, seed: int) -> dict[str, list[str]]:
    """K-means of whole motions, all members together, by their course at a few moments."""
    from sklearn.cluster import KMeans

    motions = {name: _sample_motions(member) for name, member in windows.items()}
    pooled = np.concatenate(list(motions.values()))
    if (different := len(np.unique(pooled, axis=0))) < count:
        raise ConfigError(
            f"{different} different episodes cannot make {count} clusters",
            "use a smaller cluster:K",
        )
    model = KMeans(count, n_init=4, random_state=seed % 2**32).fit(pooled)
    return {
        name: [f"cluster {label}" for label in model.predict(motion)]
        for name, motion in motions.items()
    }


def _sample_motions(member: Windows) -> np.ndarray:
    spans = zip(member.offset.tolist(), member.length.tolist(), strict=True)
    return np.stack([_sample_motion(member, first, length) for first, length in spans])


def _sample_motion(member: Windows, first: int, length: int) -> np.ndarray:
    moments = np.linspace(0, length - 1, _POINTS).round().astype(np.int64)
    actions = member.action[torch.from_numpy(first + moments)]
    scaled = actions if member.normalizer is None else member.normalizer.apply(actions)
    return scaled.double().numpy().ravel()
