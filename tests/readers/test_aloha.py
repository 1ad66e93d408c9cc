"""ALOHA's and ACT's files, one an episode."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ambient_curate.data.collection import open_collection, read_episodes
from ambient_curate.errors import DatasetError
from ambient_curate.readers import hdf5
from ambient_curate.readers.episodes import Episode, ReaderOptions

RNG = np.random.default_rng(0)


def write(path: Path, frames: int = 6) -> dict[str, np.ndarray]:
    """Write a file as ACT's recorder does, and return what is in it."""
    names = ("action", "observations/qpos", "observations/qvel")
    arrays = {name: RNG.standard_normal((frames, 14)) for name in names}
    with h5py.File(path, "w", rdcc_nbytes=1024**2) as file:
        file.attrs["sim"] = True
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
        file.create_dataset(
            "observations/images/top",
            data=np.ones((frames, 4, 6, 3), np.uint8),
            chunks=(1, 4, 6, 3),
        )
    return arrays


def read(path: Path, **options: Any) -> list[Episode]:
    dataset = hdf5.open_dataset(path, ReaderOptions(**options))
    return [episode for shard in dataset.shards for episode in dataset.read_shard(shard)]


def test_the_files_of_a_directory_are_the_episodes(tmp_path: Path) -> None:
    written = {f"episode_{i}": write(tmp_path / f"episode_{i}.hdf5", 4 + i) for i in range(3)}
    dataset = hdf5.open_dataset(tmp_path, ReaderOptions())
    assert (dataset.format, tuple(dataset.problems)) == ("ALOHA HDF5", ())
    assert tuple(dataset.metadata_files) == ()
    episodes = read(tmp_path)
    assert [e.id for e in episodes] == list(written)
    assert [e.number for e in episodes] == [0, 1, 2]
    for episode in episodes:
        arrays = written[episode.id]
        np.testing.assert_array_equal(episode.action, arrays["action"].astype(np.float32))
        assert episode.state is not None
        np.testing.assert_array_equal(episode.state, arrays["observations/qpos"].astype(np.float32))
        assert episode.source == tmp_path / f"{episode.id}.hdf5"
        assert (episode.task, episode.rate_hz, episode.labels) == (None, None, {"sim": True})
    with pytest.raises(ValueError, match="no shard"):
        next(dataset.read_shard(tmp_path / "episode_9.hdf5"))


def test_one_file_is_a_dataset_of_one_episode(tmp_path: Path) -> None:
    path = tmp_path / "episode_7.hdf5"
    arrays = write(path)
    names = ["observations/qvel", "observations/qpos"]
    (episode,) = read(path, state=names, rate_hz=50.0)
    assert (episode.id, episode.number, episode.rate_hz) == ("episode_7", 7, 50)
    expected = np.concatenate([arrays[name] for name in names], axis=1).astype(np.float32)
    np.testing.assert_array_equal(episode.state, expected)
    (delta,) = read(path, action=["observations/qpos"])
    np.testing.assert_array_equal(delta.action, expected[:, 14:])


def test_a_collection_has_the_directory_as_one_member(tmp_path: Path) -> None:
    for name in ("clean", "other"):
        (tmp_path / name).mkdir()
        for number in range(2):
            write(tmp_path / name / f"episode_{number}.hdf5")
    collection = open_collection(tmp_path)
    assert [member.name for member in collection.members] == ["clean", "other"]
    assert [e.id for e in read_episodes(collection.members[0])] == ["episode_0", "episode_1"]


def test_images_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "episode_0.hdf5"
    arrays = write(path)
    with h5py.File(path) as file:
        images = file["observations/images/top"].id
        place = images.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place : place + 72] = b"\xff" * 72
    path.write_bytes(content)
    (episode,) = read(path)
    np.testing.assert_array_equal(episode.action, arrays["action"].astype(np.float32))
    with h5py.File(path, "a") as file:
        del file["observations/images/top"]
        file.create_dataset("observations/images/top", shape=(6, 4), chunks=(1, 4), dtype="u1")
    assert len(read(path)) == 1


def replace(name: str, **dataset: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        if dataset:
            file.create_dataset(name, **dataset)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replace("action"), "no dataset 'action'; it has observations/images/top, observations/q"),
        (replace("action", data=np.zeros((5, 14))), "5 by action, 6 by observations/qpos"),
        (replace("action", data=["a"] * 6), "action is object of shape"),
        (replace("action", shape=(6, 14), dtype="f4"), "action has 0 of 336 bytes"),
        (replace("action", shape=(6, 14), chunks=(2, 14), dtype="f4"), "has 0 of 3 chunks"),
        (replace("action", data=0.0), r"action is float64 of shape \(\)"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_an_error(
    tmp_path: Path, change: Callable[[h5py.File], None], reason: str
) -> None:
    path = tmp_path / "episode_0.hdf5"
    write(path)
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(DatasetError, match=rf"episode_0\.hdf5.*{reason}") as caught:
        read(path)
    assert caught.value.hint


def test_a_state_that_one_file_lacks_is_an_error(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"episode_{number}.hdf5")
    with h5py.File(tmp_path / "episode_1.hdf5", "a") as file:
        del file["observations/qpos"]
    with pytest.raises(DatasetError, match=r"episode_1\.hdf5: / has no dataset 'observations/qpos"):
        read(tmp_path)
    (tmp_path / "episode_0.hdf5").unlink()
    assert [episode.state for episode in read(tmp_path)] == [None]


def test_layouts_are_not_mixed_in_a_directory(tmp_path: Path) -> None:
    write(tmp_path / "episode_0.hdf5")
    with h5py.File(tmp_path / "zoo.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((3, 2))
    with pytest.raises(DatasetError, match=r"episode_0\.hdf5 is ALOHA, zoo\.hdf5 is robomimic's"):
        read(tmp_path)


def test_a_file_of_another_layout_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["actions"] = np.zeros((3, 2))
    with pytest.raises(DatasetError, match="no 'action'; it holds actions") as caught:
        read(tmp_path)
    assert caught.value.hint is not None and "ALOHA (action)" in caught.value.hint


def test_a_value_that_is_not_finite_is_told(tmp_path: Path) -> None:
    path = tmp_path / "episode_0.hdf5"
    write(path)
    with h5py.File(path, "a") as file:
        file["action"][2, 3] = np.nan
    (member,) = open_collection(path).members
    with pytest.raises(DatasetError, match="action is not finite in 1 frame, the first is 2"):
        list(read_episodes(member))


def test_the_named_action_at_the_root_makes_a_file_an_episode(tmp_path: Path) -> None:
    written = []
    for number in range(3):
        values = RNG.standard_normal((5, 2)), RNG.standard_normal(5)
        with h5py.File(tmp_path / f"run_{number}.h5", "w") as file:
            file["pose/end"], file["gripper"], file["step"] = *values, np.arange(5)
        written.append(np.column_stack(values).astype(np.float32))
    with pytest.raises(DatasetError, match="it holds gripper, pose, step") as caught:
        read(tmp_path)
    assert "action = [" in str(caught.value.hint)
    episodes = read(tmp_path, action=["pose/end", "gripper"], state=["step"])
    assert [each.id for each in episodes] == ["run_0", "run_1", "run_2"]
    for episode, action in zip(episodes, written, strict=True):
        np.testing.assert_array_equal(episode.action, action)
        np.testing.assert_array_equal(episode.state, np.arange(5)[:, None])


def test_a_file_without_the_named_action_costs_itself(tmp_path: Path) -> None:
    for number, name in enumerate(("end", "end", "other")):
        with h5py.File(tmp_path / f"run_{number}.h5", "w") as file:
            file[name] = np.ones((5, 2))
    (tmp_path / "ambient.toml").write_text(f'[datasets.{tmp_path.name}]\naction = ["end"]')
    (member,) = open_collection(tmp_path).members
    reports: list[str] = []
    kept = list(read_episodes(member, on_error="skip", on_skip=lambda p, _: reports.append(p.name)))
    assert [each.id for each in kept] == ["run_0", "run_1"]
    assert reports == ["run_2.h5"]
