"""Estimates: plain loops over windows and draws, and the coverage of the intervals of rows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import t as student_t
from small_study import ACTION, HORIZON, SIGMA, make_classifier

from ambient_curate.annotation.part_writer import WINDOW_DRAWS
from ambient_curate.classifier import window_curves
from ambient_curate.classifier.fit import CPU_ROWS, FoldClassifier
from ambient_curate.classifier.window_curves import (
    Curves,
    cross_curves,
    draw_curves,
    draw_lowest,
    pool_episodes,
    spread_of,
)
from ambient_curate.noise import draw_pairs, grid, signal_scale
from ambient_curate.statistics.sigma_min import avoid_levels, last_crossing, sparse_levels

LEVELS = grid("squaredcos_cap_v2:100")
SPARSE = LEVELS[sparse_levels(LEVELS.size)]
HEADS, WINDOWS, DRAWS = 3, 5, 6
THRESHOLD = 0.45
Array = NDArray[np.float64]
Record = Callable[[str, object], None]


def make_windows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    windows = torch.randn(WINDOWS, HORIZON, ACTION, generator=generator)
    noise = draw_pairs(np.random.default_rng(0), WINDOWS, DRAWS, HORIZON * ACTION)
    return windows, torch.from_numpy(noise)


def finely_graded() -> FoldClassifier:
    """A classifier for a grid of which it is read at a quarter."""
    return make_classifier(HEADS, scale=0.03, sigma=LEVELS)


@pytest.mark.parametrize("rows", [1, 60, CPU_ROWS])
def test_a_curve_is_the_mean_over_pairs_of_draws_that_serve_every_level(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(window_curves, "rows_at_once", lambda device: rows)
    classifier, (windows, noise) = finely_graded(), make_windows()
    found = draw_curves(classifier, windows, noise, head=1)
    assert classifier.sigma.tolist() == SPARSE.tolist()
    assert found.means.shape == found.errors.shape == (WINDOWS, SPARSE.size) == (WINDOWS, 33)
    for window in range(WINDOWS):
        for place in range(0, SPARSE.size, 4):
            c = [
                classifier.predict(
                    windows[window : window + 1],
                    noise[window : window + 1, draw : draw + 1],
                    [1],
                    slice(place, place + 1),
                ).item()
                for draw in range(DRAWS)
            ]
            assert found.means[window, place] == pytest.approx(np.mean(c), abs=2e-6)
            pairs = [(c[i] + c[i + DRAWS // 2]) / 2.0 for i in range(DRAWS // 2)]
            error = np.std(pairs, ddof=1) / (DRAWS / 2) ** 0.5
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


def test_a_spread_is_twice_students_for_half_the_freedom_of_its_row() -> None:
    errors = np.random.default_rng(0).random((3, 8))
    found = spread_of(errors, np.array([3.0, 15.0, 192.0]))
    for row, freedom in enumerate((3, 15, 192)):
        expected = 2.0 * student_t.ppf(0.975, freedom / 2) * errors[row]
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


@dataclass(frozen=True)
class Normals:
    """Clean N(0, v I) and corrupt N(mean, w I), mean along the first axis; the best classifier."""

    dim: int
    clean: float
    corrupt: float
    mean: float

    def probability(self, x0: Array, z: Array, sigma: Array) -> Array:
        """Of noise of shape (..., dim), at every level: (..., level)."""
        a = signal_scale(sigma)
        squares = [a**2 * (x0**2).sum(), sigma**2 * (z**2).sum(axis=-1)[..., None]]
        x_square = squares[0] + squares[1] + 2.0 * a * sigma * (z @ x0)[..., None]
        first = a * x0[0] + sigma * z[..., :1]
        p, q = a**2 * self.clean + sigma**2, a**2 * self.corrupt + sigma**2
        far = x_square - 2.0 * a * self.mean * first + (a * self.mean) ** 2
        logit = 0.5 * (far / q - x_square / p + self.dim * np.log(q / p))
        return np.asarray(expit(logit))


def draw_noise(rng: np.random.Generator, rows: int, draws: int, dim: int) -> Array:
    return draw_pairs(rng, rows, draws, dim).astype(np.float64)


def moved_normals(dim: int) -> Normals:
    return Normals(dim, 0.09, 0.09, 0.6)


def wider_normals(dim: int) -> Normals:
    return Normals(dim, 0.09, 0.12, 0.0)


def moved_pairs(law: Normals, x0: Array, rng: np.random.Generator, draws: int) -> Array:
    """Means of pairs of draws, shape (window, repetition, pair, level)."""
    c = [law.probability(x, draw_noise(rng, 1_000, draws, law.dim), SPARSE) for x in x0]
    return np.stack(c).reshape(len(x0), 1_000, 2, -1, SPARSE.size).mean(axis=2)


def true_crossing(law: Normals, x0: Array, rng: np.random.Generator) -> float:
    """By 20,000 draws a window, whose errors are a fortieth of those of 16."""
    many = [law.probability(x, draw_noise(rng, 1, 20_000, law.dim)[0], SPARSE) for x in x0]
    curve = np.mean([c.mean(axis=0) for c in many], axis=0)
    return float(last_crossing(curve, SPARSE, THRESHOLD))


def cover(law: Normals, x0: Array, draws: int, rng: np.random.Generator) -> tuple[float, float]:
    """Share of 1,000 intervals that hold the crossing; and of plain ones of Student's."""
    truth, pairs = true_crossing(law, x0, rng), moved_pairs(law, x0, rng, draws)
    variances = pairs.var(axis=2, ddof=1).sum(axis=0) / pairs.shape[2]
    errors = np.sqrt(variances) / len(x0)
    freedom = np.full(1_000, (draws / 2 - 1.0) * len(x0))
    plain = student_t.ppf(0.975, freedom)[:, None] * errors
    shares, widths = [], []
    for by in (spread_of(errors, freedom), plain):
        _, low, high = cross_curves(pairs.mean(axis=(0, 2)), by, by, LEVELS, THRESHOLD)
        shares.append(float(np.mean((low <= truth) & (truth <= high))))
        widths.append(float(np.mean(high - low)))
    print(
        f"dim {law.dim}, {len(x0)} windows, {draws} draws, sigma_min {truth:.3f}: held in "
        f"{shares[0]:.3f}, width {widths[0]:.3f} (plain: {shares[1]:.3f}, {widths[1]:.3f})"
    )
    return shares[0], shares[1]


@pytest.mark.parametrize(
    ("variance", "mean", "x0"), [(0.05, 0.8, 0.9), (0.05, 0.8, 0.5), (0.5, 1.0, 1.2)]
)
def test_the_noise_interval_covers_a_windows_crossing(
    variance: float, mean: float, x0: float, record_property: Record
) -> None:
    """Eight pairs, whose plain intervals are too short."""
    law, rng = Normals(1, variance, variance, mean), np.random.default_rng(20260410)
    held, plain = cover(law, np.array([[x0]]), WINDOW_DRAWS, rng)
    record_property("coverage", held)
    assert held >= 0.95
    assert plain < 0.93


@pytest.mark.validity
@pytest.mark.parametrize("contrast", ["moved", "wider"])
@pytest.mark.parametrize("dim", [2, 16, 112])
@pytest.mark.parametrize(("windows", "draws"), [(1, WINDOW_DRAWS), (1, 4), (3, 4), (10, 4)])
def test_noise_intervals_cover_the_crossings_of_windows_and_episodes(
    contrast: str, dim: int, windows: int, draws: int
) -> None:
    """Three each that cross inside the axis; of an even contrast pairs cancel nothing."""
    law = moved_normals(dim) if contrast == "moved" else wider_normals(dim)
    rng = np.random.default_rng([dim, windows, draws])
    centre = np.eye(dim)[0] * law.mean
    shares: list[float] = []
    while len(shares) < 3:
        x0 = centre + rng.normal(0.0, law.corrupt**0.5, (windows, dim))
        if 0.05 < true_crossing(law, x0, rng) < 0.95:
            shares.append(cover(law, x0, draws, rng)[0])
    assert min(shares) >= 0.95 - 3.0 * (0.95 * 0.05 / 1_000) ** 0.5
