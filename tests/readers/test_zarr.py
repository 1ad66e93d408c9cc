"""Zarr replay buffers: of both formats, in directories and archives."""

import json
import os
import shutil
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec
from zarr_writer import DATA, ENDS, FRAMES, LENGTHS, UMI, check, pack, read, write

from ambient_curate import readers
from ambient_curate.data.collection import (
    open_collection,
    read_episodes,
    require_clean,
)
from ambient_curate.errors import DatasetError
from ambient_curate.readers import zarr as readers_zarr
from ambient_curate.readers.episodes import ReaderOptions
from ambient_curate.run.records import fingerprint


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 6, 100])
def test_what_is_written_is_read(
    tmp_path: Path, zarr_format: int, packed: bool, chunk: int
) -> None:
    path = write(tmp_path / "push.zarr", zarr_format=zarr_format, chunk=chunk)
    if packed:
        path = pack(tmp_path / "push.zarr.zip", path)
    check(read(path), DATA["action"], DATA["state"])
    named = read(path, action=["n_contacts", "action"], state=["action"], rate_hz=10.0)
    both = np.concatenate([DATA["n_contacts"][:, None], DATA["action"]], axis=1)
    check(named, both.astype(np.float32), DATA["action"])
    assert {episode.rate_hz for episode in named} == {10.0}
    assert {episode.source for episode in named} == {path}


def test_the_archive_that_the_library_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "push.zarr.zip"
    store = zarr.storage.ZipStore(path, mode="w")
    group = zarr.create_group(store, zarr_format=2)
    group.create_array("data/action", data=DATA["action"], chunks=(4, 2))
    group.create_array("meta/episode_ends", data=ENDS)
    store.close()
    check(read(path), DATA["action"], None)


@pytest.mark.parametrize(
    "how",
    [
        {"compressors": None},
        {"compressors": BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle"), "zarr_format": 3},
        {"order": "F"},
        {"fill_value": np.nan},
    ],
)
def test_compressions_and_orders_are_read(tmp_path: Path, how: dict[str, Any]) -> None:
    data = {"action": DATA["action"]}
    check(read(write(tmp_path / "push.zarr", data, **how)), DATA["action"], None)


def test_other_types_of_numbers_become_float32(tmp_path: Path) -> None:
    for kind in ("<f2", ">f8", "|u1", ">i4", "|b1"):
        action = (np.arange(FRAMES * 2).reshape(-1, 2) % 2).astype(kind)
        episodes = read(write(tmp_path / f"{kind[1:]}.zarr", {"action": action}))
        check(episodes, action.astype(np.float32), None)
    vector = write(tmp_path / "vector.zarr", {"action": DATA["n_contacts"]})
    assert read(vector)[0].action.tolist() == [[0], [1], [2]]


def test_the_action_of_umi_is_joined_robot_by_robot(tmp_path: Path) -> None:
    path = write(tmp_path / "cup.zarr", UMI)
    dataset = readers_zarr.open_dataset(path, ReaderOptions())
    keys = [
        f"robot{i}_{part}"
        for i in (0, 1)
        for part in ("eef_pos", "eef_rot_axis_angle", "gripper_width")
    ]
    told = f"there is no data/action; as in UMI, the action is {', '.join(keys)}"
    assert list(dataset.problems) == [told]
    check(read(path), np.concatenate([UMI[key] for key in keys], axis=1), None)
    assert readers_zarr.open_dataset(path, ReaderOptions(action=[keys[0]])).problems == ()
    shutil.rmtree(path / "data" / "robot1_gripper_width")
    with pytest.raises(DatasetError, match="no array 'data/robot1_gripper_width'; data has robot0"):
        read(path)


def test_a_dataset_tells_its_files(tmp_path: Path) -> None:
    path = write(tmp_path / "push.zarr")
    dataset = readers_zarr.open_dataset(path, ReaderOptions())
    assert (dataset.format, dataset.path, tuple(dataset.shards)) == ("Zarr", path, (path,))
    assert tuple(dataset.problems) == ()
    files = {file.relative_to(path).as_posix() for file in dataset.metadata_files}
    assert {"data/action/.zarray", "data/action/4.0", "meta/episode_ends/1"} <= files
    assert not any("img" in file or "n_contacts" in file for file in files)
    archive = pack(tmp_path / "push.zarr.zip", path)
    assert tuple(readers_zarr.open_dataset(archive, ReaderOptions()).metadata_files) == ()
    with pytest.raises(ValueError, match="is no shard"):
        next(dataset.read_shard(archive))


@pytest.mark.parametrize("packed", [False, True])
def test_images_are_not_read(tmp_path: Path, packed: bool) -> None:
    path = write(tmp_path / "push.zarr")
    for chunk in (path / "data/img").glob("[0-9]*"):
        chunk.write_bytes(b"no image")
    metadata = path / "data/img/.zarray"
    content = json.loads(metadata.read_text()) | {"compressor": {"id": "imagecodecs_jpegxl"}}
    metadata.write_text(json.dumps(content))
    if packed:
        path = pack(tmp_path / "push.zarr.zip", path)
    check(read(path), DATA["action"], DATA["state"])


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "push.zarr")
    with pytest.raises(DatasetError, match="split = 'train' is set"):
        read(path, split="train")
    for name in ("/action", "../meta/episode_ends", "", "a//b", "..\\x"):
        with pytest.raises(DatasetError, match="is not relative to data"):
            read(path, state=[name])
    with pytest.raises(DatasetError, match="no array 'data/absent'; data has action, img"):
        read(path, state=["absent"])


def test_without_the_library_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "push.zarr")
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(DatasetError, match="is not installed") as caught:
        readers.open_dataset(path)
    assert caught.value.hint == "pip install ambient-curate[zarr]"


def test_values_that_are_not_finite_are_read_as_such(tmp_path: Path) -> None:
    action = np.full((FRAMES, 2), 1e300)
    action[4] = np.nan
    path = write(tmp_path / "push.zarr", {"action": action})
    episodes = read(path)
    assert np.isinf(episodes[0].action).all() and np.isnan(episodes[1].action[1]).all()
    (member,) = open_collection(path).members
    with pytest.raises(DatasetError, match=r"episode episode_0 .* action is not finite"):
        list(read_episodes(member))


def test_directories_are_recognized_by_name_or_content(tmp_path: Path) -> None:
    path = write(tmp_path / "replay", {"action": DATA["action"]})
    check([*readers.open_dataset(path).read_shard(path)], DATA["action"], None)
    (tmp_path / "empty.ZARR").mkdir()
    assert readers_zarr.recognizes(tmp_path / "empty.ZARR")
    (tmp_path / "other.zip").write_bytes(b"")
    for other in (tmp_path, path / "data", path / "meta", tmp_path / "other.zip"):
        assert not readers.recognizes(other)


def test_memory_is_that_of_a_chunk_and_an_episode(tmp_path: Path) -> None:
    action = np.arange(2_000_000, dtype=np.float32).reshape(-1, 2)  # 8 MB
    ends = np.arange(1000, len(action) + 1, 1000)
    path = write(tmp_path / "long.zarr", {"action": action}, ends=ends, chunk=5000)
    dataset = readers_zarr.open_dataset(path, ReaderOptions())
    tracemalloc.start()
    for number, episode in enumerate(dataset.read_shard(path)):
        assert episode.action[0, 0] == 2000 * number
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number == 999
    assert peak < action.nbytes / 4


def test_a_collection_mixes_zarr_and_hdf5(tmp_path: Path) -> None:
    write(tmp_path / "push.zarr", {"action": DATA["action"]})
    with h5py.File(tmp_path / "own.hdf5", "w") as file:
        file["data/demo_0/actions"] = DATA["action"]
    collection = open_collection(tmp_path, clean="own")
    formats = {member.name: member.dataset.format for member in collection.members}
    assert formats == {"own": "HDF5", "push": "Zarr"}
    assert require_clean(collection) == "own"
    lengths = [[e.length for e in read_episodes(member)] for member in collection.members]
    assert lengths == [[FRAMES], list(LENGTHS)]
    before = fingerprint(collection.members[1])
    chunk = tmp_path / "push.zarr/data/action/0.0"
    os.utime(chunk, ns=(1, 1))
    assert fingerprint(collection.members[1]) != before
