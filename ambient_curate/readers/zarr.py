"""Zarr replay buffers of Diffusion Policy and UMI: ``X.zarr`` directories, ``X.zarr.zip`` files.

Arrays ``data/<key>`` concatenate the frames of all episodes, ``meta/episode_ends`` has the
exclusive end of each. Only the arrays that make up the action and the state are read, never the
images.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count, pairwise
from os.path import isdir, isfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from ambient_curate.errors import DatasetError, write_count
from ambient_curate.readers.episodes import (
    ALL,
    Episode,
    EpisodeName,
    ReaderOptions,
    ReadRequest,
)
from ambient_curate.readers.zarr_arrays import (
    FrameReader,
    ZarrArray,
    ZarrFiles,
    find_files,
    import_zarr,
    open_array,
)

_ENDS = "meta/episode_ends"
# What UMI makes the action of, robot by robot, in this order.
_UMI = ("eef_pos", "eef_rot_axis_angle", "gripper_width")


@dataclass(frozen=True)
class ZarrDataset:
    """An opened replay buffer; satisfies `ambient_curate.readers.episodes.Dataset`.

    Parameters
    ----------
    path : Path
        Directory or zip archive.
    action, state : tuple of str
        Arrays that make them up, in order; no state if empty.
    ends : ndarray of int64, shape (episode,)
        Exclusive ends of the episodes.
    rate_hz : float or None
        Control rate that the user tells; the format does not.
    metadata_files : sequence of Path
        The files of a directory that are read; an archive is one file.
    problems : sequence of str
        What was unusual, one sentence each.
    """

    path: Path
    action: tuple[str, ...]
    state: tuple[str, ...]
    ends: Int64[np.ndarray, " episode"] = field(repr=False)
    rate_hz: float | None
    metadata_files: Sequence[Path] = field(default=(), repr=False)
    problems: Sequence[str] = ()

    @property
    def format(self) -> str:
        """Name of the format."""
        return "Zarr"

    @property
    def shards(self) -> Sequence[Path]:
        """The directory or the archive: episodes do not respect the files inside."""
        return (self.path,)

    @property
    def is_numbered(self) -> bool:
        """False: an episode of a replay buffer is its position."""
        return False

    def list_episodes(self, shard: Path) -> Sequence[EpisodeName]:
        """List the episodes of the buffer."""
        return [EpisodeName(f"episode_{number}", number) for number in range(len(self.ends))]

    def read_shard(self, shard: Path, request: ReadRequest = ALL) -> Iterator[Episode]:
        """Yield the episodes; one of them and a chunk of each array are in memory.

        Raises
        ------
        DatasetError
            As `request` says, if a chunk with frames of an episode is damaged or missing.
        ValueError
            If `shard` is not `path`.
        """
        if shard != self.path:
            raise ValueError(f"{shard} is no shard of {self.path}")
        zarr, files = import_zarr(shard), find_files(shard)
        with _open_store(zarr, files) as store:
            names = dict.fromkeys([*self.action, *self.state])
            readers = {name: FrameReader(open_array(zarr, store, files, name)) for name in names}
            edges = pairwise([0, *self.ends.tolist()])
            for name, (start, stop) in zip(self.list_episodes(shard), edges, strict=True):
                yield from request.read(
                    name, partial(self._read_episode, readers, name, start, stop)
                )

    def _read_episode(
        self, readers: Mapping[str, FrameReader], name: EpisodeName, start: int, stop: int
    ) -> Episode:
        frames = {name: reader.read(start, stop) for name, reader in readers.items()}
        state = [frames[name] for name in self.state]
        return Episode(
            id=name.id,
            number=name.number,
            action=np.concatenate([frames[name] for name in self.action], axis=1),
            source=self.path,
            state=np.concatenate(state, axis=1) if state else None,
            rate_hz=self.rate_hz,
            first_frame=start,
        )


def recognizes(path: Path) -> bool:
    """Tell whether `path` is a replay buffer by its name or by ``meta/episode_ends`` in it."""
    if isdir(path):
        return path.name.lower().endswith(".zarr") or isdir(path / _ENDS)
    return path.name.lower().endswith(".zarr.zip") and isfile(path)


def open_dataset(path: Path, options: ReaderOptions) -> ZarrDataset:
    """Open a replay buffer, and look for every file of what is to be read.

    Raises
    ------
    DatasetError
        If the library for Zarr is not installed; if an array is missing, is not wholly stored or
        holds no numbers; if the ends of the episodes do not fit; if a split is asked for.
    """
    if options.split is not None:
        raise DatasetError(
            f"split = {options.split!r} is set for {path}, and Zarr replay buffers have no splits",
            'drop split, or pick episodes in ambient.toml, such as episodes = "0:30"',
        )
    zarr, files = import_zarr(path), find_files(path)
    keys = files.arrays("data")
    action, problems = _choose_action(path, keys, options)
    state = _qualify(path, options.state or [name for name in ("state",) if name in keys])
    with _open_store(zarr, files) as store:
        _check_root(files, keys)
        names = dict.fromkeys([*action, *state])
        arrays = {name: open_array(zarr, store, files, name) for name in names}
        ends_array = open_array(zarr, store, files, _ENDS)
        ends = ends_array.read_ends()
    _check_lengths(path, arrays, ends)
    read = [files.path(key) for array in (*arrays.values(), ends_array) for key in array.files]
    return ZarrDataset(
        path,
        action,
        state,
        ends,
        options.rate_hz,
        tuple(file for file in read if file is not None),
        problems,
    )


@contextmanager
def _open_store(zarr: Any, files: ZarrFiles) -> Iterator[Any]:
    if files.members is None:
        yield zarr.storage.LocalStore(files.root, read_only=True)
        return
    store = zarr.storage.ZipStore(files.root, mode="r")
    try:
        yield store
    finally:
        with suppress(AttributeError):  # of a store from which nothing was read
            store.close()


def _choose_action(
    path: Path, keys: Sequence[str], options: ReaderOptions
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Pick the user's arrays, the format's own, or those that UMI joins; tell of the last."""
    if options.action or "action" in keys or "robot0_eef_pos" not in keys:
        return _qualify(path, options.action or ["action"]), ()
    robots = next(number for number in count() if f"robot{number}_eef_pos" not in keys)
    joined = [f"robot{number}_{part}" for number in range(robots) for part in _UMI]
    return _qualify(path, joined), (
        f"there is no data/action; as in UMI, the action is {', '.join(joined)}",
    )


def _qualify(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if not all(part not in ("", ".", "..") for part in name.split("/")) or "\\" in name:
            raise DatasetError(
                f"{path}: the array name {name!r} is not relative to data",
                'give the name inside of data, as in `state = ["robot0_eef_pos"]`',
            )
    return tuple(f"data/{name}" for name in names)


def _check_root(files: ZarrFiles, keys: Sequence[str]) -> None:
    """Tell of an archive of the directory itself, in place of what is in it."""
    inner = [key for key in files.members or () if key.endswith(f"/{_ENDS}/.zarray")]
    inner += [key for key in files.members or () if key.endswith(f"/{_ENDS}/zarr.json")]
    if inner and not keys:
        raise DatasetError(
            f"{files.root} holds {inner[0]}, expected {_ENDS} without a directory around it",
            "pack what is in the directory, not the directory",
        )


def _check_lengths(
    path: Path, arrays: dict[str, ZarrArray], ends: Int64[np.ndarray, " episode"]
) -> None:
    if not len(ends):
        raise DatasetError(
            f"{path}: {_ENDS} is empty, expected an end for each episode", "write it again"
        )
    for name, array in arrays.items():
        if array.shape[0] != ends[-1]:
            raise DatasetError(
                f"{path}: {name} has {write_count(array.shape[0], 'frame')}, {_ENDS} ends with "
                f"{ends[-1]}; one number of frames is expected",
                "copy the data again from its source",
            )
