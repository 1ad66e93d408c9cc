"""Numbers of episodes: the source's own in every format that has them, else positions."""

import tempfile
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr_writer
from array_writer import save
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_writer import DIM, WRITERS, write_lerobot2, write_rlds, write_robomimic

from ambient_curate import readers
from ambient_curate.readers.episodes import (
    Dataset,
    Episode,
    EpisodeName,
    find_shared_frames,
    natural_key,
    numbers_in_names,
)

NUMBERS = st.lists(st.integers(0, 3000), min_size=2, max_size=6, unique=True)


def make_actions(numbers: list[int]) -> dict[int, np.ndarray]:
    return {
        number: np.random.default_rng(number).normal(size=(2 + number % 3, DIM)).astype(np.float32)
        for number in numbers
    }


def read(path: Path) -> tuple[Dataset, list[Episode]]:
    """Read all episodes, and check that they were listed so before."""
    dataset = readers.open_dataset(path)
    episodes = []
    for shard in dataset.shards:
        found = list(dataset.read_shard(shard))
        names = [EpisodeName(each.id, each.number) for each in found]
        assert sorted(dataset.list_episodes(shard)) == sorted(names)
        episodes += found
    return dataset, episodes


@pytest.mark.parametrize("name", WRITERS)
@given(numbers=NUMBERS)
@settings(max_examples=15, deadline=None)
def test_every_episode_has_the_number_that_the_source_gives_it(
    name: str, numbers: list[int]
) -> None:
    actions = make_actions(numbers)
    with tempfile.TemporaryDirectory() as folder:
        dataset, episodes = read(WRITERS[name](Path(folder) / "set", actions))
        assert dataset.is_numbered
        assert sorted(each.number for each in episodes) == sorted(numbers)
        for each in episodes:
            np.testing.assert_array_equal(each.action, actions[each.number])


@given(numbers=NUMBERS)
@settings(max_examples=15, deadline=None)
def test_files_of_one_episode_are_read_in_the_order_of_their_numbers(numbers: list[int]) -> None:
    for name in ("aloha", "npy"):
        with tempfile.TemporaryDirectory() as folder:
            _, episodes = read(WRITERS[name](Path(folder) / "set", make_actions(numbers)))
            assert [each.number for each in episodes] == sorted(numbers)


def test_where_the_source_has_no_numbers_they_are_positions(tmp_path: Path) -> None:
    for folder in ("npy", "npz"):
        (tmp_path / folder).mkdir()
    for name in ("walk10", "walk9", "start"):  # no one place of a number that all names have
        save(tmp_path / "npy" / f"{name}.npy", np.full((3, 2), len(name)))
    save(tmp_path / "npz" / "set7.npz", action=np.ones((5, 2)), episode_ends=[2, 5])
    zarr_writer.write(tmp_path / "set.zarr")
    for path, ids in (
        ("npy", ["start", "walk9", "walk10"]),
        ("npz", ["set7__0", "set7__1"]),
        ("set.zarr", [f"episode_{k}" for k in range(4)]),
    ):
        dataset, episodes = read(tmp_path / path)
        assert not dataset.is_numbered
        assert [(each.number, each.id) for each in episodes] == list(enumerate(ids))


def test_numbers_that_two_files_share_are_none(tmp_path: Path) -> None:
    actions = make_actions([0, 3])
    for task in (2, 10):
        root = write_robomimic(tmp_path / "one", actions)
        (tmp_path / "set").mkdir(exist_ok=True)
        (root / "demos.hdf5").rename(tmp_path / "set" / f"task{task}.hdf5")
        root.rmdir()
    dataset, episodes = read(tmp_path / "set")
    assert not dataset.is_numbered
    names = ["task2/demo_0", "task2/demo_3", "task10/demo_0", "task10/demo_3"]
    assert [(each.number, each.id) for each in episodes] == list(enumerate(names))
    with h5py.File(tmp_path / "set" / "task10.hdf5", "a") as file:
        for number in (0, 3):
            file.move(f"data/demo_{number}", f"data/demo_{number + 5}")
    assert [each.number for each in read(tmp_path / "set")[1]] == [0, 3, 5, 8]


@pytest.mark.parametrize("numbers", [[4, 4, 5], [4, -1, 5]])
def test_metadata_that_do_not_tell_episodes_apart_are_no_numbers(
    tmp_path: Path, numbers: list[int]
) -> None:
    action = np.ones((3, DIM), np.float32)
    root = write_rlds(tmp_path / "set", [(number, action) for number in numbers])
    dataset, episodes = read(root)
    assert not dataset.is_numbered
    assert [each.number for each in episodes] == [0, 1, 2]
    assert [each.labels["episode_id"] for each in episodes] == numbers


def test_a_damaged_shard_does_not_renumber_the_others(tmp_path: Path) -> None:
    root = write_rlds(tmp_path / "set", make_actions([7, 5, 9, 2]))
    dataset, _ = read(root)
    first, second = dataset.shards
    Path(first).write_bytes(Path(first).read_bytes()[:-5])
    damaged = readers.open_dataset(root)
    assert damaged.list_episodes(second) == dataset.list_episodes(second)
    assert not {7, 5} & {name.number for name in damaged.list_episodes(first)}


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=6, unique=True))
def test_numbers_in_names_order_them(numbers: list[int]) -> None:
    names = [f"episode_{number}" for number in numbers]
    assert sorted(names, key=natural_key) == [f"episode_{number}" for number in sorted(numbers)]
    assert numbers_in_names(names) == numbers
    padded = numbers_in_names([f"2024_run{number:07d}_v2" for number in numbers])
    assert padded == (numbers if len(numbers) > 1 else None)


@given(st.lists(st.text("a1_0", max_size=5), unique=True))
def test_the_natural_order_is_total(names: list[str]) -> None:
    for before, after in pairwise(sorted(names, key=natural_key)):
        assert natural_key(before) < natural_key(after)


@pytest.mark.parametrize(
    "names",
    [
        ["a", "b"],
        ["episode_1", "episode_01"],
        ["2024-05-01_ep3", "2024-05-02_ep4"],
        ["left_1", "right_2"],
        ["episode_1", "last"],
        [f"episode_{2**63}", "episode_1"],
        [],
    ],
)
def test_names_that_do_not_number_alike_give_no_numbers(names: list[str]) -> None:
    assert numbers_in_names(names) is None


@given(st.lists(st.tuples(st.integers(-1, 12), st.integers(0, 4)), max_size=6))
def test_shared_frames_are_found_wherever_there_are_any(spans: list[tuple[int, int]]) -> None:
    first = np.array([max(start, -1) for start, _ in spans], np.int64)
    length = np.array([count for _, count in spans], np.int64)
    sets = [
        set(range(start, start + count)) if start >= 0 else set[int]() for start, count in spans
    ]
    pairs = {(a, b) for a in range(len(sets)) for b in range(len(sets)) if a != b}
    shared = {pair for pair in pairs if sets[pair[0]] & sets[pair[1]]}
    found = find_shared_frames(first, length)
    assert (found in shared) if shared else found is None


def test_an_index_by_number_is_read_in_any_order_of_rows(tmp_path: Path) -> None:
    actions = make_actions([8, 3, 5])
    lengths = {number: len(action) for number, action in actions.items()}
    starts = {3: 0, 5: lengths[3], 8: lengths[3] + lengths[5]}
    _, episodes = read(write_lerobot2(tmp_path / "set", actions))
    assert {each.number: each.first_frame for each in episodes} == starts
