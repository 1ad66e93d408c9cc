"""Plain arrays: ``.npy``, ``.npz`` and Parquet files, alone or a directory of them.

A ``.npy`` file is one episode, shape (frame, action), or several, shape (episode, frame, action).
An ``.npz`` file holds the same under ``action`` or ``actions``, with optional ``state``, ``task``
and ``episode_ends`` (exclusive ends of episodes concatenated along the first axis); other arrays
of one value, for all or for each episode, become labels. A Parquet file
has a row a frame: ``episode_index``, ``frame_index``, ``action`` (lists) or ``action_0``, ...,
and optional ``state`` or ``state_0``, ..., ``task`` and other columns, which become labels.
Without a ``frame_index`` the rows of an episode are its frames in their order.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, islice
from os.path import isdir, isfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64

from ambient_curate.errors import DatasetError, write_count
from ambient_curate.readers import npz, parquet
from ambient_curate.readers.episodes import (
    ACTIONS,
    ALL,
    STATES,
    Episode,
    EpisodeName,
    Label,
    ReaderOptions,
    ReadRequest,
    distinct_numbers,
    name_file,
    natural_key,
    numbers_in_names,
    report_unread_state,
    suggest_names,
)

_MANY_VALUES = 32  # a frame's action of more, in fewer frames, is probably (value, frame)
_FORMATS = {".npy": "npy", ".npz": "npz", ".parquet": "Parquet"}


class _Frames(NamedTuple):
    action: Float32[np.ndarray, "frame action"]
    state: Float32[np.ndarray, "frame state"] | None
    task: str | None
    labels: Mapping[str, Label]
    problems: Sequence[str] = ()
    period_s: float | None = None


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
    frames : int or None
        Frames an episode, of arrays that nothing else tells of.
    is_transposed : bool
        Whether arrays are stored (value, frame).
    runs : mapping of str to int
        Runs of rows of each ``episode_index`` of a table, in the order of `ids`.
    is_ordered : bool
        Whether ``frame_index`` says that the rows are in order.
    damage : DatasetError or None
        Why nothing of the file can be read; it then counts as one episode.
    """

    action: tuple[str, ...]
    state: tuple[str, ...]
    widths: tuple[int, int]
    ids: Sequence[str]
    ends: Int64[np.ndarray, " episode"] | None = None
    tasks: Sequence[str] | None = None
    labels: Sequence[Mapping[str, Label]] = ()
    problems: Sequence[str] = ()
    frames: int | None = None
    is_transposed: bool = False
    runs: Mapping[str, int] = field(default_factory=dict)
    is_ordered: bool = True
    damage: DatasetError | None = None


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

    def read_shard(self, shard: Path, request: ReadRequest = ALL) -> Iterator[Episode]:
        """Yield the episodes of one file; one of them is in memory (of an ``.npz``: all).

        Raises
        ------
        DatasetError
            If the file is damaged; as `request` says, if an episode is, or its frames are out of
            order.
        ValueError
            If `shard` is not one of `shards`.
        """
        if shard not in self._contents:
            raise ValueError(f"{shard} is no shard of {self.path}")
        contents = self._contents[shard]
        if contents.damage:
            raise contents.damage
        names = self.list_episodes(shard)
        if _is_table(shard):
            episodes = _find_rows(shard, contents, self._options.checksums)
        else:
            episodes = _find_arrays(shard, contents)
        for place, read in episodes:
            name = names[place]
            yield from request.read(name, partial(self._episode, shard, name, read))

    def _episode(self, shard: Path, name: EpisodeName, read: Callable[[], _Frames]) -> Episode:
        frames = read()
        return Episode(
            id=name.id,
            number=name.number,
            action=frames.action,
            source=shard,
            state=frames.state,
            task=frames.task,
            rate_hz=self._options.rate_hz,
            labels=frames.labels,
            problems=frames.problems,
            period_s=frames.period_s,
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
        If no file can be read and follows the module's contract, the files differ in dimension,
        or two episodes have one name; if a split is asked for.
    """
    if options.split is not None:
        raise DatasetError(
            f"split = {options.split!r} is set for {path}, and arrays have no splits",
            'drop split, or pick episodes in ambient.toml, such as episodes = "0:30"',
        )
    contents = {file: _try_describe(file, options) for file in files or list_files(path)}
    if files:  # of one episode each
        contents = {
            file: replace(each, ids=[name_file(path, file)]) for file, each in contents.items()
        }
    if not contents:
        raise DatasetError(
            f"{path} holds no .npy, .npz or .parquet file", "check the path in ambient.toml"
        )
    if options.transpose is None:
        _ask_transposed(contents)
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
        problems=[
            *dict.fromkeys(text for each in contents.values() for text in each.problems),
            *_report_unordered(contents),
        ],
    )


def _report_unordered(contents: Mapping[Path, _Contents]) -> list[str]:
    unordered = sum(not each.is_ordered for each in contents.values())
    files = f"{write_count(unordered, 'file')} of {len(contents)} without frame_index"
    return [f"{files}: the rows of an episode are read in their order"] if unordered else []


def _own_numbers(path: Path, contents: Mapping[Path, _Contents]) -> list[int] | None:
    """Find the episodes' own numbers: of tables, or in the names of files of one episode each."""
    names = [name_file(path, file) for file in contents]
    nested = names != [file.stem for file in contents]  # the ids are of directories
    if all(map(_is_table, contents)) and not nested:
        known = [int(each) for file in contents.values() for each in file.runs]
        spare = count(max(known, default=-1) + 1)  # for files whose numbers are not known
        numbers = [
            next(spare) if file.damage else int(each)
            for file in contents.values()
            for each in file.ids
        ]
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
        All array files, sorted by name, where those that can be read differ in dimension; else
        none: the directory is one dataset.
    """
    if not isdir(path):
        return []
    files = list_files(path)
    contents = [_try_describe(file, options or ReaderOptions()) for file in files]
    widths = {each.widths for each in contents if not each.damage}
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


def _ask_transposed(contents: Mapping[Path, _Contents]) -> None:
    """Refuse files in all of which a frame has more values than there are frames, and many."""
    sound = [(file, each) for file, each in contents.items() if not each.damage]
    if sound and all(
        each.frames and each.widths[0] > max(each.frames, _MANY_VALUES) for _, each in sound
    ):
        file, first = sound[0]
        raise npz.ask_transposed(file, f"{first.frames} frames of {first.widths[0]} values")


def _check_alike(path: Path, contents: Mapping[Path, _Contents]) -> None:
    sound = {file: each for file, each in contents.items() if not each.damage}
    if not sound:
        raise next(each.damage for each in contents.values() if each.damage)
    widths = {each.widths: file for file, each in sound.items()}
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
            f"{path} holds two episodes named {repeated[0]!r}",
            "rename one of the files, or number the episodes of all of them differently",
        )


def _try_describe(path: Path, options: ReaderOptions) -> _Contents:
    """Describe a file; a damaged one counts as one episode that cannot be read."""
    try:
        return _describe(path, options)
    except DatasetError as error:
        return _Contents((), (), (0, 0), (path.stem,), damage=error)


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
    if options.transpose is not None:
        raise npz.refuse_transpose(path)
    schema, rows = parquet.read_schema(path)
    action, state = _choose(path, schema.names, options)
    if not rows:
        raise DatasetError(f"{path} holds no rows", "remove the file, or write it again")
    widths = parquet.find_widths(path, [*action, *state], checksums=options.checksums)
    runs = parquet.read_episodes(path, ["episode_index"], checksums=options.checksums)
    counts = Counter(str(number) for number, _ in runs)
    return _Contents(
        action,
        state,
        (sum(widths[name] for name in action), sum(widths[name] for name in state)),
        tuple(counts),
        problems=report_unread_state(state, schema.names),
        runs=counts,
        is_ordered="frame_index" in schema.names,
    )


def _find_rows(
    path: Path, contents: _Contents, checksums: bool
) -> Iterator[tuple[int, Callable[[], _Frames]]]:
    """Yield place and what reads the episode, of each run of rows with one ``episode_index``."""
    schema, _ = parquet.read_schema(path)
    labels = parquet.label_columns(schema, {"task", *contents.action, *contents.state})
    kept = [name for name in (*parquet.ORDER, "task") if name in schema.names]
    wanted = ["episode_index", *kept, *contents.action, *contents.state, *labels]
    runs = parquet.read_episodes(path, list(dict.fromkeys(wanted)), checksums=checksums)
    places = {number: place for place, number in enumerate(contents.runs)}
    for number, table in runs:
        where, place = f"episode {number} in {path}", places.pop(str(number), None)
        if place is not None:  # else a later run of one that was refused
            together = contents.runs[str(number)] == 1
            yield place, partial(_read_rows, contents, table, labels, where, together)


def _read_rows(
    contents: _Contents, table: pa.Table, labels: Sequence[str], where: str, together: bool
) -> _Frames:
    if not together:
        raise DatasetError(
            f"the rows of {where} do not lie together", "sort the rows by episode and frame"
        )
    parquet.check_order(table, where)
    action = parquet.read_matrix(table, contents.action, where)
    state = parquet.read_matrix(table, contents.state, where) if contents.state else None
    widths = action.shape[1], 0 if state is None else state.shape[1]
    if widths != contents.widths:
        raise DatasetError(
            f"{where} has {widths} action and state values a frame, expected {contents.widths} as "
            "in the rest",
            "every frame of a dataset needs the same number of values",
        )
    task, retasked = parquet.read_task(table, where)
    period_s, unsteady = parquet.read_clock(table)
    labels_read = parquet.read_labels(table, labels)
    return _Frames(action, state, task, labels_read, retasked + unsteady, period_s)


def _describe_arrays(path: Path, options: ReaderOptions) -> _Contents:
    headers = npz.read_headers(path)
    action, state = _choose(path, headers, options)
    for name in (*action, *state):
        npz.check_frames(path, name, headers[name])
    shapes = {
        name: npz.orient(headers[name].shape, options.transpose) for name in (*action, *state)
    }
    leading = {name: shape[:-1] for name, shape in shapes.items()}
    shape = leading[action[0]]
    if len(set(leading.values())) > 1:
        raise DatasetError(
            f"arrays of {path} differ in their leading axes: {leading}",
            "action and state need the same episodes and frames",
        )
    ends = None
    if "episode_ends" in headers:
        ends = npz.find_ends(path, headers["episode_ends"], shapes[action[0]], options.transpose)
    if ends is None and len(shape) == 1:
        ids = [path.stem]
    else:
        ids = [f"{path.stem}__{i}" for i in range(shape[0] if ends is None else len(ends))]
    tasks = npz.read_tasks(path, headers["task"], len(ids)) if "task" in headers else None
    widths = [sum(shapes[name][-1] for name in names) for names in (action, state)]
    used = {*action, *state, "episode_ends", "task"}
    labels = npz.read_labels(path, headers, used, len(ids))
    others = [name for name in headers if not any(name in own for own in labels[:1])]
    return _Contents(
        action,
        state,
        (widths[0], widths[1]),
        ids,
        ends,
        tasks,
        labels,
        report_unread_state(state, others),
        frames=shape[-1] if ends is None else None,
        is_transposed=bool(options.transpose),
    )


def _find_arrays(path: Path, contents: _Contents) -> Iterator[tuple[int, Callable[[], _Frames]]]:
    """Yield place and what reads the episode, in file order."""
    names = (*contents.action, *contents.state)
    arrays = {name: npz.read_array(path, name) for name in dict.fromkeys(names)}
    if contents.is_transposed:
        arrays = {name: array.swapaxes(-2, -1) for name, array in arrays.items()}
    for number in range(len(contents.ids)):
        yield number, partial(_read_frames, contents, arrays, number)


def _read_frames(contents: _Contents, arrays: Mapping[str, np.ndarray], number: int) -> _Frames:
    frames = {name: npz.cut_episode(array, number, contents.ends) for name, array in arrays.items()}
    state = [frames[name] for name in contents.state]
    return _Frames(
        action=np.concatenate([frames[name] for name in contents.action], axis=1),
        state=np.concatenate(state, axis=1) if state else None,
        task=contents.tasks[number] if contents.tasks is not None else None,
        labels=contents.labels[number],
    )
