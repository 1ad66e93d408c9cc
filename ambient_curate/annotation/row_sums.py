"""Sums over the rows of a part, which merge into those of the manifest.

A shard leaves its own beside its part; those of a member are added up at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from ambient_curate.annotation.weights import Tally
from ambient_curate.files import replace_whole

BINS = 10_000  # of sigma_min: its quantiles are known to 1e-4


@dataclass(frozen=True, eq=False)
class RowSums:
    """What a table of datasets tells of the rows of one.

    Parameters
    ----------
    counts : ndarray, int64, shape (bin,)
        Rows by sigma_min, rounded up to 1 / `BINS`.
    nulls : int
        Rows without one.
    banned : int
        Levels of the trainer's schedule that the rows may not use, all together.
    tallies : tuple of Tally
        Of windows, one for each pair of p and q_i they belong to.
    """

    counts: Int64[np.ndarray, " bin"]
    nulls: int
    banned: int
    tallies: tuple[Tally, ...]

    @property
    def rows(self) -> int:
        """Number of rows, nulls among them."""
        return int(self.counts.sum()) + self.nulls

    def __add__(self, other: "RowSums") -> "RowSums":
        return RowSums(
            self.counts + other.counts,
            self.nulls + other.nulls,
            self.banned + other.banned,
            tuple(a + b for a, b in zip(self.tallies, other.tallies, strict=True))
            if self.tallies and other.tallies
            else self.tallies or other.tallies,
        )

    def quantile(self, share: float) -> float:
        """Least sigma_min, to 1 / `BINS`, that this share of the rows does not exceed; null: 1."""
        counts = self.counts.copy()
        counts[-1] += self.nulls
        place = np.searchsorted(np.cumsum(counts), share * counts.sum(), side="left")
        return float(place) / BINS


def sum_rows(
    sigma_min: Float64[np.ndarray, " row"],
    sigma_max: Float64[np.ndarray, " row"],
    levels: Float64[np.ndarray, " level"],
    tallies: Sequence[Tally] = (),
) -> RowSums:
    """Sum up some rows.

    Parameters
    ----------
    sigma_min : ndarray, float64, shape (row,)
        In [0, 1]; NaN for null.
    sigma_max : ndarray, float64, shape (row,)
        In [0, 1]; NaN as 0.
    levels : ndarray, float64, shape (level,)
        The trainer's schedule, rising.
    tallies : sequence of Tally
        Of the same windows.
    """
    null = np.isnan(sigma_min)
    place = np.ceil(sigma_min[~null] * BINS).astype(np.int64)
    usable_from = np.searchsorted(levels, np.where(null, 1.0, sigma_min), side="right")
    below = np.searchsorted(levels, np.where(null, 0.0, np.nan_to_num(sigma_max)), side="right")
    return RowSums(
        np.bincount(place, minlength=BINS + 1),
        int(null.sum()),
        int(np.maximum(usable_from - below, 0).sum()),
        tuple(tallies),
    )


def save_sums(sums: RowSums, path: Path) -> None:
    """Write sums as a file of plain arrays that appears only whole."""
    names = ("mass", "usable", "weighted", "sums")
    tallies = {name: np.array([getattr(t, name) for t in sums.tallies]) for name in names}
    others = np.array([sums.nulls, sums.banned])
    arrays: dict[str, Any] = {"counts": sums.counts, "others": others, **tallies}
    with replace_whole(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_sums(path: Path) -> RowSums:
    """Read what `save_sums` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        columns = [stored[name] for name in ("mass", "usable", "weighted", "sums")]
        nulls, banned = stored["others"].tolist()
        tallies = tuple(Tally(*each) for each in zip(*columns, strict=True))
        return RowSums(stored["counts"], nulls, banned, tallies)
