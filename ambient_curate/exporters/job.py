"""The job of an exporter: what to write, where, and for which trainer's windows and time."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ambient_curate.clocks import Clock
from ambient_curate.exporters.members import AnnotatedMember, Samples

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
    rows, never, effective : dict of str to number
        By member: rows written, those of windows that may be used at no noise level, and how many
        windows there are on average over the trainer's time.
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
    rows: dict[str, int] = field(default_factory=dict)
    never: dict[str, int] = field(default_factory=dict)
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
            "weight": pa.array(samples.weight, pa.float32(), from_pandas=True),
        }

    def write_frames(self, member: AnnotatedMember, path: Path, *, before: int) -> None:
        """Write a row a frame: that of the window which begins `before` frames earlier."""
        tables = (self.lay_frames(member, s, before) for s in member.at_frames(before))
        self.write_rows(path, tables)

    def lay_frames(self, member: AnnotatedMember, samples: Samples, before: int) -> pa.Table:
        """Lay out samples as rows of frames, and count them."""
        self.count(member, samples)
        frames, episode, frame = member.frames, samples.episode, samples.start + before
        return pa.table(
            {
                "index": member.first_frame[episode] + frame,
                "episode_index": frames.index[episode],
                "episode_id": frames.ids.column.take(pa.array(episode)),
                "frame_index": frame,
                **self.times(samples),
            }
        )

    def write_rows(self, path: Path, tables: Iterable[pa.Table]) -> None:
        """Write tables one after the other into one Parquet file."""
        writer = None
        try:
            for table in tables:
                marked = table.replace_schema_metadata(self.metadata)
                writer = writer or pq.ParquetWriter(path, marked.schema, compression="zstd")
                writer.write_table(marked)
        finally:
            if writer is not None:
                writer.close()


def name_folder(name: str) -> str:
    """Give a name that any file system takes, another one for every dataset's name."""
    kept = "".join(c if c.isalnum() or c in "-_." else f"%{ord(c):x}" for c in name)
    if not kept.strip(".") or len(kept.encode()) > LONGEST_NAME:
        kept = f"{kept[:20].strip('.')}%{sha256(name.encode()).hexdigest()[:16]}"
    return kept
