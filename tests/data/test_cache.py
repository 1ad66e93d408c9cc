"""The low-dimensional cache: what is written is what is mapped, and damage is found."""

import dataclasses
import hashlib
import json
import os
import tempfile
import tracemalloc
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tensordict import TensorDict

from ambient_curate.data.cache import EPISODES_FILE, Frames, load_frames, write_frames
from ambient_curate.errors import DatasetError
from ambient_curate.readers.episodes import Episode

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
LABELS = st.dictionaries(
    st.text(max_size=5),
    st.one_of(st.text(max_size=5), st.integers(), st.booleans(), st.floats(allow_nan=False)),
    max_size=3,
)


@st.composite
def episode_lists(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw fields of episodes: to check their types takes chance, which a strategy may not."""
    action_dim = draw(st.integers(1, 3))
    state_dim = draw(st.integers(1, 3))
    ids = draw(st.lists(st.text(max_size=6), min_size=1, max_size=5, unique=True))
    episodes = []
    for index, id_ in enumerate(ids):
        length = draw(st.integers(0, 6))
        episodes.append(
            {
                "id": id_,
                "number": index * 7,
                "action": draw(arrays(np.float32, (length, action_dim), elements=FLOATS)),
                "source": Path("data") / f"file-{index % 2}.npz",
                "state": draw(
                    st.none() | arrays(np.float32, (length, state_dim), elements=FLOATS),
                ),
                "task": draw(st.none() | st.text(max_size=5)),
                "rate_hz": draw(st.none() | st.floats(1, 1000)),
                "first_frame": draw(st.none() | st.integers(0, 2**62)),
                "labels": draw(LABELS),
            }
        )
    return episodes


def episode(id_: str, length: int = 4, dim: int = 2, **changes: object) -> Episode:
    seed = np.random.default_rng([length, dim])
    action = seed.normal(size=(length, dim)).astype(np.float32)
    plain = Episode(id=id_, number=0, action=action, source=Path("data/a.npz"))
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def check_equal(frames: Frames, episodes: list[Episode]) -> None:
    assert frames.n_episodes == len(episodes)
    assert frames.n_frames == sum(e.length for e in episodes)
    assert list(frames.ids) == [e.id for e in episodes]
    assert frames.number.tolist() == [e.number for e in episodes]
    assert frames.length.tolist() == [e.length for e in episodes]
    assert list(frames.task) == [e.task for e in episodes]
    assert list(frames.source) == [e.source.as_posix() for e in episodes]
    assert list(frames.labels()) == [e.labels for e in episodes]
    first = [-1 if e.first_frame is None else e.first_frame for e in episodes]
    assert frames.first_frame.tolist() == first
    assert frames.rate_hz == next((e.rate_hz for e in episodes if e.rate_hz is not None), None)
    assert frames.action_dim == episodes[0].action.shape[1]
    stateful = all(e.state is not None for e in episodes)
    assert frames.state_dim == (episodes[0].state.shape[1] if stateful else 0)  # type: ignore[union-attr]
    assert set(frames.data.keys()) == ({"action", "state"} if stateful else {"action"})
    for e, start, length in zip(episodes, frames.offset, frames.length, strict=True):
        for key, values in (("action", e.action), ("state", e.state)):
            if key in frames.data.keys():  # noqa: SIM118
                mapped = frames.data[key][start : start + length].numpy()
                np.testing.assert_array_equal(mapped, values, strict=True)


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(episode_lists())
def test_any_list_of_episodes_comes_back_exactly(fields: list[dict[str, Any]]) -> None:
    episodes = [Episode(**each) for each in fields]
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "deep" / "member"
        check_equal(write_frames(iter(episodes), directory), episodes)
        check_equal(load_frames(directory), episodes)
        assert os.listdir(directory.parent) == ["member"]


def test_tensordict_reads_the_folder_by_itself(tmp_path: Path) -> None:
    state = np.arange(8, dtype=np.float32).reshape(4, 2)
    frames = write_frames([episode("a", state=state), episode("b", state=state)], tmp_path / "m")
    plain = TensorDict.load_memmap(tmp_path / "m", mode="r", allow_pickle=False)
    assert plain.batch_size == frames.data.batch_size == torch.Size([8])
    assert (plain == frames.data).all()


def test_duplicates_share_a_digest_and_nothing_else_does(tmp_path: Path) -> None:
    action = np.arange(12, dtype=np.float32)
    other = action.copy()
    other[-1] = np.nextafter(other[-1], np.float32(0))
    shapes = {"a": action.reshape(6, 2), "b": action.reshape(6, 2).copy(), "c": other.reshape(6, 2)}
    frames = write_frames([episode(k, action=v) for k, v in shapes.items()], tmp_path / "m")
    a, b, c = frames.digest
    assert a == b != c
    assert a == hashlib.sha256(np.array([6, 2], "<i8").tobytes() + action.tobytes()).digest()
    reshaped = write_frames([episode("a", action=action.reshape(3, 4))], tmp_path / "n")
    assert reshaped.digest.item() != a


def test_sources_are_relative_to_the_root(tmp_path: Path) -> None:
    source = tmp_path / "set" / "data" / "a.npz"
    frames = write_frames(
        [episode("a", source=source)], tmp_path / "m", source_root=tmp_path / "set"
    )
    assert list(frames.source) == ["data/a.npz"]
    with pytest.raises(ValueError, match="is not in the subpath"):
        write_frames([episode("a", source=source)], tmp_path / "n", source_root=tmp_path / "else")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (episode("b", dim=3), r"episode 'b' of data/a.npz has 3 action dimensions, episode 'a'"),
        (episode("b", state=np.zeros((4, 1), np.float32)), r"1 state dimension, episode 'a' .* 5"),
        (episode("a", source=Path("data/z.npz")), r"share the id 'a': .*a\.npz, .*z\.npz"),
    ],
)
def test_episodes_that_do_not_fit_together(tmp_path: Path, second: Episode, message: str) -> None:
    first = episode("a", state=np.zeros((4, 5), np.float32))
    with pytest.raises(DatasetError, match=message) as caught:
        write_frames([first, second], tmp_path / "m")
    assert caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_state_of_another_length_than_the_actions(tmp_path: Path) -> None:
    torn = episode("a")
    object.__setattr__(torn, "state", np.zeros((3, 5), np.float32))  # what a reader's bug makes
    with pytest.raises(DatasetError, match=r"'a' of data/a.npz has 3 states and 4 actions"):
        write_frames([torn], tmp_path / "m")


def test_no_episode_or_an_existing_folder_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no episode"):
        write_frames([], tmp_path / "m")
    write_frames([episode("a")], tmp_path / "m")
    with pytest.raises(ValueError, match="exists"):
        write_frames([episode("b")], tmp_path / "m")
    assert list(load_frames(tmp_path / "m").ids) == ["a"]


def test_a_failed_write_leaves_nothing_and_a_killed_one_is_swept(tmp_path: Path) -> None:
    def failing() -> Iterator[Episode]:
        yield episode("a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_frames(failing(), tmp_path / "m")
    assert not list(tmp_path.iterdir())

    leftover = tmp_path / ".m.partial"
    leftover.mkdir()
    (leftover / "state.memmap").write_bytes(b"half an epis")
    assert write_frames([episode("a")], tmp_path / "m").n_frames == 4
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_writing_into_mapped_frames_never_reaches_the_files(tmp_path: Path) -> None:
    frames = write_frames([episode("a")], tmp_path / "m")
    before = (tmp_path / "m" / "action.memmap").read_bytes()
    frames.data["action"][0] = 7.0
    assert (tmp_path / "m" / "action.memmap").read_bytes() == before
    assert load_frames(tmp_path / "m").data["action"][0, 0] != 7.0


def test_a_worker_receives_the_file_and_not_the_data(tmp_path: Path) -> None:
    frames = write_frames([episode("a", length=50_000)], tmp_path / "m")
    message = ForkingPickler.dumps(frames.data)
    assert len(message) < 5_000
    assert torch.equal(ForkingPickler.loads(message)["action"], frames.data["action"])


@pytest.mark.parametrize("name", ["action.memmap", "state.memmap", EPISODES_FILE])
@pytest.mark.parametrize("damage", ["missing", "shorter", "longer"])
def test_damage_is_named(tmp_path: Path, name: str, damage: str) -> None:
    write_frames([episode("a", state=np.ones((4, 3), np.float32))], tmp_path / "m")
    path = tmp_path / "m" / name
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(whole[:-1] if damage == "shorter" else whole + b"\0")
    with pytest.raises(DatasetError, match=name) as caught:
        load_frames(tmp_path / "m")
    assert "delete" in (caught.value.hint or "")
    if damage != "missing":  # found before mapping, which would have grown a short file
        assert path.stat().st_size == len(whole) + (1 if damage == "longer" else -1)


def test_no_flipped_bit_of_the_table_gives_a_wrong_number(tmp_path: Path) -> None:
    episodes = [episode(str(i), length=i, rate_hz=20.0, labels={"x": i}) for i in range(5)]
    write_frames(episodes, tmp_path / "m")
    path = tmp_path / "m" / EPISODES_FILE
    whole = path.read_bytes()
    bits = np.random.default_rng(0).integers(8, size=len(whole))
    found = 0
    for position in range(0, len(whole), 13):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(bits[position])
        path.write_bytes(damaged)
        try:
            frames = load_frames(tmp_path / "m")
        except DatasetError:
            found += 1
        else:
            check_equal(frames, episodes)
    assert found > 100


def test_another_table_is_not_taken_for_ours(tmp_path: Path) -> None:
    write_frames([episode("a")], tmp_path / "m")
    path = tmp_path / "m" / EPISODES_FILE
    pq.write_table(pq.read_table(path).drop_columns(["digest"]), path)
    with pytest.raises(DatasetError, match="another version"):
        load_frames(tmp_path / "m")
    with pytest.raises(DatasetError, match="missing"):
        load_frames(tmp_path / "nowhere")


def anonymous_bytes() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc")
    line = next(row for row in status.read_text().splitlines() if row.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    length, dim, count = 8192, 16, 96
    size = 4 * length * dim  # half a megabyte an episode, 48 MiB in all

    def stream() -> Iterator[Episode]:
        for i in range(count):
            yield episode(str(i), action=np.full((length, dim), i, np.float32))

    tracemalloc.start()
    frames = write_frames(stream(), tmp_path / "m")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * size
    assert json.loads((tmp_path / "m" / "meta.json").read_text())["shape"] == [length * count]

    before = anonymous_bytes()
    means = frames.data["action"].view(count, -1).mean(1)  # touches every page
    assert means.tolist() == list(range(count))
    assert anonymous_bytes() - before < 4 * size
