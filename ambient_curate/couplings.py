"""Upper bounds on Delta and total variation of two noised empirical measures, by transport plans.

A plan pairs the mass of two finite sets. Noise turns a pair of windows into two normal laws whose
divergence is known; both divergences are jointly convex, so their mean over *any* plan bounds the
divergence of the noised sets (METHOD.md section 4). Only a plan with the sets' own weights as
marginals does: matching every window to its nearest neighbour is none, and is refused.
"""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linear_sum_assignment, linprog
from scipy.spatial.distance import cdist
from scipy.special import erf

from ambient_curate.bounds import gaussian_delta
from ambient_curate.measures import Measure, interior_noise_stds

MAX_PAIRS = 2**23  # of windows, in one plan: 64 MiB an array, ten of them at the peak
EXACT_COUNT = 2_000  # windows a side up to which an assignment is solved exactly: a second
EXACT_PAIRS = 100_000  # pairs up to which a linear programme is: a second
STRENGTHS = (0.1, 0.03, 0.01, 0.003)  # of the entropy, for a mean cost of 1
ABSORPTIONS, SCALINGS = 3, 20
MARGIN = 1e-12  # by which the marginals of a plan may miss the weights
LEAST_EXPONENT = -300.0  # exp is slow where it underflows
TABLE_END, TABLE_STEPS = 12.0, 2**14
QUADRATURE_ERROR = 1e-6  # of `gaussian_delta`, at most 2e-7 (near a distance of 7)

Levels = Float64[np.ndarray, " level"]


@dataclass(frozen=True, eq=False)
class CouplingBounds:
    """Upper bounds at every level.

    Parameters
    ----------
    delta_upper, tv_upper : ndarray, float64, shape (level,)
        In [0, 2] and [0, 1].
    """

    delta_upper: Levels
    tv_upper: Levels


def coupling_bounds(
    clean: Measure, corrupt: Measure, sigmas: Float[np.ndarray, " level"], *, plans: int = 4
) -> CouplingBounds:
    """Bound Delta and total variation of two noised empirical measures from above.

    The best plan differs from level to level, but a plan made for one level is valid at all. Plans
    are made at a few levels, and every level takes the smallest value of all of them.

    Parameters
    ----------
    clean, corrupt : Measure
        With the same `dim`, at most 2^23 pairs of windows. Larger sets are subsampled by the
        caller; the bound then speaks of the subsamples.
    sigmas : ndarray, shape (level,)
        VP noise levels in (0, 1), rising.
    plans : int >= 1, default 4
        Levels, evenly spread over the given ones, at which a plan is made.

    Returns
    -------
    CouplingBounds
        A certain statement about these two finite sets, in general strictly above their
        divergences. `measures.population_upper` adds what a population lacks.

    Raises
    ------
    ValueError
        If dimensions differ, a level is outside (0, 1), or there are too many pairs.
    """
    if plans < 1:
        raise ValueError(f"plans must be >= 1, got {plans}")
    noise_stds = interior_noise_stds(sigmas)
    distance = _window_distance(clean, corrupt)
    made_at = np.linspace(0, sigmas.size - 1, plans + 2)[1:-1].round().astype(np.int64)
    delta, tv = np.full(sigmas.size, 2.0), np.ones(sigmas.size)
    for index in np.unique(made_at):
        cost = delta_cost(distance / noise_stds[index])
        plan = transport_plan(cost, clean.weights, corrupt.weights)
        of_plan = plan_bounds(plan, clean, corrupt, sigmas)
        np.minimum(delta, of_plan.delta_upper, out=delta)
        np.minimum(tv, of_plan.tv_upper, out=tv)
    return CouplingBounds(delta, tv)


def plan_bounds(
    plan: Float64[np.ndarray, "clean corrupt"],
    clean: Measure,
    corrupt: Measure,
    sigmas: Float[np.ndarray, " level"],
) -> CouplingBounds:
    """Bounds of one transport plan at all levels.

    Parameters
    ----------
    plan : ndarray, float64, shape (clean window, corrupt window)
        Mass moved between each pair, >= 0.
    clean, corrupt : Measure
        Their weights are the plan's sums over rows and over columns.
    sigmas : ndarray, shape (level,)
        VP noise levels in (0, 1).

    Raises
    ------
    ValueError
        If the plan's marginals miss the weights by more than 1e-12: a matching that uses a window
        twice, or not at all, bounds nothing.
    """
    misses = (
        np.abs(plan.sum(axis=1) - clean.weights).max(),
        np.abs(plan.sum(axis=0) - corrupt.weights).max(),
    )
    if not (plan.min() >= 0.0 and max(misses) <= MARGIN):  # not a number is no plan either
        raise ValueError(f"not a transport plan: its marginals miss the weights by {max(misses)}")
    used = plan > 0.0
    mass, distance = plan[used], _window_distance(clean, corrupt)[used]
    noise_stds = interior_noise_stds(sigmas)
    delta = [mass @ delta_cost(distance / noise_std) for noise_std in noise_stds]
    tv = [mass @ tv_cost(distance / noise_std) for noise_std in noise_stds]
    return CouplingBounds(np.minimum(delta, 2.0), np.minimum(tv, 1.0))


def _window_distance(clean: Measure, corrupt: Measure) -> NDArray[np.float64]:
    pairs = clean.weights.size * corrupt.weights.size
    if pairs > MAX_PAIRS:
        raise ValueError(f"{pairs} pairs of windows, at most {MAX_PAIRS} fit: subsample both sets")
    return cdist(clean.points.astype(np.float64), corrupt.points.astype(np.float64))


def tv_cost(distance: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Total variation of N(0, 1) and N(distance, 1), ``2 Phi(distance / 2) - 1``."""
    return erf(distance / np.sqrt(8.0))


def delta_cost(distance: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Delta of N(0, 1) and N(distance, 1) from a table, never too low, at most 6e-4 too high.

    Distances are rounded up to the table's step, 12 / 2^14; 0 stays 0, and 2 is given beyond 12.
    """
    index = np.ceil(np.minimum(distance, 2.0 * TABLE_END) * (TABLE_STEPS / TABLE_END))
    return _delta_table()[np.minimum(index, TABLE_STEPS + 1).astype(np.intp)]


@functools.cache
def _delta_table() -> NDArray[np.float64]:
    steps = np.arange(TABLE_STEPS + 1) * (TABLE_END / TABLE_STEPS)
    table = np.minimum(gaussian_delta(steps) + QUADRATURE_ERROR, 2.0)
    table[0] = 0.0
    return np.append(np.maximum.accumulate(table), 2.0)


def transport_plan(
    cost: Float64[np.ndarray, "clean corrupt"],
    clean_weights: Float64[np.ndarray, " clean"],
    corrupt_weights: Float64[np.ndarray, " corrupt"],
) -> Float64[np.ndarray, "clean corrupt"]:
    """Transport plan of small total cost, whose marginals are the weights.

    Of least cost where that is affordable: between equally many windows of equal weights, up to
    2,000 a side, and else up to 100,000 pairs. Beyond, entropic, rounded to the exact marginals.

    Parameters
    ----------
    cost : ndarray, float64, shape (clean window, corrupt window)
        In [0, 2].
    clean_weights, corrupt_weights : ndarray, float64, shape (window,)
        Positive, each with sum 1.

    Returns
    -------
    ndarray, float64, shape (clean window, corrupt window)
        Marginals are right to within 1e-12.

    References
    ----------
    Altschuler, Weed and Rigollet (2017), NeurIPS, algorithm 2 (rounding). Schmitzer (2019), SIAM
    J. Sci. Comput. 41(3) (scalings absorbed into potentials, falling entropy).
    """
    clean_count, corrupt_count = cost.shape
    weights = np.concatenate([clean_weights, corrupt_weights])
    if clean_count == corrupt_count <= EXACT_COUNT and np.ptp(weights) <= MARGIN / clean_count:
        plan = np.zeros_like(cost)
        plan[linear_sum_assignment(cost)] = 1.0 / clean_count
        return plan
    if cost.size <= EXACT_PAIRS:
        plan = _linear_programme(cost, weights)
    else:
        plan = _sinkhorn(cost, clean_weights, corrupt_weights)
    return _round_marginals(plan, clean_weights, corrupt_weights)


def _linear_programme(
    cost: Float64[np.ndarray, "clean corrupt"], weights: Float64[np.ndarray, " window"]
) -> NDArray[np.float64]:
    clean_count, corrupt_count = cost.shape
    rows = sparse.kron(sparse.eye_array(clean_count), np.ones((1, corrupt_count)))
    columns = sparse.kron(np.ones((1, clean_count)), sparse.eye_array(corrupt_count))
    solved = linprog(
        cost.ravel(), A_eq=sparse.vstack([rows, columns]).tocsr(), b_eq=weights, method="highs-ds"
    )
    if solved.x is None:
        raise RuntimeError(f"HiGHS found no transport plan: {solved.message}")
    return solved.x.reshape(cost.shape)


def _sinkhorn(
    cost: Float64[np.ndarray, "clean corrupt"],
    clean_weights: Float64[np.ndarray, " clean"],
    corrupt_weights: Float64[np.ndarray, " corrupt"],
) -> NDArray[np.float64]:
    rows = cost.min(axis=1, keepdims=True)  # so that no row or column of the kernel vanishes
    columns = (cost - rows).min(axis=0, keepdims=True)
    for strength in np.array(STRENGTHS) * max(float(cost.mean()), MARGIN):
        for _ in range(ABSORPTIONS):
            kernel = np.exp(np.maximum((rows + columns - cost) / strength, LEAST_EXPONENT))
            right = np.ones(cost.shape[1])
            for _ in range(SCALINGS):
                left = clean_weights / (kernel @ right)
                right = corrupt_weights / (left @ kernel)
            rows += strength * np.log(left)[:, None]
            columns += strength * np.log(right)[None]
    return left[:, None] * kernel * right


def _round_marginals(
    plan: Float64[np.ndarray, "clean corrupt"],
    clean_weights: Float64[np.ndarray, " clean"],
    corrupt_weights: Float64[np.ndarray, " corrupt"],
) -> NDArray[np.float64]:
    plan = np.maximum(plan, 0.0)
    plan *= np.minimum(1.0, clean_weights / np.maximum(plan.sum(axis=1), clean_weights))[:, None]
    plan *= np.minimum(1.0, corrupt_weights / np.maximum(plan.sum(axis=0), corrupt_weights))
    clean_missing = np.maximum(clean_weights - plan.sum(axis=1), 0.0)
    corrupt_missing = np.maximum(corrupt_weights - plan.sum(axis=0), 0.0)
    missing = clean_missing.sum()
    if missing > 0.0:
        plan += np.outer(clean_missing, corrupt_missing / missing)
    return plan
