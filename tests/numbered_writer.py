"""Small datasets whose episodes have numbers of their own, in every format that has numbers."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import h5py
import lerobot_writer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_writer import frames, save
from example_writer import example, float_feature, int_feature, record_file

Numbered = Mapping[int, np.ndarray]  # actions by number, in the order in which they are written
DIM = lerobot_writer.ACTION


def make_tables(episodes: Numbered, first: int = 0) -> list[pa.Table]:
    """A LeRobot table an episode; index counts the frames in the order of the numbers."""
    tables = lerobot_writer.make_frames([len(each) for each in episodes.values()])
    starts, start = {}, first
    for number in sorted(episodes):
        starts[number], start = start, start + len(episodes[number])
    for place, (number, action) in enumerate(episodes.items()):
        columns = {
            "action": pa.array(list(action)),
            "episode_index": pa.array([number] * len(action)),
            "index": pa.array(starts[number] + np.arange(len(action))),
        }
        for name, column in columns.items():
            at = tables[place].column_names.index(name)
            tables[place] = tables[place].set_column(at, name, column)
    return tables


def write_lerobot2(root: Path, episodes: Numbered) -> Path:
    """Data files and list named by number, the list in the order of writing."""
    lerobot_writer.write_dataset(root, "v2.1", make_tables(episodes))
    data, listing = root / "data" / "chunk-000", root / "meta" / "episodes.jsonl"
    lines = [json.loads(line) for line in listing.read_text().splitlines()]
    for file in data.iterdir():
        file.rename(file.with_suffix(".old"))
    for place, number in enumerate(episodes):
        folder = root / "data" / f"chunk-{number // 1000:03d}"
        folder.mkdir(exist_ok=True)
        old = data / f"episode_{place:06d}.old"
        old.rename(folder / f"episode_{number:06d}.parquet")
        lines[place]["episode_index"] = number
    listing.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def write_lerobot3(root: Path, episodes: Numbered) -> Path:
    """Two data files, whose rows have the order of writing."""
    files = [place % 2 for place in range(len(episodes))]
    lerobot_writer.write_dataset(root, "v3.0", make_tables(episodes), files)
    listing = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(listing)
    starts = [int(each["index"][0].as_py()) for each in make_tables(episodes)]
    for name, values in (("episode_index", list(episodes)), ("dataset_from_index", starts)):
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, listing)
    return root


def write_robomimic(root: Path, episodes: Numbered) -> Path:
    root.mkdir(parents=True)
    with h5py.File(root / "demos.hdf5", "w", track_order=True) as file:
        for number, action in episodes.items():
            file[f"data/demo_{number}/actions"] = action
    return root


def write_minari(root: Path, episodes: Numbered) -> Path:
    (root / "data").mkdir(parents=True)
    with h5py.File(root / "data" / "main_data.hdf5", "w", track_order=True) as file:
        for number, action in episodes.items():
            file[f"episode_{number}/actions"] = action
    return root


def write_aloha(root: Path, episodes: Numbered) -> Path:
    root.mkdir(parents=True)
    for number, action in episodes.items():
        with h5py.File(root / f"episode_{number}.hdf5", "w") as file:
            file["action"] = action
    return root


def write_npy(root: Path, episodes: Numbered) -> Path:
    root.mkdir(parents=True)
    for number, action in episodes.items():
        save(root / f"run2_take{number}.npy", action)
    return root


def write_parquet(root: Path, episodes: Numbered) -> Path:
    """Two files, each with half of the episodes."""
    root.mkdir(parents=True)
    parts = np.array_split(list(episodes), 2)
    for name, part in zip("ba", parts, strict=True):
        lengths = tuple(len(episodes[number]) for number in part.tolist())
        if not lengths:
            continue
        table = frames(
            lengths, action=[row for number in part.tolist() for row in episodes[number]]
        )
        number = pa.array(np.repeat(part, lengths))
        at = table.column_names.index("episode_index")
        pq.write_table(table.set_column(at, "episode_index", number), root / f"{name}.parquet")
    return root


def write_rlds(root: Path, episodes: Numbered | Sequence[tuple[int, np.ndarray]]) -> Path:
    """Numbers in the metadata, which may repeat; two shards."""
    pairs = list(episodes.items()) if isinstance(episodes, Mapping) else episodes
    root.mkdir(parents=True)
    payloads = [
        example(
            {
                "steps/is_first": int_feature([1] + [0] * (len(action) - 1)),
                "steps/action": float_feature(action.ravel().tolist()),
                "episode_metadata/episode_id": int_feature([number]),
            }
        )
        for number, action in pairs
    ]
    half = len(payloads) // 2
    for place, part in enumerate((payloads[:half], payloads[half:])):
        name = f"toy-train.tfrecord-{place:05d}-of-00002"
        (root / name).write_bytes(record_file(part))
    lengths = [str(half), str(len(payloads) - half)]
    info = {"name": "toy", "splits": [{"name": "train", "shardLengths": lengths}]}
    (root / "dataset_info.json").write_text(json.dumps(info))
    return root


WRITERS: dict[str, Callable[[Path, Numbered], Path]] = {
    "lerobot2": write_lerobot2,
    "lerobot3": write_lerobot3,
    "robomimic": write_robomimic,
    "minari": write_minari,
    "aloha": write_aloha,
    "npy": write_npy,
    "parquet": write_parquet,
    "rlds": write_rlds,
}
