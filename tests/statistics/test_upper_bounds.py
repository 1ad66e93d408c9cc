"""Empirical measures: constants of McDiarmid's inequality, and coverage by enumeration."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom

from ambient_curate.statistics.upper_bounds import Measure, interior_noise_stds, population_upper

Array = NDArray[np.float64]


def divergences(p: Array, q: Array) -> Array:
    total = np.where(p + q > 0.0, p + q, 1.0)
    return np.array([((p - q) ** 2 / total).sum(), np.abs(p - q).sum() / 2.0])


@pytest.mark.parametrize(
    ("points", "weights", "message"),
    [
        (np.zeros((2, 3)), np.ones(1), "do not fit"),
        (np.zeros((0, 3)), np.ones(0), "do not fit"),
        (np.array([[0.0], [np.nan]]), np.full(2, 0.5), "not finite"),
        (np.zeros((2, 1)), np.array([0.0, 1.0]), "positive"),
        (np.zeros((2, 1)), np.array([0.5, 0.5 + 1e-9]), "sum to 1"),
        (np.zeros((2, 1)), np.array([0.5, np.nan]), "positive"),
    ],
)
def test_a_set_that_is_no_measure_is_refused(points: Array, weights: Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Measure(points, weights)


def test_levels_without_noise_or_without_signal_are_refused() -> None:
    assert interior_noise_stds(np.array([0.6])) == pytest.approx([0.75])
    for sigma in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="levels"):
            interior_noise_stds(np.array([0.5, sigma]))


@st.composite
def replaced_episodes(draw: st.DrawFn) -> tuple[Array, Array, Array, int]:
    """Episodes as laws on few atoms, one more episode, another measure, and whom to replace."""
    atoms, count = draw(st.integers(2, 4)), draw(st.integers(1, 5))
    masses = st.lists(st.floats(0.0, 1.0), min_size=atoms, max_size=atoms).map(np.array)
    law = masses.filter(lambda m: m.sum() > 1e-3).map(lambda m: m / m.sum())
    episodes = np.array([draw(law) for _ in range(count)])
    return episodes, draw(law), draw(law), draw(st.integers(0, count - 1))


@given(replaced_episodes(), st.booleans())
def test_replacing_one_of_n_episodes_moves_delta_by_4_over_n_and_tv_by_1_over_n(
    case: tuple[Array, Array, Array, int], swap: bool
) -> None:
    episodes, newcomer, other, index = case
    changed = episodes.copy()
    changed[index] = newcomer
    before, after = (
        divergences(*((other, e.mean(axis=0)) if swap else (e.mean(axis=0), other)))
        for e in (episodes, changed)
    )
    assert (np.abs(after - before) <= np.array([4.0, 1.0]) / len(episodes) + 1e-12).all()


def test_both_constants_are_attained_in_the_limit() -> None:
    n, other = 10_000, np.array([0.0, 0.5, 0.5])
    before = divergences(np.array([0.5, 0.0, 0.5]), other)
    after = divergences(np.array([0.5 - 1.0 / n, 1.0 / n, 0.5]), other)
    assert n * (before - after) == pytest.approx([4.0, 1.0], abs=2e-3)


@pytest.mark.parametrize(("n_clean", "n_corrupt"), [(1, 1), (3, 2), (2, 4)])
def test_empirical_divergences_are_on_average_no_lower_than_the_population_s(
    n_clean: int, n_corrupt: int
) -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    mean = np.zeros(2)
    for drawn in itertools.product(range(3), repeat=n_clean + n_corrupt):
        clean, corrupt = list(drawn[:n_clean]), list(drawn[n_clean:])
        counts = (np.bincount(side, minlength=3) / len(side) for side in (clean, corrupt))
        mean += p[clean].prod() * q[corrupt].prod() * divergences(*counts)
    assert (mean >= divergences(p, q)).all()
    assert mean[0] > divergences(p, q)[0] + 0.1


@pytest.mark.parametrize(("n_clean", "n_corrupt"), [(60, 60), (300, 300), (800, 3_000)])
@pytest.mark.parametrize(("p", "q"), [(0.5, 0.5), (0.5, 0.4), (0.9, 0.7), (0.02, 0.1)])
def test_the_bounds_hold_with_the_stated_probability_by_enumeration(
    n_clean: int, n_corrupt: int, p: float, q: float
) -> None:
    """Two atoms: every possible pair of counts with its exact probability."""
    alpha = 0.3
    clean, corrupt = np.arange(n_clean + 1)[:, None], np.arange(n_corrupt + 1)[None]
    probability = binom.pmf(clean, n_clean, p) * binom.pmf(corrupt, n_corrupt, q)
    a, b = clean / n_clean, corrupt / n_corrupt
    terms = [(x - y) ** 2 / np.where(x + y > 0, x + y, 1.0) for x, y in ((a, b), (1 - a, 1 - b))]
    bounds = population_upper(terms[0] + terms[1], np.abs(a - b), n_clean, n_corrupt, alpha)
    truth = divergences(np.array([p, 1 - p]), np.array([q, 1 - q]))
    for bound, true in zip(bounds, truth, strict=True):
        too_low = probability[bound < true].sum()
        assert too_low <= alpha
    bare = probability[np.abs(a - b) < truth[1]].sum()  # without the margin it would not hold
    assert (bare > alpha) == (p != q)


def test_margins_are_mcdiarmid_s() -> None:
    delta, tv = population_upper(0.0, 0.0, 50, 5_000, 0.05)
    assert tv == pytest.approx(0.174, abs=5e-4)
    assert delta == pytest.approx(np.sqrt(2.0 * np.log(40.0) * (1 / 50 + 1 / 5_000)))
    delta, tv = population_upper(0.1, 0.5, 5_000, 5_000, 0.05)
    assert tv == pytest.approx(0.5 + np.sqrt(np.log(20.0) / 5_000))
    assert delta == pytest.approx(0.1 + np.sqrt(16.0 * np.log(40.0) / 5_000))


@pytest.mark.parametrize(("n_clean", "passes"), [(184, False), (185, True)])
def test_the_tv_form_can_show_a_small_delta_from_the_stated_count_on(
    n_clean: int, passes: bool
) -> None:
    delta, _ = population_upper(0.0, 0.0, n_clean, 10**9, 0.05)
    assert (delta < 0.2) == passes
    worst_tv, _ = population_upper(0.0, 1.0, n_clean + 553, 10**9, 0.05)
    assert (worst_tv < 0.2) == passes  # the Delta form alone, from 738


def test_a_bound_that_says_nothing_is_not_a_number() -> None:
    delta, tv = population_upper([0.0, 2.0], [0.0, 1.0], 10, 10, 0.05)
    assert np.isnan(delta).tolist() == [False, True]
    assert np.isnan(tv).tolist() == [False, True]
    assert np.isnan(population_upper(0.0, 0.0, 1, 1, 0.05)).all()


@pytest.mark.parametrize(("n", "m", "alpha"), [(0, 5, 0.1), (5, 0, 0.1), (5, 5, 0.0), (5, 5, 1.0)])
def test_impossible_counts_and_errors_are_refused(n: int, m: int, alpha: float) -> None:
    with pytest.raises(ValueError, match="episodes must be"):
        population_upper(0.0, 0.0, n, m, alpha)
