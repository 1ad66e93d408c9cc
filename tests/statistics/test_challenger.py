"""The challenger against closed forms, scipy, equal laws, and data too small for it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from boosted_windows import HORIZON, Law, Pair, pair, sample, white
from scipy.stats import chi2, ttest_ind

from ambient_curate.noise import log_snr, sigma_from_log_snr
from ambient_curate.statistics.boosting import MOST_FOLDS, SampledWindows, challenge
from ambient_curate.statistics.challenger import (
    ACCURACY,
    C,
    ChallengerFinding,
    NetworkScores,
    choose_levels,
    compare_by_episode,
    cross_challenger,
)
from ambient_curate.statistics.sigma_min import last_crossing

pytestmark = pytest.mark.usefixtures("one_thread")

EPSILON = 0.05
GRID = sigma_from_log_snr(np.linspace(float(log_snr(0.025)), float(log_snr(0.998)), 33))


def personal(rng: np.random.Generator, episodes: int, windows: int) -> np.ndarray:
    """Every episode has a place of its own: a classifier can learn them by heart."""
    place = 3.0 * rng.standard_normal((episodes, 1, 1, 2))
    return place + 0.1 * rng.standard_normal((episodes, windows, HORIZON, 2))


def reach(rng: np.random.Generator, episodes: int, windows: int) -> np.ndarray:
    """Fast at first, slow in the end, from anywhere to anywhere."""
    time = np.sqrt(np.linspace(0.0, 1.0, HORIZON))[:, None]
    start, end = rng.standard_normal((2, episodes, windows, 1, 2))
    return start + (end - start) * time


def reverse(law: Law) -> Law:
    return lambda rng, episodes, windows: law(rng, episodes, windows)[:, :, ::-1]


def network(side: SampledWindows, brier: float = 0.25, accuracy: float = 0.5) -> NetworkScores:
    """A network that says the same of all episodes at all levels."""
    episodes = int(side.episode.max()) + 1
    table = np.ones((episodes, GRID.size))
    return NetworkScores(brier * table, accuracy * table, np.ones(episodes))


def cross(sides: Pair, sigma_min: float = 0.0, seed: int = 0, **said: float) -> ChallengerFinding:
    clean, corrupt = ((side, network(side, **said)) for side in sides)
    return cross_challenger(clean, corrupt, GRID, sigma_min=sigma_min, epsilon=EPSILON, seed=seed)


def exact_crossing(scale: float) -> float:
    """Sigma_min of white windows against wider ones, from the chi-square law of their power."""
    dim, curve = 2 * HORIZON, []
    share = (np.arange(4_000) + 0.5) / 4_000
    for sigma in GRID:
        p, q = 1.0, (1.0 - sigma**2) * scale**2 + sigma**2
        power = q * chi2.ppf(share, dim)
        log_ratio = 0.5 * power * (1.0 / p - 1.0 / q) - 0.5 * dim * np.log(q / p)  # of q to p
        curve.append(float(np.mean(1.0 / (1.0 + np.exp(log_ratio)))))
    return float(last_crossing(np.array(curve), GRID, 0.5 - EPSILON))


def test_p_value_is_welchs() -> None:
    rng = np.random.default_rng(3)
    clean, corrupt = 0.02 + 0.1 * rng.standard_normal(9), 0.05 + 0.3 * rng.standard_normal(31)
    expected = ttest_ind(clean, -corrupt, equal_var=False, alternative="greater").pvalue
    assert compare_by_episode(clean, corrupt) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("clean", "corrupt", "expected"),
    [([0.25] * 4, [0.25] * 4, 0.0), ([0.0] * 4, [0.0] * 4, 1.0), ([0.1], [0.1, 0.2], 1.0)],
)
def test_p_value_without_spread(
    clean: Sequence[float], corrupt: Sequence[float], expected: float
) -> None:
    assert compare_by_episode(np.array(clean), np.array(corrupt)) == expected


@pytest.mark.parametrize("sigma_min", [0.0, 0.02, 0.3, 0.9, 0.997])
def test_levels_are_the_lowest_and_two_above_sigma_min(sigma_min: float) -> None:
    places = choose_levels(GRID, sigma_min)
    assert places[0] == 0
    assert len(places) <= 3
    assert places == sorted(set(places))
    assert all(GRID[place] > sigma_min for place in places[1:])


def test_reversed_time_is_told_apart_though_positions_tell_nothing() -> None:
    clean, corrupt = challenge(*pair(reach, reverse(reach)), 0.05, seed=0)
    assert 0.5 * (clean.statistics[ACCURACY].mean() + corrupt.statistics[ACCURACY].mean()) > 0.9
    assert corrupt.statistics[C].mean() < 0.2 < 0.8 < clean.statistics[C].mean()


def test_episodes_learnt_by_heart_do_not_help() -> None:
    clean, corrupt = challenge(*pair(personal, personal, sizes=(30, 60)), 0.05, seed=0)
    reading = 0.5 - 0.5 * (clean.statistics[C].mean() - corrupt.statistics[C].mean())
    assert reading > 0.45


def test_crossing_is_close_to_the_exact_one() -> None:
    found = cross(pair(white(), white(1.4), sizes=(42, 60)))
    truth = exact_crossing(1.4)
    assert found.status == "raised"
    assert found.sigma_min is not None
    assert found.upper is not None
    assert truth - 0.12 < found.sigma_min < truth + 0.05
    assert found.sigma_min <= found.upper <= 1.0
    assert not np.isin(found.sigma_min, GRID)
    assert "sigma_min was raised from 0.000 to" in found.sentence
    assert found.numbers["accuracy"] > 0.7 > found.numbers["network_accuracy"]


def test_never_below_the_network() -> None:
    sides = pair(white(), white(1.6))
    high = cross(sides, sigma_min=0.95)
    assert high.status in {"better", "not better"}
    assert high.sigma_min is None
    middle = cross(sides, sigma_min=0.3)
    assert middle.sigma_min is not None
    assert middle.sigma_min > 0.3


def test_no_raise_where_the_network_is_better() -> None:
    found = cross(pair(white(), white(1.4)), brier=0.001, accuracy=1.0)
    assert found.status == "not better"
    assert found.sigma_min is None
    assert "does no better than the network" in found.sentence


def test_a_difference_that_no_noise_hides() -> None:
    found = cross(pair(white(), white(1e6), sizes=(10, 10)))
    assert (found.sigma_min, found.upper) == (1.0, 1.0)


@pytest.mark.parametrize("law", [personal, reach])
def test_equal_laws_raise_nothing(law: Law) -> None:
    assert cross(pair(law, law, seed=5)).sigma_min is None


@pytest.mark.validity
@pytest.mark.parametrize("law", [white(), personal], ids=["white", "personal"])
@pytest.mark.parametrize("sizes", [(8, 30), (20, 60), (50, 120)])
def test_rate_of_false_alarms(law: Law, sizes: tuple[int, int]) -> None:
    found = [cross(pair(law, law, seed, sizes, folds=5), seed=seed) for seed in range(40)]
    assert sum(f.status != "not better" for f in found) <= 1  # ALPHA is .01


@pytest.mark.parametrize("folds", [2, 3, 4, 7, 10])
def test_any_number_of_folds(folds: int) -> None:
    sides = pair(white(), white(2.0), folds=folds)
    clean, corrupt = challenge(*sides, 0.1, seed=0)
    assert corrupt.statistics[C].mean() < 0.3 < 0.7 < clean.statistics[C].mean()
    assert set(clean.fold) == set(range(min(folds, MOST_FOLDS)))


@pytest.mark.parametrize(
    ("sizes", "folds", "reason"),
    [
        ((4, 40), 5, "4 clean episodes"),
        ((40, 1), 5, "1 corrupt episode where"),
        ((9, 9), 1, "one fold"),
    ],
)
def test_too_little_data_is_said(sizes: tuple[int, int], folds: int, reason: str) -> None:
    found = cross(pair(white(), white(2.0), sizes=sizes, folds=folds))
    assert (found.status, found.sigma_min, found.levels) == ("not computed", None, ())
    assert reason in found.sentence
    assert dict(found.numbers) == {}


def test_nothing_to_do_above_the_grid() -> None:
    assert cross(pair(white(), white(2.0)), sigma_min=1.0).status == "not computed"


@pytest.mark.parametrize("horizon", [1, 2, 3, 5])
def test_short_windows(horizon: int) -> None:
    sides = pair(white(), white(3.0))
    clean, corrupt = challenge(
        *(replace(side, values=side.values[:, :horizon]) for side in sides), 0.1, seed=0
    )
    assert corrupt.statistics[C].mean() < 0.45 < 0.55 < clean.statistics[C].mean()


def test_one_window_an_episode() -> None:
    sides = tuple(
        sample(law, np.random.default_rng(seed), 6, windows=1)
        for seed, law in enumerate((white(), white(2.0)))
    )
    found = cross((sides[0], sides[1]))
    assert found.sigma_min is None  # six windows a side are too few to grow a tree


def test_folds_without_one_class_say_nothing() -> None:
    clean, corrupt = pair(white(), white(2.0), sizes=(20, 5))
    corrupt = replace(corrupt, fold=np.zeros_like(corrupt.fold))
    for side in challenge(clean, corrupt, 0.1, seed=0):
        assert (side.statistics[C] == 0.5).all()


def test_constant_windows() -> None:
    clean, corrupt = pair(white(0.0), white(0.0))
    assert cross((clean, corrupt)).sigma_min is None
