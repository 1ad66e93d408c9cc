"""Out-of-fold scores: statistics of whole episodes at every level."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from ambient_curate.arms import Arm
from ambient_curate.classifier import FoldClassifier
from ambient_curate.devices import rows_at_once
from ambient_curate.episodes import draw_evenly

STATISTICS = ("c", "brier", "bce", "accuracy")
C, BRIER, BCE, ACCURACY = range(len(STATISTICS))
BINS = 10
BANDS = 6
SMALLEST = 0.01  # probabilities are clipped to [SMALLEST, 1 - SMALLEST] in the cross-entropy
BLOCK = 256  # windows scored together


@dataclass(frozen=True)
class ScoreOptions:
    """How much of an episode is scored.

    Attributes
    ----------
    draws : int
        Noise draws a window, >= 1.
    most_windows : int or None
        Score at most this many windows, drawn from equal stretches of the episode; None: all.
    every : int
        Score at the lowest level and every so-manyth one above it, >= 1.
    """

    draws: int = 2
    most_windows: int | None = None
    every: int = 1


@dataclass(frozen=True, eq=False)
class EpisodeScore:
    """Scores of one episode by a network.

    Parameters
    ----------
    statistics : ndarray, float64, shape (head, statistic, level)
        Means over windows and noise of the probability of "clean", its squared error, its
        cross-entropy in nats, and whether it is on the right side of 1/2 (`STATISTICS`).
    histogram : ndarray, float64, shape (head, band, bin, 2)
        Share of the scores in each band of levels and bin of probability, and their sum.
    """

    statistics: Float64[np.ndarray, "head statistic level"]
    histogram: Float64[np.ndarray, "head band bin 2"]


def noise_seed(seed: int, dataset: str, episode_id: str) -> list[int]:
    """Seed of an episode's noise, from its identity: the same whatever else is scored, or where."""
    text = f"{seed}\x00{dataset}\x00{episode_id}".encode()
    return np.frombuffer(hashlib.sha256(text).digest(), dtype=np.uint32).tolist()


def score_episode(
    classifier: FoldClassifier,
    arm: Arm,
    episode: int,
    heads: Sequence[int],
    *,
    is_clean: bool,
    seed: Sequence[int],
    options: ScoreOptions,
) -> EpisodeScore:
    """Score the windows of one episode at every level of the classifier.

    Parameters
    ----------
    classifier : FoldClassifier
        Of the fold that holds the episode out.
    arm : Arm
        Where the episode is, with what is planted in it.
    episode : int
        Episode of the member, with at least one whole window.
    heads : sequence of int
        Corrupt arms to score against.
    is_clean : bool
        Which answer is right.
    seed : sequence of int
        From `noise_seed`.
    options : ScoreOptions
        How much of it to score.
    """
    sums = _Sums(len(heads), classifier.sigma[:: options.every].size, is_clean)
    count = 0
    for windows, noise in _noise_windows(arm, episode, seed, options):
        count += noise.shape[0] * noise.shape[1]
        for number, levels in _split_levels(classifier, noise, options.every):
            sums.add(classifier.predict(windows, noise, heads, levels), number)
    return EpisodeScore(sums.statistics / count, sums.histogram / count)


def _noise_windows(
    arm: Arm, episode: int, seed: Sequence[int], options: ScoreOptions
) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows of an episode, `BLOCK` at a time, with their noise (window, draw, dim)."""
    rng = np.random.default_rng(seed)
    picked = draw_evenly(int(arm.windows.counts[episode]), options.most_windows, rng)
    for first in range(0, picked.size, BLOCK):
        number = picked[first : first + BLOCK]
        windows = arm.gather(np.full_like(number, episode), number)
        shape = (number.size, options.draws, arm.windows.dim)
        yield windows, torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def _split_levels(
    classifier: FoldClassifier, noise: Tensor, every: int
) -> Iterator[tuple[slice, slice]]:
    """Pair numbers of scored levels with their places in the grid, few enough for one call."""
    chosen = range(0, classifier.sigma.size, every)
    rows = rows_at_once(classifier.device)
    at_once = max(1, rows // (noise.shape[0] * noise.shape[1]))
    for first in range(0, len(chosen), at_once):
        part = chosen[first : first + at_once]
        yield slice(first, first + len(part)), slice(part.start, part.stop, part.step)


class _Sums:
    """Sums over windows and draws, by head and level."""

    def __init__(self, heads: int, levels: int, is_clean: bool) -> None:
        self.statistics = np.zeros((heads, len(STATISTICS), levels))
        self.histogram = np.zeros((heads, BANDS, BINS, 2))
        self.band = band_of(levels)
        self.is_clean = is_clean

    def add(self, c: Tensor, levels: slice) -> None:
        right = c if self.is_clean else 1.0 - c  # probability given to the right answer
        values = (
            c,
            (1.0 - right).square(),
            -torch.log(right.clamp(SMALLEST, 1.0 - SMALLEST)),
            (right > 0.5).float() + 0.5 * (right == 0.5).float(),
        )
        for i, value in enumerate(values):
            # (level, window, draw, head) -> (head, level)
            self.statistics[:, i, levels] += value.sum(dim=(1, 2), dtype=torch.float64).T.numpy()
        self._bin(c, self.band[levels])

    def _bin(self, c: Tensor, band: np.ndarray) -> None:
        cell = (c * BINS).long().clamp_(max=BINS - 1)
        cell += BINS * torch.from_numpy(band)[:, None, None, None]
        for head in range(c.shape[-1]):
            flat, value = cell[..., head].flatten(), c[..., head].flatten().double()
            for i, weight in enumerate((torch.ones_like(value), value)):
                counts = torch.bincount(flat, weight, minlength=BANDS * BINS)
                self.histogram[head, :, :, i] += counts.reshape(BANDS, BINS).numpy()


def band_of(levels: int) -> np.ndarray:
    """Band of every level, for reliability: `BANDS` runs of neighbouring levels."""
    return np.arange(levels, dtype=np.int64) * BANDS // levels
