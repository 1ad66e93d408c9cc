"""Runs that end early: Ctrl-C, a full disk, a broken file; and directories no run may write to."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from collection_writer import SHARD, make_episodes, write_hdf5, write_npz, write_rlds
from command import check_failure, run_command, snapshot
from small_worker import make_small

from ambient_curate.cli import console
from ambient_curate.progress import Update
from ambient_curate.run import records

COMMAND = ("annotate", "set", "--folds", "3")
ANNOTATE = (*COMMAND, "--workers", "1")


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection in which nothing is wrong."""
    path = tmp_path_factory.mktemp("sound") / "set"
    write_npz(path / "clean", make_episodes(6))
    write_npz(path / "noisy", make_episodes(7, noise=0.5))
    return path


@pytest.fixture
def folder(collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its copy `set` in the current directory, of the same times; a fit takes no second."""
    make_small(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(collection, "set"))


@pytest.fixture(scope="module")
def finished(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make the finished run of a granularity, nothing having disturbed it."""

    @functools.cache
    def make(granularity: str) -> Path:
        out = tmp_path_factory.mktemp("finished") / "run"
        with pytest.MonkeyPatch.context() as patch:
            make_small(patch.setattr)
            patch.chdir(collection.parent)
            outcome = run_command(*ANNOTATE, "--granularity", granularity, "--out", str(out))
        assert outcome[0] == 0, outcome
        return out

    return make


def content(run: Path) -> dict[str, bytes]:
    """Bytes of every file, without the one thing that depends on where the run lies."""
    files = {str(f.relative_to(run)): f.read_bytes() for f in run.rglob("*") if f.is_file()}
    record = json.loads(files["run.json"])
    assert (run.resolve() / record.pop("collection")["path"]).is_dir()
    return files | {"run.json": json.dumps(record).encode()}


def interrupt_at(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C as soon as the work that is called `moment` has advanced."""

    class Pressing(console.ConsoleProgress):
        def __call__(self, update: Update) -> None:
            super().__call__(update)
            if update.work == moment and update.state == "running":
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(console, "ConsoleProgress", Pressing)


MOMENTS = (
    *("reading clean", "reading noisy", "fitting", "scoring noisy"),
    *("teaching noisy", "annotating noisy"),
)
QUICK = [("dataset", "reading noisy"), ("dataset", "fitting")]
QUICK += [("datapoint", "annotating noisy")]
SLOW = [("episode", m) for m in MOMENTS if m != "teaching noisy"]
SLOW += [("dataset", "scoring noisy"), *(("datapoint", m) for m in MOMENTS[:-1])]


@pytest.mark.parametrize(
    ("granularity", "moment"),
    QUICK + [pytest.param(*each, marks=pytest.mark.slow) for each in SLOW],
)
@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_after_ctrl_c_the_same_command_continues_to_the_same_bytes(
    folder: Path,
    finished: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    granularity: str,
    moment: str,
    workers: str,
) -> None:
    command = (*COMMAND, "--workers", workers, "--granularity", granularity)
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
    assert content(Path("set_run")) == content(finished(granularity))
    assert snapshot(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["reading clean", "fitting", "scoring noisy"])
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


def run_small(*words: str) -> subprocess.Popen[str]:
    """Start the command line, with small sizes here and in its workers, on its own."""
    program = [sys.executable, str(Path(__file__).parents[1] / "small_worker.py"), *words]
    return subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a command that succeeds; return what it told."""
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return stdout + stderr


def count_workers(run: Path) -> int:
    """Processes whose command line names the working directory of a run."""
    name = str(run / ".work").encode()
    found = 0
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            found += name in file.read_bytes().split(b"\0")
    return found


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_a_run_that_is_killed_at_any_moment_leaves_no_worker_and_continues_to_the_same_bytes(
    folder: Path, finished: Callable[[str], Path]
) -> None:
    """SIGKILL, to the command alone, at 20 moments all over a run by two processes."""
    start = time.monotonic()
    words = (*COMMAND, "--workers", "2", "--granularity", "datapoint", "--out")
    finish(run_small(*words, "whole"))
    seconds = time.monotonic() - start
    assert content(Path("whole")) == content(finished("datapoint"))
    moments = np.random.default_rng(0).uniform(0.1, 1.0, 20)
    for number, moment in enumerate(sorted(moments)):
        out = Path(f"run-{number}")
        process = run_small(*words, str(out))
        time.sleep(moment * seconds)
        process.kill()
        process.communicate()
        deadline = time.monotonic() + 10.0
        while count_workers(out) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert count_workers(out) == 0
        left = sorted(str(f.relative_to(out)) for f in out.rglob("*.parquet"))
        finish(run_small(*words, str(out)))
        print(f"killed after {moment * seconds:.1f} of {seconds:.1f} s: {len(left)} tables stood")
        assert content(out) == content(Path("whole"))


@pytest.mark.slow
def test_array_jobs_and_a_merge_write_what_one_process_would(
    folder: Path, finished: Callable[[str], Path]
) -> None:
    """Eight jobs at once; one of them is killed and given again."""
    words = (*COMMAND, "--granularity", "datapoint", "--workers", "1", "--out", "run")
    jobs = [run_small(*words, "--num-shards", "8", "--shard-index", str(i)) for i in range(8)]
    jobs[1].kill()
    jobs[1].communicate()
    told = [finish(job) for i, job in enumerate(jobs) if i != 1]
    assert all("ambient-curate merge run" in text for text in told)
    check_failure(run_command("merge", "run"), "parts of run are missing", "--shard-index")
    finish(run_small(*words, "--num-shards", "8", "--shard-index", "1"))
    code, stdout, stderr = run_command("merge", "run")
    assert code == 0 and "noisy" in stdout, stderr
    assert content(Path("run")) == content(finished("datapoint"))
    assert "already complete" in run_command("merge", "run")[2]


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


SLOW_SIZES = ("4k", "8k", "16k", "32k", "64k", "128k", "256k", "512k", "1m")


@pytest.mark.parametrize(
    "small_disk",
    ["768k", *(pytest.param(size, marks=pytest.mark.slow) for size in SLOW_SIZES)],
    indirect=True,
)
def test_a_full_disk_is_told_and_the_run_continues_when_there_is_room(
    folder: Path, small_disk: Path
) -> None:
    command = (*ANNOTATE, "--out", str(small_disk / "run"))
    check_failure(run_command(*command), "disk.* full", "make room")
    assert not list(small_disk.rglob("run.json"))
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    code, _, stderr = run_command(*command)
    assert code == 0, stderr
    assert records.read_run(small_disk / "run")["clean"] == "clean"


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
    run = records.read_run("set_run")
    files = [str(shard), "gone", str(folder / "spoiled/data.npz")]
    assert sorted(entry["file"] for entry in run["skipped"]) == sorted(files)
    assert {name: member["episodes"] for name, member in run["members"].items()} == {
        "clean": 6,
        "cut": 7,
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
    check_failure(
        run_command(*ANNOTATE, "--horizon", "30", "--out", "new/run"),
        "no whole window",
        "--horizon 20",
    )
    code, _, stderr = run_command(*ANNOTATE, "--horizon", "20", "--out", "new/run")
    assert code == 0, stderr


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


def test_a_run_of_other_options_is_left_as_it_is(
    folder: Path, finished: Callable[[str], Path]
) -> None:
    shutil.copytree(finished("dataset"), "deep/run")
    before = snapshot(Path())
    command = (*ANNOTATE, "--out", "deep/run")
    other = (*command, "--epsilon", "0.1")
    check_failure(run_command(*other), r"other inputs \(options.epsilon: 0.05 -> 0.1\)", "--force")
    assert snapshot(Path()) == before
    code, _, stderr = run_command(*command)
    assert code == 0 and "already complete" in stderr.splitlines()
    assert snapshot(Path()) == before


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("manifest/part-00000.parquet", "sigma-min"),
        ("curves.parquet", "accuracy"),
        ("reliability.parquet", "reliability"),
    ],
)
def test_a_damaged_table_of_a_run_is_told(
    folder: Path, finished: Callable[[str], Path], name: str, figure: str
) -> None:
    file = Path(shutil.copytree(finished("dataset"), "run")) / name
    sound = file.read_bytes()
    for damaged in (b"", sound[: len(sound) // 2], b"x" * len(sound)):
        file.write_bytes(damaged)
        check_failure(run_command("plot", "run", figure), file.name)
    file.unlink()
    check_failure(run_command("plot", "run", figure), file.parent.name)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": "ambient-curate/run"}', "\0"])
def test_a_damaged_run_json_is_told(
    folder: Path, finished: Callable[[str], Path], text: str
) -> None:
    shutil.copytree(finished("dataset"), "run")
    Path("run/run.json").write_text(text)
    for command in (("show", "run"), ("plot", "run", "accuracy"), (*ANNOTATE, "--out", "run")):
        check_failure(run_command(*command), "run.json|schema version|other inputs")


@pytest.mark.parametrize("name", ["gone", "set", "set/ambient.toml"])
def test_show_and_plot_need_a_run(folder: Path, name: str) -> None:
    for command in (("show", name), ("plot", name, "accuracy")):
        check_failure(run_command(*command), "is no run", "annotate")
