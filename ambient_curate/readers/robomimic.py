"""Robomimic's layout of HDF5: ``data/demo_<k>/actions`` and what is beside; LIBERO's is the same.

LIBERO has one file a task, and tells the task in the attribute ``problem_info`` of ``data``.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath

import h5py
import numpy as np

from ambient_curate.errors import DatasetError, write_count
from ambient_curate.readers.episodes import ReaderOptions
from ambient_curate.readers.hdf5_files import (
    COPY_AGAIN,
    Contents,
    Recording,
    find_item,
    join_arrays,
    list_members,
    parse_object,
    read_arrays,
    read_attribute,
    read_count,
    read_labels,
    reading,
    require_stored,
    to_task,
    to_text,
)

FORMAT = "HDF5"
_DEMO = re.compile(r"demo_([0-9]{1,18})")


def fits(file: h5py.File) -> bool:
    """Tell whether a file has this layout."""
    return isinstance(file.get("data"), h5py.Group)


def describe(file: h5py.File, path: Path) -> Contents:
    """List the demonstrations of a file, perhaps none, and read what holds for all of them.

    Raises
    ------
    DatasetError
        If there are none but something else.
    """
    data = file["data"]
    names = list(map(to_text, data))
    numbers = {name: int(match[1]) for name in names if (match := _DEMO.fullmatch(name))}
    demos = tuple(sorted(numbers, key=lambda name: (numbers[name], name)))
    if names and not demos:
        raise DatasetError(
            f"{path}: data holds no demonstrations named demo_<number>, but {list_members(data)}",
            "robomimic's layout is data/demo_0/actions, data/demo_1/actions, ...",
        )
    if not names:
        return Contents(path, FORMAT, (), problems=(f"{path.name} holds no demonstration",))
    problems = [f"{path.name}: {problem}" for problem in _find_problems(file, names, demos)]
    task, rate_hz = _read_task(data)
    return Contents(
        path,
        FORMAT,
        demos,
        task=task,
        rate_hz=rate_hz,
        problems=tuple(problems),
        numbers=tuple(numbers[name] for name in demos),
    )


def find_recordings(
    file: h5py.File, contents: Contents, options: ReaderOptions
) -> Iterator[Callable[[], Recording]]:
    """Yield what reads a demonstration, in the order of their numbers.

    Raises
    ------
    DatasetError
        If the filter keys cannot be read.
    """
    masks = _read_masks(file)
    for name in contents.names:
        members = {f"mask/{key}": name in members for key, members in masks.items()}
        yield partial(_read_recording, file, name, options, members)


def _read_recording(
    file: h5py.File, name: str, options: ReaderOptions, members: dict[str, bool]
) -> Recording:
    """Read a demonstration, which must have as many frames as it says."""
    action = options.action or ("actions",)
    demo = file["data"][name]
    if not isinstance(demo, h5py.Group):
        raise DatasetError(f"{file.filename}: data/{name} is no group", COPY_AGAIN)
    arrays = read_arrays(demo, [*action, *options.state])
    promised = {"the attribute num_samples": read_count(demo, "num_samples")}
    frames = join_arrays(demo, arrays, action, options.state, promised)
    return Recording(*frames, {**read_labels(demo), **members})


def _find_problems(file: h5py.File, names: list[str], demos: tuple[str, ...]) -> list[str]:
    problems = []
    if len(demos) < len(names):
        others = ", ".join(sorted(set(names) - set(demos)))
        problems.append(f"of data, {others} is no demonstration and is not read")
    unread = [key for key, mask in _masks(file).items() if mask.dtype.kind != "S"]
    if unread:
        problems.append(
            f"of mask, {', '.join(unread)} is no list of texts of one fixed "
            "length (dtype S) and is not read"
        )
    total = read_count(file["data"], "total")
    frames = [_count_samples(file, name) for name in demos]
    known = [count for count in frames if count is not None]
    if total is not None and len(known) == len(demos) and total != sum(known):
        problems.append(
            f"data tells a total of {write_count(total, 'frame')}, its demonstrations have "
            f"{sum(known)}"
        )
    return problems


def _count_samples(file: h5py.File, name: str) -> int | None:
    """Read how many frames a demonstration says it has; None where it does not or is damaged."""
    demo = find_item(file["data"], name)
    with suppress(DatasetError), reading(Path(file.filename)):
        return read_count(demo, "num_samples") if isinstance(demo, h5py.Group) else None
    return None


def _read_task(data: h5py.Group) -> tuple[str | None, float | None]:
    """Take LIBERO's instruction or the name of the environment, and its control rate."""
    env_args = parse_object(read_attribute(data, "env_args"))
    env_info = parse_object(read_attribute(data, "env_info"))  # of robosuite
    rate_hz = (
        _read_number(env_args.get("env_kwargs"), "control_freq")
        or _read_number(env_info, "control_freq")
        or _read_isaac_rate(env_args.get("sim_args"))
    )
    names = (env_args.get("env_name"), read_attribute(data, "env"), env_info.get("env_name"))
    task = _read_instruction(data) or next(filter(None, map(to_task, names)), None)
    return task, rate_hz


def _read_isaac_rate(settings: object) -> float | None:
    """Isaac Lab's control rate: a control step is ``decimation`` steps of ``dt`` seconds."""
    dt, decimation = _read_number(settings, "dt"), _read_number(settings, "decimation")
    return round(1.0 / (dt * decimation), 6) if dt and decimation else None


def _read_number(settings: object, name: str) -> float | None:
    value = settings.get(name) if isinstance(settings, dict) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and 1e-9 < value < 1e9:
        return float(value)
    return None


def _read_instruction(data: h5py.Group) -> str | None:
    """Read what LIBERO tells of its task: the instruction, else the name of its description."""
    problem = parse_object(read_attribute(data, "problem_info"))
    instruction = problem.get("language_instruction")
    if isinstance(instruction, list) and all(isinstance(part, str) for part in instruction):
        instruction = "".join(instruction)  # LIBERO's own readers join it too
    file = read_attribute(data, "bddl_file_name")
    return to_task(instruction) or (
        to_task(PurePosixPath(file).stem) if isinstance(file, str) else None
    )


def _read_masks(file: h5py.File) -> dict[str, set[str]]:
    """Read robomimic's filter keys: lists of demonstrations' names."""
    members = {}
    for key, dataset in _masks(file).items():
        if dataset.dtype.kind == "S":
            require_stored(dataset)
            members[key] = set(np.ravel(dataset.asstr(errors="replace")[()]).tolist())
    return members


def _masks(file: h5py.File) -> dict[str, h5py.Dataset]:
    masks = file.get("mask")
    items = masks.items() if isinstance(masks, h5py.Group) else ()
    return {to_text(key): item for key, item in items if isinstance(item, h5py.Dataset)}
