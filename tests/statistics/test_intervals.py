"""Confidence bounds of a mean: references, exact enumeration of binary samples, edge cases."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jaxtyping import TypeCheckError
from numpy.typing import NDArray
from reference_intervals import bernstein, clopper_pearson, hoeffding
from scipy.optimize import brentq
from scipy.stats import binom, binomtest

from ambient_curate.statistics.intervals import (
    MARGIN,
    Interval,
    betting,
    past_moments,
    smallest_rejected,
    stakes,
)

Values = NDArray[np.float64]
METHODS = {"hoeffding": hoeffding, "bernstein": bernstein, "betting": betting}
UNIT = st.floats(0.0, 1.0)
SAMPLES = st.tuples(st.integers(1, 12), st.integers(1, 3)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=UNIT)
)
EVERY_TEN = np.array(list(itertools.product([0.0, 1.0], repeat=10))).T  # (10, 1024)


def chance(sequences: Values, p: float) -> Values:
    """Probability of each binary sequence, shape (sequence,)."""
    ones = sequences.sum(axis=0)
    return p**ones * (1.0 - p) ** (len(sequences) - ones)


def naive_betting_upper(values: Values, alpha: float) -> float:
    """Bets one by one, and a root of the logarithm of their product."""
    goal = math.log(1.0 / alpha)
    bets, seen, squares = [], [0.5], 1.0 / 12.0
    for i, value in enumerate(values):
        mean = sum(seen) / len(seen)
        bets.append(max(1.0 + MARGIN, mean + math.sqrt(len(values) * squares / (i + 1) / 2 / goal)))
        seen.append(value)
        squares += (value - sum(seen) / len(seen)) ** 2

    def excess(m: float) -> float:
        return math.fsum(math.log((a - z) / (a - m)) for a, z in zip(bets, values, strict=True)) - (
            goal
        )

    return float(brentq(excess, 0.0, 1.0, xtol=1e-14)) if excess(1.0) > 0.0 else 1.0


@pytest.mark.parametrize("n", [1, 2, 5, 40])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
def test_betting_is_its_definition(n: int, alpha: float) -> None:
    values = np.random.default_rng(n).beta(0.5, 1.0, size=n)
    upper = betting(values, alpha=alpha, side="upper").upper
    assert upper == pytest.approx(naive_betting_upper(values, alpha), abs=1e-12)
    lower = betting(values, alpha=alpha, side="lower").lower
    assert lower == pytest.approx(1.0 - naive_betting_upper(1.0 - values, alpha), abs=1e-12)
    both = betting(values, alpha=2.0 * alpha)
    assert both == (lower, upper)


def test_hoeffding_and_bernstein_are_their_formulas() -> None:
    values = np.random.default_rng(0).beta(2.0, 5.0, size=(400, 2))
    tail = 0.02
    pairs = (values[:, None] - values[None]) ** 2
    variance = pairs.sum(axis=(0, 1)) / 2.0 / (400 * 399)  # Maurer and Pontil (2009), section 1
    widths = {
        hoeffding: np.full(2, math.sqrt(math.log(1 / tail) / 800)),
        bernstein: np.sqrt(2 * variance * math.log(2 / tail) / 400)
        + 7 * math.log(2 / tail) / (3 * 399),
    }
    for method, width in widths.items():
        low, high = method(values, alpha=2 * tail)
        np.testing.assert_allclose(low, values.mean(axis=0) - width, atol=1e-12)
        np.testing.assert_allclose(high, values.mean(axis=0) + width, atol=1e-12)


@pytest.mark.parametrize("n", [1, 7, 60])
@pytest.mark.parametrize("alpha", [0.05, 0.4])
def test_clopper_pearson_is_scipys_exact_interval(n: int, alpha: float) -> None:
    hits = np.arange(n + 1)
    low, high = clopper_pearson(hits, n, alpha=alpha)
    for k in hits:
        expected = binomtest(int(k), n).proportion_ci(1.0 - alpha, method="exact")
        assert (low[k], high[k]) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert clopper_pearson(hits, n, alpha=alpha / 2, side="lower").lower.tolist() == low.tolist()
    assert clopper_pearson(hits, n, alpha=alpha / 2, side="upper").upper.tolist() == high.tolist()


@pytest.mark.parametrize("n", [1, 10, 37])
@pytest.mark.parametrize("side", ["both", "lower", "upper"])
def test_clopper_pearson_covers_every_proportion(n: int, side: str) -> None:
    hits = np.arange(n + 1)
    low, high = clopper_pearson(hits, n, alpha=0.1, side=side)
    ends = np.concatenate([low, high])
    edges = np.clip(np.concatenate([ends - 1e-9, ends + 1e-9]), 0.0, 1.0)  # where it is least
    p = np.concatenate([np.linspace(0.0, 1.0, 501), edges])[:, None]
    covered = (binom.pmf(hits, n, p) * ((low <= p) & (p <= high))).sum(axis=1)
    assert covered.min() >= 0.9 - 1e-9
    assert covered.min() < 0.96  # and is not merely wide


def test_no_trial_says_nothing() -> None:
    assert clopper_pearson(0, 0) == Interval(np.array(0.0), np.array(1.0))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_all_binary_samples_of_ten_are_covered(
    method: Callable[..., Interval], alpha: float
) -> None:
    for side in ("both", "lower", "upper"):
        low, high = method(EVERY_TEN, alpha=alpha, side=side)
        for p in np.linspace(0.0, 1.0, 201):
            assert chance(EVERY_TEN, p) @ ((low <= p) & (p <= high)) >= 1.0 - alpha - 1e-12


@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.97])
def test_the_capital_against_the_truth_is_worth_one_on_average(p: float) -> None:
    bets = stakes(EVERY_TEN, 0.05)
    capital = ((bets - EVERY_TEN) / (bets - p)).prod(axis=0)
    assert chance(EVERY_TEN, p) @ capital == pytest.approx(1.0, abs=1e-12)
    assert capital.min() > 0.0


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@given(SAMPLES)
def test_the_sample_mean_lies_inside_and_levels_do_not_mix(
    method: Callable[..., Interval], values: Values
) -> None:
    low, high = method(values)
    mean = values.mean(axis=0)
    assert ((low >= 0.0) & (low <= mean + 1e-12) & (mean <= high + 1e-12) & (high <= 1.0)).all()
    for level, column in enumerate(values.T):
        assert method(column) == pytest.approx((low[level], high[level]), abs=1e-12)


@given(SAMPLES)
def test_the_mirrored_sample_has_the_mirrored_interval(values: Values) -> None:
    low, high = betting(values)
    mirrored = betting(1.0 - values)
    np.testing.assert_allclose(mirrored.lower, 1.0 - high, atol=1e-12)
    np.testing.assert_allclose(mirrored.upper, 1.0 - low, atol=1e-12)


@given(SAMPLES, st.data())
def test_a_bet_never_sees_the_value_it_is_on(values: Values, data: st.DataObject) -> None:
    row = data.draw(st.integers(0, len(values) - 1))
    other = values.copy()
    other[row:] = data.draw(arrays(np.float64, values[row:].shape, elements=UNIT))
    for before, after in zip(past_moments(values), past_moments(other), strict=True):
        assert before[: row + 1].tolist() == after[: row + 1].tolist()


def test_past_moments_are_means_over_what_came_before() -> None:
    values = np.array([0.2, 0.8, 0.5])
    mean, variance = past_moments(values)
    np.testing.assert_allclose(mean, [0.5, 0.7 / 2, 1.5 / 3])
    np.testing.assert_allclose(
        variance, [1 / 12, (1 / 12 + 0.15**2) / 2, (1 / 12 + 0.15**2 + 0.3**2) / 3]
    )


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_constant_sample_is_bounded_on_the_other_side_only(value: float) -> None:
    for method in METHODS.values():
        ends = np.array([method(np.full(n, value)) for n in (1, 10, 100, 10_000)])
        near, far = (ends[:, 0], ends[:, 1]) if value == 0.0 else (1 - ends[:, 1], 1 - ends[:, 0])
        assert near.tolist() == [0.0] * 4
        assert far[0] == 1.0  # nothing is known from one value
        assert (np.diff(far) <= 0.0).all()
        assert far[-1] < 0.02
    assert betting(np.full(100, value)).upper - betting(np.full(100, value)).lower < 0.05


@given(st.floats(1e-6, 1.0 - 1e-6))
def test_the_bisection_ends_on_the_rejected_side(threshold: float) -> None:
    found = smallest_rejected(lambda m: np.where(m >= threshold, 9.0, -9.0), (), 0.05)
    assert threshold <= found <= threshold + 2.0**-51


def test_where_nothing_is_rejected_the_bound_is_one() -> None:
    assert smallest_rejected(lambda m: np.zeros_like(m), (2,), 0.05).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_what_is_no_sample_of_the_unit_interval_is_refused(method: Callable[..., Interval]) -> None:
    for wrong in (np.nan, -1e-9, 1.0 + 1e-9, np.inf):
        with pytest.raises(ValueError, match=r"a value is .*; expected numbers in \[0, 1\]"):
            method(np.array([[0.5, 0.5], [0.5, wrong]]))
    with pytest.raises(ValueError, match="n >= 1"):
        method(np.empty((0, 3)))
    for alpha in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="alpha is"):
            method(np.array([0.5]), alpha=alpha)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 3), (4, 3)])
def test_impossible_counts_are_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= successes <= trials"):
        clopper_pearson(successes, trials)


def test_a_side_that_does_not_exist_is_refused() -> None:
    with pytest.raises((ValueError, TypeCheckError), match="side"):
        betting(np.array([0.5]), side="uper")
