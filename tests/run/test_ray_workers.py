"""Ray: what a task tells when it is done, and clusters on which some tasks fail."""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import collection_writer
import numpy as np
import pytest

from ambient_curate.annotation.annotate import annotate
from ambient_curate.annotation.tasks import Jobs
from ambient_curate.errors import ConfigError, CurateError
from ambient_curate.progress import Progress, Update, silent, track, warn
from ambient_curate.run import ray_workers
from ambient_curate.run.ray_workers import OpenTasks, RayPool, perform
from ambient_curate.run.workers import Failure

pytestmark = pytest.mark.usefixtures("one_thread")


class WordedJobs(Jobs):
    """Each task is a word that says what happens to it."""

    opened: list[Path]

    def __init__(self, work: Path) -> None:
        self.opened.append(work)

    def perform(self, task: str, progress: Progress) -> None:
        match task:
            case "count":
                with track(progress, "counting", 5) as one, track(progress, "waiting") as other:
                    warn(progress, "first")
                    one(2)
                    other(0.5, "a note")
                    one()
                with track(progress, "counting", 5) as again:
                    again(2)
                warn(progress, "last")
            case "open":
                with track(progress, "empty", 0):
                    pass
            case "expect":
                with track(progress, "counting", 5) as one:
                    one(3)
                raise CurateError("no such file", "look elsewhere")
            case "fill":
                raise OSError(errno.ENOSPC, "no space left")
            case "quota":
                raise OSError(errno.EDQUOT, "quota exceeded")
            case "lose":
                raise OSError(errno.EIO, "disk lost")
            case "divide":
                raise ZeroDivisionError("by\nnothing")
            case "stop":
                raise KeyboardInterrupt


def started(work: str, total: float | None = None) -> Update:
    return Update(work, total=total, state="started")


def done(work: str) -> Update:
    return Update(work, state="done")


COUNTED = [
    *(started("counting", 5), started("waiting"), Update("", note="first", state="warning")),
    *(Update("counting", 2), Update("waiting", 0.5, "a note"), Update("counting", 1)),
    *(done("waiting"), done("counting"), started("counting", 5), Update("counting", 2)),
    *(done("counting"), Update("", note="last", state="warning")),
]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Runs that were opened, in turn; by no pool before."""
    ray_workers._open.cache_clear()
    monkeypatch.setattr(WordedJobs, "opened", [], raising=False)
    yield WordedJobs.opened
    ray_workers._open.cache_clear()


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("count", ["done", COUNTED]),
        ("open", ["done", [started("empty", 0), done("empty")]]),
        ("nothing", ["done", []]),
        ("expect", ["expected", "no such file", "look elsewhere"]),
        ("fill", ["full disk", errno.ENOSPC, "no space left"]),
        ("quota", ["full disk", errno.EDQUOT, "quota exceeded"]),
        ("lose", ["failed", f"OSError: [Errno {errno.EIO}] disk lost"]),
        ("divide", ["failed", "ZeroDivisionError: by nothing"]),
    ],
)
def test_a_task_tells_what_became_of_it(
    opened: list[Path], capsys: pytest.CaptureFixture[str], task: str, told: list[Any]
) -> None:
    assert perform(WordedJobs, "work", "token", task) == told
    seen = capsys.readouterr()
    assert seen.out == ""
    assert ("Traceback" in seen.err) == (told[0] == "failed")  # where a cluster's logs have it


@pytest.mark.usefixtures("opened")
def test_an_interrupt_is_not_taken_for_a_failure() -> None:
    with pytest.raises(KeyboardInterrupt):
        perform(WordedJobs, "work", "token", "stop")


def test_a_run_is_opened_once_a_pool_and_anew_by_the_next(opened: list[Path]) -> None:
    """What was read for one pool may have changed before the next comes."""
    for token in ("one", "one", "two", "two"):
        perform(WordedJobs, "work", token, "open")
    perform(WordedJobs, "other", "two", "open")
    assert opened == [Path("work"), Path("work"), Path("other")]


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="Ray is not installed") as caught:
        RayPool(tmp_path, WordedJobs, workers=1)
    assert caught.value.hint == "pip install 'ambient-curate[ray]'"


Work = Callable[[OpenTasks, str, str, str], list[Any]]


def scripted(log: Path) -> Work:
    """Make a function that a cluster runs: it keeps a log, and does what the task says."""

    def work(_: OpenTasks, folder: str, token: str, task: str) -> list[Any]:
        with (log / task).open("a") as lines:
            lines.write(f"{folder} {token} {os.getpid()}\n")
        attempts = len((log / task).read_text().splitlines())
        match task.split("-")[0]:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "once" if attempts == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            case "raise":
                raise ZeroDivisionError("by nothing")
            case "fail":
                return ["failed", f"attempt {attempts}"]
            case "expect":
                return ["expected", "no such file", "look elsewhere"]
            case "fill":
                return ["full disk", errno.ENOSPC, "no space left"]
        return [
            "done",
            [Update("counting", 2), Update("", note=f"{task} is done", state="warning")],
        ]

    return work


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where scripted tasks of a real cluster leave a line an attempt."""
    pytest.importorskip("ray")
    # Processes of a cluster find modules by the environment, not by what pytest added to sys.path.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setattr(ray_workers, "perform", scripted(tmp_path))
    return tmp_path


def attempts(log: Path) -> dict[str, int]:
    return {path.name: len(path.read_text().splitlines()) for path in sorted(log.iterdir())}


@pytest.mark.slow
def test_tasks_that_fail_or_die_are_tried_twice_and_the_others_done(log: Path) -> None:
    updates, plain = list[Update](), [f"plain-{number}" for number in range(9)]
    tasks = ["kill", *plain[:4], "fail", "once", "raise", *plain[4:]]
    with RayPool(log / "work", WordedJobs, workers=2) as pool:
        failures = pool.run(iter(tasks), updates.append)
        assert pool.run([], updates.append) == []
    twice = ("kill", "fail", "once", "raise")
    assert attempts(log) == {**dict.fromkeys(sorted(plain), 1), **dict.fromkeys(twice, 2)}
    assert {failure.task for failure in failures} == {"kill", "fail", "raise"}
    reasons = {failure.task: failure.reason for failure in failures}
    assert reasons["fail"] == "attempt 2"
    assert "ZeroDivisionError" in reasons["raise"]
    assert all(0 < len(reason) <= 200 and "\n" not in reason for reason in reasons.values())
    warnings = [str(each.note) for each in updates if each.state == "warning"]
    for task in twice:
        assert sum(text.startswith(f"{task}: ") for text in warnings) == (
            1 if task == "once" else 2
        )
    assert "fail: attempt 1; it will be tried again" in warnings
    assert "fail: attempt 2; it is given up" in warnings
    finished = {text for text in warnings if text.endswith(" is done")}
    assert finished == {f"{task} is done" for task in (*plain, "once")}
    assert [each for each in updates if each.work] == [Update("counting", 2)] * 10
    lines = [line.split() for path in log.iterdir() for line in path.read_text().splitlines()]
    assert {folder for folder, _, _ in lines} == {str((log / "work").resolve())}
    assert len({token for _, token, _ in lines}) == 1
    assert str(os.getpid()) not in {process for *_, process in lines}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "error", "text"),
    [("expect", CurateError, "no such file"), ("fill", OSError, "no space left")],
)
def test_what_nobody_can_go_on_from_ends_the_run(
    log: Path, task: str, error: type[Exception], text: str
) -> None:
    later = [f"plain-{number}" for number in range(40)]
    with (
        RayPool(log / "work", WordedJobs, workers=1) as pool,
        pytest.raises(error, match=text) as caught,
    ):
        pool.run([task, *later], silent)
    assert getattr(caught.value, "hint", "look elsewhere") == "look elsewhere"
    assert attempts(log)[task] == 1
    assert len(attempts(log)) <= 3  # those that waited are not begun


@pytest.mark.slow
def test_a_pool_ends_the_cluster_that_it_began_and_no_other(log: Path) -> None:
    ray = pytest.importorskip("ray")
    with RayPool(log / "work", WordedJobs, workers=1) as pool:
        with RayPool(log / "other", WordedJobs, workers=1) as guest:
            assert guest.run(["plain-0"], silent) == []
        assert ray.is_initialized()
        assert pool.run(["plain-1", "fail"], silent) == [Failure("fail", "attempt 2")]
    assert not ray.is_initialized()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_on_a_cluster_writes_the_bytes_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    root, rng = tmp_path / "set", np.random.default_rng(0)
    clean = collection_writer.make_episodes(9, 20, dim=2)
    collection_writer.write_npz(root / "clean", clean)
    jittered = [each + rng.normal(0.0, 3.0, each.shape).astype(np.float32) for each in clean[:6]]
    collection_writer.write_npz(root / "jitter", jittered)
    options = {"horizon": 3, "folds": 3, "granularity": "datapoint"}
    plain, remote = list[Update](), list[Update]()
    one = annotate(root, out=tmp_path / "one", workers=1, progress=plain.append, **options)
    other = annotate(
        root, out=tmp_path / "other", engine="ray", workers=2, progress=remote.append, **options
    )
    for folder in ("manifest", "classifier"):
        paths = sorted((one.path / folder).iterdir())
        assert [path.name for path in paths] == [
            path.name for path in sorted((other.path / folder).iterdir())
        ]
        for path in paths:
            assert path.read_bytes() == (other.path / folder / path.name).read_bytes(), path
    assert one.info["verdict"] == other.info["verdict"]
    assert not (other.path / ".work").exists()
    for name in ("fitting", "annotating jitter"):
        steps = [sum(u.steps for u in updates if u.work == name) for updates in (plain, remote)]
        assert steps[0] == steps[1] > 0
