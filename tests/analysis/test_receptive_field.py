"""Receptive fields against processes whose best denoiser is known in closed form."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.linalg import toeplitz
from torch import Tensor

from ambient_curate.analysis.receptive_field import (
    frame_jacobian,
    measure_sensitivity,
    spectrum_sensitivity,
    wiener_sensitivity,
)
from ambient_curate.analysis.spectra import estimate_spectrum
from ambient_curate.noise import signal_scale, ve_from_sigma
from ambient_curate.policy.denoiser import Denoiser, Shape, build_denoiser
from ambient_curate.policy.losses import noise_windows
from ambient_curate.training import Training, TrainOptions

BINS = 2049


def autoregressive_power(phi: float, innovation: float) -> np.ndarray:
    omega = np.pi * np.linspace(0.0, 1.0, BINS)
    return innovation / (1.0 + phi**2 - 2.0 * phi * np.cos(omega))


def autoregressive_kernel(
    phi: float, innovation: float, noise: float, lag: np.ndarray
) -> np.ndarray:
    """The two-sided Wiener filter of an AR(1) is geometric: A rho^|lag|."""
    b = (1.0 + phi**2 + innovation / noise**2) / phi
    rho = (b - math.sqrt(b**2 - 4.0)) / 2.0
    return innovation / noise**2 / phi * rho / (1.0 - rho**2) * rho ** np.abs(lag)


@pytest.mark.parametrize("phi", [0.5, 0.95, 0.99])
def test_the_field_of_an_autoregression_is_geometric(phi: float) -> None:
    sigma = np.array([0.02, 0.3, 0.9])
    found = wiener_sensitivity(autoregressive_power(phi, 0.3)[:, None], sigma)
    for row, noise in zip(found.square, ve_from_sigma(sigma), strict=True):
        exact = autoregressive_kernel(phi, 0.3, float(noise), found.offset)
        assert np.abs(np.sqrt(row) - exact).max() < 1e-6


def test_the_field_of_a_sampled_ornstein_uhlenbeck_process_is_that_of_its_autoregression() -> None:
    """Its covariance decays as exp(-theta t): sampled, phi = exp(-theta dt)."""
    theta_dt, variance, sigma = 0.08, 0.6, np.array([0.1, 0.5, 0.95])
    # the sampled spectrum is the sum of the continuous one's aliases
    omega = np.pi * np.linspace(0.0, 1.0, BINS)
    aliases = omega[:, None] + 2 * np.pi * np.arange(-1000, 1001)
    power = (2 * variance * theta_dt / (theta_dt**2 + aliases**2)).sum(axis=1)
    power += variance * theta_dt / np.pi**2 / 1000.5  # of the others, which are all but white
    found = wiener_sensitivity(power[:, None], sigma)
    phi = math.exp(-theta_dt)
    for row, noise in zip(found.square, ve_from_sigma(sigma), strict=True):
        exact = autoregressive_kernel(phi, variance * (1 - phi**2), float(noise), found.offset)
        assert np.abs(np.sqrt(row) - exact).max() < 1e-6


def test_the_radius_of_a_geometric_field_is_in_closed_form() -> None:
    phi, sigma = 0.97, np.array([0.05, 0.2, 0.5, 0.8, 0.95])
    found = wiener_sensitivity(autoregressive_power(phi, 0.1)[:, None], sigma)
    for radius, noise in zip(found.radius, ve_from_sigma(sigma), strict=True):
        rho2 = (
            float(np.divide(*autoregressive_kernel(phi, 0.1, float(noise), np.array([1, 0])))) ** 2
        )
        # outside r lies the share 2 rho2^(r + 1) / (1 + rho2) of the square
        exact = math.ceil(math.log(0.05 * (1 + rho2) / 2) / math.log(rho2) - 1)
        assert radius == max(exact, 0)
    assert (np.diff(found.radius) >= 0).all() and found.radius[-1] > 3


def test_white_actions_are_denoised_frame_by_frame() -> None:
    found = wiener_sensitivity(np.full((33, 2), 0.7), np.array([0.1, 0.9]))
    assert found.radius.tolist() == [0, 0]
    gain = 0.7 / (0.7 + ve_from_sigma(found.sigma) ** 2)
    assert np.allclose(found.square[:, found.offset == 0][:, 0], 2 * gain**2)


def test_levels_beyond_the_channel_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        wiener_sensitivity(np.ones((5, 1)), np.array([0.5, 1.0]))


@pytest.mark.parametrize("segment", [128, 129])
def test_a_measured_spectrum_gives_the_field_of_its_process(segment: int) -> None:
    rng = np.random.default_rng(0)
    phi, sigma = 0.9, np.array([0.1, 0.3, 0.6, 0.9])
    episodes = []
    for _ in range(40):
        x = rng.normal(size=(1000, 1))
        for i in range(1, len(x)):
            x[i] += phi * x[i - 1]
        episodes.append(0.3 * x)
    found = spectrum_sensitivity(estimate_spectrum(episodes, segment=segment), sigma)
    exact = wiener_sensitivity(autoregressive_power(phi, 0.09)[:, None], sigma)
    assert np.abs(found.radius - exact.radius).max() <= 1
    short = spectrum_sensitivity(estimate_spectrum(episodes, segment=segment), sigma, frames=16)
    assert short.offset.tolist() == list(range(-8, 8))
    assert np.allclose(short.square[:, 8], found.square[:, found.offset == 0][:, 0])


def test_the_jacobian_of_a_linear_map_is_the_map() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 2, 6, 2, generator=generator)

    def denoise(x: Tensor) -> Tensor:
        return torch.einsum("kdie,rie->rkd", weight, x)

    x = torch.randn(3, 6, 2, generator=generator)
    found = frame_jacobian(denoise, x, 4)
    assert found.shape == (2, 3, 6, 2)
    assert torch.allclose(found, weight[4][:, None].expand(2, 3, 6, 2))
    sigma = np.array([0.6])
    field = measure_sensitivity(lambda _: denoise, x, sigma, generator=generator, middle=4)
    exact = 0.64 * weight[4].square().sum(dim=(0, 2))
    assert field.offset.tolist() == [-4, -3, -2, -1, 0, 1]
    assert np.allclose(field.square[0], exact.numpy())


def test_rows_do_not_enter_each_others_jacobian() -> None:
    def denoise(x: Tensor) -> Tensor:
        return x**2

    x = torch.tensor([[[1.0]], [[5.0]]])
    assert frame_jacobian(denoise, x, 0).flatten().tolist() == [2.0, 10.0]


HORIZON, PHI = 16, 0.9
SIGMA = torch.tensor([0.1, 0.2, 0.35, 0.5, 0.7, 0.9])


def train_denoiser(steps: int) -> tuple[Denoiser, np.ndarray]:
    """A network on windows of a stationary AR(1) of variance 1, and their covariance."""
    covariance = toeplitz(PHI ** np.arange(HORIZON))
    factor = torch.from_numpy(np.linalg.cholesky(covariance)).float()
    generator = torch.Generator().manual_seed(1)
    shape = Shape("mlp", "v", HORIZON, 1, 0, len(SIGMA), 0, 0, 0)
    network, average = (
        build_denoiser(shape, SIGMA, None, generator=torch.Generator().manual_seed(2))
        for _ in range(2)
    )
    training = Training(network, average, TrainOptions(steps=steps, learning_rate=2e-3))
    for _ in range(steps):
        x0 = (torch.randn(512, HORIZON, generator=generator) @ factor.T)[..., None]
        level = torch.randint(len(SIGMA), (512,), generator=generator)
        noised = noise_windows(x0, SIGMA[level], torch.randn(x0.shape, generator=generator))
        nothing = torch.zeros(512, 0)
        output = network(noised.x_t, level, nothing)
        training.advance(network.errors(output, noised, level, nothing).mean())
    return average.eval().requires_grad_(False), covariance


@pytest.mark.slow
def test_a_trained_network_looks_as_far_as_the_closed_form_says() -> None:
    denoiser, covariance = train_denoiser(1200)
    generator = torch.Generator().manual_seed(3)
    factor = torch.from_numpy(np.linalg.cholesky(covariance)).float()
    windows = (torch.randn(512, HORIZON, generator=generator) @ factor.T)[..., None]

    def at(number: int) -> Callable[[Tensor], Tensor]:
        def denoise(x: Tensor) -> Tensor:
            return denoiser.estimate_x0(x, torch.full((len(x),), number), torch.zeros(len(x), 0))

        return denoise

    sigma = SIGMA.double().numpy()
    found = measure_sensitivity(at, windows, sigma, generator=generator)
    for number, level in enumerate(sigma):
        noise = level / signal_scale(level)
        exact = np.abs(covariance @ np.linalg.inv(covariance + noise**2 * np.eye(HORIZON)))[8]
        measured = np.sqrt(found.square[number])
        error = np.linalg.norm(measured - exact) / np.linalg.norm(exact)
        assert error < 0.15
