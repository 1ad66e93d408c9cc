"""HDF5 demonstrations: real ones, ones written by h5py, and broken ones."""

import json
import os
import resource
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ambient_curate.errors import DatasetError
from ambient_curate.readers import hdf5
from ambient_curate.readers.episodes import Episode, ReaderOptions
from ambient_curate.readers.hdf5_files import read_text

RNG = np.random.default_rng(0)
ACTIONS = {
    f"demo_{number}": RNG.standard_normal((4 + number, 3)).astype(np.float32)
    for number in (0, 2, 10)
}


def write_demos(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(map(len, ACTIONS.values()))
        settings = {"env_name": "Stack", "env_kwargs": {"control_freq": 20}}
        data.attrs["env_args"] = json.dumps(settings)
        for name, action in ACTIONS.items():
            demo = data.create_group(name)
            demo.attrs.update(num_samples=len(action), success=name == "demo_2", score=0.5)
            demo.attrs.update(by="anna", model_file="<xml>" * 100, pair=[1, 2])
            demo.create_dataset("actions", data=action, chunks=(3, 2), compression="gzip")
            demo.create_dataset("obs/eef_pos", data=action[:, :2].astype(np.float64))
            demo.create_dataset("obs/gripper", data=np.arange(len(action)))
            demo.create_dataset("obs/image", data=np.zeros((len(action), 8, 8, 3), np.uint8))
        file["mask/train"] = np.array([b"demo_0", b"demo_10"])
        file["mask/better"] = np.array([b"demo_2"])
    return path


def edit(path: Path, change: Callable[[h5py.File], None]) -> Path:
    with h5py.File(path, "a") as file:
        change(file)
    return path


def read(path: Path, **options: Any) -> list[Episode]:
    dataset = hdf5.open_dataset(path, ReaderOptions(**options))
    return [episode for shard in dataset.shards for episode in dataset.read_shard(shard)]


def test_a_demonstration_has_everything_that_its_file_tells(tmp_path: Path) -> None:
    path = write_demos(tmp_path / "demos.hdf5")
    episodes = read(path, state=["obs/gripper", "obs/eef_pos"])
    assert [e.id for e in episodes] == ["demo_0", "demo_2", "demo_10"]
    assert [e.number for e in episodes] == [0, 2, 10]
    for episode in episodes:
        action = ACTIONS[episode.id]
        np.testing.assert_array_equal(episode.action, action)
        assert episode.state is not None
        np.testing.assert_array_equal(episode.state[:, 0], range(len(action)))
        np.testing.assert_array_equal(episode.state[:, 1:], action[:, :2])
        assert (episode.action.dtype, episode.state.dtype) == (np.float32, np.float32)
        assert (episode.source, episode.task, episode.rate_hz) == (path, "Stack", 20)
        assert episode.labels == {
            "num_samples": len(action),
            "success": episode.id == "demo_2",
            "score": 0.5,
            "by": "anna",
            "mask/train": episode.id != "demo_2",
            "mask/better": episode.id == "demo_2",
        }
        assert type(episode.labels["success"]) is bool


def test_a_dataset_tells_its_files(tmp_path: Path) -> None:
    path = write_demos(tmp_path / "demos.h5")
    dataset = hdf5.open_dataset(path, ReaderOptions())
    assert (dataset.format, dataset.path, tuple(dataset.shards)) == ("HDF5", path, (path,))
    assert (tuple(dataset.metadata_files), tuple(dataset.problems)) == ((), ())


def test_actions_can_be_named_and_joined(tmp_path: Path) -> None:
    path = write_demos(tmp_path / "demos.hdf5")
    first = read(path, action=["obs/gripper", "actions"], rate_hz=7.0)[0]
    np.testing.assert_array_equal(first.action[:, 0], range(4))
    np.testing.assert_array_equal(first.action[:, 1:], ACTIONS["demo_0"])
    assert first.state is None
    assert first.rate_hz == 7.0  # the user's word comes before the file's


def test_the_files_of_a_directory_are_one_dataset(tmp_path: Path) -> None:
    for name in ("b.hdf5", "a.h5", ".hidden.h5"):
        write_demos(tmp_path / name)
    (tmp_path / "note.txt").write_text("")
    dataset = hdf5.open_dataset(tmp_path, ReaderOptions())
    assert [shard.name for shard in dataset.shards] == ["a.h5", "b.hdf5"]
    ids = [episode.id for episode in read(tmp_path)]
    assert ids == [f"{stem}/demo_{k}" for stem in "ab" for k in (0, 2, 10)]
    assert [e.number for e in dataset.read_shard(tmp_path / "b.hdf5")] == [3, 4, 5]
    write_demos(tmp_path / "a.hdf5")
    with pytest.raises(DatasetError, match="differ by their suffix only"):
        hdf5.open_dataset(tmp_path, ReaderOptions())


def test_a_directory_with_one_file_names_its_demonstrations_plainly(tmp_path: Path) -> None:
    write_demos(tmp_path / "demos.hdf5")
    assert [episode.id for episode in read(tmp_path)] == ["demo_0", "demo_2", "demo_10"]


def test_unusual_contents_are_told(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file["data"].create_group("template")
        file["data"].attrs["total"] = 99
        file["data"].attrs["env_args"] = "no JSON"
        file["mask/worse"] = ["demo_0"]

    dataset = hdf5.open_dataset(edit(write_demos(tmp_path / "d.h5"), change), ReaderOptions())
    assert list(dataset.problems) == [
        "d.h5: of data, template is no demonstration and is not read",
        "d.h5: of mask, worse is no list of texts of one fixed length (dtype S) and is not read",
        "d.h5: data tells a total of 99 frames, its demonstrations have 24",
    ]
    first = next(iter(dataset.read_shard(tmp_path / "d.h5")))
    assert (first.task, first.rate_hz) == (None, None)


@pytest.mark.parametrize(
    ("told", "task"),
    [
        (
            {"problem_info": json.dumps({"language_instruction": "open the drawer"})},
            "open the drawer",
        ),
        ({"problem_info": json.dumps({"language_instruction": ["o", "p", "en"]})}, "open"),
        ({"problem_info": "{}", "bddl_file_name": "bddl_files/goal/put_it.bddl"}, "put_it"),
        ({"problem_info": "no JSON", "bddl_file_name": 3}, "Stack"),
        ({"problem_info": json.dumps({"language_instruction": [1, "x"]})}, "Stack"),
        ({"problem_info": json.dumps({"language_instruction": "a \ud800"})}, "a ?"),
    ],
)
def test_the_task_of_libero_is_its_instruction(
    tmp_path: Path, told: dict[str, Any], task: str
) -> None:
    path = edit(write_demos(tmp_path / "goal_demo.hdf5"), lambda f: f["data"].attrs.update(told))
    assert {(demo.task, demo.rate_hz) for demo in read(path)} == {(task, 20)}


def test_each_file_of_libero_has_its_own_task(tmp_path: Path) -> None:
    for name in ("open", "close"):
        info = json.dumps({"language_instruction": f"{name} the drawer"})
        path = write_demos(tmp_path / f"{name}_demo.hdf5")
        edit(path, lambda f, info=info: f["data"].attrs.update(problem_info=info))
    tasks = {demo.id.partition("_")[0]: demo.task for demo in read(tmp_path)}
    assert tasks == {"open": "open the drawer", "close": "close the drawer"}


def replace(name: str, **dataset: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        if dataset:
            file.create_dataset(name, **dataset)

    return change


def add_virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(4, 3), dtype="f4")
    layout[:] = h5py.VirtualSource("other.h5", "actions", shape=(4, 3))
    del file["data/demo_0/actions"]
    file.create_virtual_dataset("data/demo_0/actions", layout)


ACTION = "data/demo_0/actions"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replace(ACTION), "/data/demo_0 has no dataset 'actions'; it has obs/eef_pos, obs/gripper"),
        (replace(ACTION, data=np.zeros((5, 3))), "5 by actions, 4 by obs/eef_pos"),
        (replace(ACTION, data=["a"] * 4), "actions is object of shape"),
        (replace(ACTION, data=np.zeros(4, complex)), "actions is complex128 of shape"),
        (replace(ACTION, data=1.0), r"actions is float64 of shape \(\)"),
        (replace(ACTION, shape=(4, 3), dtype="f4"), "actions has 0 of 48 bytes of its values"),
        (replace(ACTION, shape=(4, 3), chunks=(2, 3), dtype="f4"), "actions has 0 of 2 chunks"),
        (replace(ACTION, shape=(2**40, 3), dtype="f4"), f"0 of {2**40 * 12} bytes"),
        (add_virtual, "actions keeps its values in other files"),
        (replace("data/demo_0", data=1), "data/demo_0 is no group"),
        (replace("data/demo_2/obs/eef_pos", data=np.zeros((5, 2))), "demo_2 has 6 by actions"),
        (lambda f: f["data/demo_0"].attrs.modify("num_samples", 3), "3 by the attribute"),
        (lambda f: f.move("data", "other"), "has no group 'data'.*; it holds mask, other"),
        (replace("data", data=1), "has no group 'data'"),
        (lambda f: [f.move(f"data/{k}", f"data/x{k}") for k in ACTIONS], "but xdemo_0, xdemo_10"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_as_it_should_be_is_an_error(
    tmp_path: Path, change: Callable[[h5py.File], None], reason: str
) -> None:
    path = edit(write_demos(tmp_path / "demos.hdf5"), change)
    with pytest.raises(DatasetError, match=rf"demos\.hdf5.*{reason}"):
        read(path, state=["obs/eef_pos"])


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = write_demos(tmp_path / "demos.hdf5")
    with pytest.raises(DatasetError, match="no splits, but split 'train'"):
        read(path, split="train")
    with pytest.raises(DatasetError, match="'/data/demo_0/actions' is not relative"):
        read(path, action=["/data/demo_0/actions"])


def test_values_beyond_float32_become_infinite(tmp_path: Path) -> None:
    change = replace(ACTION, data=np.full((4, 1), 1e300))
    first = read(edit(write_demos(tmp_path / "demos.hdf5"), change))[0]
    assert first.action.tolist() == [[np.inf]] * 4


def test_a_vector_of_numbers_is_one_column(tmp_path: Path) -> None:
    path = edit(write_demos(tmp_path / "demos.hdf5"), replace(ACTION, data=np.arange(4)))
    assert read(path)[0].action.tolist() == [[0], [1], [2], [3]]


@pytest.mark.parametrize("content", [b"not HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_a_broken_file_is_recognized_and_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.hdf5"
    path.write_bytes(content)
    assert hdf5.recognizes(path)
    assert hdf5.recognizes(tmp_path)
    with pytest.raises(DatasetError, match=r"broken\.hdf5: HDF5 cannot read it"):
        hdf5.open_dataset(path, ReaderOptions())


def test_other_paths_are_not_recognized(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("")
    (tmp_path / "folder.h5").mkdir()
    for path in (tmp_path, tmp_path / "note.txt", tmp_path / "absent.h5"):
        assert not hdf5.recognizes(path)
        with pytest.raises(DatasetError, match="holds no HDF5 file"):
            hdf5.open_dataset(path, ReaderOptions())


def test_a_cut_file_is_an_error_at_every_length(tmp_path: Path) -> None:
    content = write_demos(tmp_path / "demos.hdf5").read_bytes()
    path = tmp_path / "cut.hdf5"
    for length in np.linspace(0, len(content) - 1, 100).astype(int):
        path.write_bytes(content[:length])
        with pytest.raises(DatasetError, match=r"cut\.hdf5"):
            read(path)


def test_a_mutated_file_is_an_error_or_still_consistent(tmp_path: Path) -> None:
    content = write_demos(tmp_path / "demos.hdf5").read_bytes()
    path = tmp_path / "mutated.hdf5"
    rng = np.random.default_rng(0)
    errors = 0
    for _ in range(300):
        mutated = bytearray(content)
        for position in rng.integers(0, 3000, 2):  # where most of the structure lies
            mutated[position] = rng.integers(0, 256)
        path.write_bytes(mutated)
        try:
            episodes = read(path, state=["obs/gripper"])
        except DatasetError:
            errors += 1
            continue
        for episode in episodes:
            assert episode.state is not None and len(episode.state) == episode.length
            assert episode.labels.get("num_samples", episode.length) == episode.length
    assert 30 < errors < 270


def test_what_describes_a_text_is_not_believed(tmp_path: Path) -> None:
    """HDF5 fills 4 GB of memory for a wrong length, and searches a wrong heap without an end."""
    path = write_demos(tmp_path / "demos.hdf5")
    edit(path, lambda f: f["data/demo_2"].attrs.update(last="x" * 77))
    sound = path.read_bytes()
    descriptor = sound.index(struct.pack("<I", 77), sound.index(b"last\0"))
    heap = sound.rindex(b"GCOL", 0, sound.index(b"x" * 77))
    places = [*range(descriptor, descriptor + 16), *range(heap, heap + 32)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for place in places:
        for value in (0, 1, 0x7F, 0xFF):
            damaged = bytearray(sound)
            damaged[place] = value
            path.write_bytes(damaged)
            try:
                text = read(path)[1].labels.get("last", "x" * 77)  # too long for a label: absent
                assert set(str(text)) <= {"x"}
            except DatasetError as error:
                refused += 1
                assert "is not where it should be" in str(error)
    assert refused > 40
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 100_000  # kB


def test_texts_are_read_as_h5py_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "demos.hdf5"
    with h5py.File(path, "w", userblock_size=512) as file:
        for number in range(300):  # more than one block of messages, and more than one heap
            file.attrs[f"text {number}"] = f"é{number}" * number
        file.flush()
        for number in range(300):
            name = f"text {number}"
            longest = len(file.attrs[name].encode())
            assert read_text(file, name, longest=longest) == file.attrs[name]
            assert longest == 0 or read_text(file, name, longest=longest - 1) is None
        assert read_text(file, "text", longest=9) is None


def test_an_attribute_whose_name_is_no_text_is_no_label(tmp_path: Path) -> None:
    path = tmp_path / "demos.hdf5"
    content = write_demos(path).read_bytes()
    path.write_bytes(content.replace(b"model_file\0", b"model\xfffile\0"))
    assert [demo.labels["by"] for demo in read(path)] == ["anna"] * 3


def test_names_that_are_no_text_are_told(tmp_path: Path) -> None:
    path = tmp_path / "demos.hdf5"
    content = write_demos(path).read_bytes()
    path.write_bytes(content.replace(b"demo_2\0", b"demo_\xff\0", 1))
    (problem, *_) = hdf5.open_dataset(path, ReaderOptions()).problems
    assert problem == "demos.hdf5: of data, demo_\ufffd is no demonstration and is not read"
    path.write_bytes(content.replace(b"actions\0", b"action\xff\0"))
    with pytest.raises(
        DatasetError, match="no dataset 'actions'; it has action\ufffd, obs/eef_pos"
    ):
        read(path)


def test_texts_of_the_newest_headers_are_not_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "demos.hdf5", "w", libver="latest") as file:
        file.attrs["text"] = "abc"
        file.flush()
        assert read_text(file, "text", longest=9) is None


def test_damage_in_a_thread_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path = tmp_path / "broken.hdf5"
    path.write_bytes(write_demos(tmp_path / "demos.hdf5").read_bytes()[:3000])
    errors: list[Exception] = []

    def read_in_thread() -> None:
        try:
            read(path)
        except DatasetError as error:
            errors.append(error)

    thread = threading.Thread(target=read_in_thread)
    thread.start()
    thread.join()
    assert len(errors) == 1
    assert capfd.readouterr() == ("", "")


def test_a_file_open_for_writing_elsewhere_is_read_and_not_touched(tmp_path: Path) -> None:
    path = write_demos(tmp_path / "demos.hdf5")
    os.chmod(path, 0o444)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    lock = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(1, flush=True); input()"
    )
    command = [sys.executable, "-c", lock, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"1\n"
        assert len(read(path)) == 3
        holder.communicate(b"\n")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("name", "episodes", "frames", "success"),
    [("human", 10, 2163, True), ("generated", 10, 2328, True), ("failed", 16, 3736, False)],
)
def test_real_demonstrations_are_read(
    shared_data: Path, name: str, episodes: int, frames: int, success: bool
) -> None:
    folder = shared_data / "open_x" / f"franka_stack_{name}"
    demos = read(folder, state=["obs/eef_pos", "obs/gripper_pos"])
    assert (len(demos), sum(demo.length for demo in demos)) == (episodes, frames)
    assert {demo.labels["success"] for demo in demos} == {success}
    with h5py.File(folder / "demos.hdf5") as file:
        for demo in demos:
            previous = file[f"data/{demo.id}/obs/actions"]  # what was done a frame before
            np.testing.assert_array_equal(demo.action[:-1], previous[1:])
            assert demo.state is not None and demo.state.shape == (demo.length, 5)


@pytest.mark.parametrize(
    ("attributes", "rate_hz", "task"),
    [
        ({"env_args": {"env_name": "Lift", "sim_args": {"dt": 0.01, "decimation": 5}}}, 20, "Lift"),
        ({"env_args": {"sim_args": {"dt": 1 / 120, "decimation": 2}}}, 60, None),
        ({"env_args": {"sim_args": {"dt": 0, "decimation": 2}}}, None, None),
        ({"env_args": {"sim_args": {"dt": True, "decimation": "2"}}}, None, None),
        ({"env": "Wipe", "env_info": {"control_freq": 20, "env_name": "W"}}, 20, "Wipe"),
        ({"env_info": {"env_name": "Door"}}, None, "Door"),
    ],
)
def test_simulators_tell_rate_and_task_in_their_own_ways(
    tmp_path: Path, attributes: dict[str, Any], rate_hz: float | None, task: str | None
) -> None:
    path = write_demos(tmp_path / "demos.hdf5")
    with h5py.File(path, "a") as file:
        del file["data"].attrs["env_args"]
        for name, value in attributes.items():
            file["data"].attrs[name] = value if isinstance(value, str) else json.dumps(value)
    first = read(path)[0]
    assert (first.rate_hz, first.task) == (rate_hz, task)
