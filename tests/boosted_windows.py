"""Windows of two laws, as the challenger gets them."""

from collections.abc import Callable

import numpy as np

from ambient_curate.statistics.boosting import SampledWindows

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
