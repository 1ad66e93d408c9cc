"""Plain arrays: ``.npy``, ``.npz`` and Parquet files, alone or a directory of them.

A ``.npy`` file is one episode, shape (frame, action), or several, shape (episode, frame, action).
An ``.npz`` file holds the same under ``action`` or ``actions``, with optional ``state``, ``task``
and ``episode_ends`` (exclusive ends of episodes concatenated along the first axis); other arrays
of one value, for all or for each episode, become labels. A Parquet file
has a row a frame: ``episode_index``, ``frame_index``, ``action`` (lists) or ``action_0``, ...,
and optional ``state`` or ``state_0``, ..., ``task`` and other columns, which become labels.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from os.path import isdir, isfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64

from ambient_curate.errors import DatasetError
from ambient_curate.readers import npz, parquet
from ambient_curate.readers.episodes import (
    ACTIONS,
    STATES,
    Episode,
    EpisodeName,
    Label,
    ReaderOptions,
    distinct_numbers,
    name_file,
    natural_key,
    numbers_in_names,
    report_unread_state,
    suggest_names,
)

_FORMATS = {".npy": "npy", ".npz": "npz", ".parquet": "Parquet"}


class _Frames(NamedTuple):
    action: Float32[np.ndarray, "frame action"]
    state: Float32[np.ndarray, "frame state"] | None
    task: str | None
    labels: Mapping[str, Label]


@dataclass(frozen=True)
class _Contents:
    """What one file holds, known without reading its frames.

    Parameters
    ----------
    action, state : tuple of str
        Keys or columns that make the action and the state; empty: no state.
    widths : tuple of int
        Values a frame of action and state.
    ids : sequence of str
        Name of each episode, in file order.
    ends : ndarray of int64, shape (episode,), or None
        Exclusive end of each episode, where the arrays concatenate them.
    tasks : sequence of str, or None
        Task of each episode, where arrays tell it; tables are asked episode by episode.
    labels : sequence of mapping of str to label
        The same of the labels.
    problems : sequence of str
        What was unusual, one sentence each.
    """

    action: tuple[str, ...]
    state: tuple[str, ...]
    widths: tuple[int, int]
    ids: Sequence[str]
    ends: Int64[np.ndarray, " episode"] | None = None
    tasks: Sequence[str] | None = None
    labels: Sequence[Mapping[str, Label]] = ()
    problems: Sequence[str] = ()


@dataclass(frozen=True)
class ArrayDataset:
    """An opened file or directory of arrays; satisfies `readers.episodes.Dataset`."""

    path: Path
    format: str
    shards: Sequence[Path]
    is_numbered: bool
    _contents: Mapping[Path, _Contents]
    _numbers: Mapping[Path, Sequence[int]]
    _options: ReaderOptions
    metadata_files: Sequence[Path] = ()
    problems: Sequence[str] = ()

    def list_episodes(self, shard: Path) -> Sequence[EpisodeName]:
        """List the episodes of one file, in its order."""
        return list(map(EpisodeName, self._contents[shard].ids, self._numbers[shard]))

    def read_shard(self, shard: Path) -> Iterator[Episode]:
        """Yield the episodes of one file; one of them is in memory (of an ``.npz``: all).

        Raises
        ------
        DatasetError
            If the file is damaged or its frames are out of order.
        ValueError
            If `shard` is not one of `shards`.
        """
        if shard not in self._contents:
            raise ValueError(f"{shard} is no shard of {self.path}")
        contents = self._contents[shard]
        if _is_table(shard):
            episodes = _read_table(shard, contents, self._options.checksums)
        else:
            episodes = _read_arrays(shard, contents)
        for name, frames in zip(self.list_episodes(shard), episodes, strict=True):
            yield Episode(
                id=name.id,
                number=name.number,
                action=frames.action,
                source=shard,
                state=frames.state,
                task=frames.task,
                rate_hz=self._options.rate_hz,
                labels=frames.labels,
            )


def recognizes(path: Path) -> bool:
    """Tell whether `path` is an array file, or a directory that directly holds one."""
    return bool(list_files(path))


def count_episodes(file: Path) -> int:
    """Count the episodes of one file.

    Raises
    ------
    DatasetError
        If it is damaged or does not follow the module's contract.
    """
    return len(_describe(file, ReaderOptions()).ids)


def open_dataset(path: Path, options: ReaderOptions, files: Sequence[Path] = ()) -> ArrayDataset:
    """Open the file or directory of arrays at `path`; all its files are one dataset.

    Parameters
    ----------
    path : Path
        A ``.npy``, ``.npz`` or ``.parquet`` file, or a directory of them.
    options : ReaderOptions
        ``action`` and ``state`` name keys of ``.npz`` files or columns of Parquet files.
    files : sequence of Path
        Where each has a directory of its own in `path`; empty: those that lie in `path`.

    Raises
    ------
    DatasetError
        If a file is damaged or does not follow the module's contract, the files differ in
        dimension, or two episodes have one name; if a split is asked for.
    """
    if options.split is not None:
        raise DatasetError(
            f"split = {options.split!r} is set for {path}, and arrays have no splits",
            'drop split, or pick episodes in ambient.toml, such as episodes = "0:30"',
        )
    contents = {file: _describe(file, options) for file in files or list_files(path)}
    if files:  # of one episode each
        contents = {
            file: replace(each, ids=[name_file(path, file)]) for file, each in contents.items()
        }
    if not contents:
        raise DatasetError(
            f"{path} holds no .npy, .npz or .parquet file", "check the path in ambient.toml"
        )
    _check_alike(path, contents)
    _check_ids(path, contents)
    own = _own_numbers(path, contents)
    numbers = iter(range(sum(len(each.ids) for each in contents.values())) if own is None else own)
    formats = sorted({_FORMATS[file.suffix.lower()] for file in contents})
    return ArrayDataset(
        path=path,
        format=" and ".join(formats),
        shards=tuple(contents),
        is_numbered=own is not None,
        _contents=contents,
        _numbers={file: list(islice(numbers, len(each.ids))) for file, each in contents.items()},
        _options=options,
        problems=tuple(dict.fromkeys(text for each in contents.values() for text in each.problems)),
    )


def _own_numbers(path: Path, contents: Mapping[Path, _Contents]) -> list[int] | None:
    """Find the episodes' own numbers: of tables, or in the names of files of one episode each."""
    names = [name_file(path, file) for file in contents]
    nested = names != [file.stem for file in contents]  # the ids are of directories
    if all(map(_is_table, contents)) and not nested:
        numbers = [int(each) for file in contents.values() for each in file.ids]
        return numbers if distinct_numbers(numbers) else None
    single = all(len(each.ids) == 1 for each in contents.values())
    return numbers_in_names(names) if single else None


def members(path: Path, options: ReaderOptions | None = None) -> list[Path]:
    """List the files of a directory that must be datasets of their own.

    Parameters
    ----------
    path : Path
        A directory.
    options : ReaderOptions, optional
        As for `open_dataset`.

    Returns
    -------
    list of Path
        All array files, sorted by name, where they differ in dimension; else none: the directory
        is one dataset.

    Raises
    ------
    DatasetError
        If a file is damaged or does not follow the module's contract.
    """
    if not isdir(path):
        return []
    files = list_files(path)
    widths = {_describe(file, options or ReaderOptions()).widths for file in files}
    return files if len(widths) > 1 else []


def list_files(path: Path) -> list[Path]:
    """List the array files of a dataset: itself, or those that lie in it."""
    if isfile(path):
        return [path] if path.suffix.lower() in _FORMATS else []
    try:
        entries = sorted(path.iterdir(), key=_by_name) if isdir(path) else []
    except OSError as error:
        raise DatasetError(f"{path} cannot be listed: {error}", "check its permissions") from error
    return [
        each
        for each in entries
        if each.suffix.lower() in _FORMATS and not each.name.startswith(".") and isfile(each)
    ]


def _by_name(path: Path) -> tuple[list[str | int], str]:
    return natural_key(path.name)


def _is_table(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _check_alike(path: Path, contents: Mapping[Path, _Contents]) -> None:
    widths = {each.widths: file for file, each in contents.items()}
    if len(widths) > 1:
        differing = "; ".join(
            f"{file.name} has {action} action and {state} state values a frame"
            for (action, state), file in list(widths.items())[:2]
        )
        raise DatasetError(
            f"files in {path} differ in dimension: {differing}",
            'name each as a dataset in ambient.toml: [datasets.NAME] and path = "FILE"',
        )


def _check_ids(path: Path, contents: Mapping[Path, _Contents]) -> None:
    counts = Counter(each for file in contents.values() for each in file.ids)
    repeated = [each for each, count in counts.items() if count > 1]
    if repeated:
        raise DatasetError(
            f"{path} holds two episodes, or two runs of rows, named {repeated[0]!r}",
            "rename one of the files, or sort the rows by episode",
        )


def _describe(path: Path, options: ReaderOptions) -> _Contents:
    return _describe_table(path, options) if _is_table(path) else _describe_arrays(path, options)


def _choose(
    path: Path, names: Collection[str], options: ReaderOptions
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Pick the names of action and state: the user's, else the contract's."""
    action = _pick(names, options.action, ACTIONS)
    state = _pick(names, options.state, STATES[::-1])
    for role, wanted in (("action", action or ["action"]), ("state", state)):
        missing = [name for name in wanted if name not in names]
        if missing:
            raise DatasetError(
                f"{path} has no {missing[0]!r}, only {', '.join(map(repr, names)) or 'nothing'}",
                f"name what it has in ambient.toml: {suggest_names(role, names)}",
            )
    return action, state


def _pick(names: Collection[str], given: Sequence[str], usual: Sequence[str]) -> tuple[str, ...]:
    if given:
        return tuple(given)
    for name in usual:
        if name in names:
            return (name,)
    numbered = re.compile(rf"{usual[0]}_(0|[1-9][0-9]*)")
    count = sum(bool(numbered.fullmatch(name)) for name in names)
    return tuple(f"{usual[0]}_{i}" for i in range(count))  # a gap shows as a missing name


def _describe_table(path: Path, options: ReaderOptions) -> _Contents:
    schema, _ = parquet.read_schema(path)
    action, state = _choose(path, schema.names, options)
    columns = list(dict.fromkeys([*action, *state]))
    batches = parquet.read_batches(path, columns, checksums=options.checksums)
    start = next((batch for batch in batches if len(batch)), None)
    if start is None:
        raise DatasetError(f"{path} holds no rows", "remove the file, or write it again")
    frames = _table_matrices(pa.Table.from_batches([start]), action, state, str(path))
    runs = parquet.read_episodes(path, ["episode_index"], checksums=options.checksums)
    ids = tuple(str(number) for number, _ in runs)
    problems = report_unread_state(state, schema.names)
    return _Contents(action, state, _widths(*frames), ids, problems=problems)


def _table_matrices(
    table: pa.Table, action: Sequence[str], state: Sequence[str], where: str
) -> tuple[Float32[np.ndarray, "frame action"], Float32[np.ndarray, "frame state"] | None]:
    return (
        parquet.read_matrix(table, action, where),
        parquet.read_matrix(table, state, where) if state else None,
    )


def _widths(action: np.ndarray, state: np.ndarray | None) -> tuple[int, int]:
    return action.shape[1], 0 if state is None else state.shape[1]


def _read_table(path: Path, contents: _Contents, checksums: bool) -> Iterator[_Frames]:
    schema, _ = parquet.read_schema(path)
    labels = parquet.label_columns(schema, {"task", *contents.action, *contents.state})
    task = ["task"] if "task" in schema.names else []
    wanted = ["episode_index", "frame_index", *contents.action, *contents.state, *task, *labels]
    runs = parquet.read_episodes(path, list(dict.fromkeys(wanted)), checksums=checksums)
    for number, table in runs:
        where = f"episode {number} in {path}"
        parquet.check_frame_index(table, where)
        action, state = _table_matrices(table, contents.action, contents.state, where)
        if _widths(action, state) != contents.widths:
            raise DatasetError(
                f"{where} has {_widths(action, state)} action and state values a frame, "
                f"expected {contents.widths} as in the rest",
                "every frame of a dataset needs the same number of values",
            )
        text = table.column("task")[0].as_py() if task else None
        yield _Frames(action, state, _check_task(text, where), parquet.read_labels(table, labels))


def _check_task(task: object, where: str) -> str | None:
    if task is None or isinstance(task, str):
        return task
    raise DatasetError(f"task of {where} is {task!r:.80}, expected text", "write it as text")


def _describe_arrays(path: Path, options: ReaderOptions) -> _Contents:
    headers = npz.read_headers(path)
    action, state = _choose(path, headers, options)
    for name in (*action, *state):
        _check_frames(path, name, headers[name])
    leading = {name: headers[name].shape[:-1] for name in (*action, *state)}
    shape = leading[action[0]]
    if len(set(leading.values())) > 1:
        raise DatasetError(
            f"arrays of {path} differ in their leading axes: {leading}",
            "action and state need the same episodes and frames",
        )
    ends = (
        npz.read_ends(path, headers["episode_ends"], shape) if "episode_ends" in headers else None
    )
    if ends is None and len(shape) == 1:
        ids = [path.stem]
    else:
        ids = [f"{path.stem}__{i}" for i in range(shape[0] if ends is None else len(ends))]
    tasks = npz.read_tasks(path, headers["task"], len(ids)) if "task" in headers else None
    widths = [sum(headers[name].shape[-1] for name in names) for names in (action, state)]
    used = {*action, *state, "episode_ends", "task"}
    labels = npz.read_labels(path, headers, used, len(ids))
    others = [name for name in headers if not any(name in own for own in labels[:1])]
    problems = report_unread_state(state, others)
    return _Contents(action, state, (widths[0], widths[1]), ids, ends, tasks, labels, problems)


def _check_frames(path: Path, name: str, header: npz.Header) -> None:
    shape, dtype, _ = header
    if dtype.kind not in "fiub":
        raise DatasetError(
            f"{name} of {path} is of type {dtype}, expected real numbers", "write it as float32"
        )
    # episodes without frames have no bytes, so that a small file may claim billions of them
    if len(shape) not in (2, 3) or shape[-1] < 1 or (len(shape) == 3 and shape[1] < 1):
        raise DatasetError(
            f"{name} of {path} has shape {shape}, expected (frame, value) or "
            "(episode, frame, value)",
            "reshape it; one value a frame is (frame, 1)",
        )
    npz.check_size(path, name, header)


def _read_arrays(path: Path, contents: _Contents) -> Iterator[_Frames]:
    names = (*contents.action, *contents.state)
    arrays = {name: npz.read_array(path, name) for name in dict.fromkeys(names)}
    for number in range(len(contents.ids)):
        frames = {name: _cut(array, number, contents.ends) for name, array in arrays.items()}
        state = [frames[name] for name in contents.state]
        yield _Frames(
            action=np.concatenate([frames[name] for name in contents.action], axis=1),
            state=np.concatenate(state, axis=1) if state else None,
            task=contents.tasks[number] if contents.tasks is not None else None,
            labels=contents.labels[number],
        )


def _cut(
    array: np.ndarray, number: int, ends: Int64[np.ndarray, " episode"] | None
) -> Float32[np.ndarray, "frame column"]:
    if array.ndim == 3:
        frames = array[number]
    elif ends is None:
        frames = array
    else:
        frames = array[ends[number - 1] if number else 0 : ends[number]]
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which is reported as such
        return frames.astype(np.float32, order="C")
