"""The cache of one member: memory-mapped low-dimensional frames and a table of episodes."""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from jaxtyping import Float32, Int64, Shaped
from tensordict import MemoryMappedTensor, TensorDict

from ambient_curate.errors import DatasetError, write_count
from ambient_curate.readers.episodes import Episode, Label, find_shared_frames

EPISODES_FILE = "episodes.parquet"
_KEYS = ("action", "state")
_ROWS = 4_096  # episodes of the table in memory while it is written
_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "number": pa.int64(),
        "length": pa.int64(),
        "action_dim": pa.int64(),
        "state_dim": pa.int64(),
        "task": pa.string(),
        "rate_hz": pa.float64(),
        "first_frame": pa.int64(),
        "source": pa.string(),
        "digest": pa.binary(32),
        "labels": pa.string(),
    }
)
_REPEATED = ("task", "source", "labels")


class Texts(Sequence[Any]):
    """A column of texts that keeps Arrow's compact form: there may be millions of episodes.

    Parameters
    ----------
    column : ChunkedArray
        Strings, dictionary-encoded or not; a null is given as None.
    """

    def __init__(self, column: pa.ChunkedArray | pa.Array) -> None:
        chunked = isinstance(column, pa.ChunkedArray)
        self.column = column.combine_chunks() if chunked else column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, number: int) -> Any:  # type: ignore[override]
        return self.column[number].as_py()

    def take(self, rows: Int64[np.ndarray, " row"]) -> "Texts":
        """Those of some rows."""
        return Texts(self.column.take(pa.array(rows)))


@dataclass(frozen=True, eq=False)
class Frames:
    """Every frame of one member, in episode order, and what is known of each episode.

    Episode ``i`` is the frames ``offset[i] : offset[i] + length[i]``. All sequences have one entry
    an episode.

    Parameters
    ----------
    data : TensorDict, batch size (frame,)
        ``"action"``, float32 (frame, action), and, when every episode has one, ``"state"``,
        float32 (frame, state), in the dataset's own units. Memory-mapped copy-on-write: pages are
        read when they are touched, and writes never reach the files.
    ids : Texts
        `Episode.id`; no two are equal.
    number : ndarray, int64, shape (episode,)
        `Episode.number`.
    offset, length : ndarray, int64, shape (episode,)
        First frame in `data`, and number of frames.
    task : sequence of str or None
        Task or language instruction.
    first_frame : ndarray, int64, shape (episode,)
        Global index of the first frame in the source; -1 where the source has none.
    source : sequence of str
        The file that holds the episode, with forward slashes.
    digest : ndarray, 32 bytes, shape (episode,)
        SHA-256 of the shape and bytes of the actions: equal for exact duplicates.
    label_texts : sequence of str
        Episode-level columns, as JSON.
    rate_hz : float or None
        Control rate of the first episode that tells one.
    """

    data: TensorDict
    ids: Texts
    number: Int64[np.ndarray, " episode"]
    offset: Int64[np.ndarray, " episode"]
    length: Int64[np.ndarray, " episode"]
    task: Sequence[str | None]
    first_frame: Int64[np.ndarray, " episode"]
    source: Sequence[str]
    digest: Shaped[np.ndarray, " episode"]
    label_texts: Sequence[str]
    rate_hz: float | None

    @property
    def n_episodes(self) -> int:
        """Number of episodes."""
        return len(self.ids)

    def labels(self) -> Iterator[dict[str, Label]]:
        """Yield the episode-level columns of every episode."""
        yield from map(json.loads, self.label_texts)

    @cached_property
    def index_fails(self) -> bool:
        """Whether the source has a global index of frames that does not tell all of them apart."""
        known = self.first_frame >= 0
        shared = find_shared_frames(self.first_frame, self.length) is not None
        return bool(known.any()) and (shared or not bool(known.all()))

    @property
    def n_frames(self) -> int:
        """Number of frames of all episodes together."""
        return int(self.data.batch_size[0])

    @property
    def action_dim(self) -> int:
        """Dimensions of an action."""
        return int(self.data["action"].shape[1])

    @property
    def state_dim(self) -> int:
        """Dimensions of a state; 0 where some episode has none."""
        state = self.data.get("state", None)
        return 0 if state is None else int(state.shape[1])


def write_frames(
    episodes: Iterable[Episode], directory: Path, *, source_root: Path | None = None
) -> Frames:
    """Write `episodes` to the new folder `directory` and memory-map the result.

    Streams: one episode is in memory at a time. The folder appears only when it is whole; until
    then it is built beside `directory`, where the next call sweeps what a killed one left. It is
    also a plain memory-mapped tensordict: ``TensorDict.load_memmap(directory)`` reads it.

    Parameters
    ----------
    episodes : iterable of Episode
        At least one.
    directory : Path
        Must not exist; its parents are made. One writer at a time.
    source_root : Path or None
        Episode sources are stored relative to this folder; None: as they are.

    Raises
    ------
    DatasetError
        If two episodes differ in their action or state dimensions or share an id, or if the
        states and actions of one differ in length.
    ValueError
        If there is no episode, `directory` exists, or a source is not under `source_root`.
    """
    if directory.exists():
        raise ValueError(f"{directory} exists; frames are written to a new folder")
    partial = directory.with_name(f".{directory.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        _write_episodes(episodes, partial, source_root)
        _complete(partial)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return load_frames(directory)


def _complete(directory: Path) -> None:
    """Check what was written, and add what tensordict wants beside it."""
    table = _read_table(directory / EPISODES_FILE)
    _check_ids(table)
    if pc.min(table["state_dim"]).as_py() == 0:
        _frames_file(directory, "state").unlink()
    # The tensors lie where tensordict wants them, so this adds only its meta.json.
    _map_frames(directory, table, mode="r+").memmap_(prefix=str(directory), existsok=True)


def load_frames(directory: Path) -> Frames:
    """Memory-map the folder that `write_frames` made, without reading the frames.

    Raises
    ------
    DatasetError
        If the folder is missing or incomplete, its episode table is damaged or of another
        version, or the sizes of its files disagree with the table.
    """
    table = _read_table(directory / EPISODES_FILE)
    length = table["length"].to_numpy()
    rates = table["rate_hz"].drop_null()
    return Frames(
        data=_map_frames(directory, table, mode="r").lock_(),
        ids=Texts(table["id"]),
        number=table["number"].to_numpy(),
        offset=np.cumsum(length) - length,
        length=length,
        task=Texts(table["task"]),
        first_frame=table["first_frame"].to_numpy(),
        source=Texts(table["source"]),
        digest=_bytes_of(table["digest"]),
        label_texts=Texts(table["labels"]),
        rate_hz=rates[0].as_py() if len(rates) else None,
    )


def _bytes_of(column: pa.ChunkedArray) -> np.ndarray:
    chunk = column.combine_chunks()
    buffer = chunk.buffers()[1]
    return np.frombuffer(buffer, "S32", count=len(chunk), offset=32 * chunk.offset)


def _write_episodes(episodes: Iterable[Episode], directory: Path, source_root: Path | None) -> None:
    """Append every episode's frames to the raw files, and what is known of it to the table."""
    rows: list[dict[str, Any]] = []
    widths: dict[str, tuple[int, str]] = {}
    with ExitStack() as stack:
        files = {k: stack.enter_context(_frames_file(directory, k).open("wb")) for k in _KEYS}
        writer = stack.enter_context(
            pq.ParquetWriter(directory / EPISODES_FILE, _SCHEMA, write_page_checksum=True)
        )
        for episode in episodes:
            action = np.ascontiguousarray(episode.action, np.float32)
            _check_width("action", action, episode, widths)
            files["action"].write(action.data)
            if episode.state is not None:
                state = np.ascontiguousarray(episode.state, np.float32)
                _check_width("state", state, episode, widths)
                files["state"].write(state.data)
            rows.append(_row(episode, action, source_root))
            if len(rows) == _ROWS:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))
                rows = []
        if not widths:
            raise ValueError("there is no episode to write")
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))


def _row(
    episode: Episode, action: Float32[np.ndarray, "frame action"], root: Path | None
) -> dict[str, str | bytes | float | None]:
    source = episode.source if root is None else episode.source.relative_to(root)
    return {
        "id": episode.id,
        "number": episode.number,
        "length": episode.length,
        "action_dim": action.shape[1],
        "state_dim": 0 if episode.state is None else episode.state.shape[1],
        "task": episode.task,
        "rate_hz": episode.rate_hz,
        "first_frame": -1 if episode.first_frame is None else episode.first_frame,
        "source": source.as_posix(),
        "digest": episode.digest,
        "labels": json.dumps(dict(episode.labels)),
    }


def _check_ids(table: pa.Table) -> None:
    """Refuse two episodes of one id: ids are what rows of a manifest are joined on."""
    ids = Texts(table["id"])
    hashes = np.fromiter(map(hash, ids), np.int64, len(ids))  # Arrow's own counts cost far more
    order = np.argsort(hashes, kind="stable")
    alike = np.flatnonzero(np.diff(hashes[order]) == 0)
    for first, second in zip(order[alike].tolist(), order[alike + 1].tolist(), strict=True):
        if ids[first] != ids[second]:
            continue
        sources = Texts(table["source"])
        raise DatasetError(
            f"two episodes share the id {ids[first]!r}: one of {sources[first]}, one of "
            f"{sources[second]}; an id must be unique in its dataset",
            "rename one of them or split the dataset in two",
        )


def _check_width(
    key: str,
    values: Float32[np.ndarray, "frame width"],
    episode: Episode,
    widths: dict[str, tuple[int, str]],
) -> None:
    """Refuse frames that do not fit under those of the first episode, whose width is kept."""
    if values.shape[0] != episode.length:
        raise DatasetError(
            f"episode {episode.id!r} of {episode.source} has {values.shape[0]} {key}s "
            f"and {episode.length} actions; expected one {key} a frame",
            "repair or exclude the episode",
        )
    width, first = widths.setdefault(key, (values.shape[1], episode.id))
    if values.shape[1] != width:
        raise DatasetError(
            f"episode {episode.id!r} of {episode.source} has "
            f"{write_count(values.shape[1], f'{key} dimension')}, episode {first!r} has "
            f"{width}; expected one {key} space a dataset",
            f"make them two datasets, or choose their common {key} columns in ambient.toml",
        )


def _frames_file(directory: Path, key: str) -> Path:
    return directory / f"{key}.memmap"


def _read_table(path: Path) -> pa.Table:
    """Read and check the episode table."""
    try:
        table = pq.read_table(
            path, page_checksum_verification=True, read_dictionary=list(_REPEATED)
        )
        whole = _plain(table.schema).equals(_SCHEMA)
    except FileNotFoundError:
        raise _damaged(path.parent, f"{path.name} is missing") from None
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise _damaged(path.parent, f"{path.name} cannot be read: {error}") from error
    if not whole:
        raise _damaged(path.parent, f"{path.name} has columns of another version")
    return table


def _plain(schema: pa.Schema) -> pa.Schema:
    """Give the schema as it was before repeated texts were read as a dictionary."""
    types = (f.type.value_type if pa.types.is_dictionary(f.type) else f.type for f in schema)
    return pa.schema(dict(zip(schema.names, types, strict=True)))


def _map_frames(directory: Path, table: pa.Table, *, mode: Literal["r", "r+"]) -> TensorDict:
    """Map the raw files, after their sizes are found to be those of the table."""
    n_frames = int(table["length"].to_numpy().sum())
    tensors = {}
    for key in _KEYS:
        width = int(table[f"{key}_dim"].to_numpy().min())
        if key == "state" and width == 0:
            continue
        path = _frames_file(directory, key)
        expected = n_frames * width * 4
        found = path.stat().st_size if path.exists() else None
        if found != expected:
            size = "is missing" if found is None else f"has {found} bytes"
            raise _damaged(
                directory,
                f"{path.name} {size}; expected {n_frames} frames x {width} x 4 = {expected} bytes",
            )
        # An empty file cannot be mapped.
        tensors[key] = (
            MemoryMappedTensor.from_filename(path, torch.float32, (n_frames, width), mode=mode)
            if expected
            else torch.empty(n_frames, width)
        )
    return TensorDict(tensors, batch_size=[n_frames])


def _damaged(directory: Path, problem: str) -> DatasetError:
    return DatasetError(
        f"the frames in {directory} are damaged or incomplete: {problem}",
        "delete that folder and run again: it is made anew from the dataset",
    )
