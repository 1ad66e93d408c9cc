"""Traces: the actions of some episodes, thinned, and spectra, if the data is still there."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from ambient_curate.collection import Collection, Member, read_episodes
from ambient_curate.episodes import Episode
from ambient_curate.errors import NotEnoughDataError
from ambient_curate.progress import Progress
from ambient_curate.reports.series import round_all
from ambient_curate.spectra import estimate_spectrum, fit_decay, mean_power

FRAMES = 160
DIMENSIONS = 16
MEASURED = 64  # episodes of a dataset whose spectrum is measured


@dataclass(frozen=True)
class Gathered:
    """What a report shows of the data itself.

    Attributes
    ----------
    traces : dict of (str, str) to dict
        By dataset and episode: ``frames``, their number; ``at``, the frames shown; ``action``, a
        list a dimension, at most `DIMENSIONS`; ``dims``, how many there are; ``rate_hz``.
    spectra : list of dict
        Of each dataset's first `MEASURED` episodes, if they are long enough: power summed over
        dimensions by frequency, with its interval, and the exponent of its decay.
    """

    traces: dict[tuple[str, str], dict[str, Any]]
    spectra: list[dict[str, Any]]


def gather(
    collection: Collection,
    wanted: Iterable[tuple[str, str]],
    scale: Float64[np.ndarray, " action"],
    progress: Progress,
) -> Gathered:
    """Read episodes; no dataset is read further than to the last that is shown or measured.

    Parameters
    ----------
    collection : Collection
        What was annotated.
    wanted : iterable of (str, str)
        Datasets and ids of episodes to be shown.
    scale : ndarray, float64, shape (action,)
        By which the run multiplies actions.
    progress : Progress
        Told of every episode read.
    """
    left: dict[str, set[str]] = {}
    for dataset, episode in wanted:
        left.setdefault(dataset, set()).add(episode)
    found = Gathered({}, [])
    for member in collection.members:
        _read(member, left.get(member.name, set()), scale, found, progress)
    return found


def _read(
    member: Member, ids: set[str], scale: np.ndarray, found: Gathered, progress: Progress
) -> None:
    measured: list[np.ndarray] = []
    for episode in read_episodes(member, on_error="skip", progress=progress):
        if episode.id in ids:
            found.traces[member.name, episode.id] = _thin(episode)
            ids = ids - {episode.id}
        if len(measured) < MEASURED:
            measured.append(episode.action * scale)
        elif not ids:
            break
    with suppress(NotEnoughDataError):
        found.spectra.append({"dataset": member.name, "group": None, **_measure(measured)})


def _measure(actions: list[np.ndarray]) -> dict[str, Any]:
    spectrum = estimate_spectrum(actions)
    summed, order = spectrum.power.sum(axis=2, keepdims=True), spectrum.order[:1]
    pooled = replace(spectrum, power=summed, order=order)
    power, decay = mean_power(pooled), fit_decay(spectrum, pooled=True)
    return {
        "episodes": spectrum.n_episodes,
        "frequency": round_all(spectrum.frequency, 5),
        "power": [[float(f"{x:.3g}") for x in part[:, 0]] for part in vars(power).values()],
        "alpha": round_all(np.array([decay.value[0], decay.lower[0], decay.upper[0]]), 2),
    }


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
