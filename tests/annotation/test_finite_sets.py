"""The finite sets: whose windows are in them, what they weigh, and how their bound is held."""

import numpy as np
import pytest
import torch
from small_study import ACTION, HORIZON, SIGMA, make_population

from ambient_curate.annotation import assessment
from ambient_curate.annotation.assessment import LEVELS, compare_sets, measure_population
from ambient_curate.data.planted_controls import PlantedShift
from ambient_curate.noise import grid
from ambient_curate.statistics.brackets import MONTE_CARLO
from ambient_curate.statistics.upper_bounds import kernel_divergence, population_upper

LENGTHS = (3, 30, 5, 12)


def marked_population(**fields: object) -> object:
    """Every value of episode i is i, so that a window tells where it is from."""
    episodes = [np.full((n, ACTION), float(i)) for i, n in enumerate(LENGTHS)]
    return make_population("a", episodes, range(len(LENGTHS)), **fields)


def shares(measure: object, mark: float = 0.0) -> list[float]:
    return [
        float(measure.weights[(measure.points == mark + i).all(axis=1)].sum())
        for i in range(len(LENGTHS))
    ]


def test_every_episode_weighs_the_same_whatever_its_length() -> None:
    rng = np.random.default_rng(0)
    measure, count = measure_population(marked_population(), np.arange(4), rng)
    assert count == 4
    assert shares(measure) == pytest.approx([0.25] * 4)
    assert len(measure.points) == sum(n - HORIZON + 1 for n in LENGTHS)  # all of them fit
    assert measure.points.shape[1] == HORIZON * ACTION


def test_by_window_an_episode_weighs_its_windows() -> None:
    rng = np.random.default_rng(0)
    measure, _ = measure_population(marked_population(), np.arange(4), rng, by_window=True)
    counts = np.array([n - HORIZON + 1 for n in LENGTHS])
    assert shares(measure) == pytest.approx(counts / counts.sum())


def test_there_are_never_more_windows_than_asked_for() -> None:
    rng = np.random.default_rng(0)
    measure, count = measure_population(marked_population(), np.arange(4), rng, most=8)
    assert (len(measure.points), count) == (1 + 2 + 2 + 2, 4)
    assert shares(measure) == pytest.approx([0.25] * 4)
    measure, count = measure_population(marked_population(), np.arange(4), rng, most=3)
    assert (len(measure.points), count) == (3, 3)


def test_a_planted_shift_is_in_the_windows() -> None:
    population = marked_population(planted=PlantedShift(torch.full((HORIZON, ACTION), 7.0)))
    measure, _ = measure_population(population, np.arange(4), np.random.default_rng(0))
    assert shares(measure, 7.0) == pytest.approx([0.25] * 4)


def test_the_population_is_bounded_where_only_the_middles_of_episodes_are_alike() -> None:
    """One window of each of many episodes: were it the middle one, the sets would seem equal."""
    count, rng = 200, np.random.default_rng(0)
    sides = []
    for end in (0.0, 5.0):
        frames = np.repeat([end, end, 0.0, end, end], HORIZON)
        population = make_population("a", [np.tile(frames[:, None], ACTION)] * count, range(count))
        sides.append(measure_population(population, np.arange(count), rng, most=count))
    assert [(len(measure.points), n) for measure, n in sides] == [(count, count)] * 2
    found = compare_sets(*sides, SIGMA, rng)
    _, tv = population_upper(found.delta, found.tv, count, count, 0.05)
    alike = 1 / (4 * HORIZON + 1)  # of the windows
    assert np.nan_to_num(tv[0], nan=1.0) >= 1.0 - alike  # NaN: nothing is said


def test_a_level_takes_the_bound_of_the_nearest_one_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assessment, "LEVELS", 3)
    rng = np.random.default_rng(0)
    clean, corrupt = (
        measure_population(marked_population(**fields), np.arange(4), rng)
        for fields in ({}, {"planted": PlantedShift(torch.full((HORIZON, ACTION), 0.3))})
    )
    found = compare_sets(clean, corrupt, SIGMA, np.random.default_rng(5))
    at = [0, 3, 7]
    exact = kernel_divergence(
        clean[0], corrupt[0], SIGMA[at], alpha=MONTE_CARLO / 6, rng=np.random.default_rng(5)
    )
    held = [0, 0, 0, 1, 1, 1, 1, 2]
    np.testing.assert_array_equal(found.delta, exact.delta_upper[held])
    np.testing.assert_array_equal(found.tv, exact.tv_upper[held])
    assert found.delta[0] > found.delta[-1]
    assert (found.n_clean, found.n_corrupt) == (4, 4)


def test_the_usual_grid_is_read_at_both_of_its_ends() -> None:
    sigma = grid("squaredcos_cap_v2:100")
    sets = [
        measure_population(marked_population(), np.arange(4), np.random.default_rng(0))
        for _ in range(2)
    ]
    found = compare_sets(*sets, sigma, np.random.default_rng(0))
    assert len(np.unique(found.delta)) <= LEVELS
    assert found.delta.shape == sigma.shape
    assert found.delta.max() < 0.1  # equal sets: only the margin of the draws
