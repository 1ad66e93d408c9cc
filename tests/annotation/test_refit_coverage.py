"""Coverage of the approximate intervals with the classifiers fitted anew in every repetition.

Two normal laws that differ by a shift, and linear discriminants, which are the right family; the
folds, the calibration and the bootstrap are the package's. The figures of method.md section 4 are
those printed here.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import erf, expit

from ambient_curate.annotation.curves import PopulationCurves, Side, summarize_population
from ambient_curate.classifier.calibration import fit_calibration
from ambient_curate.classifier.out_of_fold import BANDS, BINS, SMALLEST
from ambient_curate.divergence import gaussian_delta
from ambient_curate.noise import log_snr, sigma_from_log_snr
from ambient_curate.statistics.brackets import Envelope
from ambient_curate.statistics.sigma_min import last_crossing

pytestmark = [pytest.mark.validity, pytest.mark.timeout(3 * 3600)]

Array = NDArray[np.float64]
FOLDS = 5
WINDOWS = 3  # an episode
WITHIN = 0.5  # correlation of its windows
VARIANCE = 0.1
SIGMA_MIN = 0.5
EPSILON = 0.05
SCORED, CALIBRATED = 2, 16  # noise draws a window
MOST = 2_048  # windows of a class that calibrate
SIGMA = sigma_from_log_snr(np.linspace(7.3, -6.0, 17))
SIGNAL = np.sqrt(1.0 - SIGMA**2)
SHOWN = [4, 6, 8, 10]  # levels of the Delta and TV bands that are printed
REPETITIONS = {30: 300, 100: 300, 500: 100}


@dataclass(frozen=True)
class Linear:
    """Linear discriminants of noised windows, in closed form from windows without noise."""

    centre: Array
    contrast: Array
    basis: Array
    variance: Array

    def logit(self, x: Array, z: Array, levels: Array) -> Array:
        """Log-odds of "clean" of ``a x + sigma z``, each row at its own levels, (n, level)."""
        signal = np.sqrt(1.0 - levels**2)
        spread = signal[..., None] ** 2 * self.variance + levels[..., None] ** 2
        weight = signal[..., None] * self.contrast / spread  # (n, level, dim) or (level, dim)
        u, w = (x - self.centre) @ self.basis, z @ self.basis
        if levels.ndim == 1:
            return signal * (u @ weight.T) + levels * (w @ weight.T)
        noised = signal[..., None] * u[:, None] + levels[..., None] * w[:, None]
        return np.einsum("nld,nld->nl", noised, weight)


def fit_linear(clean: Array, corrupt: Array) -> Linear:
    """Fit to windows of shape (n, dim); both covariances count the same."""
    means = clean.mean(axis=0), corrupt.mean(axis=0)
    pooled = (np.cov(clean.T) + np.cov(corrupt.T)) / 2.0
    variance, basis = np.linalg.eigh(pooled)
    return Linear((means[0] + means[1]) / 2.0, (means[0] - means[1]) @ basis, basis, variance)


def draw(rng: np.random.Generator, count: int, mean: Array) -> Array:
    """Windows of shape (episode, window, dim), each by itself N(mean, VARIANCE I)."""
    own = rng.standard_normal((count, 1, mean.size))
    each = rng.standard_normal((count, WINDOWS, mean.size))
    return mean + np.sqrt(VARIANCE) * (np.sqrt(WITHIN) * own + np.sqrt(1.0 - WITHIN) * each)


def calibrate(model: Linear, sides: list[Array], rng: np.random.Generator) -> tuple[Array, Array]:
    """Slope and intercept on the grid, from validation episodes noised at random levels."""
    logits, levels, sizes = [], [], []
    for x in sides:
        rows = x.reshape(-1, x.shape[-1])
        rows = np.repeat(rng.permutation(rows)[:MOST], CALIBRATED, axis=0)
        snr = rng.uniform(log_snr(SIGMA[-1:])[0], log_snr(SIGMA[:1])[0], len(rows))
        level = sigma_from_log_snr(snr)
        logits.append(model.logit(rows, rng.standard_normal(rows.shape), level[:, None])[:, 0])
        levels.append(snr)
        sizes.append(len(rows))
    is_clean = np.arange(sum(sizes)) < sizes[0]
    found = fit_calibration(np.concatenate(logits)[:, None], np.concatenate(levels), is_clean)
    table = found.at(log_snr(SIGMA))
    return table.slope[0], table.intercept


def score(logit: Array, is_clean: bool) -> Array:
    """Means over an episode, shape (episode, statistic, level), from (episode, score, level)."""
    c = expit(logit)
    right = c if is_clean else 1.0 - c
    loss = -np.log(np.clip(right, SMALLEST, 1.0 - SMALLEST))
    return np.stack([c, (1.0 - right) ** 2, loss, right > 0.5], axis=1).mean(axis=2)


def annotate_once(
    rng: np.random.Generator, sizes: tuple[int, int], mean: Array
) -> PopulationCurves:
    """Cross-fit, calibrate, score out of fold and summarise one data set."""
    sides = [draw(rng, count, m) for count, m in zip(sizes, (0.0 * mean, mean), strict=True)]
    folds = [np.arange(count) % FOLDS for count in sizes]
    statistics = [np.empty((count, 4, SIGMA.size)) for count in sizes]
    for held_out in range(FOLDS):
        validation = (held_out + 1) % FOLDS
        training = [
            x[(f != held_out) & (f != validation)].reshape(-1, mean.size)
            for x, f in zip(sides, folds, strict=True)
        ]
        model = fit_linear(training[0], training[1])
        unseen = [x[f == validation] for x, f in zip(sides, folds, strict=True)]
        slope, intercept = calibrate(model, unseen, rng)
        for side in range(2):
            rows = folds[side] == held_out
            x = np.repeat(sides[side][rows].reshape(-1, mean.size), SCORED, axis=0)
            logit = slope * model.logit(x, rng.standard_normal(x.shape), SIGMA) + intercept
            shaped = logit.reshape(rows.sum(), WINDOWS * SCORED, SIGMA.size)
            statistics[side][rows] = score(shaped, side == 0)
    p, q = (
        Side(s, np.ones((len(s), BANDS, BINS, 2)), np.ones(len(s)), f.astype(np.int64))
        for s, f in zip(statistics, folds, strict=True)
    )
    blank = np.full(SIGMA.size, np.nan)
    nothing = Envelope(*[blank] * 7, 0.0, 1.0, np.nan)
    return summarize_population(("q", None), SIGMA, p, q, nothing, epsilon=EPSILON, rng=rng)


def shift_length() -> float:
    """Distance of the means for which Delta crosses 4 epsilon at `SIGMA_MIN`."""
    crossing = brentq(lambda d: float(gaussian_delta(d)) - 4.0 * EPSILON, 0.1, 3.0)
    return float(crossing * np.sqrt(VARIANCE + SIGMA_MIN**2 / (1.0 - SIGMA_MIN**2)))


@pytest.mark.parametrize("dim", [2, 16])
@pytest.mark.parametrize("clean", [30, 100, 500])
def test_approximate_intervals_with_refitted_classifiers(clean: int, dim: int) -> None:
    rng = np.random.default_rng([clean, dim])
    length = shift_length()
    mean = np.full(dim, length / np.sqrt(dim))
    distance = SIGNAL * length / np.sqrt(SIGNAL**2 * VARIANCE + SIGMA**2)
    delta, tv = gaussian_delta(distance), erf(distance / np.sqrt(8.0))
    truth = {"sigma_min": np.array([last_crossing(0.5 - delta / 4, SIGMA, 0.5 - EPSILON)])}
    truth |= {"Delta": delta[SHOWN], "TV": tv[SHOWN]}
    runs = [annotate_once(rng, (clean, 10 * clean), mean) for _ in range(REPETITIONS[clean])]
    accuracy = [0.5 * (run.clean[3] + run.corrupt[3]) for run in runs]
    found = {
        "sigma_min": np.array([[run.sigma_min] for run in runs]),
        "Delta": np.array([run.delta[SHOWN] for run in runs]),
        "TV": 2.0 * np.array(accuracy)[:, SHOWN] - 1.0,
    }
    ends = {
        "sigma_min": np.array([[[run.lower], [run.upper]] for run in runs]),
        "Delta": np.array([run.delta_interval[:, SHOWN] for run in runs]),
        "TV": np.array([run.tv_interval[:, SHOWN] for run in runs]),
    }
    print(f"\n{clean}/{10 * clean} episodes, dim {dim}, {len(runs)} repetitions")
    shares = {name: report(name, truth[name], found[name], ends[name]) for name in truth}
    least = 0.95 - 3.0 * np.sqrt(0.95 * 0.05 / len(runs))
    assert shares["sigma_min"].min() >= least
    assert min(share[:, 1].min() for share in shares.values()) >= least


def report(name: str, exact: Array, found: Array, ends: Array) -> Array:
    """Print and return coverage of the exact value and of the estimator's mean, (level, 2)."""
    result = np.empty((exact.size, 2))
    mean, low, high = found.mean(axis=0), ends[:, 0], ends[:, 1]
    for i, value in enumerate(exact):
        shares = [
            np.mean((low[:, i] <= target) & (target <= high[:, i])) for target in (value, mean[i])
        ]
        result[i] = shares
        error = np.sqrt(shares[0] * (1.0 - shares[0]) / len(found))
        print(
            f"  {name:9} {value:.3f}: covers it {shares[0]:.3f}, covers the mean estimate "
            f"{mean[i]:.3f} {shares[1]:.3f} (+- {error:.3f}), above/below exact "
            f"{np.mean(low[:, i] > value):.3f}/{np.mean(high[:, i] < value):.3f}, width "
            f"{np.mean(high[:, i] - low[:, i]):.3f}, of the spread "
            f"{np.mean(high[:, i] - low[:, i]) / (3.92 * found[:, i].std()):.2f}"
        )
    return result
