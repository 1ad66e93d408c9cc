"""The energy test against plain loops, enumeration, a closed form, and faults too quiet to see."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import foldnorm

from ambient_curate.demo import add_tremor, move
from ambient_curate.energy import (
    MOST_WINDOWS,
    EnergyTest,
    compare_episodes,
    episode_distances,
    permute_episodes,
    scale_directions,
)
from ambient_curate.episodes import pick_windows
from ambient_curate.errors import NotEnoughDataError

SIGMA = 0.0251
HORIZON = 16

Episodes = list[np.ndarray]


def draw_side(
    rng: np.random.Generator, counts: Sequence[int], dim: int = 3, shift: float = 0.0
) -> Episodes:
    """Episodes whose windows share an offset."""
    return [shift + rng.normal(size=dim) + 0.3 * rng.normal(size=(count, dim)) for count in counts]


def compare(clean: Episodes, corrupt: Episodes, seed: int = 0, **options: int) -> EnergyTest:
    rng = np.random.default_rng(seed)
    return compare_episodes(clean, corrupt, sigma=SIGMA, rng=rng, **options)


def statistic_of(distances: np.ndarray, clean: Sequence[int]) -> float:
    """The definition, pair by pair."""
    corrupt = [e for e in range(len(distances)) if e not in clean]
    across = np.mean([distances[e, f] for e in clean for f in corrupt])
    within = [
        np.mean([distances[e, f] for e, f in itertools.permutations(side, 2)])
        for side in (clean, corrupt)
    ]
    return float(2 * across - within[0] - within[1])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.integers(0, 99))
def test_distances_of_episodes_are_means_over_pairs_of_windows(
    counts: list[int], seed: int
) -> None:
    side = draw_side(np.random.default_rng(seed), counts)
    found = episode_distances(np.concatenate(side), np.array(counts))
    expected = [[cdist(e, f).mean() for f in side] for e in side]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_blocks_of_windows_make_no_difference() -> None:
    counts = [300, 1, 257, 40]  # blocks end inside episodes
    side = draw_side(np.random.default_rng(1), counts)
    expected = [[cdist(e, f).mean() for f in side] for e in side]
    found = episode_distances(np.concatenate(side), np.array(counts))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_nearly_equal_windows_keep_their_distance() -> None:
    """|x|^2 + |y|^2 - 2 x y alone leaves distances of 1e-6 at places of 1e3 no digit."""
    rng = np.random.default_rng(2)
    places = 1e3 * rng.normal(size=(4, 5))
    windows = np.repeat(places, 3, axis=0) + 1e-6 * rng.normal(size=(12, 5))
    found = episode_distances(windows, np.ones(12, dtype=np.int64))
    np.testing.assert_allclose(found, cdist(windows, windows), rtol=1e-6, atol=0.0)
    square = np.square(windows).sum(axis=1)
    naive = np.sqrt(np.abs(square[:, None] + square - 2.0 * windows @ windows.T))
    assert abs(naive[0, 1] / found[0, 1] - 1.0) > 0.1


def test_copies_are_no_difference() -> None:
    copies = [np.ones((4, 3))] * 5
    assert compare(copies, copies) == EnergyTest(0.0, 1.0, 5, 5)


@pytest.mark.parametrize("sizes", [(4, 4), (3, 5)])
def test_statistic_and_p_value_are_those_of_full_enumeration(sizes: tuple[int, int]) -> None:
    """Four against four: each split and its mirror image tie, which rounding must not hide."""
    rng = np.random.default_rng(3)
    n = sum(sizes)
    side = draw_side(rng, rng.integers(1, 6, n).tolist())
    side = side[: sizes[0]] + [episode + 1.0 for episode in side[sizes[0] :]]
    distances = episode_distances(
        np.concatenate(side), np.array([len(e) for e in side], dtype=np.int64)
    )
    observed = statistic_of(distances, range(sizes[0]))
    splits = [statistic_of(distances, s) for s in itertools.combinations(range(n), sizes[0])]
    exact = np.mean(np.array(splits) >= observed - 1e-9)
    permutations = 20_000
    found, p_value = permute_episodes(distances, sizes[0], rng, permutations)
    assert found == pytest.approx(observed, rel=1e-10)
    error = np.sqrt(exact * (1 - exact) / permutations)
    assert 0.0 < exact < 0.5
    assert abs(p_value - exact) <= 4 * error + 1 / permutations


def test_the_statistic_is_the_energy_distance_of_two_normal_laws() -> None:
    """E|N(m, 2)| is the mean of a folded normal law; windows of one number, 600 a side."""
    rng = np.random.default_rng(4)
    n, mean = 600, 0.8
    values = np.concatenate([rng.normal(size=n), mean + rng.normal(size=n)])[:, None]
    found, p_value = permute_episodes(
        episode_distances(values, np.ones(2 * n, dtype=np.int64)), n, rng, 199
    )
    across, within = (foldnorm.mean(m / 2**0.5, scale=2**0.5) for m in (mean, 0.0))
    assert found == pytest.approx(2 * across - 2 * within, abs=0.1)
    assert p_value == 1 / 200


def test_directions_are_scaled_by_their_spread_at_the_noise_level() -> None:
    rng = np.random.default_rng(5)
    basis = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    windows = rng.normal(size=(50, 4)) * [3.0, 0.3, 0.02, 1e-6] @ basis.T + 7.0
    scaled = scale_directions(windows, SIGMA)
    variance = np.linalg.eigvalsh(np.cov(windows.T, bias=True))
    expected = variance / ((1 - SIGMA**2) * variance + SIGMA**2)
    np.testing.assert_allclose(np.cov(scaled.T, bias=True), np.diag(expected), atol=1e-11)
    np.testing.assert_allclose(scaled.mean(axis=0), 0.0, atol=1e-12)
    turned = scale_directions(windows @ np.linalg.qr(rng.normal(size=(4, 4)))[0], SIGMA)
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
    picked = [e[pick_windows(len(e), MOST_WINDOWS)] for e in [*clean, *corrupt]]
    plain = episode_distances(np.concatenate(picked), np.array([len(e) for e in picked]))
    assert permute_episodes(plain, 10, rng)[1] > 0.1


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
    picked = [[e[pick_windows(len(e), 6)] for e in side] for side in (clean, corrupt)]
    assert compare(clean, corrupt, most_windows=6) == compare(*picked)
    assert compare(clean, corrupt, most_windows=6) != compare(clean, corrupt)


def test_the_seed_decides() -> None:
    rng = np.random.default_rng(8)
    clean, corrupt = draw_side(rng, [4] * 8), draw_side(rng, [4] * 8)
    assert compare(clean, corrupt, seed=1) == compare(clean, corrupt, seed=1)
    assert compare(clean, corrupt, seed=1).p_value != compare(clean, corrupt, seed=2).p_value


def test_what_cannot_be_compared_is_refused() -> None:
    side = draw_side(np.random.default_rng(9), [3, 3])
    with pytest.raises(NotEnoughDataError, match="1 corrupt episodes"):
        compare(side, side[:1])
    with pytest.raises(ValueError, match="must have a window"):
        compare(side, [side[0], side[1][:0]])
    with pytest.raises(ValueError, match="finite"):
        compare(side, [side[0], side[1] * np.nan])
    for sigma in (0.0, 1.0):
        with pytest.raises(ValueError, match="sigma"):
            scale_directions(side[0], sigma)
