"""Divergences of noised finite sets: quadrature, closed forms, and the excess of small samples."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from mixtures import along, exact_divergences, uniform, weighted
from scipy.special import erf

from ambient_curate.divergence import gaussian_delta
from ambient_curate.noise import sigma_from_ve, ve_from_sigma
from ambient_curate.statistics import upper_bounds
from ambient_curate.statistics.upper_bounds import kernel_divergence

LEVELS = np.array([0.05, 0.3, 0.6, 0.9, 0.99])


def test_two_points_have_the_divergences_of_two_normal_laws() -> None:
    distance = 1.3 / ve_from_sigma(LEVELS)
    found = kernel_divergence(
        uniform(np.zeros((1, 4))),
        uniform(np.full((1, 4), 0.65)),
        LEVELS,
        draws=20_000,
        rng=np.random.default_rng(1),
    )
    np.testing.assert_allclose(found.delta, gaussian_delta(distance), atol=0.015)
    np.testing.assert_allclose(found.tv, erf(distance / np.sqrt(8.0)), atol=0.01)


@pytest.mark.parametrize("dim", [1, 2, 16])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_weighted_sets_on_a_line_have_the_divergences_of_quadrature(dim: int, seed: int) -> None:
    """Directions in which nothing varies change nothing, and neither does a common shift."""
    rng = np.random.default_rng(seed)
    clean, corrupt = rng.normal(0.0, 1.0, 5), rng.normal(0.5, 1.0, 7)
    corrupt[:2] = clean[0], clean[1] + 1e-6  # a copy and a near-copy
    shares = rng.exponential(size=5), rng.exponential(size=7)
    found = kernel_divergence(
        weighted(along(clean, dim) + 300.0, shares[0]),
        weighted(along(corrupt, dim) + 300.0, shares[1]),
        LEVELS,
        draws=10_000,
        rng=rng,
    )
    sets = weighted(clean[:, None], shares[0]), weighted(corrupt[:, None], shares[1])
    exact = np.array([exact_divergences(*sets, float(sigma)) for sigma in LEVELS])
    np.testing.assert_allclose(found.delta, exact[:, 0], atol=0.02)
    np.testing.assert_allclose(found.tv, exact[:, 1], atol=0.012)


@pytest.mark.parametrize(("count", "mean"), [(20, 0.190), (200, 0.105)])
def test_small_samples_exceed_the_population_s_delta(count: int, mean: float) -> None:
    """N(0, 1) against N(.5, 1) at VE noise .5: population .0954, here the mean over 300 samples."""
    assert gaussian_delta(0.5 / np.sqrt(1.25)) == pytest.approx(0.0954, abs=5e-5)
    rng = np.random.default_rng(20260410)
    sigma = sigma_from_ve(np.array([0.5]))
    found = [
        kernel_divergence(
            uniform(rng.standard_normal((count, 1))),
            uniform(0.5 + rng.standard_normal((count, 1))),
            sigma,
            draws=200,
            rng=rng,
        ).delta[0]
        for _ in range(300)
    ]
    assert np.mean(found) == pytest.approx(mean, abs=3.5 * np.std(found) / np.sqrt(300.0))
    assert np.mean(found) > 0.0954 + np.std(found) / np.sqrt(300.0)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_equal_sets_do_not_differ(offset: float) -> None:
    points = np.random.default_rng(3).standard_normal((50, 12)) + offset
    found = kernel_divergence(
        uniform(points),
        uniform(points[::-1].copy()),
        np.array([0.002, 0.1, 0.9]),
        draws=50,
        rng=np.random.default_rng(4),
    )
    assert found.delta.max() < 1e-9
    assert found.tv.max() < 1e-5


def test_sets_of_different_copies_of_the_same_windows_do_not_differ() -> None:
    """Two copies of half of the weight each are one window."""
    points = np.random.default_rng(5).standard_normal((20, 3)).astype(np.float32)
    found = kernel_divergence(
        uniform(points),
        uniform(np.repeat(points, 3, axis=0)),
        LEVELS,
        draws=50,
        rng=np.random.default_rng(6),
    )
    assert found.tv.max() < 1e-9


def test_a_level_has_the_same_value_whatever_else_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(7)
    sets = uniform(rng.standard_normal((9, 3))), uniform(rng.standard_normal((11, 3)))

    def values(sigmas: np.ndarray) -> np.ndarray:
        found = kernel_divergence(*sets, sigmas, draws=40, rng=np.random.default_rng(8))
        return np.stack([found.delta, found.tv, found.delta_upper, found.tv_upper])

    together = values(LEVELS)
    np.testing.assert_allclose(values(LEVELS[2:3])[:, 0], together[:, 2], rtol=1e-12)
    monkeypatch.setattr(upper_bounds, "BLOCK", 1)  # one draw at a time
    np.testing.assert_allclose(values(LEVELS), together, rtol=1e-9)


def test_upper_ends_are_near_the_estimates_and_within_the_possible_range() -> None:
    rng = np.random.default_rng(9)
    sets = uniform(rng.standard_normal((30, 2))), uniform(0.5 + rng.standard_normal((40, 2)))
    found = kernel_divergence(*sets, LEVELS, draws=2_000, rng=rng)
    sure = kernel_divergence(*sets, LEVELS, draws=2_000, alpha=1e-6, rng=np.random.default_rng(9))
    assert (sure.delta_upper[1:] > found.delta_upper[1:]).all()
    for estimate, upper, top in (
        (found.delta, found.delta_upper, 2.0),
        (found.tv, found.tv_upper, 1.0),
    ):
        assert (estimate < upper).all() and (upper <= top).all()
        assert ((upper - estimate) / top < 3.0 * np.sqrt(0.25 / 2_000)).all()


@pytest.mark.parametrize(
    ("dim", "sigma", "draws", "alpha"),
    [(3, 0.5, 10, 0.1), (2, 1.0, 10, 0.1), (2, 0.5, 0, 0.1), (2, 0.5, 10, 1.0)],
)
def test_impossible_arguments_are_refused(dim: int, sigma: float, draws: int, alpha: float) -> None:
    with pytest.raises(ValueError, match=r"dims|levels|draws|alpha"):
        kernel_divergence(
            uniform(np.zeros((2, 2))),
            uniform(np.zeros((2, dim))),
            np.array([sigma]),
            draws=draws,
            alpha=alpha,
            rng=np.random.default_rng(0),
        )


PROGRAM = """
import resource, time
import numpy as np
from ambient_curate.statistics.upper_bounds import kernel_divergence
from ambient_curate.statistics.upper_bounds import Measure
rng = np.random.default_rng(1)
clean, corrupt = (rng.standard_normal((n, 112), dtype=np.float32) for n in (5_000, 50_000))
sets = (Measure(x, np.full(len(x), 1.0 / len(x))) for x in (clean, corrupt))
wall, cpu = time.perf_counter(), time.process_time()
kernel_divergence(*sets, np.linspace(0.05, 0.99, 32), draws=200, rng=rng)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, wall, cpu)
"""


@pytest.mark.slow
def test_five_thousand_against_fifty_thousand_windows_stay_below_a_gigabyte(
    record_property: Callable[[str, object], None],
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    peak_mib, wall_s, cpu_s = map(float, done.stdout.split())
    record_property("figures", done.stdout)
    print(f"peak {peak_mib:.0f} MiB, {wall_s:.1f} s, CPU {cpu_s:.1f} s; 200 pairs, 32 levels")
    assert peak_mib < 1_000.0
