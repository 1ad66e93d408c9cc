"""Small files of plain arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ambient_curate import readers
from ambient_curate.readers.episodes import Episode, ReaderOptions


def read_all(path: Path, **options: Any) -> list[Episode]:
    dataset = readers.open_dataset(path, ReaderOptions(**options))
    return [episode for shard in dataset.shards for episode in dataset.read_shard(shard)]


def save(path: Path, values: np.ndarray | None = None, **named: Any) -> Path:
    """Write a .npy file of `values`, or a .npz file of `named` arrays."""
    if values is not None:
        np.save(path, values, allow_pickle=True)
    else:
        np.savez(path, **named)
    return path


def frames(lengths: tuple[int, ...] = (4, 3), first: int = 0, **columns: Any) -> pa.Table:
    total = sum(lengths)
    rows = np.arange(2.0 * total).reshape(total, 2)
    return pa.table(
        {
            "episode_index": first + np.repeat(np.arange(len(lengths)), lengths),
            "frame_index": np.concatenate([np.arange(n) for n in lengths]),
            "action": list(rows),
        }
        | columns
    )


def write_any(path: Path) -> None:
    """Write the same frames as one episode (npy) or two (npz, Parquet)."""
    table = frames()
    match path.suffix:
        case ".npy":
            save(path, np.array(table["action"].to_pylist()))
        case ".npz":
            values = np.array(table["action"].to_pylist())
            save(path, action=values, episode_ends=[4, 7], task=["a", "b"])
        case _:
            pq.write_table(table, path, write_page_checksum=True)
