"""Texts of variable length in HDF5 attributes, read from the file's bytes.

HDF5 itself believes what describes such a text: of one damaged byte it makes 4 GB of memory to
fill, or a search without an end. Here every step is bounded.
"""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import h5py
from h5py import h5o

from ambient_curate.errors import DatasetError

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
        it is told to (``libver="latest"``).

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
