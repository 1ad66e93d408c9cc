"""Arms: which episodes stand for p, which for each q_i, and the folds that keep scores honest."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64, Shaped
from torch import Tensor

from ambient_curate.windows import Windows

ArmName = tuple[str, str | None]  # dataset and group


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
class Arm:
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
        Episodes of the member that belong to the arm, each with at least one whole window.
    fold : ndarray, int64, shape (member's episodes,)
        Held-out fold of every episode of the member.
    planted : Planted or None
        What is done to its windows: how a control is planted.
    opponents : ndarray, int64, shape (episode,), or None
        Episodes of the clean arm it is compared with; None: all.
    planted_clean : Planted or None
        What is done to the clean windows that it is compared with.
    """

    dataset: str
    group: str | None
    windows: Windows
    episodes: Int64[np.ndarray, " episode"]
    fold: Int64[np.ndarray, " member_episode"]
    planted: Planted | None = None
    opponents: Int64[np.ndarray, " opponent"] | None = None
    planted_clean: Planted | None = None

    def gather(self, episode: Numbers, number: Numbers) -> Windowed:
        """Read windows as `Windows.gather` does, with what is planted in them."""
        windows = self.windows.gather(episode, number)
        return windows if self.planted is None else self.planted.apply(windows, episode, number)

    def facing(self, corrupt: "Arm") -> "Arm":
        """Return this clean arm as `corrupt` is compared with it."""
        episodes = self.episodes
        if corrupt.opponents is not None:
            episodes = np.intersect1d(episodes, corrupt.opponents)
        return replace(self, episodes=episodes, planted=corrupt.planted_clean)

    def in_folds(self, folds: Sequence[int]) -> Int64[np.ndarray, " episode"]:
        """Episodes of the arm whose fold is one of `folds`."""
        return self.episodes[np.isin(self.fold[self.episodes], folds)]


def assign_folds(
    ids: Mapping[str, Sequence[str]],
    digests: Mapping[str, Sequence[str] | Shaped[np.ndarray, " episode"]],
    folds: int,
) -> dict[str, np.ndarray]:
    """Give every episode a fold: its rank in the order of hash(id) within its dataset, mod `folds`.

    Exact duplicates share a fold, within a dataset and across datasets (the first dataset named
    decides), so that no network is scored on a copy of what it was trained on.

    Parameters
    ----------
    ids : mapping of str to sequence of str
        By dataset: the episodes' ids.
    digests : mapping of str to sequence of str or ndarray, shape (episode,)
        Equal where their content is.
    folds : int
        Number of folds.

    Returns
    -------
    dict of str to ndarray, int64, shape (episode,)
        Folds 0 .. folds - 1 in the order of `ids`.

    Examples
    --------
    >>> assign_folds({"a": ["x", "y", "z"]}, {"a": ["1", "2", "1"]}, 2)["a"].tolist()
    [0, 1, 0]
    """
    result: dict[str, np.ndarray] = {}
    known: np.ndarray | None = None
    fold_of = np.empty(0, np.int64)
    for dataset, names in ids.items():
        different, copy_of = np.unique(np.asarray(digests[dataset]), return_inverse=True)
        first = np.full(different.size, len(names))
        np.minimum.at(first, copy_of, _rank_by_hash(names))
        known = different[:0] if known is None else known
        seen = np.isin(different, known)
        fold = np.empty(different.size, np.int64)
        fold[seen] = fold_of[np.searchsorted(known, different[seen])]
        new = np.flatnonzero(~seen)
        fold[new[np.argsort(first[new])]] = np.arange(new.size) % folds
        result[dataset] = fold[copy_of]
        known, at = np.unique(np.append(known, different[new]), return_index=True)
        fold_of = np.append(fold_of, fold[new])[at]
    return result


def _rank_by_hash(names: Sequence[str]) -> Int64[np.ndarray, " name"]:
    hashes = (int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) for name in names)
    order = np.argsort(np.fromiter(hashes, np.uint64, len(names)), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    return rank
