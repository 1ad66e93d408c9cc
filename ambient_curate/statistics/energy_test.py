"""A two-sample test without a classifier: energy distances, permuted by episode.

It asks whether clean and corrupt windows differ at all, where a network may have failed to learn
how. The independent unit is the episode; windows of an episode are as dependent as they like.
One distance does not see everything: a plain one sees moments, one that saturates sees shapes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from ambient_curate.errors import NotEnoughDataError, write_count
from ambient_curate.statistics.bootstrap import pick_evenly

MOST_EPISODES = 200  # a side; all pairs of their windows are compared
MOST_WINDOWS = 16  # an episode
PERMUTATIONS = 999
ROWS = 256  # windows that are compared with all others at once
LOST = 1e-6  # |x - y|^2 below this share of |x|^2 + |y|^2 has lost too many digits
TIE = 1e-9  # share of the mean distance by which rounding may part equal statistics
NEAREST = 0.05  # share of the pairs that lie nearest to one another; half their range is a width
SAMPLE = 1_000  # about so many windows tell where it ends

STATISTICS = ("distance, scaled", "nearness, scaled", "nearness, unscaled")


@dataclass(frozen=True)
class EnergyTest:
    """What the test found.

    Parameters
    ----------
    statistic : float
        Energy distance of the compared laws in scaled directions, unbiased: about 0, or below,
        where they are equal.
    p_value : float
        Of all statistics together, in [1 / (1 + permutations), 1].
    strongest : str
        The one of `STATISTICS` that stands out most.
    clean, corrupt : int
        Compared episodes of each side.
    """

    statistic: float
    p_value: float
    strongest: str
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
    of episodes, of windows in each, and any dependence between these (method.md section 7). A
    normaliser fitted on the clean side knows them: scaled directions nearly undo what it did,
    unscaled ones keep its choice of units.

    References
    ----------
    Szekely and Rizzo (2013), Energy statistics, J. Statistical Planning and Inference 143(8).
    Sejdinovic, Sriperumbudur, Gretton and Fukumizu (2013), Annals of Statistics 41(5): a distance
    that saturates makes an energy distance too, that of a kernel.
    Biggs, Schrab and Gretton (2023), MMD-FUSE, NeurIPS: one permutation test of many statistics.
    """
    for name, side in (("clean", clean), ("corrupt", corrupt)):
        if len(side) < 2:
            raise NotEnoughDataError(
                f"{write_count(len(side), f'{name} episode')} with a whole window; a comparison by "
                "episode needs at least 2",
                "add episodes, or shorten horizon",
            )
    drawn = [
        side[int(i)]
        for side in (clean, corrupt)
        for i in rng.permutation(len(side))[:most_episodes]
    ]
    windows = [episode[pick_evenly(len(episode), most_windows)] for episode in drawn]
    counts = np.array([len(episode) for episode in windows], dtype=np.int64)
    values = np.concatenate(windows).astype(np.float64)
    if not counts.all() or not np.isfinite(values).all():
        raise ValueError("every episode must have a window, and every value must be finite")
    scaled, scaled_noise = scale_directions(values, sigma)
    noise = float(np.sqrt(2.0 * values.shape[1] * sigma**2 / (1.0 - sigma**2)))
    distances = np.concatenate(
        [
            episode_distances(scaled, counts, scaled_noise),
            episode_distances(values, counts, noise)[1:],  # unscaled, two loud directions decide it
        ]
    )
    n_clean = min(len(clean), most_episodes)
    statistics, p_value, strongest = permute_episodes(distances, n_clean, rng, permutations)
    return EnergyTest(
        float(statistics[0]), p_value, STATISTICS[strongest], n_clean, counts.size - n_clean
    )


def scale_directions(
    windows: Float64[np.ndarray, "window dim"], sigma: float
) -> tuple[Float64[np.ndarray, "window dim"], float]:
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

    Returns
    -------
    tuple of ndarray and float
        The scaled windows, shape (window, dim), and the root mean square distance at which the
        noise, scaled as they are, sets two equal windows.

    Raises
    ------
    ValueError
        If `sigma` is outside (0, 1).
    """
    if not 0.0 < sigma < 1.0:
        raise ValueError(f"sigma is {sigma}; a noise level in (0, 1) is needed")
    centred = windows - windows.mean(axis=0)
    variance, basis = np.linalg.eigh(centred.T @ centred / len(windows))
    square = (1.0 - sigma**2) * np.maximum(variance, 0.0) + sigma**2
    noise = np.sqrt(2.0 * (sigma**2 / (1.0 - sigma**2) / square).sum())
    return centred @ (basis / np.sqrt(square)), float(noise)


def episode_distances(
    windows: Float64[np.ndarray, "window dim"], counts: Int64[np.ndarray, " episode"], noise: float
) -> Float64[np.ndarray, "2 episode episode"]:
    """Two mean distances of the windows of every two episodes, over all pairs of windows.

    One is Euclidean. The other is ``1 - exp(-r / width)`` with ``r^2 = |x - y|^2 + noise^2``: it
    saturates, so that only near windows tell, and hardly knows what the noise blurs.

    Parameters
    ----------
    windows : ndarray, float64, shape (window, dim)
        Episode after episode.
    counts : ndarray, int64, shape (episode,)
        Windows of each episode, >= 1.
    noise : float
        Root mean square distance at which noise sets two equal windows, > 0.

    Returns
    -------
    ndarray, float64, shape (2, episode, episode)
        On the diagonal a window's distance to itself is counted.

    Notes
    -----
    ``width`` is half the `NEAREST` quantile of ``r`` between windows of different episodes. As
    many windows of each are asked, so that the order of the episodes plays no part.
    """
    first = np.cumsum(counts) - counts
    most = max(1, SAMPLE // counts.size)
    picks = [pick_evenly(int(count), most) for count in counts]
    owner = np.repeat(np.arange(counts.size), [len(pick) for pick in picks])
    sample = windows[first[owner] + np.concatenate(picks)]
    square = np.concatenate([block for _, block in _square_distances(sample)])
    square = square[owner[:, None] != owner]
    width = 0.5 * np.sqrt(np.quantile(square, NEAREST) + noise**2)
    sums = np.empty((2, len(windows), counts.size))
    for rows, square in _square_distances(windows):
        sums[0, rows] = np.add.reduceat(np.sqrt(square), first, axis=1)
        near = np.exp(-np.sqrt(square + noise**2) / width)
        sums[1, rows] = counts - np.add.reduceat(near, first, axis=1)
    return np.add.reduceat(sums, first, axis=1) / np.outer(counts, counts)


def _square_distances(
    windows: Float64[np.ndarray, "window dim"],
) -> Iterator[tuple[slice, Float64[np.ndarray, "row window"]]]:
    """Yield blocks of rows, and their squared distances to all windows."""
    centred = windows - windows.mean(axis=0)  # the closer to 0, the less is lost below
    power = np.square(centred).sum(axis=1)
    for start in range(0, len(windows), ROWS):
        rows = slice(start, start + ROWS)
        scale = power[rows, None] + power
        square = scale - 2.0 * (centred[rows] @ centred.T)
        lost = square < LOST * scale
        for i in np.flatnonzero(lost.any(axis=1)):
            square[i, lost[i]] = np.square(centred[lost[i]] - centred[start + i]).sum(axis=1)
        yield rows, square


def permute_episodes(
    distances: Float64[np.ndarray, "statistic episode episode"],
    n_clean: int,
    rng: np.random.Generator,
    permutations: int = PERMUTATIONS,
) -> tuple[Float64[np.ndarray, " statistic"], float, int]:
    """Energy statistics of the first `n_clean` episodes against the others, and one p-value.

    Parameters
    ----------
    distances : ndarray, float64, shape (statistic, episode, episode)
        Symmetric; the diagonals play no part. A permutation only deals the labels anew.
    n_clean : int
        At least 2, and so are the others.
    rng : Generator
        Of the permutations.
    permutations : int
        How many, >= 1.

    Returns
    -------
    statistics : ndarray, float64, shape (statistic,)
        ``2 mean d(p, q) - mean d(p, p') - mean d(q, q')`` over pairs of different episodes.
    p_value : float
        ``(1 + number of permutations with as large a peak) / (1 + permutations)``. The peak is the
        largest statistic, each less its mean over all labellings, the observed one among them, and
        divided by its standard deviation.
    strongest : int
        Which statistic has the observed peak.
    """
    labels = np.zeros((1 + permutations, distances.shape[1]))
    labels[:, :n_clean] = 1.0
    labels[1:] = rng.permuted(labels[1:], axis=1)
    energy = np.stack([_energy(between, labels) for between in distances])
    tie = TIE * distances.mean(axis=(1, 2))
    spread = np.maximum(energy.std(axis=1), tie)
    spread[spread == 0.0] = 1.0  # all windows are equal
    height = (energy - energy.mean(axis=1, keepdims=True)) / spread[:, None]
    strongest = int(np.argmax(height[:, 0]))
    peaks = (height[:, 1:] + (tie / spread)[:, None]).max(axis=0)
    as_large = int(np.count_nonzero(peaks >= height[strongest, 0]))
    return energy[:, 0], (1 + as_large) / (1 + permutations), strongest


def _energy(
    distances: Float64[np.ndarray, "episode episode"],
    labels: Float64[np.ndarray, "labelling episode"],
) -> Float64[np.ndarray, " labelling"]:
    """Energy statistic of the episodes labelled 1 against those labelled 0."""
    between = distances * (1.0 - np.eye(len(distances)))
    within_p = ((labels @ between) * labels).sum(axis=1)
    across = labels @ between.sum(axis=1) - within_p
    within_q = between.sum() - within_p - 2.0 * across
    n_clean = labels[0].sum()
    n_corrupt = len(distances) - n_clean
    return (
        2.0 * across / (n_clean * n_corrupt)
        - within_p / (n_clean * (n_clean - 1))
        - within_q / (n_corrupt * (n_corrupt - 1))
    )
