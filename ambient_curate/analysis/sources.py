"""The episodes of a dataset, a collection or a run's data, in the units the noise is added in."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from ambient_curate.data.cache import Frames, write_frames
from ambient_curate.data.collection import Collection, open_collection, read_episodes
from ambient_curate.data.normalizer import (
    Normalizer,
    fit_normalizer,
    fit_normalizer_on_all,
)
from ambient_curate.data.windows import Windows, clean_values, read_values
from ambient_curate.errors import DatasetError, write_count
from ambient_curate.options import AnnotateOptions, resolve_options
from ambient_curate.progress import Progress, silent
from ambient_curate.run.records import open_run_results
from ambient_curate.run.source_data import annotated_options, read_normalizers, reopen_data


@dataclass(frozen=True, eq=False)
class Recording:
    """One dataset, read, windowed and scaled.

    Parameters
    ----------
    name : str
        Of the member.
    is_clean : bool
        Whether it is the clean set.
    frames : Frames
        Its episodes.
    windows : Windows
        Over the frames, with the normaliser of the run or of the clean set; without either, with
        its own.
    """

    name: str
    is_clean: bool
    frames: Frames
    windows: Windows

    @property
    def actions(self) -> list[Float64[np.ndarray, "_frame action"]]:
        """Scaled actions of every episode, whole; their differences where windows are such.

        What a window is relative to shifts all of it alike and is left out, as are the offsets of
        the normaliser.
        """
        normalizer = self.windows.normalizer
        scale = np.ones(self.frames.action_dim) if normalizer is None else normalizer.scale
        flat = self.windows.action.numpy()
        spans = zip(self.frames.offset.tolist(), self.frames.length.tolist(), strict=True)
        episodes = [flat[first : first + length] * scale for first, length in spans]
        delta = self.windows.represent == "delta"
        return [np.diff(episode, axis=0) for episode in episodes] if delta else episodes


@dataclass(frozen=True, eq=False)
class Recordings:
    """The datasets of a source.

    Parameters
    ----------
    name : str
        Of the collection or run.
    options : AnnotateOptions
        Representation, normaliser, horizon and the rest, as the run or ``ambient.toml`` says.
    members : tuple of Recording
        The clean set first, then by name.
    shared_scale : bool
        All have one normaliser; else each has its own, and powers cannot be compared.
    """

    name: str
    options: AnnotateOptions
    members: tuple[Recording, ...]
    shared_scale: bool

    @property
    def clean(self) -> Recording | None:
        """The clean set, if there is one."""
        return next((member for member in self.members if member.is_clean), None)


@contextmanager
def read_recordings(
    source: Path | str, *, limit: int | None = None, progress: Progress = silent
) -> Iterator[Recordings]:
    """Read a dataset, a collection, or the data of a finished run, into a temporary folder.

    Parameters
    ----------
    source : Path or str
        What `open_collection` opens, or a directory that ``annotate`` wrote.
    limit : int or None
        Episodes of each member to read at most. None: as the options say.
    progress : Progress
        Told of every file.

    Yields
    ------
    Recordings
        Valid inside the context.

    Raises
    ------
    CurateError
        If there is nothing to read, or a run's data is not what it was.
    """
    source = Path(source)
    if (source / "run.json").is_file():
        run = open_run_results(source)
        collection, options = reopen_data(run), annotated_options(run)
        normalizers = read_normalizers(run)
        shared = "normalisers" not in run.info
    else:
        collection, normalizers, shared = open_collection(source), {}, True
        options = resolve_options(collection.settings.options, {})
    if limit is not None:
        options = replace(options, limit=limit)
    with tempfile.TemporaryDirectory(prefix="ambient-curate-") as folder:
        members = _read_members(collection, options, Path(folder), progress)
        yield _lay_recordings(collection, options, members, normalizers, shared)


def _read_members(
    collection: Collection, options: AnnotateOptions, folder: Path, progress: Progress
) -> dict[str, Frames]:
    return {
        member.name: write_frames(
            read_episodes(
                member, limit=options.limit, on_error=options.on_error, progress=progress
            ),
            folder / f"{number:04d}",
        )
        for number, member in enumerate(collection.members)
    }


def _lay_recordings(
    collection: Collection,
    options: AnnotateOptions,
    frames: dict[str, Frames],
    given: Mapping[str, Normalizer],
    shared: bool,
) -> Recordings:
    order = sorted(frames, key=lambda name: (name != collection.clean, name))
    stated = all(member.state_dim == member.action_dim for member in frames.values())
    windows = {
        name: Windows(
            frames[name].data["action"],
            frames[name].data["state"] if stated and options.represent != "absolute" else None,
            frames[name].offset,
            frames[name].length,
            options.horizon,
            options.stride,
            options.represent,
        )
        for name in order
    }
    shared = shared and len({member.action_dim for member in frames.values()}) == 1
    shared = shared and (bool(given) or collection.clean in frames)
    if not given and shared:
        fitted = _fit(windows[order[0]], order[0], options)
        if options.normalize_on == "all":
            clean = clean_values(windows[order[0]])
            fitted = fit_normalizer_on_all(options.normalize, clean, lambda: read_values(windows))
        given = dict.fromkeys(order, fitted)
    scaled = {
        name: replace(w, normalizer=given[name] if name in given else _fit(w, name, options))
        for name, w in windows.items()
    }
    members = tuple(
        Recording(name, name == collection.clean, frames[name], scaled[name]) for name in order
    )
    return Recordings(collection.name, options, members, shared)


def _fit(windows: Windows, name: str, options: AnnotateOptions) -> Normalizer:
    if windows.represent != "absolute" and windows.counts.sum() == 0:
        raise DatasetError(
            f"{name} has no whole window of {write_count(windows.horizon, 'frame')} to fit the "
            f"scale on",
            "use a smaller horizon in ambient.toml",
        )
    return fit_normalizer(options.normalize, clean_values(windows))
