"""Pools of real processes: each task is a word that says what happens to it."""

import errno
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from ambient_curate.errors import CurateError
from ambient_curate.progress import Update, silent
from ambient_curate.run.workers import Engine, Failure, InProcess, WorkerPool

PROGRAM = (Path(__file__).parents[1] / "worker_program.py").read_text()

PARENT = """
import sys
from ambient_curate.run.workers import WorkerPool
from ambient_curate.progress import silent

with WorkerPool([sys.argv[1]], workers=2) as pool:
    pool.run(sys.argv[2:], silent)
"""


class Recorder:
    """Progress that is remembered."""

    def __init__(self) -> None:
        self.updates: list[Update] = []

    def __call__(self, update: Update) -> None:
        self.updates.append(update)

    @property
    def warnings(self) -> list[str | None]:
        return [each.note for each in self.updates if each.state == "warning"]

    @property
    def ended(self) -> list[tuple[str, str]]:
        ends = ("done", "stopped")
        return [(each.work, each.state) for each in self.updates if each.state in ends]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    return file


@pytest.fixture
def pool(program: Path) -> Iterator[WorkerPool]:
    with WorkerPool([str(program)], workers=2) as pool:
        yield pool
    assert children() == []


@pytest.fixture(params=["alone", "pool"])
def engine(request: pytest.FixtureRequest, program: Path) -> Iterator[Engine]:
    if request.param == "alone":
        yield InProcess(runpy.run_path(str(program))["handle"])
        return
    with WorkerPool([str(program)], workers=1) as pool:
        yield pool


def children() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "program.py" in str(each.cmdline())]


def log_of(program: Path) -> list[tuple[int, str]]:
    """Process and words of each line that the tasks have written."""
    file = program.with_name("log")
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(line.split(" ", 1)[0]), line.split(" ", 1)[1]) for line in lines]


def begun(program: Path) -> list[str]:
    return [text[6:] for _, text in log_of(program) if text.startswith("begin ")]


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# What holds of every engine


def test_tasks_are_begun_in_order_and_done(engine: Engine, program: Path) -> None:
    tasks = ["doze 2", "doze 1", '{"a": "\\ name\tü"}', "doze 3"]
    assert engine.run(iter(tasks), silent) == []
    assert engine.run([], silent) == []
    assert begun(program) == tasks


def test_an_unexpected_error_is_tried_again_then_told_while_the_others_are_done(
    engine: Engine, program: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    progress = Recorder()
    failures = engine.run(["raise", "once", "doze"], progress)
    reason = "ValueError: no such value"
    assert failures == [Failure("raise", reason)]
    assert begun(program) == ["raise", "once", "doze", "raise", "once"]
    assert progress.warnings == [
        f"raise: {reason}; it will be tried again",
        f"once: {reason}; it will be tried again",
        f"raise: {reason}; it is given up",
    ]
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("Traceback") == err.count("ValueError: no\n  such value") == 3


@pytest.mark.parametrize(
    ("task", "message", "hint"),
    [("refuse", "the file is übel", "mend it"), ("refuse-plain", "no hint", None)],
)
def test_an_expected_failure_ends_the_run_and_keeps_its_hint(
    engine: Engine,
    program: Path,
    task: str,
    message: str,
    hint: str | None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    progress = Recorder()
    with pytest.raises(CurateError) as caught:
        engine.run(["doze", task, "never"], progress)
    assert (str(caught.value), caught.value.hint) == (message, hint)
    assert begun(program) == ["doze", task]
    assert progress.warnings == []
    assert progress.ended == ([("half", "stopped")] if task == "refuse" else [])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_the_run_as_what_it_is(engine: Engine, number: int) -> None:
    with pytest.raises(OSError, match="no room") as caught:
        engine.run([f"full {number}", "never"], silent)
    assert (caught.value.errno, caught.value.strerror) == (number, "no room")


def test_another_error_of_the_system_is_unexpected(engine: Engine) -> None:
    (failure,) = engine.run([f"full {errno.EIO}"], silent)
    assert failure.reason == "OSError: [Errno 5] no room: 'some/file'"


def test_progress_arrives_complete(engine: Engine, program: Path) -> None:
    progress = Recorder()
    assert engine.run(["report", "threads"], progress) == []
    assert progress.warnings == ["mässage\nof two lines"]
    works = [("fast", 3000), ("fast", None), ("no steps", 0.5), ("shared", 4000)]
    started = [(each.work, each.total) for each in progress.updates if each.state == "started"]
    assert started == works
    assert progress.ended == [(name, "done") for name, _ in works]
    assert sum(each.steps for each in progress.updates if each.work == "shared") == 4000
    fast = [each for each in progress.updates if (each.work, each.state) == ("fast", "running")]
    assert sum(each.steps for each in fast) == 3000.25
    assert [each.note for each in fast if each.note is not None] == ["last note"]
    if isinstance(engine, WorkerPool):
        (words,) = (text for _, text in log_of(program) if text.startswith("seconds"))
        assert len(fast) <= 3 + 10 * float(words.split()[1])


# What holds of processes


def test_a_pool_has_workers() -> None:
    with pytest.raises(ValueError, match="0 workers"):
        WorkerPool([], workers=0)


def test_never_more_work_at_once_than_there_are_workers(pool: WorkerPool, program: Path) -> None:
    tasks = ["meet 1", "meet 2", *(f"doze {i}" for i in range(6))]
    assert pool.run(tasks, silent) == []
    counts = [0]
    for _, text in log_of(program):
        counts.append(counts[-1] + (1 if text.startswith("begin") else -1))
    assert max(counts) == 2 and counts[-1] == 0
    assert sorted(begun(program)) == sorted(tasks)
    displaced = [abs(begun(program).index(task) - i) for i, task in enumerate(tasks)]
    assert max(displaced) <= 1  # two that are given at once may begin in either order


def test_processes_start_at_the_first_need_and_serve_all_runs(program: Path) -> None:
    with WorkerPool([str(program)], workers=9) as pool:
        assert children() == []
        pool.run([], silent)
        assert children() == []
        pool.run(["one"], silent)
        first = children()
        assert len(first) == 1
        pool.run(["meet 1", "meet 2"], silent)
        assert len(children()) == 2 and first[0] in children()
        pool.run(["three"], silent)
        assert len(children()) == 2
    assert children() == []
    assert len({pid for pid, _ in log_of(program)}) == 2


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("kill", "its process was ended by SIGKILL"),
        ("unnamed", f"its process was ended by signal {signal.SIGRTMIN + 1}"),
        ("exit", "its process ended with exit code 3"),
    ],
)
def test_a_task_whose_process_always_dies_fails_alone(
    pool: WorkerPool, program: Path, task: str, reason: str
) -> None:
    progress = Recorder()
    others = ["doze 1", "doze 2", "doze 3"]
    assert pool.run([task, *others], progress) == [Failure(task, reason)]
    assert progress.warnings == [
        f"{task}: {reason}; it will be tried again",
        f"{task}: {reason}; it is given up",
    ]
    assert sorted(begun(program)) == sorted([task, task, *others])
    if task == "kill":
        assert progress.ended == [("doomed", "stopped")] * 2


def test_a_task_whose_process_died_once_is_done_by_another(pool: WorkerPool, program: Path) -> None:
    assert pool.run(["kill-once"], silent) == []
    ((died, _), (other, _), (end, _)) = log_of(program)
    assert died != other == end


def test_what_a_dead_worker_left_running_is_not_waited_for(pool: WorkerPool) -> None:
    start = time.monotonic()
    assert [failure.task for failure in pool.run(["fork"], silent)] == ["fork"]
    assert time.monotonic() - start < 3


def test_a_program_that_does_not_start_is_told(tmp_path: Path) -> None:
    with WorkerPool([str(tmp_path / "absent.py")], workers=2) as pool:
        failures = pool.run(["one", "two"], silent)
    reason = "its process ended with exit code 2"
    assert sorted(failures, key=lambda each: each.task) == [
        Failure("one", reason),
        Failure("two", reason),
    ]


def test_a_worker_that_died_idle_is_replaced_and_costs_no_attempt(
    pool: WorkerPool, program: Path
) -> None:
    pool.run(["meet 1", "meet 2"], silent)
    dead = os.WEXITED | os.WNOWAIT  # a zombie may have threads that still end
    for process in children():
        process.kill()
        os.waitid(os.P_PID, process.pid, dead)
    progress = Recorder()
    assert pool.run(["three"], progress) == []
    assert progress.warnings == []
    assert len({pid for pid, _ in log_of(program)}) == 3


def test_what_a_worker_prints_goes_to_stderr_from_its_first_line_on(
    program: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program.write_text("import os; os.write(1, b'imported\\n'); print('loud')\n" + PROGRAM)
    with WorkerPool([str(program)], workers=1) as pool:
        assert pool.run(["print"], silent) == []
    out, err = capfd.readouterr()
    assert out == ""
    lines = ["imported", "loud", "printed by print", "printed by a library", "printed by a child"]
    assert err.splitlines() == lines


def test_a_worker_computes_with_one_thread(pool: WorkerPool, program: Path) -> None:
    pool.run(["environment"], silent)
    assert log_of(program)[1][1] == "1 1 1"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_exception_in_the_parent_ends_the_processes_and_their_works(
    program: Path, error: type[BaseException]
) -> None:
    class Failing(Recorder):
        def __call__(self, update: Update) -> None:
            super().__call__(update)
            if update.state == "warning":
                raise error

    with WorkerPool([str(program)], workers=2) as pool:
        progress = Failing()
        with pytest.raises(error):
            pool.run(["sleep", "kill-once"], progress)
        assert children() == []
        assert progress.ended == [("doomed", "stopped")]
        assert pool.run(["after"], silent) == []


def test_an_expected_failure_ends_running_tasks(pool: WorkerPool) -> None:
    with pytest.raises(CurateError, match="übel"):
        pool.run(["sleep", "refuse"], silent)
    assert children() == []


# What holds when the parent ends


@contextmanager
def busy_parent(program: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that runs two endless tasks, and the processes that have begun them."""
    command = [sys.executable, "-c", PARENT, str(program), "sleep 1", "sleep 2"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        try:
            wait_until(lambda: len(log_of(program)) == 2)
            yield parent, [pid for pid, _ in log_of(program)]
        finally:
            for pid in (parent.pid, *(pid for pid, _ in log_of(program))):
                if lives(pid):
                    os.kill(pid, signal.SIGKILL)


def test_workers_end_with_a_parent_that_is_killed(program: Path) -> None:
    with busy_parent(program) as (parent, workers):
        assert all(lives(pid) for pid in workers)
        parent.kill()
        wait_until(lambda: not any(map(lives, workers)), 5)
        assert parent.communicate() == (None, "")


@pytest.mark.parametrize("stopped", [0, 1])
def test_no_worker_keeps_another_alive(program: Path, stopped: int) -> None:
    # of a session of its own, a stopped process is not continued when its parent dies
    program.write_text("import os; os.setsid()\n" + PROGRAM)
    with busy_parent(program) as (parent, workers):
        os.kill(workers[stopped], signal.SIGSTOP)
        wait_until(lambda: psutil.Process(workers[stopped]).status() == psutil.STATUS_STOPPED)
        parent.kill()
        wait_until(lambda: not lives(workers[1 - stopped]), 5)
        assert lives(workers[stopped])
        os.kill(workers[stopped], signal.SIGCONT)
        wait_until(lambda: not lives(workers[stopped]), 5)


def test_ctrl_c_leaves_no_process_and_only_the_parent_tells_of_it(program: Path) -> None:
    with busy_parent(program) as (parent, workers):
        os.killpg(parent.pid, signal.SIGINT)
        _, stderr = parent.communicate(timeout=5)
        assert parent.returncode == -signal.SIGINT
        assert not any(map(lives, workers))
    assert stderr.count("Traceback") == stderr.count("KeyboardInterrupt") == 1


def test_ctrl_c_reaches_no_worker_that_still_imports(program: Path) -> None:
    program.write_text(
        PROGRAM.replace("folder =", "time.sleep(0.5); folder =").replace(
            "from ambient_curate.run.workers",
            "print('importing', file=sys.stderr, flush=True); from ambient_curate.run.workers",
        )
    )
    deaf = "import signal; signal.signal(signal.SIGINT, lambda *_: None)\n"
    command = [sys.executable, "-c", deaf + PARENT, str(program), "doze"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "importing\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert [text for _, text in log_of(program)] == ["begin doze", "end doze"]
