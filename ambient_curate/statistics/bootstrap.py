"""Bootstrap of mean curves over episodes and folds, and subsamples at equal distances."""

import numpy as np
from jaxtyping import Float64, Int64

from ambient_curate.noise import log_snr, sigma_from_log_snr


def stretch(found: float, end: float, by: float) -> float:
    """Move an end of an interval `by` times as far away from `found`, in log-SNR.

    Both are noise levels in [0, 1]; nothing is moved where one of them is 0 or 1.
    """
    if not (0.0 < found < 1.0 and 0.0 < end < 1.0):
        return end
    middle = float(log_snr(found))
    return float(sigma_from_log_snr(middle + by * (float(log_snr(end)) - middle)))


def few_folds(folds: int) -> float:
    """Give the factor by which a bootstrap over so few folds is too narrow for a nominal 95 %.

    ``sqrt(K / (K - 1))``, since draws from K values vary that much less than the values, times
    Student's quantile with K - 1 degrees of freedom over the normal one (method.md section 4).

    Examples
    --------
    >>> round(few_folds(5), 3)
    1.584
    """
    from scipy.special import ndtri, stdtrit

    if folds == 1:
        return 1.0  # no network was drawn
    return float(stdtrit(folds - 1, 0.975) / ndtri(0.975) * np.sqrt(folds / (folds - 1)))


def bootstrap_means(
    curves: Float64[np.ndarray, "episode level"],
    weight: Float64[np.ndarray, " episode"],
    rng: np.random.Generator,
    *,
    fold: Int64[np.ndarray, " episode"] | None = None,
    fold_rng: np.random.Generator | None = None,
    repeats: int = 1000,
) -> Float64[np.ndarray, "repeat level"]:
    """Weighted mean curves of episodes drawn with replacement, inside folds that are drawn too.

    Episodes of a fold share its network and its calibration, whose error a draw of episodes alone
    would not show. Drawing the folds first shows it.

    Parameters
    ----------
    curves : ndarray, shape (episode, level)
        One curve an episode, the independent unit.
    weight : ndarray, shape (episode,)
        Weight of each in the mean, > 0.
    rng : Generator
        Source of the draw.
    fold : ndarray, int64, shape (episode,), or None
        Which network scored each; None: one and the same.
    fold_rng : Generator or None
        Source of the draw of folds, in equal states for two samples that share their networks;
        None: `rng`.
    repeats : int
        Number of redrawn samples.
    """
    n = weight.size
    fold = np.zeros(n, dtype=np.int64) if fold is None else fold
    members = [np.flatnonzero(fold == value) for value in np.unique(fold)]
    means = np.empty((repeats, curves.shape[1]))
    for repeat in range(repeats):
        folds = [members[i] for i in (fold_rng or rng).integers(len(members), size=len(members))]
        drawn = np.concatenate([rows[rng.integers(rows.size, size=rows.size)] for rows in folds])
        share = np.bincount(drawn, minlength=n) * weight
        means[repeat] = share @ curves / share.sum()
    return means


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
