"""Readers of robot-data formats, chosen by looking at the files: one module a format."""

import os
from pathlib import Path
from typing import Protocol

from ambient_curate.errors import DatasetError
from ambient_curate.readers import hdf5, lerobot, plain_arrays, rlds, zarr
from ambient_curate.readers.episodes import Dataset, ReaderOptions

__all__ = [
    "FORMATS",
    "arrays",
    "check_readable",
    "hdf5",
    "is_readable",
    "lerobot",
    "open_dataset",
    "recognizes",
    "rlds",
    "zarrs",
]


class _Reader(Protocol):
    def recognizes(self, path: Path) -> bool: ...
    def open_dataset(self, path: Path, options: ReaderOptions) -> Dataset: ...


_READERS: tuple[_Reader, ...] = (lerobot, rlds, zarr, hdf5, plain_arrays)
FORMATS = (
    "LeRobot (meta/info.json), RLDS (dataset_info.json), Zarr replay buffers (.zarr, .zarr.zip), "
    "HDF5 of robomimic, LIBERO, ALOHA and Minari (.hdf5, .h5), arrays (.npy, .npz, .parquet)"
)


def is_readable(path: Path) -> bool:
    """Tell whether `path` exists and, if a directory, may be listed: not a dangling link."""
    return os.path.exists(path) and (not os.path.isdir(path) or os.access(path, os.R_OK | os.X_OK))


def check_readable(path: Path) -> None:
    """Raise `DatasetError` unless `is_readable`."""
    if not os.path.exists(path):
        raise DatasetError(f"{path} does not exist", "check the path")
    if not is_readable(path):
        raise DatasetError(f"{path} may not be listed by this user", "check its permissions")


def recognizes(path: Path) -> bool:
    """Tell whether `path` looks like a dataset of a known format, even a broken one."""
    return any(reader.recognizes(path) for reader in _READERS)


def open_dataset(path: Path, options: ReaderOptions | None = None) -> Dataset:
    """Open the dataset at `path` with the reader that recognizes its files.

    Raises
    ------
    DatasetError
        If the path is missing, no reader knows its files, or its metadata is damaged.
    """
    check_readable(path)
    for reader in _READERS:
        if reader.recognizes(path):
            return reader.open_dataset(path, options or ReaderOptions())
    raise DatasetError(f"{path} holds no dataset of a known format", f"known formats: {FORMATS}")
