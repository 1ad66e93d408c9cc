"""Subsamples of a sequence: evenly spaced, or one at random from each equal stretch."""

import numpy as np


def pick_evenly(count: int, most: int | None) -> np.ndarray:
    """Numbers below `count`: all, or `most` of them at equal distances."""
    if most is None or count <= most:
        return np.arange(count, dtype=np.int64)
    return ((np.arange(most) + 0.5) * count / most).astype(np.int64)


def draw_evenly(count: int, most: int | None, rng: np.random.Generator) -> np.ndarray:
    """Numbers below `count`: all, or one out of each of `most` equal stretches, by chance.

    Each number is as likely as any other: a mean over what is drawn is unbiased, as one at equal
    distances is not.
    """
    if most is None or count <= most:
        return pick_evenly(count, most)
    return ((np.arange(most) + rng.random(most)) * count / most).astype(np.int64)
