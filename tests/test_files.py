"""Files that appear whole or not at all."""

import json
import math
from pathlib import Path

import pytest

from ambient_curate.files import find_stand_in, replace_whole, sync, to_json, write_json_atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_written_file_replaces_the_old_one_at_the_end(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "run.json"
    if old is not None:
        path.write_bytes(old)
    with replace_whole(path) as temporary:
        temporary.write_bytes(b"new")
        assert (path.read_bytes() if path.exists() else None) == old
        assert temporary.parent == path.parent  # a rename within one file system is atomic
        assert temporary.name.startswith(".")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["run.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, b"old"])
def test_after_an_error_everything_is_as_it_was(
    tmp_path: Path, error: type[BaseException], old: bytes | None
) -> None:
    path = tmp_path / "run.json"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(error), replace_whole(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert names(tmp_path) == ([] if old is None else ["run.json"])
    assert old is None or path.read_bytes() == old


def test_a_caller_who_writes_nothing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"old")
    with pytest.raises(FileNotFoundError), replace_whole(path):
        pass
    assert path.read_bytes() == b"old"


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with replace_whole(path) as temporary:
        temporary.write_bytes(b"first")
        left = temporary
    left.write_bytes(b"a longer left-over")
    with replace_whole(path) as temporary:
        temporary.write_bytes(b"second")
    assert path.read_bytes() == b"second"
    assert names(tmp_path) == ["run.json"]


def test_the_file_and_its_name_are_on_the_disk_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    order = []
    monkeypatch.setattr(
        "ambient_curate.files.sync", lambda p: order.append((p.name, path.exists()))
    )
    with replace_whole(path) as temporary:
        temporary.write_bytes(b"new")
    assert order == [(".run.json.tmp", False), (tmp_path.name, True)]


def test_sync_takes_files_and_folders(tmp_path: Path) -> None:
    sync(tmp_path)
    (tmp_path / "a").write_bytes(b"x")
    sync(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "b")


def test_a_number_that_json_cannot_hold_is_null(tmp_path: Path) -> None:
    values = {"a": math.inf, "b": [1.0, (-math.inf, {"c": math.nan})], "d": "nan", "e": True}
    expected = {"a": None, "b": [1.0, [None, {"c": None}]], "d": "nan", "e": True}
    write_json_atomic(tmp_path / "a.json", values)
    assert json.loads((tmp_path / "a.json").read_text()) == expected
    assert json.loads(to_json(values, sort_keys=True)) == expected
    assert to_json("é") != to_json("é", ensure_ascii=True) == '"\\u00e9"'


def test_a_file_in_place_of_data_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    assert find_stand_in(file) is None
    for content, text in (
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
    ):
        file.write_bytes(content)
        assert text in str(find_stand_in(file))
    file.write_bytes(b"data")
    assert find_stand_in(file) is None
