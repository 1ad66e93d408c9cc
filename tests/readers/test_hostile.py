"""Wrong input through the command line: two lines, exit 1, nothing written, nothing touched."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr_writer
from array_writer import save
from collection_writer import (
    DIM,
    JPEG,
    SHARD,
    WRITERS,
    make_episodes,
    write_hdf5,
    write_lerobot,
    write_lerobot_v3,
    write_npy,
    write_npz,
    write_parquet,
    write_rlds,
)
from command import check_failure, run_command, snapshot
from lerobot_writer import data_file, mutate

from ambient_curate import readers
from ambient_curate.data.collection import Member, read_episodes
from ambient_curate.data.selection import MemberOptions
from ambient_curate.errors import DatasetError
from ambient_curate.options import OnError

Damage = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """What is done to the collection `set` of `clean` and `noisy`, and what must be said of it."""

    name: str
    damage: Damage
    error: str
    hint: str = ""
    arguments: tuple[str, ...] = ()
    needs_user: bool = False
    of_options: bool = False  # wrong for `annotate` only: `inspect` has nothing to say


def write_set(folder: Path) -> Path:
    """A collection in which nothing is wrong."""
    write_npz(folder / "clean", make_episodes(6))
    write_npz(folder / "noisy", make_episodes(7, noise=0.5))
    return folder


def noisy(write: Callable[..., Path], damage: Damage) -> Damage:
    """Put a member of another format in the place of `noisy`, and damage it."""

    def change(folder: Path) -> None:
        shutil.rmtree(folder / "noisy")
        damage(write(folder / "noisy", make_episodes(7, noise=0.5)))

    return change


def member(name: str, episodes: list[np.ndarray]) -> Damage:
    def change(folder: Path) -> None:
        shutil.rmtree(folder / name)
        write_npz(folder / name, episodes)

    return change


def text(name: str, content: str | bytes) -> Damage:
    encoded = content.encode() if isinstance(content, str) else content
    return lambda root: (root / name).write_bytes(encoded)


def drop(name: str) -> Damage:
    return lambda root: (root / name).unlink()


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def flip_in_image(root: Path) -> None:
    file = root / SHARD.format(1)
    flip(file, file.read_bytes().index(JPEG) + 20)


def first_shard(root: Path) -> Path:
    return root / SHARD.format(0)


def with_value(value: float) -> list[np.ndarray]:
    episodes = make_episodes(7)
    episodes[3][4, 1] = value
    return episodes


def empty_out(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def only_notes(folder: Path) -> None:
    empty_out(folder)
    (folder / "notes.csv").write_text("a,b\n1,2\n")


def unreadable(name: str) -> Damage:
    return lambda root: (root / name).chmod(0)


def without_actions(root: Path) -> None:
    with h5py.File(root / "demos.hdf5", "a") as file:
        for name in file["data"]:
            del file["data"][name]["actions"]


INFO, META = "dataset_info.json", "meta/info.json"
SPLIT = {"name": "train", "shardLengths": ["1", "1", "1"]}

CASES = [
    # the collection
    Case("path missing", lambda folder: shutil.rmtree(folder), "set does not exist"),
    Case("empty directory", empty_out, "no dataset of a known format: it is empty", "LeRobot"),
    Case("unknown format", only_notes, "no dataset of a known format: found notes.csv", "LeRobot"),
    Case("a file where a directory is expected", lambda f: (empty_out(f), f.rmdir(), f.touch()),
         "no dataset of a known format"),
    Case("no clean set named", lambda f: (f / "clean").rename(f / "tidy"),
         "no clean set is named; members of set: noisy, tidy", 'clean = "noisy"', of_options=True),
    Case("clean set no member", lambda f: None, "clean set 'expert' is no member", "--clean",
         ("--clean", "expert"), of_options=True),
    Case("clean set of an impossible name", lambda f: None, "is no member", "--clean",
         ("--clean", "x" * 5000), of_options=True),
    Case("nothing to compare with", lambda f: shutil.rmtree(f / "noisy"),
         "only the clean set.*nothing", "split this one", of_options=True),
    Case("a member that is a dangling link", lambda f: (f / "more").symlink_to("gone"), "more"),
    Case("a member that links to itself", lambda f: (f / "more").symlink_to("more"), "more"),
    Case("an unreadable collection", lambda f: f.chmod(0), "set", "permission", needs_user=True),
    Case("an unreadable member", unreadable("noisy"), "noisy", "permission", needs_user=True),
    Case("an unreadable file", unreadable("noisy/data.npz"), "data.npz", needs_user=True),
    # ambient.toml
    Case("settings are no TOML", text("ambient.toml", "clean ="), "ambient.toml cannot be read"),
    Case("settings are no text", text("ambient.toml", b"\xff\xfe"), "ambient.toml cannot be read"),
    Case("settings of an unknown key", text("ambient.toml", "horizont = 8"),
         "horizont is unknown: did you mean horizon"),
    Case("settings of a wrong type", text("ambient.toml", 'horizon = "8"'), "horizon"),
    Case("settings of a wrong value", text("ambient.toml", "epsilon = 0.7"), r"epsilon.*0\.7"),
    Case("settings list every problem", text("ambient.toml", "folds = 2\nstrid = 1"),
         "strid is unknown.*folds"),
    Case("datasets is no table", text("ambient.toml", "datasets = 3"), "datasets = 3"),
    Case("a table of an unknown key", text("ambient.toml", "[datasets.noisy]\nrate = 5"),
         "datasets.noisy.rate is unknown"),
    Case("a table of a wrong type", text("ambient.toml", "[datasets.noisy]\ndims = 2"),
         "datasets.noisy.dims"),
    Case("a table of no member", text("ambient.toml", "[datasets.none]\ndims = [0]"),
         "datasets.none.*no path"),
    Case("a path that does not exist", text("ambient.toml", '[datasets.none]\npath = "gone"'),
         "gone does not exist"),
    Case("a path that cannot exist", text("ambient.toml", '[datasets.none]\npath = "a\\u0000b"'),
         "datasets.none"),
    Case("a clean set that cannot exist", text("ambient.toml", 'clean = "a\\u0000b"'),
         "is no member"),
    Case("a clean set of too long a name", text("ambient.toml", f'clean = "{"x" * 5000}"'),
         "is no member"),
    Case("dims that are not there", text("ambient.toml", "[datasets.noisy]\ndims = [9]"),
         r"dims = \[9\].*has 3 action dimensions"),
    Case("where that names no label", text("ambient.toml", '[datasets.noisy]\nwhere = "a == 1"'),
         "where names 'a'"),
    Case("a selection of nothing", text("ambient.toml", '[datasets.noisy]\nepisodes = "50:"'),
         "noisy.*gives no episode"),
    Case("exclude names no episode", text("ambient.toml", '[datasets.noisy]\nexclude = ["x"]'),
         "exclude names no episode", of_options=True),
    # the data
    Case("action dimensions differ", member("noisy", make_episodes(7, dim=DIM + 1)),
         "clean has 3 dimensions, noisy has 4", r"dims = \[0, 1, 2\]"),
    Case("NaN in an action", member("noisy", with_value(np.nan)), "data__3.*not finite.*first is 4",
         "exclude"),
    Case("Inf in an action", member("noisy", with_value(-np.inf)), "not finite", "exclude"),
    Case("NaN in a clean action", member("clean", with_value(np.nan)), "not finite", "exclude"),
    Case("an action beyond float32", member("noisy", [e * 1e30 for e in make_episodes(7)]),
         r"data__0.*beyond 1e\+15", "exclude"),
    Case("an episode of length zero",
         member("noisy", [*make_episodes(7), np.empty((0, DIM), np.float32)]), "data__7.*empty"),
    Case("no whole clean window", member("clean", make_episodes(6, 10)), "clean.*16", "horizon",
         of_options=True),
    Case("no whole corrupt window", member("noisy", make_episodes(6, 10)), "no corrupt dataset",
         "horizon", of_options=True),
    Case("no window of an absurd horizon", lambda f: None, "window", "horizon",
         ("--horizon", "1000000000000"), of_options=True),
    Case("fewer clean episodes than folds", member("clean", make_episodes(4)), "4.*5|5.*4",
         "folds", of_options=True),
    Case("all clean episodes the same", member("clean", make_episodes(1) * 6),
         "6 episodes.*fill 1 of 5 folds", "at least 3 different", of_options=True),
    # RLDS
    Case("a tfrecord cut short", noisy(write_rlds, lambda r: halve(first_shard(r))),
         "00000-of-00002.*ends inside", "copy"),
    Case("a flipped byte in a tfrecord", noisy(write_rlds, lambda r: flip(first_shard(r), 500)),
         "00000-of-00002.*checksum", "copy"),
    Case("a flipped byte in an image", noisy(write_rlds, flip_in_image),
         "00001-of-00002.*checksum of the record", "copy"),
    Case("an empty tfrecord", noisy(write_rlds, lambda r: first_shard(r).write_bytes(b"")),
         "holds 0 episodes", "copy"),
    Case("no dataset_info.json", noisy(write_rlds, drop(INFO)), "dataset_info.json is missing"),
    Case("an empty dataset_info.json", noisy(write_rlds, text(INFO, "")), "info.json is empty"),
    Case("dataset_info.json is no JSON", noisy(write_rlds, text(INFO, "<>")), "is not JSON"),
    Case("dataset_info.json is a list", noisy(write_rlds, text(INFO, "[]")), "no JSON object"),
    Case("dataset_info.json nests too deeply", noisy(write_rlds, text(INFO, "[" * 100_000)),
         "is not JSON"),
    Case("dataset_info.json names absent files",
         noisy(write_rlds, text(INFO, json.dumps({"name": "toy", "splits": [SPLIT]}))),
         "lacks 3 of the 3 shards"),
    Case("features.json is no JSON", noisy(write_rlds, text("features.json", "{")), "is not JSON"),
    # LeRobot
    Case("no info.json", noisy(write_lerobot, drop(META)), "info.json is missing"),
    Case("an empty info.json", noisy(write_lerobot, text(META, "")), "info.json is empty"),
    Case("info.json is no JSON", noisy(write_lerobot_v3, text(META, "<>")), "not valid JSON"),
    Case("info.json of no version", noisy(write_lerobot, text(META, "{}")), "codebase_version"),
    Case("info.json names absent files", noisy(write_lerobot, lambda r: data_file(r, 2).unlink()),
         "lacks the data file.*episode_000002"),
    Case("a v3 file is absent", noisy(write_lerobot_v3, lambda r: data_file(r).unlink()),
         "lacks the data file.*file-000"),
    Case("half a LeRobot v2 file", noisy(write_lerobot, lambda r: halve(data_file(r, 1))),
         "episode_000001.parquet cannot be read", "copy"),
    Case("half a LeRobot v3 file", noisy(write_lerobot_v3, lambda r: halve(data_file(r))),
         "file-000.parquet cannot be read", "copy"),
    Case("half a v3 episode list",
         noisy(write_lerobot_v3, lambda r: halve(r / "meta/episodes/chunk-000/file-000.parquet")),
         "meta/episodes.*cannot be read", "copy"),
    Case("episodes.jsonl is no JSON", noisy(write_lerobot, text("meta/episodes.jsonl", "{\n")),
         "line 1 of .*episodes.jsonl is not valid JSON"),
    # HDF5, arrays
    Case("HDF5 without actions", noisy(write_hdf5, without_actions),
         "demo_0 has no dataset 'actions'; it has obs/image", "action ="),
    Case("half an HDF5 file", noisy(write_hdf5, lambda r: halve(r / "demos.hdf5")),
         "demos.hdf5", "copy"),
    Case("HDF5 that is no HDF5", noisy(write_hdf5, text("demos.hdf5", "hello")), "demos.hdf5"),
    Case("half a Parquet file", noisy(write_parquet, lambda r: halve(r / "data.parquet")),
         "data.parquet cannot be read", "copy"),
    Case("half an npz", noisy(write_npz, lambda r: halve(r / "data.npz")), "data.npz", "damaged"),
    Case("half an npy", noisy(write_npy, lambda r: halve(r / "3.npy")), "3.npy", "cut short"),
    Case("an npz without an action", noisy(write_npz, lambda r: save(r / "data.npz", x=[1.0])),
         "no 'action', only 'x'", "action ="),
    Case("pickled objects", noisy(write_npy, lambda r: save(r / "3.npy", np.array([{}, None]))),
         "3.npy", "pickle|float32"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A sound collection `set` in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    yield write_set(Path("set"))
    for path in (tmp_path / "set", tmp_path / "set/noisy", tmp_path / "set/noisy/data.npz"):
        if path.exists():
            path.chmod(0o755)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_wrong_is_said_in_two_lines(folder: Path, case: Case) -> None:
    case.damage(folder)
    if case.needs_user and os.access(folder / "noisy/data.npz", os.R_OK):
        pytest.skip("root may read everything")
    before = snapshot(folder)
    check_failure(run_command("annotate", "set", *case.arguments), case.error, case.hint)
    assert snapshot(folder) == before
    assert not list(Path().rglob("run.json"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_inspect_tells_it_or_shows_it(folder: Path, case: Case) -> None:
    case.damage(folder)
    if case.needs_user and os.access(folder / "noisy/data.npz", os.R_OK):
        pytest.skip("root may read everything")
    before = snapshot(folder)
    code, stdout, stderr = run_command("inspect", "set")
    assert code in (0, 1)
    assert case.of_options or re.search(case.error, stdout + stderr), stdout + stderr
    assert (code == 1) == any(line.startswith("error: ") for line in stderr.splitlines())
    assert snapshot(folder) == before


UNCHECKED = ("npy", "hdf5")  # formats whose values no checksum guards


@pytest.mark.parametrize("mutations", [30, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", WRITERS)
def test_mutated_datasets_are_errors_or_the_right_answer(
    tmp_path: Path, name: str, mutations: int
) -> None:
    written = make_episodes(4, 6)
    root = WRITERS[name](tmp_path / "set", written)
    sound = {file: file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}
    rng = np.random.default_rng(3)
    refused = 0
    for number in range(mutations):
        file = list(sound)[rng.integers(len(sound))]
        file.write_bytes(mutate(sound[file], rng))
        start = time.monotonic()
        try:
            member = Member("set", readers.open_dataset(root), MemberOptions())
            how: OnError = "skip" if number % 2 else "fail"
            episodes = list(read_episodes(member, on_error=how))
        except DatasetError as error:
            refused += 1
            assert error.hint and "\n" not in str(error)
        else:
            assert name in UNCHECKED or all(
                any(np.array_equal(each.action, known) for known in written) for each in episodes
            )
        assert time.monotonic() - start < 5
        file.write_bytes(sound[file])
    assert refused > mutations / 5


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def write_zarr_zip(root: Path, episodes: list[np.ndarray]) -> Path:
    zarr_writer.pack(root.with_suffix(".zarr.zip"), zarr_writer.write(root))
    shutil.rmtree(root)
    return root.with_suffix(".zarr.zip")


def write_zarr(root: Path, episodes: list[np.ndarray]) -> Path:
    return zarr_writer.write(root.with_suffix(".zarr"))


@pytest.mark.parametrize("kind", [*WRITERS, "zarr", "zarr_zip"])
def test_a_git_lfs_pointer_is_named_as_one_whatever_it_stands_for(
    tmp_path: Path, kind: str
) -> None:
    write = {"zarr": write_zarr, "zarr_zip": write_zarr_zip, **WRITERS}[kind]
    whole = write(tmp_path / "whole", make_episodes(6))
    for suffix in {file.suffix for file in [whole, *whole.rglob("*")] if file.is_file()}:
        root = tmp_path / f"of{suffix}" / whole.name
        root.parent.mkdir()
        (shutil.copy if whole.is_file() else shutil.copytree)(whole, root)
        for file in [root, *root.rglob(f"*{suffix}")]:
            if file.is_file():
                file.write_bytes(POINTER)
        with pytest.raises(DatasetError, match="is a Git LFS pointer, not the data") as caught:
            dataset = readers.open_dataset(root)
            for shard in dataset.shards:
                list(dataset.read_shard(shard))
        assert "git lfs pull" in str(caught.value.hint)
