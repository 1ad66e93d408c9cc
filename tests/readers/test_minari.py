"""Minari's files, as its version 0.5 writes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ambient_curate import readers
from ambient_curate.data.collection import open_collection, read_episodes
from ambient_curate.errors import DatasetError
from ambient_curate.readers import hdf5
from ambient_curate.readers.episodes import Episode, ReaderOptions

RNG = np.random.default_rng(0)
STEPS = {0: 5, 1: 6, 2: 7, 10: 4}
ACTIONS = {f"episode_{i}": RNG.standard_normal((n, 2)).astype("f4") for i, n in STEPS.items()}
SEEN = {f"episode_{i}": RNG.standard_normal((n + 1, 3)).astype("f4") for i, n in STEPS.items()}


def write(root: Path, *, grouped: bool = False) -> Path:
    """Write ``root/data/main_data.hdf5`` and its metadata; observations as an array or a group."""
    (root / "data").mkdir(parents=True)
    with h5py.File(root / "data/main_data.hdf5", "w", track_order=True) as file:
        for number, (name, action) in enumerate(ACTIONS.items()):
            steps = len(action)
            episode = file.create_group(name, track_order=True)
            episode.attrs.update(id=number, seed=np.int64(3), total_steps=steps)
            if grouped:
                episode["observations/pos"] = SEEN[name]
                episode["observations/img"] = np.ones((steps + 1, 4, 4, 3), np.uint8)
                episode["observations/mission"] = ["reach"] * (steps + 1)
            else:
                episode["observations"] = SEEN[name]
            episode["actions"] = action
            episode["rewards"] = np.zeros(steps)
            episode["terminations"] = np.zeros(steps, bool)
            episode["truncations"] = np.zeros(steps, bool)
            episode["infos/success"] = np.arange(steps + 1) > 3
    metadata = {
        "total_episodes": len(ACTIONS),
        "total_steps": sum(STEPS.values()),
        "data_format": "hdf5",
        "env_spec": json.dumps({"id": "AdroitHandDoor-v1", "max_episode_steps": 200}),
        "dataset_id": "toy/door-v0",
    }
    (root / "data/metadata.json").write_text(json.dumps(metadata))
    return root


def read(path: Path, **options: Any) -> list[Episode]:
    dataset = readers.open_dataset(path, ReaderOptions(**options))
    return [episode for shard in dataset.shards for episode in dataset.read_shard(shard)]


def test_what_is_written_is_read_without_the_observation_after_the_last_action(
    tmp_path: Path,
) -> None:
    root = write(tmp_path / "door-v0")
    file = root / "data/main_data.hdf5"
    for path in (root, root / "data", file):
        dataset = readers.open_dataset(path)
        assert (dataset.format, tuple(dataset.shards)) == ("Minari HDF5", (file,))
        assert tuple(dataset.metadata_files) == (root / "data/metadata.json",)
        assert tuple(dataset.problems) == ()
        episodes = read(path)
        assert [e.id for e in episodes] == list(ACTIONS)
        assert [e.number for e in episodes] == [0, 1, 2, 10]
        for number, episode in enumerate(episodes):
            np.testing.assert_array_equal(episode.action, ACTIONS[episode.id])
            assert episode.state is not None
            np.testing.assert_array_equal(episode.state, SEEN[episode.id][:-1])
            assert (episode.task, episode.rate_hz) == ("AdroitHandDoor-v1", None)
            assert episode.labels == {"id": number, "seed": 3, "total_steps": episode.length}


def test_grouped_observations_are_read_where_they_are_named(tmp_path: Path) -> None:
    root = write(tmp_path / "door-v0", grouped=True)
    assert {episode.state for episode in read(root)} == {None}
    for episode in read(root, state=["infos/success", "observations/pos"], rate_hz=25.0):
        assert episode.state is not None and episode.rate_hz == 25
        np.testing.assert_array_equal(episode.state[:, 0], np.arange(episode.length) > 3)
        np.testing.assert_array_equal(episode.state[:, 1:], SEEN[episode.id][:-1])
    with pytest.raises(DatasetError, match="no dataset 'observations'; it has actions, infos/succ"):
        read(root, state=["observations"])


def test_images_are_no_state(tmp_path: Path) -> None:
    root = write(tmp_path / "atari-v0")
    with h5py.File(root / "data/main_data.hdf5", "a") as file:
        for name, action in ACTIONS.items():
            del file[name]["observations"]
            shape = (len(action) + 1, 4, 4, 3)  # no chunk of them is there
            file[name].create_dataset("observations", shape=shape, chunks=(1, 4, 4, 3), dtype="u1")
    assert {episode.state for episode in read(root)} == {None}


def test_a_collection_of_datasets_names_each_by_its_directory(tmp_path: Path) -> None:
    for name in ("clean", "human-v2"):
        write(tmp_path / name)
    (tmp_path / "namespace_metadata.json").write_text("{}")
    collection = open_collection(tmp_path)
    assert [member.name for member in collection.members] == ["clean", "human-v2"]
    assert len(list(read_episodes(collection.members[1]))) == len(ACTIONS)


def test_unusual_contents_are_told(tmp_path: Path) -> None:
    root = write(tmp_path / "door-v0")
    with h5py.File(root / "data/main_data.hdf5", "a") as file:
        file.create_group("notes")
        del file["episode_10"]
    assert list(readers.open_dataset(root).problems) == [
        "main_data.hdf5: notes is no episode and is not read",
        "metadata.json tells 4 episodes, main_data.hdf5 has 3",
    ]


def test_what_the_metadata_does_not_tell_is_not_known(tmp_path: Path) -> None:
    root = write(tmp_path / "door-v0")
    metadata = root / "data/metadata.json"
    for content, task in (
        ('{"dataset_id": "toy/door-v0", "env_spec": 3}', "toy/door-v0"),
        ('{"dataset_id": ["x"]}', None),
        ("[1]", None),
        ("no JSON", None),
        ("[" * 100_000, None),
    ):
        metadata.write_text(content)
        assert {episode.task for episode in read(root)} == {task}
    metadata.write_bytes(b"\xff")
    with pytest.raises(DatasetError, match=r"metadata\.json cannot be read"):
        read(root)
    metadata.unlink()
    assert tuple(readers.open_dataset(root).metadata_files) == ()
    other = (root / "data/main_data.hdf5").rename(tmp_path / "other.hdf5")
    assert [episode.task for episode in read(other)] == [None] * 4


def replace(name: str, **dataset: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        if dataset:
            file.create_dataset(name, **dataset)

    return change


def nan(file: h5py.File) -> None:
    file["episode_1/actions"][2, 0] = np.nan


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replace("episode_1/actions"), "no dataset 'actions'; it has infos/success, observations"),
        (
            replace("episode_1/actions", data=np.zeros((5, 2))),
            "5 by actions, 6 by observations but for its last row, 6 by the attribute total_steps",
        ),
        (
            replace("episode_1/observations", data=np.zeros((6, 3))),
            "6 by actions, 5 by observations but for its last row",
        ),
        (replace("episode_1/rewards", data=np.zeros(4)), "4 by rewards"),
        (lambda f: f["episode_1"].attrs.modify("total_steps", 3), "3 by the attribute total_steps"),
        (replace("episode_1/actions", data=["a"] * 6), "actions is object of shape"),
        (replace("episode_1/actions", shape=(6, 2), dtype="f4"), "0 of 48 bytes"),
        (replace("episode_1", data=1), "episode_1 is no group"),
        (replace("episode_0", data=1), "episode_0 is no group"),
        (nan, "action is not finite in 1 frame, the first is 2"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_an_error(
    tmp_path: Path, change: Callable[[h5py.File], None], reason: str
) -> None:
    root = write(tmp_path / "door-v0")
    with h5py.File(root / "data/main_data.hdf5", "a") as file:
        change(file)
    with pytest.raises(DatasetError, match=rf"main_data\.hdf5.*{reason}") as caught:
        (member,) = open_collection(root / "data/main_data.hdf5").members
        list(read_episodes(member))
    assert caught.value.hint


def test_a_cut_file_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path / "door-v0") / "data/main_data.hdf5"
    content = file.read_bytes()
    for length in np.linspace(0, len(content) - 1, 40).astype(int):
        file.write_bytes(content[:length])
        assert hdf5.recognizes(tmp_path / "door-v0")
        with pytest.raises(DatasetError, match=r"main_data\.hdf5"):
            read(tmp_path / "door-v0")
