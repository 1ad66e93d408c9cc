"""The energy test against plain loops, enumeration, a closed form, and faults hard to see."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import foldnorm

from ambient_curate.cli.demo import add_tremor, move
from ambient_curate.errors import NotEnoughDataError
from ambient_curate.statistics.bootstrap import pick_evenly
from ambient_curate.statistics.energy_test import (
    MOST_WINDOWS,
    NEAREST,
    SAMPLE,
    STATISTICS,
    EnergyTest,
    compare_episodes,
    episode_distances,
    permute_episodes,
    scale_directions,
)

SIGMA = 0.0251
HORIZON = 16
NOISE = 0.2

Episodes = list[np.ndarray]


def draw_side(
    rng: np.random.Generator, counts: Sequence[int], dim: int = 3, shift: float = 0.0
) -> Episodes:
    """Episodes whose windows share an offset."""
    return [shift + rng.normal(size=dim) + 0.3 * rng.normal(size=(count, dim)) for count in counts]


def compare(clean: Episodes, corrupt: Episodes, seed: int = 0, **options: int) -> EnergyTest:
    rng = np.random.default_rng(seed)
    return compare_episodes(clean, corrupt, sigma=SIGMA, rng=rng, **options)


def mean_distances(side: Episodes, noise: float = NOISE) -> np.ndarray:
    """The definition, episode by episode."""
    asked = [e[pick_evenly(len(e), SAMPLE // len(side))] for e in side]
    pairs = itertools.permutations(asked, 2)
    square = np.concatenate([cdist(e, f, "sqeuclidean").ravel() for e, f in pairs])
    width = np.sqrt(np.quantile(square, NEAREST) + noise**2) / 2
    plain = [[cdist(e, f) for f in side] for e in side]
    saturate = [[1 - np.exp(-np.sqrt(d**2 + noise**2) / width) for d in row] for row in plain]
    return np.array([[[d.mean() for d in row] for row in kind] for kind in (plain, saturate)])


def distances_of(side: Episodes, noise: float = NOISE) -> np.ndarray:
    counts = np.array([len(e) for e in side], dtype=np.int64)
    return episode_distances(np.concatenate(side), counts, noise)


def statistic_of(distances: np.ndarray, clean: Sequence[int]) -> float:
    """The definition, pair by pair."""
    corrupt = [e for e in range(len(distances)) if e not in clean]
    across = np.mean([distances[e, f] for e in clean for f in corrupt])
    within = [
        np.mean([distances[e, f] for e, f in itertools.permutations(side, 2)])
        for side in (clean, corrupt)
    ]
    return float(2 * across - within[0] - within[1])


@settings(max_examples=20)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.integers(0, 99))
def test_distances_of_episodes_are_means_over_pairs_of_windows(
    counts: list[int], seed: int
) -> None:
    side = draw_side(np.random.default_rng(seed), counts)
    np.testing.assert_allclose(distances_of(side), mean_distances(side), rtol=1e-12)


def test_the_order_of_episodes_makes_no_difference() -> None:
    """Their width is asked of 1,000 windows, as many of each, whichever comes first."""
    rng = np.random.default_rng(11)
    side = draw_side(rng, rng.integers(1, 40, 150).tolist())
    order = rng.permutation(150)
    found = distances_of([side[i] for i in order])
    np.testing.assert_allclose(found, distances_of(side)[:, order][:, :, order], rtol=1e-12)


def test_blocks_of_windows_make_no_difference() -> None:
    counts = [300, 1, 257, 40]  # blocks end inside episodes
    side = draw_side(np.random.default_rng(1), counts)
    np.testing.assert_allclose(distances_of(side), mean_distances(side), rtol=1e-12)


def test_nearly_equal_windows_keep_their_distance() -> None:
    """|x|^2 + |y|^2 - 2 x y alone leaves distances of 1e-6 at places of 1e3 no digit."""
    rng = np.random.default_rng(2)
    places = 1e3 * rng.normal(size=(4, 5))
    windows = np.repeat(places, 3, axis=0) + 1e-6 * rng.normal(size=(12, 5))
    found = distances_of(list(windows[:, None]))[0]
    np.testing.assert_allclose(found, cdist(windows, windows), rtol=1e-6, atol=0.0)
    square = np.square(windows).sum(axis=1)
    naive = np.sqrt(np.abs(square[:, None] + square - 2.0 * windows @ windows.T))
    assert abs(naive[0, 1] / found[0, 1] - 1.0) > 0.1


def test_copies_are_no_difference() -> None:
    copies = [np.ones((4, 3))] * 5
    assert compare(copies, copies) == EnergyTest(0.0, 1.0, STATISTICS[0], 5, 5)


def test_distances_that_are_all_alike_are_no_difference() -> None:
    """The statistics are rounding errors then, which must not be told apart."""
    alike = (1.0 - np.eye(7))[None] * np.array([0.1, 1e9])[:, None, None]
    assert permute_episodes(alike, 3, np.random.default_rng(0))[1] == 1.0


@pytest.mark.parametrize("sizes", [(4, 4), (3, 5)])
def test_statistic_and_p_value_are_those_of_full_enumeration(sizes: tuple[int, int]) -> None:
    """Four against four: each split and its mirror image tie, which rounding must not hide."""
    rng = np.random.default_rng(3)
    n = sum(sizes)
    side = draw_side(rng, rng.integers(1, 6, n).tolist())
    side = side[: sizes[0]] + [episode + 1.0 for episode in side[sizes[0] :]]
    distances = distances_of(side)
    splits = list(itertools.combinations(range(n), sizes[0]))  # the observed one comes first
    energy = np.array([[statistic_of(kind, split) for split in splits] for kind in distances])
    height = (energy - energy.mean(axis=1)[:, None]) / energy.std(axis=1)[:, None]
    exact = np.mean(height.max(axis=0) >= height[:, 0].max() - 1e-9)
    permutations = 20_000
    found, p_value, strongest = permute_episodes(distances, sizes[0], rng, permutations)
    np.testing.assert_allclose(found, energy[:, 0], rtol=1e-10)
    assert strongest == height[:, 0].argmax()
    error = np.sqrt(exact * (1 - exact) / permutations)
    assert 0.0 < exact < 0.5
    assert abs(p_value - exact) <= 4 * error + 1 / permutations


def test_of_several_statistics_one_alone_can_reach_the_smallest_p_value() -> None:
    """Where each had a p-value of its own, others would be as small by chance in some labellings.

    Noise beside a clear difference costs little, and equal statistics cost nothing.
    """
    rng = np.random.default_rng(12)
    clear = cdist(*[np.repeat([0.0, 9.0], 15)[:, None] + rng.normal(size=(30, 1))] * 2)
    noise = [cdist(x, x) for x in rng.normal(size=(5, 30, 2))]
    assert permute_episodes(np.stack([*noise, clear]), 15, rng)[1:] == (0.001, 5)
    equal = [
        permute_episodes(np.stack([noise[0]] * k), 15, np.random.default_rng(0))[1] for k in (1, 3)
    ]
    assert equal[0] == equal[1]


def test_the_statistic_is_the_energy_distance_of_two_normal_laws() -> None:
    """E|N(m, 2)| is the mean of a folded normal law; windows of one number, 600 a side."""
    rng = np.random.default_rng(4)
    n, mean = 600, 0.8
    values = np.concatenate([rng.normal(size=n), mean + rng.normal(size=n)])[:, None]
    distances = distances_of(list(values[:, None]))
    found, p_value, _ = permute_episodes(distances[:1], n, rng, 199)
    across, within = (foldnorm.mean(m / 2**0.5, scale=2**0.5) for m in (mean, 0.0))
    assert found[0] == pytest.approx(2 * across - 2 * within, abs=0.1)
    assert p_value == 1 / 200


def test_directions_are_scaled_by_their_spread_at_the_noise_level() -> None:
    rng = np.random.default_rng(5)
    basis = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    windows = rng.normal(size=(50, 4)) * [3.0, 0.3, 0.02, 1e-6] @ basis.T + 7.0
    scaled, noise = scale_directions(windows, SIGMA)
    variance = np.linalg.eigvalsh(np.cov(windows.T, bias=True))
    expected = variance / ((1 - SIGMA**2) * variance + SIGMA**2)
    np.testing.assert_allclose(np.cov(scaled.T, bias=True), np.diag(expected), atol=1e-11)
    np.testing.assert_allclose(scaled.mean(axis=0), 0.0, atol=1e-12)
    # noise of sigma on a x is one of sigma / a on x, and is scaled as x is
    assert noise**2 == pytest.approx(2 * (SIGMA**2 / (1 - SIGMA**2) * expected / variance).sum())
    turned, _ = scale_directions(windows @ np.linalg.qr(rng.normal(size=(4, 4)))[0], SIGMA)
    np.testing.assert_allclose(cdist(turned, turned), cdist(scaled, scaled), atol=1e-9)


def motion_windows(motion: np.ndarray) -> np.ndarray:
    starts = np.arange(len(motion) - HORIZON + 1)
    windows = motion[starts[:, None] + np.arange(HORIZON)]
    return ((windows - windows[:, :1]) / 0.3).reshape(len(starts), -1)


def test_a_tremor_in_quiet_directions_is_seen_only_once_directions_are_scaled() -> None:
    """The demo's tremor of 1 cm in motions of half a metre; ten episodes against ten."""
    rng = np.random.default_rng(6)
    clean = [motion_windows(move(rng)) for _ in range(10)]
    corrupt = [motion_windows(add_tremor(move(rng), rng)) for _ in range(10)]
    assert compare(clean, corrupt).p_value <= 0.002
    plain = distances_of([e[pick_evenly(len(e), MOST_WINDOWS)] for e in [*clean, *corrupt]])
    assert permute_episodes(plain, 10, rng)[1] > 0.1


def test_a_ring_is_told_from_a_cloud_of_the_same_moments() -> None:
    """Two coordinates tell, six are noise; the distance alone sees nothing."""
    rng = np.random.default_rng(13)
    angle, radius = rng.uniform(0, 2 * np.pi, 150), np.sqrt(rng.chisquare(2, 150) / 2)
    radius[:60] = 1.0
    places = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    side = [np.tile(p, 4) + 0.05 * rng.normal(size=(16, 8)) for p in places]
    found = compare(side[:60], side[60:])
    assert (found.p_value, found.strongest) == (0.001, "nearness, unscaled")
    scaled, noise = scale_directions(np.concatenate(side), SIGMA)
    alone = distances_of(np.split(scaled, 150), noise)[:1]
    assert permute_episodes(alone, 60, rng)[1] > 0.01


def test_what_the_noise_hides_is_no_difference() -> None:
    """Windows at rest, and at rest but for a jitter of a tenth of the lowest noise."""
    rng = np.random.default_rng(14)
    side = draw_side(rng, [10] * 60, dim=16)
    for episode in side:
        episode[:4] = 0.0
    jittered = [e + 0.1 * SIGMA * rng.normal(size=e.shape) for e in side[30:]]
    assert compare(side[:30], jittered).p_value > 0.01
    side[30:] = jittered
    assert permute_episodes(distances_of(side, noise=1e-6), 30, rng)[1] == 0.001


class Lazy(Sequence[np.ndarray]):
    """Episodes made when asked for, and a record of which were."""

    def __init__(self, size: int, make: Callable[[int], np.ndarray]) -> None:
        self.size, self.make = size, make
        self.read: set[int] = set()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        if not 0 <= index < self.size:
            raise IndexError(index)
        self.read.add(index)
        return self.make(index)


def test_a_bounded_number_of_episodes_is_read() -> None:
    def make(index: int) -> np.ndarray:
        return np.random.default_rng(index).normal(size=(5, 2))

    clean, corrupt = Lazy(4, make), Lazy(50_000, make)
    found = compare_episodes(
        clean, corrupt, sigma=SIGMA, rng=np.random.default_rng(0), most_episodes=7
    )
    assert (found.clean, found.corrupt) == (4, 7)
    assert clean.read == set(range(4))
    assert len(corrupt.read) <= 10  # run-time type checks look at some
    assert max(corrupt.read) > 1_000


def test_windows_are_picked_at_equal_distances() -> None:
    rng = np.random.default_rng(7)
    clean, corrupt = (draw_side(rng, [1, 30, 7, 100, 5]) for _ in range(2))
    picked = [[e[pick_evenly(len(e), 6)] for e in side] for side in (clean, corrupt)]
    assert compare(clean, corrupt, most_windows=6) == compare(*picked)
    assert compare(clean, corrupt, most_windows=6) != compare(clean, corrupt)


def test_the_seed_decides() -> None:
    rng = np.random.default_rng(8)
    clean, corrupt = draw_side(rng, [4] * 8), draw_side(rng, [4] * 8)
    assert compare(clean, corrupt, seed=1) == compare(clean, corrupt, seed=1)
    assert compare(clean, corrupt, seed=1).p_value != compare(clean, corrupt, seed=2).p_value


def test_what_cannot_be_compared_is_refused() -> None:
    side = draw_side(np.random.default_rng(9), [3, 3])
    with pytest.raises(NotEnoughDataError, match="1 corrupt episode with"):
        compare(side, side[:1])
    with pytest.raises(ValueError, match="must have a window"):
        compare(side, [side[0], side[1][:0]])
    with pytest.raises(ValueError, match="finite"):
        compare(side, [side[0], side[1] * np.nan])
    for sigma in (0.0, 1.0):
        with pytest.raises(ValueError, match="sigma"):
            scale_directions(side[0], sigma)
