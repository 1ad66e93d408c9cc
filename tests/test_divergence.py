"""Divergences against exact classifiers: discrete laws, Gaussians, three atoms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from ambient_curate import divergence
from ambient_curate.noise import grid, signal_scale
from ambient_curate.statistics.sigma_min import last_crossing

Law = NDArray[np.float64]


@st.composite
def discrete_pairs(draw: st.DrawFn) -> tuple[Law, Law]:
    """Two laws on the same atoms, some of them possibly empty under one or both."""
    size = draw(st.integers(2, 8))
    mass = st.lists(st.floats(0.0, 1.0), min_size=size, max_size=size).map(np.array)
    p, q = (draw(mass.filter(lambda m: m.sum() > 0.1)) for _ in range(2))
    return p / p.sum(), q / q.sum()


def exact_classifier(p: Law, q: Law) -> Law:
    total = p + q
    return np.where(total > 0.0, p / np.where(total > 0.0, total, 1.0), 0.5)


def divergences(p: Law, q: Law) -> tuple[float, float]:
    """Delta and TV by their definitions."""
    total = np.where(p + q > 0.0, p + q, 1.0)
    return float(((p - q) ** 2 / total).sum()), float(np.abs(p - q).sum() / 2.0)


@given(discrete_pairs())
def test_delta_lies_between_twice_the_square_of_tv_and_twice_tv(pair: tuple[Law, Law]) -> None:
    delta, tv = divergences(*pair)
    assert 2.0 * tv**2 <= delta + 1e-12
    assert delta <= 2.0 * tv + 1e-12


@given(discrete_pairs())
def test_the_best_classifier_gives_delta_and_tv_exactly(pair: tuple[Law, Law]) -> None:
    p, q = pair
    delta, tv = divergences(p, q)
    c = exact_classifier(p, q)
    accuracy = 0.5 * p @ ((c > 0.5) + 0.5 * (c == 0.5)) + 0.5 * q @ ((c < 0.5) + 0.5 * (c == 0.5))
    assert divergence.delta_from_mean(q @ c) == pytest.approx(delta, abs=1e-12)
    assert divergence.tv_from_accuracy(accuracy) == pytest.approx(tv, abs=1e-12)
    assert q @ c + p @ c == pytest.approx(1.0, abs=1e-12)


@given(discrete_pairs(), st.floats(0.001, 0.499))
def test_the_rule_is_delta_below_four_epsilon(pair: tuple[Law, Law], epsilon: float) -> None:
    p, q = pair
    delta, tv = divergences(p, q)
    margin = q @ exact_classifier(p, q) - (0.5 - epsilon)
    if abs(margin) < 1e-9:
        return
    assert (margin > 0.0) == (delta < divergence.delta_at(epsilon))
    if margin > 0.0:
        assert tv <= divergence.tv_range_at(epsilon)[1] + 1e-12
    else:
        assert tv >= divergence.tv_range_at(epsilon)[0] - 1e-12


@pytest.mark.parametrize("epsilon", [0.01, 0.05, 0.3])
def test_both_ends_of_the_tv_range_are_attained(epsilon: float) -> None:
    low, high = divergence.tv_range_at(epsilon)
    disjoint_part = np.array([low, 0.0, 1.0 - low]), np.array([0.0, low, 1.0 - low])
    two_point = np.array([1.0 + high, 1.0 - high]) / 2.0, np.array([1.0 - high, 1.0 + high]) / 2.0
    for pair, tv in ((disjoint_part, low), (two_point, high)):
        assert divergences(*pair) == pytest.approx((divergence.delta_at(epsilon), tv), abs=1e-12)


def test_impossible_means_are_clipped_to_the_possible_range() -> None:
    assert divergence.delta_from_mean([0.7, 0.5, 0.0]).tolist() == [0.0, 0.0, 2.0]
    assert divergence.tv_from_accuracy([0.4, 0.5, 1.0]).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("distance", [0.0, 0.01, 0.3, 1.0, 2.5, 5.0, 8.0])
def test_gaussian_delta_is_the_integral_of_its_definition(distance: float) -> None:
    def integrand(x: float) -> float:
        p, q = norm.pdf(x), norm.pdf(x - distance)
        return float((p - q) ** 2 / (p + q)) if p + q > 0.0 else 0.0

    value, _ = quad(integrand, -12.0, distance + 12.0, points=[0.0, distance / 2], limit=200)
    assert divergence.gaussian_delta(distance) == pytest.approx(value, abs=1e-7)


def test_gaussian_delta_keeps_the_shape_of_its_input() -> None:
    distance = np.array([[0.0, 0.5, 1.0], [2.0, 3.0, 40.0]])
    delta = divergence.gaussian_delta(distance)
    assert delta.shape == (2, 3)
    one_by_one = [float(divergence.gaussian_delta(d)) for d in distance.ravel()]
    np.testing.assert_allclose(delta.ravel(), one_by_one, rtol=1e-12)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 0.9])
def test_the_exact_classifier_of_noised_gaussians_gives_their_delta_and_tv(sigma: float) -> None:
    variance, mean = 0.3, 1.2
    spread = float(np.sqrt(signal_scale(sigma) ** 2 * variance + sigma**2))
    shift = float(signal_scale(sigma) * mean)
    x = np.linspace(-12.0 * spread, shift + 12.0 * spread, 40_001)
    p, q = norm.pdf(x, 0.0, spread), norm.pdf(x, shift, spread)
    c = p / (p + q)
    accuracy = 0.5 * np.trapezoid(np.where(c > 0.5, p, q), x)
    distance = shift / spread
    assert divergence.delta_from_mean(np.trapezoid(q * c, x)) == pytest.approx(
        float(divergence.gaussian_delta(distance)), abs=1e-8
    )
    assert divergence.tv_from_accuracy(accuracy) == pytest.approx(
        2.0 * norm.cdf(distance / 2.0) - 1.0, abs=1e-6
    )


ATOMS = np.array([-1.0, 0.0, 1.0])
CLEAN = np.array([0.0, 0.5, 0.5])
CORRUPT = np.array([0.5, 0.5, 0.0])


def atom_curve(atom: float, sigma: float) -> float:
    """Mean over the noise of the exact classifier, for one datapoint."""
    a = signal_scale(sigma)
    z = np.linspace(-9.0, 9.0, 2_001)
    exponent = -0.5 * ((a * atom + sigma * z[:, None] - a * ATOMS) / sigma) ** 2
    likelihood = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    p, q = likelihood @ CLEAN, likelihood @ CORRUPT
    return float(np.trapezoid(norm.pdf(z) * p / (p + q), z))


def test_the_three_atoms_have_the_crossings_of_their_exact_classifier() -> None:
    levels = grid("squaredcos_cap_v2:100", base_levels=2)[:90]
    curves = np.array([[atom_curve(atom, sigma) for sigma in levels] for atom in (-1.0, 0.0)])
    crossed = last_crossing(curves, levels, 0.45)
    root = brentq(lambda s: atom_curve(-1.0, s) - 0.45, 0.3, 0.99)
    assert crossed[0] == pytest.approx(root, abs=1e-4)
    assert crossed[1] == 0.0  # the shared atom says nothing, at any level
    assert curves[0, 0] == pytest.approx(0.0, abs=1e-6)


def test_choosing_by_datapoint_tilts_the_atoms_and_unbiased_weights_undo_it() -> None:
    clean_share = 1.0 / 41.0  # n_q / n_p = 40
    mixture = clean_share * CLEAN + (1.0 - clean_share) * CORRUPT
    c = exact_classifier(CLEAN, CORRUPT)
    assert c.tolist() == [0.0, 0.5, 1.0]
    admitted = clean_share * CLEAN + (1.0 - clean_share) * CORRUPT * (c >= 0.5)
    assert admitted[1] / admitted.sum() == pytest.approx(0.976, abs=5e-4)
    weight = c / (clean_share * c + (1.0 - clean_share) * (1.0 - c))
    np.testing.assert_allclose(mixture * weight, CLEAN, atol=1e-15)
    assert weight.max() <= 1.0 / clean_share + 1e-12


@pytest.mark.parametrize(("prior", "mean"), [(0.5, 0.398), (0.01, 0.0098)])
def test_one_half_is_a_threshold_for_balanced_classes_only(prior: float, mean: float) -> None:
    x = np.linspace(-10.0, 11.0, 20_001)
    p, q = norm.pdf(x), norm.pdf(x, 1.0)
    c = prior * p / (prior * p + (1.0 - prior) * q)
    assert np.trapezoid(q * c, x) == pytest.approx(mean, rel=5e-3)
    logit = np.log(c / (1.0 - c)) + np.log((1.0 - prior) / prior)  # shifted back to balance
    balanced = np.trapezoid(q / (1.0 + np.exp(-logit)), x)
    assert balanced == pytest.approx(0.5 - float(divergence.gaussian_delta(1.0)) / 4.0, abs=1e-6)
