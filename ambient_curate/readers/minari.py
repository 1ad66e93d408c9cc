"""Minari's layout of HDF5: ``episode_<i>/actions``, and ``metadata.json`` beside the file.

Observations and infos have a row more than actions: what was seen after the last one. It is left
out.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import h5py

from ambient_curate.errors import DatasetError
from ambient_curate.readers.episodes import ReaderOptions
from ambient_curate.readers.hdf5_files import (
    COPY_AGAIN,
    Contents,
    Recording,
    find_item,
    join_arrays,
    parse_object,
    read_arrays,
    read_count,
    read_labels,
    to_task,
    to_text,
)

FORMAT = "Minari HDF5"
FILE = "main_data.hdf5"
METADATA = "metadata.json"
_EPISODE = re.compile(r"episode_([0-9]{1,18})")
_ONE_MORE = ("observations", "infos")
_LONGEST_METADATA = 1 << 24  # bytes: bounds of spaces of images are written out in it


def fits(file: h5py.File) -> bool:
    """Tell whether a file has this layout."""
    return any(_EPISODE.fullmatch(to_text(name)) for name in file)


def describe(file: h5py.File, path: Path) -> Contents:
    """List the episodes of a file, and compare them with the metadata beside it.

    Raises
    ------
    DatasetError
        If the metadata cannot be read.
    """
    names = list(map(to_text, file))
    numbers = {name: int(match[1]) for name in names if (match := _EPISODE.fullmatch(name))}
    episodes = tuple(sorted(numbers, key=lambda name: (numbers[name], name)))
    metadata = _read_metadata(path)
    problems = []
    if len(episodes) < len(names):
        others = ", ".join(sorted(set(names) - set(episodes)))
        problems.append(f"{path.name}: {others} is no episode and is not read")
    total = metadata.get("total_episodes", len(episodes))
    if total != len(episodes):
        problems.append(f"{METADATA} tells {total!r:.20} episodes, {path.name} has {len(episodes)}")
    groups = (each for name in episodes if isinstance(each := find_item(file, name), h5py.Group))
    first = next((find_item(each, "observations") for each in groups), None)
    is_state = isinstance(first, h5py.Dataset) and first.ndim == 2 and first.dtype.kind == "f"
    task = to_task(parse_object(metadata.get("env_spec")).get("id"))
    return Contents(
        path,
        FORMAT,
        episodes,
        state=("observations",) if is_state else (),  # not of images, nor of a group
        task=task or to_task(metadata.get("dataset_id")),
        problems=tuple(problems),
        numbers=tuple(numbers[name] for name in episodes),
    )


def find_recordings(
    file: h5py.File, contents: Contents, options: ReaderOptions
) -> Iterator[Callable[[], Recording]]:
    """Yield what reads an episode, in the order of their numbers."""
    for name in contents.names:
        yield partial(_read_recording, file, name, options)


def _read_recording(file: h5py.File, name: str, options: ReaderOptions) -> Recording:
    """Read an episode, which must have as many frames as it says."""
    action = options.action or ("actions",)
    episode = _find_episode(file, name)
    promised = {
        "the attribute total_steps": read_count(episode, "total_steps"),
        "rewards": _count_rows(episode, "rewards"),
    }
    arrays = read_arrays(episode, [*action, *options.state])
    longer = [key for key in arrays if key.partition("/")[0] in _ONE_MORE]
    frames = join_arrays(episode, arrays, action, options.state, promised, longer=longer)
    return Recording(*frames, read_labels(episode))


def _find_episode(file: h5py.File, name: str) -> h5py.Group:
    episode = file[name]
    if not isinstance(episode, h5py.Group):
        raise DatasetError(f"{file.filename}: {name} is no group", COPY_AGAIN)
    return episode


def _count_rows(episode: h5py.Group, name: str) -> int | None:
    dataset = episode.get(name)
    return dataset.shape[0] if isinstance(dataset, h5py.Dataset) and dataset.shape else None


def _read_metadata(path: Path) -> Mapping[str, Any]:
    beside = path.with_name(METADATA)
    if path.name != FILE or not beside.is_file():
        return {}
    try:
        with beside.open(encoding="utf-8") as file:
            return parse_object(file.read(_LONGEST_METADATA))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{beside} cannot be read: {error}", COPY_AGAIN) from error
