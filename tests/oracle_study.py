"""Fit, score and cross in memory: the path of `annotate` for distributions with known answers."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy.optimize import brentq
from threadpoolctl import threadpool_limits

from ambient_curate.annotation.assessment import compare_sets, measure_population
from ambient_curate.annotation.curves import PopulationCurves, Side, hold_out, summarize_population
from ambient_curate.classifier.channels import Channel, noise_channel
from ambient_curate.classifier.fit import FitOptions, FoldClassifier, fit_fold
from ambient_curate.classifier.networks import Sizes
from ambient_curate.classifier.out_of_fold import ScoreOptions, noise_seed, score_episode
from ambient_curate.data.folds import assign_folds
from ambient_curate.data.populations import Population
from ambient_curate.data.windows import Windows
from ambient_curate.divergence import gaussian_delta
from ambient_curate.noise import grid
from ambient_curate.statistics.brackets import build_envelope, know_nothing

SIGMA = grid("squaredcos_cap_v2:100")
EPSILON = 0.05
Episodes = Sequence[np.ndarray]


def make_population(name: str, episodes: Episodes, horizon: int, folds: int) -> Population:
    """Make a population of un-normalised episodes of shape (frame, action)."""
    length = np.array([len(episode) for episode in episodes], dtype=np.int64)
    action = torch.from_numpy(np.concatenate(episodes).astype(np.float32))
    windows = Windows(action, None, np.cumsum(length) - length, length, horizon, 1)
    ids = [f"{name}-{number}" for number in range(len(episodes))]
    fold = assign_folds({name: ids}, {name: ids}, folds)[name]
    return Population(name, None, windows, np.arange(len(episodes)), fold)


def channel_of(population: Population, sigma: np.ndarray = SIGMA) -> Channel:
    """Noise up to every scored level of a grid, for the windows of a population."""
    windows = population.windows
    return noise_channel(
        sigma, Sizes(windows.horizon, windows.action.shape[1], windows.condition_dim)
    )


def cross(
    clean: Episodes,
    corrupt: Sequence[Episodes],
    *,
    horizon: int,
    options: FitOptions,
    channel: Channel | None = None,
    sigma: np.ndarray = SIGMA,
    draws: int = 2,
) -> list[PopulationCurves]:
    """Curves of every corrupt set, out of fold; at all levels of a grid, or at a channel's own."""
    p = make_population("clean", clean, horizon, options.folds)
    q = [
        make_population(f"q{i}", episodes, horizon, options.folds)
        for i, episodes in enumerate(corrupt)
    ]
    levels = sigma if channel is None else channel.levels
    seen = channel_of(p, sigma) if channel is None else channel
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        with ThreadPoolExecutor(2) as pool:
            folds = range(options.folds)
            fits = list(pool.map(lambda fold: fit_fold(p, q, fold, seen, options), folds))
        own = _side(fits, p, list(range(len(q))), draws, is_clean=True)
        others = [
            _side(fits, population, [i], draws, is_clean=False)[0] for i, population in enumerate(q)
        ]
        sides = list(zip(q, own, others, strict=True))
        result = [
            _summarize(levels, (p, population), *both, known=channel is None)
            for population, *both in sides
        ]
    torch.set_num_threads(before)
    return result


def _summarize(
    sigma: np.ndarray, populations: tuple[Population, Population], p: Side, q: Side, *, known: bool
) -> PopulationCurves:
    """Summarise a pair; `known`: whether anything bounds its divergences from above."""
    rng = np.random.default_rng(0)
    if known:
        sets = [
            measure_population(population, population.episodes, rng) for population in populations
        ]
        finite = compare_sets(*sets, sigma, rng)
    else:
        finite = know_nothing(sigma.size, len(p.weight), len(q.weight))
    held = hold_out(p.hold_back(sigma), q.hold_back(sigma), np.random.default_rng(0))
    envelope = build_envelope(sigma, held, finite, epsilon=EPSILON)
    p, q = p.interpolate(sigma), q.interpolate(sigma)
    name = (populations[1].dataset, None)
    return summarize_population(name, sigma, p, q, envelope, epsilon=EPSILON, rng=rng)


def _side(
    fits: Sequence[FoldClassifier],
    population: Population,
    heads: Sequence[int],
    draws: int,
    *,
    is_clean: bool,
) -> list[Side]:
    scores = [
        score_episode(
            fits[int(population.fold[episode])],
            population,
            int(episode),
            heads,
            is_clean=is_clean,
            seed=noise_seed(0, population.dataset, str(episode)),
            options=ScoreOptions(draws=draws, most_windows=64),
        )
        for episode in population.episodes
    ]
    return [
        Side(
            np.stack([score.statistics[head] for score in scores]),
            np.stack([score.histogram[head] for score in scores]),
            np.ones(len(scores)),
            population.fold[population.episodes],
        )
        for head in range(len(heads))
    ]


def gaussian_episodes(
    rng: np.random.Generator, count: int, mean: np.ndarray, variance: float
) -> list[np.ndarray]:
    """Episodes of one window each: N(mean, variance I), mean of shape (horizon, action)."""
    return [mean + rng.normal(0.0, variance**0.5, mean.shape) for _ in range(count)]


def gaussian_sigma_min(distance: float, variance: float, epsilon: float = EPSILON) -> float:
    """Exact sigma_min of N(0, v I) against N(mu, v I), |mu| = distance (Gaussian oracle)."""

    def excess(sigma: float) -> float:
        signal = 1.0 - sigma**2
        spread = np.sqrt(signal * variance + sigma**2)
        return float(gaussian_delta(np.sqrt(signal) * distance / spread)) - 4.0 * epsilon

    return float(brentq(excess, 1e-9, 1.0 - 1e-12)) if excess(1e-9) > 0 else 0.0
