"""Bits alike in their local pieces, not in their order far apart; exact crop divergences."""

import numpy as np
from jaxtyping import Float64
from scipy.stats import binom

PERIOD = 9
KEPT = 0.9


def draw_bits(
    rng: np.random.Generator, episodes: int, frames: int, kept: float, period: int = PERIOD
) -> list[np.ndarray]:
    """Signs of which each repeats that of `period` frames before with probability `kept`."""
    bits = rng.choice([-1.0, 1.0], size=(episodes, frames))
    repeats = np.where(rng.random((episodes, frames)) < kept, 1.0, -1.0)
    for frame in range(period, frames):
        bits[:, frame] = repeats[:, frame] * bits[:, frame - period]
    return [each[:, None] for each in bits]


def crop_divergence(
    horizon: int, kept: float = KEPT, period: int = PERIOD
) -> Float64[np.ndarray, " radius"]:
    """Delta of crops about a uniform centre, of bits kept and bits flipped, at every radius.

    Frames a period apart agree independently of each other (horizon <= 2 period): a crop of n
    frames tells as much as the number of agreements in n - period pairs.
    """
    assert horizon <= 2 * period
    found = []
    for radius in range(horizon):
        each = []
        for centre in range(horizon):
            frames = min(centre + radius, horizon - 1) - max(centre - radius, 0) + 1
            pairs = max(frames - period, 0)
            agree = np.arange(pairs + 1)
            p, q = binom.pmf(agree, pairs, kept), binom.pmf(agree, pairs, 1.0 - kept)
            each.append(((p - q) ** 2 / (p + q)).sum())
        found.append(np.mean(each))
    return np.array(found)
