"""Fields: the Jacobian of the best linear denoiser, by closed forms and by brute force."""

import numpy as np
import pytest

from ambient_curate.annotation.sigma_max import SHARE, list_reaches, wiener_field
from ambient_curate.noise import ve_from_sigma

SIGMA = np.array([0.02, 0.1, 0.3, 0.6, 0.9])


def stationary(horizon: int, correlation: float) -> np.ndarray:
    """Covariance of a first-order autoregression."""
    frame = np.arange(horizon)
    return correlation ** np.abs(frame[:, None] - frame)


def test_independent_frames_are_looked_at_alone() -> None:
    assert wiener_field(np.diag([1.0, 2.0, 3.0, 4.0]), 4, SIGMA).tolist() == [0] * 5
    assert wiener_field(np.zeros((4, 4)), 2, SIGMA).tolist() == [0] * 5


def test_frames_that_are_all_equal_are_averaged_over_the_window() -> None:
    """J = 11'/(H + s^2): every frame counts alike, and 95 % of 8 frames is all of them."""
    assert wiener_field(np.ones((8, 8)), 8, SIGMA).tolist() == [7] * 5


@pytest.mark.parametrize("correlation", [0.5, 0.9, 0.99])
def test_the_field_of_an_autoregression_is_that_of_its_known_filter(correlation: float) -> None:
    """Far from the ends the filter of an autoregression in white noise falls as a power.

    The Wiener filter with spectrum S / (S + s^2) has taps proportional to b^|i|, where b + 1 / b =
    (1 + c^2 + (1 - c^2) / s^2) / c; the squares within r are 1 - 2 b^(2 r + 2) / (1 + b^2).
    """
    horizon = 257
    found = wiener_field(stationary(horizon, correlation), horizon, SIGMA)
    for level, radius in zip(SIGMA, found, strict=True):
        s2 = ve_from_sigma(level) ** 2
        total = (1 + correlation**2 + (1 - correlation**2) / s2) / correlation
        b = (total - np.sqrt(total**2 - 4)) / 2
        exact = np.log((1 - SHARE) * (1 + b**2) / 2) / (2 * np.log(b)) - 1
        middle = max(int(np.ceil(exact - 1e-9)), 0)
        # frames at the ends look as far on one side only, so somewhat further
        assert middle <= radius <= 2 * middle + 2


def test_the_field_is_that_of_the_jacobian_of_every_frame() -> None:
    rng = np.random.default_rng(0)
    horizon, action = 6, 3
    factor = rng.normal(size=(18, 7))
    covariance = factor @ factor.T
    for level, radius in zip(SIGMA, wiener_field(covariance, horizon, SIGMA), strict=True):
        s2 = ve_from_sigma(level) ** 2
        jacobian = covariance @ np.linalg.inv(covariance + s2 * np.eye(18))
        needed = []
        for k in range(horizon):
            rows = jacobian[k * action : (k + 1) * action]
            energy = [(rows[:, i * action : (i + 1) * action] ** 2).sum() for i in range(horizon)]
            shares = [
                sum(e for i, e in enumerate(energy) if abs(i - k) <= r) / sum(energy)
                for r in range(horizon)
            ]
            needed.append(next(r for r, share in enumerate(shares) if share >= SHARE))
        assert radius == max(needed)


def test_reaches_use_the_widest_field_so_far() -> None:
    sigma = np.array([0.1, 0.2, 0.3, 0.4])
    assert list_reaches(np.array([1, 3, 2, 0]), 5, sigma).tolist() == [0.0, 0.1, 0.1, 0.4, 1.0]
    assert list_reaches(np.array([4, 4, 4, 4]), 5, sigma).tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert list_reaches(np.array([0, 0, 0, 0]), 2, sigma).tolist() == [0.4, 1.0]
