"""Boosting of simple features: draws, out-of-fold statistics, equal bytes for a seed."""

import numpy as np
import pytest
from boosted_windows import pair, white

from ambient_curate.statistics.boosting import challenge, draw_windows
from ambient_curate.statistics.challenger import BRIER, C

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("most", [1, 7, 40, 1_000])
def test_draw_is_even_and_without_repeats(most: int) -> None:
    counts = np.array([1, 3, 30, 30])
    episode, number = draw_windows(counts, np.random.default_rng(0), most)
    assert len(set(zip(episode.tolist(), number.tolist(), strict=True))) == len(episode)
    assert len(episode) == min(most, counts.sum())
    assert (number >= 0).all()
    assert (number < counts[episode]).all()
    share = np.bincount(episode, minlength=4)
    short = share < counts
    if short.any():  # an episode that is not exhausted has as many as any other, but for one
        assert share[short].min() >= share.max() - 1


def test_statistics_are_of_the_episodes() -> None:
    sides = pair(white(), white(1.3), sizes=(10, 12))
    for side, result, right in zip(sides, challenge(*sides, 0.1, seed=0), (1.0, 0.0), strict=True):
        assert result.episode.tolist() == np.unique(side.episode).tolist()
        assert result.fold.tolist() == (result.episode % 3).tolist()
        gap = result.statistics[C] - right
        assert (result.statistics[BRIER] >= gap**2 - 1e-12).all()  # Jensen
        assert (result.statistics[BRIER] <= np.abs(gap) + 1e-12).all()


def test_same_bytes_for_a_seed() -> None:
    sides = pair(white(), white(1.3), sizes=(10, 12))
    first, second, other = (challenge(*sides, 0.1, seed=seed) for seed in (1, 1, 2))
    assert first[0].statistics.tobytes() == second[0].statistics.tobytes()
    assert first[0].statistics.tobytes() != other[0].statistics.tobytes()
