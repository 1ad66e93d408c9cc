"""Corruption planted in real robot data must be found, and more of it at a higher level."""

from pathlib import Path

import collection_writer
import numpy as np
import pytest
from lerobot_writer import change_info

from ambient_curate import readers
from ambient_curate.annotation.annotate import annotate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def read_actions(path: Path) -> list[np.ndarray]:
    dataset = readers.open_dataset(path)
    episodes = [e.action for shard in dataset.shards for e in dataset.read_shard(shard)]
    order = np.random.default_rng(0).permutation(len(episodes))
    return [episodes[i] for i in order]


def cross(root: Path, clean: list[np.ndarray], corrupt: dict[str, list[np.ndarray]]) -> list[float]:
    for name, episodes in {"clean": clean, **corrupt}.items():
        collection_writer.write_lerobot(root / name, episodes)
        width = int(episodes[0].shape[1])
        change_info(root / name, features={"action": {"dtype": "float32", "shape": [width]}})
    info = annotate(root, out=root.parent / "run").info
    found = {row["dataset"]: row for row in info["verdict"]}
    for name in corrupt:
        row = found[name]
        print(name, row["status"], row["sigma_min"], (row["lower"], row["upper"]), flush=True)
    print("controls", info["controls"])
    return [found[name]["sigma_min"] for name in corrupt]


def test_jitter_on_a_humanoid(shared_data: Path, tmp_path: Path) -> None:
    episodes = read_actions(shared_data / "g1_inspire")
    clean, rest = episodes[:30], episodes[30:]
    spread = np.ptp(np.concatenate(clean), axis=0)
    rng = np.random.default_rng(1)
    jitter = {
        f"jitter_{strength}": [
            e + (strength * spread * rng.standard_normal(e.shape)).astype(np.float32) for e in rest
        ]
        for strength in (0.01, 0.03, 0.1)
    }
    found = cross(tmp_path / "g1", clean, jitter)
    assert 0 < found[0] < found[1] < found[2]


def test_zero_order_hold_on_an_arm(shared_data: Path, tmp_path: Path) -> None:
    episodes = read_actions(shared_data / "so101_tape")
    clean, rest = episodes[:20], episodes[20:]
    held = {
        f"hold_{frames}": [e[np.arange(len(e)) // frames * frames] for e in rest]
        for frames in (2, 4, 8)
    }
    found = cross(tmp_path / "so101", clean, held)
    assert 0 < found[0] < found[1] < found[2]
