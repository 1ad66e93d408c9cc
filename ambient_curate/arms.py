"""Arms: which episodes stand for p, which for each q_i, and the folds that keep scores honest."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64, Shaped
from torch import Tensor

from ambient_curate.bounds import delta_at, gaussian_delta
from ambient_curate.windows import Windows

CONTROL = "planted control"
ArmName = tuple[str, str | None]  # dataset and group
_CONTROL_SIGMA = 0.2


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
    shift : Tensor, float32, shape (horizon, action), or None
        Added to every window: how the control is planted.
    opponents : ndarray, int64, shape (episode,), or None
        Episodes of the clean arm it is compared with; None: all.
    """

    dataset: str
    group: str | None
    windows: Windows
    episodes: Int64[np.ndarray, " episode"]
    fold: Int64[np.ndarray, " member_episode"]
    shift: Float32[Tensor, "horizon action"] | None = None
    opponents: Int64[np.ndarray, " opponent"] | None = None

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


@dataclass(frozen=True, eq=False)
class Control:
    """A planted corruption whose sigma_min is known: half of the clean set, shifted.

    Parameters
    ----------
    arm : Arm
        The shifted half; its opponents are the other half.
    sigma_min : float
        Where its Delta crosses 4 epsilon, in closed form (`plant_control`).
    """

    arm: Arm
    sigma_min: float


def plant_control(clean: Arm, folds: int, epsilon: float) -> Control | None:
    """Shift half of the clean episodes along the direction in which clean windows vary least.

    Along that direction the clean windows are nearly one point, so that two halves differ there
    as N(0, a^2 v + sigma^2) and N(a delta, a^2 v + sigma^2), whatever the rest looks like; their
    Delta is `bounds.gaussian_delta` (METHOD.md section 7). `delta` is chosen so that the crossing
    lies at sigma 0.2 for v = 0, and well above chance level for any v.

    Parameters
    ----------
    clean : Arm
        The clean set.
    folds : int
        Number of folds; with fewer than two clean episodes a fold there is no control.
    epsilon : float
        Margin of the rule.

    Returns
    -------
    Control or None
        None if there are too few clean episodes, or every dimension is constant.
    """
    rank = _rank_within_fold(clean)
    shifted, others = clean.episodes[rank % 2 == 1], clean.episodes[rank % 2 == 0]
    if len(np.unique(clean.fold[shifted])) < folds:
        return None
    values = torch.cat([clean.windows.of_episode(int(e)).flatten(1) for e in clean.episodes[:256]])
    moving = torch.nonzero(values.var(dim=0) > 0).flatten()
    if moving.numel() == 0:
        return None
    variance, basis = torch.linalg.eigh(
        torch.cov(values[:, moving].T.double()).reshape(moving.numel(), moving.numel())
    )
    least = max(float(variance[0]), 0.0)
    distance = _distance_at(delta_at(epsilon))
    size = distance * (2.0 * least**0.5 + _CONTROL_SIGMA / (1.0 - _CONTROL_SIGMA**2) ** 0.5)
    shift = torch.zeros(values.shape[1])
    shift[moving] = (size * basis[:, 0]).float()
    ratio = size**2 / distance**2 - least  # sigma^2 / a^2 at the crossing
    arm = Arm(
        CONTROL,
        None,
        clean.windows,
        shifted,
        clean.fold,
        shift.reshape(clean.windows.horizon, -1),
        others,
    )
    return Control(arm, float((ratio / (1.0 + ratio)) ** 0.5))


def _rank_within_fold(arm: Arm) -> np.ndarray:
    fold = arm.fold[arm.episodes]
    rank = np.empty_like(fold)
    for value in np.unique(fold):
        rank[fold == value] = np.arange(np.count_nonzero(fold == value))
    return rank


def _distance_at(delta: float) -> float:
    from scipy.optimize import brentq

    return float(brentq(lambda d: float(gaussian_delta(d)) - delta, 0.0, 20.0))
