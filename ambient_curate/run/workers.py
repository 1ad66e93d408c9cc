"""Parallel workers: processes that carry out tasks, replaced when they die.

A task is a name and leaves files behind: nothing but text passes between the processes. A worker
is a fresh interpreter and no fork, which threads of numerical libraries would not survive. Lines of
JSON reach it through its stdin and come back through a pipe of its own, so that nothing printed is
taken for an answer. Its stdin is its lifeline too: the system closes it however our process ends.
"""

import errno
import json
import math
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeGuard, runtime_checkable

from ambient_curate.errors import CurateError
from ambient_curate.progress import Progress, Update, silent, warn

ATTEMPTS = 2

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_ANSWERS = "AMBIENT_CURATE_ANSWERS"  # names the descriptor that a worker answers through
_SECONDS_BETWEEN_LINES = 0.1

Handler = Callable[[str, Progress], None]


@dataclass(frozen=True)
class Failure:
    """A task that did not succeed in any of its attempts.

    Parameters
    ----------
    task : str
        Its name.
    reason : str
        What the last attempt ended with, in one line.
    """

    task: str
    reason: str


@runtime_checkable  # so that the tests can check annotations at run time
class Engine(Protocol):
    """Carries out tasks."""

    def run(self, tasks: Iterable[str], progress: Progress) -> list[Failure]:
        """Carry out tasks.

        Parameters
        ----------
        tasks : iterable of str
            Begun in this order.
        progress : Progress
            Told what the tasks report, and of each attempt that failed.

        Returns
        -------
        list of Failure
            Tasks that raised an unexpected error, or whose process died, in each of `ATTEMPTS`
            attempts, in the order in which they were given up. All others are done.

        Raises
        ------
        CurateError, OSError
            If a task raises the one, or finds the disk full (``ENOSPC``, ``EDQUOT``): no other is
            begun, and the running ones are ended.
        """


class InProcess:
    """Carries out tasks in this process, one after another.

    Parameters
    ----------
    handle : callable
        Carries out a task by its name and reports to a `Progress`.
    """

    def __init__(self, handle: Handler) -> None:
        self._handle = handle

    def run(self, tasks: Iterable[str], progress: Progress) -> list[Failure]:
        """Carry out tasks, see `Engine.run`."""
        agenda = Agenda(tasks, progress)
        while agenda.waiting:
            task, attempt = agenda.waiting.popleft()
            try:
                self._handle(task, progress)
            except Exception as error:
                if isinstance(error, CurateError) or is_full_disk(error):
                    raise
                traceback.print_exc()
                agenda.fail(task, attempt, describe(error))
        return agenda.failures


class WorkerPool:
    """Carries out tasks in processes that start when needed and end with the ``with`` block.

    Parameters
    ----------
    command : sequence of str
        Arguments of a Python interpreter for a program that calls `serve`.
    workers : int
        Processes at most, >= 1.
    """

    def __init__(self, command: Sequence[str], *, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"{workers} workers: at least 1 is needed")
        self._command = [sys.executable, "-u", *command]  # unbuffered: a worker may end any time
        self._limit = workers
        self._workers: list[_Worker] = []

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(self, tasks: Iterable[str], progress: Progress) -> list[Failure]:
        """Carry out tasks, see `Engine.run`; whatever is raised, no process outlives it."""
        agenda = Agenda(tasks, progress)
        try:
            with selectors.DefaultSelector() as busy:
                while agenda.waiting or busy.get_map():
                    while agenda.waiting and len(busy.get_map()) < self._limit:
                        worker = self._engage()
                        worker.begin(*agenda.waiting.popleft(), progress)
                        busy.register(worker.replies, selectors.EVENT_READ, worker)
                    for key, _ in busy.select():
                        worker = key.data
                        if worker.receive():
                            busy.unregister(key.fileobj)
                            if worker.failure is not None:
                                agenda.fail(worker.task, worker.attempt, worker.failure)
        except BaseException:
            self._end()
            raise
        return agenda.failures

    def _engage(self) -> "_Worker":
        """Find an idle process that lives, or start one."""
        for worker in [worker for worker in self._workers if worker.idle]:
            if worker.process.poll() is None:
                return worker
            worker.close()
            self._workers.remove(worker)
        with _deferred_interrupt():
            worker = _Worker(self._command)
            self._workers.append(worker)
        return worker

    def _end(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        while self._workers:
            self._workers[-1].process.wait()
            self._workers.pop().close()


class Agenda:
    """Tasks that wait, each with the number of its attempt, and those that were given up."""

    def __init__(self, tasks: Iterable[str], progress: Progress) -> None:
        self.waiting = deque((task, 1) for task in tasks)
        self.failures: list[Failure] = []
        self._progress = progress

    def fail(self, task: str, attempt: int, reason: str) -> None:
        """Put a task last, when memory may be less short, or give it up."""
        if attempt < ATTEMPTS:
            warn(self._progress, f"{task}: {reason}; it will be tried again")
            self.waiting.append((task, attempt + 1))
        else:
            warn(self._progress, f"{task}: {reason}; it is given up")
            self.failures.append(Failure(task, reason))


class _Worker:
    """A process as we see it: what it has reported, and what it is working on."""

    def __init__(self, command: Sequence[str]) -> None:
        reading, writing = os.pipe()
        self.replies = open(reading, "rb", buffering=0)  # noqa: SIM115 (closed by `close`)
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=2,  # from the first moment on: libraries print while they are imported
                pass_fds=[writing],
                env=os.environ | _ONE_THREAD | {_ANSWERS: str(writing)},
            )
        except BaseException:
            self.replies.close()
            raise
        finally:
            os.close(writing)
        self.idle, self.task, self.attempt = True, "", 0
        self.failure: str | None = None
        self._received = b""
        self._progress: Progress = silent
        self._at_work: list[str] = []

    def begin(self, task: str, attempt: int, progress: Progress) -> None:
        self.idle, self.task, self.attempt = False, task, attempt
        self._progress = progress
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it died: `receive` will see it
            self.process.stdin.write(json.dumps(task).encode() + b"\n")
            self.process.stdin.flush()

    def receive(self) -> bool:
        """Read its reports; tell whether the task has ended, see `failure`."""
        received = self.replies.read(1 << 16)
        if not received:
            self.failure = _last_words(self.process.wait())
            self.close()
            self.idle = True
        *lines, self._received = (self._received + received).split(b"\n")
        for line in lines:
            self._follow(json.loads(line))
        return self.idle

    def _follow(self, report: list[Any]) -> None:
        match report:
            case ["progress", *fields]:
                update = Update(*fields)
                if update.state == "started":
                    self._at_work.append(update.work)
                elif update.state in ("done", "stopped"):
                    self._at_work.remove(update.work)
                self._progress(update)
            case ["expected", message, hint]:
                raise CurateError(message, hint)
            case ["full disk", number, text]:
                raise OSError(number, text)
            case ["end", failure]:
                self.idle, self.failure = True, failure

    def close(self) -> None:
        """Let go of a process that has ended; what it was at is stopped."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.replies.close()
        while self._at_work:
            self._progress(Update(self._at_work.pop(), state="stopped"))


@contextmanager
def _deferred_interrupt() -> Iterator[None]:
    """Block SIGINT here and, for good, in processes that are started: imports must not tell of it.

    Nor may we lose sight of a process that has just been started.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _last_words(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    names = {number.value: number.name for number in signal.Signals}  # not of every signal
    return f"its process was ended by {names.get(-code, f'signal {-code}')}"


def is_full_disk(error: Exception) -> TypeGuard[OSError]:
    """Tell whether an error has room on a disk as its remedy."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def describe(error: Exception) -> str:
    """Say in one line what an error was."""
    return " ".join("".join(traceback.format_exception_only(error)).split())  # in one line


def serve(handle: Handler) -> NoReturn:
    """Carry out in this process the tasks that a `WorkerPool` gives to it, until the pool ends.

    It then exits at once, also amid a task. It ignores Ctrl-C, and prints to stderr only.

    Parameters
    ----------
    handle : callable
        Carries out a task by its name and reports to a `Progress`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_await_tasks, args=(tasks,), daemon=True).start()
    reporter = _Reporter(int(os.environ.pop(_ANSWERS)))
    while True:
        task = tasks.get()
        try:
            handle(task, reporter)
        except CurateError as error:
            reporter.say("expected", str(error), error.hint)
        except Exception as error:
            if is_full_disk(error):
                reporter.say("full disk", error.errno, error.strerror)
            else:
                traceback.print_exc()
                reporter.say("end", describe(error))
        else:
            reporter.say("end", None)


def _await_tasks(tasks: "queue.SimpleQueue[str]") -> None:
    try:
        # no buffer: an interpreter that exits would abort on its lock, which this thread holds
        for line in open(0, "rb", buffering=0, closefd=False):  # noqa: SIM115
            tasks.put(json.loads(line))
    finally:
        os._exit(0)


class _Reporter:
    """Progress sent to the process that started this one; safe to use from several threads."""

    def __init__(self, replies: int) -> None:
        os.set_inheritable(replies, False)  # else what a task starts would keep the pipe open
        # not closed before the process has ended: its end is what the other side waits for
        self._answers = open(replies, "w", encoding="ascii", closefd=False)  # noqa: SIM115
        self._lock = threading.RLock()
        self._held: dict[str, Update] = {}
        self._sent: dict[str, float] = {}

    def __call__(self, update: Update) -> None:
        """Send an update; steps are gathered for a while and sent as one."""
        with self._lock:
            if update.state != "running":
                self._flush(update.work)
                self.say("progress", *update)
                return
            held = self._held.get(update.work, Update(update.work))
            note = held.note if update.note is None else update.note
            self._held[update.work] = Update(update.work, held.steps + update.steps, note)
            if time.monotonic() - self._sent.get(update.work, -math.inf) >= _SECONDS_BETWEEN_LINES:
                self._flush(update.work)

    def _flush(self, work: str) -> None:
        if (held := self._held.pop(work, None)) is not None:
            self._sent[work] = time.monotonic()
            self.say("progress", *held)

    def say(self, *words: str | int | float | None) -> None:
        line = json.dumps(words, default=float)  # `default`: NumPy's numbers
        try:
            with self._lock:
                print(line, file=self._answers, flush=True)
        except BrokenPipeError:  # nobody is left to tell
            os._exit(0)
