"""Probes: how well a task variable can be predicted from a noised window of actions.

The package's classifier, each class in the place of a corrupt set and all the others in that of
the clean set (one against the rest), gives each window the odds of every class, calibrated and out
of fold. What it reads is no more than there is to read.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ambient_curate.classifier.channels import noise_channel
from ambient_curate.classifier.fit import FitOptions, FoldClassifier, fit_fold
from ambient_curate.classifier.networks import Sizes
from ambient_curate.classifier.out_of_fold import noise_seed
from ambient_curate.data.cache import Frames
from ambient_curate.data.folds import assign_folds
from ambient_curate.data.populations import UNNAMED, Population, label_groups
from ambient_curate.data.windows import Windows
from ambient_curate.errors import ConfigError, NotEnoughDataError
from ambient_curate.noise import grid
from ambient_curate.progress import Progress, silent, track
from ambient_curate.statistics.bootstrap import pick_evenly

MOST_CLASSES = 16
_PARTS = 4  # classes that a number with many values is cut into


@dataclass(frozen=True)
class ProbeOptions:
    """How a probe is made.

    Attributes
    ----------
    of : str
        What to read: task, goal, cluster:K, or an episode column.
    schedule : str
        The trainer's, as for `noise.schedule_levels`.
    levels : int
        Noise levels probed, evenly spaced over the trainer's grid, >= 2.
    draws : int
        Noise draws of every window.
    most_windows : int
        Windows scored of an episode, at equal distances.
    fit : FitOptions
        Folds, seed and sizes.
    """

    of: str = "task"
    schedule: str = "squaredcos_cap_v2:100"
    levels: int = 24
    draws: int = 2
    most_windows: int = 64
    fit: FitOptions = field(default_factory=FitOptions)


@dataclass(frozen=True, eq=False)
class Probe:
    """How well a task variable is read, level by level.

    Parameters
    ----------
    dataset, of : str
        What was probed, for what.
    classes : tuple of str
        The most frequent first.
    episodes : tuple of int
        Of each class.
    left_out : dict of str to int
        Episodes of classes that do not fill every fold.
    sigma : ndarray, float64, shape (level,)
        Rising.
    accuracy, lower, upper : ndarray, float64, shape (level,)
        Balanced accuracy out of fold: the mean over classes of the share of its windows, episode
        by episode, that are named rightly; with an approximate 95 % interval over episodes.
    """

    dataset: str
    of: str
    classes: tuple[str, ...]
    episodes: tuple[int, ...]
    left_out: dict[str, int]
    sigma: Float64[np.ndarray, " level"]
    accuracy: Float64[np.ndarray, " level"]
    lower: Float64[np.ndarray, " level"]
    upper: Float64[np.ndarray, " level"]

    @property
    def chance(self) -> float:
        """Balanced accuracy of who does not look."""
        return 1.0 / len(self.classes)

    @property
    def readable(self) -> float:
        """Highest level up to which, at every level, the interval lies above chance; 0: none."""
        above = self.lower > self.chance
        count = int(above.argmin()) if not above.all() else above.size
        return float(self.sigma[count - 1]) if count else 0.0

    @property
    def halfway(self) -> float | None:
        """Lowest level at which half of what is read above chance without noise is gone.

        None where nothing is read; 1 if half of it is left at the highest level.
        """
        if self.readable == 0.0:
            return None
        below = self.accuracy < (self.accuracy[0] + self.chance) / 2
        return float(self.sigma[below.argmax()]) if below.any() else 1.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        stored = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self).items()}
        return stored | {"chance": self.chance, "readable": self.readable, "halfway": self.halfway}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Probe":
        """Inverse of `as_dict`."""
        arrays = ("sigma", "accuracy", "lower", "upper")
        return cls(
            dataset=stored["dataset"],
            of=stored["of"],
            classes=tuple(stored["classes"]),
            episodes=tuple(stored["episodes"]),
            left_out=dict(stored["left_out"]),
            **{name: np.array(stored[name], dtype=np.float64) for name in arrays},
        )


def label_episodes(name: str, frames: Frames, windows: Windows, of: str, *, seed: int) -> list[str]:
    """Give every episode its class.

    A column of numbers with more than `MOST_CLASSES` values is cut at its quartiles. Without a
    column called ``goal`` the goal is where the episode ends, as one of four clusters of last
    actions.

    Parameters
    ----------
    name : str
        Of the dataset.
    frames, windows
        Its episodes; the windows carry the normaliser.
    of : str
        As in `ProbeOptions`.
    seed : int
        Of any clustering.

    Raises
    ------
    ConfigError
        If there is no such column.
    """
    if of == "goal" and not any("goal" in labels for labels in frames.labels()):
        return _cluster_ends(frames, windows, seed)
    labels = label_groups({name: frames}, {name: windows}, of, seed=seed)[name]
    if of == "task" or len(set(labels)) <= MOST_CLASSES:
        return labels
    try:
        numbers = np.array([float(label) for label in labels])
    except ValueError:
        return labels
    edges = np.quantile(numbers, np.linspace(0, 1, _PARTS + 1)[1:-1])
    spans = [f"<= {edges[0]:.4g}", *(f"to {edge:.4g}" for edge in edges[1:]), f"> {edges[-1]:.4g}"]
    return [spans[part] for part in np.searchsorted(edges, numbers)]


def _cluster_ends(frames: Frames, windows: Windows, seed: int) -> list[str]:
    from sklearn.cluster import KMeans

    last = torch.from_numpy(frames.offset + frames.length - 1)
    ends = frames.data["action"][last].double().numpy()
    if windows.normalizer is not None:
        ends = ends * windows.normalizer.scale
    if len(np.unique(ends, axis=0)) < _PARTS:
        raise ConfigError(
            f"{len(np.unique(ends, axis=0))} different ends make no {_PARTS} goals",
            "probe for task or for an episode column",
        )
    found = KMeans(_PARTS, n_init=4, random_state=seed % 2**32).fit_predict(ends)
    return [f"goal {number}" for number in found]


def probe_dataset(
    name: str,
    frames: Frames,
    windows: Windows,
    options: ProbeOptions,
    *,
    progress: Progress = silent,
) -> Probe:
    """Measure how well a task variable is read from noised windows, over noise levels.

    Folds are of episodes: a window is judged by a network that saw nothing of its episode, nor of
    a copy. Classes weigh the same, whatever their sizes.

    Parameters
    ----------
    name : str
        Of the dataset.
    frames, windows
        Its episodes; the windows carry the normaliser.
    options : ProbeOptions
        What to read, and how.
    progress : Progress
        Told of every fold.

    Raises
    ------
    ConfigError
        If there is no such variable, or it has more than `MOST_CLASSES` classes.
    NotEnoughDataError
        If fewer than two classes have episodes in every fold.
    """
    labels = label_episodes(name, frames, windows, options.of, seed=options.fit.seed)
    populations, left_out = _lay_classes(name, frames, windows, labels, options)
    levels = grid(options.schedule)
    sigma = levels[pick_evenly(levels.size, options.levels)]
    sigma[0] = levels[0]
    everyone = _join(populations)
    share = torch.tensor(
        [population.episodes.size / everyone.episodes.size for population in populations]
    )
    scores: list[list[np.ndarray]] = [[] for _ in populations]
    folds = options.fit.folds
    channel = noise_channel(
        sigma, Sizes(windows.horizon, windows.action.shape[1], windows.condition_dim)
    )
    sigma = channel.levels
    steps = folds * len(populations) * options.fit.train.steps
    with track(progress, f"probing {name}", total=steps) as advance:
        for fold in range(folds):
            fitted = fit_fold(everyone, populations, fold, channel, options.fit, advance=advance)
            for number, population in enumerate(populations):
                for episode in population.in_folds([fold]).tolist():
                    seed = noise_seed(options.fit.seed, name, frames.ids[episode])
                    named = name_windows(fitted, population, episode, seed, options, share)
                    scores[number].append(named[:, number])
    return _summarise(name, options.of, populations, left_out, sigma, scores)


def _lay_classes(
    name: str, frames: Frames, windows: Windows, labels: Sequence[str], options: ProbeOptions
) -> tuple[list[Population], dict[str, int]]:
    """Lay a population for every class that fills the folds, the most frequent first."""
    whole = np.flatnonzero(windows.counts)
    classes = np.array(labels, dtype=object)
    counts = Counter(classes[whole].tolist())
    counts.pop(UNNAMED, None)
    folds = options.fit.folds
    kept = [label for label, n in sorted(counts.items(), key=lambda x: (-x[1], x[0])) if n >= folds]
    if len(kept) > MOST_CLASSES:
        raise ConfigError(
            f"{options.of} has {len(kept)} classes in {name}; expected at most {MOST_CLASSES}",
            "probe for a coarser variable, such as cluster:8",
        )
    members = {label: whole[classes[whole] == label] for label in kept}
    fold = _assign_folds(frames, members, folds)
    populations = [Population(name, label, windows, rows, fold) for label, rows in members.items()]
    populations = [
        population
        for population in populations
        if len(np.unique(fold[population.episodes])) == folds
    ]
    if len(populations) < 2:
        shown = ", ".join(f"{label}: {n}" for label, n in counts.most_common(8))
        raise NotEnoughDataError(
            f"{options.of} of {name} has {len(populations)} classes with {folds} different "
            f"episodes or more ({shown or 'no label'}); expected at least 2",
            "probe for another variable",
        )
    used = {str(population.group) for population in populations}
    everyone = _join(populations).episodes
    against = [replace(a, clean_episodes=np.setdiff1d(everyone, a.episodes)) for a in populations]
    return against, {label: n for label, n in counts.items() if label not in used}


def _join(populations: Sequence[Population]) -> Population:
    """Join the episodes of all classes into one population."""
    together = np.sort(np.concatenate([population.episodes for population in populations]))
    return replace(populations[0], group=None, episodes=together, clean_episodes=None)


def _assign_folds(
    frames: Frames, members: Mapping[str, np.ndarray], folds: int
) -> Int64[np.ndarray, " episode"]:
    """Deal the episodes of every class to folds; copies share one, whatever they are called."""
    fold = np.full(frames.n_episodes, -1)
    dealt = assign_folds(
        {label: frames.ids.take(rows) for label, rows in members.items()},
        {label: frames.digest[rows] for label, rows in members.items()},
        folds,
    )
    for label, rows in members.items():
        fold[rows] = dealt[label]
    return fold


def name_windows(
    fitted: FoldClassifier,
    population: Population,
    episode: int,
    seed: Sequence[int],
    options: ProbeOptions,
    share: Tensor,
) -> Float64[np.ndarray, "level class"]:
    """Share of an episode's noised windows that are taken for each class, at every level.

    With r_i the odds of class i to the rest, which has all classes in proportion to their shares
    s_i of the episodes, the density of class i is ``r_i / (s_i r_i + 1 - s_i)`` times that of all;
    the largest is named, ties are shared.

    Parameters
    ----------
    fitted : FoldClassifier
        Of the fold that holds the episode out; a head a class.
    population : Population
        Where the episode is.
    episode : int
        Episode of the member, with at least one whole window.
    seed : sequence of int
        From `out_of_fold.noise_seed`.
    options : ProbeOptions
        Draws, and how many windows.
    share : Tensor, shape (class,)
        Of the episodes.
    """
    picked = pick_evenly(int(population.windows.counts[episode]), options.most_windows)
    windows = population.windows.gather(np.full_like(picked, episode), picked)
    rng = np.random.default_rng(seed)
    shape = (len(picked), options.draws, population.windows.dim)
    noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    rest = fitted.predict(windows, noise, range(len(share)), slice(None)).double()
    density = (1.0 - rest) / (share * (1.0 - rest) + (1.0 - share) * rest)
    best = (density == density.amax(dim=-1, keepdim=True)).double()
    return (best / best.sum(dim=-1, keepdim=True)).mean(dim=(1, 2)).numpy()


def _summarise(
    name: str,
    of: str,
    populations: Sequence[Population],
    left_out: dict[str, int],
    sigma: np.ndarray,
    scores: Sequence[Sequence[np.ndarray]],
) -> Probe:
    """Average over episodes, then over classes; the interval is Student's over episodes."""
    from scipy.stats import t

    by_class = [np.stack(rows) for rows in scores]
    accuracy = np.mean([rows.mean(axis=0) for rows in by_class], axis=0)
    # an episode right and one wrong are added: a few that are all right leave no certainty
    # (Agresti and Caffo 2000)
    ends = np.stack([np.zeros(sigma.size), np.ones(sigma.size)])
    more = [np.concatenate([rows, ends]) for rows in by_class]
    variance = [rows.var(axis=0, ddof=1) / len(rows) for rows in more]
    error = np.sqrt(np.sum(variance, axis=0)) / len(populations)
    width = float(t.ppf(0.975, min(map(len, by_class)) - 1)) * error
    return Probe(
        dataset=name,
        of=of,
        classes=tuple(str(population.group) for population in populations),
        episodes=tuple(map(len, by_class)),
        left_out=left_out,
        sigma=sigma,
        accuracy=accuracy,
        lower=np.maximum(accuracy - width, 0.0),
        upper=np.minimum(accuracy + width, 1.0),
    )
