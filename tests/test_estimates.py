"""Estimates: plain loops over windows and draws, and the coverage of the intervals of rows."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student_t
from small_study import ACTION, HORIZON, SIGMA, make_classifier

from ambient_curate import estimates
from ambient_curate.classifier import FoldClassifier
from ambient_curate.crossing import avoid_levels, last_crossing, sparse_levels
from ambient_curate.devices import CPU_ROWS
from ambient_curate.estimates import (
    Curves,
    cross_curves,
    draw_curves,
    draw_lowest,
    pool_episodes,
    spread_of,
)
from ambient_curate.noise import draw_pairs, grid, signal_scale
from ambient_curate.parts import WINDOW_DRAWS

LEVELS = grid("squaredcos_cap_v2:100")
HEADS, WINDOWS, DRAWS = 3, 5, 6
THRESHOLD = 0.45


def make_windows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    windows = torch.randn(WINDOWS, HORIZON, ACTION, generator=generator)
    noise = draw_pairs(np.random.default_rng(0), WINDOWS, DRAWS, HORIZON * ACTION)
    return windows, torch.from_numpy(noise)


def finely_graded() -> FoldClassifier:
    """A classifier on a grid of which windows see a quarter."""
    generator = torch.Generator().manual_seed(1)
    slope, intercept = 0.05 * torch.randn(2, HEADS, LEVELS.size, generator=generator)
    return replace(make_classifier(HEADS), slope=slope, intercept=intercept, sigma=LEVELS)


@pytest.mark.parametrize("rows", [1, 60, CPU_ROWS])
def test_a_curve_is_the_mean_over_pairs_of_draws_that_serve_every_level(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(estimates, "rows_at_once", lambda device: rows)
    classifier, (windows, noise) = finely_graded(), make_windows()
    found = draw_curves(classifier, windows, noise, head=1)
    levels = sparse_levels(LEVELS.size)
    assert found.means.shape == found.errors.shape == (WINDOWS, levels.size) == (WINDOWS, 33)
    for window in range(WINDOWS):
        for place in range(0, levels.size, 4):
            level = int(levels[place])
            c = [
                classifier.predict(
                    windows[window : window + 1],
                    noise[window : window + 1, draw : draw + 1],
                    [1],
                    slice(level, level + 1),
                ).item()
                for draw in range(DRAWS)
            ]
            assert found.means[window, place] == pytest.approx(np.mean(c), abs=2e-6)
            error = np.std(c, ddof=1) / DRAWS**0.5
            assert found.errors[window, place] == pytest.approx(error, abs=5e-6)
    assert found.means.std() > 0.01


def test_the_lowest_level_is_seen_by_every_head_asked_for() -> None:
    classifier, (windows, noise) = make_classifier(HEADS, scale=0.02), make_windows()
    found = draw_lowest(classifier, windows, noise, [2, 0])
    assert found.shape == (WINDOWS, 2)
    for column, head in enumerate((2, 0)):
        curve = draw_curves(classifier, windows, noise, head).means[:, 0]
        np.testing.assert_allclose(found[:, column], curve, rtol=1e-5)
    assert np.abs(found[:, 0] - found[:, 1]).min() > 1e-4


def test_an_episode_is_the_mean_of_its_windows_whose_errors_are_independent() -> None:
    rng = np.random.default_rng(0)
    counts = np.array([3, 1, 64, 2])
    curves = Curves(rng.random((70, 8)), rng.random((70, 8)))
    found = pool_episodes(curves, counts)
    first = 0
    for row, count in enumerate(counts.tolist()):
        own = slice(first, first + count)
        np.testing.assert_allclose(found.means[row], curves.means[own].mean(axis=0), rtol=1e-12)
        variance = sum(curves.errors[i] ** 2 for i in range(own.start, own.stop)) / count**2
        np.testing.assert_allclose(found.errors[row], variance**0.5, rtol=1e-12)
        first += count
    assert first == len(curves.means)


def test_no_episode_at_all_has_no_curve() -> None:
    found = pool_episodes(Curves(np.empty((0, 8)), np.empty((0, 8))), np.empty(0, dtype=np.int64))
    assert found.means.shape == found.errors.shape == (0, 8)


def test_a_spread_is_students_for_the_freedom_of_its_row() -> None:
    errors = np.random.default_rng(0).random((3, 8))
    found = spread_of(errors, np.array([3.0, 15.0, 192.0]))
    for row, freedom in enumerate((3, 15, 192)):
        expected = student_t.ppf(0.975, freedom) * errors[row]
        np.testing.assert_allclose(found[row], expected, rtol=1e-10)


@given(
    st.lists(st.lists(st.floats(0.0, 1.0), min_size=8, max_size=8), min_size=1, max_size=4),
    st.floats(0.0, 0.3),
    st.floats(0.0, 0.3),
)
def test_an_interval_holds_its_crossing_and_its_ends_are_those_of_the_moved_curve(
    rows: list[list[float]], up: float, down: float
) -> None:
    means = np.array(rows)
    found, lower, upper = cross_curves(
        means, np.full((1, 8), up), np.full((1, 8), down), SIGMA, THRESHOLD
    )
    assert (lower <= found).all()
    assert (found <= upper).all()
    for row, curve in enumerate(means):
        crossings = [last_crossing(each, SIGMA, THRESHOLD) for each in (curve, curve + up)]
        assert found[row] == pytest.approx(float(crossings[0]), rel=1e-12)
        assert lower[row] == pytest.approx(float(min(crossings)), rel=1e-12)
        highest = float(last_crossing(curve - down, SIGMA, THRESHOLD))
        assert upper[row] == pytest.approx(max(highest, found[row]), rel=1e-12)


def test_curves_at_some_levels_cross_off_every_level_of_the_grid() -> None:
    rng = np.random.default_rng(0)
    places = sparse_levels(LEVELS.size)
    means = np.sort(rng.random((500, places.size)) * 0.6, axis=1)
    up, down = rng.random((2, 500, places.size)) * 0.05
    ends = cross_curves(means, up, down, LEVELS, THRESHOLD)
    for curves, found in zip((means, means + up, means - down), ends, strict=True):
        sparse = last_crossing(curves, LEVELS[places], THRESHOLD)
        assert found.tolist() == avoid_levels(sparse, LEVELS).tolist()
        assert not np.isin(found, LEVELS).any()
        assert np.unique(found).size > 50


def test_margins_that_know_nothing_leave_every_level_open() -> None:
    means = np.linspace(0.2, 0.5, SIGMA.size)[None]
    nothing = np.full((1, SIGMA.size), np.inf)
    found, lower, upper = cross_curves(means, nothing, nothing, SIGMA, THRESHOLD)[:, 0]
    assert (lower, upper) == (0.0, 1.0)
    assert found == last_crossing(means[0], SIGMA, THRESHOLD)


@pytest.mark.parametrize(
    ("variance", "mean", "x0"), [(0.05, 0.8, 0.9), (0.05, 0.8, 0.5), (0.5, 1.0, 1.2)]
)
def test_the_noise_interval_covers_a_windows_crossing(
    variance: float, mean: float, x0: float, record_property: Callable[[str, object], None]
) -> None:
    """At least as often as it says, 95 %: what pairs cancel is not taken off the error.

    Student's t for the mean of eight pairs, of which few are skewed, holds .84 to .92 alone.
    Exact classifier of N(0, variance) against N(mean, variance), a window x0. The truth is that of
    the whole grid, the interval one of some levels.
    """
    a = signal_scale(LEVELS)
    spread = a**2 * variance + LEVELS**2

    def probability(z: np.ndarray) -> np.ndarray:
        x = a * x0 + LEVELS * z[..., None]
        logit = (0.5 * (x - a * mean) ** 2 - 0.5 * x**2) / spread
        return 1.0 / (1.0 + np.exp(-logit))

    nodes, weights = np.polynomial.hermite_e.hermegauss(151)
    truth = float(last_crossing(weights / weights.sum() @ probability(nodes), LEVELS, THRESHOLD))
    assert 0.1 < truth < 0.95
    places = sparse_levels(LEVELS.size)
    z = draw_pairs(np.random.default_rng(20260410), 4_000, WINDOW_DRAWS, 1)[..., 0]
    c = probability(z.astype(np.float64))[..., places]
    pairs = 0.5 * (c[:, : WINDOW_DRAWS // 2] + c[:, WINDOW_DRAWS // 2 :])
    held = {}
    for name, values in (("draws", c), ("pairs", pairs)):
        n = values.shape[1]
        means, errors = values.mean(axis=1), values.std(axis=1, ddof=1) / n**0.5
        reach = spread_of(errors, np.full(len(means), n - 1.0))
        _, low, high = cross_curves(means, reach, reach, LEVELS, THRESHOLD)
        held[name] = float(np.mean((low <= truth) & (truth <= high)))
        print(f"{name}: coverage {held[name]:.4f}, mean width {np.mean(high - low):.3f}")
    record_property("coverage", held["draws"])
    assert held["draws"] >= 0.95
    assert held["pairs"] < 0.93
