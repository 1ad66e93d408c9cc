"""Files that appear whole or not at all, and those that stand in place of data."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ambient_curate.errors import CheckpointError, DatasetError

_POINTER = b"version https://git-lfs.github.com/spec/"


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


def find_stand_in(path: Path) -> DatasetError | None:
    """Say of a file that cannot be read that it is empty, or a Git LFS pointer; None: neither."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except OSError:
        return None
    if start == _POINTER:
        return DatasetError(
            f"{path} is a Git LFS pointer, not the data",
            "fetch the data, where it was cloned: git lfs install; git lfs pull",
        )
    if not start:
        return DatasetError(f"{path} is empty: it has 0 bytes", "copy or download it again")
    return None


def to_json(value: Any, *, ensure_ascii: bool = False, **layout: Any) -> str:
    """Write a value as JSON; a number that is not finite, for which JSON has no name, is null.

    Parameters
    ----------
    value : any
        Of mappings, sequences, texts, numbers and None.
    ensure_ascii : bool
        Whether other letters are written as escapes.
    **layout
        Of `json.dumps`: ``indent``, ``separators``, ``sort_keys``.
    """
    return json.dumps(_finite(value), ensure_ascii=ensure_ascii, allow_nan=False, **layout)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json_atomic(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file, as `to_json` does, whole or not at all."""
    text = to_json(data, indent=2)
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
