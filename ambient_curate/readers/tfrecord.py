"""TFRecord files and the ``tf.train.Example`` messages in them, read in place without TensorFlow.

A file is a row of records: length (u64), its checksum (u32), payload, its checksum (u32), all
little-endian; a checksum is CRC-32C, rotated and offset. Length checksums and every length of the
messages are always checked. A feature is decoded only when asked for, so that the images beside it
cost nothing: they are stepped over by their length and their pages are never touched.
"""

import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import crc32c
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from ambient_curate.errors import DatasetError
from ambient_curate.files import find_stand_in

Span = tuple[int, int]  # first byte and the byte after the last, in the file

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types of protobuf
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_FIRST_MESSAGE = 1 << 3 | _LENGTH  # the tag of field 1, of bytes or a message
_SECOND_MESSAGE = 2 << 3 | _LENGTH
_LONGEST_VARINT = 10
_LONGEST_NAME = 4096
_KINDS = {1: "bytes", 2: "float", 3: "int"}  # the members of tf.train.Feature's oneof
_ELEMENT_WIRES = {"bytes": (_LENGTH,), "float": (_LENGTH, _FIXED32), "int": (_LENGTH, _VARINT)}
_HINT = "the file is damaged or no uncompressed TFRecord file: copy it again from its source"


class Record(NamedTuple):
    """One record of a memory-mapped file.

    Parameters
    ----------
    path : Path
        The file.
    number : int
        Position in the file, from 0.
    buffer : mmap
        The whole file.
    span : (int, int)
        Where the payload lies in the file.
    """

    path: Path
    number: int
    buffer: mmap.mmap
    span: Span

    def damage(self, offset: int, reason: str) -> DatasetError:
        """Make the error that says where in the file a record is damaged, and why."""
        return _damage(self.path, self.number, offset, reason)

    def verify(self) -> None:
        """Raise `DatasetError` unless the payload fits its checksum; all of it is read."""
        start, stop = self.span
        with memoryview(self.buffer) as view:
            checksum = _masked_crc(view[start:stop])
        if checksum != _FOOTER.unpack_from(self.buffer, stop)[0]:
            raise self.damage(start - _HEADER.size, "checksum of the record does not match")


class Feature(NamedTuple):
    """Where the values of one feature lie in the file.

    Parameters
    ----------
    kind : str
        ``"bytes"``, ``"float"`` or ``"int"``; empty for a feature without a list.
    spans : tuple of (int, int)
        The feature's list messages; more than one where the writer split it.
    """

    kind: str
    spans: tuple[Span, ...]

    @property
    def size(self) -> int:
        """Length of the encoded values, in bytes."""
        return sum(stop - start for start, stop in self.spans)


def read_records(path: Path, *, checksums: bool) -> Iterator[Record]:
    """Yield the records of a file in order.

    Parameters
    ----------
    path : Path
        A regular file.
    checksums : bool
        Verify the payloads too, which reads the whole file once.

    Raises
    ------
    DatasetError
        If the file cannot be opened, ends inside a record, or fails a checksum.
    """
    for record in find_records(path, sequential=checksums):
        if checksums:
            record.verify()
        yield record


def find_records(path: Path, *, sequential: bool) -> Iterator[Record]:
    """Yield the records of a file in order, their payloads not verified.

    Parameters
    ----------
    path : Path
        A regular file.
    sequential : bool
        Whether the whole of it will be read, or a few pages of each record.

    Raises
    ------
    DatasetError
        If the file cannot be opened or ends inside a record, or the checksum of a length fails.
    """
    buffer = _map_file(path)
    if buffer is None:
        return
    # Where a few pages of each record are wanted, reading ahead would fetch its images.
    buffer.madvise(mmap.MADV_SEQUENTIAL if sequential else mmap.MADV_RANDOM)
    offset = number = 0
    while offset < len(buffer):
        start = offset + _HEADER.size
        if start > len(buffer):
            raise _damage(path, number, offset, "the file ends inside a record's length")
        length, length_checksum = _HEADER.unpack_from(buffer, offset)
        if _masked_crc(buffer[offset : offset + 8]) != length_checksum:
            raise _damage(path, number, offset, "checksum of the record's length does not match")
        stop = start + length
        if stop + _FOOTER.size > len(buffer):
            raise _damage(
                path, number, offset, f"the file ends inside this record of {length} bytes"
            )
        yield Record(path, number, buffer, (start, stop))
        offset = stop + _FOOTER.size
        number += 1


def locate_features(record: Record) -> dict[str, list[Span]]:
    """Find every feature of a ``tf.train.Example``, touching names and lengths only.

    As in protobuf, the last entry of a name wins and unknown fields are skipped.

    Returns
    -------
    dict of str to list of (int, int)
        By name, where the ``tf.train.Feature`` message lies, for `read_feature`; in several pieces
        where the writer split it.

    Raises
    ------
    DatasetError
        If the payload is not a well-formed ``Example``.
    """
    located = {}
    for start, stop in _messages(record, *record.span):
        for entry in _messages(record, start, stop):
            name = b""
            pieces = []
            for tag, begin, end in _fields(record, *entry):
                if tag == _FIRST_MESSAGE:
                    if end - begin > _LONGEST_NAME:
                        raise record.damage(begin, f"a name is longer than {_LONGEST_NAME} bytes")
                    name = record.buffer[begin:end]
                elif tag == _SECOND_MESSAGE:
                    pieces.append((begin, end))
                elif tag >> 3 in (1, 2):
                    raise record.damage(begin, f"wire type {tag & 7} in an entry of the features")
            located[name.decode(errors="replace")] = pieces
    return located


def read_feature(record: Record, pieces: Sequence[Span]) -> Feature:
    """Find kind and values of a feature from what `locate_features` found.

    Raises
    ------
    DatasetError
        If the message is not a well-formed ``Feature``.
    """
    kind = ""
    spans: list[Span] = []
    for piece in pieces:
        for tag, start, stop in _fields(record, *piece):
            member = _KINDS.get(tag >> 3)
            if member is None:
                continue
            if tag & 7 != _LENGTH:
                raise record.damage(start, f"wire type {tag & 7} where a list was expected")
            if member != kind:  # of a oneof the last member set counts
                kind, spans = member, []
            spans.append((start, stop))
    return Feature(kind, tuple(spans))


def decode_numbers(
    record: Record, feature: Feature
) -> Float32[np.ndarray, " value"] | Int64[np.ndarray, " value"]:
    """Decode a ``"float"`` or ``"int"`` feature, packed or not.

    Raises
    ------
    DatasetError
        If the list is damaged.
    ValueError
        If the feature holds no numbers.
    """
    if feature.kind not in ("float", "int"):
        raise ValueError(f"a feature of kind {feature.kind!r} has no numbers")
    chunks = []
    for wire, start, stop in _elements(record, feature):
        chunk = record.buffer[start:stop]
        if feature.kind == "float" and len(chunk) % 4:
            raise record.damage(start, f"a list of floats has {len(chunk)} bytes, no multiple of 4")
        if feature.kind == "int" and wire == _LENGTH and chunk and chunk[-1] >= 0x80:
            raise record.damage(stop, "a list of integers ends inside an integer")
        chunks.append(chunk)
    encoded = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    if feature.kind == "float":
        return np.frombuffer(encoded, "<f4").astype(np.float32)
    values = _decode_varints(np.frombuffer(encoded, np.uint8))
    if values is None:
        raise record.damage(feature.spans[0][0], "a list of integers holds one of over 10 bytes")
    return values


def bytes_entries(record: Record, feature: Feature) -> Iterator[Span]:
    """Yield where each entry of a ``"bytes"`` feature lies, touching only their lengths.

    Raises
    ------
    DatasetError
        If the list is damaged.
    ValueError
        If the feature holds no bytes.
    """
    if feature.kind != "bytes":
        raise ValueError(f"a feature of kind {feature.kind!r} has no bytes")
    for _, start, stop in _elements(record, feature):
        yield start, stop


def _map_file(path: Path) -> mmap.mmap | None:
    """Map a file for reading; None if it is empty."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return None
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}", "check the file") from error


def _damage(path: Path, number: int, offset: int, reason: str) -> DatasetError:
    return find_stand_in(path) or DatasetError(
        f"{path}: record {number}, byte {offset}: {reason}", _HINT
    )


def _masked_crc(content: bytes | memoryview) -> int:
    crc = crc32c.crc32c(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(record: Record, offset: int, stop: int) -> tuple[int, int]:
    """Decode one varint; return it and the offset after it."""
    value = 0
    for index in range(min(_LONGEST_VARINT, stop - offset)):
        byte = record.buffer[offset + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, offset + index + 1
    raise record.damage(offset, "an integer does not end within its message and 10 bytes")


def _fields(record: Record, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield of each field of a message its tag (number, wire type), first byte and end."""
    buffer = record.buffer
    while start < stop:
        tag, offset = buffer[start], start + 1
        if tag >= 0x80:  # one byte is the rule and this loop the hot one: no call for it
            tag, offset = _varint(record, start, stop)
        if tag & 7 == _LENGTH:
            if offset < stop and (length := buffer[offset]) < 0x80:
                offset += 1
            else:
                length, offset = _varint(record, offset, stop)
        else:
            length = _scalar_length(record, tag & 7, offset, stop)
        end = offset + length
        if end > stop or tag < 8:
            raise record.damage(
                start, f"field {tag >> 3} of {length} bytes does not fit the message around it"
            )
        yield tag, offset, end
        start = end


def _scalar_length(record: Record, wire: int, offset: int, stop: int) -> int:
    if wire == _VARINT:
        return _varint(record, offset, stop)[1] - offset
    if wire not in _FIXED_SIZES:
        raise record.damage(offset, f"a field has the unknown wire type {wire}")
    return _FIXED_SIZES[wire]


def _messages(record: Record, start: int, stop: int) -> Iterator[Span]:
    """Yield the messages in field 1, the only field ``Example`` and ``Features`` have."""
    for tag, begin, end in _fields(record, start, stop):
        if tag == _FIRST_MESSAGE:
            yield begin, end
        elif tag >> 3 == 1:
            raise record.damage(begin, f"wire type {tag & 7} where a message was expected")


def _elements(record: Record, feature: Feature) -> Iterator[tuple[int, int, int]]:
    """Yield wire type, first byte and end of each element, or packed run of them, of a feature."""
    for span in feature.spans:
        for tag, start, stop in _fields(record, *span):
            if tag >> 3 != 1:
                continue
            if tag & 7 not in _ELEMENT_WIRES[feature.kind]:
                raise record.damage(start, f"wire type {tag & 7} in a list of {feature.kind}")
            yield tag & 7, start, stop


def _decode_varints(encoded: UInt8[np.ndarray, " byte"]) -> Int64[np.ndarray, " value"] | None:
    """Decode complete varints, two's complement; None if one is too long."""
    last = np.flatnonzero(encoded < 0x80)
    if last.size == encoded.size:
        return encoded.astype(np.int64)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > _LONGEST_VARINT:
        return None
    place = np.arange(encoded.size) - np.repeat(first, lengths)
    parts = (encoded & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.bitwise_or.reduceat(parts, first).view(np.int64)
