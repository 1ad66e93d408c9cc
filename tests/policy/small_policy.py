"""Small policies, and a denoiser that writes down what it is asked."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ambient_curate.data.normalizer import Normalizer, fit_normalizer
from ambient_curate.noise import schedule_levels
from ambient_curate.policy.denoiser import Denoiser, Shape, build_denoiser
from ambient_curate.policy.interface import Interface
from ambient_curate.policy.preconditioning import PerMode

SCHEDULE = "squaredcos_cap_v2:10"
HORIZON, ACTION, STATE, N_OBS, N_ACTION = 8, 2, 2, 2, 3
BANDS = 3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scale_between(low: list[float], high: list[float]) -> Normalizer:
    return fit_normalizer("minmax", np.array([low, high]))


def make_interface(**changes: Any) -> Interface:
    """Actions from -1 to 3 and from 2 to 4, states from 0 to 2 and from 0 to 8, nothing told."""
    values = {
        "represent": "absolute",
        "reference": None,
        "scale_action": scale_between([-1.0, 2.0], [3.0, 4.0]),
        "scale_state": scale_between([0.0, 0.0], [2.0, 8.0]),
        "columns": {},
        "n_obs_steps": N_OBS,
        "n_action_steps": N_ACTION,
        "control_hz": 10.0,
    }
    return Interface(**values | changes)


def make_shape(**changes: Any) -> Shape:
    values = {
        "network": "mlp",
        "prediction": "wiener",
        "horizon": HORIZON,
        "action_dim": ACTION,
        "condition_dim": N_OBS * STATE,
        "levels": 10,
        "bands": BANDS if changes.get("prediction", "wiener") == "wiener" else 0,
        "octaves": 0,
        "motion_dim": 0,
    }
    return Shape(**values | changes)


def make_sigma(schedule: str = SCHEDULE) -> Tensor:
    return torch.from_numpy(np.sort(schedule_levels(schedule))).float()


def make_modes(shape: Shape, seed: int = 1) -> PerMode:
    """Bands of another mean, basis and variance each; the lowest levels in band 0."""
    dim = shape.horizon * shape.action_dim
    basis, _ = torch.linalg.qr(draw(shape.bands, dim, dim, seed=seed))
    variance = 10.0 ** torch.linspace(-2.0, 0.0, dim).repeat(shape.bands, 1)
    band = torch.arange(shape.levels) * shape.bands // shape.levels
    slope = draw(shape.bands, shape.motion_dim, dim, seed=seed + 2)
    mean = draw(shape.bands, dim, seed=seed + 1)
    scale = torch.linspace(1.0, 4.0, shape.motion_dim)
    return PerMode(band, mean, basis.contiguous(), variance, slope, scale)


def make_denoiser(shape: Shape, seed: int = 0) -> Denoiser:
    """A denoiser none of whose weights is zero."""
    generator = torch.Generator().manual_seed(seed)
    modes = make_modes(shape) if shape.bands else None
    denoiser = build_denoiser(shape, make_sigma(), modes, generator=generator)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return denoiser


class Recorder(Denoiser):
    """Predicts `answer`, one window for all rows or one a row, whatever it is asked.

    Remembers the (x_t, level, condition) of every call.
    """

    def __init__(self, answer: Tensor, sigma: Tensor | None = None) -> None:
        super().__init__(nn.Identity(), "sample", make_sigma() if sigma is None else sigma, None)
        self.answer = answer
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def estimate_x0(self, x_t: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        self.asked.append((x_t.clone(), level.clone(), condition.clone()))
        return self.answer.expand(x_t.shape).clone()
