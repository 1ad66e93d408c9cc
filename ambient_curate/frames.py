"""The low-dimensional cache of one member: flat memory-mapped frames and a table of episodes."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float32, Int64
from tensordict import MemoryMappedTensor, TensorDict

from ambient_curate.episodes import Episode, Label
from ambient_curate.errors import DatasetError

EPISODES_FILE = "episodes.parquet"
_KEYS = ("action", "state")
_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "index": pa.int64(),
        "length": pa.int64(),
        "action_dim": pa.int64(),
        "state_dim": pa.int64(),
        "task": pa.string(),
        "rate_hz": pa.float64(),
        "first_frame": pa.int64(),
        "source": pa.string(),
        "digest": pa.string(),
        "labels": pa.string(),
    }
)


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
    ids : list of str
        `Episode.id`; no two are equal.
    index : ndarray, int64, shape (episode,)
        Position of the episode in the source.
    offset, length : ndarray, int64, shape (episode,)
        First frame in `data`, and number of frames.
    task : list of str or None
        Task or language instruction.
    first_frame : ndarray, int64, shape (episode,)
        Global index of the first frame in the source; -1 where the source has none.
    source : list of str
        The file that holds the episode, with forward slashes.
    digest : list of str
        SHA-256 (hexadecimal) of the shape and bytes of the actions: equal for exact duplicates.
    labels : list of dict
        Episode-level columns.
    rate_hz : float or None
        Control rate of the first episode that tells one.
    """

    data: TensorDict
    ids: list[str]
    index: Int64[np.ndarray, " episode"]
    offset: Int64[np.ndarray, " episode"]
    length: Int64[np.ndarray, " episode"]
    task: list[str | None]
    first_frame: Int64[np.ndarray, " episode"]
    source: list[str]
    digest: list[str]
    labels: list[dict[str, Label]]
    rate_hz: float | None

    @property
    def n_episodes(self) -> int:
        """Number of episodes."""
        return len(self.ids)

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
        table = _write_episodes(episodes, partial, source_root)
        pq.write_table(table, partial / EPISODES_FILE, write_page_checksum=True)
        # The tensors lie where tensordict wants them, so this adds only its meta.json.
        _map_frames(partial, table, mode="r+").memmap_(prefix=str(partial), existsok=True)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return load_frames(directory)


def load_frames(directory: Path) -> Frames:
    """Memory-map the folder that `write_frames` made, without reading the frames.

    Raises
    ------
    DatasetError
        If the folder is missing or incomplete, its episode table is damaged or of another
        version, or the sizes of its files disagree with the table.
    """
    table = _read_table(directory / EPISODES_FILE)
    columns = {name: table[name] for name in table.column_names}
    length = columns["length"].to_numpy()
    return Frames(
        data=_map_frames(directory, table, mode="r").lock_(),
        ids=columns["id"].to_pylist(),
        index=columns["index"].to_numpy(),
        offset=np.cumsum(length) - length,
        length=length,
        task=_share_equal(columns["task"].to_pylist()),
        first_frame=columns["first_frame"].to_numpy(),
        source=_share_equal(columns["source"].to_pylist()),
        digest=columns["digest"].to_pylist(),
        labels=_read_labels(columns["labels"].to_pylist()),
        rate_hz=next((rate for rate in columns["rate_hz"].to_pylist() if rate is not None), None),
    )


def _share_equal(values: list[Any]) -> list[Any]:
    """Keep one object of each value: there are many episodes, and few tasks and files."""
    kept: dict[Any, Any] = {}
    return [kept.setdefault(value, value) for value in values]


def _read_labels(texts: list[str]) -> list[dict[str, Label]]:
    """Read labels; episodes whose labels are equal share them."""
    kept: dict[str, dict[str, Label]] = {}
    return [
        kept[text] if text in kept else kept.setdefault(text, json.loads(text)) for text in texts
    ]


def _write_episodes(
    episodes: Iterable[Episode], directory: Path, source_root: Path | None
) -> pa.Table:
    """Append the frames of every episode to the raw files; return the table of the episodes."""
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    widths: dict[str, tuple[int, str]] = {}
    sources: dict[str, Path] = {}
    with ExitStack() as stack:
        files = {k: stack.enter_context(_frames_file(directory, k).open("wb")) for k in _KEYS}
        for episode in episodes:
            _check_id(episode, sources)
            action = np.ascontiguousarray(episode.action, np.float32)
            _check_width("action", action, episode, widths)
            files["action"].write(action.data)
            if episode.state is not None:
                state = np.ascontiguousarray(episode.state, np.float32)
                _check_width("state", state, episode, widths)
                files["state"].write(state.data)
            for name, value in _row(episode, action, source_root).items():
                columns[name].append(value)
    if not sources:
        raise ValueError("there is no episode to write")
    if min(columns["state_dim"]) == 0:
        _frames_file(directory, "state").unlink()
    return pa.table(columns, schema=_SCHEMA)


def _row(
    episode: Episode, action: Float32[np.ndarray, "frame action"], root: Path | None
) -> dict[str, str | float | None]:
    source = episode.source if root is None else episode.source.relative_to(root)
    digest = hashlib.sha256(np.array(action.shape, np.int64).tobytes())
    digest.update(action.data)
    return {
        "id": episode.id,
        "index": episode.index,
        "length": episode.length,
        "action_dim": action.shape[1],
        "state_dim": 0 if episode.state is None else episode.state.shape[1],
        "task": episode.task,
        "rate_hz": episode.rate_hz,
        "first_frame": -1 if episode.first_frame is None else episode.first_frame,
        "source": source.as_posix(),
        "digest": digest.hexdigest(),
        "labels": json.dumps(dict(episode.labels)),
    }


def _check_id(episode: Episode, sources: dict[str, Path]) -> None:
    """Refuse a second episode of the same id: ids are what rows of a manifest are joined on."""
    if episode.id in sources:
        raise DatasetError(
            f"two episodes share the id {episode.id!r}: one of {sources[episode.id]}, "
            f"one of {episode.source}; an id must be unique in its dataset",
            "rename one of them or split the dataset in two",
        )
    sources[episode.id] = episode.source


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
            f"episode {episode.id!r} of {episode.source} has {values.shape[1]} {key} dimensions, "
            f"episode {first!r} has {width}; expected one {key} space a dataset",
            f"make them two datasets, or choose their common {key} columns in ambient.toml",
        )


def _frames_file(directory: Path, key: str) -> Path:
    return directory / f"{key}.memmap"


def _read_table(path: Path) -> pa.Table:
    """Read and check the episode table."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise _damaged(path.parent, f"{path.name} is missing") from None
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path.parent, f"{path.name} cannot be read: {error}") from error
    if not table.schema.equals(_SCHEMA):
        raise _damaged(path.parent, f"{path.name} has columns of another version")
    return table


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
