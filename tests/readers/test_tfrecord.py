"""Records and messages: against a byte-by-byte writer, protobuf itself, and damage of any kind."""

import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_writer import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    bytes_feature,
    entry,
    example,
    field,
    float_feature,
    frame,
    int_feature,
    masked_crc,
    record_file,
    varint,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ambient_curate.errors import DatasetError
from ambient_curate.readers.tfrecord import (
    Record,
    bytes_entries,
    decode_numbers,
    locate_features,
    read_feature,
    read_records,
)

example_pb2 = pytest.importorskip("tfrecord.example_pb2")

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32)
PIECES = st.one_of(  # of one feature, in every legal encoding
    st.tuples(st.lists(FLOAT32, max_size=9), st.booleans()).map(lambda a: float_feature(*a)),
    st.tuples(st.lists(INT64, max_size=9), st.booleans()).map(lambda a: int_feature(*a)),
    st.lists(st.binary(max_size=200), max_size=4).map(bytes_feature),
)
UNKNOWN = st.one_of(
    st.binary(max_size=5).map(lambda payload: field(9, payload)),
    INT64.map(lambda value: field(17, varint(value), VARINT)),
    st.binary(min_size=8, max_size=8).map(lambda payload: field(300, payload, FIXED64)),
    st.binary(min_size=4, max_size=4).map(lambda payload: field(11, payload, FIXED32)),
)
NAMES = st.text(st.characters(codec="utf-8"), max_size=3)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """An Example in any encoding that protobuf allows: repeated names, split and unknown fields."""
    entries = []
    for _ in range(draw(st.integers(0, 5))):
        feature = b"".join(draw(st.lists(st.one_of(PIECES, UNKNOWN), max_size=3)))
        entries.append(entry(draw(NAMES), feature, value_first=draw(st.booleans())))
        entries.append(draw(st.one_of(st.just(b""), UNKNOWN)))
    cut = draw(st.integers(0, len(entries)))
    return field(1, b"".join(entries[:cut])) + draw(UNKNOWN) + field(1, b"".join(entries[cut:]))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def decode(record: Record) -> dict[str, Any]:
    """Decode all that is in a record."""
    decoded = {}
    for name, pieces in locate_features(record).items():
        feature = read_feature(record, pieces)
        if feature.kind == "bytes":
            decoded[name] = [record.buffer[a:b] for a, b in bytes_entries(record, feature)]
        elif feature.kind:
            decoded[name] = decode_numbers(record, feature).tobytes()
    return decoded


def decode_with_protobuf(payload: bytes) -> dict[str, Any]:
    decoded = {}
    for name, feature in example_pb2.Example.FromString(payload).features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind == "bytes_list":
            decoded[name] = list(feature.bytes_list.value)
        elif kind == "float_list":
            decoded[name] = np.array(feature.float_list.value, np.float32).tobytes()
        elif kind == "int64_list":
            decoded[name] = np.array(feature.int64_list.value, np.int64).tobytes()
    return decoded


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=messages())
def test_every_legal_encoding_is_read_as_protobuf_reads_it(tmp_path: Path, payload: bytes) -> None:
    (record,) = read_records(write(tmp_path / "one", frame(payload)), checksums=True)
    assert decode(record) == decode_with_protobuf(payload)


def test_numbers_have_their_types_and_extremes(tmp_path: Path) -> None:
    integers = [0, 1, 127, 128, -1, 2**63 - 1, -(2**63), 300]
    payload = example({"i": int_feature(integers), "f": float_feature([0.1, -np.inf])})
    (record,) = read_records(write(tmp_path / "one", frame(payload)), checksums=True)
    located = locate_features(record)
    decoded = decode_numbers(record, read_feature(record, located["i"]))
    assert decoded.dtype == np.int64
    assert decoded.tolist() == integers
    decoded = decode_numbers(record, read_feature(record, located["f"]))
    assert decoded.dtype == np.float32
    assert decoded.flags.writeable
    assert decoded.tolist() == [np.float32(0.1), -np.inf]


def test_records_are_numbered_and_located(tmp_path: Path) -> None:
    payloads = [b"", b"abc", bytes(5000)]
    records = list(read_records(write(tmp_path / "r", record_file(payloads)), checksums=True))
    assert [record.buffer[slice(*record.span)] for record in records] == payloads
    assert [record.number for record in records] == [0, 1, 2]
    assert [record.span for record in records] == [(12, 12), (28, 31), (47, 5047)]


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    assert list(read_records(write(tmp_path / "empty", b""), checksums=True)) == []


def test_a_missing_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="gone cannot be read: No such file"):
        list(read_records(tmp_path / "gone", checksums=True))


def test_every_flipped_byte_fails_a_checksum(tmp_path: Path) -> None:
    payloads = [example({"image": bytes_feature([b"pixels" * 20])}), b"second"]
    content = record_file(payloads)
    second = len(frame(payloads[0]))
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        path = write(tmp_path / "flipped", bytes(damaged))
        with pytest.raises(DatasetError, match=rf"flipped: record {int(position >= second)}, byte"):
            list(read_records(path, checksums=True))
        in_header = position < 12 or second <= position < second + 12
        if in_header:
            with pytest.raises(DatasetError, match="length"):
                list(read_records(path, checksums=False))


@pytest.mark.parametrize("checksums", [True, False])
def test_a_cut_file_is_an_error_unless_cut_between_records(tmp_path: Path, checksums: bool) -> None:
    payloads = [b"first", example({"a": int_feature([1, 2])})]
    content = record_file(payloads)
    ends = [0, len(frame(payloads[0])), len(content)]
    for length in range(len(content) + 1):
        path = write(tmp_path / "cut", content[:length])
        if length in ends:
            count = len(list(read_records(path, checksums=checksums)))
            assert count == ends.index(length)
        else:
            with pytest.raises(DatasetError, match="the file ends inside"):
                list(read_records(path, checksums=checksums))


def test_a_length_beyond_the_file_is_an_error(tmp_path: Path) -> None:
    length = struct.pack("<Q", 2**64 - 1)
    path = write(tmp_path / "huge", length + masked_crc(length) + b"x")
    with pytest.raises(DatasetError, match=f"this record of {2**64 - 1} bytes"):
        list(read_records(path, checksums=True))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\x0a", "does not end within its message"),
        (b"\x0a\x05abc", "field 1 of 5 bytes does not fit"),
        (b"\x0a" + b"\xff" * 11, "and 10 bytes"),
        (b"\x0b", "unknown wire type 3"),
        (b"\x02\x00", "field 0 of 0 bytes"),
        (field(1, varint(7), VARINT), "wire type 0 where a message"),
        (field(1, field(1, field(1, varint(7), VARINT))), "wire type 0 in an entry"),
        (example({"a": field(2, bytes(4), FIXED32)}), "wire type 5 where a list"),
        (example({"a": field(2, field(1, bytes(3)))}), "3 bytes, no multiple of 4"),
        (example({"a": field(2, field(1, varint(1), VARINT))}), "wire type 0 in a list of float"),
        (example({"a": field(3, field(1, b"\x01\x80"))}), "ends inside an integer"),
        (example({"a": field(3, field(1, b"\x80" * 10 + b"\x01"))}), "one of over 10 bytes"),
        (example({"a" * 5000: b""}), "a name is longer than 4096 bytes"),
    ],
)
def test_broken_messages_are_errors_that_say_why(
    tmp_path: Path, payload: bytes, reason: str
) -> None:
    (record,) = read_records(write(tmp_path / "broken", frame(payload)), checksums=True)
    with pytest.raises(DatasetError, match=rf"broken: record 0, byte \d+: .*{reason}"):
        decode(record)


@pytest.mark.parametrize("mutations", [600, pytest.param(30_000, marks=pytest.mark.slow)])
def test_mutated_messages_are_errors_or_what_protobuf_reads(tmp_path: Path, mutations: int) -> None:
    original = example(
        {
            "steps/action": float_feature([1.5, -2.5, 0.25]),
            "steps/is_first": int_feature([1, 0, 0, -5, 1000]),
            "steps/reward": float_feature([1.0, 2.0], packed=False),
            "steps/text": bytes_feature([b"one", b"two"]),
            "steps/image": bytes_feature([bytes(300)]),
        }
    )
    rng = np.random.default_rng(0)
    errors = 0
    for _ in range(mutations):
        mutated = bytearray(original)
        for position in rng.integers(0, len(mutated), rng.integers(1, 3)):
            mutated[position] = rng.integers(0, 256)
        payload = bytes(mutated[: rng.integers(1, len(mutated))] if rng.random() < 0.2 else mutated)
        (record,) = read_records(write(tmp_path / "mutated", frame(payload)), checksums=False)
        try:
            decoded = decode(record)
        except DatasetError:
            errors += 1
            continue
        try:
            expected = decode_with_protobuf(payload)
        except Exception:  # protobuf also refuses names that are not UTF-8
            continue
        # protobuf also sets entries aside that mutation gave an unknown field
        assert {name: decoded.get(name) for name in expected} == expected
    assert 0.1 < errors / mutations < 0.9


def test_asking_a_feature_for_the_other_kind_is_a_programming_mistake(tmp_path: Path) -> None:
    payload = example({"text": bytes_feature([b"a"]), "number": int_feature([1])})
    (record,) = read_records(write(tmp_path / "one", frame(payload)), checksums=True)
    located = locate_features(record)
    with pytest.raises(ValueError, match="has no numbers"):
        decode_numbers(record, read_feature(record, located["text"]))
    with pytest.raises(ValueError, match="has no bytes"):
        next(bytes_entries(record, read_feature(record, located["number"])))


def write_sparse(path: Path, records: int, hole: int) -> Path:
    """Write records whose "image" is a hole in the file, with valid length checksums only."""
    action = entry("steps/action", float_feature([1.0] * 700))
    image = varint(1 << 3 | LENGTH) + varint(hole)
    image = varint(1 << 3 | LENGTH) + varint(len(image) + hole) + image
    head = field(1, b"steps/image") + varint(2 << 3 | LENGTH) + varint(len(image) + hole) + image
    head = varint(1 << 3 | LENGTH) + varint(len(head) + hole) + head
    features = len(head) + hole + len(action)
    start = varint(1 << 3 | LENGTH) + varint(features) + head
    length = struct.pack("<Q", len(start) + hole + len(action))
    with path.open("wb") as file:
        for _ in range(records):
            file.write(length + masked_crc(length) + start)
            file.seek(hole, os.SEEK_CUR)
            file.write(action + bytes(4))
    return path


def mapped_kilobytes(path: Path) -> int:
    """How much of the mapping of a file this process has touched."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if line.endswith(str(path)))
    return next(int(line.split()[1]) for line in lines[start:] if line.startswith("Rss:"))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
def test_a_scan_touches_no_image(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "sparse", records=20, hole=40_000_000)
    tracemalloc.start()
    count = 0
    for record in read_records(path, checksums=False):
        feature = read_feature(record, locate_features(record)["steps/action"])
        assert decode_numbers(record, feature).tolist() == [1.0] * 700
        count += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 800_000_000
    assert count == 20
    assert peak < 1_000_000
    assert mapped_kilobytes(path) < 1000  # of 800 MB; the last record keeps the file mapped


def test_checksums_hold_no_record_in_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "large", frame(bytes(30_000_000)))
    tracemalloc.start()
    assert len(list(read_records(path, checksums=True))) == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
