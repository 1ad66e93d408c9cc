"""Annotation of frames, looked up by their global index."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Int
from torch import Tensor

from ambient_curate.errors import ManifestError

COLUMNS = ("index", "sigma_min", "sigma_max", "weight")


class FrameAnnotations:
    """What an export says of frames; a frame of which it says nothing may never be used.

    Parameters
    ----------
    paths : Path or str
        One ``ambient.parquet``, or several, of parts of one dataset.

    Raises
    ------
    ManifestError
        If it is no such table, or has a frame twice.
    """

    def __init__(self, *paths: Path | str) -> None:
        parts = [_read_columns(path) for path in paths]
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.argsort(columns[0], kind="stable")
        index = columns[0][order]
        if (np.diff(index) == 0).any():
            raise ManifestError(
                f"{', '.join(map(str, paths))}: a frame is there twice", "give each table once"
            )
        self.index = torch.from_numpy(index.astype(np.int64))
        values = np.stack([column[order].astype(np.float64) for column in columns[1:]])
        nothing = np.array([[1.0], [0.0], [0.0]])
        self._values = torch.from_numpy(np.concatenate([values, nothing], axis=1)).float()

    def __len__(self) -> int:
        return len(self.index)

    def of(self, index: Int[Tensor, " *row"]) -> tuple[Tensor, Tensor, Tensor]:
        """Give sigma_min, sigma_max and weight of frames.

        Parameters
        ----------
        index : Tensor, shape (row,)
            Global indices, such as ``batch["index"]``.
        """
        wanted = index.reshape(-1).cpu().long()
        place = torch.searchsorted(self.index, wanted).clamp(max=max(len(self) - 1, 0))
        known = self.index[place] == wanted if len(self) else torch.zeros_like(wanted).bool()
        place = torch.where(known, place, len(self))
        low, high, weight = self._values[:, place].to(index.device)
        return low, high, weight


def _read_columns(path: Path | str) -> list[np.ndarray]:
    try:
        table = pq.read_table(path, columns=list(COLUMNS))
        return [table[name].to_numpy() for name in COLUMNS]
    except Exception as error:  # Arrow has a dozen kinds for what is no such table
        raise ManifestError(
            f"{path} is no table of annotated frames: {error}",
            "give the ambient.parquet of an export",
        ) from error
