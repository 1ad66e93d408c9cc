"""The policy: LeRobot's network, sampling and rollouts; only the draw of noise levels differs."""

import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionModel, DiffusionPolicy
from lerobot.utils.constants import ACTION
from torch import Tensor

from lerobot_policy_ambient_diffusion.annotation import Annotation
from lerobot_policy_ambient_diffusion.configuration_ambient_diffusion import (
    AmbientDiffusionConfig,
)


class AmbientDiffusionModel(DiffusionModel):
    """Draws the noise level of every window among those that its annotation admits."""

    annotation: Annotation | None = None

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Squared error of every window times its share of the levels, shape (window,).

        Its mean is LeRobot's loss where everything may be used: with ``do_mask_loss_for_padding``
        too, which divides by the frames that are no padding.
        """
        self.annotation = self.annotation or Annotation(self.config)
        drawn = self.annotation.draw(batch, self.config.schedule)
        clean = batch[ACTION]
        noise = torch.randn_like(clean)
        noised = self.noise_scheduler.add_noise(clean, noise, drawn.time)
        condition = self._prepare_global_conditioning(batch)
        output = self.unet(noised, drawn.time, global_cond=condition)
        target = noise if self.config.prediction_type == "epsilon" else clean
        error = (output - target).square().mean(dim=2)
        if not self.config.do_mask_loss_for_padding:
            return error.mean(dim=1) * drawn.weight
        inside = ~batch["action_is_pad"]
        frames = inside.sum().clamp(min=1) / len(inside)  # of a window, on average
        return (error * inside).sum(dim=1) / frames * drawn.weight


class AmbientDiffusionPolicy(DiffusionPolicy):
    """LeRobot's Diffusion Policy with `AmbientDiffusionModel`."""

    config_class = AmbientDiffusionConfig
    name = "ambient_diffusion"

    def __init__(self, config: AmbientDiffusionConfig, **kwargs) -> None:
        super().__init__(config, **kwargs)
        self.diffusion.__class__ = AmbientDiffusionModel  # the same network and weights

    def forward(self, batch: dict[str, Tensor], reduction: str = "mean") -> tuple[Tensor, None]:
        """Give the loss, or with ``reduction="none"``, which weights of samples need, every one."""
        each, nothing = super().forward(batch)
        return (each if reduction == "none" else each.mean()), nothing
