"""Planted controls: changes of known sigma_min in half of the clean episodes.

A control asks whether the classifier is good enough on this data. One moves a mean, which means
and covariances show; the other changes a shape alone, which they do not (method.md section 7).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from ambient_curate.data.populations import Numbers, Population, Windowed
from ambient_curate.divergence import delta_at, gaussian_delta
from ambient_curate.statistics.bootstrap import pick_evenly

SHIFT = "planted shift"
SPIKES = "planted spike"
SIGMA = 0.2  # where a control crosses if clean windows do not vary along it
QUIET = 0.05  # standard deviation below which noise of that level hides a direction
DIRECTIONS = 8  # in which spikes are planted
SHARE = 0.1  # of the windows, along each of them
WINDOWS = 8_192  # of either half, that show how the clean set varies
FURTHEST = 50.0  # standard deviations, in the search for a length


@dataclass(frozen=True, eq=False)
class PlantedShift:
    """The same vector added to every window.

    Parameters
    ----------
    shift : Tensor, float32, shape (horizon, action)
        What is added.
    """

    shift: Float32[Tensor, "horizon action"]

    def apply(self, windows: Windowed, episode: Numbers, number: Numbers) -> Windowed:
        """Add the vector; which windows they are does not matter."""
        return windows + self.shift


@dataclass(frozen=True, eq=False)
class PlantedSpikes:
    """Rare displacements of one length, along each of some directions independently.

    Parameters
    ----------
    directions : Tensor, float32, shape (direction, horizon, action)
        Orthonormal.
    length : float
        Of a displacement, > 0; its sign is + or - with equal chance.
    share : float
        Probability of a displacement, for each window and direction, in (0, 1).
    seed : int
        With the window it decides the draw.
    """

    directions: Float32[Tensor, "direction horizon action"]
    length: float
    share: float
    seed: int

    def apply(self, windows: Windowed, episode: Numbers, number: Numbers) -> Windowed:
        """Displace some of the windows."""
        chance = draw_uniform(self.seed, episode, number, len(self.directions))
        sign = (chance > 1.0 - self.share / 2).astype(np.float64) - (chance < self.share / 2)
        return _add(windows, self.length * sign, self.directions)


@dataclass(frozen=True, eq=False)
class PlantedNoise:
    """Normal displacements along each of some directions independently.

    Parameters
    ----------
    directions : Tensor, float32, shape (direction, horizon, action)
        Orthonormal.
    spread : float
        Standard deviation along each of them, > 0.
    seed : int
        With the window it decides the draw.
    """

    directions: Float32[Tensor, "direction horizon action"]
    spread: float
    seed: int

    def apply(self, windows: Windowed, episode: Numbers, number: Numbers) -> Windowed:
        """Displace the windows."""
        from scipy.special import ndtri

        chance = draw_uniform(self.seed, episode, number, len(self.directions))
        return _add(windows, self.spread * ndtri(chance), self.directions)


def _add(windows: Tensor, size: Float64[np.ndarray, "window direction"], along: Tensor) -> Tensor:
    """Add multiples of directions, one after the other: a matrix product depends on the batch."""
    sizes = torch.from_numpy(size.astype(np.float32))
    moved = windows.clone()
    for column, direction in enumerate(along):
        moved += sizes[:, column, None, None] * direction
    return moved


def draw_uniform(
    seed: int, episode: Numbers, number: Numbers, count: int
) -> Float64[np.ndarray, "window count"]:
    """Draw numbers that depend on the seed and on which window it is, and on nothing else.

    Parameters
    ----------
    seed : int
        Any whole number; it counts modulo 2^64.
    episode, number : ndarray, int64, shape (window,)
        Which windows.
    count : int
        Numbers a window.

    Returns
    -------
    ndarray, float64, shape (window, count)
        Uniform in (0, 1), neither end included.

    References
    ----------
    Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014 (SplitMix64).
    """
    state = _mix(np.array([seed % 2**64], np.uint64))
    state = _mix(state + episode.astype(np.uint64))
    state = _mix(state + number.astype(np.uint64))
    bits = _mix(state[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GAMMA)
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(state: np.ndarray) -> np.ndarray:
    """Scramble 64 bits (the output function of SplitMix64); arrays overflow without a warning."""
    state = state + _GAMMA
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@dataclass(frozen=True, eq=False)
class Control:
    """A planted corruption whose sigma_min is known.

    Parameters
    ----------
    population : Population
        One half of the clean episodes, changed; it is compared with the other half.
    sigma_min : float
        Where its Delta crosses 4 epsilon, in (0, 1).
    """

    population: Population
    sigma_min: float

    @property
    def name(self) -> str:
        """What was planted: `SHIFT` or `SPIKES`."""
        return self.population.dataset


def plant_controls(clean: Population, folds: int, epsilon: float, seed: int) -> tuple[Control, ...]:
    """Plant a shift and spikes in the same half of the clean episodes.

    Parameters
    ----------
    clean : Population
        The clean set.
    folds : int
        Number of folds; with fewer than two clean episodes a fold there is no control.
    epsilon : float
        Margin of the rule, in (0, 1/2).
    seed : int
        Decides where spikes are, and in which windows.

    Returns
    -------
    tuple of Control
        The two, or none if there are too few clean episodes or every dimension is constant.
    """
    rank = _rank_within_fold(clean)
    changed, others = clean.episodes[rank % 2 == 1], clean.episodes[rank % 2 == 0]
    if len(np.unique(clean.fold[changed])) < folds:
        return ()
    half = Population(SHIFT, None, clean.windows, changed, clean.fold, clean_episodes=others)
    values = _read(half, others), _read(half, changed)
    if not values[0].var(axis=0).any():
        return ()
    return _plant_shift(half, values, epsilon), _plant_spikes(half, values, epsilon, seed)


def _read(population: Population, episodes: np.ndarray) -> Float64[np.ndarray, "window dim"]:
    """Read at most `WINDOWS` windows of some episodes, as they are."""
    episodes = episodes[pick_evenly(episodes.size, WINDOWS)]
    each = WINDOWS // episodes.size
    picked = [pick_evenly(int(count), each) for count in population.windows.counts[episodes]]
    owner = np.repeat(episodes, [len(numbers) for numbers in picked])
    return population.windows.gather(owner, np.concatenate(picked)).flatten(1).double().numpy()


def _rank_within_fold(population: Population) -> np.ndarray:
    fold = population.fold[population.episodes]
    rank = np.empty_like(fold)
    for value in np.unique(fold):
        rank[fold == value] = np.arange(np.count_nonzero(fold == value))
    return rank


# directions are found in one half, and the variance along them is that of the other: the directions
# of least variance of a sample have more in the next one
Halves = tuple[Float64[np.ndarray, "_ dim"], Float64[np.ndarray, "_ dim"]]


def _plant_shift(half: Population, values: Halves, epsilon: float) -> Control:
    """Shift along the direction in which clean windows vary least.

    Along that direction the clean windows are nearly one point, so that two halves differ there
    as N(0, a^2 v + sigma^2) and N(a delta, a^2 v + sigma^2), whatever the rest is; their
    Delta is `divergence.gaussian_delta`.
    """
    unit = _eigenvectors(values[0])[1][:, 0]
    variance = float(np.var(values[1] @ unit))
    length, sigma_min = _choose_length(lambda d: float(gaussian_delta(d)), variance, epsilon)
    shift = _as_window(half, length * unit)
    return Control(replace(half, planted=PlantedShift(shift)), sigma_min)


def _plant_spikes(half: Population, values: Halves, epsilon: float, seed: int) -> Control:
    """Plant spikes in one half, and normal noise of the same covariance in the other."""
    along = find_quiet_directions(values[0], np.random.default_rng(seed))
    variance = float(np.var(values[1] @ along.T, axis=0).mean())
    length, sigma_min = _choose_length(
        lambda d: spikes_delta(d, count=len(along)), variance, epsilon
    )
    directions = torch.stack([_as_window(half, row) for row in along])
    population = replace(
        half,
        dataset=SPIKES,
        planted=PlantedSpikes(directions, length, SHARE, seed),
        planted_clean=PlantedNoise(directions, length * SHARE**0.5, seed),
    )
    return Control(population, sigma_min)


def _as_window(population: Population, flat: np.ndarray) -> Tensor:
    return torch.from_numpy(flat).float().reshape(population.windows.horizon, -1)


def _choose_length(
    divergence: Callable[[float], float], variance: float, epsilon: float
) -> tuple[float, float]:
    """Choose the length of a change, and say where it crosses.

    Parameters
    ----------
    divergence : callable
        Delta of a change of so many standard deviations of the noise; it rises from 0 to 2.
    variance : float
        Of the clean windows, v, where the change is.
    epsilon : float
        Margin of the rule.

    Returns
    -------
    tuple of float
        Length, and sigma_min: `SIGMA` for v = 0, and where ``sigma^2 / a^2 > 3 v`` for any v.
    """
    from scipy.optimize import brentq

    distance = float(brentq(lambda d: divergence(d) - delta_at(epsilon), 0.0, FURTHEST))
    noise = 2.0 * variance**0.5 + SIGMA / (1.0 - SIGMA**2) ** 0.5
    ratio = noise**2 - variance  # sigma^2 / a^2 at the crossing
    return distance * noise, float((ratio / (1.0 + ratio)) ** 0.5)


def _eigenvectors(values: Float64[np.ndarray, "window dim"]) -> tuple[np.ndarray, np.ndarray]:
    """Find variances, rising, and columns (dim, moving), over the coordinates that move at all."""
    moving = np.flatnonzero(values.var(axis=0) > 0.0)
    covariance = np.cov(values[:, moving], rowvar=False).reshape(moving.size, moving.size)
    variance, basis = np.linalg.eigh(covariance)
    columns = np.zeros((values.shape[1], moving.size))
    columns[moving] = basis
    return variance, columns


def find_quiet_directions(
    values: Float64[np.ndarray, "window dim"], rng: np.random.Generator
) -> Float64[np.ndarray, "direction dim"]:
    """Find directions in which clean windows hardly vary, each about one frame of one dimension.

    They lie in the span of the eigenvectors whose standard deviation is at most `QUIET` (or the
    least `DIRECTIONS` ones). Each is what lies in there of one coordinate, drawn among those of
    which nine tenths as much lies there as of any, and is orthogonal to the ones before.

    Parameters
    ----------
    values : ndarray, float64, shape (window, dim)
        Clean windows; some coordinate varies.
    rng : Generator
        Draws the coordinates.

    Returns
    -------
    ndarray, float64, shape (direction, dim)
        At most `DIRECTIONS` orthonormal rows.
    """
    variance, basis = _eigenvectors(values)
    quiet = max(DIRECTIONS, int(np.count_nonzero(variance <= QUIET**2)))
    span = basis[:, :quiet]
    rest, found = span.copy(), []  # what of every coordinate is not yet along a direction
    for _ in range(min(DIRECTIONS, span.shape[1])):
        inside = np.square(rest).sum(axis=1)
        unit = rest[rng.choice(np.flatnonzero(inside >= 0.9 * inside.max()))]
        unit = unit / np.linalg.norm(unit)
        rest -= np.outer(rest @ unit, unit)
        found.append(unit)
    return np.array(found) @ span.T


def spikes_delta(distance: float, *, count: int = DIRECTIONS, share: float = SHARE) -> float:
    """Delta between spikes and normal noise of the same covariance, seen through unit noise.

    Coordinates are independent. Under q each is 0 or, with probability `share`, one of +-distance,
    plus N(0, 1); under p it is N(0, 1 + share distance^2). The log-likelihood ratio is a sum of
    `count` terms of one law, here convolved on a lattice, and ``Delta = 2 - 4 E_q p / (p + q)``.

    Parameters
    ----------
    distance : float
        In standard deviations of the noise, in [0, 60].
    count : int
        Number of coordinates, >= 1.
    share : float
        Probability of a displacement, in (0, 1).
    """
    from scipy.fft import next_fast_len
    from scipy.special import expit

    x = np.linspace(-distance - 9.0, distance + 9.0, 8001)
    bells = [_normal(x - place) for place in (-distance, 0.0, distance)]
    q = share / 2 * (bells[0] + bells[2]) + (1.0 - share) * bells[1]
    spread = (1.0 + share * distance**2) ** 0.5
    ratio = np.log(q / _normal(x / spread) * spread)
    lattice = (np.clip(ratio, -_LIMIT, _LIMIT) + _LIMIT) / _STEP
    below = np.floor(lattice).astype(np.int64)
    size = int(2 * _LIMIT / _STEP) + 2
    law = np.bincount(below, q * (1.0 + below - lattice), size)
    law += np.bincount(below + 1, q * (lattice - below), size)
    length = int(next_fast_len(count * size, real=True))
    summed = np.fft.irfft(np.fft.rfft(law / law.sum(), length) ** count, length)
    total = np.arange(length) * _STEP - count * _LIMIT
    return float(2.0 - 4.0 * (summed @ expit(-total)))


_LIMIT = 30.0  # of one term of the log-likelihood ratio
_STEP = 0.01


def _normal(x: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * np.square(x)) / (2.0 * np.pi) ** 0.5
