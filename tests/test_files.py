"""Files that appear whole or not at all."""

from pathlib import Path

import pytest

from ambient_curate.files import replace_whole, sync


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
