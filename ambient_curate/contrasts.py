"""Contrasts: how a corrupt set's means and variances differ from clean ones, as far as is sure."""

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from ambient_curate.samples import Sample

BLOCK = 16  # neighbouring coordinates that are shrunk by one factor
CAUTION = 2.0  # squared standard errors taken off, on average over a block
FLOOR = 1e-8  # variance far below any noise in use


def find_contrast(
    seen: Sample, variance: Float32[Tensor, " dim"]
) -> tuple[Float32[Tensor, " dim"], Float32[Tensor, " dim"], Float32[Tensor, " dim"]]:
    """Estimate the first two moments of a pair, coordinate by coordinate, and shrink them.

    Few episodes differ from few others in every coordinate, by chance. A difference is therefore
    multiplied by ``1 - CAUTION / mean t^2`` (0 if that is negative), the mean taken over a block
    of neighbouring coordinates, ``t`` being the difference over its standard error *between
    episodes* (James and Stein 1961; block by block, Cai 1999). METHOD.md section 8.

    Parameters
    ----------
    seen : Sample
        Training windows in the network's coordinates.
    variance : Tensor, float32, shape (dim,)
        Clean variance along each coordinate, as the network has it.

    Returns
    -------
    tuple of Tensor, float32, shape (dim,)
        Means of the clean and of the corrupt set, and the corrupt set's variance.
    """
    p = _moments(seen.clean, seen.clean_episode)
    q = _moments(seen.corrupt, seen.corrupt_episode)
    middle = (p[0] + q[0]) / 2
    shift = _shrink(q[0] - p[0], p[1] + q[1])
    wider = _shrink(
        torch.log((q[2] + FLOOR) / (p[2] + FLOOR)),
        p[3] / (p[2] + FLOOR).square() + q[3] / (q[2] + FLOOR).square(),
    )
    spread = (variance.double() + FLOOR) * torch.exp(wider)
    return (middle - shift / 2).float(), (middle + shift / 2).float(), spread.float()


def _moments(
    rows: Float[Tensor, "n dim"], episode: Int64[Tensor, " n"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and variance of the coordinates, each followed by its squared standard error."""
    values = rows.double()
    _, member = torch.unique(episode, return_inverse=True)
    mean, error = _clustered_mean(values, member)
    variance, its_error = _clustered_mean((values - mean).square(), member)
    return mean, error, variance, its_error


def _clustered_mean(
    values: Float64[Tensor, "n dim"], member: Int64[Tensor, " n"]
) -> tuple[Float64[Tensor, " dim"], Float64[Tensor, " dim"]]:
    """Mean, and its squared standard error with episodes as the independent units."""
    mean = values.mean(dim=0)
    count = int(member.max()) + 1
    if count == 1:
        return mean, torch.full_like(mean, torch.inf)
    totals = torch.zeros(count, values.shape[1], dtype=torch.float64)
    totals.index_add_(0, member, (values - mean) / len(values))
    return mean, totals.square().sum(dim=0) * count / (count - 1)


def _shrink(
    difference: Float64[Tensor, " dim"], error: Float64[Tensor, " dim"]
) -> Float64[Tensor, " dim"]:
    """Shrink differences of squared standard error `error`, block by block."""
    certain = (difference != 0) & (error == 0)
    t_squared = torch.where(certain, torch.inf, difference.square() / error.clamp_min(1e-300))
    block = torch.arange(difference.numel()) // BLOCK
    sums = torch.zeros(int(block.max()) + 1, dtype=torch.float64).index_add_(0, block, t_squared)
    mean = sums / torch.bincount(block)
    return difference * (1.0 - CAUTION / mean).clamp_min(0.0)[block]
