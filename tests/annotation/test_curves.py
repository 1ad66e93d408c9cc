"""Curves against plain loops over episodes; reliability by hand; tables against their schema."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import isotonic_regression
from scipy.stats import t as student
from small_study import SIGMA

from ambient_curate.annotation import curves
from ambient_curate.annotation.curves import (
    ACCURACY,
    BRIER,
    CONFIDENCE,
    MISSED,
    PopulationCurves,
    Side,
    hold_out,
    summarize_population,
    tabulate_curves,
    tabulate_reliability,
)
from ambient_curate.classifier.out_of_fold import BANDS, BINS, STATISTICS, band_of
from ambient_curate.noise import grid, log_snr
from ambient_curate.run.tables import read_curves, read_reliability, write_curves, write_reliability
from ambient_curate.statistics.bootstrap import bootstrap_means
from ambient_curate.statistics.brackets import FiniteSets, build_envelope, know_nothing
from ambient_curate.statistics.sigma_min import (
    expand_levels,
    first_crossing,
    last_crossing,
    sparse_levels,
)

EPSILON = 0.05
FOLDS = 4
BAND_SIZES = np.bincount(band_of(SIGMA.size), minlength=BANDS)


@pytest.fixture(autouse=True)
def few_redraws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "bootstrap_means", partial(bootstrap_means, repeats=50))


def make_histogram(rng: np.random.Generator, episodes: int) -> np.ndarray:
    """Shares that sum to the levels of a band, with the means of their bins."""
    share = rng.dirichlet(np.ones(BINS), size=(episodes, BANDS)) * BAND_SIZES[:, None]
    middle = (np.arange(BINS) + 0.5) / BINS
    return np.stack([share, share * middle], axis=-1)


def make_side(
    centre: np.ndarray, episodes: int, seed: int, *, spread: float = 0.08, weighted: bool = False
) -> Side:
    """Episodes whose mean probabilities scatter around `centre`, one offset an episode."""
    rng = np.random.default_rng(seed)
    c = centre + spread * rng.normal(size=(episodes, 1)) + 0.02 * rng.normal(size=(episodes, 8))
    rest = rng.random((episodes, len(STATISTICS) - 1, SIGMA.size))
    weight = rng.integers(1, 50, episodes).astype(np.float64) if weighted else np.ones(episodes)
    statistics = np.concatenate([c.clip(0, 1)[:, None], rest], axis=1)
    return Side(statistics, make_histogram(rng, episodes), weight, np.arange(episodes) % FOLDS)


FINITE = FiniteSets(np.full(SIGMA.size, 2.0), np.ones(SIGMA.size), 11, 17)
RISING = np.array([0.05, 0.1, 0.2, 0.35, 0.46, 0.49, 0.5, 0.5])


def summarize(
    clean: Side, corrupt: Side, seed: int = 0, finite: FiniteSets = FINITE
) -> PopulationCurves:
    held_out = hold_out(clean, corrupt, np.random.default_rng([seed, 1]))
    envelope = build_envelope(SIGMA, held_out, finite, epsilon=EPSILON)
    rng = np.random.default_rng(seed)
    return summarize_population(
        ("a", None), SIGMA, clean, corrupt, envelope, epsilon=EPSILON, rng=rng
    )


def test_losses_are_held_out_with_their_folds_in_a_drawn_order() -> None:
    clean, corrupt = make_side(1.0 - RISING, 11, 1), make_side(RISING, 17, 2)
    orders = set()
    for seed in range(40):
        held = hold_out(clean, corrupt, np.random.default_rng(seed))
        np.testing.assert_array_equal(held.brier.clean, clean.statistics[:, BRIER])
        np.testing.assert_array_equal(held.errors.corrupt, 1.0 - corrupt.statistics[:, ACCURACY])
        order = tuple(held.brier.clean_fold[:FOLDS].tolist())
        for fold, side in ((held.errors.clean_fold, clean), (held.bce.corrupt_fold, corrupt)):
            np.testing.assert_array_equal(fold, np.array(order)[side.fold])
        orders.add(order)
    assert all(sorted(order) == list(range(FOLDS)) for order in orders)
    assert len(orders) > 5


@pytest.mark.parametrize("weighted", [False, True])
def test_means_delta_and_the_crossing_are_those_of_a_plain_loop(weighted: bool) -> None:
    clean = make_side(1.0 - RISING, 11, 1, weighted=weighted)
    corrupt = make_side(RISING, 17, 2, weighted=weighted)
    found = summarize(clean, corrupt)
    assert (found.n_clean, found.n_corrupt) == (11, 17)
    for side, means in ((clean, found.clean), (corrupt, found.corrupt)):
        total = sum(w * s for w, s in zip(side.weight, side.statistics, strict=True))
        np.testing.assert_allclose(means, total / side.weight.sum())
    rising = isotonic_regression(found.corrupt[0]).x
    np.testing.assert_allclose(found.isotonic, rising)
    np.testing.assert_allclose(found.delta, np.clip(2.0 - 4.0 * rising, 0.0, 2.0))
    assert found.sigma_min == float(last_crossing(rising, SIGMA, 0.5 - EPSILON))


def test_a_dip_is_pooled_before_it_is_crossed() -> None:
    """One level far too high, one far too low: the crossing is that of the pooled curve."""
    curve = np.array([0.1, 0.2, 0.3, 0.49, 0.41, 0.49, 0.5, 0.5])
    side = make_side(curve, 1, 0, spread=0.0)
    side.statistics[0, 0] = curve
    found = summarize(side, side)
    assert found.isotonic.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.45, 0.45, 0.49, 0.5, 0.5])
    assert (np.diff(found.isotonic) >= 0).all()


def naive_intervals(clean: Side, corrupt: Side, repeats: int) -> tuple[np.ndarray, ...]:
    """Percentiles of Delta and TV, and the spread of E_q c, over redrawn folds and episodes."""
    rng = np.random.default_rng(5)
    deltas, tvs, means = [], [], []
    for _ in range(repeats):
        draws = []
        folds = rng.integers(FOLDS, size=FOLDS)  # both sides share their networks
        for side in (clean, corrupt):
            members = [np.flatnonzero(side.fold == fold) for fold in folds]
            rows = np.concatenate([rng.choice(each, each.size) for each in members])
            draws.append(np.average(side.statistics[rows], axis=0, weights=side.weight[rows]))
        fit = isotonic_regression(draws[1][0]).x
        deltas.append(np.clip(2.0 - 4.0 * fit, 0.0, 2.0))
        tvs.append(np.clip(draws[0][3] + draws[1][3] - 1.0, 0.0, 1.0))
        means.append(draws[1][0])
    tail = [(1.0 - CONFIDENCE) / 2, (1.0 + CONFIDENCE) / 2]
    percentiles = (np.quantile(values, tail, axis=0) for values in (deltas, tvs))
    return (*percentiles, np.std(means, axis=0))


def test_intervals_are_those_of_redrawn_folds_and_episodes_widened_for_few_folds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Percentiles of Delta and TV; sigma_min crosses at the ends of a band of E_q c."""
    monkeypatch.setattr(curves, "bootstrap_means", bootstrap_means)
    clean = make_side(1.0 - RISING, 25, 1, weighted=True)
    corrupt = make_side(RISING, 40, 2, weighted=True)
    found = summarize(clean, corrupt)
    delta, tv, spread = naive_intervals(clean, corrupt, 600)
    folds = np.unique(clean.fold).size
    by = student.ppf(0.975, folds - 1) / 1.96 * np.sqrt(folds / (folds - 1))
    delta = np.clip(found.delta + by * (delta - found.delta), 0.0, 2.0)
    estimate = np.maximum(found.clean[3] + found.corrupt[3] - 1.0, 0.0)
    tv = np.clip(estimate + by * (tv - estimate), 0.0, 1.0)
    ends = found.corrupt[0] + 1.96 * by * spread, found.corrupt[0] - 1.96 * by * spread - MISSED
    crossing = [last_crossing(isotonic_regression(e).x, SIGMA, 0.5 - EPSILON) for e in ends]
    np.testing.assert_allclose(found.delta_interval, delta, atol=0.03)
    np.testing.assert_allclose(found.tv_interval, tv, atol=0.06)
    np.testing.assert_allclose([found.lower, found.upper], crossing, atol=0.03)
    assert np.ptp(delta, axis=0).max() > 0.2  # the tolerance could fail
    assert np.ptp(tv, axis=0).max() > 0.3
    assert np.ptp(crossing) > 0.2


def test_folds_that_disagree_widen_the_interval() -> None:
    """Networks that differ, each sure of its own: a draw of episodes alone would show nothing."""
    side = make_side(RISING, 40, 0, spread=0.0)
    side.statistics[:, 0] = RISING + 0.03 * (side.fold[:, None] - 1.5)
    alone = Side(side.statistics, side.histogram, side.weight, np.zeros(40, dtype=np.int64))
    wide, narrow = (np.ptp(summarize(s, s).delta_interval[:, 0]) for s in (side, alone))
    assert wide > 2.0 * narrow > 0.0


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_holds_the_estimate(seed: int) -> None:
    found = summarize(make_side(1.0 - RISING, 5, seed), make_side(RISING, 4, seed + 99))
    assert found.lower <= found.sigma_min <= found.upper
    assert (found.delta_interval[0] <= found.delta_interval[1]).all()
    inside = (found.delta_interval[0] <= found.delta) & (found.delta <= found.delta_interval[1])
    assert inside.mean() > 0.9


def test_episodes_that_agree_leave_no_doubt() -> None:
    side = make_side(RISING, 6, 0)
    side.statistics[:] = side.statistics[:1]
    found = summarize(side, side)
    assert found.lower == pytest.approx(found.sigma_min)
    missed = last_crossing(found.isotonic - MISSED, SIGMA, 0.5 - EPSILON)
    assert found.upper == pytest.approx(float(missed))  # but for what a classifier misses
    np.testing.assert_allclose(*found.delta_interval, atol=1e-12)


def test_the_bootstrap_is_that_of_its_seed() -> None:
    sides = make_side(1.0 - RISING, 9, 1), make_side(RISING, 9, 2)
    first, again, other = (summarize(*sides, seed=seed) for seed in (0, 0, 1))
    assert first.delta_interval.tolist() == again.delta_interval.tolist()
    assert first.delta_interval.tolist() != other.delta_interval.tolist()


def hand_made() -> PopulationCurves:
    """Clean scores .65 and .95 in equal parts; corrupt ones .65 and .05, one to three."""
    sides = []
    for cells in ({6: (0.5, 0.65), 9: (0.5, 0.95)}, {6: (0.25, 0.65), 0: (0.75, 0.05)}):
        side = make_side(RISING, 1, 0)
        side.histogram[:] = 0.0
        for cell, (share, mean) in cells.items():
            side.histogram[0, :, cell, 0] = share * BAND_SIZES
            side.histogram[0, :, cell, 1] = share * BAND_SIZES * mean
        sides.append(side)
    return summarize(*sides)


def test_reliability_of_a_hand_made_histogram() -> None:
    found = hand_made().reliability
    assert found.shape == (BANDS, BINS, 3)
    occupied = {0: [0.375, 0.05, 0.0], 6: [0.375, 0.65, 2 / 3], 9: [0.25, 0.95, 1.0]}
    for cell in range(BINS):
        expected = occupied.get(cell, [0.0, 0.0, 0.0])
        np.testing.assert_allclose(found[:, cell], [expected] * BANDS)


def test_shares_of_every_band_sum_to_one_whatever_the_episodes_weigh() -> None:
    found = summarize(
        make_side(1.0 - RISING, 6, 1, weighted=True), make_side(RISING, 9, 2, weighted=True)
    ).reliability
    np.testing.assert_allclose(found[..., 0].sum(axis=1), 1.0)
    # balanced: in every band half of the predictions are of clean windows
    np.testing.assert_allclose((found[..., 0] * found[..., 2]).sum(axis=1), 0.5)


def naive_ratio(clean: np.ndarray, corrupt: np.ndarray) -> float:
    """G^2 over the second moments about the mid point, from (mean, Brier) of either class."""
    (p, brier_p), (q, brier_q) = clean, corrupt
    squares = brier_p - 1.0 + 2.0 * p, brier_q  # E_p c^2 and E_q c^2
    b = (p + q) / 2.0
    around = sum(
        square - 2.0 * b * mean + b * b for square, mean in zip(squares, (p, q), strict=True)
    )
    return float((p - q) ** 2 / max(around, (p - q) ** 2 / 2.0))


def separated(c: float, episodes: int, *, clean: bool) -> Side:
    """Episodes whose probability is `c` everywhere, with the losses that go with it."""
    right = c if clean else 1.0 - c
    each = np.array([c, (1.0 - right) ** 2, -np.log(right), float(right > 0.5)])
    statistics = np.tile(each[None, :, None], (episodes, 1, SIGMA.size))
    histogram = make_histogram(np.random.default_rng(0), episodes)
    return Side(statistics, histogram, np.ones(episodes), np.arange(episodes) % FOLDS)


def test_a_certified_difference_keeps_sigma_min_above_it() -> None:
    """E_q c passes at once, while the Brier score proves a difference: the proof counts."""
    clean, corrupt = separated(0.9, 200, clean=True), separated(0.1, 200, clean=False)
    corrupt.statistics[:, 0] = 0.5  # as a mean that contradicts its squares would
    found = summarize(clean, corrupt)
    assert found.envelope.lower == 1.0  # every level is certified
    assert found.sigma_min == found.upper == 1.0
    rng = np.random.default_rng(0)
    free = build_envelope(SIGMA, None, FINITE, epsilon=EPSILON)
    found = summarize_population(("a", None), SIGMA, clean, corrupt, free, epsilon=EPSILON, rng=rng)
    assert (found.envelope.lower, found.envelope.upper, found.sigma_min) == (0.0, 1.0, 0.0)


def test_sets_that_are_certified_alike_keep_sigma_min_below() -> None:
    finite = FiniteSets(np.full(SIGMA.size, 0.01), np.full(SIGMA.size, 0.01), 50_000, 50_000)
    alike = np.array([2.0, 2.0, 2.0, 0.01, 0.01, 0.01, 0.01, 0.01])
    finite = replace(finite, delta=alike, tv=np.minimum(alike, 1.0))
    clean, corrupt = separated(0.6, 40, clean=True), separated(0.4, 40, clean=False)
    found = summarize(clean, corrupt, finite=finite)
    assert found.envelope.upper == SIGMA[3]
    assert SIGMA[2] < found.sigma_min < SIGMA[3]  # E_q c = .4 fails everywhere


def test_the_table_of_curves_has_a_row_a_level_and_passes_its_schema(tmp_path: Path) -> None:
    populations = [
        summarize(make_side(1.0 - RISING, 6, 1), make_side(RISING, 9, 2)),
        hand_made(),
    ]
    table = tabulate_curves(populations)
    write_curves(table, tmp_path / "curves.parquet")
    rows = read_curves(tmp_path / "curves.parquet").to_pylist()
    assert len(rows) == 2 * SIGMA.size
    for level, row in enumerate(rows[: SIGMA.size]):
        population = populations[0]
        accuracy = (population.clean[3, level] + population.corrupt[3, level]) / 2
        assert row == {
            "dataset": "a",
            "group": None,
            "sigma": SIGMA[level],
            "log_snr": float(log_snr(SIGMA[level])),
            "n_clean": 6,
            "n_corrupt": 9,
            "accuracy": pytest.approx(accuracy),
            "mean_c_clean": population.clean[0, level],
            "mean_c_corrupt": population.corrupt[0, level],
            "mean_c_corrupt_isotonic": population.isotonic[level],
            "brier": pytest.approx((population.clean[1, level] + population.corrupt[1, level]) / 2),
            "bce": pytest.approx((population.clean[2, level] + population.corrupt[2, level]) / 2),
            "delta": population.delta[level],
            "delta_ratio": pytest.approx(
                naive_ratio(population.clean[:2, level], population.corrupt[:2, level])
            ),
            "delta_lower_approx": population.delta_interval[0, level],
            "delta_upper_approx": population.delta_interval[1, level],
            "tv": pytest.approx(max(2 * accuracy - 1, 0.0)),
            "tv_lower_approx": population.tv_interval[0, level],
            "tv_upper_approx": population.tv_interval[1, level],
            "delta_lower": population.envelope.delta_lower[level],
            "delta_upper_empirical": 2.0,
            "delta_upper": None,  # NaN: nothing can be said
            "tv_lower": population.envelope.tv_lower[level],
            "tv_upper_empirical": 1.0,
            "tv_upper": None,
            "jsd_lower": population.envelope.jsd_lower[level],
        }


def test_the_table_of_reliability_holds_the_occupied_bins_and_passes_its_schema(
    tmp_path: Path,
) -> None:
    write_reliability(tabulate_reliability([hand_made()]), tmp_path / "reliability.parquet")
    rows = read_reliability(tmp_path / "reliability.parquet").to_pylist()
    assert len(rows) == 3 * BANDS
    assert rows[4] == {
        "dataset": "a",
        "group": None,
        "sigma_low": SIGMA[2],  # eight levels in six bands: two, one, one, two, one, one
        "sigma_high": SIGMA[2],
        "p_low": 0.6,
        "p_high": 0.7,
        "weight": pytest.approx(0.375),
        "mean_c": pytest.approx(0.65),
        "fraction_clean": pytest.approx(2 / 3),
    }
    assert [row["sigma_low"] for row in rows[::3]] == SIGMA[[0, 2, 3, 4, 6, 7]].tolist()
    assert [row["sigma_high"] for row in rows[::3]] == SIGMA[[1, 2, 3, 5, 6, 7]].tolist()


def test_no_arms_make_empty_tables() -> None:
    assert len(tabulate_curves([])) == len(tabulate_reliability([])) == 0


def test_what_stays_legible_is_read_off_the_pooled_curve() -> None:
    """sigma_max is where the curve has risen by epsilon since the lowest level."""
    side = make_side(RISING, 17, 2)
    found = summarize(make_side(1.0 - RISING, 11, 1), side)
    rising = isotonic_regression(side.mean()[0]).x
    level = float(first_crossing(rising - rising[0], SIGMA, EPSILON))
    assert found.legibility[0] == level
    assert found.legibility[1] <= level <= found.legibility[2]


GRID = grid("squaredcos_cap_v2:100")
SCORED = sparse_levels(GRID.size)


def sparse_side(episodes: int = 7) -> Side:
    """Episodes that are scored at the sparse levels of `GRID` only."""
    rng = np.random.default_rng(3)
    statistics = rng.random((episodes, len(STATISTICS), SCORED.size))
    fold = np.arange(episodes) % FOLDS
    return Side(statistics, make_histogram(rng, episodes), np.ones(episodes), fold)


def test_statistics_between_scored_levels_are_linear_in_log_snr() -> None:
    side = sparse_side()
    whole = side.interpolate(GRID)
    assert whole.statistics.shape == (7, len(STATISTICS), GRID.size)
    np.testing.assert_allclose(whole.statistics[..., SCORED], side.statistics, atol=1e-12)
    for number in range(len(STATISTICS)):
        exact = expand_levels(side.statistics[:, number], GRID)
        np.testing.assert_allclose(whole.statistics[:, number], exact)
    x, middle = log_snr(GRID), (SCORED[4] + SCORED[5]) // 2
    share = (x[middle] - x[SCORED[4]]) / (x[SCORED[5]] - x[SCORED[4]])
    between = (1 - share) * side.statistics[..., 4] + share * side.statistics[..., 5]
    np.testing.assert_allclose(whole.statistics[..., middle], between)
    for name in ("histogram", "weight", "fold"):
        assert getattr(whole, name) is getattr(side, name)


def test_statistics_are_held_back_from_the_next_scored_level_upwards() -> None:
    side = sparse_side()
    held = side.hold_back(GRID)
    assert held.statistics.shape == (7, len(STATISTICS), GRID.size)
    for level in range(GRID.size):
        above = min(place for place in SCORED.tolist() if place >= level)
        number = SCORED.tolist().index(above)
        assert GRID[above] >= GRID[level]  # never a statement about less noise than was scored
        assert held.statistics[..., level].tolist() == side.statistics[..., number].tolist()
    for name in ("histogram", "weight", "fold"):
        assert getattr(held, name) is getattr(side, name)


def test_what_is_certified_at_a_scored_level_is_certified_down_to_the_one_below() -> None:
    """A difference that is sure at one scored level alone."""
    right = np.full(SCORED.size, 0.5)
    right[20] = 0.95
    sides = []
    for seed, c in enumerate((right, 1.0 - right)):
        side = make_side(RISING, 300, seed)
        loss = (1.0 - right) ** 2, -np.log(right), (right > 0.5) + 0.5 * (right == 0.5)
        statistics = np.tile(np.stack([c, *loss]), (300, 1, 1))
        sides.append(replace(side, statistics=statistics).hold_back(GRID))
    held = hold_out(*sides, np.random.default_rng(0))
    nothing = know_nothing(GRID.size, 300, 300)
    certified = build_envelope(GRID, held, nothing, epsilon=EPSILON).delta_lower > 4 * EPSILON
    assert np.flatnonzero(certified).tolist() == list(range(SCORED[19] + 1, SCORED[20] + 1))


def test_a_side_that_is_scored_at_all_levels_stays_as_it_is() -> None:
    side = make_side(RISING, 5, 0)
    assert side.interpolate(SIGMA) is side.hold_back(SIGMA) is side


@pytest.mark.validity
def test_the_interval_of_what_stays_legible_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes of one mean curve that rise more or less steeply, by chance; the networks given."""
    monkeypatch.setattr(curves, "bootstrap_means", partial(bootstrap_means, repeats=300))
    low, rise = 0.2, np.array([0.0, 0.0, 0.02, 0.08, 0.2, 0.28, 0.3, 0.3])
    exact = float(first_crossing(rise, SIGMA, EPSILON))
    repetitions, covered = 400, 0
    for seed in range(repetitions):
        rng = np.random.default_rng(seed)
        side = make_side(np.full(8, low), 40, seed, spread=0.05)
        side.statistics[:, 0] += rise * rng.uniform(0.3, 1.7, (40, 1))
        found = summarize(side, side, seed)
        covered += found.legibility[1] <= exact <= found.legibility[2]
    assert covered / repetitions >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / repetitions)
