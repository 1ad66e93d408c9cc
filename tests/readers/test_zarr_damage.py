"""Zarr replay buffers that are broken or hostile."""

import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr_writer import DATA, FRAMES, check, pack, read, write

from ambient_curate import readers
from ambient_curate.errors import DatasetError


def change_metadata(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(content))


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    return lambda path: change_metadata(path / name, **changes)


def replace(name: str, content: bytes | None) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / name).unlink()
        if content is not None:
            (path / name).write_bytes(content)

    return change


def again(**how: Any) -> Callable[[Path], None]:
    return lambda path: (shutil.rmtree(path), write(path, **how))[0]


ACTION = "data/action/.zarray"
PICKLE = {"id": "pickle", "protocol": 4}
BROKEN: list[tuple[Callable[[Path], Any], str]] = [
    (again(ends=None), "no array 'meta/episode_ends'; meta has none"),
    (again(ends=[3, 12, 11, 20]), r"episode_ends must rise; number 2 is 11, after 12"),
    (again(ends=[-3, 12, 20]), r"must rise; number 0 is -3, after 0"),
    (again(ends=[3, 12]), "data/action has 20 frames, meta/episode_ends ends with 12"),
    (again(ends=[3, 2**62]), "has 20 frames, meta/episode_ends ends with 4611686018427387904"),
    (again(ends=np.array([2**64 - 1], np.uint64)), "has 20 frames"),
    (again(ends=[3.0, 20.0]), r"shape \(2,\) and type float64, expected a list of whole numbers"),
    (again(ends=[[3, 20, 20]]), r"shape \(1, 3\) and type int64"),
    (again(ends=np.zeros(0, np.int64)), "episode_ends is empty"),
    (lambda p: shutil.rmtree(p / "data/action"), "no array 'data/action'; data has img, n_cont"),
    (lambda p: shutil.rmtree(p / "data"), "no array 'data/action'; data has none"),
    (again(data=DATA | {"state": DATA["state"][:-1]}), "data/state has 19 frames"),
    (again(data={"action": np.zeros(FRAMES, complex)}), "is of type '<c16', expected numbers"),
    (again(data={"action": np.array(["a"] * FRAMES)}), "is of type '<U1', expected numbers"),
    (replace("data/action/2.0", None), "data/action has no chunk data/action/2.0, expected 5"),
    (replace("data/action/0.0", b""), "data/action(/0.0 is empty| cannot be read)"),
    (replace("data/action/0.0", b"damaged"), "data/action cannot be read"),
    (replace("data/action/0.0", bytes(70_000)), "70000 bytes, expected at most 65600"),
    (replace("meta/episode_ends/1", None), "no chunk meta/episode_ends/1, expected 2"),
    (replace(ACTION, b"{"), r"data/action/.zarray cannot be read: Expecting"),
    (replace(ACTION, b"[" * 100_000), r"data/action/.zarray cannot be read"),
    (replace(ACTION, b"\xff"), r"data/action/.zarray cannot be read"),
    (replace(ACTION, b"[]"), r"data/action/.zarray is \[\], expected a JSON object"),
    (replace(ACTION, b" " * 2**21), "2097152 bytes, expected JSON of at most 1048576"),
    (edit(ACTION, dtype="|O"), "is of type '|O', expected numbers"),
    (edit(ACTION, dtype=[["x", "<f4"]]), "expected numbers"),
    (edit(ACTION, filters=[PICKLE]), "by the codec 'pickle', expected one of blosc"),
    (edit(ACTION, filters=PICKLE), "by the codec 'pickle'"),
    (edit(ACTION, compressor=PICKLE), "by the codec 'pickle'"),
    (edit(ACTION, compressor=[1]), r"by the codec \[1\]"),
    (edit(ACTION, shape=[-1, 2]), "data/action cannot be read"),
    (edit(ACTION, shape=[]), "data/action"),
    (edit(ACTION, shape=[2**60, 2]), "no chunk data/action/5.0"),
    (edit(ACTION, shape=[20, 2**28], chunks=[1, 1]), "no chunk data/action/0.1, expected 5368"),
    (edit(ACTION, chunks=[2**60, 2]), f"expected at most {2**31} bytes at once"),
    (edit(ACTION, chunks=[0, 2]), "data/action"),
    (edit(ACTION, chunks=[4]), "data/action"),
    (edit(ACTION, chunks=None), "data/action cannot be read"),
    (edit("meta/episode_ends/.zarray", shape=[2**60], chunks=[2**60]), "bytes at once"),
]  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("change", "reason"), BROKEN)
def test_a_buffer_that_is_not_as_it_should_be_is_an_error(
    tmp_path: Path, change: Callable[[Path], Any], reason: str, packed: bool
) -> None:
    path = write(tmp_path / "push.zarr")
    change(path)
    if packed:
        path = pack(tmp_path / "push.zarr.zip", path)
    assert readers.recognizes(path)
    with pytest.raises(DatasetError, match=rf"push\.zarr.*{reason}") as caught:
        read(path)
    assert caught.value.hint


def test_a_missing_chunk_of_the_newer_format_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "push.zarr", zarr_format=3)
    (path / "data/action/c/2/0").unlink()
    with pytest.raises(DatasetError, match="no chunk data/action/c/2/0") as caught:
        read(path)
    assert caught.value.hint is not None and "write_empty_chunks=True" in caught.value.hint


def test_shards_are_refused_since_their_gaps_would_be_filled(tmp_path: Path) -> None:
    path = write(tmp_path / "push.zarr", zarr_format=3, shards=None)
    group = zarr.open_group(path, mode="a")
    del group["data/action"]
    group.create_array("data/action", data=DATA["action"], chunks=(2, 2), shards=(4, 2))
    with pytest.raises(DatasetError, match="by the codec 'sharding_indexed'"):
        read(path)


def test_texts_and_pickles_of_the_newer_format_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "push.zarr", zarr_format=3)
    metadata = path / "data/action/zarr.json"
    sound = metadata.read_text()
    change_metadata(metadata, codecs=[{"name": "numcodecs.pickle", "id": "zstd"}])
    with pytest.raises(DatasetError, match=r"by the codec 'numcodecs\.pickle'"):
        read(path)
    metadata.write_text(sound)
    change_metadata(metadata, data_type={"name": "null_terminated_bytes"})
    with pytest.raises(DatasetError, match="expected numbers"):
        read(path)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    path = write(tmp_path / "push.zarr", compressors=None)
    (path / "data/action/0.0").write_bytes(b"cos\nabort\n(tR.")
    change_metadata(path / ACTION, filters=[PICKLE], compressor=None)
    with pytest.raises(DatasetError, match="by the codec 'pickle'"):
        read(path)  # abort would end this process


def test_a_link_to_a_chunk_is_followed_and_one_to_a_device_is_not(tmp_path: Path) -> None:
    path = write(tmp_path / "push.zarr")
    chunk = path / "data/action/1.0"
    chunk.rename(tmp_path / "elsewhere")  # as git-annex and the hub's cache keep files
    chunk.symlink_to(tmp_path / "elsewhere")
    check(read(path), DATA["action"], DATA["state"])
    for target in ("/dev/zero", str(tmp_path), str(tmp_path / "nothing"), str(chunk)):
        chunk.unlink()
        chunk.symlink_to(target)
        with pytest.raises(DatasetError, match=r"no chunk data/action/1\.0"):
            read(path)
    chunk.unlink()
    os.mkfifo(chunk)
    with pytest.raises(DatasetError, match=r"no chunk data/action/1\.0"):
        read(path)


@pytest.mark.parametrize("name", ["../data/x", "/data/x", "data/../../x", "a\\..\\b"])
def test_an_archive_with_names_that_lead_out_of_it_is_refused(tmp_path: Path, name: str) -> None:
    path = pack(tmp_path / "push.zarr.zip", write(tmp_path / "push.zarr"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"")
    with pytest.raises(DatasetError, match="expected names inside of the archive"):
        read(path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["push.zarr", "push.zarr.zip"]


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.zarr.zip"
    for content in (b"", b"no archive", b"PK\x05\x06" + bytes(18)):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"other\.zarr\.zip"):
            read(path)
    directory = write(tmp_path / "push.zarr")
    with pytest.raises(DatasetError, match="without a directory around it"):
        read(pack(path, directory, prefix="push.zarr/"))


def test_a_cut_archive_is_an_error_at_every_length(tmp_path: Path) -> None:
    data = {"action": DATA["action"]}
    whole = pack(tmp_path / "whole.zarr.zip", write(tmp_path / "push.zarr", data)).read_bytes()
    path = tmp_path / "cut.zarr.zip"
    for length in np.linspace(0, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:length])
        with pytest.raises(DatasetError, match=r"cut\.zarr\.zip"):
            read(path)


def test_a_mutated_archive_is_an_error_or_what_was_written(tmp_path: Path) -> None:
    """The archive has a checksum of every chunk, so that damage cannot change a value."""
    data = {"action": DATA["action"]}
    whole = pack(tmp_path / "whole.zarr.zip", write(tmp_path / "push.zarr", data)).read_bytes()
    path = tmp_path / "mutated.zarr.zip"
    rng, errors = np.random.default_rng(0), 0
    for _ in range(150):
        mutated = bytearray(whole)
        mutated[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(mutated)
        try:
            with warnings.catch_warnings(action="ignore"):  # of names that are now there twice
                check(read(path), DATA["action"], None)
        except DatasetError:
            errors += 1
    assert 30 < errors < 150
