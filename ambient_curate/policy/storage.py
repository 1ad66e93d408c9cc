"""Policies and unfinished trainings on disk: safetensors, no pickle."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ambient_curate.errors import CheckpointError
from ambient_curate.files import replace_whole
from ambient_curate.training import Training

_MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's names


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's weights and buffers; the file appears only whole."""
    _save(network.state_dict(), path)


def load_weights(network: nn.Module, path: Path) -> None:
    """Read weights and buffers into a network of the same sizes.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or of other sizes.
    """
    with _loaded(path) as tensors:
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
    _save(tensors | {"step": torch.tensor(training.step)}, path)


def load_training(training: Training, path: Path) -> None:
    """Go back to what `save_training` wrote.

    Raises
    ------
    CheckpointError
        As `load_weights`.
    """
    with _loaded(path) as tensors:
        for name in ("network", "average"):
            state = {
                key.removeprefix(f"{name}."): value
                for key, value in tensors.items()
                if key.startswith(f"{name}.")
            }
            getattr(training, name).load_state_dict(state)
        training.step = int(tensors["step"])
        for number, parameter in enumerate(training.network.parameters()):
            moments = {
                name: tensors[f"{name}.{number}"].to(parameter.device).view_as(parameter)
                for name in _MOMENTS
            }
            step = torch.tensor(float(training.step))
            training.optimizer.state[parameter] = {"step": step, **moments}


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save

    content = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replace_whole(path) as temporary:
        temporary.write_bytes(save(content))


@contextmanager
def _loaded(path: Path) -> Iterator[dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        yield load_file(path)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} holds no weights of this policy: {error}", "train again with --force"
        ) from error
