"""The policy: LeRobot's network, sampling and rollouts; only the draw of noise levels differs."""

import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionModel, DiffusionPolicy
from lerobot.utils.constants import ACTION
from torch import Tensor

from ambient_curate.integrations import FrameAnnotations, sample_time
from lerobot_policy_ambient_diffusion.configuration_ambient_diffusion import (
    AmbientDiffusionConfig,
)


class AmbientDiffusionModel(DiffusionModel):
    """Draws the noise level of every window among those that its annotation admits."""

    annotations: FrameAnnotations | None = None

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean squared error of the network, every window weighted by its share of the levels."""
        drawn = self.draw_steps(batch["index"])
        clean = batch[ACTION]
        noise = torch.randn_like(clean)
        noised = self.noise_scheduler.add_noise(clean, noise, drawn.time)
        condition = self._prepare_global_conditioning(batch)
        output = self.unet(noised, drawn.time, global_cond=condition)
        target = noise if self.config.prediction_type == "epsilon" else clean
        error = (output - target).square()
        if self.config.do_mask_loss_for_padding:
            error = error * ~batch["action_is_pad"].unsqueeze(-1)
        return (error.mean(dim=(1, 2)) * drawn.weight).mean()

    def draw_steps(self, index: Tensor):
        """Draw a step of the noise schedule for every frame, and its weight."""
        if self.annotations is None:
            paths = [path.strip() for path in self.config.annotations.split(",") if path.strip()]
            if not paths:
                raise ValueError("give --policy.annotations, the ambient.parquet of an export")
            self.annotations = FrameAnnotations(*paths)
        sigma_min, sigma_max, _ = self.annotations.of(index)
        return sample_time(sigma_min, sigma_max, self.config.schedule)


class AmbientDiffusionPolicy(DiffusionPolicy):
    """LeRobot's Diffusion Policy with `AmbientDiffusionModel`."""

    config_class = AmbientDiffusionConfig
    name = "ambient_diffusion"

    def __init__(self, config: AmbientDiffusionConfig, **kwargs) -> None:
        super().__init__(config, **kwargs)
        self.diffusion.__class__ = AmbientDiffusionModel  # the same network and weights
