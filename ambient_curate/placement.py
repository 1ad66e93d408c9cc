"""Placement: which row of a manifest speaks for which window of the data."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64, Int64

from ambient_curate.study import Study


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
