"""Sums: what shards leave behind says what all their rows would."""

from collections.abc import Sequence
from dataclasses import fields
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient_curate.annotation.rows import BINS, RowSums, load_sums, save_sums, sum_rows
from ambient_curate.annotation.weights import Tally, tally_windows
from ambient_curate.noise import schedule_levels

SCHEDULES = ("squaredcos_cap_v2:100", "flow:10", "edm:18")
LEVELS = np.sort(schedule_levels(SCHEDULES[0]))
SHARES = (0.0625, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
values = st.one_of(st.just(np.nan), st.sampled_from([0.0, 1.0, 0.25]), st.floats(0.0, 1.0))


def make_tally(seed: int, windows: int = 12) -> Tally:
    rng = np.random.default_rng(seed)
    c, usable = rng.random(windows), rng.random(windows) < 0.5
    return tally_windows(c, usable, rng.random(windows), 0.7, np.array([0, windows // 2]))


def assert_equal(found: RowSums, expected: RowSums) -> None:
    assert found.counts.dtype == expected.counts.dtype == np.int64
    assert found.counts.tolist() == expected.counts.tolist()
    assert (found.nulls, found.banned) == (expected.nulls, expected.banned)
    assert len(found.tallies) == len(expected.tallies)
    for one, other in zip(found.tallies, expected.tallies, strict=True):
        for field in fields(Tally):
            before, after = getattr(other, field.name), getattr(one, field.name)
            assert before.dtype == after.dtype
            np.testing.assert_allclose(after, before, rtol=1e-12, atol=1e-15)


@given(st.lists(values, max_size=40), st.lists(st.integers(0, 40), max_size=3))
def test_shards_add_up_to_the_sums_of_all_rows(rows: list[float], cuts: list[int]) -> None:
    sigma_min = np.array(rows, dtype=np.float64)
    parts = np.split(sigma_min, sorted(min(cut, sigma_min.size) for cut in cuts))
    merged = reduce(add, [sum_rows(part, np.zeros_like(part), LEVELS) for part in parts])
    assert_equal(merged, sum_rows(sigma_min, np.zeros_like(sigma_min), LEVELS))
    assert merged.rows == sigma_min.size


@given(st.lists(values, min_size=1, max_size=60), st.sampled_from(SHARES))
def test_quantiles_are_those_of_the_rows_with_nulls_as_one(rows: list[float], share: float) -> None:
    found = sum_rows(np.array(rows), np.zeros(len(rows)), LEVELS).quantile(share)
    exact = np.nan_to_num(np.array(rows), nan=1.0)
    expected = np.quantile(exact, share, method="inverted_cdf")
    assert -1e-12 <= found - expected <= 1.0 / BINS + 1e-12
    assert np.mean(exact <= found + 1e-12) >= share - 1e-12


def test_quantiles_of_many_rows_lie_within_a_bin() -> None:
    rng = np.random.default_rng(0)
    sigma_min = rng.beta(2.0, 3.0, 100_000)
    sigma_min[rng.random(sigma_min.size) < 0.2] = 0.0
    found = sum_rows(sigma_min, np.zeros_like(sigma_min), LEVELS)
    for share in np.linspace(0.01, 1.0, 100):
        expected = np.quantile(sigma_min, share, method="inverted_cdf")
        assert 0.0 <= found.quantile(float(share)) - expected <= 1.0 / BINS
    assert found.quantile(0.1) == 0.0  # and no bin above it
    nulls = sum_rows(np.full(3, np.nan), np.zeros(3), LEVELS)
    assert [nulls.quantile(share) for share in (0.1, 0.9)] == [1.0, 1.0]
    assert (nulls.rows, nulls.nulls) == (3, 3)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_banned_levels_are_those_not_above_each_rows_sigma_min(schedule: str) -> None:
    levels = np.sort(schedule_levels(schedule))
    rng = np.random.default_rng(0)
    edges = [0.0, 1.0, levels[3], np.nextafter(levels[3], 1.0), np.nextafter(levels[3], 0.0)]
    sigma_min = np.concatenate([rng.random(50), edges, [np.nan, np.nan]])
    expected = 0
    for value in sigma_min:
        for level in levels:
            expected += np.isnan(value) or not level > value
    assert sum_rows(sigma_min, np.zeros_like(sigma_min), levels).banned == expected
    assert sum_rows(np.array([np.nan]), np.zeros(1), levels).banned == levels.size
    assert sum_rows(np.array([0.0]), np.zeros(1), levels).banned == 0


@pytest.mark.parametrize("tallies", [0, 1, 3])
def test_tallies_are_added_pair_by_pair_and_none_is_nothing(tallies: int) -> None:
    first, second = ([make_tally(10 * side + i) for i in range(tallies)] for side in (0, 1))
    rows = np.array([0.1, np.nan])
    with_first, with_second, without = (
        sum_rows(rows, np.zeros_like(rows), LEVELS, each) for each in (first, second, ())
    )
    merged = (with_first + with_second).tallies
    assert len(merged) == tallies
    for one, other, both in zip(first, second, merged, strict=True):
        for field in fields(Tally):
            expected = getattr(one, field.name) + getattr(other, field.name)
            np.testing.assert_array_equal(getattr(both, field.name), expected)
    # a shard of episodes that are too short has no window to tally
    for sums in (with_first + without, without + with_first):
        assert_equal(sums, RowSums(2 * with_first.counts, 2, 2 * with_first.banned, tuple(first)))


def test_sums_of_different_pairs_do_not_add() -> None:
    one, two = ([make_tally(i) for i in range(count)] for count in (1, 2))
    with pytest.raises(ValueError, match="zip"):
        sum_rows(np.zeros(1), np.zeros(1), LEVELS, one) + sum_rows(
            np.zeros(1), np.zeros(1), LEVELS, two
        )


@pytest.mark.parametrize("tallies", [(), (0,), (1, 2, 3)])
def test_sums_come_back_exactly(tmp_path: Path, tallies: Sequence[int]) -> None:
    rng = np.random.default_rng(0)
    sums = sum_rows(
        rng.random(1_000), np.zeros(1_000), LEVELS, [make_tally(seed) for seed in tallies]
    )
    sums = sums + sum_rows(np.full(7, np.nan), np.zeros(7), LEVELS)
    path = tmp_path / "00003.npz"
    save_sums(sums, path)
    first, found = path.read_bytes(), load_sums(path)
    with np.load(path) as stored:  # and no option of NumPy's among them
        assert set(stored.files) == {"counts", "others", "mass", "usable", "weighted", "sums"}
    assert_equal(found, sums)
    for one, other in zip(found.tallies, sums.tallies, strict=True):
        for field in fields(Tally):
            assert getattr(one, field.name).tolist() == getattr(other, field.name).tolist()
    assert found.quantile(0.5) == sums.quantile(0.5)
    save_sums(found, path)
    assert path.read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert len(first) < 20_000  # a part has one
