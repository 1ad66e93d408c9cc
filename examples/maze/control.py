"""The linear control: what a fixed filter gives, which learns nothing."""

import torch
from torch import Tensor

from ambient_curate.policy.denoiser import Denoiser


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
        super().__init__(denoiser.backbone, denoiser.prediction, denoiser.sigma, denoiser.modes)
        if clean.modes is None:
            raise ValueError("the clean policy has no preconditioning to take the filter from")
        self.clean = clean.modes

    def estimate_x0(self, x_t: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """Predict the windows."""
        if int(level.max()) > 0:
            return super().estimate_x0(x_t, level, condition)
        nothing = torch.zeros_like(x_t)
        return self.clean.estimate_x0(nothing, x_t, self.sigma[level], level)
