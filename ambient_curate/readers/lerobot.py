"""LeRobot datasets, v2.0 to v3.0: Parquet frames described by ``meta/``; videos are never read."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os.path import isdir, lexists
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from ambient_curate.errors import DatasetError, write_count
from ambient_curate.readers import parquet
from ambient_curate.readers.episodes import (
    ACTIONS,
    ALL,
    STATES,
    Episode,
    EpisodeName,
    ReaderOptions,
    ReadRequest,
    report_unread_state,
    suggest_names,
)
from ambient_curate.readers.lerobot_meta import ListedEpisode, Metadata, read_metadata

_MISMATCH = "the data or meta/ is damaged or of another version: copy or download it again"
_LISTINGS = ("episodes.jsonl", "tasks.jsonl", "episodes", "tasks.parquet")


@dataclass(frozen=True)
class LeRobotDataset:
    """One opened LeRobot dataset; satisfies `ambient_curate.readers.episodes.Dataset`."""

    path: Path
    format: str
    shards: Sequence[Path]
    metadata_files: Sequence[Path]
    problems: Sequence[str]
    rate_hz: float
    action: Sequence[str]
    state: Sequence[str]
    _metadata: Metadata
    _checksums: bool

    @property
    def is_numbered(self) -> bool:
        """True: ``episode_index`` stays when other episodes are deleted."""
        return True

    def list_episodes(self, shard: Path) -> Sequence[EpisodeName]:
        """List the episodes of one data file as the metadata does."""
        numbers = [listed.episode_index for listed in self._metadata.shards[shard]]
        return [EpisodeName(str(number), number) for number in numbers]

    def read_shard(self, shard: Path, request: ReadRequest = ALL) -> Iterator[Episode]:
        """Yield the episodes of one data file in the order of its rows, one of them in memory.

        Raises
        ------
        DatasetError
            If the file is damaged or lacks a column; as `request` says, if an episode is damaged
            or has other rows than the metadata lists.
        ValueError
            If `shard` is not one of `shards`.
        """
        if shard not in self._metadata.shards:
            raise ValueError(f"{shard} is no shard of {self.path}")
        if shard in self._metadata.absent:
            raise self._metadata.absent[shard]
        listed = self._metadata.shards[shard]
        schema, _ = parquet.read_schema(shard)
        labels = parquet.label_columns(schema, {*self.action, *self.state})
        kept = [name for name in parquet.ORDER if name in schema.names]
        wanted = ["episode_index", *kept, *self.action, *self.state, *labels]
        columns = list(dict.fromkeys(wanted))
        runs = parquet.read_episodes(shard, columns, checksums=self._checksums)
        for number, episode, table in _match_runs(runs, listed):
            name = EpisodeName(str(number), number)
            yield from request.read(
                name, partial(self._episode, table, number, episode, shard, labels)
            )

    def _episode(
        self,
        table: pa.Table,
        number: int,
        listed: ListedEpisode | None,
        shard: Path,
        labels: Sequence[str],
    ) -> Episode:
        where = f"episode {number} in {shard}"
        listed = _check_rows(table, number, listed, shard)
        if "frame_index" in table.column_names:
            parquet.check_order(table, where)
        first_frame, misnumbered = _first_frame(table, listed, where)
        task, retasked = self._task(table, listed, where)
        period_s, unsteady = parquet.read_clock(table)
        return Episode(
            id=str(listed.episode_index),
            number=listed.episode_index,
            action=self._matrix(table, self.action, where),
            source=shard,
            state=self._matrix(table, self.state, where) if self.state else None,
            task=task,
            rate_hz=self.rate_hz,
            first_frame=first_frame,
            labels=parquet.read_labels(table, labels if len(table) else ()),
            problems=[each for each in (misnumbered, *retasked, *unsteady) if each],
            period_s=period_s,
        )

    def _matrix(
        self, table: pa.Table, names: Sequence[str], where: str
    ) -> Float32[np.ndarray, "frame column"]:
        widths = [self._metadata.widths[name] for name in names]
        if not len(table):
            return np.empty((0, sum(widths)), np.float32)
        parts = [parquet.read_matrix(table, [name], where) for name in names]
        for name, part, width in zip(names, parts, widths, strict=True):
            if part.shape[1] != width:
                raise DatasetError(
                    f"{name} of {where} has {part.shape[1]} values a frame; "
                    f"meta/info.json says {width}",
                    _MISMATCH,
                )
        return np.concatenate(parts, axis=1)

    def _task(
        self, table: pa.Table, listed: ListedEpisode, where: str
    ) -> tuple[str | None, list[str]]:
        """Find the task of the first row, and say where the rows and the metadata contradict."""
        usual = listed.tasks[0] if listed.tasks else None
        if "task_index" not in table.column_names or not len(table):
            return usual, []
        column = parquet.read_integers(table.column("task_index"), f"task_index of {where}")
        known, indexes = self._metadata.tasks, list(dict.fromkeys(column.tolist()))
        tasks = [known.get(index) for index in indexes]
        problems = [
            f"task_index is not in the list of tasks: {index}; {usual!r:.40} is taken"
            for index, task in zip(indexes, tasks, strict=True)
            if known and task is None
        ][:1]
        if len(indexes) > 1:
            problems.append(f"task_index changes inside: from {indexes[0]} to {indexes[1]}")
        others = [task for task in tasks if task is not None and task not in listed.tasks]
        if others and listed.tasks:
            problems.append(
                f"task of the rows is not one the episode is listed with: {others[0]!r:.40} is "
                f"read, {usual!r:.40} listed"
            )
        return (usual if tasks[0] is None else tasks[0]), problems


def recognizes(path: Path) -> bool:
    """Tell whether `path` is a LeRobot dataset, even a broken one.

    That is: it has ``meta/info.json``, or other LeRobot files beside the place of a missing one.
    """
    meta = path / "meta"
    if lexists(meta / "info.json"):
        return True
    listed = any(lexists(meta / name) for name in _LISTINGS)
    return isdir(meta) and (listed or any((path / "data").glob("chunk-*")))


def open_dataset(path: Path, options: ReaderOptions) -> LeRobotDataset:
    """Open the LeRobot dataset at `path`: read and check ``meta/``, find the data files.

    Parameters
    ----------
    path : Path
        Directory that holds ``meta/`` and ``data/``.
    options : ReaderOptions
        ``action`` defaults to ``action`` or ``actions``, ``state`` to ``observation.state`` or
        ``state`` where one exists; ``rate_hz`` to ``fps``.

    Raises
    ------
    DatasetError
        If the metadata is missing, damaged or of an unknown version, names no data file that is
        there, or has no such action or state; if a split is asked for.
    """
    if options.split is not None:
        raise DatasetError(
            f"split = {options.split!r} is set for {path}, and LeRobot datasets are read whole",
            'drop split, or pick episodes in ambient.toml, such as episodes = "0:30"',
        )
    metadata = read_metadata(path)
    action = tuple(options.action) or _find_usual(metadata.widths, ACTIONS) or ACTIONS[:1]
    state = tuple(options.state) or _find_usual(metadata.widths, STATES)
    _check_features(path, metadata.widths, "action", action)
    _check_features(path, metadata.widths, "state", state)
    rate_hz = options.rate_hz or metadata.fps
    if rate_hz is None:
        raise DatasetError(
            f"fps of {path / 'meta' / 'info.json'} is missing or no positive number",
            "set rate_hz in ambient.toml",
        )
    return LeRobotDataset(
        path=path,
        format=f"LeRobot {metadata.version}",
        shards=tuple(metadata.shards),
        metadata_files=tuple(metadata.files),
        problems=(*metadata.problems, *report_unread_state(state, metadata.widths)),
        rate_hz=rate_hz,
        action=action,
        state=state,
        _metadata=metadata,
        _checksums=options.checksums,
    )


def _find_usual(widths: Mapping[str, int], usual: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in usual if name in widths)[:1]


def _check_features(path: Path, widths: Mapping[str, int], kind: str, names: Sequence[str]) -> None:
    for name in names:
        if name not in widths:
            known = [each for each in widths if each not in parquet.PER_FRAME]
            raise DatasetError(
                f"{path / 'meta' / 'info.json'} has no one-dimensional feature of numbers named "
                f"{name!r}; those it has: {', '.join(map(repr, known)) or 'none'}",
                f"name it for this dataset in ambient.toml: {suggest_names(kind, known)}",
            )


def _match_runs(
    runs: Iterator[tuple[int, pa.Table]], listed: Sequence[ListedEpisode]
) -> Iterator[tuple[int, ListedEpisode | None, pa.Table]]:
    """Give each run of rows its entry of the metadata, in whatever order they lie in the file.

    An episode listed without frames comes before the next with a larger number; one whose rows
    are missing comes last, with none.
    """
    empty = deque(episode for episode in listed if not episode.length)
    awaited = {episode.episode_index: episode for episode in listed}
    for number, table in runs:
        while empty and empty[0].episode_index < number:
            before = empty.popleft().episode_index
            if before in awaited:
                yield before, awaited.pop(before), pa.table({})
        yield number, awaited.pop(number, None), table
    for number, episode in awaited.items():
        yield number, episode, pa.table({})


def _check_rows(
    table: pa.Table, number: int, listed: ListedEpisode | None, shard: Path
) -> ListedEpisode:
    """Return the entry of the metadata for a run of rows, which must have as many."""
    expected = 0 if listed is None else listed.length
    if listed is None or len(table) != expected:
        raise DatasetError(
            f"{shard} holds {write_count(len(table), 'frame')} of episode {number} in a row; the "
            f"metadata lists {expected}",
            _MISMATCH,
        )
    return listed


def _first_frame(
    table: pa.Table, listed: ListedEpisode, where: str
) -> tuple[int | None, str | None]:
    """Find the global index of the first frame by the rows, and say what contradicts it.

    None where ``index`` does not count the frames. With a ``frame_index`` it is redundant.
    """
    if "index" not in table.column_names or not len(table):
        return listed.first_frame, None
    frames = parquet.read_integers(table.column("index"), f"index of {where}")
    first = int(frames[0])
    if first < 0 or (frames != first + np.arange(len(frames))).any():
        problem = f"index does not rise by 1 from {first}"
        if "frame_index" not in table.column_names:
            raise DatasetError(
                f"frames of {where} are out of order: {problem}", "sort the rows by index"
            )
        return None, f"index does not count the frames, frame_index is read: {problem}"
    if listed.first_frame in (None, first):
        return first, None
    return first, (
        f"dataset_from_index contradicts index, which is read: {listed.first_frame} is listed, "
        f"{first} is the index of the first row"
    )
