"""Traces: the actions of some episodes, thinned, if their data is still there."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ambient_curate.collection import Collection, Member, read_episodes
from ambient_curate.episodes import Episode
from ambient_curate.progress import Progress

FRAMES = 160
DIMENSIONS = 16


def read_traces(
    collection: Collection, wanted: Iterable[tuple[str, str]], progress: Progress
) -> dict[tuple[str, str], dict[str, Any]]:
    """Read the actions of episodes, of which no dataset is read further than to the last.

    Parameters
    ----------
    collection : Collection
        What was annotated.
    wanted : iterable of (str, str)
        Datasets and ids of episodes.
    progress : Progress
        Told of every episode read.

    Returns
    -------
    dict of (str, str) to dict
        ``frames``, their number; ``at``, the frames shown; ``action``, a list a dimension, at
        most `DIMENSIONS`; ``dims``, how many there are; ``rate_hz``.
    """
    left: dict[str, set[str]] = {}
    for dataset, episode in wanted:
        left.setdefault(dataset, set()).add(episode)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for member in collection.members:
        if member.name in left:
            found |= _read(member, left[member.name], progress)
    return found


def _read(
    member: Member, ids: set[str], progress: Progress
) -> dict[tuple[str, str], dict[str, Any]]:
    found = {}
    for episode in read_episodes(member, on_error="skip", progress=progress):
        if episode.id in ids:
            found[member.name, episode.id] = _thin(episode)
        if len(found) == len(ids):
            break
    return found


def _thin(episode: Episode) -> dict[str, Any]:
    at = np.unique(np.linspace(0, episode.length - 1, min(FRAMES, episode.length)).astype(int))
    shown = episode.action[at, :DIMENSIONS].astype(np.float64)
    digits = 4 - int(np.floor(np.log10(max(float(np.abs(shown).max()), 1e-6))))
    return {
        "frames": episode.length,
        "at": at.tolist(),
        "action": np.round(shown, max(digits, 0)).T.tolist(),
        "dims": int(episode.action.shape[1]),
        "rate_hz": episode.rate_hz,
    }
