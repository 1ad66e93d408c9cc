"""Denoising networks: a residual MLP and the 1-D U-Net of Diffusion Policy (Chi et al. 2023)."""

import math
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional as F

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

    Numbers are distinguished coarsely by a network; sines of a place let it see
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


TIME_DIM = 64


class ResidualMlp(nn.Module):
    """Maps noised windows, times and conditions to windows; all zeros before training.

    A hidden layer of time and condition scales and shifts (FiLM, Perez et al. 2018) what enters
    each residual block. At the default size, a horizon of 16 and 2 actions it has .9 M parameters.

    Parameters
    ----------
    horizon, action_dim : int
        Frames and dimensions of a window, >= 1.
    condition_dim : int
        Length of a condition, >= 0.
    width : int
        Units of a layer.
    depth : int
        Residual blocks, of two layers each.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(
        self,
        horizon: int,
        action_dim: int,
        condition_dim: int,
        *,
        width: int = 256,
        depth: int = 3,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.window = (horizon, action_dim)
        with torch.device("meta"):  # else PyTorch draws weights from its global generator
            self.inlet = nn.Linear(horizon * action_dim, width)
            self.context = nn.Sequential(
                nn.Linear(TIME_DIM + condition_dim, width),
                nn.SiLU(),
                nn.Linear(width, width),
                nn.SiLU(),
            )
            self.blocks = nn.ModuleList(MlpBlock(width) for _ in range(depth))
            self.norm = nn.LayerNorm(width)
            self.outlet = nn.Linear(width, horizon * action_dim)
        seed_weights(self, self.outlet, generator=generator)

    def forward(
        self,
        x: Float32[Tensor, "row horizon action"],
        time: Float32[Tensor, " row"],
        condition: Float32[Tensor, "row condition"],
    ) -> Float[Tensor, "row horizon action"]:
        """Give the network's output.

        Parameters
        ----------
        x : Tensor, float32, shape (row, horizon, action_dim)
            Noised windows.
        time : Tensor, float32, shape (row,)
            Noise levels as times in [0, 100).
        condition : Tensor, float32, shape (row, condition_dim)
            What is known of each window.

        Raises
        ------
        ValueError
            If the windows have another shape than the network was built for.
        """
        if x.shape[1:] != self.window:
            raise ValueError(f"windows of shape {tuple(x.shape[1:])}; expected {self.window}")
        context = self.context(torch.cat([embed_time(time, TIME_DIM), condition], dim=1))
        hidden = self.inlet(x.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, context)
        return self.outlet(F.silu(self.norm(hidden))).unflatten(1, self.window)


class MlpBlock(nn.Module):
    """Norm, FiLM and two layers, added to what enters.

    Parameters
    ----------
    width : int
        Units of each layer, of the input, of the context and of the output.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.film = nn.Linear(width, 2 * width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(
        self, hidden: Float[Tensor, "row width"], context: Float[Tensor, "row width"]
    ) -> Float[Tensor, "row width"]:
        """Give the sum."""
        change = F.silu(modulate(self.norm(hidden), self.film(context)))
        return hidden + self.second(F.silu(self.first(change)))


PUBLISHED = (256, 512, 1024)  # channels of each level; 65 M parameters
SMALL = (64, 128, 256)  # 5 M


class ConditionalUnet1d(nn.Module):
    """Maps noised windows, times and conditions to windows; all zeros before training.

    The frames of a window are halved ``len(channels) - 1`` times and doubled again; the blocks of
    the way up also see what left the same level on the way down, but for the finest, whose
    features are not handed across. Time and condition scale and shift the channels in every block
    (FiLM). The defaults are those published for low-dimensional observations. Unlike there, FiLM's
    scale is added to 1 and the last layer starts at zero.

    Parameters
    ----------
    action_dim : int
        Dimensions of an action, >= 1.
    condition_dim : int
        Length of a condition, >= 0.
    channels : tuple of int
        Of each level from fine to coarse, multiples of `groups`.
    kernel_size : int
        Frames that a convolution sees, odd.
    groups : int
        Of the norms.
    time_dim : int
        Length of the embedding of time, even and >= 4.
    generator : torch.Generator
        Source of the initial weights.

    Raises
    ------
    ValueError
        If `channels` or `kernel_size` are not as above.

    References
    ----------
    Chi et al. (2023), Diffusion Policy, section III-A.
    Janner et al. (2022), Planning with Diffusion for Flexible Behavior Synthesis.
    """

    def __init__(
        self,
        action_dim: int,
        condition_dim: int,
        *,
        channels: tuple[int, ...] = PUBLISHED,
        kernel_size: int = 5,
        groups: int = 8,
        time_dim: int = 256,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if not channels or any(count % groups for count in channels):
            raise ValueError(f"channels are {channels}; expected multiples of {groups} groups")
        if kernel_size % 2 == 0:
            raise ValueError(f"the kernel has {kernel_size} frames; expected an odd number")
        self.time_dim = time_dim
        level = partial(
            Level, context_dim=time_dim + condition_dim, kernel_size=kernel_size, groups=groups
        )
        steps = list(pairwise((action_dim, *channels)))
        upwards = steps[:0:-1]
        with torch.device("meta"):  # else PyTorch draws weights from its global generator
            self.time = nn.Sequential(
                nn.Linear(time_dim, 4 * time_dim), nn.Mish(), nn.Linear(4 * time_dim, time_dim)
            )
            self.down = nn.ModuleList(level(a, b) for a, b in steps)
            self.coarsen = nn.ModuleList(
                nn.Conv1d(a, a, 3, stride=2, padding=1) for a, _ in steps[1:]
            )
            self.middle = level(channels[-1], channels[-1])
            self.up = nn.ModuleList(level(2 * b, a) for a, b in upwards)
            self.refine = nn.ModuleList(
                nn.ConvTranspose1d(a, a, 4, stride=2, padding=1) for a, _ in upwards
            )
            self.last = ConvBlock(channels[0], channels[0], kernel_size, groups)
            self.outlet = nn.Conv1d(channels[0], action_dim, 1)
        seed_weights(self, self.outlet, generator=generator)

    def forward(
        self,
        x: Float32[Tensor, "row horizon action"],
        time: Float32[Tensor, " row"],
        condition: Float32[Tensor, "row condition"],
    ) -> Float[Tensor, "row horizon action"]:
        """Give the network's output.

        Parameters
        ----------
        x : Tensor, float32, shape (row, horizon, action_dim)
            Noised windows.
        time : Tensor, float32, shape (row,)
            Noise levels as times in [0, 100).
        condition : Tensor, float32, shape (row, condition_dim)
            What is known of each window.

        Raises
        ------
        ValueError
            If the horizon cannot be halved that often.
        """
        multiple = 2 ** len(self.coarsen)
        if x.shape[1] % multiple:
            raise ValueError(
                f"the horizon is {x.shape[1]} frames; this U-Net takes multiples of {multiple}"
            )
        embedding = self.time(embed_time(time, self.time_dim))
        context = F.mish(torch.cat([embedding, condition], dim=1))
        hidden, kept = x.mT, []
        for depth, level in enumerate(self.down):
            if depth > 0:
                hidden = self.coarsen[depth - 1](hidden)
            hidden = level(hidden, context)
            kept.append(hidden)
        hidden = self.middle(hidden, context)
        for level, refine in zip(self.up, self.refine, strict=True):
            hidden = refine(level(torch.cat([hidden, kept.pop()], dim=1), context))
        return self.outlet(self.last(hidden)).mT


class Level(nn.Module):
    """Two residual blocks; the first brings the channels to their new number.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    context_dim : int
        Length of what FiLM sees.
    kernel_size, groups : int
        Of each convolution and its norm.
    """

    def __init__(
        self, inputs: int, outputs: int, context_dim: int, kernel_size: int, groups: int
    ) -> None:
        super().__init__()
        self.first = ResidualBlock(inputs, outputs, context_dim, kernel_size, groups)
        self.second = ResidualBlock(outputs, outputs, context_dim, kernel_size, groups)

    def forward(
        self, hidden: Float[Tensor, "row input frame"], context: Float[Tensor, "row context"]
    ) -> Float[Tensor, "row output frame"]:
        """Give the features."""
        return self.second(self.first(hidden, context), context)


class ResidualBlock(nn.Module):
    """Two convolutions with FiLM between them, added to what enters.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    context_dim : int
        Length of what FiLM sees.
    kernel_size, groups : int
        Of each convolution and its norm.
    """

    def __init__(
        self, inputs: int, outputs: int, context_dim: int, kernel_size: int, groups: int
    ) -> None:
        super().__init__()
        self.before = ConvBlock(inputs, outputs, kernel_size, groups)
        self.film = nn.Linear(context_dim, 2 * outputs)
        self.after = ConvBlock(outputs, outputs, kernel_size, groups)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)

    def forward(
        self, hidden: Float[Tensor, "row input frame"], context: Float[Tensor, "row context"]
    ) -> Float[Tensor, "row output frame"]:
        """Give the sum."""
        change = modulate(self.before(hidden), self.film(context)[:, :, None])
        return self.after(change) + self.skip(hidden)


class ConvBlock(nn.Module):
    """Convolution, group norm and Mish; as many frames leave as enter.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    kernel_size : int
        Frames that the convolution sees, odd.
    groups : int
        Of the norm.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel_size, padding=kernel_size // 2)
        self.norm = nn.GroupNorm(groups, outputs)

    def forward(
        self, hidden: Float[Tensor, "row input frame"]
    ) -> Float[Tensor, "row output frame"]:
        """Give the features."""
        return F.mish(self.norm(self.conv(hidden)))
