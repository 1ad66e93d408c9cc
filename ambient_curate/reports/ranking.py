"""Ranking: the episodes worth looking at, and histograms, from one pass over the manifest."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BINS = 50  # of sigma_min
CELLS = 120  # of a strip along an episode
SHOWN = 120  # episodes on a page, of all datasets
MOST = 6  # of one dataset, at each end and without an answer


@dataclass(frozen=True)
class Ranked:
    """An episode and what is drawn of it.

    Attributes
    ----------
    dataset, episode_id, group : str
        Which one; the group may be None.
    index : int
        Its position in the source.
    why : str
        lowest, highest, or abstained.
    sigma_min : float or None
        Of the episode, or the mean over its windows; null ones count 1.
    windows, nulls : int
        Rows of it, and those without an answer.
    status : str
        Of its first row.
    strip : list of float or None
        sigma_min along its windows, averaged in at most `CELLS` cells; empty where a row is an
        episode.
    curve : list of float
        p_clean at the levels of the grid, averaged over its windows; empty where not stored.
    """

    dataset: str
    episode_id: str
    group: str | None
    index: int
    why: str
    sigma_min: float | None
    windows: int
    nulls: int
    status: str
    strip: list[float | None]
    curve: list[float]


@dataclass
class Histogram:
    """Rows of a dataset or group by sigma_min.

    Attributes
    ----------
    counts : ndarray, int64, shape (bin,)
        Of equal bins of [0, 1].
    nulls, zeros, ones : int
        Rows without an answer, and at the ends, which are among `counts` too.
    """

    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))
    nulls: int = 0
    zeros: int = 0
    ones: int = 0

    def add(self, sigma_min: np.ndarray) -> None:
        """Count some rows; NaN for null."""
        known = sigma_min[~np.isnan(sigma_min)]
        self.nulls += sigma_min.size - known.size
        self.zeros += int((known == 0.0).sum())
        self.ones += int((known == 1.0).sum())
        place = np.minimum((known * BINS).astype(np.int64), BINS - 1)
        self.counts += np.bincount(place, minlength=BINS)


Name = tuple[str, str | None]


class Ranking:
    """Collects episodes part by part; then those at the ends are read again.

    Parameters
    ----------
    parts : sequence of Table
        Parts of the manifest, or whatever gives them again each time it is gone through. A part
        holds whole episodes.
    """

    def __init__(self, parts: Sequence[pa.Table]) -> None:
        self.parts = parts
        self.histograms: dict[Name, Histogram] = {}
        self._found: dict[str, list[tuple[float, int, int, bool]]] = {}
        for number, part in enumerate(parts):
            self._add(number, part)

    def _add(self, number: int, part: pa.Table) -> None:
        sigma_min, dataset, group = (
            part["sigma_min"].to_numpy(),
            part["dataset"].cast(pa.string()).combine_chunks(),
            part["group"].cast(pa.string()).combine_chunks(),
        )
        for pair in {(d, g) for d, g in _pairs(dataset, group)}:
            rows = pc.equal(dataset, pair[0])
            if pair[1] is not None:
                rows = pc.and_(rows, pc.fill_null(pc.equal(group, pair[1]), fill_value=False))
            self.histograms.setdefault(pair, Histogram()).add(sigma_min[rows.to_numpy(False)])
        for first, last in _episodes(part):
            rows = sigma_min[first:last]
            abstained = bool(np.isnan(rows).all())
            value = float(np.where(np.isnan(rows), 1.0, rows).mean())
            name = dataset[first].as_py()
            self._found.setdefault(name, []).append((value, number, first, abstained))

    def pick(self, skip: str) -> list[Ranked]:
        """Give the lowest, the highest and the unanswered episodes of every dataset but `skip`."""
        names = [name for name in self._found if name != skip]
        each = int(np.clip(SHOWN // max(3 * len(names), 1), 1, MOST))
        wanted: dict[tuple[int, int], str] = {}
        for name in names:
            answered = sorted(entry[:3] for entry in self._found[name] if not entry[3])
            half = min(each, -(-len(answered) // 2))
            chosen = {"lowest": answered[:half], "highest": answered[half:][-each:][::-1]}
            chosen["abstained"] = [entry[:3] for entry in self._found[name] if entry[3]][:each]
            for why, entries in chosen.items():
                wanted |= {(number, first): why for _, number, first in entries}
        return [self._read(*place, why) for place, why in wanted.items()]

    def _read(self, number: int, first: int, why: str) -> Ranked:
        part = self.parts[number]
        last = next(end for start, end in _episodes(part) if start == first)
        rows = part.slice(first, last - first)
        sigma_min = rows["sigma_min"].to_numpy()
        null = np.isnan(sigma_min)
        row = rows.slice(0, 1).to_pylist()[0]
        mean = None if null.all() else float(np.where(null, 1.0, sigma_min).mean())
        return Ranked(
            *(row["dataset"], row["episode_id"], row["group"], row["episode_index"], why, mean),
            *(rows.num_rows, int(null.sum()), row["status"]),
            _strip(sigma_min) if row["start"] is not None else [],
            _curve(rows),
        )


def _pairs(dataset: pa.Array, group: pa.Array) -> Iterator[tuple[str, str | None]]:
    both = pa.table({"dataset": dataset, "group": group}).group_by(["dataset", "group"])
    for row in both.aggregate([]).to_pylist():
        yield row["dataset"], row["group"]


def _episodes(part: pa.Table) -> Iterator[tuple[int, int]]:
    """First row of every episode of a part, and the row behind its last."""
    if part.num_rows == 0 or part["episode_id"].null_count == part.num_rows:
        return
    code = pc.dictionary_encode(part["dataset"].cast(pa.string())).combine_chunks()
    dataset, index = code.indices.to_numpy(), part["episode_index"].to_numpy()
    new = (np.diff(index) != 0) | (np.diff(dataset) != 0)
    edges = [0, *(np.flatnonzero(new) + 1).tolist(), part.num_rows]
    yield from pairwise(edges)


def _strip(sigma_min: np.ndarray) -> list[float | None]:
    cells = np.array_split(sigma_min, min(CELLS, sigma_min.size))
    means = [cell[~np.isnan(cell)].mean() if (~np.isnan(cell)).any() else None for cell in cells]
    return [None if mean is None else round(float(mean), 3) for mean in means]


def _curve(rows: pa.Table) -> list[float]:
    stored = [curve for curve in rows["p_clean"].to_pylist() if curve]
    return [] if not stored else np.mean(stored, axis=0).round(4).tolist()


def as_rows(episodes: Sequence[Ranked], traces: Mapping[tuple[str, str], Any]) -> list[Any]:
    """Give episodes as JSON values, with their traces of actions where there are any."""
    return [
        vars(episode) | {"trace": traces.get((episode.dataset, episode.episode_id))}
        for episode in episodes
    ]
