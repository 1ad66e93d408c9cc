"""The denoiser: a network, what its output predicts, and the noise levels of its training."""

from dataclasses import dataclass
from typing import cast, get_args

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from ambient_curate.errors import ConfigError
from ambient_curate.policy.losses import Noised, estimate_x0, find_target
from ambient_curate.policy.losses import Prediction as PlainPrediction
from ambient_curate.policy.networks import (
    PUBLISHED,
    SMALL,
    ConditionalUnet1d,
    ResidualMlp,
    embed_condition,
)
from ambient_curate.policy.options import Network, Prediction
from ambient_curate.policy.preconditioning import PerMode

TIMES = 100.0  # a network is given the level as a time in [0, 100), whatever their number


@dataclass(frozen=True)
class Shape:
    """Sizes from which a denoiser is built anew before its weights are read.

    Parameters
    ----------
    network, prediction : str
        As in `PolicyOptions`.
    horizon, action_dim, condition_dim, levels : int
        Frames and dimensions of a window, length of a condition, noise levels.
    bands : int
        Of the preconditioning; 0: there is none.
    octaves : int
        As in `PolicyOptions`.
    motion_dim : int
        Of the motion that the preconditioning knows, which the network is given too.
    """

    network: Network
    prediction: Prediction
    horizon: int
    action_dim: int
    condition_dim: int
    levels: int
    bands: int
    octaves: int
    motion_dim: int


class Denoiser(nn.Module):
    """Predicts the window under a noised one, ``x_t = sqrt(1 - sigma^2) x_0 + sigma z``.

    Parameters
    ----------
    backbone : Module
        Takes noised windows, times (row,) and conditions (row, condition); gives windows.
    prediction : str
        What its output stands for; with ``wiener`` there are `modes`.
    sigma : Tensor, float32, shape (level,)
        Rising noise levels in (0, 1].
    modes : PerMode or None
        The preconditioning.
    octaves : int
        At which the network is given the condition, see `embed_condition`.
    """

    sigma: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        prediction: Prediction,
        sigma: Float32[Tensor, " level"],
        modes: PerMode | None,
        octaves: int = 0,
    ) -> None:
        super().__init__()
        if prediction not in get_args(Prediction):
            raise ValueError(f"prediction {prediction!r} is none of {get_args(Prediction)}")
        if (prediction == "wiener") != (modes is not None):
            raise ValueError("the wiener prediction, and no other, has modes")
        self.backbone, self.prediction, self.modes = backbone, prediction, modes
        self.octaves = octaves
        self.register_buffer("sigma", sigma)

    def forward(
        self,
        x_t: Float32[Tensor, "row horizon action"],
        level: Int64[Tensor, " row"],
        condition: Float32[Tensor, "row condition"],
    ) -> Tensor:
        """Give the network's output, in the units of the prediction."""
        time = level.float() * (TIMES / self.sigma.shape[0])
        embedded = embed_condition(condition, self.octaves)
        if self.modes is not None:
            motion = self.modes.see_motion(condition, x_t.shape[2])
            x_t = self.modes.whiten(x_t, self.sigma[level], level, motion)
            embedded = torch.cat([embedded, motion], dim=1)
        return self.backbone(x_t, time, embedded)

    def errors(
        self,
        output: Float32[Tensor, "row horizon action"],
        noised: Noised,
        level: Int64[Tensor, " row"],
        condition: Float32[Tensor, "row condition"],
        added: Float32[Tensor, " row"] | None = None,
    ) -> Float32[Tensor, " row"]:
        """Mean squared error of outputs, in the units of the prediction.

        With `added`, of which `PerMode.temper` speaks, the ambient loss is meant.
        """
        sigma = self.sigma[level]
        if self.modes is not None:
            motion = self.modes.see_motion(condition, noised.x_t.shape[2])
            target = self.modes.find_target(noised.x0, noised.x_t, sigma, level, motion)
            error = output - target
            if added is not None:
                error = self.modes.temper(error, sigma, level, added)
        else:
            error = output - find_target(self._plain, noised, sigma)
        return error.square().mean(dim=(1, 2))

    def estimate_x0(
        self,
        x_t: Float32[Tensor, "row horizon action"],
        level: Int64[Tensor, " row"],
        condition: Float32[Tensor, "row condition"],
    ) -> Float32[Tensor, "row horizon action"]:
        """Predict the windows."""
        output, sigma = self(x_t, level, condition).float(), self.sigma[level]
        if self.modes is not None:
            motion = self.modes.see_motion(condition, x_t.shape[2])
            return self.modes.estimate_x0(output, x_t, sigma, level, motion)
        return estimate_x0(self._plain, output, x_t, sigma)

    @property
    def _plain(self) -> PlainPrediction:
        return cast(PlainPrediction, self.prediction)


def build_denoiser(
    shape: Shape,
    sigma: Float32[Tensor, " level"],
    modes: PerMode | None,
    *,
    generator: torch.Generator,
) -> Denoiser:
    """Build a denoiser with weights from `generator`.

    Raises
    ------
    ConfigError
        If the network takes no such windows, or the prediction says nothing at a level.
    """
    if shape.prediction == "epsilon" and bool((sigma >= 1.0).any()):
        raise ConfigError(
            "the noise of pure noise, the highest level of the schedule, tells no window",
            "use another prediction than epsilon, such as wiener or v",
        )
    condition_dim = shape.condition_dim * (1 + 2 * shape.octaves) + shape.motion_dim
    backbone: nn.Module
    if shape.network == "mlp":
        backbone = ResidualMlp(shape.horizon, shape.action_dim, condition_dim, generator=generator)
    else:
        channels = {"unet": PUBLISHED, "unet-small": SMALL}[shape.network]
        if shape.horizon % (multiple := 2 ** (len(channels) - 1)):
            raise ConfigError(
                f"windows of {shape.horizon} frames do not suit {shape.network}: expected a "
                f"multiple of {multiple}",
                "use the mlp, or annotate with another --horizon",
            )
        backbone = ConditionalUnet1d(
            shape.action_dim, condition_dim, channels=channels, generator=generator
        )
    return Denoiser(backbone, shape.prediction, sigma, modes, shape.octaves)
