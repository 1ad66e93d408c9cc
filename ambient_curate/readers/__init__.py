"""Readers of robot-data formats, chosen by looking at the files: one module a format."""

import os
import re
from pathlib import Path
from typing import Protocol

from ambient_curate.errors import DatasetError
from ambient_curate.readers import hdf5, lerobot, npz, plain_arrays, rlds, zarr
from ambient_curate.readers.episodes import Dataset, ReaderOptions, natural_key

__all__ = [
    "FORMATS",
    "check_readable",
    "find_episode_files",
    "hdf5",
    "is_readable",
    "lerobot",
    "list_folders",
    "open_dataset",
    "plain_arrays",
    "recognizes",
    "rlds",
    "zarr",
]

DEPTH = 4  # directories down to which data is looked for
_MANY = 10  # directories with one episode each, which are episodes whatever they are called


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


def find_episode_files(path: Path) -> list[Path]:
    """List the data files of a directory that has a directory an episode.

    Returns
    -------
    list of Path
        Sorted. Empty unless at least two directories hold data, each one file of one episode, all
        in one format; and their names differ in numbers only, or there are 10 of them.
    """
    if recognizes(path):
        return []
    files = list[Path]()
    for folder in list_folders(path):
        here = [*hdf5.list_files(folder), *plain_arrays.list_files(folder)]
        if len(here) > 1 or (recognizes(folder) and not here):
            return []
        files += here
    alike = len({re.sub(r"\d+", "0", file.parent.name) for file in files}) == 1
    one_format = len({hdf5.recognizes(file) for file in files}) == 1
    if len(files) < 2 or not one_format or not (alike or len(files) >= _MANY):
        return []
    return files if all(map(_holds_one_episode, files)) else []


def _holds_one_episode(file: Path) -> bool:
    """Tell whether a file holds one episode; one that is damaged is left for opening to tell."""
    reader = hdf5 if hdf5.recognizes(file) else plain_arrays
    try:
        return reader.count_episodes(file) == 1
    except DatasetError:
        return True


def list_folders(path: Path) -> list[Path]:
    """List the directories in one, in natural order; none that is hidden."""
    if not os.path.isdir(path) or not is_readable(path):
        return []
    with os.scandir(path) as entries:
        names = [each.name for each in entries if each.is_dir() and not each.name.startswith(".")]
    return [path / name for name in sorted(names, key=natural_key)]


def open_dataset(path: Path, options: ReaderOptions | None = None) -> Dataset:
    """Open the dataset at `path` with the reader that recognizes its files.

    Raises
    ------
    DatasetError
        If the path is missing, no reader knows its files, or its metadata is damaged.
    """
    check_readable(path)
    options = options or ReaderOptions()
    for reader in _READERS:
        if reader.recognizes(path):
            if options.transpose is not None and reader is not plain_arrays:
                raise npz.refuse_transpose(path)
            return reader.open_dataset(path, options)
    if files := find_episode_files(path):
        one = hdf5 if hdf5.recognizes(files[0]) else plain_arrays
        if options.transpose is not None and one is hdf5:
            raise npz.refuse_transpose(path)
        return one.open_dataset(path, options, files)
    raise DatasetError(f"{path} holds no dataset of a known format", f"known formats: {FORMATS}")
