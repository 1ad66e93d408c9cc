"""Channels: what a classifier learns to look through, less being shown from level to level."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from ambient_curate.contrasts import find_contrast
from ambient_curate.crops import SPAN, CropClassifier, radius_levels, step_between
from ambient_curate.networks import NoiseClassifier, RatioNetwork
from ambient_curate.noise import log_snr
from ambient_curate.samples import Sample, find_basis

HIGHEST_VE = 20.0  # VE noise above which no level is drawn in training: nothing is left to see
WORTH = 4  # independent pieces of motion that an episode counts for, in the laws of crops
RIDGE = 1e-6  # of the mean variance, so that laws have a density
CONSTANT = 1e-6  # variance of what is told that passes for none


@dataclass(frozen=True, eq=False)
class Channel:
    """Levels at which a classifier is read, and what it is built of.

    Parameters
    ----------
    levels : ndarray, float64, shape (level,)
        Rising, in (0, 1).
    range : tuple of float
        Lowest and highest log-SNR that training draws.
    anchored : bool
        Whether nothing is left to see at the highest level.
    build : callable
        Makes the untrained network from training and held-out windows and a generator.
    """

    levels: Float64[np.ndarray, " level"]
    range: tuple[float, float]
    anchored: bool
    build: Callable[[Sample, Sample, torch.Generator], RatioNetwork]


def noise_channel(sigma: Float64[np.ndarray, " level"], *, told: int = 0) -> Channel:
    """Windows under more and more noise: what sigma_min is read from.

    Parameters
    ----------
    sigma : ndarray, float64, shape (level,)
        The levels.
    told : int
        Values at the end of a window that no noise hides.
    """
    span = -2.0 * float(np.log(HIGHEST_VE)), float(log_snr(sigma[0]))

    def build(seen: Sample, unseen: Sample, generator: torch.Generator) -> RatioNetwork:
        mean, basis, variance = find_basis(seen, unseen, told=told)
        variance[len(variance) - told :].clamp_(min=CONSTANT)
        inside = seen.map(lambda x: (x - mean) @ basis)
        contrast = find_contrast(inside, variance)
        return NoiseClassifier(
            mean, basis, variance, contrast, span, generator=generator, told=told
        )

    return Channel(sigma, span, told == 0, build)


def crop_channel(horizon: int, sigma: float) -> Channel:
    """Smaller and smaller crops at the trainer's lowest noise: what sigma_max is read from.

    Parameters
    ----------
    horizon : int
        Frames in a window, >= 2.
    sigma : float
        The lowest level of the trainer.
    """
    half = (SPAN + step_between(horizon)) / 2  # every radius is drawn as often

    def build(seen: Sample, unseen: Sample, generator: torch.Generator) -> RatioNetwork:
        laws = _fit_laws(seen)
        return CropClassifier(*laws, horizon, sigma, generator=generator)

    return Channel(radius_levels(horizon), (-half, half), False, build)


def _fit_laws(seen: Sample) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the clean windows and of every arm, shrunk to the clean ones.

    Few episodes differ from few others by chance: an arm keeps ``n / (n + dim)`` of its difference,
    n being `WORTH` pieces an episode.
    """
    clean = seen.clean.double()
    mean, spread = clean.mean(dim=0), _covariance(clean)
    ridge = RIDGE * spread.diagonal().mean() * torch.eye(len(mean), dtype=torch.float64)
    means, covariances = [mean], [spread + ridge]
    for head in range(seen.weight.shape[1]):
        mine = seen.head == head
        rows = seen.corrupt[mine].double()
        pieces = WORTH * len(torch.unique(seen.corrupt_episode[mine]))
        share = pieces / (pieces + len(mean))
        means.append(mean + share * (rows.mean(dim=0) - mean))
        covariances.append(torch.lerp(spread, _covariance(rows), share) + ridge)
    return torch.stack(means).float(), torch.stack(covariances).float()


def _covariance(rows: Tensor) -> Tensor:
    return torch.cov(rows.T).reshape(rows.shape[1], rows.shape[1])
