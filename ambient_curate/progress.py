"""Progress of long work, reported to an injected object; silent unless a caller wants to see it."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Task(Protocol):
    """One running piece of work."""

    def advance(self, steps: int | float = 1, note: str | None = None) -> None:
        """Report `steps` more units done and, if given, a short note (a loss, a file name)."""


@runtime_checkable
class Progress(Protocol):
    """Where long work reports to; a caller may pass its own, functions default to `SILENT`."""

    @contextmanager
    def task(self, description: str, total: int | float | None = None) -> Iterator[Task]:
        """Open a piece of work of `total` units (None: unknown)."""
        ...

    def message(self, text: str) -> None:
        """Tell the user one line (a warning, a skipped file)."""


class _SilentTask:
    def advance(self, steps: int | float = 1, note: str | None = None) -> None:
        pass


class SilentProgress:
    """Reports nothing."""

    @contextmanager
    def task(self, description: str, total: int | float | None = None) -> Iterator[Task]:
        """Open a task that reports nothing."""
        yield _SilentTask()

    def message(self, text: str) -> None:
        """Drop the line."""


SILENT = SilentProgress()


class Shared:
    """Shows the like-named pieces of work of many tasks as one, from its first report on.

    Parameters
    ----------
    progress : Progress
        Where to show it.
    totals : mapping of str to float
        Of all pieces together, by their description; others are shown one by one.
    """

    def __init__(self, progress: Progress, totals: Mapping[str, int | float]) -> None:
        self._progress, self._totals = progress, totals
        self._open = ExitStack()
        self._tasks: dict[str, Task] = {}

    def __enter__(self) -> "Shared":
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    @contextmanager
    def task(self, description: str, total: int | float | None = None) -> Iterator[Task]:
        """Open a piece of work, or another one of the same description."""
        if description not in self._totals:
            with self._progress.task(description, total) as task:
                yield task
            return
        if description not in self._tasks:
            whole = self._progress.task(description, self._totals[description])
            self._tasks[description] = self._open.enter_context(whole)
        yield self._tasks[description]

    def message(self, text: str) -> None:
        """Tell the user one line."""
        self._progress.message(text)
