"""Zarr hierarchies, in a directory or a zip: numeric arrays, checked before they are decoded."""

import json
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from ambient_curate.errors import DatasetError
from ambient_curate.files import find_stand_in

REPAIR = "the data is damaged or cut short: copy it again from its source"
METADATA = {".zarray": 2, "zarr.json": 3}  # name beside an array's chunks, by zarr format
_LONGEST_METADATA = 1 << 20  # bytes


@dataclass(frozen=True)
class ZarrFiles:
    """The files under one root.

    Parameters
    ----------
    root : Path
        Directory, or zip archive.
    members : mapping of str to ZipInfo, or None
        What the archive holds, by key; None for a directory.
    """

    root: Path
    members: Mapping[str, zipfile.ZipInfo] | None

    def path(self, key: str) -> Path | None:
        """Path of a file; None inside of an archive."""
        return self.root / key if self.members is None else None

    def size(self, key: str) -> int | None:
        """Bytes of a file; None where there is none, a link to nothing, or a device."""
        if self.members is not None:
            return self.members[key].file_size if key in self.members else None
        try:
            status = (self.root / key).stat()
        except (OSError, ValueError):  # ValueError: a NUL in the name
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def find_stand_in(self, key: str) -> DatasetError | None:
        """Say that a file, or the archive, is empty or a Git LFS pointer; None: it is not."""
        return find_stand_in(self.path(key) or self.root)

    def arrays(self, group: str) -> list[str]:
        """Names of the arrays that lie directly in a group."""
        if self.members is None:
            try:
                names = [each.name for each in (self.root / group).iterdir()]
            except OSError:
                return []
        else:
            inside = [key for key in self.members if key.startswith(f"{group}/")]
            names = [key[len(group) + 1 :].partition("/")[0] for key in inside]
        return sorted(name for name in set(names) if self.metadata_key(f"{group}/{name}"))

    def metadata_key(self, array: str) -> str | None:
        """Key of an array's metadata; None where there is no such array."""
        keys = [f"{array}/{name}" for name in METADATA]
        return next((key for key in keys if self.size(key) is not None), None)

    def read_metadata(self, key: str) -> dict[str, Any]:
        """Read the JSON object under a key.

        Raises
        ------
        DatasetError
            If it is none, or cannot be read.
        """
        if (self.size(key) or 0) > _LONGEST_METADATA:
            raise DatasetError(
                f"{self.root}: {key} has {self.size(key)} bytes, expected JSON of at most "
                f"{_LONGEST_METADATA}",
                REPAIR,
            )
        try:
            value = json.loads(self._read(key))
        except (OSError, ValueError, RecursionError, *ZIP_ERRORS) as error:
            raise self.find_stand_in(key) or DatasetError(
                f"{self.root}: {key} cannot be read: {error}", REPAIR
            ) from error
        if not isinstance(value, dict):
            raise DatasetError(
                f"{self.root}: {key} is {value!r:.40}, expected a JSON object", REPAIR
            )
        return value

    def _read(self, key: str) -> bytes:
        if self.members is None:
            return (self.root / key).read_bytes()
        with zipfile.ZipFile(self.root) as archive:
            return archive.read(key)


# RuntimeError and NotImplementedError: an encrypted member, an unknown compression
ZIP_ERRORS = (zipfile.BadZipFile, KeyError, EOFError, RuntimeError)


def find_files(path: Path) -> ZarrFiles:
    """List the files of the directory or archive at `path`; nothing of an archive is extracted.

    Raises
    ------
    DatasetError
        If the archive is damaged, or holds a name that leads out of it.
    """
    if path.is_dir():
        return ZarrFiles(path, None)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (OSError, ValueError, *ZIP_ERRORS) as error:
        raise find_stand_in(path) or DatasetError(
            f"{path} cannot be read as a zip archive: {error}", REPAIR
        ) from error
    for info in infos:
        name = PurePosixPath(info.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in info.filename:
            raise DatasetError(
                f"{path} holds {info.filename!r:.80}, expected names inside of the archive",
                "do not trust this file: no library for Zarr writes such names",
            )
    return ZarrFiles(path, {info.filename: info for info in infos if not info.is_dir()})


_NUMBERS_2 = re.compile(r"[<>|](f[248]|[iu][1248]|b1)")
_NUMBERS_3 = re.compile(r"float(16|32|64)|u?int(8|16|32|64)|bool")
_CODECS = (
    *("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd", "bytes", "transpose"),
    *("bitround", "delta", "shuffle", "adler32", "crc32", "crc32c", "fletcher32"),
)
_LARGEST_BLOCK = 1 << 31  # bytes in memory at once
_POINTER_BYTES = 200  # that a Git LFS pointer never has
_FEW_CHUNKS = 8  # that an array may lack before any is found
_OVERHEAD = 1 << 16  # bytes by which data that cannot be compressed may grow


def import_zarr(path: Path) -> Any:
    """Import the library, which is optional.

    Raises
    ------
    DatasetError
        If it is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise DatasetError(
            f"{path} is Zarr data, and the library for it is not installed",
            "pip install ambient-curate[zarr]",
        ) from error
    return zarr


@dataclass(frozen=True)
class ZarrArray:
    """An array of numbers.

    Parameters
    ----------
    place : str
        Where it is, for messages.
    array : zarr.Array
        Open for reading.
    files : tuple of str
        Keys of its metadata and its chunks.
    damage : mapping of int to DatasetError
        Why a chunk cannot be read, by its position along the first axis.
    """

    place: str
    array: Any
    files: tuple[str, ...]
    damage: Mapping[int, DatasetError]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape; frames lie along the first axis."""
        return tuple(self.array.shape)

    def read_ends(self) -> Int64[np.ndarray, " episode"]:
        """Read it as the exclusive ends of episodes, which must not fall.

        Raises
        ------
        DatasetError
            If it is anything else, or damaged.
        """
        if len(self.shape) != 1 or self.array.dtype.kind not in "iu":
            raise DatasetError(
                f"{self.place} has shape {self.shape} and type {self.array.dtype}, expected a "
                "list of whole numbers",
                "write the exclusive end of each episode as int64",
            )
        for damage in self.damage.values():
            raise damage
        with _decoding(self.place):
            ends = np.asarray(self.array[:])
        edges = np.concatenate([np.zeros(1, np.int64), ends])  # uint64 becomes float64
        if (edges[1:] < edges[:-1]).any():
            first = int(np.flatnonzero(edges[1:] < edges[:-1])[0])
            raise DatasetError(
                f"{self.place} must rise; number {first} is {ends[first]}, after "
                f"{int(edges[first])}",
                "write the exclusive end of each episode, in order",
            )
        return ends.astype(np.int64)


class FrameReader:
    """Reads ranges of frames; each chunk is decoded once where they are asked for in order."""

    def __init__(self, array: ZarrArray) -> None:
        self._array = array
        self._step: int = array.array.chunks[0]
        self._number, self._held = -1, np.empty(0)

    def read(self, start: int, stop: int) -> Float32[np.ndarray, "frame column"]:
        """Read the frames from `start` to before `stop`, the axes after the first made one.

        Raises
        ------
        DatasetError
            If a chunk is damaged.
        """
        columns = prod(self._array.shape[1:])
        parts = [np.empty((0, columns), np.float32)]
        for number in range(start // self._step, -(-stop // self._step)):
            first = number * self._step
            part = self._read_block(number)[max(start - first, 0) : stop - first]
            with np.errstate(over="ignore"):  # beyond float32 is infinite, reported as such
                parts.append(part.reshape(len(part), columns).astype(np.float32))
        return np.concatenate(parts)

    def _read_block(self, number: int) -> np.ndarray:
        if number in self._array.damage:
            raise self._array.damage[number]
        if number != self._number:
            first = number * self._step
            with _decoding(self._array.place):
                self._held = np.asarray(self._array.array[first : first + self._step])
            self._number = number
        return self._held


def open_array(zarr: Any, store: Any, files: ZarrFiles, name: str) -> ZarrArray:
    """Open the array called `name`, after a look at what its metadata asks for.

    Parameters
    ----------
    zarr : module
        The library.
    store : zarr.abc.store.Store
        Opened where `files` is.
    files : ZarrFiles
        The files of the hierarchy.
    name : str
        As in ``"data/action"``.

    Raises
    ------
    DatasetError
        If it is missing, holds no numbers, has none of its chunks, or needs a codec that is not
        known to be safe.
    """
    key, place = files.metadata_key(name), f"{files.root}: {name}"
    if key is None:
        group = name.partition("/")[0]
        raise DatasetError(
            f"{files.root} has no array {name!r}; {group} has "
            f"{', '.join(files.arrays(group)) or 'none'}",
            'name the arrays in ambient.toml, as in `action = ["action"]`',
        )
    zarr_format = METADATA[key.rpartition("/")[2]]
    _check_metadata(place, files.read_metadata(key), zarr_format)
    with _decoding(place):
        array = zarr.open_array(store=store, path=name, mode="r", zarr_format=zarr_format)
        shape, chunks = tuple(array.shape), tuple(array.chunks)
    if not shape:
        raise DatasetError(
            f"{place} is one number, expected frames along the first axis", "name another array"
        )
    block = max(prod(chunks), prod((min(chunks[0], shape[0]), *shape[1:])))
    if min(chunks) < 1 or block * array.dtype.itemsize > _LARGEST_BLOCK:
        raise DatasetError(
            f"{place} has chunks of shape {chunks} in shape {shape}, expected at most "
            f"{_LARGEST_BLOCK} bytes at once",
            "write it again in smaller chunks",
        )
    chunk_keys, damage = _find_chunks(files, name, array)
    if damage and not chunk_keys:
        raise damage[0]
    return ZarrArray(place, array, (key, *chunk_keys), damage)


def _find_chunks(
    files: ZarrFiles, name: str, array: Any
) -> tuple[list[str], dict[int, DatasetError]]:
    """List the keys of the chunks that are there and of a likely size, and what the others lack.

    The latter by the position along the first axis. An array that lacks more than it has is
    refused: a damaged shape asks for more chunks than could ever be looked for.
    """
    place = f"{files.root}: {name}"
    counts = [-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True)]
    most = 2 * prod(array.chunks) * array.dtype.itemsize + _OVERHEAD
    keys: list[str] = []
    damage: dict[int, DatasetError] = {}
    lacking = 0
    for position in _count_up(counts):
        key = f"{name}/{array.metadata.encode_chunk_key(position)}"
        size = files.size(key)
        if size is None:
            lack = DatasetError(
                f"{place} has no chunk {key}, expected {prod(counts)} chunks",
                "copy the data again from its source; where the program that wrote it left out "
                "chunks of one value, write it again with write_empty_chunks=True",
            )
        elif size < _POINTER_BYTES and (stand_in := files.find_stand_in(key)):
            lack = stand_in
        elif size > most:
            lack = DatasetError(
                f"{place}: chunk {key} has {size} bytes, expected at most {most}", REPAIR
            )
        else:
            keys.append(key)
            continue
        damage.setdefault(position[0], lack)
        lacking += 1
        if lacking > len(keys) + _FEW_CHUNKS:
            raise next(iter(damage.values()))
    return keys, damage


def _count_up(counts: list[int]) -> Iterator[tuple[int, ...]]:
    """Yield the positions of a grid; unlike `product`, without a list of any axis."""
    for number in range(prod(counts)):
        position = []
        for size in reversed(counts):
            number, place = divmod(number, size)
            position.append(place)
        yield tuple(reversed(position))


def _check_metadata(place: str, metadata: dict[str, Any], zarr_format: int) -> None:
    """Refuse objects, which are pickled, and codecs that are not known to be safe."""
    kind = metadata.get("dtype" if zarr_format == 2 else "data_type")
    numbers, key = (_NUMBERS_2, "id") if zarr_format == 2 else (_NUMBERS_3, "name")
    codecs = [metadata.get("compressor")]
    for several in (metadata.get("filters"), metadata.get("codecs")):
        codecs += several if isinstance(several, list) else [several]
    if not (isinstance(kind, str) and numbers.fullmatch(kind)):
        raise DatasetError(
            f"{place} is of type {kind!r:.80}, expected numbers",
            "name another array in ambient.toml",
        )
    for codec in codecs:
        name = codec.get(key) if isinstance(codec, dict) else codec
        if name is not None and str(name).removeprefix("numcodecs.") not in _CODECS:
            raise DatasetError(
                f"{place} is stored by the codec {name!r:.80}, expected one of "
                f"{', '.join(_CODECS)}",
                "write it again without shards, and with a usual compression such as zstd",
            )


@contextmanager
def _decoding(place: str) -> Iterator[None]:
    """Turn what the library says of damaged bytes into a `DatasetError`."""
    try:
        yield
    except Exception as error:  # its codecs raise whatever their libraries do
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DatasetError(f"{place} cannot be read: {reason}", REPAIR) from error
