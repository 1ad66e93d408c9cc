"""File locks: one writer of a run, or several that agreed to share it."""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from ambient_curate.errors import RunError

_SECONDS_BETWEEN_TRIES = 0.5


class Lock:
    """A file that the kernel locks for us; it lets go however our process ends.

    Parameters
    ----------
    path : Path
        The file; it is there only while somebody holds or wants it. Its directory exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            try:
                if _try(self._descriptor, fcntl.LOCK_EX):  # else others share it
                    self.path.unlink(missing_ok=True)
            finally:
                os.close(self._descriptor)
                self._descriptor = None

    def take(self) -> None:
        """Have it to ourselves.

        Raises
        ------
        RunError
            If another process has it.
        """
        while self._descriptor is None:
            if (holder := self._attempt(fcntl.LOCK_EX)) is not None:
                raise RunError(
                    f"{self.path.parent} is being written by process {holder}",
                    "wait for it or end it; then give the same command again",
                )

    def join(self, shared: Callable[[], bool], tell: Callable[[str], None]) -> None:
        """Have it to ourselves, or with others as soon as `shared` says so; wait for either.

        Parameters
        ----------
        shared : callable
            Whether the others need it no longer to themselves.
        tell : callable
            Told, once, whom we wait for.
        """
        announced = False
        while self._descriptor is None:
            holder = self._attempt(fcntl.LOCK_SH if shared() else fcntl.LOCK_EX)
            if holder is not None:
                if not announced:
                    tell(f"waiting for process {holder}, which reads, fits and scores for all jobs")
                    announced = True
                time.sleep(_SECONDS_BETWEEN_TRIES)

    def share(self) -> None:
        """Let others have it too."""
        assert self._descriptor is not None
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def _attempt(self, how: int) -> str | None:
        """Lock the file; return who has it, if somebody does. It may vanish: then neither."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        if not _try(descriptor, how):
            holder = os.pread(descriptor, 32, 0).decode()
            os.close(descriptor)
            return holder
        if os.fstat(descriptor).st_nlink:  # else its holder has just removed it
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            self._descriptor = descriptor
        else:
            os.close(descriptor)
        return None


def _try(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
