"""The linear control: what a fixed filter gives, which learns nothing."""

import torch
from torch import Tensor, nn

from ambient_curate.policy.denoiser import Denoiser


class Silent(nn.Module):
    """A network that has nothing to add to the filter's prediction."""

    def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Give zeros."""
        return torch.zeros_like(x)


class LinearLast(Denoiser):
    """A policy's denoiser whose last step, at the lowest noise, is the clean set's Wiener filter.

    Parameters
    ----------
    denoiser : Denoiser
        Of any policy.
    clean : Denoiser
        Of a policy of the clean set, with preconditioning.
    """

    def __init__(self, denoiser: Denoiser, clean: Denoiser) -> None:
        parts = (denoiser.backbone, denoiser.prediction, denoiser.sigma, denoiser.modes)
        super().__init__(*parts, denoiser.octaves)
        if clean.modes is None:
            raise ValueError("the clean policy has no preconditioning to take the filter from")
        self.filter = Denoiser(Silent(), clean.prediction, clean.sigma, clean.modes)

    def estimate_x0(self, x_t: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """Predict the windows."""
        if int(level.max()) > 0:
            return super().estimate_x0(x_t, level, condition)
        return self.filter.estimate_x0(x_t, level, condition)
