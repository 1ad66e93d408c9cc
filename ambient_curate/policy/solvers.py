"""Solvers: DDIM and others, from noise to windows of actions."""

from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ambient_curate.policy.denoiser import Denoiser
from ambient_curate.policy.losses import signal_scale

Solver = Literal["ddim", "ddpm"]


def pick_levels(levels: int, steps: int) -> Int64[np.ndarray, " step"]:
    """Places of `steps` evenly spaced levels, falling to the lowest: 90, 80, .. 0 of 100 for 10.

    Raises
    ------
    ValueError
        If `steps` is below 1.

    Examples
    --------
    >>> pick_levels(100, 4).tolist(), pick_levels(5, 9).tolist()
    ([75, 50, 25, 0], [4, 3, 2, 1, 0])
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: expected a whole number >= 1")
    steps = min(steps, levels)
    return np.arange(steps, dtype=np.int64)[::-1] * levels // steps


def sample_windows(
    denoiser: Denoiser,
    condition: Float32[Tensor, "row condition"],
    start: Float32[Tensor, "row horizon action"],
    *,
    steps: int,
    solver: Solver = "ddim",
    generator: torch.Generator,
) -> Float32[Tensor, "row horizon action"]:
    """Draw windows: start at noise, and go down the levels.

    Parameters
    ----------
    denoiser : Denoiser
        Any.
    condition : Tensor, float32, shape (row, condition)
        One a window.
    start : Tensor, float32, shape (row, horizon, action)
        Standard normal noise.
    steps : int
        Levels to visit (`pick_levels`).
    solver : {"ddim", "ddpm"}
        Deterministic (Song et al. 2021, equation 12 with eta = 0), or with fresh noise at every
        step (eta = 1: ancestral, Ho et al. 2020).
    generator : torch.Generator
        Source of the fresh noise, on the CPU.

    Raises
    ------
    ValueError
        If `steps` is below 1 or `solver` is neither.
    """
    if solver not in get_args(Solver):
        raise ValueError(f"solver is {solver!r}: expected one of {get_args(Solver)}")
    places = pick_levels(denoiser.sigma.shape[0], steps)
    x = start
    for place, lower in zip(places.tolist(), [*places[1:].tolist(), None], strict=True):
        level = torch.full((len(x),), place, device=x.device)
        x0 = denoiser.estimate_x0(x, level, condition)
        if lower is None:
            return x0
        sigma, below = denoiser.sigma[place], denoiser.sigma[lower]
        signal, signal_below = signal_scale(sigma), signal_scale(below)
        noise = (x - signal * x0) / sigma
        fresh = torch.zeros(())
        if solver == "ddpm":
            fresh = (below / sigma) ** 2 * (1.0 - (signal / signal_below) ** 2)
        x = signal_below * x0 + torch.sqrt(below**2 - fresh) * noise
        if solver == "ddpm":
            z = torch.randn(x.shape, generator=generator).to(x.device)
            x = x + torch.sqrt(fresh) * z
    raise ValueError("a denoiser has at least one level")
