"""A two-sample test without a classifier: energy distance, permuted by episode.

It asks whether clean and corrupt windows differ at all, where a network may have failed to learn
how. The independent unit is the episode; windows of an episode are as dependent as they like.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from ambient_curate.episodes import pick_windows
from ambient_curate.errors import NotEnoughDataError

MOST_EPISODES = 200  # a side; all pairs of their windows are compared
MOST_WINDOWS = 16  # an episode
PERMUTATIONS = 999
ROWS = 256  # windows that are compared with all others at once
NEAR = 1e-6  # |x - y|^2 below this share of |x|^2 + |y|^2 has lost too many digits
TIE = 1e-9  # share of the mean distance by which rounding may part equal statistics


@dataclass(frozen=True)
class EnergyTest:
    """What the test found.

    Parameters
    ----------
    statistic : float
        Energy distance of the compared laws, unbiased: about 0, or below, where they are equal.
    p_value : float
        In [1 / (1 + permutations), 1].
    clean, corrupt : int
        Compared episodes of each side.
    """

    statistic: float
    p_value: float
    clean: int
    corrupt: int


def compare_episodes(
    clean: Sequence[Float[np.ndarray, "_ dim"]],
    corrupt: Sequence[Float[np.ndarray, "_ dim"]],
    *,
    sigma: float,
    rng: np.random.Generator,
    most_episodes: int = MOST_EPISODES,
    most_windows: int = MOST_WINDOWS,
    permutations: int = PERMUTATIONS,
) -> EnergyTest:
    """Test whether the episodes of two sides are exchangeable.

    Parameters
    ----------
    clean, corrupt : sequence of ndarray, shape (window, dim)
        Normalised, flattened windows of every episode, at least one each. Only the episodes that
        are drawn are read, so that a sequence may load its items when asked.
    sigma : float
        Lowest VP noise level in use, in (0, 1): differences far below it are of no interest.
    rng : Generator
        Of the draw of episodes and of the permutations.
    most_episodes : int
        At most so many a side, drawn without replacement.
    most_windows : int
        At most so many an episode, at equal distances.
    permutations : int
        Relabellings, >= 1; the smallest p-value is 1 / (1 + permutations).

    Returns
    -------
    EnergyTest
        With few episodes no p-value can be small: three against three have 20 labellings.

    Raises
    ------
    NotEnoughDataError
        If a side has fewer than two episodes.
    ValueError
        If an episode has no window, or a value is not finite.

    Notes
    -----
    Nothing here but the permutation knows the labels, so that the p-value is exact for any number
    of episodes, of windows in each, and any dependence between these (METHOD.md section 7). A
    normaliser fitted on the clean side knows them; the scaling nearly undoes what it did.

    References
    ----------
    Szekely and Rizzo (2013), Energy statistics, J. Statistical Planning and Inference 143(8).
    """
    for name, side in (("clean", clean), ("corrupt", corrupt)):
        if len(side) < 2:
            raise NotEnoughDataError(
                f"{len(side)} {name} episodes with a whole window; a comparison by episode needs "
                "at least 2",
                "add episodes, or shorten horizon",
            )
    drawn = [
        side[int(i)]
        for side in (clean, corrupt)
        for i in rng.permutation(len(side))[:most_episodes]
    ]
    windows = [episode[pick_windows(len(episode), most_windows)] for episode in drawn]
    counts = np.array([len(episode) for episode in windows], dtype=np.int64)
    values = np.concatenate(windows).astype(np.float64)
    if not counts.all() or not np.isfinite(values).all():
        raise ValueError("every episode must have a window, and every value must be finite")
    distances = episode_distances(scale_directions(values, sigma), counts)
    n_clean = min(len(clean), most_episodes)
    statistic, p_value = permute_episodes(distances, n_clean, rng, permutations)
    return EnergyTest(statistic, p_value, n_clean, counts.size - n_clean)


def scale_directions(
    windows: Float64[np.ndarray, "window dim"], sigma: float
) -> Float64[np.ndarray, "window dim"]:
    """Give all directions of the pooled windows the same say, but for those hidden by the noise.

    A robot's windows vary along few directions. Unscaled, these alone decide a distance, and a
    tremor in the quiet ones goes unseen. Along each eigenvector of the covariance of all windows
    the values are divided by ``sqrt(a^2 variance + sigma^2)``, the spread at noise `sigma`.

    Parameters
    ----------
    windows : ndarray, float64, shape (window, dim)
        Of both sides; which is which plays no part.
    sigma : float
        VP noise level in (0, 1).

    Raises
    ------
    ValueError
        If `sigma` is outside (0, 1).
    """
    if not 0.0 < sigma < 1.0:
        raise ValueError(f"sigma is {sigma}; a noise level in (0, 1) is needed")
    centred = windows - windows.mean(axis=0)
    variance, basis = np.linalg.eigh(centred.T @ centred / len(windows))
    spread = np.sqrt((1.0 - sigma**2) * np.maximum(variance, 0.0) + sigma**2)
    return centred @ (basis / spread)


def episode_distances(
    windows: Float64[np.ndarray, "window dim"], counts: Int64[np.ndarray, " episode"]
) -> Float64[np.ndarray, "episode episode"]:
    """Mean Euclidean distance of the windows of every two episodes, all pairs of windows.

    Parameters
    ----------
    windows : ndarray, float64, shape (window, dim)
        Episode after episode.
    counts : ndarray, int64, shape (episode,)
        Windows of each episode, >= 1.

    Returns
    -------
    ndarray, float64, shape (episode, episode)
        On the diagonal a window's distance 0 to itself is counted.
    """
    centred = windows - windows.mean(axis=0)  # the closer to 0, the less is lost below
    power = np.square(centred).sum(axis=1)
    first = np.cumsum(counts) - counts
    sums = np.empty((len(windows), counts.size))
    for start in range(0, len(windows), ROWS):
        rows = centred[start : start + ROWS]
        scale = power[start : start + ROWS, None] + power
        square = scale - 2.0 * (rows @ centred.T)
        near = square < NEAR * scale
        for i in np.flatnonzero(near.any(axis=1)):
            square[i, near[i]] = np.square(centred[near[i]] - rows[i]).sum(axis=1)
        sums[start : start + ROWS] = np.add.reduceat(np.sqrt(square), first, axis=1)
    return np.add.reduceat(sums, first, axis=0) / np.outer(counts, counts)


def permute_episodes(
    distances: Float64[np.ndarray, "episode episode"],
    n_clean: int,
    rng: np.random.Generator,
    permutations: int = PERMUTATIONS,
) -> tuple[float, float]:
    """Energy statistic of the first `n_clean` episodes against the others, and its p-value.

    Parameters
    ----------
    distances : ndarray, float64, shape (episode, episode)
        Symmetric; the diagonal plays no part. A permutation only deals the labels anew.
    n_clean : int
        At least 2, and so are the others.
    rng : Generator
        Of the permutations.
    permutations : int
        How many, >= 1.

    Returns
    -------
    tuple of float
        ``2 mean d(p, q) - mean d(p, p') - mean d(q, q')`` over pairs of different episodes, and
        ``(1 + number of permutations with as large a statistic) / (1 + permutations)``.
    """
    labels = np.zeros((1 + permutations, len(distances)))
    labels[:, :n_clean] = 1.0
    labels[1:] = rng.permuted(labels[1:], axis=1)
    between = distances * (1.0 - np.eye(len(distances)))
    total = between.sum()
    within_p = ((labels @ between) * labels).sum(axis=1)
    across = labels @ between.sum(axis=1) - within_p
    within_q = total - within_p - 2.0 * across
    n_corrupt = len(distances) - n_clean
    energy = (
        2.0 * across / (n_clean * n_corrupt)
        - within_p / (n_clean * (n_clean - 1))
        - within_q / (n_corrupt * (n_corrupt - 1))
    )
    tie = TIE * total / distances.size
    as_large = int(np.count_nonzero(energy[1:] >= energy[0] - tie))
    return float(energy[0]), (1 + as_large) / (1 + permutations)
