"""What every HDF5 layout needs: files, arrays, attributes, texts, and named damage.

HDF5 itself believes what describes such a text: of one damaged byte it makes 4 GB of memory to
fill, or a search without an end. Here every step is bounded.
"""

import json
import math
import os
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np
from h5py import h5o
from jaxtyping import Float32

from ambient_curate.errors import DatasetError
from ambient_curate.files import find_stand_in
from ambient_curate.readers.episodes import LONGEST_LABEL, Label

# HDF5 File Format Specification 3.0, sections III.E (heap), IV.A.1.a, IV.A.2.m, IV.A.2.q
_HEADER = struct.Struct("<BxHII4x")  # version, number of messages, references, bytes of messages
_MESSAGE = struct.Struct("<HHB3x")  # type, bytes of the body, flags
_ATTRIBUTE, _CONTINUATION = 0x0C, 0x10
_BLOCK = struct.Struct("<QQ")  # of a continuation: address, bytes
_NAME = 8  # where an attribute's name begins
_TEXT = struct.Struct("<IQI")  # bytes, address of the heap, index in it: an attribute's last field
_HEAP = struct.Struct("<4sB3xQ")  # signature, version, bytes
_OBJECT = struct.Struct("<HH4xQ")  # index, references, bytes
_MOST_OBJECTS = 2**16


def read_text(item: h5py.Group, name: str, *, longest: int) -> str | None:
    """Read an attribute that is one text of variable length.

    Parameters
    ----------
    item : h5py.Group
        Opened, so that HDF5 has checked its header.
    name : str
        The attribute.
    longest : int
        Most bytes to read.

    Returns
    -------
    str or None
        None where the text is longer, or the header of a version that h5py does not write unless
        it is asked to (``libver="latest"``).

    Raises
    ------
    DatasetError
        If the text is not where its descriptor says.
    """
    start = item.file.userblock_size
    with open(item.file.filename, "rb") as file:
        file.seek(start + h5o.get_info(item.id).addr)
        descriptor = _find_descriptor(file, start, name)
        if descriptor is None:
            return None
        length, address, index = descriptor
        if longest < length <= os.fstat(file.fileno()).st_size:
            return None
        text = _read_heap(file, start + address, index, length) if length else b""
    if text is None:
        raise DatasetError(
            f"{item.file.filename}: the text {name} of {item.name} is not where it should be",
            "copy the file again from its source",
        )
    return text.rstrip(b"\0").decode(errors="replace")


def _find_descriptor(file: BinaryIO, start: int, name: str) -> tuple[int, int, int] | None:
    """Read length, heap and index of the text `name` from the header at the file's place."""
    version, _, _, size = _HEADER.unpack(file.read(_HEADER.size))
    encoded = name.encode() + b"\0"
    for kind, body in _messages(file, start, size) if version == 1 else ():
        if kind == _ATTRIBUTE and body[_NAME:].startswith(encoded):
            length, address, index = _TEXT.unpack(body[-_TEXT.size :])
            return length, address, index
    return None


def _messages(file: BinaryIO, start: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of each message, of the block at the file's place and of those after."""
    blocks = [(file.tell(), size)]
    for address, length in blocks:
        file.seek(address)
        block, offset = file.read(length), 0
        while offset + _MESSAGE.size <= len(block):
            kind, size, _ = _MESSAGE.unpack_from(block, offset)
            body = block[offset + _MESSAGE.size :][:size]
            offset += _MESSAGE.size + size
            if kind == _CONTINUATION:
                address, length = _BLOCK.unpack_from(body)
                if (start + address, length) not in blocks:
                    blocks.append((start + address, length))
            yield kind, body


def _read_heap(file: BinaryIO, address: int, index: int, length: int) -> bytes | None:
    """Read one object of a global heap; None if it is not there or not of that length."""
    end = os.fstat(file.fileno()).st_size
    if max(address, length) >= end:
        return None
    file.seek(address)
    if not file.read(_HEAP.size).startswith(b"GCOL\x01"):
        return None
    for _ in range(_MOST_OBJECTS):
        header = file.read(_OBJECT.size)
        if len(header) < _OBJECT.size:
            return None
        found, _, size = _OBJECT.unpack(header)
        if found == index:
            text = file.read(length)
            return text if size == length == len(text) else None
        if found == 0 or size >= end:  # what is free comes last
            return None
        file.seek(-(-size // 8) * 8, 1)
    return None


COPY_AGAIN = "copy the file again from its source"
_LONGEST_TEXT = 1 << 20  # bytes, of an environment's description
# What h5py makes of the HDF5 library's complaints about damaged bytes.
_H5PY_ERRORS = (OSError, KeyError, RuntimeError, TypeError, ValueError, OverflowError, MemoryError)


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """Open a file; whatever HDF5 says of damaged bytes inside the block is a DatasetError."""
    with reading(path), h5py.File(path, "r", locking=False) as file:
        yield file


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what HDF5 says of damaged bytes inside the block into a `DatasetError`."""
    try:
        yield
    except _H5PY_ERRORS as error:
        raise find_stand_in(path) or DatasetError(
            f"{path}: HDF5 cannot read it: {error}", COPY_AGAIN
        ) from error


def find_item(group: h5py.Group, name: str) -> h5py.HLObject | None:
    """Look up what a group holds under a name; None where that is nothing, or damaged."""
    try:
        return group.get(name)
    except _H5PY_ERRORS:
        return None


def read_array(group: h5py.Group, name: str) -> Float32[np.ndarray, "frame column"]:
    """Read a dataset of numbers, its axes after the first made one.

    Raises
    ------
    DatasetError
        If it is missing, holds no numbers, or is not wholly in the file.
    """
    dataset = group.get(name)
    place = f"{group.file.filename}: {group.name}"
    if not isinstance(dataset, h5py.Dataset):
        raise DatasetError(
            f"{place} has no dataset {name!r}; it has {', '.join(list_datasets(group)) or 'none'}",
            'name the datasets in ambient.toml, as in `action = ["actions"]`',
        )
    if dataset.dtype.kind not in "fiub" or not dataset.shape:
        raise DatasetError(
            f"{place}: {name} is {dataset.dtype} of shape {dataset.shape}, "
            "expected numbers with frames along the first axis",
            "name another dataset in ambient.toml",
        )
    require_stored(dataset)
    columns = math.prod(dataset.shape[1:])
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which is reported as such
        return dataset[()].reshape(dataset.shape[0], columns).astype(np.float32)


def require_stored(dataset: h5py.Dataset) -> None:
    """Refuse a dataset that is not wholly in its file: HDF5 would make up the missing values."""
    place = f"{dataset.file.filename}: {dataset.name}"
    if dataset.is_virtual or dataset.external:
        raise DatasetError(f"{place} keeps its values in other files", "copy it with `h5repack`")
    if dataset.chunks:
        expected = math.prod(
            -(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)
        )
        stored, unit = dataset.id.get_num_chunks(), "chunks"
    else:
        expected = math.prod(dataset.shape) * dataset.dtype.itemsize
        stored, unit = min(dataset.id.get_storage_size(), dataset.file.id.get_filesize()), "bytes"
    if stored < expected:
        raise DatasetError(f"{place} has {stored} of {expected} {unit} of its values", COPY_AGAIN)


def list_datasets(group: h5py.Group) -> list[str]:
    """Names of all datasets in a group, at any depth."""
    names: list[str] = []
    group.visititems(
        lambda name, item: names.append(to_text(name)) if isinstance(item, h5py.Dataset) else None
    )
    return names


def list_members(group: h5py.Group) -> str:
    """Names of what a group holds, as text for a message."""
    return ", ".join(map(to_text, group)) or "nothing"


def to_text(name: str | bytes) -> str:
    """Make a name printable; h5py gives bytes where it is no UTF-8."""
    return name.decode(errors="replace") if isinstance(name, bytes) else name


def read_labels(group: h5py.Group) -> dict[str, Label]:
    """Take the scalar attributes of a group that are short enough for a label."""
    names = [
        name for name in group.attrs if isinstance(name, str)
    ]  # bytes: a name that is no UTF-8
    labels = {name: read_attribute(group, name, longest=LONGEST_LABEL) for name in names}
    return {
        name: label
        for name, label in labels.items()
        if label is not None and len(str(label)) <= LONGEST_LABEL
    }


def read_count(group: h5py.Group, name: str) -> int | None:
    """Read a number from an attribute; None if there is none."""
    count = read_attribute(group, name)
    return int(count) if isinstance(count, int | float) else None


def read_attribute(group: h5py.Group, name: str, *, longest: int = _LONGEST_TEXT) -> Label | None:
    """Read a number or a text; None if there is none, it is longer or something else."""
    if name not in group.attrs:
        return None
    attribute = group.attrs.get_id(name)
    text = h5py.check_string_dtype(attribute.dtype)
    # Looked at before it is read: HDF5 trusts a damaged shape or size, and crashes.
    if attribute.shape != () or not (text or attribute.dtype.kind in "fiub"):
        return None
    if text and text.length is None:
        return read_text(group, name, longest=longest)
    value = group.attrs[name]
    label = value.item() if isinstance(value, np.generic) else value
    return label.decode(errors="replace") if isinstance(label, bytes) else label


def parse_object(text: object) -> dict[str, Any]:
    """Parse a JSON object; an empty one where `text` is anything else."""
    try:
        value = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def to_task(value: object) -> str | None:
    """Take a text that can be written out again; None of anything else, and of an empty one."""
    text = value.strip().encode(errors="replace").decode() if isinstance(value, str) else ""
    return text or None


_Arrays = Mapping[str, np.ndarray]  # float32, (frame, column)


@dataclass(frozen=True)
class Contents:
    """What is known of one file when it is opened.

    Parameters
    ----------
    path : Path
        The file.
    layout : str
        Name of its layout.
    names : tuple of str
        Names of its recordings, in reading order; one empty name where the file is the recording.
    state : tuple of str
        What makes the state where the user names nothing; empty: no state.
    task, rate_hz : str and float, or None
        As far as the file tells them.
    problems : tuple of str
        What was unusual, one sentence each.
    numbers : tuple of int, or None
        Numbers of the recordings; None: the layout has none.
    damage : DatasetError or None
        Why nothing of the file can be read; it then counts as one recording.
    """

    path: Path
    layout: str
    names: tuple[str, ...]
    state: tuple[str, ...] = ()
    task: str | None = None
    rate_hz: float | None = None
    problems: tuple[str, ...] = ()
    numbers: tuple[int, ...] | None = None
    damage: DatasetError | None = None


class Recording(NamedTuple):
    """The frames of one recording, and its labels."""

    action: Float32[np.ndarray, "frame action"]
    state: Float32[np.ndarray, "frame state"] | None
    labels: Mapping[str, Label]


def read_arrays(group: h5py.Group, names: Sequence[str]) -> _Arrays:
    """Read datasets of a recording, each once, as columns of float32.

    Raises
    ------
    DatasetError
        If one is missing, holds no numbers, or is not wholly in the file.
    """
    return {name: read_array(group, name) for name in dict.fromkeys(names)}


def join_arrays(
    group: h5py.Group,
    arrays: _Arrays,
    action: Sequence[str],
    state: Sequence[str],
    promised: Mapping[str, int | None],
    *,
    longer: Collection[str] = (),
) -> tuple[Float32[np.ndarray, "frame action"], Float32[np.ndarray, "frame state"] | None]:
    """Join arrays to action and state of one length, which is also every length that is promised.

    Parameters
    ----------
    group : h5py.Group
        The recording, for messages.
    arrays : mapping of str to ndarray
        Of every name in `action` and `state`.
    action, state : sequence of str
        What they are made of, in this order; no state where empty.
    promised : mapping of str to int or None
        Numbers of frames stated elsewhere, by where they are; None: nowhere.
    longer : collection of str
        Names of arrays that have a row after the last frame, which is left out.

    Raises
    ------
    DatasetError
        If the lengths differ.
    """
    lengths = {
        f"{name} but for its last row" if name in longer else name: len(array) - (name in longer)
        for name, array in arrays.items()
    }
    lengths |= {teller: count for teller, count in promised.items() if count is not None}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} by {name}" for name, count in lengths.items())
        raise DatasetError(
            f"{group.file.filename}: {group.name} has {counts}; one number of frames is expected",
            COPY_AGAIN,
        )
    kept = {name: array[:-1] if name in longer else array for name, array in arrays.items()}
    joined = np.concatenate([kept[name] for name in action], axis=1)
    return joined, np.concatenate([kept[name] for name in state], axis=1) if state else None
