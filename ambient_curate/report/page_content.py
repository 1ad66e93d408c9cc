"""What the page shows: ranked episodes, histograms, curves and traces, rounded."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64

from ambient_curate.analysis.spectra import estimate_spectrum, fit_decay, mean_power
from ambient_curate.data.collection import Collection, Member, read_episodes
from ambient_curate.divergence import delta_at, tv_range_at
from ambient_curate.errors import NotEnoughDataError
from ambient_curate.progress import Progress
from ambient_curate.readers.episodes import Episode

BINS = 50  # of sigma_min
CELLS = 120  # of a strip along an episode
SHOWN = 120  # episodes on a page, of all datasets
MOST = 6  # of one dataset, at each end and without an answer


@dataclass(frozen=True)
class Ranked:
    """An episode and what is drawn of it.

    Attributes
    ----------
    dataset, episode_id, group : str
        Which one; the group may be None.
    index : int
        Its position in the source.
    why : str
        lowest, highest, or abstained.
    sigma_min : float or None
        Of the episode, or the mean over its windows; null ones count 1.
    windows, nulls : int
        Rows of it, and those without an answer.
    status : str
        Of its first row.
    strip : list of float or None
        sigma_min along its windows, averaged in at most `CELLS` cells; empty where a row is an
        episode.
    curve : list of float
        p_clean at the levels of the grid, averaged over its windows; empty where not stored.
    """

    dataset: str
    episode_id: str
    group: str | None
    index: int
    why: str
    sigma_min: float | None
    windows: int
    nulls: int
    status: str
    strip: list[float | None]
    curve: list[float]


@dataclass
class Histogram:
    """Rows of a dataset or group by sigma_min.

    Attributes
    ----------
    counts : ndarray, int64, shape (bin,)
        Of equal bins of [0, 1].
    nulls, zeros, ones : int
        Rows without an answer, and at the ends, which are among `counts` too.
    """

    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))
    nulls: int = 0
    zeros: int = 0
    ones: int = 0

    def add(self, sigma_min: np.ndarray) -> None:
        """Count some rows; NaN for null."""
        known = sigma_min[~np.isnan(sigma_min)]
        self.nulls += sigma_min.size - known.size
        self.zeros += int((known == 0.0).sum())
        self.ones += int((known == 1.0).sum())
        place = np.minimum((known * BINS).astype(np.int64), BINS - 1)
        self.counts += np.bincount(place, minlength=BINS)


Name = tuple[str, str | None]


class Ranking:
    """Collects episodes part by part; then those at the ends are read again.

    Parameters
    ----------
    parts : sequence of Table
        Parts of the manifest, or whatever gives them again each time it is gone through. A part
        holds whole episodes.
    """

    def __init__(self, parts: Sequence[pa.Table]) -> None:
        self.parts = parts
        self.histograms: dict[Name, Histogram] = {}
        self._found: dict[str, list[tuple[float, int, int, bool]]] = {}
        for number, part in enumerate(parts):
            self._add(number, part)

    def _add(self, number: int, part: pa.Table) -> None:
        sigma_min, dataset, group = (
            part["sigma_min"].to_numpy(),
            part["dataset"].cast(pa.string()).combine_chunks(),
            part["group"].cast(pa.string()).combine_chunks(),
        )
        for pair in {(d, g) for d, g in _pairs(dataset, group)}:
            rows = pc.equal(dataset, pair[0])
            if pair[1] is not None:
                rows = pc.and_(rows, pc.fill_null(pc.equal(group, pair[1]), fill_value=False))
            self.histograms.setdefault(pair, Histogram()).add(sigma_min[rows.to_numpy(False)])
        for first, last in _episodes(part):
            rows = sigma_min[first:last]
            abstained = bool(np.isnan(rows).all())
            value = float(np.where(np.isnan(rows), 1.0, rows).mean())
            name = dataset[first].as_py()
            self._found.setdefault(name, []).append((value, number, first, abstained))

    def pick(self, skip: str) -> list[Ranked]:
        """Give the lowest, the highest and the unanswered episodes of every dataset but `skip`."""
        names = [name for name in self._found if name != skip]
        each = int(np.clip(SHOWN // max(3 * len(names), 1), 1, MOST))
        wanted: dict[tuple[int, int], str] = {}
        for name in names:
            answered = sorted(entry[:3] for entry in self._found[name] if not entry[3])
            half = min(each, -(-len(answered) // 2))
            chosen = {"lowest": answered[:half], "highest": answered[half:][-each:][::-1]}
            chosen["abstained"] = [entry[:3] for entry in self._found[name] if entry[3]][:each]
            for why, entries in chosen.items():
                wanted |= {(number, first): why for _, number, first in entries}
        return [self._read(*place, why) for place, why in wanted.items()]

    def _read(self, number: int, first: int, why: str) -> Ranked:
        part = self.parts[number]
        last = next(end for start, end in _episodes(part) if start == first)
        rows = part.slice(first, last - first)
        sigma_min = rows["sigma_min"].to_numpy()
        null = np.isnan(sigma_min)
        row = rows.slice(0, 1).to_pylist()[0]
        mean = None if null.all() else float(np.where(null, 1.0, sigma_min).mean())
        return Ranked(
            dataset=row["dataset"],
            episode_id=row["episode_id"],
            group=row["group"],
            index=row["episode_index"],
            why=why,
            sigma_min=mean,
            windows=rows.num_rows,
            nulls=int(null.sum()),
            status=row["status"],
            strip=_strip(sigma_min) if row["start"] is not None else [],
            curve=_curve(rows),
        )


def _pairs(dataset: pa.Array, group: pa.Array) -> Iterator[tuple[str, str | None]]:
    both = pa.table({"dataset": dataset, "group": group}).group_by(["dataset", "group"])
    for row in both.aggregate([]).to_pylist():
        yield row["dataset"], row["group"]


def _episodes(part: pa.Table) -> Iterator[tuple[int, int]]:
    """First row of every episode of a part, and the row behind its last."""
    if part.num_rows == 0 or part["episode_id"].null_count == part.num_rows:
        return
    code = pc.dictionary_encode(part["dataset"].cast(pa.string())).combine_chunks()
    dataset, index = code.indices.to_numpy(), part["episode_index"].to_numpy()
    new = (np.diff(index) != 0) | (np.diff(dataset) != 0)
    edges = [0, *(np.flatnonzero(new) + 1).tolist(), part.num_rows]
    yield from pairwise(edges)


def _strip(sigma_min: np.ndarray) -> list[float | None]:
    cells = np.array_split(sigma_min, min(CELLS, sigma_min.size))
    means = [cell[~np.isnan(cell)].mean() if (~np.isnan(cell)).any() else None for cell in cells]
    return [None if mean is None else round(float(mean), 3) for mean in means]


def _curve(rows: pa.Table) -> list[float]:
    stored = [curve for curve in rows["p_clean"].to_pylist() if curve]
    return [] if not stored else np.mean(stored, axis=0).round(4).tolist()


def as_rows(episodes: Sequence[Ranked], traces: Mapping[tuple[str, str], Any]) -> list[Any]:
    """Give episodes as JSON values, with their traces of actions where there are any."""
    return [
        vars(episode) | {"trace": traces.get((episode.dataset, episode.episode_id))}
        for episode in episodes
    ]


MOST_GROUPS = 200  # curves of groups beyond that many are left out, and the page says so
COLUMNS = (
    *("accuracy", "delta", "delta_lower_approx", "delta_upper_approx", "tv", "tv_lower_approx"),
    *("tv_upper_approx", "delta_lower", "delta_upper", "tv_lower", "tv_upper"),
)


def list_curves(curves: pa.Table) -> tuple[list[dict[str, Any]], int]:
    """List the curves of datasets and groups, and the number of groups that are left out.

    Parameters
    ----------
    curves : pyarrow.Table
        ``curves.parquet``.
    """
    frame = curves.to_pandas()
    for name in ("dataset", "group"):
        frame[name] = frame[name].astype(object)
    found: list[dict[str, Any]] = []
    left_out = 0
    for (dataset, group), rows in frame.groupby(["dataset", "group"], dropna=False, sort=True):
        label = group if isinstance(group, str) else None
        if label is not None and sum(each["group"] is not None for each in found) >= MOST_GROUPS:
            left_out += 1
            continue
        counts = {name: int(rows[name].iloc[0]) for name in ("n_clean", "n_corrupt")}
        values = {name: round_all(rows[name].to_numpy(dtype=np.float64)) for name in COLUMNS}
        sigma = round_all(rows["sigma"].to_numpy(), 6)
        found.append({"dataset": dataset, "group": label, **counts, "sigma": sigma, **values})
    return found, left_out


def list_reliability(reliability: pa.Table) -> list[dict[str, Any]]:
    """Average what is predicted and what is so over the bands of noise levels, bin by bin."""
    frame = reliability.to_pandas()
    frame = frame[frame["group"].isna()].astype({"dataset": object})
    found = []
    for dataset, rows in frame.groupby("dataset", sort=True):
        points = []
        for _, cell in rows.groupby("p_low", sort=True):
            weight = cell["weight"].to_numpy()
            if weight.sum() > 0:
                means = [
                    float(np.average(cell[name], weights=weight))
                    for name in ("mean_c", "fraction_clean")
                ]
                points.append([round(x, 4) for x in (*means, float(weight.mean()))])
        found.append({"dataset": dataset, "group": None, "points": points})
    return found


def list_histograms(histograms: Mapping[Name, Histogram], clean: str) -> list[dict[str, Any]]:
    """List histograms of sigma_min by corrupt dataset and group."""
    return [
        {
            "dataset": dataset,
            "group": group,
            "counts": found.counts.tolist(),
            "bins": BINS,
            "nulls": found.nulls,
            "zeros": found.zeros,
            "ones": found.ones,
        }
        for (dataset, group), found in sorted(histograms.items(), key=lambda x: (x[0][0], str(x)))
        if dataset != clean
    ]


def list_tilts(verdict: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List how far choosing by window tilts the mixture, of datasets that have it."""
    return [
        {"dataset": row["dataset"], "group": None, **row["tilt"]} for row in verdict if row["tilt"]
    ]


def threshold(epsilon: float) -> dict[str, float]:
    """Give what the rule compares with."""
    low, high = tv_range_at(epsilon)
    return {"delta": delta_at(epsilon), "tv_low": low, "tv_high": high}


def round_all(values: np.ndarray, digits: int = 4) -> list[float | None]:
    """Round for JSON; NaN is null."""
    return [None if np.isnan(value) else round(float(value), digits) for value in values]


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
    scales: Mapping[str, Float64[np.ndarray, " action"]],
    progress: Progress,
) -> Gathered:
    """Read episodes; no dataset is read further than to the last that is shown or measured.

    Parameters
    ----------
    collection : Collection
        What was annotated.
    wanted : iterable of (str, str)
        Datasets and ids of episodes to be shown.
    scales : mapping of str to ndarray, float64, shape (action,)
        By which the run multiplies actions, by dataset.
    progress : Progress
        Told of every episode read.
    """
    left: dict[str, set[str]] = {}
    for dataset, episode in wanted:
        left.setdefault(dataset, set()).add(episode)
    found = Gathered({}, [])
    for member in collection.members:
        _read(member, left.get(member.name, set()), scales[member.name], found, progress)
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
