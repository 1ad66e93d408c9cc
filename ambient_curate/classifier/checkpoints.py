"""Checkpoints of classifiers and distilled students: safetensors, no pickle."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ambient_curate.classifier.channels import Channel
from ambient_curate.classifier.distillation import CurveNetwork, Student
from ambient_curate.classifier.fit import PairClassifier
from ambient_curate.files import reading_tensors, tensors_of, write_tensors

_OF_NETWORK = "network."
_AGAIN = "annotate again with --force"


def save_pair(classifier: PairClassifier, path: Path) -> None:
    """Write the classifier of a pair and fold; the file appears only whole."""
    sigma = torch.from_numpy(classifier.channel.levels)
    others = {"slope": classifier.slope, "intercept": classifier.intercept, "sigma": sigma}
    _save(classifier.members, others, path)


def load_pair(path: Path, channel: Channel) -> PairClassifier:
    """Read what `save_pair` wrote.

    Parameters
    ----------
    path : Path
        The file.
    channel : Channel
        What the classifier sees windows through.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or holds something else.
    """
    with reading_tensors(path, "classifier of this version", _AGAIN) as tensors:
        state = tensors_of(_OF_NETWORK, tensors)
        estimates, levels = tensors["slope"].shape
        if tensors["intercept"].shape != (levels,) or tensors["sigma"].shape != (levels,):
            raise ValueError("its calibration and its levels have different sizes")
        if not np.array_equal(tensors["sigma"].numpy(), channel.levels):
            raise ValueError("it is read at other noise levels")
        names = dict.fromkeys(name.partition(".")[0] for name in state)  # in their order
        order = [name for name in channel.names if name in names]
        members = nn.ModuleDict({name: channel.empty(name) for name in order})
        members.load_state_dict(state)  # checks every size
        if estimates != sum(channel.names[name] for name in order):
            raise ValueError("its calibration is of other estimates")
        frozen = members.requires_grad_(False).eval()
        return PairClassifier(channel, frozen, tensors["slope"], tensors["intercept"])


def save_student(student: Student, path: Path) -> None:
    """Write a student; the file appears only whole."""
    error = torch.tensor([student.error], dtype=torch.float64)
    others = {"margins": torch.from_numpy(student.margins), "error": error}
    _save(student.network, others, path)


def load_student(path: Path) -> Student:
    """Read what `save_student` wrote.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or holds something else.
    """
    with reading_tensors(path, "student of this version", _AGAIN) as tensors:
        state = tensors_of(_OF_NETWORK, tensors)
        width, dim = state["layers.0.bias"].numel(), state["mean"].numel()
        (sides, levels), margins = tensors["margins"].shape, tensors["margins"].numpy()
        if sides != 2:
            raise ValueError("its margins are not of two sides")
        network = CurveNetwork(
            *(torch.zeros(dim), torch.zeros(dim, dim), torch.zeros(dim)),
            levels,
            width=width,
            generator=torch.Generator(),
        )
        network.load_state_dict(state)  # checks every size
        error = float(tensors["error"].item())
        return Student(network.requires_grad_(False).eval(), np.ascontiguousarray(margins), error)


def _save(network: nn.Module, others: Mapping[str, Tensor], path: Path) -> None:
    tensors = {f"{_OF_NETWORK}{name}": value for name, value in network.state_dict().items()}
    write_tensors(path, {**tensors, **others})
