"""ALOHA's and ACT's layout of HDF5: a file an episode, ``action`` and ``observations/qpos``.

So is a file with datasets of other names at its root, which the user then names.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import h5py

from ambient_curate.readers.episodes import ReaderOptions
from ambient_curate.readers.hdf5_files import (
    Contents,
    Recording,
    join_arrays,
    read_arrays,
    read_labels,
)

FORMAT = "ALOHA HDF5"
_STATE = "observations/qpos"


def fits(file: h5py.File) -> bool:
    """Tell whether a file has this layout; one without its ``action`` has it too."""
    return isinstance(file.get("action"), h5py.Dataset) or isinstance(
        file.get("observations"), h5py.Group
    )


def describe(file: h5py.File, path: Path) -> Contents:
    """Tell whether there is a state; nothing else holds for a file."""
    state = (_STATE,) if isinstance(file.get(_STATE), h5py.Dataset) else ()
    return Contents(path, FORMAT, ("",), state)


def find_recordings(
    file: h5py.File, contents: Contents, options: ReaderOptions
) -> Iterator[Callable[[], Recording]]:
    """Yield what reads the one episode of a file."""
    yield partial(_read_recording, file, options)


def _read_recording(file: h5py.File, options: ReaderOptions) -> Recording:
    action = options.action or ("action",)
    arrays = read_arrays(file, [*action, *options.state])
    return Recording(*join_arrays(file, arrays, action, options.state, {}), read_labels(file))
