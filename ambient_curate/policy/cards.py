"""Cards: what ``policy.json`` says, and the policy that can be built from it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ambient_curate.errors import CheckpointError, ConfigError
from ambient_curate.noise import schedule_levels
from ambient_curate.policy.denoiser import Denoiser, Shape, build_denoiser
from ambient_curate.policy.interface import Interface
from ambient_curate.policy.preconditioning import PerMode
from ambient_curate.records import Kind

POLICY = Kind("policy", "train", ("policy.safetensors", "log.csv", "validation.csv"))


def find_levels(schedule: str) -> np.ndarray:
    """Rising noise levels of a trainer's schedule, float64."""
    return np.sort(schedule_levels(schedule))


def describe_policy(shape: Shape, interface: Interface, schedule: str) -> dict[str, Any]:
    """Say what `build_from_card` needs, as JSON values."""
    return {"shape": vars(shape), "schedule": schedule, "interface": interface.as_dict()}


def build_from_card(card: Mapping[str, Any]) -> tuple[Denoiser, Interface]:
    """Build a denoiser whose weights are still to be read, and its interface.

    Raises
    ------
    CheckpointError
        If the card lacks something, or no policy is such as it says.
    """
    try:
        shape = Shape(**card["shape"])
        interface = Interface.from_dict(card["interface"])
        sigma = torch.from_numpy(find_levels(card["schedule"])).float()
        modes = _make_room(shape) if shape.bands else None
        return build_denoiser(shape, sigma, modes, generator=torch.Generator()), interface
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        ConfigError,
    ) as error:
        raise CheckpointError(f"policy.json is damaged: {error}", "train again") from error


def _make_room(shape: Shape) -> PerMode:
    dim = shape.horizon * shape.action_dim
    return PerMode(
        torch.zeros(shape.levels, dtype=torch.int64),
        torch.zeros(shape.bands, dim),
        torch.zeros(shape.bands, dim, dim),
        torch.ones(shape.bands, dim),
        torch.zeros(shape.bands, shape.motion_dim, dim),
        torch.zeros(shape.motion_dim),
    )
