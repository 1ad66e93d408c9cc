"""How long a text in an HDF5 attribute claims to be, asked before HDF5 reads it.

HDF5 believes the length in a text's descriptor: one damaged byte there makes it allocate and fill
4 GB. Object headers of version 1, which h5py writes, carry no checksum that would notice; those of
version 2 do.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

import h5py
from h5py import h5o

# HDF5 File Format Specification 3.0, sections IV.A.1.a, IV.A.2.m (attribute), .q (continuation)
_HEADER = struct.Struct("<BxHII4x")  # version, number of messages, references, bytes of messages
_MESSAGE = struct.Struct("<HHB3x")  # type, bytes of the body, flags
_ATTRIBUTE, _CONTINUATION = 0x0C, 0x10
_BLOCK = struct.Struct("<QQ")  # of a continuation: address, bytes
_NAME = struct.Struct("<BxH4x")  # of an attribute: version, bytes of the name that follows
_TEXT = struct.Struct("<IQI")  # descriptor: bytes, address of the heap, index in it


def read_text_length(item: h5py.Group, name: str) -> int | None:
    """Return the bytes that an attribute, one text of variable length, claims to have.

    Parameters
    ----------
    item : h5py.Group
        Opened, so that HDF5 has checked its header.
    name : str
        The attribute.

    Returns
    -------
    int or None
        None where a checksum guards the descriptor, or it is stored elsewhere.
    """
    start = item.file.userblock_size
    with open(item.file.filename, "rb") as file:
        file.seek(start + h5o.get_info(item.id).addr)
        version, _, _, size = _HEADER.unpack(file.read(_HEADER.size))
        if version != 1:
            return None
        encoded = name.encode() + b"\0"
        for kind, body in _messages(file, start, size):
            if kind == _ATTRIBUTE and body[_NAME.size :].startswith(encoded):
                return int(_TEXT.unpack(body[-_TEXT.size :])[0])
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
