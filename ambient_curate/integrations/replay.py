"""Replay: Diffusion Policy's and UMI's windows, with their annotation in every sample."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ambient_curate.errors import ManifestError

KEYS = ("sigma_min", "sigma_max", "weight")


class SamplerAnnotations:
    """What an export says of the windows of a `SequenceSampler`, whatever episodes it leaves out.

    Parameters
    ----------
    path : Path or str
        A ``sampler.npz``.
    episode_ends : sequence of int
        Of the replay buffer.

    Raises
    ------
    ManifestError
        If it is no such file, or not of this replay buffer.
    """

    def __init__(self, path: Path | str, episode_ends: Sequence[int]) -> None:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in (*KEYS, "episode", "count", "before")}
        except (OSError, KeyError, ValueError) as error:
            raise ManifestError(
                f"{path} is no table of annotated windows: {error}",
                "give the sampler.npz of an export",
            ) from error
        self._ends = np.asarray(episode_ends, dtype=np.int64)
        if found["episode"].size and found["episode"].max() >= len(self._ends):
            raise ManifestError(
                f"{path} has episode {found['episode'].max()}; the replay buffer has "
                f"{len(self._ends)} episodes",
                "export the data that is trained on",
            )
        self._before = int(found["before"])
        self._first = np.full(len(self._ends), -1)
        self._first[found["episode"]] = np.cumsum(found["count"]) - found["count"]
        self._count = np.zeros(len(self._ends), dtype=np.int64)
        self._count[found["episode"]] = found["count"]
        nothing = {"sigma_min": 1.0, "sigma_max": 0.0, "weight": 0.0}
        self._values = {name: np.append(found[name], nothing[name]) for name in KEYS}

    def of(self, indices: Any) -> dict[str, torch.Tensor]:
        """Give the annotation of windows; one that the export lacks may never be used.

        Parameters
        ----------
        indices : array, shape (window, 4) or (4,)
            Rows of the sampler's ``indices``: where a window begins and ends in the buffer, then
            where that lies in the window.

        Returns
        -------
        dict of str to Tensor, float32, shape (window,) or ()
            ``sigma_min``, ``sigma_max`` and ``weight``, to be put into a sample.
        """
        rows = np.asarray(indices, dtype=np.int64)
        begin, inside = rows[..., 0], rows[..., 2]
        episode = np.searchsorted(self._ends, begin, side="right")
        start = begin - np.append(0, self._ends)[episode] - inside + self._before
        known = (start >= 0) & (start < self._count[episode])
        place = np.where(known, self._first[episode] + start, -1)
        return {
            name: torch.as_tensor(values[place], dtype=torch.float32)
            for name, values in self._values.items()
        }


def pop_annotation(batch: dict[str, Any]) -> dict[str, Any]:
    """Take the annotation out of a batch: Diffusion Policy normalises every key that is in it."""
    return {name: batch.pop(name) for name in KEYS}
