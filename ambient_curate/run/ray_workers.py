"""Tasks of a run on a Ray cluster whose machines share the run's files."""

import functools
import os
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from threadpoolctl import threadpool_limits

from ambient_curate.errors import ConfigError, CurateError
from ambient_curate.progress import Progress, Update
from ambient_curate.run.workers import Agenda, Failure, describe, is_full_disk


@runtime_checkable
class PerformsTasks(Protocol):
    """Carries out the tasks of a run."""

    def perform(self, task: str, progress: Progress) -> None:
        """Carry out a task that its text names."""


OpenTasks = Callable[[Path], PerformsTasks]
AHEAD = 2  # tasks that wait at a cluster, for each of its cores


class RayPool:
    """Carries out tasks by Ray, on the cluster there is or on one of this machine's own.

    ``RAY_ADDRESS`` or a ``ray start`` on this machine tell of a cluster. What is written lies in
    the run's directory, which every machine of it has to see under the same path.

    Parameters
    ----------
    work : Path
        The run's working directory.
    open_tasks : callable
        Makes what carries out tasks from the working directory, in a process of Ray's; named by its
        module.
    workers : int
        Cores to use where there is no cluster.

    Raises
    ------
    ConfigError
        If Ray is not installed.
    """

    def __init__(self, work: Path, open_tasks: OpenTasks, *, workers: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        try:
            import ray
        except ImportError:
            raise ConfigError(
                "engine = 'ray': Ray is not installed", "pip install 'ambient-curate[ray]'"
            ) from None
        self._ray: Any = ray
        self._work, self._open, self._workers = work.resolve(), open_tasks, workers
        self._token = f"{os.getpid()}-{time.time_ns()}"
        self._ours = False

    def __enter__(self) -> "RayPool":
        if not self._ray.is_initialized():
            try:
                self._ray.init(address="auto", log_to_driver=False)
            except ConnectionError:
                self._ray.init(
                    address="local",
                    num_cpus=self._workers,
                    include_dashboard=False,
                    log_to_driver=False,
                )
            self._ours = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            self._ray.shutdown()

    def run(self, tasks: Iterable[str], progress: Progress) -> list[Failure]:
        """Carry out tasks, see `workers.Engine.run`."""
        remote = self._ray.remote(num_cpus=1, max_retries=0)(perform)
        agenda = Agenda(tasks, progress)
        most = AHEAD * max(int(self._ray.cluster_resources().get("CPU", 1)), 1)
        begun: dict[Any, tuple[str, int]] = {}
        try:
            while agenda.waiting or begun:
                while agenda.waiting and len(begun) < most:
                    task, attempt = agenda.waiting.popleft()
                    begun[remote.remote(self._open, str(self._work), self._token, task)] = (
                        task,
                        attempt,
                    )
                (done,), _ = self._ray.wait([*begun], num_returns=1)
                task, attempt = begun.pop(done)
                reason = self._receive(done, progress)
                if reason is not None:
                    agenda.fail(task, attempt, reason)
        finally:
            for reference in begun:
                self._ray.cancel(reference, force=True)
        return agenda.failures

    def _receive(self, done: Any, progress: Progress) -> str | None:
        """Report what a task did; return why it failed, if it did."""
        try:
            report = self._ray.get(done)
        except self._ray.exceptions.RayError as error:
            return " ".join(str(error).split())[:200] or type(error).__name__
        match report:
            case ["expected", message, hint]:
                raise CurateError(message, hint)
            case ["full disk", number, text]:
                raise OSError(number, text)
            case ["failed", reason]:
                return str(reason)
            case ["done", updates]:
                for update in updates:
                    progress(update)
        return None


def perform(open_tasks: OpenTasks, work: str, token: str, task: str) -> list[Any]:
    """Carry out one task in a process of Ray's; return what to tell of it.

    Parameters
    ----------
    open_tasks : callable
        As `RayPool`.
    work : str
        The run's working directory.
    token : str
        Of the pool: processes outlive pools, and what they have read must not.
    task : str
        As `PerformsTasks.perform`.
    """
    torch.set_num_threads(1)
    updates: list[Update] = []  # passed on when all is done
    try:
        with threadpool_limits(1):
            _open(open_tasks, work, token).perform(task, updates.append)
    except CurateError as error:
        return ["expected", str(error), error.hint]
    except Exception as error:
        if is_full_disk(error):
            return ["full disk", error.errno, error.strerror]
        traceback.print_exc()
        return ["failed", describe(error)]
    return ["done", updates]


@functools.lru_cache(maxsize=1)
def _open(open_tasks: OpenTasks, work: str, token: str) -> PerformsTasks:
    return open_tasks(Path(work))
