"""Cross-fitting folds: every episode gets one, and copies of an episode share it."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64, Shaped


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
