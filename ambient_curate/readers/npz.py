"""NumPy's ``.npy`` and ``.npz`` files: what they hold, and their values, without pickle."""

import os
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64
from numpy.lib import format as npy_format

from ambient_curate.errors import DatasetError
from ambient_curate.files import find_stand_in
from ambient_curate.readers.episodes import LONGEST_LABEL, Label

_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    MemoryError,
    TypeError,  # NumPy's word for a header whose keys are text and bytes
    RuntimeError,  # zipfile's word for an encrypted or unsupported member
    SyntaxError,  # of a damaged header, as are the next two
    TokenError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class Header(NamedTuple):
    """Shape and type of a stored array, and the bytes there are for its values."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    stored_bytes: int


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what numpy and zipfile raise on a damaged file into a `DatasetError` naming it."""
    try:
        yield
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise find_stand_in(path) or DatasetError(
            f"{path} cannot be read as an array file: {reason}",
            "the file is damaged or cut short, or holds pickled objects: write it again",
        ) from error


def read_headers(path: Path) -> dict[str, Header]:
    """Read what each array of a file is, without its values; a ``.npy`` is one named ``action``.

    Raises
    ------
    DatasetError
        If the file is missing, damaged, or of another format.
    """
    with _reading(path):
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                return {"action": _read_header(file, path.stat().st_size)}
        headers = {}
        with zipfile.ZipFile(path) as archive:
            _check_directory(path, archive)
            for info in archive.infolist():
                with archive.open(info) as member:  # checks the name, also of what is no array
                    if info.filename.endswith(".npy"):
                        name = info.filename.removesuffix(".npy")
                        headers[name] = _read_header(member, info.file_size)
        return headers


def _check_directory(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive that lists fewer members than it says; `zipfile` reads on without them."""
    with path.open("rb") as file:
        file.seek(-len(archive.comment) - 12, os.SEEK_END)
        (members,) = struct.unpack("<H", file.read(2))
    if members != len(archive.infolist()):
        raise DatasetError(
            f"{path} lists {len(archive.infolist())} arrays, and says it holds {members}",
            "the file is damaged: write it again",
        )


def _read_header(file: IO[bytes] | zipfile.ZipExtFile, size: int) -> Header:
    version = npy_format.read_magic(file)
    first = version == (1, 0)
    read = npy_format.read_array_header_1_0 if first else npy_format.read_array_header_2_0
    shape, _, dtype = read(file)
    return Header(shape, dtype, size - file.tell())


def read_array(path: Path, name: str) -> np.ndarray:
    """Read one array; of a ``.npy`` file, map it into memory.

    Raises
    ------
    DatasetError
        If the file is damaged, or the array holds pickled objects.
    """
    with _reading(path):
        if path.suffix.lower() == ".npy":
            return npy_format.open_memmap(path, mode="r")
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            return npy_format.read_array(member, allow_pickle=False)


def read_ends(path: Path, header: Header, shape: tuple[int, ...]) -> Int64[np.ndarray, " episode"]:
    """Read ``episode_ends`` of frames concatenated along the axes `shape`, and check it.

    Returns
    -------
    ndarray, int64, shape (episode,)
        Exclusive ends, not falling, the last of them the number of frames.

    Raises
    ------
    DatasetError
        If it is anything else.
    """
    if len(shape) != 1 or len(header.shape) != 1 or header.dtype.kind not in "iu":
        raise DatasetError(
            f"episode_ends of {path} has shape {header.shape} and type {header.dtype} beside an "
            f"action of leading shape {shape}, expected a list of whole numbers and (frame,)",
            "write episode_ends as int64, one for each episode, beside a (frame, value) action",
        )
    check_size(path, "episode_ends", header)
    ends = read_array(path, "episode_ends").tolist()
    edges = [0, *ends]
    if edges[-1] != shape[0] or any(end < start for start, end in pairwise(edges)):
        raise DatasetError(
            f"episode_ends of {path} must rise to the number of frames, {shape[0]}; "
            f"it ends with {edges[-3:]}",
            "write the exclusive end of each episode, in order",
        )
    return np.array(ends, dtype=np.int64)


def read_tasks(path: Path, header: Header, episodes: int) -> list[str]:
    """Read ``task``, one text for all or one for each episode, as one for each.

    Raises
    ------
    DatasetError
        If it is anything else.
    """
    if header.dtype.kind != "U" or header.shape not in ((), (1,), (episodes,)):
        raise DatasetError(
            f"task of {path} has shape {header.shape} and type {header.dtype}, expected one text "
            f"or one for each of {episodes} episodes",
            "write it as an array of text (dtype str)",
        )
    check_size(path, "task", header)
    with _reading(path):
        tasks: list[str] = np.broadcast_to(read_array(path, "task"), (episodes,)).tolist()
        "".join(tasks).encode()  # lone surrogates could not be written out again
        return tasks


def read_labels(
    path: Path, headers: Mapping[str, Header], skipped: Collection[str], episodes: int
) -> list[dict[str, Label]]:
    """Read the arrays of one number or short text, for all or for each episode, as its labels.

    NaN makes no label. What is neither is left out.

    Raises
    ------
    DatasetError
        If the file is damaged.
    """
    labels: list[dict[str, Label]] = [{} for _ in range(episodes)]
    for name, header in headers.items():
        is_short = header.dtype.itemsize <= 4 * LONGEST_LABEL  # bytes of a character
        fits = header.shape in ((), (1,), (episodes,)) and header.dtype.kind in "fiubUS"
        if name in skipped or not fits or not is_short:
            continue
        check_size(path, name, header)
        values = np.broadcast_to(read_array(path, name), (episodes,)).tolist()
        for own, value in zip(labels, values, strict=True):
            label = value.decode(errors="replace") if isinstance(value, bytes) else value
            if label == label:
                own[name] = label
    return labels


def check_size(path: Path, name: str, header: Header) -> None:
    """Raise `DatasetError` unless the file has as many bytes of values as `header` tells."""
    expected = prod(header.shape) * header.dtype.itemsize
    if expected != header.stored_bytes:
        raise DatasetError(
            f"{name} of {path} has {header.stored_bytes} bytes of values, expected {expected} for "
            f"shape {header.shape} of {header.dtype}",
            "the file is cut short or damaged: write it again",
        )


def orient(shape: tuple[int, ...], transpose: bool | None) -> tuple[int, ...]:
    """Give the shape with frames before values, of an array that may be stored (value, frame)."""
    return (*shape[:-2], shape[-1], shape[-2]) if transpose else shape


def find_ends(
    path: Path, header: Header, shape: tuple[int, ...], transpose: bool | None
) -> Int64[np.ndarray, " episode"]:
    """Read ``episode_ends`` of an action; ask where they fit its other axis.

    Raises
    ------
    DatasetError
        If they fit no axis, or the other one while `transpose` is None.
    """
    try:
        return read_ends(path, header, shape[:-1])
    except DatasetError as error:
        if transpose is None and _fit_ends(path, header, shape[1:]):
            raise ask_transposed(path, f"{shape[0]} frames of {shape[1]} values") from error
        raise


def _fit_ends(path: Path, header: Header, shape: tuple[int, ...]) -> bool:
    try:
        read_ends(path, header, shape)
    except DatasetError:
        return False
    return True


def refuse_transpose(path: Path) -> DatasetError:
    """Make the error of an option that is set for another format."""
    return DatasetError(
        f"transpose is set for {path}, and only .npy and .npz arrays are transposed",
        "drop transpose",
    )


def ask_transposed(file: Path, read_as: str) -> DatasetError:
    """Make the error of an action that is probably stored (value, frame), and asks about it."""
    return DatasetError(
        f"the action of {file} would be {read_as}: transposed?",
        "add to ambient.toml, under [datasets.NAME]: transpose = true if it is stored (value, "
        "frame), transpose = false if it is not",
    )


def check_frames(path: Path, name: str, header: Header) -> None:
    """Raise `DatasetError` unless the array holds numbers, frames along its last axis but one."""
    shape, dtype, _ = header
    if dtype.kind not in "fiub":
        raise DatasetError(
            f"{name} of {path} is of type {dtype}, expected real numbers", "write it as float32"
        )
    # episodes without frames have no bytes, so that a small file may claim billions of them
    if len(shape) not in (2, 3) or shape[-1] < 1 or (len(shape) == 3 and shape[1] < 1):
        raise DatasetError(
            f"{name} of {path} has shape {shape}, expected (frame, value) or "
            "(episode, frame, value)",
            "reshape it; one value a frame is (frame, 1)",
        )
    check_size(path, name, header)


def cut_episode(
    array: np.ndarray, number: int, ends: Int64[np.ndarray, " episode"] | None
) -> Float32[np.ndarray, "frame column"]:
    """Cut one episode out of an array, by its own axis or by the episodes' ends."""
    if array.ndim == 3:
        frames = array[number]
    elif ends is None:
        frames = array
    else:
        frames = array[ends[number - 1] if number else 0 : ends[number]]
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which is reported as such
        return frames.astype(np.float32, order="C")
