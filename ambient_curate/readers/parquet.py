"""Parquet files with one row a frame: cut into episodes, turned into matrices and labels."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64

from ambient_curate.errors import DatasetError, write_count
from ambient_curate.files import find_stand_in
from ambient_curate.readers.episodes import Label, measure_clock

_BATCH_ROWS = 4096
_LARGE_BYTES = 1 << 26
_BUFFER_BYTES = 1 << 20
_DAMAGED = "the file is missing, damaged or cut short: copy or download it again"
_HINTS = {
    "episode_index": "add a column episode_index with the number of each row's episode, such as 0",
    "task_index": "the dataset is damaged or of another version: copy or download it again",
}
_TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # of Arrow's times in a second
_SUCCESS = ("success", "next.success")
ORDER = ("frame_index", "index", "timestamp")  # what tells the order of an episode's rows
PER_FRAME = ("timestamp", "frame_index", "episode_index", "index", "next.done", "next.reward")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises on a damaged or missing file into a `DatasetError` naming it."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise find_stand_in(path) or DatasetError(
            f"{path} cannot be read as Parquet: {reason}", _DAMAGED
        ) from error


def read_schema(path: Path) -> tuple[pa.Schema, int]:
    """Return the columns of a Parquet file and its number of rows.

    Raises
    ------
    DatasetError
        If the file is missing or damaged.
    """
    with reading(path), pq.ParquetFile(path) as file:
        return file.schema_arrow, file.metadata.num_rows


def read_batches(
    path: Path, columns: Sequence[str], *, checksums: bool = True
) -> Iterator[pa.RecordBatch]:
    """Yield the named columns of a Parquet file, a bounded number of rows at a time.

    Parameters
    ----------
    path : Path
        The file.
    columns : sequence of str
        Columns to read; no others are decoded.
    checksums : bool, default True
        Verify the checksums of pages that carry one.

    Raises
    ------
    DatasetError
        If the file is missing or damaged, or lacks one of the columns.
    """
    with reading(path):
        # streaming bounds the memory of a giant row group, but asks at once for as many bytes as
        # a damaged page claims to have; a file that is not large is better read by whole columns
        buffer = _BUFFER_BYTES if path.stat().st_size > _LARGE_BYTES else 0
        file = pq.ParquetFile(
            path, pre_buffer=False, buffer_size=buffer, page_checksum_verification=checksums
        )
    with file, reading(path):
        _check_columns(path, columns, file.schema_arrow.names)
        rows = 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns), use_threads=False):
            batch.validate(full=True)
            rows += len(batch)
            yield batch.select(list(columns))
        # of some damaged pages pyarrow makes an early end instead of an error
        if rows != file.metadata.num_rows:
            raise DatasetError(
                f"{path} says it holds {write_count(file.metadata.num_rows, 'row')}, and only "
                f"{rows} can be read",
                _DAMAGED,
            )


def _check_columns(path: Path, columns: Sequence[str], names: Sequence[str]) -> None:
    for column in columns:
        if names.count(column) != 1:
            raise DatasetError(
                f"{path} has {names.count(column)} columns {column!r}, expected one; "
                f"its columns: {', '.join(map(repr, names))}",
                _HINTS.get(column, "name other columns in ambient.toml, or repair the file"),
            )


def read_episodes(
    path: Path, columns: Sequence[str], *, checksums: bool = True
) -> Iterator[tuple[int, pa.Table]]:
    """Yield each run of rows with one ``episode_index``, in file order.

    Memory is bounded by the longest run, one batch and, of a file under 64 MiB, its columns.

    Parameters
    ----------
    path : Path
        The file.
    columns : sequence of str
        Columns to read, ``episode_index`` among them.
    checksums : bool, default True
        Verify the checksums of pages that carry one.

    Yields
    ------
    episode_index : int
        The run's episode.
    table : pyarrow.Table
        Its rows, with `columns`.

    Raises
    ------
    DatasetError
        If the file is missing or damaged, or lacks one of the columns.
    """
    current, pieces = -1, list[pa.RecordBatch]()
    for batch in read_batches(path, columns, checksums=checksums):
        episodes = read_integers(batch.column("episode_index"), f"episode_index of {path}")
        edges = [0, *(np.flatnonzero(np.diff(episodes)) + 1).tolist(), len(episodes)]
        for start, stop in pairwise(edges if len(episodes) else []):
            episode = int(episodes[start])
            if pieces and episode != current:
                yield current, pa.Table.from_batches(pieces)
                pieces = []
            current = episode
            pieces.append(batch.slice(start, stop - start))
    if pieces:
        yield current, pa.Table.from_batches(pieces)


def find_widths(path: Path, columns: Sequence[str], *, checksums: bool = True) -> dict[str, int]:
    """Find how many values a row has in each column, in lists of variable length: most rows.

    Raises
    ------
    DatasetError
        If the file is missing or damaged, or lacks one of the columns.
    """
    schema, _ = read_schema(path)
    _check_columns(path, columns, schema.names)
    kinds = {name: schema.field(name).type for name in columns}
    for name, kind in kinds.items():
        _check_kind(kind, f"{name} of {path}")
    widths = {
        name: kind.list_size if pa.types.is_fixed_size_list(kind) else 1
        for name, kind in kinds.items()
    }
    lengths: dict[str, Counter[int]] = {
        name: Counter()
        for name, kind in kinds.items()
        if pa.types.is_list(kind) or pa.types.is_large_list(kind)
    }
    if lengths:
        for batch in read_batches(path, list(lengths), checksums=checksums):
            for name, counts in lengths.items():
                counted = pc.value_counts(pc.list_value_length(batch.column(name)).drop_null())
                counts.update({each["values"]: each["counts"] for each in counted.to_pylist()})
    return widths | {
        name: counts.most_common(1)[0][0] if counts else 0 for name, counts in lengths.items()
    }


def read_integers(column: pa.Array | pa.ChunkedArray, where: str) -> Int64[np.ndarray, " frame"]:
    """Return an integer column without nulls; `where` names it and its file in errors.

    Raises
    ------
    DatasetError
        If the column holds anything but whole numbers that fit 64 bits.
    """
    if pa.types.is_integer(column.type) and column.null_count == 0:
        try:
            return np.asarray(column.cast(pa.int64()).to_numpy())
        except pa.ArrowInvalid:  # uint64 beyond int64: reported with the other wrong values
            pass
    raise DatasetError(
        f"{where} is of type {column.type} with {column.null_count} nulls, "
        "expected 64-bit whole numbers in every row",
        "repair the column",
    )


def read_matrix(
    table: pa.Table, columns: Sequence[str], where: str
) -> Float32[np.ndarray, "frame column"]:
    """Concatenate columns of numbers, or of lists of numbers, into one matrix.

    Parameters
    ----------
    table : pyarrow.Table
        The frames; nulls inside lists and in columns of numbers become NaN.
    columns : sequence of str
        Columns, in the order wanted.
    where : str
        The episode and its file, for errors.

    Returns
    -------
    ndarray, float32, shape (frame, column)
        Own memory. Of a list column of variable length without rows, zero columns.

    Raises
    ------
    DatasetError
        If a column is no number or list of numbers, a list is null, or lists differ in length.
    """
    return np.concatenate(
        [_read_column(table.column(name), f"{name} of {where}") for name in columns], axis=1
    )


def _read_column(column: pa.ChunkedArray, where: str) -> Float32[np.ndarray, "frame column"]:
    values, width = column.combine_chunks(), 1
    if _is_list(column.type):
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if len(lengths) > 1 or None in lengths:
            raise DatasetError(
                f"{where} has rows of {sorted(map(str, lengths))} values, expected one length",
                "every frame needs the same number of values: repair or drop the episode",
            )
        fixed = column.type.list_size if pa.types.is_fixed_size_list(column.type) else 0
        values, width = values.flatten(), lengths[0] if lengths else fixed
    _check_kind(column.type, where)
    frames = values.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(frames).reshape(len(column), width)


def _check_kind(kind: pa.DataType, where: str) -> None:
    if not _is_number(kind.value_type if _is_list(kind) else kind):
        raise DatasetError(
            f"{where} is of type {kind}, expected numbers or lists of numbers",
            "name another column in ambient.toml",
        )


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return types.is_string(kind) or types.is_large_string(kind)


def label_columns(schema: pa.Schema, skipped: Collection[str]) -> list[str]:
    """Return the columns of one number, boolean or text a row that may describe an episode."""
    return [
        field.name
        for field in schema
        if (_is_number(field.type) or _is_text(field.type))
        and field.name not in PER_FRAME
        and field.name not in skipped
    ]


def read_labels(table: pa.Table, columns: Sequence[str]) -> dict[str, Label]:
    """Return the scalar columns that have one value in the whole episode, by name.

    A success flag (``success``, ``next.success``), which writers raise at the last frame only, is
    true where any frame raises it. NaN and null make no label.
    """
    labels = dict[str, Label]()
    for name in columns:
        values = pc.unique(table.column(name)).to_pylist()
        if name in _SUCCESS and _is_number(table.column(name).type):
            labels[name] = any(value and value == value for value in values)
        elif len(values) == 1 and values[0] is not None and values[0] == values[0]:
            labels[name] = values[0]
    return labels


def read_task(table: pa.Table, where: str) -> tuple[str | None, list[str]]:
    """Read the task of the first row, and say whether it changes.

    Raises
    ------
    DatasetError
        If it is no text.
    """
    if "task" not in table.column_names:
        return None, []
    tasks = pc.unique(table.column("task")).to_pylist()
    if not (tasks[0] is None or isinstance(tasks[0], str)):
        raise DatasetError(
            f"task of {where} is {tasks[0]!r:.80}, expected text", "write it as text"
        )
    if len(tasks) == 1:
        return tasks[0], []
    return tasks[0], [f"task changes inside: {tasks[0]!r:.40} is read, then {tasks[1]!r:.40}"]


def read_clock(table: pa.Table) -> tuple[float | None, list[str]]:
    """Measure the clock of an episode by its ``timestamp``, numbers of seconds or Arrow's times.

    Returns
    -------
    float or None, list of str
        Of `measure_clock`; None and nothing wrong where there are no stamps.
    """
    if "timestamp" not in table.column_names or not len(table):
        return None, []
    stamps, ticks = table.column("timestamp"), 1
    if pa.types.is_timestamp(stamps.type):
        stamps, ticks = stamps.cast(pa.int64()), _TICKS[stamps.type.unit]
    if not (pa.types.is_integer(stamps.type) or pa.types.is_floating(stamps.type)):
        return None, []
    return measure_clock(stamps.to_numpy().astype(np.float64) / ticks)


def check_order(table: pa.Table, where: str) -> None:
    """Raise `DatasetError` unless ``frame_index`` counts 0, 1, 2, ... in the episode.

    Where there is none, ``index``, if any, must rise by 1.
    """
    if "frame_index" in table.column_names:
        _check_frame_index(table, where)
    elif "index" in table.column_names:
        frames = read_integers(table.column("index"), f"index of {where}")
        if (np.diff(frames) != 1).any():
            raise DatasetError(
                f"frames of {where} are out of order: index does not rise by 1 from {frames[0]}",
                "sort the rows by index",
            )


def _check_frame_index(table: pa.Table, where: str) -> None:
    frames = read_integers(table.column("frame_index"), f"frame_index of {where}")
    wrong = np.flatnonzero(frames != np.arange(len(frames)))
    if len(wrong):
        raise DatasetError(
            f"frames of {where} are out of order: row {wrong[0]} has frame_index "
            f"{frames[wrong[0]]}, expected {wrong[0]}",
            "sort the rows by episode and frame, and add the missing ones",
        )
