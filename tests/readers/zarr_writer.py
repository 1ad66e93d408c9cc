"""Zarr replay buffers as Diffusion Policy writes them, and what reads them back."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from ambient_curate.readers import zarr as readers_zarr
from ambient_curate.readers.episodes import Episode, ReaderOptions

RNG = np.random.default_rng(0)
LENGTHS = (3, 9, 1, 7)
FRAMES = sum(LENGTHS)
ENDS = np.cumsum(LENGTHS)
DATA: dict[str, np.ndarray] = {
    "action": RNG.standard_normal((FRAMES, 2)).astype(np.float32),
    "state": RNG.standard_normal((FRAMES, 5)),
    "n_contacts": np.arange(FRAMES, dtype=np.int64),
    "img": np.ones((FRAMES, 4, 4, 3), np.uint8),
}
UMI: dict[str, np.ndarray] = {
    f"robot{robot}_{name}": RNG.standard_normal((FRAMES, width)).astype(np.float32)
    for robot in (0, 1)
    for name, width in (("gripper_width", 1), ("eef_rot_axis_angle", 3), ("eef_pos", 3))
}


def write(
    path: Path,
    data: dict[str, np.ndarray] = DATA,
    *,
    ends: Any = ENDS,
    zarr_format: Any = 2,
    chunk: int = 4,
    **how: Any,
) -> Path:
    """Write a replay buffer as Diffusion Policy does: chunks of time only."""
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    for key, values in data.items():
        chunks = (chunk, *values.shape[1:])
        with zarr.config.set({"array.write_empty_chunks": True}):
            group.create_array(f"data/{key}", data=values, chunks=chunks, **how)
    if ends is not None:
        group.create_array("meta/episode_ends", data=np.asarray(ends), chunks=(3,) * np.ndim(ends))
    return path


def pack(path: Path, directory: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(directory.rglob("*")):
            if file.is_file():
                archive.write(file, f"{prefix}{file.relative_to(directory).as_posix()}")
    return path


def read(path: Path, **options: Any) -> list[Episode]:
    dataset = readers_zarr.open_dataset(path, ReaderOptions(**options))
    return [episode for shard in dataset.shards for episode in dataset.read_shard(shard)]


def check(episodes: list[Episode], action: np.ndarray, state: np.ndarray | None) -> None:
    assert [len(episode.action) for episode in episodes] == list(LENGTHS)
    for number, episode in enumerate(episodes):
        rows = slice(ENDS[number] - LENGTHS[number], ENDS[number])
        assert (episode.id, episode.number) == (f"episode_{number}", number)
        assert episode.first_frame == rows.start
        assert episode.action.dtype == np.float32
        np.testing.assert_array_equal(episode.action, action[rows])
        if state is None:
            assert episode.state is None
        else:
            assert episode.state is not None and episode.state.dtype == np.float32
            np.testing.assert_array_equal(episode.state, state[rows].astype(np.float32))
