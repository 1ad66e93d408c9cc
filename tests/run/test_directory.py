import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ambient_curate import files
from ambient_curate.errors import RunError
from ambient_curate.files import write_json_atomic
from ambient_curate.run import directory, records

INPUTS: dict[str, Any] = {
    "options": {"epsilon": 0.05, "seed": 0},
    "sources": {"sim": {"files": 3}},
    "versions": {"numpy": "2.4.6"},
}


def write_results(work: Path) -> None:
    for folder in ("manifest", "classifier"):
        (work / folder).mkdir(exist_ok=True)
    (work / "manifest" / "part-00000.parquet").write_text("rows")
    (work / "classifier" / "fold-0.safetensors").write_text("weights")
    (work / "curves.parquet").write_text("curves")
    (work / "reliability.parquet").write_text("bins")


def finish(path: Path, digest: str = "d1", **more: Any) -> None:
    with directory.open_run(path, INPUTS, digest) as run:
        write_results(run.work)
        run.commit({"seed": 0, **more})


def contents(path: Path) -> dict[str, str]:
    return {str(f.relative_to(path)): f.read_text() for f in path.rglob("*") if f.is_file()}


def test_a_finished_run_holds_its_results_and_nothing_else(tmp_path: Path) -> None:
    finish(tmp_path / "out" / "sim_run")
    texts = contents(tmp_path / "out" / "sim_run")
    assert set(texts) == {
        "manifest/part-00000.parquet",
        "classifier/fold-0.safetensors",
        "curves.parquet",
        "reliability.parquet",
        "run.json",
    }
    record = records.read_run(tmp_path / "out" / "sim_run")
    del texts["run.json"]
    assert record.pop("seal") == records.seal_record(record)
    assert record == {
        "schema": "ambient-curate/run",
        "schema_version": 2,
        "digest": "d1",
        **INPUTS,
        "seed": 0,
        "files": {name: sha256(text.encode()).hexdigest() for name, text in texts.items()},
    }


def test_opening_a_complete_run_again_changes_nothing(tmp_path: Path) -> None:
    finish(tmp_path)
    before = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*")}
    with directory.open_run(tmp_path, INPUTS, "d1") as run:
        assert run.complete
        assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*")} == before


def test_an_interrupted_run_continues_with_what_it_had(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), directory.open_run(tmp_path, INPUTS, "d1") as run:
        (run.work / "manifest").mkdir()
        (run.work / "manifest" / "part-00000.parquet").write_text("finished part")
        raise KeyboardInterrupt
    with pytest.raises(RunError, match="unfinished run"):
        records.read_run(tmp_path)
    with directory.open_run(tmp_path, INPUTS, "d1") as run:
        assert not run.complete
        assert (run.work / "manifest" / "part-00000.parquet").read_text() == "finished part"


@pytest.mark.parametrize("complete", [True, False])
def test_a_run_of_other_inputs_is_refused_with_the_difference(
    tmp_path: Path, complete: bool
) -> None:
    if complete:
        finish(tmp_path)
    else:
        with directory.open_run(tmp_path, INPUTS, "d1") as run:
            write_results(run.work)
    before = contents(tmp_path)
    other = {**INPUTS, "options": {"epsilon": 0.1, "seed": 0}, "versions": {"torch": "2.13.0"}}
    with pytest.raises(RunError) as caught, directory.open_run(tmp_path, other, "d2"):
        pass
    assert str(caught.value) == (
        f"{tmp_path} is the run of other inputs (options.epsilon: 0.05 -> 0.1; "
        'versions.numpy: "2.4.6" -> absent; versions.torch: absent -> "2.13.0")'
    )
    assert "--out" in (caught.value.hint or "") and "--force" in (caught.value.hint or "")
    assert contents(tmp_path) == before


def test_a_run_that_failed_before_its_first_result_gives_way(tmp_path: Path) -> None:
    """The corrected command must not need --force."""
    with pytest.raises(RunError), directory.open_run(tmp_path, INPUTS, "d1") as run:
        (run.work / "frames").mkdir()
        raise RunError("the input is wrong")
    with directory.open_run(tmp_path, {**INPUTS, "options": {}}, "d2") as run:
        assert [entry.name for entry in run.work.iterdir()] == ["options.json"]
        write_results(run.work)
        run.commit({})
    assert records.read_run(tmp_path)["digest"] == "d2"


def test_a_run_that_failed_before_its_first_result_leaves_no_directory(tmp_path: Path) -> None:
    def fail(error: BaseException, *, begun: bool = False) -> list[str]:
        with pytest.raises(type(error)), directory.open_run(tmp_path / "r", INPUTS, "d1") as run:
            (run.work / "frames").mkdir(exist_ok=True)
            if begun:
                (run.work / "classifier").mkdir()
            raise error
        return os.listdir(tmp_path)

    assert fail(RunError("too little data")) == []
    assert fail(KeyboardInterrupt()) == ["r"]  # it is continued
    assert fail(RunError("one fit of two"), begun=True) == ["r"]
    assert (tmp_path / "r" / ".work" / "classifier").is_dir()


def test_many_differences_are_counted_and_none_are_admitted(tmp_path: Path) -> None:
    old = {"sources": {str(i): i for i in range(20)}}
    with directory.open_run(tmp_path, old, "d1") as run:
        write_results(run.work)
    new = {"sources": {str(i): i + 1 for i in range(20)}}
    with pytest.raises(RunError, match=r"sources\.7: 7 -> 8; and 12 more\)$"):
        directory.open_run(tmp_path, new, "d2").__enter__()
    with pytest.raises(RunError, match=r"their digests differ: d1 -> d2"):
        directory.open_run(tmp_path, old, "d2").__enter__()


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("name", ["notes.txt", ".work/notes.txt", "manifest/part-00000.parquet"])
def test_a_directory_that_is_no_run_is_left_alone(tmp_path: Path, force: bool, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with (
        pytest.raises(RunError, match="is not empty and no run"),
        directory.open_run(tmp_path, INPUTS, "d1", force=force),
    ):
        pass
    assert contents(tmp_path) == {name: "mine"}


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("text", ["{}", "[]", '{"schema": "other"}', "", '{"schema":'])
def test_a_foreign_or_damaged_run_json_is_not_taken_for_ours(
    tmp_path: Path, force: bool, text: str
) -> None:
    (tmp_path / "run.json").write_text(text)
    with (
        pytest.raises(RunError, match=r"run\.json (is damaged|was not written)"),
        directory.open_run(tmp_path, INPUTS, "d1", force=force),
    ):
        pass
    with pytest.raises(RunError, match=r"run\.json (is damaged|was not written)"):
        records.read_run(tmp_path)
    assert contents(tmp_path) == {"run.json": text}


def test_what_cannot_be_read_as_a_run_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunError, match="is no run"):
            records.read_run(path)
    write_json_atomic(tmp_path / "run.json", {"schema": records.RUN.schema, "schema_version": 3})
    with pytest.raises(RunError, match="schema version 3; this program reads up to 2"):
        records.read_run(tmp_path)
    for path in (tmp_path / "run.json", tmp_path / "run.json" / "below"):
        with (
            pytest.raises(RunError, match=r"cannot be a directory: (File exists|Not a directory)"),
            directory.open_run(path, INPUTS, "d1"),
        ):
            pass


@pytest.mark.parametrize("digest", ["d1", "d2"])
@pytest.mark.parametrize("complete", [True, False])
def test_force_starts_anew_and_leaves_what_no_run_writes(
    tmp_path: Path, digest: str, complete: bool
) -> None:
    if complete:
        finish(tmp_path)
        (tmp_path / "report.html").write_text("of the old run")
    else:
        with directory.open_run(tmp_path, INPUTS, "d1") as run:
            write_results(run.work)
    (tmp_path / "notes.txt").write_text("mine")
    with directory.open_run(tmp_path, INPUTS, digest, force=True) as run:
        assert not run.complete
        assert os.listdir(run.work) == ["options.json"]
        assert json.loads((run.work / "options.json").read_text())["digest"] == digest
        write_results(run.work)
        run.commit({})
    assert not (tmp_path / "report.html").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_commit_refuses_to_finish_a_run_that_lacks_a_result(tmp_path: Path) -> None:
    with directory.open_run(tmp_path, INPUTS, "d1") as run:
        write_results(run.work)
        (run.work / "curves.parquet").unlink()
        with pytest.raises(ValueError, match=r"holds no curves\.parquet"):
            run.commit({})
        assert not run.complete


class Crash(BaseException):
    """Stands for SIGKILL: nothing of the package may catch it and carry on."""


def crash_at(monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Make the `moment`-th change of the file system the last one."""
    left = moment

    def countdown(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left == 0:
                raise Crash
            left -= 1
            return change(*args, **kwargs)

        return changed

    for owner, name in (
        (Path, "rename"),
        (Path, "replace"),
        (Path, "mkdir"),
        (Path, "unlink"),
        (os, "unlink"),
        (os, "rmdir"),
    ):
        monkeypatch.setattr(owner, name, countdown(getattr(owner, name)))


def crashed(monkeypatch: pytest.MonkeyPatch, moment: int, work: Callable[[], None]) -> bool:
    with monkeypatch.context() as patch:
        crash_at(patch, moment)
        try:
            work()
        except Crash:
            return True
    return False


def test_a_commit_crashed_at_any_moment_is_finished_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    for moment in range(100):
        path = tmp_path / str(moment)
        if not crashed(monkeypatch, moment, lambda path=path: finish(path)):
            break
        with directory.open_run(path, INPUTS, "d1") as run:
            if not run.complete:
                write_results(run.work)
                run.commit({"seed": 0})
        assert {k: v for k, v in contents(path).items() if k != ".lock"} == expected, moment
    assert 10 < moment < 99


def test_results_are_never_lost_between_work_and_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for moment in range(100):
        path = tmp_path / str(moment)
        with directory.open_run(path, INPUTS, "d1") as run:
            write_results(run.work)

            def commit(run: directory.RunDirectory = run) -> None:
                run.commit({})

            if not crashed(monkeypatch, moment, commit):
                break
        with directory.open_run(path, INPUTS, "d1") as run:
            if not run.complete:
                run.commit({})  # raises where a result is missing
        assert contents(path)["curves.parquet"] == "curves"
    assert 4 < moment < 99


@pytest.mark.parametrize("complete", [True, False])
def test_force_crashed_at_any_moment_can_be_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complete: bool
) -> None:
    for moment in range(100):
        path = tmp_path / str(moment)
        with directory.open_run(path, INPUTS, "d1") as run:
            write_results(run.work)
            if complete:
                run.commit({})
        (path / "notes.txt").write_text("mine")

        def replace(path: Path = path) -> None:
            with directory.open_run(path, INPUTS, "d2", force=True):
                pass

        if not crashed(monkeypatch, moment, replace):
            break
        assert not (path / "run.json").exists() or set(contents(path)) >= set(
            records.RUN.results[1:3]
        )
        with directory.open_run(path, INPUTS, "d2", force=True) as run:
            assert os.listdir(run.work) == ["options.json"]
        assert (path / "notes.txt").read_text() == "mine"
    assert 5 < moment < 99


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_an_expected_failure_that_leaves_no_run_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with (
        pytest.raises(RunError, match=r"the disk of .* is full \(\d+ MB free\)") as caught,
        directory.open_run(tmp_path, INPUTS, "d1") as run,
    ):
        write_results(run.work)
        monkeypatch.setattr(os, "fsync", fail)
        run.commit({})
    assert "continues" in (caught.value.hint or "")
    assert not (tmp_path / "run.json").exists()
    monkeypatch.undo()
    with directory.open_run(tmp_path, INPUTS, "d1") as run:
        run.commit({})
    assert records.read_run(tmp_path)["digest"] == "d1"


def test_other_errors_of_the_file_system_are_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), directory.open_run(tmp_path, INPUTS, "d1"):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(FileExistsError), directory.open_run(tmp_path, INPUTS, "d1"):
        raise FileExistsError(errno.EEXIST, "a bug of the caller")


HOLD = """
import sys, time
from pathlib import Path
from ambient_curate.run import directory as runs, records
with runs.open_run(Path(sys.argv[1]), {}, "d1"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            for force in (False, True):
                with (
                    pytest.raises(RunError, match=f"is being written by process {holder.pid}$"),
                    directory.open_run(tmp_path, {}, "d1", force=force),
                ):
                    pass
        finally:
            os.kill(holder.pid, signal.SIGKILL)
    assert (tmp_path / ".lock").exists()
    with directory.open_run(tmp_path, {}, "d1") as run:
        assert not run.complete
    assert not (tmp_path / ".lock").exists()


def test_a_lock_file_of_a_dead_or_recycled_pid_is_ignored(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(f"{os.getppid()}")  # alive, but it does not hold the lock
    with directory.open_run(tmp_path, INPUTS, "d1") as run:
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
        assert not run.complete


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.replace_whole(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert contents(tmp_path) == {"file": "old"}
    with files.replace_whole(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert contents(tmp_path) == {"file": "new"}


def test_versions_are_those_of_the_imported_packages() -> None:
    import numpy
    import pyarrow
    import torch

    versions = directory.package_versions()
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["numpy"] == numpy.__version__
    assert versions["pyarrow"] == pyarrow.__version__
    assert versions["torch"] == torch.__version__
    assert set(versions) == {"python", *directory.NUMERIC_STACK}
