"""Checkpoints of fold classifiers and their students: safetensors, no pickle."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ambient_curate.classifier import FoldClassifier
from ambient_curate.crops import CropClassifier
from ambient_curate.errors import CheckpointError
from ambient_curate.files import replace_whole
from ambient_curate.networks import NoiseClassifier, RatioNetwork
from ambient_curate.students import CurveNetwork, Student

_OF_NETWORK = "network."


def save_fold(classifier: FoldClassifier, path: Path) -> None:
    """Write a fold's classifier; the file appears only whole."""
    sigma = torch.from_numpy(classifier.sigma)
    others = {"slope": classifier.slope, "intercept": classifier.intercept, "sigma": sigma}
    _save(classifier.network, others, path)


def load_fold(path: Path) -> FoldClassifier:
    """Read what `save_fold` wrote.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or holds something else.
    """
    with _loaded(path, "classifier") as (state, tensors):
        heads, levels = tensors["slope"].shape
        if tensors["intercept"].shape != (heads, levels) or tensors["sigma"].shape != (levels,):
            raise ValueError("its calibration and its grid have different sizes")
        network = _empty_crops(state) if "covariance" in state else _empty_noise(state, heads)
        network.load_state_dict(state)  # checks every size
        return FoldClassifier(
            network.requires_grad_(False).eval(),
            tensors["slope"],
            tensors["intercept"],
            tensors["sigma"].numpy(),
        )


def _empty_noise(state: Mapping[str, Tensor], heads: int) -> RatioNetwork:
    dim = state["mean"].shape[0]
    moments = (torch.zeros(heads, dim), torch.zeros(heads, dim), torch.zeros(heads, dim))
    basis = torch.zeros(dim), torch.zeros(dim, dim), torch.zeros(dim)
    told = dim - state["bands"].shape[0]
    return NoiseClassifier(*basis, moments, (0.0, 1.0), generator=torch.Generator(), told=told)


def _empty_crops(state: Mapping[str, Tensor]) -> RatioNetwork:
    horizon, sigma = state["sizes"].tolist()
    laws = state["mean"], state["covariance"]
    return CropClassifier(*laws, int(horizon), sigma, generator=torch.Generator())


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
    with _loaded(path, "student") as (state, tensors):
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
    from safetensors.torch import save

    tensors = {f"{_OF_NETWORK}{name}": value for name, value in network.state_dict().items()}
    tensors |= others
    # bytes, not save_file: a full disk is then an OSError like any other
    with replace_whole(path) as temporary:
        temporary.write_bytes(save({name: value.contiguous() for name, value in tensors.items()}))


@contextmanager
def _loaded(path: Path, what: str) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Offer a file's network and its other tensors; say of any error that it is no such file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        state = {
            name.removeprefix(_OF_NETWORK): tensor
            for name, tensor in tensors.items()
            if name.startswith(_OF_NETWORK)
        }
        yield state, tensors
    except (OSError, SafetensorError, KeyError, IndexError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} holds no {what} of this version: {error}", "annotate again with --force"
        ) from error
