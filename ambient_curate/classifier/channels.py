"""Channels: noise levels, or crop sizes, through which a classifier sees a window."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor, nn

from ambient_curate.classifier.crop_network import SPAN, CropNetwork, radius_levels, step_between
from ambient_curate.classifier.local_ratios import LocalRatios
from ambient_curate.classifier.networks import Sizes, WindowNetwork
from ambient_curate.classifier.samples import Sample, covariance, noise_scales
from ambient_curate.classifier.temporal_mixtures import MixtureRatio
from ambient_curate.noise import log_snr
from ambient_curate.statistics.sigma_min import sparse_levels

HIGHEST_VE = 20.0  # VE noise above which no level is drawn in training: nothing is left to see
WORTH = 4  # independent pieces of motion that an episode counts for, in the laws of crops
RIDGE = 1e-6  # of the mean variance, so that laws have a density
NETWORK, MIXTURE, LOCAL, CHAIN, CROP = "network", "mixture", "local", "chain", "crop"


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
    blur : callable
        Noises flattened windows, ``(windows, noise, log_snr)`` of shapes (#level, row, dim) twice
        and (level,), to (level, row, dim).
    build : callable
        Makes the members from training and held-out windows and a generator: networks as yet
        untrained, others fitted.
    empty : callable
        Makes a member by name, to be filled with what was stored.
    names : mapping of str to int
        The members' names, in order, with how many estimates each gives.
    """

    levels: Float64[np.ndarray, " level"]
    range: tuple[float, float]
    anchored: bool
    blur: Callable[[Tensor, Tensor, Tensor], Tensor]
    build: Callable[[Sample, Sample, torch.Generator], nn.ModuleDict]
    empty: Callable[[str], nn.Module]
    names: Mapping[str, int]


def noise_channel(sigma: Float64[np.ndarray, " grid"], sizes: Sizes) -> Channel:
    """Windows under more and more noise: what sigma_min is read from.

    Parameters
    ----------
    sigma : ndarray, float64, shape (grid,)
        A grid; the classifier is read at its `sigma_min.sparse_levels`.
    sizes : Sizes
        Of a window.
    """
    levels = sigma[sparse_levels(sigma.size)]
    snr = torch.from_numpy(log_snr(levels)).float()
    span = -2.0 * float(np.log(HIGHEST_VE)), float(log_snr(levels[0]))

    def empty(name: str) -> nn.Module:
        made: dict[str, Callable[[], nn.Module]] = {
            NETWORK: lambda: WindowNetwork(sizes, span, generator=torch.Generator()),
            MIXTURE: lambda: MixtureRatio(sizes.horizon, sizes.action),
            LOCAL: lambda: LocalRatios(sizes.horizon, sizes.action, levels.size),
            CHAIN: lambda: LocalRatios(sizes.horizon, sizes.action, levels.size, chains=True),
        }
        return made[name]()

    def build(seen: Sample, unseen: Sample, generator: torch.Generator) -> nn.ModuleDict:
        network = WindowNetwork(sizes, span, generator=generator)
        network.learn_scales(seen, unseen)
        mixture = MixtureRatio(sizes.horizon, sizes.action).fit(seen, unseen, span[1], generator)
        made: dict[str, nn.Module] = {NETWORK: network, MIXTURE: mixture}
        for name, chains in ((LOCAL, False), (CHAIN, True)):
            local = LocalRatios(sizes.horizon, sizes.action, levels.size, chains=chains)
            made[name] = local.fit(seen, unseen, snr, generator)
        return nn.ModuleDict(made)

    def blur(windows: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return add_noise(windows, noise, level, moved=sizes.moved)

    names = {NETWORK: 2, MIXTURE: 1, LOCAL: 1, CHAIN: 1}
    return Channel(levels, span, sizes.condition_dim == 0, blur, build, empty, names)


def add_noise(
    windows: Float32[Tensor, "#level row dim"],
    noise: Float32[Tensor, "#level row dim"],
    log_snr: Float32[Tensor, " level"],
    *,
    moved: int,
) -> Float32[Tensor, "level row dim"]:
    """Return ``a x + sigma z``, rows at their level; coordinates from `moved` on stay."""
    signal, spread = noise_scales(log_snr[:, None, None])
    if moved == windows.shape[-1]:
        return signal * windows + spread * noise
    hidden = torch.arange(windows.shape[-1], device=windows.device) < moved
    return torch.where(hidden, signal * windows + spread * noise, windows.expand_as(noise))


def crop_channel(horizon: int, sigma: float, *, dim: int) -> Channel:
    """Smaller and smaller crops at the trainer's lowest noise: what sigma_max is read from.

    Parameters
    ----------
    horizon : int
        Frames in a window, >= 2.
    sigma : float
        The lowest level of the trainer.
    dim : int
        Length of a flattened window.
    """
    half = (SPAN + step_between(horizon)) / 2  # every radius is drawn as often

    def empty(name: str) -> nn.Module:
        laws = torch.zeros(2, dim), torch.zeros(2, dim, dim)
        return CropNetwork(*laws, horizon, sigma, generator=torch.Generator())

    def build(seen: Sample, unseen: Sample, generator: torch.Generator) -> nn.ModuleDict:
        network = CropNetwork(*_fit_laws(seen), horizon, sigma, generator=generator)
        return nn.ModuleDict({CROP: network})

    def blur(windows: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return (1.0 - sigma**2) ** 0.5 * windows + sigma * noise

    return Channel(radius_levels(horizon), (-half, half), False, blur, build, empty, {CROP: 2})


def _fit_laws(seen: Sample) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the clean and of the corrupt windows, shrunk to the clean ones.

    Few episodes differ from few others by chance: the corrupt set keeps ``n / (n + dim)`` of its
    difference, n being `WORTH` pieces an episode.
    """
    clean, corrupt = seen.clean.double(), seen.corrupt.double()
    mean, spread = clean.mean(dim=0), covariance(clean)
    ridge = RIDGE * spread.diagonal().mean() * torch.eye(len(mean), dtype=torch.float64)
    pieces = WORTH * len(torch.unique(seen.corrupt_episode))
    share = pieces / (pieces + len(mean))
    means = torch.stack([mean, mean + share * (corrupt.mean(dim=0) - mean)])
    laws = torch.stack([spread, torch.lerp(spread, covariance(corrupt), share)]) + ridge
    return means.float(), laws.float()
