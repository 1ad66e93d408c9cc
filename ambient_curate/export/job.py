"""The export job: the windows that a trainer makes of each dataset, with their annotation."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float64, Int64

from ambient_curate.data.cache import Frames
from ambient_curate.data.collection import Member
from ambient_curate.data.windows import Windows, nearest_windows
from ambient_curate.export.trainer_time import Clock
from ambient_curate.export.trainers import ExportOptions

ROWS = 1 << 20  # that are laid out together
EMPTY: Mapping[str, str] = {}
JOINED_BY = "joined_by"  # key of a table's metadata: the columns that find a frame in its dataset
BY_FRAME = ("episode_index", "frame_index")


@dataclass(frozen=True, eq=False)
class Samples:
    """Some windows of a trainer; one that is padded takes the values of the nearest whole window.

    Parameters
    ----------
    episode : ndarray, int64, shape (row,)
        Number of the episode among the member's.
    start : ndarray, int64, shape (row,)
        First frame in the episode; negative where it is padded.
    sigma_min, sigma_max : ndarray, float64, shape (row,)
        Usable above, and at or below, in VP noise of the trainer's scaled actions. A sigma_min of 1
        and a sigma_max of 0: never.
    weight : ndarray, float64, shape (row,)
        Unbiased weight; NaN where the run has none.
    padded : ndarray, int64, shape (row,)
        Frames that lie outside of the episode.
    """

    episode: Int64[np.ndarray, " row"]
    start: Int64[np.ndarray, " row"]
    sigma_min: Float64[np.ndarray, " row"]
    sigma_max: Float64[np.ndarray, " row"]
    weight: Float64[np.ndarray, " row"]
    padded: Int64[np.ndarray, " row"]

    @property
    def usable(self) -> np.ndarray:
        """Whether there is a noise level at which a window may be used."""
        return (self.sigma_min < 1.0) | (self.sigma_max > 0.0)

    def take(self, rows: Bool[np.ndarray, " row"]) -> "Samples":
        """Those of some rows."""
        return Samples(*(getattr(self, each.name)[rows] for each in fields(self)))

    def put(self, rows: Bool[np.ndarray, " row"], others: "Samples") -> None:
        """Set some rows."""
        for each in fields(self):
            getattr(self, each.name)[rows] = getattr(others, each.name)

    @classmethod
    def unusable(
        cls, episode: Int64[np.ndarray, " row"], start: Int64[np.ndarray, " row"]
    ) -> "Samples":
        """Windows that may never be used."""
        shape, whole = len(start), np.zeros(len(start), dtype=np.int64)
        return cls(episode, start, np.ones(shape), np.zeros(shape), np.full(shape, np.nan), whole)


@dataclass(frozen=True, eq=False)
class AnnotatedMember:
    """A dataset with what its run says of every whole window.

    Parameters
    ----------
    name : str
        Of the dataset.
    is_clean : bool
        Whether it is the clean set.
    frames : Frames
        Its episodes.
    windows : Windows
        Those that were annotated.
    values : mapping of str to ndarray, float64, shape (window,)
        ``sigma_min``, ``sigma_max`` and ``weight`` of every whole window, NaN for null.
    source : Member
        Where they were read.
    position : ndarray, int64, shape (episode,)
        Rank of every episode's number among all of the source, annotated or not.
    """

    name: str
    is_clean: bool
    frames: Frames
    windows: Windows
    values: Mapping[str, Float64[np.ndarray, " window"]]
    source: Member
    position: Int64[np.ndarray, " episode"]

    @property
    def format(self) -> str:
        """Format of the dataset's files."""
        return self.source.dataset.format

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that hold its episodes."""
        return tuple(self.source.dataset.shards)

    @property
    def first_frame(self) -> Int64[np.ndarray, " episode"]:
        """Global index of every episode's first frame: the source's own, else counted here."""
        own = self.frames.first_frame
        return own if self.has_index else self.frames.offset

    @property
    def has_index(self) -> bool:
        """Whether the source has a global index that tells all frames apart."""
        return bool((self.frames.first_frame >= 0).all()) and not self.frames.index_fails

    @cached_property
    def first_window(self) -> Int64[np.ndarray, " episode"]:
        """Place among the whole windows of every episode's first one."""
        return np.asarray(np.cumsum(self.windows.counts) - self.windows.counts)

    @cached_property
    def _values_or_nan(self) -> dict[str, Float64[np.ndarray, " place"]]:
        return {name: np.append(values, np.nan) for name, values in self.values.items()}

    def at_frames(self, before: int) -> Iterator[Samples]:
        """Yield the windows that begin `before` frames before each frame of each episode."""
        yield from self.samples(before, self.frames.length)

    def samples(self, before: int, count: Int64[np.ndarray, " episode"]) -> Iterator[Samples]:
        """Yield `count` windows of each episode, the first of which starts at ``-before``."""
        ends = np.cumsum(count)
        first = 0
        while first < len(count):
            begun = ends[first] - count[first]
            last = max(int(np.searchsorted(ends, begun + ROWS, side="right")), first + 1)
            yield self._lay(before, np.arange(first, last), count[first:last])
            first = last

    def _lay(self, before: int, episodes: np.ndarray, count: np.ndarray) -> Samples:
        episode = np.repeat(episodes, count)
        first = np.repeat(np.cumsum(count) - count, count)
        return self.look_up(episode, np.arange(count.sum()) - first - before)

    def look_up(
        self, episode: Int64[np.ndarray, " row"], start: Int64[np.ndarray, " row"]
    ) -> Samples:
        """Give the windows that begin at `start` in an episode, its first frame being 0."""
        windows, length = self.windows, self.windows.length[episode]
        whole = windows.counts[episode] > 0
        place = np.full(len(episode), -1)  # the value of those too short
        place[whole] = self.first_window[episode[whole]] + nearest_windows(
            start[whole], length[whole], windows.horizon, windows.stride
        )
        found = {name: values[place] for name, values in self._values_or_nan.items()}
        return Samples(
            episode,
            start,
            np.nan_to_num(found["sigma_min"], nan=1.0),
            np.nan_to_num(found["sigma_max"], nan=0.0),
            found["weight"],
            np.maximum(-start, 0) + np.maximum(start + windows.horizon - length, 0),
        )


LONGEST_NAME = 200  # bytes


@dataclass
class Job:
    """What an exporter is given, and what it tells.

    Parameters
    ----------
    members : tuple of AnnotatedMember
        The clean set and all others.
    out : Path
        Directory that gets the files.
    clock : Clock
        Of the trainer.
    horizon : int
        Frames in a window.
    n_obs_steps, n_action_steps : int
        Of the trainer: frames observed, and executed of a window.
    metadata : dict
        What every table says of itself.
    options : ExportOptions
        What the user chose.
    rows, never, padded, effective : dict of str to number
        By member: rows written, those of windows that may be used at no noise level, those of
        windows that leave their episode, and how many windows there are on average over the
        trainer's time.
    notes : list of str
        What a user has to know of this export.
    """

    members: tuple[AnnotatedMember, ...]
    out: Path
    clock: Clock
    horizon: int
    n_obs_steps: int
    n_action_steps: int
    metadata: dict[str, str]
    options: ExportOptions
    rows: dict[str, int] = field(default_factory=dict)
    never: dict[str, int] = field(default_factory=dict)
    padded: dict[str, int] = field(default_factory=dict)
    effective: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def folder(self, member: AnnotatedMember) -> Path:
        """Give the folder of a member's files, whatever its name, made if missing."""
        path = self.out / name_folder(member.name)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def count(self, member: AnnotatedMember, samples: Samples) -> None:
        """Count what is written."""
        name, usable = member.name, samples.usable
        share = self.clock.share(samples.sigma_min, samples.sigma_max)
        self.rows[name] = self.rows.get(name, 0) + len(usable)
        self.never[name] = self.never.get(name, 0) + int((~usable).sum())
        self.padded[name] = self.padded.get(name, 0) + int((samples.padded > 0).sum())
        self.effective[name] = self.effective.get(name, 0.0) + float(share.sum())

    @property
    def mixture(self) -> dict[str, float]:
        """Shares of the members in proportion to `effective`; they add up to 1."""
        total = sum(self.effective.values())
        return {name: count / total for name, count in self.effective.items()}

    def times(self, samples: Samples) -> dict[str, Any]:
        """Give the columns that say when samples may be used."""
        return {
            "sigma_min": samples.sigma_min,
            "sigma_max": samples.sigma_max,
            "t_min": self.clock.after(samples.sigma_min),
            "t_max": self.clock.until(samples.sigma_max),
            "usable": samples.usable,
            "padded": samples.padded,
            "weight": pa.array(samples.weight, pa.float32(), from_pandas=True),
        }

    def write_frames(self, member: AnnotatedMember, path: Path, *, before: int) -> None:
        """Write a row a frame: that of the window which begins `before` frames earlier."""
        tables = (self.lay_frames(member, s, before) for s in member.at_frames(before))
        joined = {JOINED_BY: ", ".join(BY_FRAME if member.frames.index_fails else ("index",))}
        self.write_rows(path, tables, joined)

    def lay_frames(self, member: AnnotatedMember, samples: Samples, before: int) -> pa.Table:
        """Lay out samples as rows of frames, and count them."""
        self.count(member, samples)
        frames, episode, frame = member.frames, samples.episode, samples.start + before
        return pa.table(
            {
                "index": member.first_frame[episode] + frame,
                "episode_index": frames.number[episode],
                "episode_id": frames.ids.column.take(pa.array(episode)),
                "frame_index": frame,
                **self.times(samples),
            }
        )

    def write_rows(
        self, path: Path, tables: Iterable[pa.Table], metadata: Mapping[str, str] = EMPTY
    ) -> None:
        """Write tables one after the other into one Parquet file, with `metadata` besides ours."""
        marked = (t.replace_schema_metadata({**self.metadata, **metadata}) for t in tables)
        write_tables(path, marked, compression="zstd")


def write_tables(path: Path, tables: Iterable[pa.Table], *, compression: str) -> None:
    """Write tables of one schema into a Parquet file, each a row group."""
    writer = None
    try:
        for table in tables:
            writer = writer or pq.ParquetWriter(path, table.schema, compression=compression)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def name_folder(name: str) -> str:
    """Give a name that any file system takes, another one for every dataset's name."""
    kept = "".join(c if c.isalnum() or c in "-_." else f"%{ord(c):x}" for c in name)
    if not kept.strip(".") or len(kept.encode()) > LONGEST_NAME:
        kept = f"{kept[:20].strip('.')}%{sha256(name.encode()).hexdigest()[:16]}"
    return kept
