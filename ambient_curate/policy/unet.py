"""The 1-D convolutional U-Net of Diffusion Policy (Chi et al. 2023)."""

from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional as F

from ambient_curate.policy.features import embed_time, modulate, seed_weights

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
