"""Boosting of simple features: draws, out-of-fold statistics, equal bytes for a seed."""

from collections.abc import Callable

import numpy as np
import pytest

from ambient_curate.boosting import SampledWindows, challenge, draw_windows
from ambient_curate.challenger import BRIER, C

pytestmark = pytest.mark.usefixtures("one_thread")

HORIZON = 8
Law = Callable[[np.random.Generator, int, int], np.ndarray]
Pair = tuple[SampledWindows, SampledWindows]


def white(scale: float = 1.0) -> Law:
    """Windows of independent frames."""
    return lambda rng, episodes, windows: (
        scale * rng.standard_normal((episodes, windows, HORIZON, 2))
    )


def sample(
    law: Law, rng: np.random.Generator, episodes: int, windows: int = 16, folds: int = 3
) -> SampledWindows:
    values = law(rng, episodes, windows).astype(np.float32)
    episode = np.repeat(np.arange(episodes), windows)
    return SampledWindows(values.reshape(-1, *values.shape[2:]), episode, episode % folds)


def pair(p: Law, q: Law, seed: int = 0, sizes: tuple[int, int] = (21, 30), folds: int = 3) -> Pair:
    rng = np.random.default_rng(seed)
    return sample(p, rng, sizes[0], folds=folds), sample(q, rng, sizes[1], folds=folds)


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
