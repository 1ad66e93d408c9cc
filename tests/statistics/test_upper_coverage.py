"""How often the bounds from the upper side hold, and how wide they are.

`alpha` is the stated probability of a bound that is too low; a test demands a coverage of at least
``1 - alpha`` less three standard errors. Each prints its figures.
"""

import numpy as np
import pytest
from mixtures import Array, along, direction, exact_divergences, weighted
from scipy.special import erf

from ambient_curate.divergence import gaussian_delta
from ambient_curate.noise import ve_from_sigma
from ambient_curate.statistics.upper_bounds import Measure, kernel_divergence, population_upper

pytestmark = pytest.mark.validity

REPETITIONS = 1_000
ALPHA = 0.05
LEAST = 1.0 - ALPHA - 3.0 * np.sqrt(ALPHA * (1.0 - ALPHA) / REPETITIONS)
LEVELS = np.array([0.5, 0.7, 0.9])
STD, SHIFT = 0.5, 0.5


@pytest.mark.parametrize("dim", [2, 16])
@pytest.mark.parametrize("draws", [50, 500])
def test_the_kernel_s_upper_ends_hold_for_the_empirical_measures(dim: int, draws: int) -> None:
    rng = np.random.default_rng(20260410)
    sides = [rng.normal(shift, STD, 15) for shift in (0.0, SHIFT)]
    shares = [rng.exponential(size=15) for _ in sides]
    line = [weighted(x[:, None], w) for x, w in zip(sides, shares, strict=True)]
    wide = [weighted(along(x, dim), w) for x, w in zip(sides, shares, strict=True)]
    exact = np.array([exact_divergences(line[0], line[1], float(sigma)) for sigma in LEVELS]).T
    covered, excess, inside = np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3))
    for _ in range(REPETITIONS):
        found = kernel_divergence(wide[0], wide[1], LEVELS, draws=draws, alpha=ALPHA, rng=rng)
        upper = np.stack([found.delta_upper, found.tv_upper])
        covered += upper >= exact - 1e-5  # of quadrature
        inside += np.stack([found.delta, found.tv]) >= exact
        excess += upper - exact
    print(f"\nempirical, dim {dim}, {draws} pairs: Delta and TV at sigma {LEVELS}")
    print(exact.round(3), "coverage", covered / REPETITIONS, "width", excess / REPETITIONS)
    assert (covered / REPETITIONS >= LEAST).all()
    assert (inside / REPETITIONS < LEAST).all()  # the estimates alone would not


def population() -> tuple[Array, Array]:
    """Delta and TV of N(0, v I) and N(shift, v I) after noise, at every level."""
    distance = SHIFT / np.sqrt(STD**2 + ve_from_sigma(LEVELS) ** 2)
    return gaussian_delta(distance), erf(distance / np.sqrt(8.0))


def draw_episodes(count: int, dim: int, shift: float, rng: np.random.Generator) -> Measure:
    """One to three windows an episode, alike within it; each by itself is N(shift, v I)."""
    windows = rng.integers(1, 4, count)
    owner = np.repeat(np.arange(count), windows)
    own, shared = (rng.standard_normal((n, dim)) for n in (owner.size, count))
    points = STD * (np.sqrt(0.2) * own + np.sqrt(0.8) * shared[owner]) + shift * direction(dim)
    return Measure(points, 1.0 / (count * windows[owner]))


@pytest.mark.parametrize("dim", [2, 16])
@pytest.mark.parametrize(("count", "draws"), [(50, 500), (500, 200), (5_000, 50)])
def test_the_kernel_and_mcdiarmid_hold_for_the_population(count: int, draws: int, dim: int) -> None:
    """On the estimates, not their upper ends: the population's margin has to do by itself."""
    rng = np.random.default_rng(20260410)
    truth, levels = np.stack(population()), LEVELS[1:]
    truth = truth[:, 1:]
    upper, bare = np.empty((REPETITIONS, 2, 2)), np.empty((REPETITIONS, 2, 2))
    for index in range(REPETITIONS):
        sides = [draw_episodes(count, dim, shift, rng) for shift in (0.0, SHIFT)]
        found = kernel_divergence(sides[0], sides[1], levels, draws=draws, rng=rng)
        bare[index] = found.delta, found.tv
        upper[index] = population_upper(found.delta, found.tv, count, count, ALPHA)
    report("kernel", count, dim, truth, upper, bare)


def report(name: str, count: int, dim: int, truth: Array, upper: Array, bare: Array) -> None:
    """Print shares and means over repetitions, and demand the coverage; NaN covers."""
    holds = ~(upper < truth)
    top = np.array([2.0, 1.0])[:, None]
    filled = np.where(np.isnan(upper), top, upper)
    print(f"\npopulation, {name}, {count} episodes a side, dim {dim}: sigma {LEVELS[1:]}")
    for row, what in enumerate(("Delta", "TV")):
        print(
            f"  {what} {truth[row].round(3)}: coverage {holds.mean(axis=0)[row]}, mean bound "
            f"{filled.mean(axis=0)[row].round(3)}, of it empirical "
            f"{bare.mean(axis=0)[row].round(3)}, empirical alone covers "
            f"{(bare >= truth).mean(axis=0)[row]}"
        )
    assert (holds.mean(axis=0) >= LEAST).all()
    assert (bare.mean(axis=0) >= truth - 3.0 * bare.std(axis=0) / np.sqrt(len(bare))).all()
