"""Walks: where they stop, and how often a walk over many levels goes too far."""

import itertools

import numpy as np
import pytest

from ambient_curate.statistics.brackets import walk_down, walk_up

LEVELS = np.array([0.1, 0.2, 0.4, 0.8])


@pytest.mark.parametrize("pattern", list(itertools.product([False, True], repeat=4)))
def test_every_pattern_of_four_levels(pattern: tuple[bool, ...]) -> None:
    passed = np.array(pattern)
    up = next((i for i in range(4) if not passed[i]), 4)
    down = next((i for i in range(4) if not passed[3 - i]), 4)
    assert walk_up(LEVELS, passed) == (0.0, 0.1, 0.2, 0.4, 1.0)[up]
    assert walk_down(LEVELS, passed) == (1.0, 0.8, 0.4, 0.2, 0.0)[down]


def z_tests(rng: np.random.Generator, excess: np.ndarray, threshold: float) -> np.ndarray:
    """One-sided tests of ``excess <= 0`` at each level, independent, at the given quantile."""
    return excess + rng.normal(size=(2000, excess.size)) > threshold


def test_a_walk_over_256_levels_errs_no_more_than_one_test() -> None:
    """Each level's test errs in 2.5 % at its own boundary; the largest rejected level in most."""
    rng = np.random.default_rng(0)
    sigma = np.linspace(0.01, 0.99, 256)
    excess = np.where(np.arange(256) < 100, 4.0, 0.0)  # the hypothesis is just true from 100 on
    rejected = z_tests(rng, excess, 1.96)
    truth = sigma[99]
    wrong = np.array([walk_up(sigma, row) > truth for row in rejected])
    largest = np.array([sigma[row].max() > truth for row in rejected])
    assert wrong.mean() <= 0.025 + 3 * (0.025 * 0.975 / 2000) ** 0.5
    assert largest.mean() > 0.9  # what the walk is for


def test_walking_down_is_walking_up_in_a_mirror() -> None:
    rng = np.random.default_rng(1)
    sigma = np.sort(rng.random(50))
    for _ in range(200):
        passed = rng.random(50) < 0.9
        up = walk_up(np.sort(1.0 - sigma), passed[::-1])
        assert walk_down(sigma, passed) == pytest.approx(1.0 - up)
