"""The finite sets a trainer sees: their windows as weighted measures, and how far they differ."""

import numpy as np
from jaxtyping import Float64

from ambient_curate.arms import Arm
from ambient_curate.envelopes import MONTE_CARLO, FiniteSets
from ambient_curate.episodes import draw_evenly
from ambient_curate.kernels import kernel_divergence
from ambient_curate.measures import Measure

MOST = 2_048  # windows of a measure
LEVELS = 24  # at which the divergence is computed


def measure_arm(
    arm: Arm,
    episodes: np.ndarray,
    rng: np.random.Generator,
    *,
    by_window: bool = False,
    most: int = MOST,
) -> tuple[Measure, int]:
    """Lay windows of an arm out as a measure in which every episode weighs the same.

    Parameters
    ----------
    arm : Arm
        Where the windows are, with what is planted in them.
    episodes : ndarray, int64, shape (episode,)
        Episodes of the arm, each with a whole window.
    rng : Generator
        Chooses among more than `most` episodes, and among the windows of an episode.
    by_window : bool
        An episode weighs as many windows as it has.
    most : int
        Windows, each of an episode's as likely as any other.

    Returns
    -------
    tuple of Measure and int
        The measure, and how many episodes are in it.
    """
    if episodes.size > most:
        episodes = np.sort(rng.choice(episodes, most, replace=False))
    each = max(1, most // episodes.size)
    counts = arm.windows.counts[episodes]
    picked = [draw_evenly(int(count), each, rng) for count in counts]
    owner = np.repeat(np.arange(episodes.size), [len(numbers) for numbers in picked])
    windows = arm.gather(episodes[owner], np.concatenate(picked))
    share = counts if by_window else np.ones(episodes.size)
    weights = (share / np.bincount(owner))[owner]
    return Measure(windows.flatten(1).numpy(), weights / weights.sum()), episodes.size


def compare_sets(
    clean: tuple[Measure, int],
    corrupt: tuple[Measure, int],
    sigma: Float64[np.ndarray, " level"],
    rng: np.random.Generator,
) -> FiniteSets:
    """Bound the divergences of two noised measures from above at every level.

    They never rise with noise, so a level may take the value of a lower one: they are computed at
    `LEVELS` levels, evenly spaced on the grid, and held from each to the next.
    """
    at = np.unique(np.linspace(0, sigma.size - 1, min(LEVELS, sigma.size)).astype(np.int64))
    alpha = MONTE_CARLO / (2 * at.size)  # Delta and TV, at every level at once
    found = kernel_divergence(clean[0], corrupt[0], sigma[at], alpha=alpha, rng=rng)
    held = np.searchsorted(at, np.arange(sigma.size), side="right") - 1
    return FiniteSets(found.delta_upper[held], found.tv_upper[held], clean[1], corrupt[1])
