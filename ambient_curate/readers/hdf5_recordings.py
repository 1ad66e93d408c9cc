"""A recording in an HDF5 file, and what is known of its file: the same of every layout."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from jaxtyping import Float32

from ambient_curate.episodes import Label
from ambient_curate.errors import DatasetError
from ambient_curate.readers.hdf5_items import COPY_AGAIN, read_array

_Arrays = Mapping[str, np.ndarray]  # float32, (frame, column)


@dataclass(frozen=True)
class Contents:
    """What is known of one file when it is opened.

    Parameters
    ----------
    path : Path
        The file.
    layout : str
        Name of its layout.
    names : tuple of str
        Names of its recordings, in reading order; one empty name where the file is the recording.
    state : tuple of str
        What makes the state where the user names nothing; empty: no state.
    task, rate_hz : str and float, or None
        As far as the file tells them.
    problems : tuple of str
        What was unusual, one sentence each.
    """

    path: Path
    layout: str
    names: tuple[str, ...]
    state: tuple[str, ...] = ()
    task: str | None = None
    rate_hz: float | None = None
    problems: tuple[str, ...] = ()


class Recording(NamedTuple):
    """The frames of one recording, and its labels."""

    action: Float32[np.ndarray, "frame action"]
    state: Float32[np.ndarray, "frame state"] | None
    labels: Mapping[str, Label]


def read_arrays(group: h5py.Group, names: Sequence[str]) -> _Arrays:
    """Read datasets of a recording, each once, as columns of float32.

    Raises
    ------
    DatasetError
        If one is missing, holds no numbers, or is not wholly in the file.
    """
    return {name: read_array(group, name) for name in dict.fromkeys(names)}


def join_arrays(
    group: h5py.Group,
    arrays: _Arrays,
    action: Sequence[str],
    state: Sequence[str],
    promised: Mapping[str, int | None],
    *,
    longer: Collection[str] = (),
) -> tuple[Float32[np.ndarray, "frame action"], Float32[np.ndarray, "frame state"] | None]:
    """Join arrays to action and state of one length, which is also every length that is promised.

    Parameters
    ----------
    group : h5py.Group
        The recording, for messages.
    arrays : mapping of str to ndarray
        Of every name in `action` and `state`.
    action, state : sequence of str
        What they are made of, in this order; no state where empty.
    promised : mapping of str to int or None
        Numbers of frames told elsewhere, by what tells them; None: it tells nothing.
    longer : collection of str
        Names of arrays that have a row after the last frame, which is left out.

    Raises
    ------
    DatasetError
        If the lengths differ.
    """
    lengths = {
        f"{name} but for its last row" if name in longer else name: len(array) - (name in longer)
        for name, array in arrays.items()
    }
    lengths |= {teller: count for teller, count in promised.items() if count is not None}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} by {name}" for name, count in lengths.items())
        raise DatasetError(
            f"{group.file.filename}: {group.name} has {counts}; one number of frames is expected",
            COPY_AGAIN,
        )
    kept = {name: array[:-1] if name in longer else array for name, array in arrays.items()}
    joined = np.concatenate([kept[name] for name in action], axis=1)
    return joined, np.concatenate([kept[name] for name in state], axis=1) if state else None
