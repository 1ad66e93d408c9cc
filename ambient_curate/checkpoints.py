"""Checkpoints of fold classifiers: safetensors, no pickle."""

from pathlib import Path

import torch

from ambient_curate.classifier import FoldClassifier
from ambient_curate.errors import CheckpointError
from ambient_curate.files import replace_whole
from ambient_curate.networks import NoiseClassifier


def save_fold(classifier: FoldClassifier, path: Path) -> None:
    """Write a fold's classifier; the file appears only whole."""
    from safetensors.torch import save

    state = classifier.network.state_dict()
    tensors = {f"network.{name}": tensor.contiguous() for name, tensor in state.items()}
    tensors |= {
        "slope": classifier.slope.contiguous(),
        "intercept": classifier.intercept.contiguous(),
        "sigma": torch.from_numpy(classifier.sigma),
    }
    # bytes, not save_file: a full disk is then an OSError like any other
    with replace_whole(path) as temporary:
        temporary.write_bytes(save(tensors))


def load_fold(path: Path) -> FoldClassifier:
    """Read what `save_fold` wrote.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        state = {
            name.removeprefix("network."): tensor
            for name, tensor in tensors.items()
            if name.startswith("network.")
        }
        (heads, levels), dim = tensors["slope"].shape, state["mean"].shape[0]
        if tensors["intercept"].shape != (heads, levels) or tensors["sigma"].shape != (levels,):
            raise ValueError("its calibration and its grid have different sizes")
        network = NoiseClassifier(
            torch.zeros(dim),
            torch.zeros(dim, dim),
            torch.zeros(dim),
            (torch.zeros(heads, dim), torch.zeros(heads, dim), torch.zeros(heads, dim)),
            (0.0, 1.0),
            generator=torch.Generator(),
        )
        network.load_state_dict(state)  # checks every size
        return FoldClassifier(
            network.requires_grad_(False).eval(),
            tensors["slope"],
            tensors["intercept"],
            tensors["sigma"].numpy(),
        )
    except (OSError, SafetensorError, KeyError, IndexError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} holds no classifier of this version: {error}", "annotate again with --force"
        ) from error
