"""Policies and unfinished trainings on disk: ``policy.json`` and safetensors, no pickle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ambient_curate.errors import CheckpointError, ConfigError
from ambient_curate.files import reading_tensors, tensors_of, write_tensors
from ambient_curate.noise import schedule_levels
from ambient_curate.policy.denoiser import Denoiser, Shape, build_denoiser
from ambient_curate.policy.interface import Interface
from ambient_curate.policy.preconditioning import PerMode
from ambient_curate.run.records import Kind
from ambient_curate.training import Training

POLICY = Kind(
    "policy",
    "train",
    ("policy.safetensors", "log.csv", "validation.csv"),
    beside=("tensorboard", "wandb"),
)


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


_AGAIN = "train again with --force"
_MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's names


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's weights and buffers; the file appears only whole."""
    write_tensors(path, network.state_dict())


def load_weights(network: nn.Module, path: Path) -> None:
    """Read weights and buffers into a network of the same sizes.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or of other sizes.
    """
    with reading_tensors(path, "weights of this policy", _AGAIN) as tensors:
        network.load_state_dict(tensors)


def save_training(training: Training, path: Path) -> None:
    """Write all that an interrupted training needs to go on as if nothing had happened.

    What it draws depends on its seed and the step alone.
    """
    tensors = {f"network.{k}": v for k, v in training.network.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in training.average.state_dict().items()}
    for number, parameter in enumerate(training.network.parameters()):
        moments = training.optimizer.state[parameter]
        tensors |= {f"{name}.{number}": moments[name] for name in _MOMENTS}
    write_tensors(path, tensors | {"step": torch.tensor(training.step)})


def load_training(training: Training, path: Path) -> None:
    """Go back to what `save_training` wrote.

    Raises
    ------
    CheckpointError
        As `load_weights`.
    """
    with reading_tensors(path, "weights of this policy", _AGAIN) as tensors:
        for name in ("network", "average"):
            getattr(training, name).load_state_dict(tensors_of(f"{name}.", tensors))
        training.step = int(tensors["step"])
        for number, parameter in enumerate(training.network.parameters()):
            moments = {
                name: tensors[f"{name}.{number}"].to(parameter.device).view_as(parameter)
                for name in _MOMENTS
            }
            step = torch.tensor(float(training.step))
            training.optimizer.state[parameter] = {"step": step, **moments}
