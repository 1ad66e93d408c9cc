"""Rows of the manifest: sigma_min of a dataset, group, episode or window, and sums over rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Float64, Int64

from ambient_curate.annotation.curves import PopulationCurves
from ambient_curate.annotation.shards import Shard
from ambient_curate.annotation.weights import Tally
from ambient_curate.classifier.out_of_fold import C
from ambient_curate.data.populations import PopulationName
from ambient_curate.data.study import Study
from ambient_curate.files import replace_whole
from ambient_curate.run.tables import manifest_schema, sort_rows, tabulate

BINS = 10_000  # of sigma_min: its quantiles are known to 1e-4
Columns = dict[str, list[Any]]


def manifest_metadata(
    study: Study, sigma: Float64[np.ndarray, " level"], digest: str
) -> dict[str, str]:
    """File metadata of every part."""
    options = study.options
    return {
        "granularity": options.granularity,
        "epsilon": repr(options.epsilon),
        "grid": json.dumps(sigma.tolist()),
        "representation": options.represent,
        "normaliser": json.dumps(study.normalizer.as_dict()),
        "weighting": options.weighting,
        "run_digest": digest,
    }


def tabulate_rows(columns: Columns, metadata: Mapping[str, str]) -> pa.Table:
    """Make a sorted part of the manifest; columns that are not given are null."""
    return sort_rows(tabulate(columns, manifest_schema(metadata)))


def whole_rows(
    study: Study,
    populations: Mapping[PopulationName, PopulationCurves],
    statuses: Mapping[PopulationName, str],
    sigma_max: Mapping[PopulationName, float],
) -> Columns:
    """Rows that speak for a whole dataset or group, given what they may use below."""
    columns = _empty("dataset", "group", "horizon", "is_clean", *_ANSWER, "p_clean", "status")
    grouped = study.groups
    for name in sorted(study.frames):
        labels = [None] if grouped is None else sorted(set(grouped[name]))
        for label in labels:
            is_clean = name == study.clean.dataset
            population = populations.get((name, label))
            status = "ok" if is_clean else statuses.get((name, label), "too-few-episodes")
            values = {
                "dataset": name,
                "group": label,
                "horizon": study.options.horizon,
                "is_clean": is_clean,
                "status": status,
                "p_clean": population.corrupt[C]
                if population and study.options.store_curves
                else None,
                **_answer(
                    is_clean,
                    population if status == "ok" else None,
                    sigma_max.get((name, label), 0.0),
                ),
            }
            for key, value in values.items():
                columns[key].append(value)
    return columns


_ANSWER = ("sigma_min", "sigma_min_lower", "sigma_min_upper", "sigma_max")


def join_ends(values: Float64[np.ndarray, "4 row"]) -> Float64[np.ndarray, "4 row"]:
    """Write what may be used below sigma_max and above sigma_min, which meet, as 0 and 0.

    Parameters
    ----------
    values : ndarray, float64, shape (4, row)
        sigma_min, its lower and upper end, and sigma_max.
    """
    meet = values[3] >= values[0]
    everywhere = np.array([True, True, False, True])[:, None]
    return np.where(meet & everywhere, 0.0, values)


def _answer(
    is_clean: bool, population: PopulationCurves | None, sigma_max: float
) -> dict[str, float | None]:
    if is_clean:
        return dict.fromkeys(_ANSWER, 0.0)
    if population is None:
        return dict.fromkeys(_ANSWER, None)
    ends = (population.sigma_min, population.envelope.lower, population.envelope.upper, sigma_max)
    values = join_ends(np.array(ends)[:, None])[:, 0].tolist()
    return dict(zip(_ANSWER, values, strict=True))


def _empty(*names: str) -> Columns:
    return {name: [] for name in names}


@dataclass(frozen=True, eq=False)
class Found:
    """What is said of the scored rows of a shard: its windows or episodes that are long enough.

    Parameters
    ----------
    sigma_min : ndarray, float64, shape (3, row), or None
        With its lower and its upper end; None: nothing is said.
    sigma_max : ndarray, float64, shape (row,), or None
        None: 0, nothing is usable below.
    weight : ndarray, float64, shape (row,), or None
        Unbiased weights.
    p_clean : ndarray, float32, shape (row, level), or None
        Curves on the whole grid, where they are stored.
    """

    sigma_min: Float64[np.ndarray, "3 row"] | None = None
    sigma_max: Float64[np.ndarray, " row"] | None = None
    weight: Float64[np.ndarray, " row"] | None = None
    p_clean: Float32[np.ndarray, "row level"] | None = None


def tabulate_shard(
    study: Study, shard: Shard, status: str, found: Found, metadata: Mapping[str, str]
) -> pa.Table:
    """Make the part of a shard: a row an episode or window, also of episodes that are too short.

    Parameters
    ----------
    study : Study
        With granularity ``episode`` or ``datapoint``.
    shard : Shard
        Of one member.
    status : str
        What a scored row says: ``ok``, or why the member has no answer.
    found : Found
        Of the scored rows.
    metadata : mapping of str to str
        Of `manifest_metadata`.

    Raises
    ------
    ValueError
        If `found` speaks of another number of rows than are scored.
    """
    frames, windows = study.frames[shard.dataset], study.windows[shard.dataset]
    counts = windows.counts[shard.episodes]
    each = np.maximum(counts, 1) if study.by_window else np.ones_like(counts)
    row = np.repeat(np.arange(counts.size), each)
    start = (np.arange(row.size) - np.repeat(np.cumsum(each) - each, each)) * windows.stride
    short = counts[row] == 0
    first = frames.first_frame[shard.episodes][row]
    has_index = (first >= 0) & (not frames.index_fails)
    fold = study.folds[shard.dataset][shard.episodes][row]
    columns = {
        "dataset": _repeat(shard.dataset, row.size),
        "episode_id": frames.ids.take(shard.episodes[row]).column,
        "episode_index": pa.array(frames.number[shard.episodes][row]),
        "start": pa.array(start, mask=np.full(row.size, not study.by_window)),
        "horizon": _repeat(study.options.horizon, row.size),
        "index": pa.array(first + start, mask=~has_index),
        "is_clean": _repeat(shard.dataset == study.clean.dataset, row.size),
        "status": pa.array(["too-short", status]).take(pa.array(np.where(short, 0, 1))),
        "fold": pa.array(fold, mask=short | (status == "too-few-episodes")),
        **_said(found, ~short),
    }
    schema = manifest_schema(metadata)
    arrays = [_as_column(columns.get(field.name), field.type, row.size) for field in schema]
    return sort_rows(pa.Table.from_arrays(arrays, schema=schema))


def _said(found: Found, scored: Bool[np.ndarray, " row"]) -> dict[str, pa.Array]:
    """Columns of the answers, null where a row has none."""
    columns: dict[str, pa.Array] = {}
    if found.sigma_min is not None:
        none = np.zeros(found.sigma_min.shape[1])
        sigma_max = none if found.sigma_max is None else found.sigma_max
        ends = join_ends(np.concatenate([found.sigma_min, sigma_max[None]]))
        for name, values in zip(_ANSWER, ends, strict=True):
            columns[name] = _spread(pa.array(values), scored)
    if found.weight is not None:
        columns["weight"] = _spread(pa.array(found.weight), scored)
    if found.p_clean is not None:
        flat = pa.array(found.p_clean.ravel())
        levels = found.p_clean.shape[1]
        ends_at = np.arange(0, len(flat) + 1, levels, dtype=np.int32)
        columns["p_clean"] = _spread(pa.ListArray.from_arrays(ends_at, flat), scored)
    return columns


def _spread(values: pa.Array, scored: Bool[np.ndarray, " row"]) -> pa.Array:
    """Give the scored rows their values in turn, and the others null."""
    if len(values) != np.count_nonzero(scored):
        raise ValueError(f"{len(values)} values for {np.count_nonzero(scored)} scored rows")
    place = np.cumsum(scored) - 1
    return values.take(pa.array(place, mask=~scored))


def _repeat(value: Any, n: int) -> pa.Array:
    return pa.repeat(pa.scalar(value), n)


def _as_column(values: pa.Array | None, kind: pa.DataType, n: int) -> pa.Array:
    return pa.nulls(n, kind) if values is None else values.cast(kind)


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
