"""Progress of long work, reported to an injected object; silent unless a caller wants to see it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable


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
