"""Arrays are read exactly by the contract, and what breaks it is refused by name."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_writer import read_all, save, write_any
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from hypothesis.extra.numpy import arrays as any_arrays

from ambient_curate.errors import DatasetError
from ambient_curate.readers import plain_arrays
from ambient_curate.readers.episodes import ReaderOptions

RNG = np.random.default_rng(0)
SINGLE = RNG.normal(size=(6, 2))
BATCH = RNG.normal(size=(3, 6, 2))


def test_a_matrix_is_one_episode_named_by_its_file(tmp_path: Path) -> None:
    (episode,) = read_all(save(tmp_path / "walk.npy", SINGLE), rate_hz=20.0)
    assert (episode.id, episode.number, episode.rate_hz) == ("walk", 0, 20)
    assert (episode.state, episode.task, episode.first_frame) == (None, None, None)
    assert episode.labels == {}
    np.testing.assert_array_equal(episode.action, SINGLE.astype(np.float32))


def test_a_cube_is_an_episode_a_slice(tmp_path: Path) -> None:
    episodes = read_all(save(tmp_path / "walk.npy", np.asfortranarray(BATCH)))
    assert [episode.id for episode in episodes] == ["walk__0", "walk__1", "walk__2"]
    for episode, values in zip(episodes, BATCH, strict=True):
        np.testing.assert_array_equal(episode.action, values.astype(np.float32))
        assert episode.action.flags.writeable
        assert episode.action.flags.c_contiguous


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.sampled_from(["<f4", ">f8", "<f2", "|i1", ">i4", "<u8", "?"]).flatmap(
        lambda dtype: any_arrays(dtype, array_shapes(min_dims=2, max_dims=3, max_side=4))
    )
)
def test_every_number_is_read_as_numpy_casts_it(tmp_path: Path, values: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        expected = values.astype(np.float32)
    files = save(tmp_path / "x.npy", values), save(tmp_path / "x.npz", action=values)
    for path in files:
        read = np.array([episode.action for episode in read_all(path)])
        np.testing.assert_array_equal(read, expected.reshape(read.shape))


@pytest.mark.parametrize("key", ["action", "actions"])
def test_an_npz_is_cut_at_its_episode_ends(tmp_path: Path, key: str) -> None:
    named = {
        key: SINGLE,
        "state": SINGLE[:, :1],
        "task": np.array(["a", "b", "c"]),
        "episode_ends": [2, 2, 6],
    }
    episodes = read_all(save(tmp_path / "demo.npz", **named))
    assert [(e.id, e.length, e.task) for e in episodes] == [
        ("demo__0", 2, "a"),
        ("demo__1", 0, "b"),
        ("demo__2", 4, "c"),
    ]
    for episode, span in zip(episodes, [slice(2), slice(2, 2), slice(2, 6)], strict=True):
        np.testing.assert_array_equal(episode.action, SINGLE[span].astype(np.float32))
        np.testing.assert_array_equal(episode.state, SINGLE[span, :1].astype(np.float32))


def test_an_npz_without_ends_is_read_like_an_npy(tmp_path: Path) -> None:
    (episode,) = read_all(save(tmp_path / "one.npz", action=SINGLE, task="pick", note=[{}]))
    assert (episode.id, episode.task) == ("one", "pick")
    episodes = read_all(save(tmp_path / "many.npz", action=BATCH, state=BATCH))
    assert [episode.id for episode in episodes] == ["many__0", "many__1", "many__2"]
    np.testing.assert_array_equal(episodes[2].state, BATCH[2].astype(np.float32))


def test_values_beside_the_action_are_labels(tmp_path: Path) -> None:
    one = save(
        tmp_path / "one.npz",
        **{"action": SINGLE, "success": [True], "score": 0.5, "by": "ann", "id": np.bytes_("x")},
        **{"none": np.nan, "times": np.arange(6), "essay": "x" * 300, "info": [{}]},
    )
    (episode,) = read_all(one)
    assert episode.labels == {"success": True, "score": 0.5, "by": "ann", "id": "x"}
    assert type(episode.labels["success"]) is bool
    many = save(tmp_path / "many.npz", action=BATCH, success=[True, False, True], robot="so100")
    labels = [episode.labels for episode in read_all(many)]
    assert labels == [{"success": value, "robot": "so100"} for value in (True, False, True)]


def test_a_state_that_is_not_read_is_named(tmp_path: Path) -> None:
    dataset = plain_arrays.open_dataset(
        save(tmp_path / "x.npz", action=SINGLE, qpos=SINGLE), ReaderOptions()
    )
    assert len(dataset.problems) == 1
    assert 'state = ["qpos"]' in dataset.problems[0]
    with pytest.raises(DatasetError, match="no 'action'") as caught:
        read_all(save(tmp_path / "y.npz", arm_action=SINGLE, hand_action=SINGLE, done=SINGLE))
    assert str(caught.value.hint).endswith('action = ["arm_action", "hand_action"]')


def test_options_name_keys(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npz", arm=SINGLE, hand=SINGLE[:, :1] + 1)
    (episode,) = read_all(path, action=["hand", "arm"], state=["arm"])
    expected = np.concatenate([SINGLE[:, :1] + 1, SINGLE], axis=1).astype(np.float32)
    np.testing.assert_array_equal(episode.action, expected)
    np.testing.assert_array_equal(episode.state, SINGLE.astype(np.float32))
    with pytest.raises(DatasetError, match="no 'action', only 'arm', 'hand'"):
        read_all(path)
    with pytest.raises(DatasetError, match="no 'arm', only 'action'"):
        read_all(save(tmp_path / "x.npy", SINGLE), action=["arm"])


def test_an_array_without_frames_is_an_episode_and_nan_passes(tmp_path: Path) -> None:
    for path in (
        save(tmp_path / "x.npy", SINGLE[:0]),
        save(tmp_path / "x.npz", action=SINGLE[:0]),
    ):
        (episode,) = read_all(path)
        assert episode.action.shape == (0, 2)
    values = np.array([[np.nan, 1e300], [-np.inf, 0]])
    (episode,) = read_all(save(tmp_path / "y.npy", values))
    np.testing.assert_array_equal(episode.action, [[np.nan, np.inf], [-np.inf, 0]])


def test_files_of_a_directory_are_one_dataset(tmp_path: Path) -> None:
    save(tmp_path / "b.npy", BATCH)
    save(tmp_path / "a.npz", action=SINGLE)
    save(tmp_path / ".hidden.npy", SINGLE[:, :1])
    (tmp_path / "README.md").write_text("notes")
    dataset = plain_arrays.open_dataset(tmp_path, ReaderOptions())
    assert dataset.format == "npy and npz"
    assert [path.name for path in dataset.shards] == ["a.npz", "b.npy"]
    assert plain_arrays.members(tmp_path) == []
    episodes = read_all(tmp_path)
    assert [(e.id, e.number) for e in episodes] == [
        ("a", 0),
        ("b__0", 1),
        ("b__1", 2),
        ("b__2", 3),
    ]
    with pytest.raises(ValueError, match="no shard"):
        next(dataset.read_shard(tmp_path / "c.npy"))


def test_files_that_differ_in_dimension_are_members(tmp_path: Path) -> None:
    files = [
        save(tmp_path / "a.npz", action=SINGLE, state=SINGLE),
        save(tmp_path / "b.npy", SINGLE),
        save(tmp_path / "c.npy", BATCH),
    ]
    assert plain_arrays.members(tmp_path) == files
    assert plain_arrays.members(files[0]) == plain_arrays.members(tmp_path / "absent") == []
    with pytest.raises(DatasetError, match=r"differ in dimension: a\.npz has 2 .* 2 state") as got:
        read_all(tmp_path)
    assert "ambient.toml" in str(got.value.hint)


@pytest.mark.parametrize("other", ["a.npz", "a__1.npy"])
def test_two_episodes_of_one_name_are_refused(tmp_path: Path, other: str) -> None:
    save(tmp_path / "a.npy", BATCH if "1" in other else SINGLE)
    if other.endswith("npz"):
        save(tmp_path / other, action=SINGLE)
    else:
        save(tmp_path / other, SINGLE)
    with pytest.raises(DatasetError, match="two episodes"):
        read_all(tmp_path)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.array([[{}]]), "type object"),
        (SINGLE + 1j, "type complex128"),
        (np.array([["a"]]), "type <U1"),
        (np.array([["2026-01-01"]], "datetime64[D]"), "type datetime64"),
        (np.zeros((2, 1), [("x", "f4")]), "type"),
        (np.zeros(()), r"shape \(\)"),
        (np.zeros(5), r"shape \(5,\)"),
        (np.zeros((2, 2, 2, 2)), "shape"),
        (np.zeros((5, 0)), r"shape \(5, 0\)"),
        (np.zeros((5, 0, 2)), r"shape \(5, 0, 2\)"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, values: np.ndarray, match: str) -> None:
    for path in (save(tmp_path / "x.npy", values), save(tmp_path / "x.npz", action=values)):
        with pytest.raises(DatasetError, match=match) as caught:
            plain_arrays.open_dataset(path, ReaderOptions())
        assert str(path) in str(caught.value)
        assert caught.value.hint


@pytest.mark.parametrize(
    ("named", "match"),
    [
        ({"episode_ends": [4, 2, 6]}, "must rise"),
        ({"episode_ends": [-1, 6]}, "must rise"),
        ({"episode_ends": [2, 5]}, "must rise"),
        ({"episode_ends": [2, 7]}, "must rise"),
        ({"episode_ends": np.array([2**64 - 1], np.uint64)}, "must rise"),
        ({"episode_ends": np.array([], np.int64)}, "must rise"),
        ({"episode_ends": [2.0, 6.0]}, "whole numbers"),
        ({"episode_ends": 6}, "list of whole numbers"),
        ({"episode_ends": [[2, 6]]}, "list of whole numbers"),
        ({"episode_ends": [1, 2, 3], "action": BATCH}, "leading shape"),
        ({"state": SINGLE[:5]}, "leading axes"),
        ({"state": BATCH}, "leading axes"),
        ({"task": ["a", "b"]}, "task"),
        ({"task": 5}, "task"),
        ({"task": np.array({"a": 1})}, "task"),
        ({"task": "\ud800"}, "surrogates"),
    ],
)
def test_arrays_that_disagree_are_refused(
    tmp_path: Path, named: dict[str, Any], match: str
) -> None:
    path = save(tmp_path / "x.npz", **({"action": SINGLE} | named))
    with pytest.raises(DatasetError, match=match) as caught:
        plain_arrays.open_dataset(path, ReaderOptions())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.parquet"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 0.999])
def test_a_file_cut_short_is_named(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    write_any(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DatasetError, match=name) as caught:
        read_all(path)
    assert caught.value.hint


def test_bytes_after_the_array_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", SINGLE)
    path.write_bytes(path.read_bytes() + b"\0" * 8)
    with pytest.raises(DatasetError, match="has 104 bytes of values, expected 96"):
        read_all(path)


@pytest.mark.parametrize("shape", ["(10**15, 2)", "(1000000000000000, 2)", "(-6, 2)", "('a', 2)"])
def test_a_header_is_not_believed(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    (tmp_path / "x.npy").write_bytes(content + b"\0" * 96)
    with pytest.raises(DatasetError, match=r"x\.npy"):
        read_all(tmp_path / "x.npy")


def test_a_header_with_keys_of_two_kinds_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", SINGLE)
    path.write_bytes(path.read_bytes().replace(b" 'shape'", b"b'shape'"))
    with pytest.raises(DatasetError, match="cannot be read as an array file"):
        read_all(path)


def test_an_npz_whose_directory_lost_a_member_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npz", action=SINGLE, episode_ends=[2, 6])
    content = bytearray(path.read_bytes())
    entries = content.index(b"PK\x01\x02"), content.rindex(b"PK\x01\x02")
    end = content.rindex(b"PK\x05\x06")
    del content[entries[1] : end]
    size = (entries[1] - entries[0]).to_bytes(4, "little")
    end = content.rindex(b"PK\x05\x06")
    content[end + 12 : end + 16] = size
    path.write_bytes(content)
    assert np.load(path).files == ["action"]
    with pytest.raises(DatasetError, match="lists 1 arrays, and says it holds 2"):
        read_all(path)


def test_an_npz_whose_directory_calls_a_member_otherwise_is_refused(tmp_path: Path) -> None:
    """Without its ``episode_ends``, every frame would be of one episode."""
    path = tmp_path / "x.npz"
    write_any(path)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"episode_ends.npy") + 12] ^= 1  # the dot
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="differ"):
        read_all(path)


def test_other_paths_are_not_arrays(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.npy").mkdir()
    assert not plain_arrays.recognizes(tmp_path)
    assert not plain_arrays.recognizes(tmp_path / "notes.txt")
    assert not plain_arrays.recognizes(tmp_path / "absent.npy")
    with pytest.raises(DatasetError, match="holds no"):
        plain_arrays.open_dataset(tmp_path, ReaderOptions())
    with pytest.raises(DatasetError, match="split"):
        plain_arrays.open_dataset(save(tmp_path / "x.npy", SINGLE), ReaderOptions(split="train"))


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.parquet"])
def test_mutated_bytes_give_an_error_or_the_right_answer(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_any(path)
    content, rng = path.read_bytes(), np.random.default_rng(2)
    expected = np.concatenate([episode.action for episode in read_all(path)])
    header = len(content) - 7 * 2 * 8  # a .npy has no checksum: only its header can tell
    refused = 0
    for _ in range(250):
        changed = bytearray(content)
        place = int(rng.integers(header if name == "x.npy" else len(content)))
        if rng.random() < 0.5:
            changed[place] = int(rng.integers(256))
        else:
            del changed[place : place + int(rng.integers(1, 9))]
        path.write_bytes(changed)
        try:
            episodes = read_all(path)
        except DatasetError:
            refused += 1
            continue
        read = np.concatenate([episode.action for episode in episodes])
        if name != "x.npy":
            np.testing.assert_array_equal(read, expected)
    assert refused > 100


def test_an_npz_is_checked_by_its_checksum(tmp_path: Path) -> None:
    stored = io.BytesIO()
    np.savez(stored, action=SINGLE)
    content = bytearray(stored.getvalue())
    content[content.index(SINGLE.tobytes()) + 20] ^= 1
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DatasetError, match="CRC"):
        read_all(tmp_path / "x.npz")


def test_the_real_demonstrations_are_eleven_members(shared_data: Path) -> None:
    folder = shared_data / "kinesthetic"
    files = plain_arrays.members(folder)
    assert files == sorted(folder.glob("*.npy"))
    assert len(files) == 11
    episodes = [episode for file in files for episode in read_all(file)]
    assert len(episodes) == 92
    assert {episode.action.shape for episode in episodes} == {(1000, 2), (1000, 7)}
    assert episodes[0].id == "bottle2shelf__0"
    for file in files:
        stored = np.load(file).astype(np.float32)
        np.testing.assert_array_equal([e.action for e in read_all(file)], stored)


WIDE = np.random.default_rng(0).normal(size=(14, 40)).astype(np.float32)  # (value, frame)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("lengths", [(40,), (40, 40), (40, 55)])
def test_arrays_that_are_probably_transposed_are_asked_about(
    tmp_path: Path, suffix: str, lengths: tuple[int, ...]
) -> None:
    arrays = [np.resize(WIDE, (14, length)) for length in lengths]
    for number, array in enumerate(arrays):
        path = tmp_path / f"{number}{suffix}"
        save(path, array) if suffix == ".npy" else save(path, action=array, state=array)
    with pytest.raises(DatasetError, match="14 frames of 40 values: transposed") as caught:
        read_all(tmp_path)
    assert "transpose = true" in str(caught.value.hint)
    for read, array in zip(read_all(tmp_path, transpose=True), arrays, strict=True):
        np.testing.assert_array_equal(read.action, array.T)
        assert read.state is None or np.array_equal(read.state, array.T)
    if len(set(lengths)) == 1:
        for read, array in zip(read_all(tmp_path, transpose=False), arrays, strict=True):
            np.testing.assert_array_equal(read.action, array)


def test_ends_tell_which_axis_is_time(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", action=WIDE, episode_ends=[15, 40])
    with pytest.raises(DatasetError, match="transposed"):
        read_all(path)
    first, second = read_all(path, transpose=True)
    np.testing.assert_array_equal(first.action, WIDE.T[:15])
    np.testing.assert_array_equal(second.action, WIDE.T[15:])
    wide = save(tmp_path / "b.npz", action=WIDE, episode_ends=[5, 14])
    assert [each.action.shape for each in read_all(wide)] == [(5, 40), (9, 40)]


def test_episodes_of_one_array_are_transposed_one_by_one(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", np.stack([WIDE, 2 * WIDE]))
    with pytest.raises(DatasetError, match="transposed"):
        read_all(path)
    for factor, read in zip((1, 2), read_all(path, transpose=True), strict=True):
        np.testing.assert_array_equal(read.action, factor * WIDE.T)


@pytest.mark.parametrize("shape", [(3, 7), (1, 30), (41, 40), (60, 40)])
def test_likely_shapes_are_not_asked_about(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = save(tmp_path / "a.npy", np.ones(shape))
    assert read_all(path)[0].action.shape == shape


def test_only_arrays_are_transposed(tmp_path: Path) -> None:
    write_any(tmp_path / "x.parquet")
    with pytest.raises(DatasetError, match=r"only \.npy and \.npz"):
        read_all(tmp_path, transpose=True)
