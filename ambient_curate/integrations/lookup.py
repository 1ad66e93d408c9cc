"""Annotation of frames, looked up by their global index, or by episode and frame."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float64, Int, Int64
from torch import Tensor

from ambient_curate.errors import ManifestError
from ambient_curate.export.job import BY_FRAME, JOINED_BY
from ambient_curate.export.trainer_time import round_outward

COLUMNS = ("index", "sigma_min", "sigma_max", "weight")


class FrameAnnotations:
    """What an export says of frames; a frame of which it says nothing may never be used.

    Parameters
    ----------
    paths : Path or str
        One ``ambient.parquet``, or several, of parts of one dataset. A frame may be in two of
        them, such as one of the clean set that two runs share; weights that differ become NaN.

    Attributes
    ----------
    by_frame : bool
        Whether frames are found by `of_frames`, since the dataset's global index repeats; else
        by `of`.

    Raises
    ------
    ManifestError
        If it is no such table, or has two rows of a frame with other levels.
    """

    def __init__(self, *paths: Path | str) -> None:
        tables = [_read_table(path) for path in paths]
        self._paths = ", ".join(map(str, paths))
        self.by_frame = any(BY_FRAME[0] in table.column_names for table in tables)
        columns = (*BY_FRAME, *COLUMNS) if self.by_frame else COLUMNS
        plain = [each.select(columns).replace_schema_metadata() for each in tables]
        table = pa.concat_tables(plain)
        found = {name: table[name].to_numpy() for name in columns}
        keys = found["index"]
        if self.by_frame:
            self._episodes = np.unique(found["episode_index"])
            self._span = int(found["frame_index"].max(initial=0)) + 1
            keys = self._number(*(found[name] for name in BY_FRAME))
        keys, (low, high, weight) = self._merge(keys.astype(np.int64), found)
        self._keys = torch.from_numpy(keys)
        rounded = np.stack([*round_outward(low, high), weight.astype(np.float32)])
        nothing = np.array([[1.0], [0.0], [0.0]], dtype=np.float32)
        self._values = torch.from_numpy(np.concatenate([rounded, nothing], axis=1))

    def _merge(
        self, keys: Int64[np.ndarray, " row"], found: Mapping[str, np.ndarray]
    ) -> tuple[Int64[np.ndarray, " frame"], Float64[np.ndarray, "3 frame"]]:
        """Give a row a frame, in the order of keys; those of a frame must have the same levels."""
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        values = np.stack([found[name][order].astype(np.float64) for name in COLUMNS[1:]])
        again = np.flatnonzero(np.diff(keys) == 0) + 1
        other = values[:, again] != values[:, again - 1]
        if other[:2].any():
            frame = found["index"][order][again][other[:2].any(axis=0)][0]
            raise ManifestError(
                f"{self._paths}: frame {frame} is there twice, with other levels",
                "give the tables of one dataset: of a dataset whose global index repeats, export "
                "again; of datasets that were merged, export --merged",
            )
        values[2, again[other[2]] - 1] = np.nan  # weights of two runs
        return np.delete(keys, again), np.delete(values, again, axis=1)

    def __len__(self) -> int:
        return len(self._keys)

    def of(self, index: Int[Tensor, " *row"]) -> tuple[Tensor, Tensor, Tensor]:
        """Give sigma_min, sigma_max and weight of frames.

        Parameters
        ----------
        index : Tensor, shape (row,)
            Global indices, such as ``batch["index"]``.

        Raises
        ------
        ManifestError
            If `by_frame`.
        """
        if self.by_frame:
            raise ManifestError(
                f"the global index of the dataset of {self._paths} repeats, so it finds no frame",
                "call of_frames with episode_index and frame_index, or number the dataset anew",
            )
        return self._find(index.reshape(-1).cpu().long(), index.device)

    def of_frames(
        self, episode_index: Int[Tensor, " *row"], frame_index: Int[Tensor, " *row"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give what `of` gives, of frames named by episode and by place in it.

        Raises
        ------
        ManifestError
            Unless `by_frame`.
        """
        if not self.by_frame:
            raise ManifestError(
                f"the frames of {self._paths} are joined by their global index", "call of"
            )
        named = (each.reshape(-1).cpu().numpy() for each in (episode_index, frame_index))
        return self._find(torch.from_numpy(self._number(*named)), frame_index.device)

    def _number(
        self, episode: Int64[np.ndarray, " row"], frame: Int64[np.ndarray, " row"]
    ) -> Int64[np.ndarray, " row"]:
        """Give every frame of the known episodes a number of its own; -1: of none of them."""
        place = np.searchsorted(self._episodes, episode)
        inside = place < len(self._episodes)
        inside[inside] = self._episodes[place[inside]] == episode[inside]
        inside &= (frame >= 0) & (frame < self._span)
        return np.where(inside, place * self._span + frame, -1)

    def _find(self, wanted: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        place = torch.searchsorted(self._keys, wanted).clamp(max=max(len(self) - 1, 0))
        known = self._keys[place] == wanted if len(self) else torch.zeros_like(wanted).bool()
        place = torch.where(known, place, len(self))
        low, high, weight = self._values[:, place].to(device)
        return low, high, weight


def _read_table(path: Path | str) -> pa.Table:
    """Read the columns that are looked up, and those by which frames are found."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        by_frame = metadata.get(JOINED_BY.encode()) == ", ".join(BY_FRAME).encode()
        return pq.read_table(path, columns=[*BY_FRAME, *COLUMNS] if by_frame else list(COLUMNS))
    except Exception as error:  # Arrow has a dozen kinds for what is no such table
        raise ManifestError(
            f"{path} is no table of annotated frames: {error}",
            "give the ambient.parquet of an export",
        ) from error
