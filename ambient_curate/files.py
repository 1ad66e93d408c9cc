"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_whole(path: Path) -> Iterator[Path]:
    """Offer a temporary path to write; on success make it durable and rename it to `path`.

    The temporary file lies in the same directory and its name starts with a dot, which Parquet
    readers skip. After an error it is removed and `path` is as it was.

    Parameters
    ----------
    path : Path
        File to create or replace; its directory must exist.

    Yields
    ------
    Path
        Temporary file that the caller writes and closes.

    Raises
    ------
    OSError
        If the file system refuses, for example a full disk.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
