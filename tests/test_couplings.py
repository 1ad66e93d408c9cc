"""Transport plans: exact marginals, least cost, and bounds that are never below the truth."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mixtures import Array, along, exact_divergences, uniform, weighted
from scipy.stats import norm

from ambient_curate import couplings
from ambient_curate.bounds import gaussian_delta
from ambient_curate.couplings import (
    coupling_bounds,
    delta_cost,
    plan_bounds,
    transport_plan,
    tv_cost,
)
from ambient_curate.kernels import kernel_divergence
from ambient_curate.measures import Measure
from ambient_curate.noise import ve_from_sigma

LEVELS = np.array([0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97])


def exact_delta(distance: Array) -> Array:
    """``2 - 4 int p q / (p + q)``, whose integrand is analytic: the trapezoidal rule is exact."""
    x = np.linspace(-14.0, 14.0, 1_401)
    with np.errstate(over="ignore"):
        overlap = np.exp(-0.125 * distance[:, None] ** 2 - 0.5 * x**2) / np.cosh(
            0.5 * x * distance[:, None]
        )
    return np.asarray(2.0 - 2.0 * np.trapezoid(overlap, x) / np.sqrt(2.0 * np.pi))


@st.composite
def weighted_sets(draw: st.DrawFn) -> tuple[Measure, Measure]:
    """Two weighted sets on a line, some windows equal or nearly so."""
    value = st.one_of(st.integers(-2, 2).map(float), st.floats(-3.0, 3.0))
    sides = []
    for _ in range(2):
        count = draw(st.integers(1, 5))
        points = np.array([[draw(value)] for _ in range(count)])
        shares = np.array([draw(st.floats(0.01, 1.0)) for _ in range(count)])
        sides.append(weighted(points, shares))
    return sides[0], sides[1]


def test_the_table_of_delta_is_never_too_low_and_hardly_too_high() -> None:
    rng = np.random.default_rng(1)
    steps = couplings.TABLE_END / couplings.TABLE_STEPS * np.arange(400)
    distance = np.concatenate(
        [rng.uniform(0.0, 14.0, 2_000), 10.0 ** rng.uniform(-8, 0, 1_000), steps, [12.0, 60.0]]
    )
    excess = delta_cost(distance) - exact_delta(distance)
    assert excess.min() >= -1e-13  # the reference's own rounding
    assert excess.max() <= 6e-4
    assert np.abs(gaussian_delta(distance) - exact_delta(distance)).max() < 3e-7
    assert (np.diff(delta_cost(np.sort(distance))) >= 0.0).all()
    assert delta_cost(np.array([0.0, 1e300])).tolist() == [0.0, 2.0]


def test_the_cost_of_total_variation_is_that_of_normal_laws() -> None:
    distance = np.linspace(0.0, 12.0, 50)
    np.testing.assert_allclose(tv_cost(distance), 2.0 * norm.cdf(distance / 2.0) - 1.0, atol=1e-15)


@given(weighted_sets())
def test_no_bound_is_below_the_exact_divergence(sets: tuple[Measure, Measure]) -> None:
    levels = np.array([0.3, 0.7, 0.95])
    bounds = coupling_bounds(*sets, levels, plans=2)
    for index, sigma in enumerate(levels):
        delta, tv = exact_divergences(*sets, float(sigma))
        assert bounds.delta_upper[index] >= delta - 1e-9
        assert bounds.tv_upper[index] >= tv - 1e-4  # quadrature of a kinked integrand
    assert (np.diff(bounds.delta_upper) <= 0.0).all() and (np.diff(bounds.tv_upper) <= 0.0).all()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_bound_is_below_the_kernel_s_estimate_in_many_dimensions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clean = uniform(rng.standard_normal((30, 8)))
    corrupt = weighted(rng.standard_normal((40, 8)) + 0.3, rng.exponential(size=40))
    bounds = coupling_bounds(clean, corrupt, LEVELS)
    found = kernel_divergence(clean, corrupt, LEVELS, draws=4_000, rng=rng)
    assert (bounds.delta_upper >= found.delta - 0.01).all()
    assert (bounds.tv_upper >= found.tv - 0.01).all()
    assert (bounds.delta_upper > found.delta_upper)[3:5].all()  # strictly looser in between


def test_a_single_pair_gives_the_divergences_themselves() -> None:
    distance = 0.7 / ve_from_sigma(LEVELS)
    bounds = coupling_bounds(uniform(np.zeros((1, 1))), uniform(np.full((1, 1), 0.7)), LEVELS)
    np.testing.assert_allclose(bounds.delta_upper, gaussian_delta(distance), atol=6e-4)
    np.testing.assert_allclose(bounds.tv_upper, 2.0 * norm.cdf(distance / 2.0) - 1.0, atol=1e-12)


@pytest.mark.parametrize("shares", [np.ones(30), np.arange(1.0, 31.0)])
def test_equal_sets_in_another_order_give_exactly_0(shares: Array) -> None:
    rng = np.random.default_rng(2)
    points, order = rng.standard_normal((30, 6)), rng.permutation(30)
    clean = weighted(points, shares)
    bounds = coupling_bounds(clean, Measure(points[order], clean.weights[order]), LEVELS)
    assert bounds.delta_upper.max() <= 1e-12
    assert bounds.tv_upper.max() <= 1e-12


@st.composite
def transports(draw: st.DrawFn) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, m = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    spread = draw(st.sampled_from([0.0, 1.0, 3.0]))
    sides = [np.exp(spread * rng.standard_normal(count)) for count in (n, m)]
    cost = 2.0 * rng.random((n, m)) ** draw(st.sampled_from([1.0, 8.0]))
    return cost, sides[0] / sides[0].sum(), sides[1] / sides[1].sum()


@given(transports(), st.booleans())
def test_marginals_are_exact_whatever_made_the_plan(
    case: tuple[Array, Array, Array], entropic: bool
) -> None:
    cost, rows, columns = case
    with pytest.MonkeyPatch.context() as patch:
        if entropic:
            patch.setattr(couplings, "EXACT_COUNT", 0)
            patch.setattr(couplings, "EXACT_PAIRS", 0)
        plan = transport_plan(cost, rows, columns)
    assert plan.min() >= 0.0
    np.testing.assert_allclose(plan.sum(axis=1), rows, rtol=0, atol=1e-12)
    np.testing.assert_allclose(plan.sum(axis=0), columns, rtol=0, atol=1e-12)


@given(transports())
def test_rounding_makes_a_plan_of_anything(case: tuple[Array, Array, Array]) -> None:
    """Rows and columns that move too much, too little, or below nothing."""
    cost, rows, columns = case
    plan = couplings._round_marginals(cost - 0.3, rows, columns)
    assert plan.min() >= 0.0
    np.testing.assert_allclose(plan.sum(axis=1), rows, rtol=0, atol=1e-12)
    np.testing.assert_allclose(plan.sum(axis=0), columns, rtol=0, atol=1e-12)


def test_an_assignment_is_the_cheapest_of_all_permutations() -> None:
    cost = 2.0 * np.random.default_rng(3).random((6, 6))
    weights = np.full(6, 1.0 / 6.0)
    cheapest = min(cost[range(6), p].mean() for p in itertools.permutations(range(6)))
    assert (transport_plan(cost, weights, weights) * cost).sum() == pytest.approx(cheapest)


def test_unequal_weights_cost_what_repeated_windows_cost() -> None:
    """Weights in twelfths: every window split into that many equal ones, assigned one by one."""
    rng = np.random.default_rng(4)
    rows, columns = np.array([5, 4, 2, 1]), np.array([3, 3, 3, 2, 1])
    cost = 2.0 * rng.random((4, 5))
    plan = transport_plan(cost, rows / 12.0, columns / 12.0)
    split = np.repeat(np.repeat(cost, rows, axis=0), columns, axis=1)
    equal = transport_plan(split, np.full(12, 1.0 / 12.0), np.full(12, 1.0 / 12.0))
    assert (plan * cost).sum() == pytest.approx((equal * split).sum(), abs=1e-12)


@pytest.mark.parametrize("noise_std", [0.3, 0.75, 2.0, 6.0])
def test_an_entropic_plan_costs_little_more_than_the_best(
    noise_std: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    points = rng.standard_normal((2, 150, 8))
    points[0, 0] = 1e6  # an outlier, far from everything
    cost = delta_cost(np.linalg.norm(points[0][:, None] - points[1] - 0.1, axis=2) / noise_std)
    weights = np.full(150, 1.0 / 150.0)
    best = (transport_plan(cost, weights, weights) * cost).sum()
    monkeypatch.setattr(couplings, "EXACT_COUNT", 0)
    monkeypatch.setattr(couplings, "EXACT_PAIRS", 0)
    entropic = (transport_plan(cost, weights, weights) * cost).sum()
    assert best - 1e-12 <= entropic <= best + max(0.005, 0.02 * best)


def nearest_neighbours() -> tuple[Array, Measure, Measure]:
    """Half of the clean windows lie where no corrupt one is; every corrupt one has a clean twin."""
    line = np.linspace(0.0, 0.2, 10)
    clean, corrupt = uniform(np.append(line, line + 5.0)[:, None]), uniform(line[:, None])
    plan = np.zeros((20, 10))
    plan[range(10), range(10)] = 0.1
    return plan, clean, corrupt


def test_matching_to_the_nearest_neighbour_is_refused() -> None:
    plan, clean, corrupt = nearest_neighbours()
    cost = delta_cost(np.abs(clean.points - corrupt.points.T) / ve_from_sigma(0.5))
    delta, _ = exact_divergences(clean, corrupt, 0.5)
    assert (plan * cost).sum() == 0.0
    assert delta > 0.6  # what it would have called 0
    with pytest.raises(ValueError, match="not a transport plan"):
        plan_bounds(plan, clean, corrupt, LEVELS)
    assert coupling_bounds(clean, corrupt, np.array([0.5])).delta_upper[0] >= delta


@pytest.mark.parametrize("fault", [1e-11, -1.0, np.nan])
def test_a_plan_with_a_small_fault_is_refused(fault: float) -> None:
    sides = uniform(np.zeros((2, 1))), uniform(np.ones((2, 1)))
    plan = np.full((2, 2), 0.25)
    plan_bounds(plan, *sides, LEVELS)
    plan[0] += np.array([fault, -fault if fault == -1.0 else 0.0])
    with pytest.raises(ValueError, match="not a transport plan"):
        plan_bounds(plan, *sides, LEVELS)


def test_more_plans_never_loosen_a_bound_at_their_levels() -> None:
    rng = np.random.default_rng(6)
    clean, corrupt = (uniform(rng.standard_normal((25, 4)) + shift) for shift in (0.0, 0.4))
    all_levels = coupling_bounds(clean, corrupt, LEVELS, plans=2 * LEVELS.size)
    for plans in (1, 3):
        few = coupling_bounds(clean, corrupt, LEVELS, plans=plans)
        assert (few.delta_upper >= all_levels.delta_upper - 1e-3).all()
    for index in range(LEVELS.size):  # the best plan of each level is among them
        own = coupling_bounds(clean, corrupt, LEVELS[index : index + 1], plans=1)
        assert all_levels.delta_upper[index] <= own.delta_upper[0] + 1e-12


def test_dimensions_that_carry_no_difference_change_nothing() -> None:
    rng = np.random.default_rng(7)
    lines = rng.standard_normal((2, 12))
    narrow, wide = (
        coupling_bounds(uniform(along(lines[0], dim)), uniform(along(lines[1], dim)), LEVELS)
        for dim in (1, 16)
    )
    np.testing.assert_allclose(narrow.tv_upper, wide.tv_upper, atol=1e-12)


def test_what_cannot_be_planned_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = uniform(np.zeros((3, 2))), uniform(np.ones((4, 2)))
    with pytest.raises(ValueError, match="plans"):
        coupling_bounds(*sides, LEVELS, plans=0)
    with pytest.raises(ValueError, match="levels"):
        coupling_bounds(*sides, np.array([1.0]))
    with pytest.raises(ValueError, match="columns"):
        coupling_bounds(sides[0], uniform(np.ones((4, 3))), LEVELS)
    monkeypatch.setattr(couplings, "MAX_PAIRS", 11)
    with pytest.raises(ValueError, match="subsample"):
        coupling_bounds(*sides, LEVELS)
