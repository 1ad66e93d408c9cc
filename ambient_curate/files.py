"""Files that appear whole or not at all."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ambient_curate.errors import CheckpointError


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


def write_json_atomic(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all.

    Raises
    ------
    ValueError
        If a number is not finite: JSON has no name for it.
    """
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    with replace_whole(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write tensors as a safetensors file, whole or not at all."""
    from safetensors.torch import save

    content = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replace_whole(path) as temporary:  # bytes: a full disk is then an OSError like any other
        temporary.write_bytes(save(content))


def tensors_of(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Give the tensors whose names begin with a prefix, by what follows it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


@contextmanager
def reading_tensors(path: Path, what: str, hint: str) -> Iterator[dict[str, Any]]:
    """Offer the tensors of a safetensors file to the block that makes something of them.

    Parameters
    ----------
    path : Path
        The file.
    what, hint : str
        What it should hold, and what to do where it does not.

    Raises
    ------
    CheckpointError
        If the file is missing or damaged, or the block finds that it holds something else: a
        missing name, another size.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        yield load_file(path)
    except (OSError, SafetensorError, KeyError, IndexError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} holds no {what}: {error}", hint) from error
