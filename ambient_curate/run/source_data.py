"""The data that a run annotated, opened again, with its manifest rows."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64, Int64

from ambient_curate.data.collection import (
    Collection,
    open_collection,
    read_episodes,
    select_by_position,
)
from ambient_curate.data.normalizer import Normalizer
from ambient_curate.data.study import Study, prepare_study
from ambient_curate.errors import CurateError, ManifestError, RunError, write_count
from ambient_curate.option_fields import check_path
from ambient_curate.options import AnnotateOptions
from ambient_curate.progress import Progress, silent
from ambient_curate.readers.episodes import Episode
from ambient_curate.run.records import Run, describe_files, has_own_numbers


def reopen_data(run: Run, data: Path | str | None = None) -> Collection:
    """Open the collection that a run annotated.

    Parameters
    ----------
    run : Run
        A finished run.
    data : Path, str or None
        Where the collection lies now; None: where the run found it.

    Raises
    ------
    RunError
        If it is not there, or is not what was annotated.
    """
    opened = run.info["collection"]
    path = (run.path / opened["path"]).resolve() if data is None else check_path("data", data)
    if not path.exists():
        raise RunError(f"the data of {run.path}, {path}, is not there", "give --data COLLECTION")
    outside = (run.path / opened["clean"]).resolve()
    elsewhere = opened["clean"].startswith(os.pardir + os.sep)
    clean = str(outside) if elsewhere else opened["clean"]
    collection = open_collection(path, clean=clean, on_error=run.info["options"]["on_error"])
    _check_data(run, collection)
    if has_own_numbers(run.info):
        return collection
    return replace(collection, members=tuple(map(select_by_position, collection.members)))


def reopen_study(
    run: Run, folder: Path, progress: Progress = silent, *, data: Path | None = None
) -> tuple[Collection, Study]:
    """Open the data of a finished run again, cached, windowed and normalised as it was.

    Parameters
    ----------
    run : Run
        A finished run.
    folder : Path
        Where the frames are cached.
    progress : Progress
        Of reading.
    data : Path or None
        As in `reopen_data`.

    Raises
    ------
    RunError
        If the data is not there, or is not what was annotated.
    ManifestError
        If it gives another normaliser than the run has.
    """
    collection = reopen_data(run, data)
    scalings = {name: each.trainer for name, each in read_normalizers(run).items() if each.trainer}
    study = prepare_study(collection, annotated_options(run), folder, progress, scalings or None)
    check_study(run, study)
    return collection, study


def annotated_options(run: Run) -> AnnotateOptions:
    """Give the options that the run was annotated with."""
    known = {field.name for field in fields(AnnotateOptions)}
    return AnnotateOptions(**{k: v for k, v in run.info["options"].items() if k in known})


def read_normalizers(run: Run) -> dict[str, Normalizer]:
    """Give the normaliser of every member of a run."""
    shared, own = run.info["normaliser"], run.info.get("normalisers", {})
    return {name: Normalizer.from_dict(own.get(name, shared)) for name in run.info["members"]}


def _check_data(run: Run, collection: Collection) -> None:
    """Refuse data that is not what was annotated: other members, or other files."""
    expected = run.info["sources"]
    found = {member.name: member for member in collection.members}
    if found.keys() != expected.keys():
        differing = ", ".join(sorted(found.keys() ^ expected.keys()))
        raise RunError(
            f"{collection.path} has other members than {run.path} was annotated with: {differing}",
            "give the annotated collection with --data, or annotate this one",
        )
    for name, member in found.items():
        files = describe_files(member)
        annotated = expected[name]["files"]
        other = sorted(f for f in files.keys() | annotated if files.get(f) != annotated.get(f))
        if other:
            raise RunError(
                f"{write_count(len(other), 'file')} of {name} changed since {run.path} was "
                f"annotated, "
                f"the first is {other[0]} ({annotated.get(other[0], 'absent')} -> "
                f"{files.get(other[0], 'absent')})",
                "annotate again; a copy of the data keeps its times with cp -p or rsync -t",
            )


def check_study(run: Run, study: Study) -> None:
    """Refuse a manifest of another normaliser, horizon or run than the data gives."""
    annotated = {"normaliser": run.info["normaliser"], "horizon": run.info["options"]["horizon"]}
    found = {"normaliser": study.normalizer.as_dict(), "horizon": study.options.horizon}
    if "normalisers" in run.info:
        annotated["normaliser"] = run.info["normalisers"]
        found["normaliser"] = {name: each.as_dict() for name, each in study.normalizers.items()}
    for name, value in annotated.items():
        if value != found[name]:
            raise ManifestError(
                f"the {name} of {run.path} is not that of the data: {value} -> {found[name]}",
                "annotate again with --force",
            )


def read_own_manifest(run: Run) -> pa.Table:
    """Read the manifest; refuse one that another run wrote."""
    manifest = run.manifest()
    found = (manifest.schema.metadata or {}).get(b"run_digest", b"").decode()
    horizons = manifest["horizon"].unique().to_pylist()
    if found != run.info["digest"] or horizons != [run.info["options"]["horizon"]]:
        raise ManifestError(
            f"the manifest of {run.path} was written by another run: digest {found}, horizon "
            f"{horizons}; expected {run.info['digest']}, {run.info['options']['horizon']}",
            "annotate again with --force",
        )
    return manifest


def place_values(
    study: Study,
    manifest: pa.Table,
    name: str,
    episodes: Int64[np.ndarray, " episode"],
    columns: Sequence[str],
) -> dict[str, Float64[np.ndarray, " window"]]:
    """Give every whole window of some episodes of a member what the manifest says of it.

    Parameters
    ----------
    study : Study
        The run's data.
    manifest : pyarrow.Table
        Of the run; at least the member's rows.
    name : str
        Of the member.
    episodes : ndarray, int64, shape (episode,)
        Those wanted.
    columns : sequence of str
        Of the manifest, with numbers.

    Returns
    -------
    dict of str to ndarray, float64, shape (window,)
        A value a whole window, in the order of `episodes`; NaN where there is none.
    """
    rows = manifest.filter(pc.equal(manifest["dataset"], name))
    place = _find_rows(study, rows, name, episodes)
    found = {}
    for column in columns:
        values = rows[column].to_numpy(zero_copy_only=False).astype(np.float64)
        found[column] = np.append(values, np.nan)[place]  # the last is of those without a row
    return found


def _find_rows(study: Study, rows: pa.Table, name: str, episodes: np.ndarray) -> np.ndarray:
    """Find the row that speaks for each window; -1: none does."""
    counts = study.windows[name].counts[episodes]
    granularity, is_clean = study.options.granularity, name == study.clean.dataset
    if granularity == "dataset" or (granularity == "group" and is_clean):
        return np.zeros(counts.sum(), dtype=np.int64)
    if granularity == "group" and study.groups is not None:
        labels = pa.array(study.groups[name]).take(pa.array(episodes))
        of_episode = _index_in(labels, rows["group"])
        return np.repeat(of_episode, counts)
    ids = rows["episode_id"]
    frames = study.frames[name]
    wanted = frames.ids.take(episodes).column
    if granularity == "episode":
        return np.repeat(_index_in(wanted, ids), counts)
    number = _index_in(ids.combine_chunks(), wanted)  # of the episode, for every row
    window = rows["start"].to_numpy() // study.windows[name].stride
    usable = (number >= 0) & (window >= 0)
    usable[usable] &= window[usable] < counts[number[usable]]
    place = np.full(counts.sum(), -1)
    first = np.cumsum(counts) - counts
    place[first[number[usable]] + window[usable]] = np.flatnonzero(usable)
    return place


def _index_in(values: pa.Array, of: Any) -> np.ndarray:
    plain = of.cast(pa.string()) if pa.types.is_dictionary(of.type) else of
    found = pc.index_in(values.cast(pa.string()), value_set=plain)
    return found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def match_sequences(
    wanted: Int64[np.ndarray, " row"],
    known: Int64[np.ndarray, " place"],
    member: Int64[np.ndarray, " place"],
) -> tuple[Int64[np.ndarray, " row"], list[int]]:
    """Match values with those of sequences that were put together, whole or in parts, in any order.

    A value that occurs once in `known` has its place. Of several equal ones it is the one beside
    the place of its neighbour, in the same member.

    Parameters
    ----------
    wanted, known : ndarray, int64
        Values: the same number for the same actions.
    member : ndarray, int64, shape (place,)
        To which sequence the places of `known` belong.

    Returns
    -------
    place : ndarray, int64, shape (row,)
        In `known`; -1: not there. Of a doubtful one the first.
    doubtful : list of int
        Rows that the neighbours do not decide, or decide otherwise from either side.
    """
    order = np.argsort(known, kind="stable")
    first = np.searchsorted(known[order], wanted, side="left")
    count = np.searchsorted(known[order], wanted, side="right") - first
    place = np.where(count > 0, np.append(order, -1)[first], -1)
    certain = np.where(count == 1, place, -1)
    several = np.flatnonzero(count > 1).tolist()
    sides = []
    for rows, step in ((several, 1), (several[::-1], -1)):
        side = certain.copy()
        for row in rows:
            before = side[row - step] if 0 <= row - step < len(side) else -1
            beside = before + step
            if before >= 0 and 0 <= beside < len(known) and member[before] == member[beside]:
                side[row] = beside if known[beside] == wanted[row] else -1
        sides.append(side)
    doubtful = []
    for row in several:
        decided = {int(side[row]) for side in sides} - {-1}
        if len(decided) == 1:
            place[row] = decided.pop()
        else:
            doubtful.append(row)
    return place, doubtful


_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Sight:
    """One episode of a run.

    Parameters
    ----------
    rows : pyarrow.Table
        Its rows of the manifest, by start.
    episode : Episode or None
        Its data; None where that is gone.
    """

    rows: pa.Table
    episode: Episode | None


def look_up(run: Run, dataset: str, episode: str, data: Path | str | None = None) -> Sight:
    """Find an episode of a run by episode or window.

    Parameters
    ----------
    run : Run
        A finished run.
    dataset, episode : str
        Name of the dataset, and id of the episode; empty: the first there is.
    data : Path, str or None
        Where the collection lies now; None: where the run found it, if it is still there.

    Raises
    ------
    RunError
        If the run's rows do not speak for episodes, it has no such episode, or `data` is not what
        was annotated.
    """
    rows = run.manifest()
    if rows["episode_id"].null_count == rows.num_rows:
        raise RunError(
            f"the rows of {run.path} speak for whole datasets or groups, not for episodes",
            "annotate with --granularity episode or datapoint",
        )
    name = dataset or next(r["dataset"] for r in run.info["verdict"] if not r["is_clean"])
    own = rows.filter(pc.equal(rows["dataset"].cast(pa.string()), name))
    ids = own["episode_id"].unique().to_pylist()
    if not ids:
        known = ", ".join(run.info["members"])
        raise RunError(f"{run.path} has no dataset {name!r}", f"its datasets are {known}")
    wanted = episode or ids[0]
    if wanted not in ids:
        shown = ", ".join(ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")
        raise RunError(f"{name} has no episode {wanted!r}", f"its episodes are {shown}")
    return Sight(own.filter(pc.equal(own["episode_id"], wanted)), _read(run, name, wanted, data))


def _read(run: Run, dataset: str, episode: str, data: Path | str | None) -> Episode | None:
    try:
        collection = reopen_data(run, data)
    except CurateError:
        if data is not None:
            raise
        return None
    member = next(member for member in collection.members if member.name == dataset)
    return next((e for e in read_episodes(member, on_error="skip") if e.id == episode), None)
