"""Comparison of two runs: what differs in their inputs and in their results."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ambient_curate.option_fields import check_argument, whole
from ambient_curate.run.directory import INPUTS, list_differences
from ambient_curate.run.records import Run, open_run_results
from ambient_curate.run.tables import read_manifest

MOVED = 0.01  # of sigma_min: the chance of another fit is of this size
_KEYS = {
    "dataset": (),
    "group": ("group",),
    "episode": ("episode_id",),
    "datapoint": ("episode_id", "start"),
}


@dataclass(frozen=True)
class Difference:
    """A value that is not the same in both runs.

    Parameters
    ----------
    name : str
        Dotted key in ``run.json``.
    a, b : str
        As JSON, or ``absent``.
    """

    name: str
    a: str
    b: str


@dataclass(frozen=True)
class VerdictPair:
    """What both runs say of a whole dataset or group.

    Parameters
    ----------
    dataset : str
        The member.
    group : str or None
        None: the whole dataset.
    sigma_min, usable : tuple of (float or None, float or None)
        In A and in B: the level, and the share of the schedule's steps above it. None: not known,
        or the run does not have the dataset.
    same_actions : bool or None
        Whether both runs read the same actions; None: not recorded, or in one run only.
    """

    dataset: str
    group: str | None
    sigma_min: tuple[float | None, float | None]
    usable: tuple[float | None, float | None]
    same_actions: bool | None

    @property
    def moved(self) -> float | None:
        """From A to B, upwards positive."""
        a, b = self.sigma_min
        return None if a is None or b is None else b - a


@dataclass(frozen=True)
class Rows:
    """How the rows of a dataset compare.

    Parameters
    ----------
    dataset : str
        The member.
    both, only_a, only_b : int
        Rows that both runs have, and that one has.
    lost, gained : int
        Of those in both: with a sigma_min in A only, in B only.
    moved : float or None
        Share of the rows with a sigma_min in both in which it differs by more than `MOVED`.
    median, largest : float or None
        Of the absolute difference in those. None: there are none.
    """

    dataset: str
    both: int
    only_a: int
    only_b: int
    lost: int
    gained: int
    moved: float | None
    median: float | None
    largest: float | None


@dataclass(frozen=True)
class MovedRow:
    """A row whose sigma_min differs.

    Parameters
    ----------
    dataset : str
        The member.
    group, episode_id, start : str, str and int, or None
        None: the row speaks for all of them.
    a, b : float
        sigma_min in both runs.
    """

    dataset: str
    group: str | None
    episode_id: str | None
    start: int | None
    a: float
    b: float


@dataclass(frozen=True)
class Comparison:
    """What `compare_runs` found.

    Parameters
    ----------
    paths : tuple of (Path, Path)
        Directories of A and B.
    granularity : tuple of (str, str)
        Of their rows. Where they differ, rows are not compared.
    differences : tuple of Difference
        In options, sources, versions and threads.
    verdict : tuple of VerdictPair
        Datasets and groups of both, by name.
    rows : tuple of Rows
        By dataset; empty where the granularity differs.
    most_moved : tuple of MovedRow
        The largest movements, largest first.
    other_files : tuple of str
        Result files whose content differs, or that one run has.
    """

    paths: tuple[Path, Path]
    granularity: tuple[str, str]
    differences: tuple[Difference, ...]
    verdict: tuple[VerdictPair, ...]
    rows: tuple[Rows, ...]
    most_moved: tuple[MovedRow, ...]
    other_files: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether the same went in and the same came out."""
        return not (
            self.differences
            or self.other_files
            or any(pair.moved or pair.sigma_min.count(None) == 1 for pair in self.verdict)
            or any(r.only_a or r.only_b or r.lost or r.gained or r.largest for r in self.rows)
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        found = {key: value for key, value in asdict(self).items() if key != "paths"}
        found["verdict"] = [asdict(pair) | {"moved": pair.moved} for pair in self.verdict]
        return {"identical": self.identical, "paths": [str(path) for path in self.paths], **found}


def compare_runs(a: Run | Path | str, b: Run | Path | str, *, most: int = 10) -> Comparison:
    """Compare two finished runs: inputs, what is said of whole datasets, and row by row.

    Rows are matched by dataset and group, episode, or episode and start. One dataset of both is in
    memory at a time.

    Parameters
    ----------
    a, b : Run, Path or str
        Finished runs, or their directories.
    most : int, default 10
        Rows to list whose sigma_min moved most, >= 0.

    Returns
    -------
    Comparison
        Rows are left out where the granularity differs: a window is not an episode.

    Raises
    ------
    RunError
        If one is no finished run.
    ManifestError
        If a part of a manifest is damaged.
    """
    most = check_argument("most", most, whole(0))
    first, second = (run if isinstance(run, Run) else open_run_results(run) for run in (a, b))
    granularity = (first.info["granularity"], second.info["granularity"])
    rows: list[Rows] = []
    moved: list[MovedRow] = []
    if len(set(granularity)) == 1:
        keys = _KEYS[granularity[0]]
        for name, left, right in _pair_datasets(first, second, keys):
            joined = left.join(right, ["dataset", *keys], join_type="full outer", use_threads=False)
            rows.append(_compare_rows(name, joined))
            moved = _keep_most([*moved, *_most_moved(joined, most)], most)
    return Comparison(
        (first.path, second.path),
        granularity,
        tuple(_compare_inputs(first.info, second.info)),
        tuple(_pair_verdicts(first.info, second.info)),
        tuple(rows),
        tuple(moved),
        tuple(_compare_files(first.info, second.info)),
    )


def _compare_inputs(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    old, new = ({key: info[key] for key in INPUTS if key in info} for info in (a, b))
    for name, before, after in list_differences(old, new):
        yield Difference(name, before, after)


def _compare_files(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Name the results whose recorded digests differ; none where a run has no digests."""
    if not ("files" in a and "files" in b):
        return []
    old, new = a["files"], b["files"]
    return [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]


def _pair_verdicts(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[VerdictPair]:
    rows_of = [{(row["dataset"], row["group"]): row for row in info["verdict"]} for info in (a, b)]
    for name, group in sorted({*rows_of[0], *rows_of[1]}, key=lambda key: (key[0], key[1] or "")):
        rows = [each.get((name, group), {}) for each in rows_of]
        actions = {info["members"].get(name, {}).get("actions_sha256") for info in (a, b)}
        yield VerdictPair(
            name,
            group,
            (rows[0].get("sigma_min"), rows[1].get("sigma_min")),
            (rows[0].get("usable"), rows[1].get("usable")),
            None if None in actions else len(actions) == 1,
        )


def _pair_datasets(a: Run, b: Run, keys: Sequence[str]) -> Iterator[tuple[str, pa.Table, pa.Table]]:
    """Yield every dataset with its rows in both runs, which are in the order of the names."""
    left, right = _read_datasets(a, keys, "a"), _read_datasets(b, keys, "b")
    one, other = next(left, None), next(right, None)
    while one or other:
        name = min(found[0] for found in (one, other) if found)
        tables = []
        for found, side in ((one, "a"), (other, "b")):
            here = found is not None and found[0] == name
            tables.append(found[1] if found and here else _empty(keys, side))
        if one and one[0] == name:
            one = next(left, None)
        if other and other[0] == name:
            other = next(right, None)
        yield name, tables[0], tables[1]


def _empty(keys: Sequence[str], side: str) -> pa.Table:
    types = {"group": pa.string(), "episode_id": pa.string(), "start": pa.int32()}
    fields = [("dataset", pa.string()), *((key, types[key]) for key in keys)]
    return pa.schema([*fields, (side, pa.float64()), (f"in_{side}", pa.bool_())]).empty_table()


def _read_datasets(run: Run, keys: Sequence[str], side: str) -> Iterator[tuple[str, pa.Table]]:
    """Yield the rows of each dataset, part by part, with what they are matched by."""
    name, held = "", list[pa.Table]()
    for part in sorted((run.path / "manifest").glob("part-*.parquet")):
        table = _pick(read_manifest(part), keys, side)
        for found in table["dataset"].unique().to_pylist():
            if held and found != name:
                yield name, pa.concat_tables(held)
                held = []
            name = found
            held.append(table.filter(pc.equal(table["dataset"], found)))
    if held:
        yield name, pa.concat_tables(held)


def _pick(table: pa.Table, keys: Sequence[str], side: str) -> pa.Table:
    columns = {}
    for key in ("dataset", *keys):
        text = key != "start"
        columns[key] = table[key].cast(pa.string()) if text else table[key]
    columns[side] = table["sigma_min"]
    columns[f"in_{side}"] = pa.repeat(True, len(table))
    return pa.table(columns)


def _compare_rows(name: str, joined: pa.Table) -> Rows:
    here = [joined[f"in_{side}"].is_valid().to_numpy() for side in "ab"]
    values = [_numbers(joined[side]) for side in "ab"]
    both = here[0] & here[1]
    known = [np.isfinite(each) for each in values]
    moved = np.abs(values[1] - values[0])[known[0] & known[1]]
    some = moved.size > 0
    return Rows(
        name,
        both=int(both.sum()),
        only_a=int((here[0] & ~here[1]).sum()),
        only_b=int((here[1] & ~here[0]).sum()),
        lost=int((both & known[0] & ~known[1]).sum()),
        gained=int((both & known[1] & ~known[0]).sum()),
        moved=float((moved > MOVED).mean()) if some else None,
        median=float(np.median(moved)) if some else None,
        largest=float(moved.max()) if some else None,
    )


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return column.fill_null(float("nan")).to_numpy()


def _most_moved(joined: pa.Table, most: int) -> list[MovedRow]:
    size = np.nan_to_num(np.abs(_numbers(joined["b"]) - _numbers(joined["a"])))
    count = min(most, int(np.count_nonzero(size)))
    if not count:
        return []
    sized = joined.append_column("size", pa.array(size))
    keys = [key for key in ("group", "episode_id", "start") if key in joined.column_names]
    order = [("size", "descending"), *((key, "ascending") for key in keys)]
    first = sized.take(pc.sort_indices(sized, sort_keys=order).slice(0, count))
    return [_as_row(row) for row in first.to_pylist()]


def _as_row(row: Mapping[str, Any]) -> MovedRow:
    return MovedRow(
        dataset=row["dataset"],
        group=row.get("group"),
        episode_id=row.get("episode_id"),
        start=row.get("start"),
        a=row["a"],
        b=row["b"],
    )


def _keep_most(rows: list[MovedRow], most: int) -> list[MovedRow]:
    return sorted(rows, key=lambda row: -abs(row.b - row.a))[:most]
