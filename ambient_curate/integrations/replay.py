"""Diffusion Policy's windows, with the annotation in every sample."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from ambient_curate.errors import ManifestError
from ambient_curate.export.trainer_time import round_outward

NOTHING = {"sigma_min": 1.0, "sigma_max": 0.0, "weight": 0.0}
KEYS = tuple(NOTHING)


class SamplerAnnotations:
    """What an export says of the windows of a `SequenceSampler`, whatever episodes it leaves out.

    Parameters
    ----------
    *paths : Path or str
        One ``sampler.npz``, or several, of parts of one replay buffer.
    episode_ends : sequence of int
        Of the replay buffer.

    Raises
    ------
    ManifestError
        If one is no such file or not of this replay buffer, or if two have an episode.
    """

    def __init__(
        self, *paths: Path | str, episode_ends: Sequence[int] | Int64[np.ndarray, " episode"]
    ) -> None:
        self._ends = np.asarray(episode_ends, dtype=np.int64)
        self._first = np.full(len(self._ends), -1)
        self._count = np.zeros(len(self._ends), dtype=np.int64)
        self._before = np.zeros(len(self._ends), dtype=np.int64)
        parts = [_read_arrays(path) for path in paths]
        size = 0
        for path, found in zip(paths, parts, strict=True):
            episode, count = found["episode"], found["count"]
            self._check(path, episode)
            self._first[episode] = size + np.cumsum(count) - count
            self._count[episode], self._before[episode] = count, found["before"]
            size += len(found["weight"])
        self._values = {
            name: np.concatenate([*(found[name] for found in parts), [NOTHING[name]]])
            for name in KEYS
        }
        rounded = round_outward(self._values["sigma_min"], self._values["sigma_max"])
        self._values |= dict(zip(("sigma_min", "sigma_max"), rounded, strict=True))

    def _check(self, path: Path | str, episode: np.ndarray) -> None:
        if episode.size and episode.max() >= len(self._ends):
            raise ManifestError(
                f"{path} has episode {episode.max()}; the replay buffer has "
                f"{len(self._ends)} episodes",
                "export the data that is trained on",
            )
        if (self._first[episode] >= 0).any():
            raise ManifestError(f"{path} has an episode of another file", "give each file once")

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
        start = begin - np.append(0, self._ends)[episode] - inside + self._before[episode]
        known = (start >= 0) & (start < self._count[episode])
        place = np.where(known, self._first[episode] + start, -1)
        return {
            name: torch.as_tensor(values[place], dtype=torch.float32)
            for name, values in self._values.items()
        }


class AnnotatedWindows:
    """Mixed in before a dataset of Diffusion Policy, puts their annotation into its samples.

    ``class AnnotatedPushT(AnnotatedWindows, PushTLowdimDataset): pass`` is all that it takes; its
    ``get_normalizer`` and ``get_validation_dataset`` work as before. A loss begins with
    `pop_annotation`.

    Parameters
    ----------
    annotations : sequence of Path or str
        Every ``sampler.npz`` of the export.
    *args, **kwargs
        Of the dataset, which has a ``replay_buffer`` and a ``sampler``.

    Raises
    ------
    ManifestError
        As `SamplerAnnotations` does.
    """

    replay_buffer: Any
    sampler: Any

    def __init__(self, *args: Any, annotations: Sequence[Path | str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        ends = self.replay_buffer.episode_ends[:]
        self.annotations = SamplerAnnotations(*annotations, episode_ends=ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Give a sample, and ``sigma_min``, ``sigma_max`` and ``weight`` of its window."""
        sample: dict[str, Any] = super().__getitem__(index)  # type: ignore[misc]
        return sample | self.annotations.of(self.sampler.indices[index])


def pop_annotation(batch: dict[str, Any]) -> dict[str, Any]:
    """Take the annotation out of a batch: Diffusion Policy normalises every key that is in it."""
    return {name: batch.pop(name) for name in KEYS}


def _read_arrays(path: Path | str) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in (*KEYS, "episode", "count", "before")}
    except (OSError, KeyError, ValueError) as error:
        raise ManifestError(
            f"{path} is no table of annotated windows: {error}",
            "give the sampler.npz of an export",
        ) from error
