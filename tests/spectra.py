"""What the spectra of the demo's faults predict: closed forms and second moments, no classifier."""

import math
from functools import cache
from pathlib import Path

import numpy as np

from ambient_curate.cli.demo import RATE_HZ, TREMOR_HZ, TREMOR_M

HORIZON = 16
THRESHOLD = 0.2  # Delta at epsilon = 0.05
FAULTS = ("tremor", "coarse", "lag", "shifted")  # by rising sigma_min


def windows(data: Path, name: str) -> np.ndarray:
    """Windows of a dataset minus their first frame, scaled as the clean range to [-1, 1]."""
    return (_relative(data, name) * scale(data)).reshape(-1, 2 * HORIZON)


def scale(data: Path) -> np.ndarray:
    return 2 / np.ptp(_relative(data, "clean"), axis=(0, 1))


@cache
def _relative(data: Path, name: str) -> np.ndarray:
    with np.load(data / f"{name}.npz", allow_pickle=False) as file:
        episodes = np.split(file["action"].astype(np.float64), file["episode_ends"][:-1])
    whole = [episode for episode in episodes if len(episode) >= HORIZON]
    views = [np.lib.stride_tricks.sliding_window_view(e, HORIZON, axis=0) for e in whole]
    stacked = np.concatenate(views).transpose(0, 2, 1)
    return stacked - stacked[:, :1]


def gaussian_sigma_min(p: tuple, q: tuple, seed: int = 0) -> float:
    """sigma_min between two Gaussians (mean, covariance), Delta by Monte Carlo under q."""
    z = np.random.default_rng(seed).normal(size=(4000, len(p[0])))

    def delta(noise: float) -> float:
        factors = [np.linalg.cholesky(C + noise**2 * np.eye(len(C))) for _, C in (p, q)]
        x = q[0] + z @ factors[1].T
        logs = [
            -0.5 * (np.linalg.solve(L, (x - mean).T) ** 2).sum(axis=0) - np.log(np.diag(L)).sum()
            for L, (mean, _) in zip(factors, (p, q), strict=True)
        ]
        return float(2 - 4 * np.mean(1 / (1 + np.exp(np.clip(logs[1] - logs[0], -500, 500)))))

    low, high = math.log(0.003), math.log(20)
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if delta(math.exp(middle)) > THRESHOLD else (low, middle)
    noise = math.exp(low)
    return noise / math.hypot(1, noise)


def spectral_sigma_min(data: Path, name: str) -> float:
    """What mean and covariance alone, the spectrum of the windows, say."""
    moments = [(w.mean(0), np.cov(w.T)) for w in (windows(data, "clean"), windows(data, name))]
    return gaussian_sigma_min(*moments)


def tremor_covariance(data: Path) -> np.ndarray:
    """Covariance of the tremor in a scaled relative window, from its autocovariance."""
    low, high = TREMOR_HZ
    lag_s = np.subtract.outer(np.arange(HORIZON), np.arange(HORIZON)) / RATE_HZ
    stationary = (high * np.sinc(2 * high * lag_s) - low * np.sinc(2 * low * lag_s)) / (high - low)
    minus_first = np.eye(HORIZON)
    minus_first[:, 0] -= 1
    relative = TREMOR_M**2 * minus_first @ stationary @ minus_first.T
    return np.kron(relative, np.diag(scale(data) ** 2))


def tremor_limits(data: Path) -> tuple[float, float]:
    """Limits of the true sigma_min of the tremor, from the two ways to use the clean motion.

    A judge who knows it sees the tremor alone: no one can do better. A judge who looks only where
    clean motion has next to no power sees it alone in those directions: the best does no worse.
    """
    tremor, clean = tremor_covariance(data), windows(data, "clean")
    power, directions = np.linalg.eigh(clean.T @ clean / len(clean))
    quiet = directions[:, power < 0.0015**2]
    limits = []
    for seen in (quiet, np.eye(2 * HORIZON)):
        zero, covariance = np.zeros(seen.shape[1]), seen.T @ tremor @ seen
        limits.append(gaussian_sigma_min((zero, 0 * covariance), (zero, covariance)))
    return limits[0], limits[1]
