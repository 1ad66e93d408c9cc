"""Out-of-fold scores of episodes: per-episode statistics of every level, and curves of windows."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from ambient_curate.arms import Arm
from ambient_curate.classifier import FoldClassifier
from ambient_curate.episodes import pick_windows

STATISTICS = ("c", "brier", "bce", "accuracy")
BINS = 10
BANDS = 6
SMALLEST = 0.01  # probabilities are clipped to [SMALLEST, 1 - SMALLEST] in the cross-entropy
ROWS = 8192  # rows of one network call
BLOCK = 256  # windows scored together


@dataclass(frozen=True)
class ScoreOptions:
    """How much of an episode is scored.

    Attributes
    ----------
    draws : int
        Noise draws a window, >= 1 (>= 2 with `keep_curves`).
    most_windows : int or None
        Score at most this many windows, at equal distances; None: all.
    keep_curves : bool
        Also give every window's curve and its standard error.
    """

    draws: int = 2
    most_windows: int | None = None
    keep_curves: bool = False


@dataclass(frozen=True, eq=False)
class EpisodeScore:
    """Scores of one episode by the network that never saw it.

    Parameters
    ----------
    statistics : ndarray, float64, shape (head, statistic, level)
        Means over windows and noise of the probability of "clean", its squared error, its
        cross-entropy in nats, and whether it is on the right side of 1/2 (`STATISTICS`).
    histogram : ndarray, float64, shape (head, band, bin, 2)
        Share of the scores in each band of levels and bin of probability, and their sum.
    curves : ndarray, float32, shape (window, level), or None
        Mean over the noise draws for the first head, where asked for.
    errors : ndarray, float32, shape (window, level), or None
        Standard errors of `curves` over the draws.
    """

    statistics: Float64[np.ndarray, "head statistic level"]
    histogram: Float64[np.ndarray, "head band bin 2"]
    curves: Float32[np.ndarray, "window level"] | None = None
    errors: Float32[np.ndarray, "window level"] | None = None


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
    """Score the windows of one episode at every level of the grid.

    Every window has noise draws of its own, and each draw serves all levels of the window (common
    random numbers): its curve is smooth, so that noise makes no crossings of its own.

    Parameters
    ----------
    classifier : FoldClassifier
        Of the fold that holds the episode out.
    arm : Arm
        Where the episode is; its `shift` is added.
    episode : int
        Episode of the member, with at least one whole window.
    heads : sequence of int
        Corrupt arms to score against; the first one's curves are kept.
    is_clean : bool
        Which answer is right.
    seed : sequence of int
        From `noise_seed`.
    options : ScoreOptions
        How much of it to score.
    """
    draws = options.draws
    rng = np.random.default_rng(seed)
    picked = pick_windows(int(arm.windows.counts[episode]), options.most_windows)
    sums = _Sums(len(heads), classifier.sigma.size, is_clean)
    curves, errors = [], []
    for first in range(0, picked.size, BLOCK):
        number = picked[first : first + BLOCK]
        windows = arm.windows.gather(np.full_like(number, episode), number)
        if arm.shift is not None:
            windows = windows + arm.shift
        shape = (number.size, draws, arm.windows.dim)
        noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        block = _score_block(classifier, windows, noise, heads, sums)
        if options.keep_curves:
            own = block[..., 0]  # (level, window, draw)
            curves.append(own.mean(dim=2).T.numpy())
            errors.append((own.std(dim=2) / draws**0.5).T.numpy())
    share = 1.0 / (picked.size * draws)
    return EpisodeScore(
        sums.statistics * share,
        sums.histogram * share,
        np.concatenate(curves) if options.keep_curves else None,
        np.concatenate(errors) if options.keep_curves else None,
    )


def _score_block(
    classifier: FoldClassifier,
    windows: Tensor,
    noise: Tensor,
    heads: Sequence[int],
    sums: "_Sums",
) -> Tensor:
    """Probabilities of a block of windows, (level, window, draw, head), added to the sums."""
    n_levels = classifier.sigma.size
    at_once = max(1, ROWS // (noise.shape[0] * noise.shape[1]))
    parts = []
    for first in range(0, n_levels, at_once):
        levels = slice(first, min(first + at_once, n_levels))
        c = classifier.predict(windows, noise, heads, levels)
        sums.add(c, levels)
        parts.append(c)
    return torch.cat(parts)


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
