"""Plain tables for any other trainer: a row a window, as Parquet, CSV or JSON lines."""

import csv
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from ambient_curate.export.job import Job
from ambient_curate.files import to_json


def write_parquet(job: Job) -> None:
    """Write ``windows.parquet``."""
    job.write_rows(job.out / "windows.parquet", lay_windows(job))


def write_csv(job: Job) -> None:
    """Write ``windows.csv``; empty where there is no weight, ``inf`` for no time."""
    with (job.out / "windows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        for number, table in enumerate(lay_windows(job)):
            if number == 0:
                writer.writerow(table.column_names)
            writer.writerows(zip(*(column.to_pylist() for column in table.columns), strict=True))


def write_jsonl(job: Job) -> None:
    """Write ``windows.jsonl``; null where there is no weight or no time."""
    with (job.out / "windows.jsonl").open("w", encoding="utf-8") as file:
        for table in lay_windows(job):
            for row in table.to_pylist():
                file.write(to_json(row) + "\n")


def lay_windows(job: Job) -> Iterator[pa.Table]:
    """Lay out the windows that begin ``n_obs_steps - 1`` frames before every frame."""
    before = job.n_obs_steps - 1
    for member in job.members:
        for samples in member.at_frames(before):
            rows = job.lay_frames(member, samples, before)
            length = member.frames.length[samples.episode]
            whole = (samples.start >= 0) & (samples.start + job.horizon <= length)
            name = pa.array(np.full(len(whole), member.name, dtype=object), pa.string())
            rows = rows.add_column(0, "dataset", name).append_column("whole", pa.array(whole))
            yield rows.append_column("start", pa.array(samples.start))
