"""Runs that end early: Ctrl-C, a full disk, a broken file; and directories no run may write to."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from collection_writer import SHARD, make_episodes, write_hdf5, write_npz, write_rlds
from command import check_failure, run_command, snapshot

from ambient_curate import console, runs, stages
from ambient_curate.classifier import FitOptions
from ambient_curate.progress import Task
from ambient_curate.training import TrainOptions

ANNOTATE = ("annotate", "set", "--folds", "3", "--workers", "2")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound collection `set` in the current directory, and a fit of a second."""
    small = functools.partial(
        FitOptions, train=TrainOptions(steps=20), windows=256, held_out=64, batch=32, every=10
    )
    monkeypatch.setattr(stages, "FitOptions", small)
    monkeypatch.chdir(tmp_path)
    write_npz(Path("set/clean"), make_episodes(6))
    write_npz(Path("set/noisy"), make_episodes(7, noise=0.5))
    return Path("set")


def content(run: Path) -> dict[str, bytes]:
    return {str(f.relative_to(run)): f.read_bytes() for f in run.rglob("*") if f.is_file()}


def interrupt_at(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C as soon as the task that is called `moment` has advanced."""

    class Pressing(console.ConsoleProgress):
        @contextmanager
        def task(self, description: str, total: int | float | None = None) -> Iterator[Task]:
            with super().task(description, total) as task:
                yield _Pressing(task) if description == moment else task

    class _Pressing:
        def __init__(self, task: Task) -> None:
            self._task = task

        def advance(self, steps: int | float = 1, note: str | None = None) -> None:
            self._task.advance(steps, note)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(console, "ConsoleProgress", Pressing)


@pytest.mark.parametrize(
    "moment", ["reading clean", "reading noisy", "fold 1 of 3", "fold 3 of 3", "scoring noisy"]
)
@pytest.mark.parametrize("granularity", ["dataset", "datapoint"])
def test_after_ctrl_c_the_same_command_continues_to_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, moment: str, granularity: str
) -> None:
    command = (*ANNOTATE, "--granularity", granularity)
    assert run_command(*command, "--out", "whole")[0] == 0
    before = snapshot(folder)
    with monkeypatch.context() as patch:
        interrupt_at(moment, patch)
        code, stdout, stderr = run_command(*command)
    assert (code, stdout) == (130, "")
    assert stderr.splitlines()[-1] == "interrupted: the same command continues"
    assert "Traceback" not in stderr
    assert not Path("set_run/run.json").exists()
    check_failure(run_command("show", "set_run"), "unfinished run", "same annotate command")
    code, stdout, stderr = run_command(*command)
    assert code == 0, stderr
    assert content(Path("set_run")) == content(Path("whole"))
    assert snapshot(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["reading clean", "fold 1", "scoring noisy"])
def test_ctrl_c_from_outside_ends_the_console_script(
    tmp_path: Path, folder: Path, moment: str
) -> None:
    script = Path(sys.executable).with_name("ambient-curate")
    with subprocess.Popen([script, *ANNOTATE], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(moment):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "interrupted: the same command continues"
    assert "Traceback" not in rest
    assert not Path("set_run/run.json").exists()
    done = subprocess.run([script, *ANNOTATE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path("set_run/run.json").exists()


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of `request.param` in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("small_disk", ["4k", "16k", "32k", "64k", "128k", "512k"], indirect=True)
@pytest.mark.parametrize("granularity", ["dataset", "datapoint"])
def test_a_full_disk_is_told_and_the_run_continues_when_there_is_room(
    folder: Path, small_disk: Path, granularity: str
) -> None:
    command = (*ANNOTATE, "--granularity", granularity, "--out", str(small_disk / "run"))
    check_failure(run_command(*command), "disk.* full", "make room")
    assert not list(small_disk.rglob("run.json"))
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    code, _, stderr = run_command(*command)
    assert code == 0, stderr
    assert runs.read_run(small_disk / "run")["clean"] == "clean"


def test_broken_files_are_skipped_counted_and_named(folder: Path) -> None:
    write_rlds(folder / "cut", make_episodes(8, noise=0.1))
    shard = folder / "cut" / SHARD.format(1)
    shard.write_bytes(shard.read_bytes()[:-1])
    write_hdf5(folder / "gone", make_episodes(8))
    with h5py.File(folder / "gone/demos.hdf5", "a") as file:
        del file["data"]
    spoiled = make_episodes(9)
    spoiled[2][3] = np.nan
    write_npz(folder / "spoiled", spoiled)
    check_failure(run_command(*ANNOTATE), "has no group 'data'", "layout")
    code, _, stderr = run_command(*ANNOTATE, "--on-error", "skip")
    assert code == 0, stderr
    run = runs.read_run("set_run")
    files = [str(shard), "gone", str(folder / "spoiled/data.npz")]
    assert sorted(entry["file"] for entry in run["skipped"]) == sorted(files)
    assert {name: member["episodes"] for name, member in run["members"].items()} == {
        "clean": 6,
        "cut": 4,
        "noisy": 7,
        "spoiled": 8,
    }
    for entry in run["skipped"]:
        assert entry["error"] in stderr and entry["file"] in stderr


def test_skipping_leaves_an_error_where_nothing_is_left(folder: Path) -> None:
    (folder / "noisy/data.npz").write_bytes(b"")
    check_failure(run_command(*ANNOTATE, "--on-error", "skip"), "only the clean set")
    (folder / "clean/data.npz").write_bytes(b"")
    check_failure(run_command(*ANNOTATE, "--on-error", "skip"), "no member of set can be opened")


def test_a_clean_set_that_is_skipped_is_an_error(folder: Path) -> None:
    (folder / "clean/data.npz").write_bytes(b"")
    check_failure(run_command(*ANNOTATE, "--on-error", "skip"), "clean was skipped as broken")


def test_a_corrected_command_follows_a_failed_one_without_force(folder: Path) -> None:
    check_failure(run_command(*ANNOTATE, "--horizon", "30"), "no whole window", "--horizon 20")
    assert run_command(*ANNOTATE, "--horizon", "20")[0] == 0


def test_a_directory_that_is_no_run_is_left_as_it_is(folder: Path) -> None:
    Path("notes").mkdir()
    Path("notes/letter.txt").write_text("dear")
    Path("file").write_text("text")
    before = snapshot(Path())
    for name, error in (
        ("notes", "notes is not empty and no run"),
        ("set", "set is not empty and no run"),
        ("file", "file cannot be a directory"),
        ("file/below", "file/below cannot be a directory"),
        ("/proc/none", "/proc/none cannot be a directory"),
        ("x" * 5000, "x cannot be a directory: File name too long"),
    ):
        for force in ((), ("--force",)):
            check_failure(run_command(*ANNOTATE, "--out", name, *force), error, "--out")
            assert snapshot(Path()) == before


def test_a_run_of_other_options_is_left_as_it_is(folder: Path) -> None:
    assert run_command(*ANNOTATE, "--out", "deep/down/run")[0] == 0  # parents are made
    before = snapshot(Path())
    other = (*ANNOTATE, "--out", "deep/down/run", "--epsilon", "0.1")
    check_failure(run_command(*other), r"other inputs \(options.epsilon: 0.05 -> 0.1\)", "--force")
    assert snapshot(Path()) == before
    code, _, stderr = run_command(*ANNOTATE, "--out", "deep/down/run")
    assert code == 0 and "already complete" in stderr.splitlines()
    assert snapshot(Path()) == before
    assert run_command(*other, "--force")[0] == 0
    assert runs.read_run("deep/down/run")["epsilon"] == 0.1


def test_what_a_run_holds_may_be_damaged(folder: Path) -> None:
    assert run_command(*ANNOTATE)[0] == 0
    for name in ("manifest/part-00000.parquet", "curves.parquet", "reliability.parquet"):
        file = Path("set_run") / name
        sound = file.read_bytes()
        for damaged in (b"", sound[: len(sound) // 2]):
            file.write_bytes(damaged)
            figure = {"c": "accuracy", "m": "sigma-min", "r": "reliability"}[name[0]]
            check_failure(run_command("plot", "set_run", figure), file.name)
        file.write_bytes(sound)
    info = Path("set_run/run.json")
    sound_info = info.read_text()
    for text in ("", "{", "[]", "{}", json.dumps({"schema": "ambient-curate/run"})):
        info.write_text(text)
        for command in (("show", "set_run"), ("plot", "set_run", "accuracy")):
            check_failure(run_command(*command), "run.json|schema version")
    info.write_text(sound_info)
    assert run_command("show", "set_run")[0] == 0


@pytest.mark.parametrize("name", ["gone", "set", "set/ambient.toml"])
def test_show_and_plot_need_a_run(folder: Path, name: str) -> None:
    for command in (("show", name), ("plot", name, "accuracy")):
        check_failure(run_command(*command), "is no run", "annotate")
