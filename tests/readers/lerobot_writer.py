"""Small LeRobot datasets of every version, and ways to damage them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ambient_curate import readers
from ambient_curate.readers.episodes import Episode, ReaderOptions

LENGTHS = (4, 1, 7)
ACTION, STATE = 3, 2
TASKS = ("pick", "place")
DATA_PATH = {
    "v2": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "v3": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
}


def make_frames(lengths: Sequence[int], first: int = 0) -> list[pa.Table]:
    """One table an episode; task alternates, success is raised at the last frame of odd ones."""
    rng = np.random.default_rng(0)
    tables = []
    for episode, length in enumerate(lengths):
        start = first + sum(lengths[:episode])
        columns = {
            "action": list(rng.normal(size=(length, ACTION))),
            "observation.state": list(rng.normal(size=(length, STATE))),
            "timestamp": np.arange(length) / 10,
            "frame_index": np.arange(length),
            "episode_index": np.full(length, episode),
            "index": start + np.arange(length),
            "task_index": np.full(length, episode % 2),
            "next.success": (np.arange(length) == length - 1) & (episode % 2 == 1),
            "annotation.quality": np.full(length, f"q{episode}"),
        }
        tables.append(pa.table(columns))
    return tables


def cast(table: pa.Table, value: pa.DataType, *, fixed: bool) -> pa.Table:
    for name, width in (("action", ACTION), ("observation.state", STATE)):
        kind = pa.list_(value, width) if fixed else pa.list_(value)
        column = table.column(name).cast(kind)
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def make_info(version: str, lengths: Sequence[int]) -> dict[str, Any]:
    scalar = {"dtype": "int64", "shape": [1], "names": None}
    return {
        "codebase_version": version,
        "fps": 10,
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "chunks_size": 1000,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": DATA_PATH[version[:2]],
        "features": {
            "action": {"dtype": "float32", "shape": [ACTION], "names": None},
            "observation.state": {"dtype": "float32", "shape": [STATE], "names": None},
            "observation.images.top": {"dtype": "video", "shape": [8, 8, 3]},
            "index": scalar,
            "gripper": {"dtype": "float32", "shape": [1]},
        },
    }


def write_dataset(
    root: Path, version: str, tables: Sequence[pa.Table], files: Sequence[int] = (), **options: Any
) -> Path:
    """Write `tables` as a dataset; `files`, for v3, is the data file of each episode."""
    meta, data = root / "meta", root / "data" / "chunk-000"
    meta.mkdir(parents=True)
    data.mkdir(parents=True)
    lengths = [len(table) for table in tables]
    (meta / "info.json").write_text(json.dumps(make_info(version, lengths)))
    listed = [
        {"episode_index": k, "tasks": [TASKS[k % 2]], "length": n} for k, n in enumerate(lengths)
    ]
    if version.startswith("v2"):
        tasks = [{"task_index": k, "task": task} for k, task in enumerate(TASKS)]
        for name, lines in (("episodes", listed), ("tasks", tasks)):
            (meta / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        for k, table in enumerate(tables):
            pq.write_table(table, data / f"episode_{k:06d}.parquet", **options)
        return root
    files = files or [0] * len(tables)
    for k, line in enumerate(listed):
        line |= {"data/chunk_index": 0, "data/file_index": files[k]}
        line |= {"dataset_from_index": sum(lengths[:k]), "stats/action/min": [0.0] * ACTION}
    (meta / "episodes" / "chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(listed), meta / "episodes/chunk-000/file-000.parquet")
    tasks_table = pa.table({"task_index": [0, 1], "task": list(TASKS)})
    pq.write_table(tasks_table, meta / "tasks.parquet")
    for file in sorted(set(files)):
        part = pa.concat_tables([t for t, f in zip(tables, files, strict=True) if f == file])
        pq.write_table(part, data / f"file-{file:03d}.parquet", **options)
    return root


def read_all(root: Path, **options: Any) -> list[Episode]:
    dataset = readers.open_dataset(root, ReaderOptions(**options))
    return [episode for shard in dataset.shards for episode in dataset.read_shard(shard)]


def values(table: pa.Table, name: str) -> np.ndarray:
    return np.array(table.column(name).to_pylist(), np.float64).astype(np.float32)


def change_info(root: Path, **changes: Any) -> None:
    path = root / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def data_file(root: Path, number: int = 0) -> Path:
    return sorted((root / "data").rglob("*.parquet"))[number]


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits, cut, drop or repeat a stretch: one of these, at a random place."""
    changed = bytearray(content)
    place = int(rng.integers(len(changed)))
    stretch = slice(place, place + int(rng.integers(1, 9)))
    match rng.integers(5):
        case 0:
            changed[place] ^= 1 << int(rng.integers(8))
        case 1:
            changed[place] = int(rng.integers(256))
        case 2:
            del changed[place:]
        case 3:
            del changed[stretch]
        case _:
            changed[place:place] = changed[stretch]
    return bytes(changed)
