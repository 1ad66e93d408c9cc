"""Envelopes: every bound from its own source, and brackets that hold the truth."""

import numpy as np
import pytest

from ambient_curate.divergence import gaussian_delta
from ambient_curate.statistics.brackets import (
    ALPHA,
    MONTE_CARLO,
    Envelope,
    FiniteSets,
    HeldOut,
    build_envelope,
)
from ambient_curate.statistics.lower_bounds import Losses, certify_delta, certify_jsd, certify_tv
from ambient_curate.statistics.upper_bounds import population_upper

SIGMA = np.linspace(0.05, 0.95, 19)
EPSILON = 0.05
SMALLEST = 1e-3
DISTANCE = 1.5  # of two unit normal laws that are themselves noise-free


def exact_delta() -> np.ndarray:
    """N(0, 1) against N(DISTANCE, 1) after the channel: both keep variance 1."""
    return gaussian_delta(np.sqrt(1.0 - SIGMA**2) * DISTANCE)


def draw_losses(rng: np.random.Generator, clean: int, corrupt: int, folds: int = 5) -> HeldOut:
    """Losses of the best classifier, one window an episode, one draw of noise for all levels."""
    a = np.sqrt(1.0 - SIGMA**2)
    values = []
    for label, count in ((True, clean), (False, corrupt)):
        start = rng.normal(size=(count, 1)) + (0.0 if label else DISTANCE)
        x = a * start + SIGMA * rng.normal(size=(count, 1))
        logit = -a * DISTANCE * (x - a * DISTANCE / 2.0)
        c = 1.0 / (1.0 + np.exp(-logit))
        right = np.clip(c if label else 1.0 - c, SMALLEST, 1.0 - SMALLEST)
        values.append(((1.0 - right) ** 2, (right < 0.5).astype(np.float64), -np.log(right)))
    fold = [np.arange(count) % folds for count in (clean, corrupt)]
    parts = [Losses(p, q, *fold) for p, q in zip(*values, strict=True)]
    return HeldOut(*parts, SMALLEST)


def finite_sets(value: np.ndarray, count: int) -> FiniteSets:
    return FiniteSets(value, np.minimum(value, 1.0), count, count)


def test_every_bound_is_that_of_its_source() -> None:
    held_out = draw_losses(np.random.default_rng(0), 200, 400)
    finite = finite_sets(np.linspace(1.0, 0.0, SIGMA.size), 4_000)
    found = build_envelope(SIGMA, held_out, finite, epsilon=EPSILON)
    delta = certify_delta(held_out.brier, held_out.errors, alpha=ALPHA)
    np.testing.assert_array_equal(found.delta_lower, delta)
    np.testing.assert_array_equal(found.tv_lower, certify_tv(held_out.errors, alpha=ALPHA))
    jsd = certify_jsd(held_out.bce, smallest=SMALLEST, alpha=ALPHA)
    np.testing.assert_array_equal(found.jsd_lower, jsd)
    expected = population_upper(finite.delta, finite.tv, 4_000, 4_000, ALPHA - MONTE_CARLO)
    np.testing.assert_array_equal(found.delta_upper, expected[0])
    np.testing.assert_array_equal(found.tv_upper, expected[1])
    assert found.delta_upper_empirical is finite.delta
    assert found.tv_upper_empirical is finite.tv
    assert 0.0 < found.lower < found.upper < 1.0


def test_with_weights_nothing_is_said_of_populations() -> None:
    found = build_envelope(SIGMA, None, finite_sets(np.zeros(SIGMA.size), 10**6), epsilon=EPSILON)
    for name in ("delta_lower", "tv_lower", "jsd_lower", "delta_upper", "tv_upper"):
        assert np.isnan(getattr(found, name)).all(), name
    assert (found.lower, found.upper) == (0.0, 1.0)
    assert not found.delta_upper_empirical.any()


def test_few_episodes_bracket_nothing() -> None:
    held_out = draw_losses(np.random.default_rng(1), 10, 20)
    found = build_envelope(SIGMA, held_out, finite_sets(exact_delta(), 10), epsilon=EPSILON)
    assert (found.lower, found.upper) == (0.0, 1.0)


@pytest.mark.validity
def test_brackets_hold_the_crossing_and_bounds_hold_delta() -> None:
    """1,000 data sets with the best classifier; the upper side gets the exact divergence."""
    exact = exact_delta()
    crossing = SIGMA[exact >= 4 * EPSILON].max()
    repeats = 1_000
    found: list[Envelope] = []
    for seed in range(repeats):
        held_out = draw_losses(np.random.default_rng(seed), 500, 2_000)
        finite = finite_sets(exact, 500)
        found.append(build_envelope(SIGMA, held_out, finite, epsilon=EPSILON))
    lower = np.array([each.lower for each in found])
    too_high = np.array([each.delta_lower for each in found]) > exact
    print(
        f"brackets' lower ends above the crossing {crossing:.2f}: {(lower > crossing).mean():.4f}"
    )
    print(f"their median: {np.median(lower):.2f}; worst level: {too_high.mean(axis=0).max():.4f}")
    limit = [p + 3 * (p * (1 - p) / repeats) ** 0.5 for p in (ALPHA / 2, ALPHA)]
    assert (lower > crossing).mean() <= limit[0]
    assert too_high.mean(axis=0).max() <= limit[1]
    assert np.median(lower) > 0.5 * crossing
