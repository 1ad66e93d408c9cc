"""Writes TFRecord files and ``tf.train.Example`` messages byte by byte: the readers' oracle."""

import struct
from collections.abc import Iterable, Sequence

import crc32c

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    value &= 2**64 - 1  # two's complement
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def field(number: int, payload: bytes, wire: int = LENGTH) -> bytes:
    length = varint(len(payload)) if wire == LENGTH else b""
    return varint(number << 3 | wire) + length + payload


def float_feature(values: Sequence[float], packed: bool = True) -> bytes:
    if packed:
        return field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
    return field(2, b"".join(field(1, struct.pack("<f", value), FIXED32) for value in values))


def int_feature(values: Sequence[int], packed: bool = True) -> bytes:
    if packed:
        return field(3, field(1, b"".join(map(varint, values))))
    return field(3, b"".join(field(1, varint(value), VARINT) for value in values))


def bytes_feature(values: Sequence[bytes]) -> bytes:
    return field(1, b"".join(field(1, value) for value in values))


def entry(name: str, feature: bytes, value_first: bool = False) -> bytes:
    parts = [field(1, name.encode()), field(2, feature)]
    return field(1, b"".join(reversed(parts) if value_first else parts))


def example(features: dict[str, bytes]) -> bytes:
    return field(1, b"".join(entry(name, feature) for name, feature in features.items()))


def masked_crc(content: bytes) -> bytes:
    crc = crc32c.crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def frame(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return length + masked_crc(length) + payload + masked_crc(payload)


def record_file(payloads: Iterable[bytes]) -> bytes:
    return b"".join(map(frame, payloads))
