"""Small collections in any format: every writer makes the same kind of member of given episodes."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import lerobot_writer
import numpy as np
import pyarrow.parquet as pq
from array_writer import frames, save
from example_writer import bytes_feature, example, float_feature, int_feature, record_file

DIM = lerobot_writer.ACTION
SHARD = "toy-train.tfrecord-{:05d}-of-00002"
JPEG = b"\xff\xd8\xff" + bytes(range(50))


def make_episodes(count: int = 6, length: int = 20, *, dim: int = DIM, noise: float = 0.0):
    """Random walks, with white noise of standard deviation `noise` on every value."""
    rng = np.random.default_rng(count + length)
    walks = rng.normal(size=(count, length, dim)).cumsum(axis=1)
    return list((walks + noise * rng.normal(size=walks.shape)).astype(np.float32))


def write_npz(root: Path, episodes: Sequence[np.ndarray]) -> Path:
    root.mkdir(parents=True)
    ends = np.cumsum([len(each) for each in episodes])
    save(root / "data.npz", action=np.concatenate(episodes), episode_ends=ends)
    return root


def write_npy(root: Path, episodes: Sequence[np.ndarray]) -> Path:
    root.mkdir(parents=True)
    for number, each in enumerate(episodes):
        save(root / f"{number}.npy", each)
    return root


def write_parquet(root: Path, episodes: Sequence[np.ndarray]) -> Path:
    root.mkdir(parents=True)
    table = frames(tuple(map(len, episodes)), action=list(np.concatenate(episodes)))
    pq.write_table(table, root / "data.parquet", write_page_checksum=True)
    return root


def write_lerobot(root: Path, episodes: Sequence[np.ndarray], version: str = "v2.1") -> Path:
    tables = lerobot_writer.make_frames([len(each) for each in episodes])
    place = tables[0].column_names.index("action")
    tables = [
        table.set_column(place, "action", [list(each)])
        for table, each in zip(tables, episodes, strict=True)
    ]
    return lerobot_writer.write_dataset(root, version, tables, write_page_checksum=True)


def write_lerobot_v3(root: Path, episodes: Sequence[np.ndarray]) -> Path:
    return write_lerobot(root, episodes, "v3.0")


def write_rlds(root: Path, episodes: Sequence[np.ndarray]) -> Path:
    """Two shards, the episodes halved between them; steps have an image."""
    root.mkdir(parents=True)
    payloads = [
        example(
            {
                "steps/observation/image": bytes_feature([JPEG] * len(each)),
                "steps/is_first": int_feature([1] + [0] * (len(each) - 1)),
                "steps/action": float_feature(each.ravel().tolist()),
            }
        )
        for each in episodes
    ]
    half = len(payloads) // 2
    for number, part in enumerate((payloads[:half], payloads[half:])):
        (root / SHARD.format(number)).write_bytes(record_file(part))
    lengths = [str(half), str(len(payloads) - half)]
    info = {"name": "toy", "splits": [{"name": "train", "shardLengths": lengths}]}
    (root / "dataset_info.json").write_text(json.dumps(info))
    step = {
        "action": {"tensor": {"shape": {"dimensions": [str(DIM)]}, "dtype": "float32"}},
        "is_first": {"tensor": {"shape": {}, "dtype": "bool"}},
    }
    steps = {"sequence": {"feature": {"featuresDict": {"features": step}}}}
    (root / "features.json").write_text(
        json.dumps({"featuresDict": {"features": {"steps": steps}}})
    )
    return root


def write_hdf5(root: Path, episodes: Sequence[np.ndarray]) -> Path:
    root.mkdir(parents=True)
    with h5py.File(root / "demos.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(map(len, episodes))
        data.attrs["env_args"] = json.dumps({"env_name": "Stack"})
        for number, each in enumerate(episodes):
            demo = data.create_group(f"demo_{number}")
            demo.attrs.update(num_samples=len(each), success=True, by="anna")
            demo.create_dataset("actions", data=each)
            demo.create_dataset("obs/image", data=np.zeros((len(each), 2, 2, 3), np.uint8))
        file["mask/train"] = np.array([b"demo_0", b"demo_1"])
        file["mask/better"] = ["demo_0"]
    return root


WRITERS: dict[str, Callable[[Path, Sequence[np.ndarray]], Path]] = {
    "npz": write_npz,
    "npy": write_npy,
    "parquet": write_parquet,
    "lerobot2": write_lerobot,
    "lerobot3": write_lerobot_v3,
    "rlds": write_rlds,
    "hdf5": write_hdf5,
}
