"""Examinations: the checks get the right numbers, and a network that cannot see is found out."""

from dataclasses import replace

import numpy as np
import pytest
from small_study import ACTION, HORIZON, SIGMA, make_envelope, make_population

from ambient_curate.annotation.curves import C, PopulationCurves, Side, summarize_population
from ambient_curate.annotation.reliability import (
    differ_surely,
    examine_control,
    examine_folds,
    examine_population,
    failures,
)
from ambient_curate.classifier.out_of_fold import BANDS, BINS
from ambient_curate.data.planted_controls import Control

FOLDS = 5


def make_side(c: float, accuracy: float, episodes: int, seed: int) -> Side:
    rng = np.random.default_rng(seed)
    noise = 0.03 * rng.normal(size=(episodes, 1))
    statistics = np.empty((episodes, 4, SIGMA.size))
    statistics[:, 0] = c + noise
    statistics[:, 1:3] = 0.25
    statistics[:, 3] = accuracy + noise
    histogram = np.full((episodes, BANDS, BINS, 2), 0.5)
    return Side(statistics, histogram, np.ones(episodes), np.arange(episodes) % FOLDS)


def summarize(clean: Side, corrupt: Side) -> PopulationCurves:
    rng = np.random.default_rng(0)
    return summarize_population(
        ("a", None), SIGMA, clean, corrupt, make_envelope(), epsilon=0.05, rng=rng
    )


def examine(clean: Side, corrupt: Side, p_value: float) -> dict[str, bool]:
    found = examine_population(
        summarize(clean, corrupt),
        clean,
        corrupt,
        p_value,
        challenged=False,
        epsilon=0.05,
        rng=np.random.default_rng(1),
    )
    return {finding.check: finding.passed for finding in found}


def test_a_network_that_says_one_half_is_blind_where_a_difference_is_sure() -> None:
    sides = make_side(0.5, 0.5, 40, 0), make_side(0.5, 0.5, 60, 1)
    assert examine(*sides, 0.001) == {"blindness": False, "balance": True}
    assert examine(*sides, 0.3) == {"blindness": True, "balance": True}


def test_a_network_that_sees_the_difference_passes() -> None:
    sides = make_side(0.7, 0.8, 40, 0), make_side(0.3, 0.8, 60, 1)
    assert examine(*sides, 0.001) == {"blindness": True, "balance": True}


def test_probabilities_that_do_not_sum_to_one_are_skewed() -> None:
    sides = make_side(0.7, 0.8, 40, 0), make_side(0.5, 0.8, 60, 1)
    found = summarize(*sides)
    assert (found.clean[C] + found.corrupt[C] - 1.0).max() > 0.1
    assert examine(*sides, 0.3) == {"blindness": True, "balance": False}


def falling_brier(levels: np.ndarray, episodes: int, rise: float, seed: int) -> Side:
    """Brier scores that differ from level to level, and a little from episode to episode."""
    rng = np.random.default_rng(seed)
    statistics = np.zeros((episodes, 4, levels.size))
    statistics[:, 1] = 0.25 * levels + rise + 0.001 * rng.normal(size=(episodes, 1))
    histogram = np.full((episodes, BANDS, BINS, 2), 0.5)
    return Side(statistics, histogram, np.ones(episodes), np.arange(episodes) % FOLDS)


@pytest.mark.parametrize(("gap", "passed"), [(0.0, True), (0.01, False), (-0.01, True)])
def test_folds_are_compared_by_what_two_networks_say_of_an_episode(
    gap: float, passed: bool
) -> None:
    own, other = (
        (falling_brier(SIGMA, 40, rise, seed), falling_brier(SIGMA, 60, rise, seed + 1))
        for rise, seed in ((0.0, 0), (gap, 2))
    )
    finding = examine_folds(own, other)
    assert (finding.check, finding.passed) == ("overfit", passed)
    assert finding.numbers["gap"] == pytest.approx(gap, abs=1e-3)
    assert finding.numbers["in_use"] == pytest.approx(0.25 * SIGMA.mean(), abs=1e-3)


def test_folds_are_compared_with_each_class_and_fold_counting_the_same() -> None:
    """Of fold 0 the clean episodes, ten of forty, lose .1: half of a fifth of that is the gap."""
    own, other = (
        tuple(falling_brier(SIGMA, n, 0.0, seed) for seed, n in enumerate((40, 60))) for _ in "ab"
    )
    other[0].statistics[other[0].fold == 0, 1] += 0.1
    assert examine_folds(own, other).numbers["gap"] == pytest.approx(0.1 / 2 / FOLDS)


@pytest.mark.parametrize(("name", "voids"), [("planted shift", True), ("planted spike", False)])
def test_a_control_is_examined_under_its_name_and_only_a_missed_shift_voids_answers(
    name: str, voids: bool
) -> None:
    sides = make_side(0.5, 0.5, 40, 0), make_side(0.5, 0.5, 60, 1)
    planted = Control(make_population(name, [np.zeros((4, ACTION))], [0]), 0.4)
    missed = examine_control(summarize(*sides), planted)
    assert (missed.check, missed.passed) == ("control", not voids)
    assert missed.sentence.startswith(f"the {name} was expected at sigma 0.400")
    assert missed.numbers["recovered"] == 0.0
    near = replace(summarize(*sides), sigma_min=0.38, lower=0.35, upper=0.42)
    found = examine_control(near, planted)
    assert (found.check, found.passed, found.numbers["recovered"]) == ("control", True, 1.0)
    assert list(failures([found, missed])) == [missed.sentence] * voids


def walks(seed: int, count: int, spread: float) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [spread * rng.normal(size=(HORIZON + 5, ACTION)) for _ in range(count)]


@pytest.mark.parametrize(("spread", "sure"), [(1.0, False), (2.0, True)])
def test_the_difference_is_asked_of_the_episodes_themselves(spread: float, sure: bool) -> None:
    clean, corrupt = (
        make_population(name, episodes, [0] * 30)
        for name, episodes in (("p", walks(0, 30, 1.0)), ("q", walks(1, 30, spread)))
    )
    p_value = differ_surely(clean, corrupt, 0.03, np.random.default_rng(0))
    assert (p_value == 0.001) if sure else (p_value > 0.05)


def test_one_episode_a_side_is_no_difference() -> None:
    populations = [make_population(name, walks(0, 1, 1.0), [0]) for name in ("p", "q")]
    assert differ_surely(*populations, 0.03, np.random.default_rng(0)) == 1.0
