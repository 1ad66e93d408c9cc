"""Progress of long work, reported to an injected object; silent unless a caller wants to see it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Task(Protocol):
    """One running piece of work."""

    def advance(self, steps: float = 1, note: str | None = None) -> None:
        """Report `steps` more units done and, if given, a short note (a loss, a file name)."""


class Progress(Protocol):
    """Where long work reports to. A caller may pass its own; every function defaults to `SILENT`."""

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Task]:
        """Open a piece of work of `total` units (None: unknown)."""
        ...

    def message(self, text: str) -> None:
        """Tell the user one line (a warning, a skipped file)."""


class _SilentTask:
    def advance(self, steps: float = 1, note: str | None = None) -> None:
        pass


class SilentProgress:
    """Reports nothing."""

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Task]:
        """Open a task that reports nothing."""
        yield _SilentTask()

    def message(self, text: str) -> None:
        """Drop the line."""


SILENT = SilentProgress()
