"""Audit of a manifest: its parts, their row counts, and rows with no answer."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int64

from ambient_curate.errors import ManifestError, write_count
from ambient_curate.readers.episodes import count_windows
from ambient_curate.run.schema import SORT_KEYS, order_problems, text_metadata
from ambient_curate.run.tables import read_manifest

BY_ROW = ("episode", "datapoint")  # granularities with rows for the parts of a dataset


@dataclass(frozen=True, eq=False)
class Roll:
    """The episodes of a member, as they are read from its source.

    Parameters
    ----------
    place : dict of str to int
        Place of every episode below, by its id.
    number, length : ndarray, int64, shape (episode,)
        `Episode.number`, and number of frames.
    actions_sha256 : str
        SHA-256 of the digests of all episodes.
    """

    place: dict[str, int]
    number: Int64[np.ndarray, " episode"]
    length: Int64[np.ndarray, " episode"]
    actions_sha256: str


@dataclass(frozen=True)
class Audit:
    """What is wrong with a manifest: sentences.

    Parameters
    ----------
    manifest : tuple of str
        With its parts, each for itself.
    counts : tuple of str
        With the number of its rows, against ``run.json``.
    rows : tuple of str
        With its rows, against the episodes of the sources.
    """

    manifest: tuple[str, ...]
    counts: tuple[str, ...]
    rows: tuple[str, ...]


class Ledger:
    """The rows that a member must have, ticked off as the parts are read.

    Parameters
    ----------
    name : str
        Of the member.
    roll : Roll
        Its episodes.
    options : mapping
        Of the run: ``horizon``, ``stride``, and ``granularity`` ``episode`` or ``datapoint``.
    """

    def __init__(self, name: str, roll: Roll, options: Mapping[str, Any]) -> None:
        self.name, self.roll = name, roll
        self.horizon, self.stride = options["horizon"], options["stride"]
        self.by_window = options["granularity"] == "datapoint"
        counts = count_windows(roll.length, self.horizon, self.stride)
        each = np.maximum(counts, 1) if self.by_window else np.ones_like(counts)
        self._first = np.cumsum(each) - each
        self._seen = np.zeros(int(each.sum()), dtype=bool)

    def tick(self, rows: pa.Table, part: str) -> Iterator[str]:
        """Tick off the rows of a part, and say which of them the member should not have."""
        episode = self._find_episodes(rows)
        known = episode >= 0
        yield from _tell(~known, rows, part, f"speak of episodes that {self.name} does not have")
        rows, episode = rows.filter(pa.array(known)), episode[known]
        moved = rows["episode_index"].fill_null(-1).to_numpy() != self.roll.number[episode]
        yield from _tell(moved, rows, part, "have not the number of their episode")
        short = self.roll.length[episode] < self.horizon
        is_short = pc.equal(rows["status"].cast(pa.string()), "too-short").to_numpy()
        yield from _tell(
            short != is_short, rows, part, "are wrong about an episode's being too short"
        )
        place, outside = self._place(rows, episode, short)
        yield from _tell(outside, rows, part, "are not whole windows of their episode")
        again = self._tick_off(place[~outside])
        rows = rows.filter(pa.array(~outside))
        yield from _tell(again, rows, part, "speak of what another row speaks of")

    def missing(self) -> Iterator[str]:
        """Say what no row speaks of."""
        absent = np.flatnonzero(~self._seen)
        if absent.size:
            number = int(np.searchsorted(self._first, absent[0], side="right")) - 1
            start = (int(absent[0]) - int(self._first[number])) * self.stride
            episode = next(name for name, each in self.roll.place.items() if each == number)
            what = f"frame {start} of episode {episode!r}" if self.by_window else repr(episode)
            yield (
                f"{self.name}: {absent.size:,} of {self._seen.size:,} rows are missing, first that "
                f"of {what}"
            )

    def _find_episodes(self, rows: pa.Table) -> Int64[np.ndarray, " row"]:
        """Place of each row's episode in the roll; -1: it is not there."""
        ids = rows["episode_id"].combine_chunks().dictionary_encode()
        places = [self.roll.place.get(name, -1) for name in ids.dictionary.to_pylist()]
        return np.array([*places, -1], dtype=np.int64)[ids.indices.fill_null(-1).to_numpy()]

    def _place(
        self, rows: pa.Table, episode: np.ndarray, short: np.ndarray
    ) -> tuple[Int64[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
        """Place of each row among all that there must be, and a mask of those without one."""
        if not self.by_window:
            return self._first[episode], rows["start"].is_valid().to_numpy()
        start = rows["start"].fill_null(-1).to_numpy().astype(np.int64)
        after = start + self.horizon > self.roll.length[episode]
        outside = (start < 0) | (start % self.stride != 0) | (after & ~(short & (start == 0)))
        outside |= rows["horizon"].to_numpy() != self.horizon
        return self._first[episode] + start // self.stride, outside

    def _tick_off(self, place: np.ndarray) -> Bool[np.ndarray, " row"]:
        again = self._seen[place]
        order = np.argsort(place, kind="stable")
        again[order[1:][np.diff(place[order]) == 0]] = True
        self._seen[place] = True
        return again


def _tell(mask: np.ndarray, rows: pa.Table, part: str, what: str) -> Iterator[str]:
    if mask.any():
        first = rows.slice(int(np.argmax(mask)), 1).to_pylist()[0]
        where = f"episode {first['episode_id']!r}"
        where += "" if first["start"] is None else f", start {first['start']}"
        yield f"{part}: rows {what} ({np.count_nonzero(mask):,}), first {where}"


def audit_manifest(path: Path, info: Mapping[str, Any], rolls: Mapping[str, Roll]) -> Audit:
    """Check a manifest part by part; one part is in memory at a time.

    Parameters
    ----------
    path : Path
        Directory of the run.
    info : mapping
        Content of its ``run.json``.
    rolls : mapping of str to Roll
        The episodes of those members whose rows are to be checked against them.
    """
    ledgers = {}
    if info["granularity"] in BY_ROW:
        ledgers = {name: Ledger(name, roll, info["options"]) for name, roll in rolls.items()}
    counts = Counter[tuple[str, str | None]]()
    short = Counter[str]()
    problems: list[str] = []
    rows: list[str] = []
    last: tuple[str, pa.Table] | None = None
    for part in sorted((path / "manifest").glob("part-*.parquet")):
        name = f"manifest/{part.name}"
        try:
            table = read_manifest(part)
        except ManifestError as error:
            problems.append(str(error))
            continue
        if foreign := list(_foreign(table, name, info)):
            problems += foreign
            continue
        if last is not None and _out_of_order(last[1], table):
            problems.append(f"{name}: its first row does not follow the last of {last[0]}")
        last = (name, table.slice(max(len(table) - 1, 0))) if len(table) else last
        _count(table, counts, short)
        rows += _tick(table, name, ledgers)
    rows += [text for ledger in ledgers.values() for text in ledger.missing()]
    return Audit(tuple(problems), tuple(_compare_counts(info, counts, short)), tuple(rows))


def _foreign(table: pa.Table, part: str, info: Mapping[str, Any]) -> Iterator[str]:
    """Say where a part does not belong to its run."""
    found = text_metadata(table.schema)
    expected = {
        "run_digest": info["digest"],
        "granularity": info["granularity"],
        "epsilon": repr(info["epsilon"]),
        "representation": info["representation"]["kind"],
        "weighting": info["weighting"],
    }
    for key, value in expected.items():
        if found[key] != value:
            yield f"{part}: {key} is {found[key]!r}, expected {value!r}: another run wrote it"
            return
    horizons = table["horizon"].unique().to_pylist()
    if horizons and horizons != [info["options"]["horizon"]]:
        yield f"{part}: horizon is {horizons}, expected {info['options']['horizon']}"


def _out_of_order(last: pa.Table, table: pa.Table) -> bool:
    ends = [each.select(SORT_KEYS) for each in (last, table.slice(0, 1))]
    return bool(order_problems(pa.concat_tables(ends).unify_dictionaries()))


def _count(table: pa.Table, counts: Counter[tuple[str, str | None]], short: Counter[str]) -> None:
    plain = pa.table({name: table[name].cast(pa.string()) for name in ("dataset", "group")})
    sizes = plain.group_by(["dataset", "group"]).aggregate([([], "count_all")])
    for row in sizes.to_pylist():
        counts[row["dataset"], row["group"]] += row["count_all"]
    mask = pc.equal(table["status"].cast(pa.string()), "too-short")
    short.update(table["dataset"].cast(pa.string()).filter(mask).to_pylist())


def _tick(table: pa.Table, part: str, ledgers: Mapping[str, Ledger]) -> Iterator[str]:
    datasets = table["dataset"].cast(pa.string())
    for name in datasets.unique().to_pylist():
        if name in ledgers:
            yield from ledgers[name].tick(table.filter(pc.equal(datasets, name)), part)


def _compare_counts(
    info: Mapping[str, Any], counts: Counter[tuple[str, str | None]], short: Counter[str]
) -> Iterator[str]:
    granularity, members = info["granularity"], info["members"]
    if granularity == "group":
        labels = {
            (row["dataset"], row["group"]) for row in info["verdict"] if row["group"] is not None
        }
        found = {key for key in counts if not members.get(key[0], {}).get("is_clean")}
        for name, group in sorted(labels ^ found, key=str):
            state = "is missing" if (name, group) in labels else "is none of run.json"
            yield f"{name}: the row of group {group!r} {state}"
        return
    sizes = Counter[str]()
    for (name, _), size in counts.items():
        sizes[name] += size
    for name in sorted({*members, *sizes}):
        member = members.get(name, {"windows": 0, "too_short": 0, "episodes": 0})
        expected = int(name in members)
        if granularity in BY_ROW:
            by_window = granularity == "datapoint"
            expected = member["windows"] + member["too_short"] if by_window else member["episodes"]
            if short[name] != member["too_short"]:
                yield (
                    f"{name}: {write_count(short[name], 'row')} too short, expected "
                    f"{member['too_short']:,}"
                )
        if sizes[name] != expected:
            yield f"{name}: {write_count(sizes[name], 'row')}, expected {expected:,}"
