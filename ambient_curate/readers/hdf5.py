"""HDF5 files of demonstrations, whose layout is found by looking into them: a module a layout.

Only the datasets that make up the action and the state are read, never the images.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count
from os.path import isfile
from pathlib import Path
from typing import Protocol, runtime_checkable

import h5py

from ambient_curate.errors import DatasetError
from ambient_curate.readers import aloha, minari, robomimic
from ambient_curate.readers.episodes import (
    ALL,
    Episode,
    EpisodeName,
    ReaderOptions,
    ReadRequest,
    distinct_numbers,
    name_file,
    natural_key,
    numbers_in_names,
)
from ambient_curate.readers.hdf5_files import (
    Contents,
    Recording,
    list_members,
    open_file,
    reading,
)

_SUFFIXES = (".hdf5", ".h5")


@runtime_checkable  # so that the tests can check annotations at run time
class _Layout(Protocol):
    FORMAT: str

    def fits(self, file: h5py.File) -> bool: ...
    def describe(self, file: h5py.File, path: Path) -> Contents: ...
    def find_recordings(
        self, file: h5py.File, contents: Contents, options: ReaderOptions
    ) -> Iterator[Callable[[], Recording]]: ...


_LAYOUTS: tuple[_Layout, ...] = (robomimic, minari, aloha)


@dataclass(frozen=True)
class HDF5Dataset:
    """One opened HDF5 dataset of one or more files; an `ambient_curate.readers.episodes.Dataset`.

    Parameters
    ----------
    path : Path
        The file or the directory of files.
    files : tuple of Contents
        Files in the natural order of their names; those that are not damaged are of one layout.
    options : ReaderOptions
        As given; `state` is the layout's own where none is given.
    metadata_files : sequence of Path
        Files beside the shards; most layouts have none.
    """

    path: Path
    files: tuple[Contents, ...]
    options: ReaderOptions
    metadata_files: Sequence[Path] = ()

    @property
    def format(self) -> str:
        """Name of the format."""
        return next(file.layout for file in self.files if file.names and not file.damage)

    @property
    def shards(self) -> Sequence[Path]:
        """The files, in the natural order of their names."""
        return tuple(file.path for file in self.files)

    @property
    def problems(self) -> Sequence[str]:
        """What was unusual, one sentence each."""
        return tuple(problem for file in self.files for problem in file.problems)

    @cached_property
    def _by_path(self) -> Mapping[Path, Contents]:
        return {file.path: file for file in self.files}

    @cached_property
    def _own_numbers(self) -> Mapping[Path, Sequence[int]] | None:
        """Numbers of all recordings, or those in the names of files of one recording each."""
        numbers = [number for file in self.files for number in file.numbers or ()]
        if numbers and distinct_numbers(numbers):
            spare = count(max(numbers) + 1)  # for files whose numbers are not known
            return {file.path: file.numbers or [next(spare)] for file in self.files if file.names}
        files = [file for file in self.files if file.names]
        single = all(len(file.names) == 1 for file in files)
        names = [name_file(self.path, file.path) for file in files]
        found = numbers_in_names(names) if single else None
        if found is None:
            return None
        return {file.path: [number] for file, number in zip(files, found, strict=True)}

    @cached_property
    def _numbers(self) -> Mapping[Path, Sequence[int]]:
        positions = count()
        return self._own_numbers or {
            file.path: [next(positions) for _ in file.names] for file in self.files
        }

    @property
    def is_numbered(self) -> bool:
        """Whether recordings or files have numbers that tell all of them apart."""
        return self._own_numbers is not None

    def list_episodes(self, shard: Path) -> Sequence[EpisodeName]:
        """List the recordings of one file, in the order of their numbers."""
        ids = [self._name(shard, name) for name in self._by_path[shard].names]
        return list(map(EpisodeName, ids, self._numbers.get(shard, ())))

    def read_shard(self, shard: Path, request: ReadRequest = ALL) -> Iterator[Episode]:
        """Yield the recordings of one file, in the order of their numbers.

        Raises
        ------
        DatasetError
            If the file is damaged; as `request` says, if a recording is, lacks a chosen dataset
            or has a number of frames other than it says.
        ValueError
            If `shard` is not one of `shards`.
        """
        if shard not in self._by_path:
            raise ValueError(f"{shard} is no shard of {self.path}")
        file = self._by_path[shard]
        if file.damage:
            raise file.damage
        if not file.names:
            return
        layout = next(each for each in _LAYOUTS if file.layout == each.FORMAT)
        with open_file(shard) as content:
            recordings = layout.find_recordings(content, file, self.options)
            names = self.list_episodes(shard)
            for name, read in zip(names, recordings, strict=True):
                yield from request.read(name, partial(self._read_episode, file, name, read))

    def _read_episode(
        self, file: Contents, name: EpisodeName, read: Callable[[], Recording]
    ) -> Episode:
        with reading(file.path):
            recording = read()
        return Episode(
            id=name.id,
            number=name.number,
            action=recording.action,
            source=file.path,
            state=recording.state,
            task=file.task,
            rate_hz=self.options.rate_hz or file.rate_hz,
            labels=recording.labels,
        )

    def _name(self, shard: Path, name: str) -> str:
        if name and len(self.files) == 1:
            return name
        file = name_file(self.path, shard)
        return f"{file}/{name}" if name else file


def recognizes(path: Path) -> bool:
    """Tell whether `path` is an HDF5 file by its name, or a directory with one, even if broken."""
    return bool(list_files(path))


def count_episodes(file: Path) -> int:
    """Count the recordings of one file.

    Raises
    ------
    DatasetError
        If it cannot be opened.
    """
    contents = _describe_file(file, ReaderOptions())
    if contents.damage:
        raise contents.damage
    return len(contents.names)


def open_dataset(path: Path, options: ReaderOptions, files: Sequence[Path] = ()) -> HDF5Dataset:
    """Open an HDF5 file, or a directory of them as one dataset.

    Parameters
    ----------
    path : Path
        File or directory.
    options : ReaderOptions
        What the user says.
    files : sequence of Path
        Where each has a directory of its own in `path`; empty: those that lie in `path`.

    Raises
    ------
    DatasetError
        If no file can be opened or none holds a demonstration, files differ in their layout, or
        an option does not fit the format.
    """
    _check_options(path, options)
    paths = list(files) or list_files(path)
    if not paths:
        raise DatasetError(f"{path} holds no HDF5 file", f"expected {' or '.join(_SUFFIXES)}")
    if len({name_file(path, file) for file in paths}) < len(paths):
        raise DatasetError(
            f"{path} holds files that differ by their suffix only", "rename one of them"
        )
    described = tuple(_describe_file(file, options) for file in paths)
    sound = _check_layouts(path, described)
    beside = [file.with_name(minari.METADATA) for file in paths if file.name == minari.FILE]
    return HDF5Dataset(
        path,
        described,
        replace(options, state=options.state or sound[0].state),
        tuple(file for file in beside if file.is_file()),
    )


def _check_layouts(path: Path, files: Sequence[Contents]) -> Sequence[Contents]:
    """Return the files that hold recordings, which must exist and be of one layout."""
    sound = [file for file in files if file.names and not file.damage]
    if not sound:
        damages = [file.damage for file in files if file.damage]
        raise (
            damages[0]
            if damages
            else DatasetError(
                f"{path} holds no demonstration: {files[0].problems[0]}",
                "record some, or remove it",
            )
        )
    for file in sound:
        if file.layout != sound[0].layout:
            raise DatasetError(
                f"{path} holds files of different layouts: {sound[0].path.name} is "
                f"{_name_layout(sound[0])}, {file.path.name} is {_name_layout(file)}",
                f'make a dataset of each: --clean {file.path.stem}, or [datasets."'
                f'{file.path.stem}"] in ambient.toml',
            )
    return sound


def _check_options(path: Path, options: ReaderOptions) -> None:
    if options.split is not None:
        raise DatasetError(
            f"{path}: HDF5 files have no splits, but split {options.split!r} is asked for",
            'leave `split` out; a filter key is a label: `where = "mask/train == true"`',
        )
    absolute = [name for name in (*options.action, *options.state) if name.startswith("/")]
    if absolute:
        raise DatasetError(
            f"{path}: the dataset name {absolute[0]!r} is not relative to a demonstration",
            'give the name inside of a demonstration, as in `state = ["obs/eef_pos"]`',
        )


def list_files(path: Path) -> list[Path]:
    """List the HDF5 files of a dataset: itself, those that lie in it, or Minari's one."""
    candidates = [path]
    if path.is_dir():
        candidates = sorted(path.iterdir(), key=lambda each: natural_key(each.name))
    files = [
        file
        for file in candidates
        if file.suffix.lower() in _SUFFIXES and file.is_file() and not file.name.startswith(".")
    ]
    inside = path / "data" / minari.FILE
    return files or ([inside] if isfile(inside) else [])


def _describe_file(path: Path, options: ReaderOptions) -> Contents:
    """Describe a file; a damaged one counts as one recording that cannot be read."""
    try:
        with open_file(path) as file:
            return _find_layout(file, path, options).describe(file, path)
    except DatasetError as error:
        return Contents(path, "", ("",), damage=error)


def _find_layout(file: h5py.File, path: Path, options: ReaderOptions) -> _Layout:
    """Find the layout; a file with the named action at its root is one episode, as in ALOHA."""
    if options.action and all(isinstance(file.get(n), h5py.Dataset) for n in options.action):
        return aloha
    for layout in _LAYOUTS:
        if layout.fits(file):
            return layout
    raise DatasetError(
        f"{path} has no group 'data' of demonstrations, no 'episode_<number>' and no "
        f"'action'; it holds {list_members(file)}",
        "known layouts: robomimic (data/demo_0/actions), Minari (episode_0/actions), ALOHA "
        "(action); where the file is one episode, name the datasets at its root in ambient.toml: "
        'action = ["NAME"]',
    )


def _name_layout(file: Contents) -> str:
    return "robomimic's" if file.layout == robomimic.FORMAT else file.layout.partition(" ")[0]
