"""What the policy's networks share: embeddings, FiLM, weights from a generator."""

import math

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

SLOWEST = 1e4  # ratio of the fastest frequency, 1 radian per unit of time, to the slowest


def embed_time(time: Float32[Tensor, " row"], dim: int) -> Float32[Tensor, "row {dim}"]:
    """Sines, then cosines, of times at frequencies that fall geometrically from 1 to 1e-4.

    Parameters
    ----------
    time : Tensor, float32, shape (row,)
        Times in [0, 100).
    dim : int
        Length of the embedding, even and >= 4.

    Returns
    -------
    Tensor, float32, shape (row, dim)
        Values in [-1, 1].

    Raises
    ------
    ValueError
        If `dim` is odd or below 4.

    References
    ----------
    Vaswani et al. (2017), Attention Is All You Need, section 3.5.
    """
    if dim < 4 or dim % 2:
        raise ValueError(f"a time is embedded in {dim} numbers; expected an even count >= 4")
    place = torch.arange(dim // 2, dtype=torch.float32, device=time.device)
    angle = time[:, None] * torch.exp(place * (-math.log(SLOWEST) / (dim // 2 - 1)))
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def embed_condition(
    condition: Float32[Tensor, "row condition"], octaves: int
) -> Float32[Tensor, "row embedded"]:
    """Conditions, and sines and cosines of them at frequencies that double.

    What a network is told in numbers it learns to tell apart coarsely; sines of a place let it see
    centimetres (Tancik et al. 2020, Fourier Features; NeRF's gamma, Mildenhall et al. 2020,
    equation 4).

    Parameters
    ----------
    condition : Tensor, float32, shape (row, condition)
        Mostly in [-1, 1].
    octaves : int
        Frequencies: 1, 2, 4, ... half-turns a unit; 0: conditions stay as they are.

    Returns
    -------
    Tensor, float32, shape (row, condition x (1 + 2 octaves))
        Conditions, sines from the lowest frequency on, cosines.
    """
    if octaves == 0:
        return condition
    angle = torch.cat([condition * (math.pi * 2**octave) for octave in range(octaves)], dim=1)
    return torch.cat([condition, angle.sin(), angle.cos()], dim=1)


def modulate(
    hidden: Float[Tensor, "row channel *frame"], film: Float[Tensor, "row twice *one"]
) -> Float[Tensor, "row channel *frame"]:
    """Scale and shift the channels of a row, ``(1 + scale) hidden + shift``.

    Parameters
    ----------
    hidden : Tensor, shape (row, channel) or (row, channel, frame)
        Features.
    film : Tensor, shape (row, 2 channel) or (row, 2 channel, 1)
        Scales, then shifts.

    References
    ----------
    Perez et al. (2018), FiLM, equation 2.
    """
    scale, shift = film.chunk(2, dim=1)
    return hidden * (1.0 + scale) + shift


def seed_weights(
    network: nn.Module, outlet: nn.Linear | nn.Conv1d, *, generator: torch.Generator
) -> None:
    """Give a network that was built on the meta device its memory and first weights.

    Weights and biases follow PyTorch's own law, uniform on ``+-1 / sqrt(fan-in)``, without its
    global generator. Those of the last layer are zero: the network's first output is zero.

    Parameters
    ----------
    network : Module
        Of linear layers, convolutions and norms. It comes to lie where `generator` draws.
    outlet : Linear or Conv1d
        The last layer, a part of `network`.
    generator : torch.Generator
        Source of the weights.

    Raises
    ------
    TypeError
        If a layer of another kind has parameters.
    """
    network.to_empty(device=generator.device)
    with torch.no_grad():
        for layer in network.modules():
            own = list(layer.parameters(recurse=False))
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.ConvTranspose1d):
                bound = 1.0 / math.sqrt(layer.weight[0].numel())
                for values in own:
                    values.uniform_(-bound, bound, generator=generator)
            elif isinstance(layer, nn.LayerNorm | nn.GroupNorm):
                layer.reset_parameters()
            elif own:
                raise TypeError(f"no law is known for the first weights of {layer}")
        for values in outlet.parameters():
            values.zero_()
