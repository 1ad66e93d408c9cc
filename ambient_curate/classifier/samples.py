"""Samples of windows that a pair is fitted on: their basis, and how their moments differ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from ambient_curate.data.populations import Population
from ambient_curate.data.windows import pick_windows

CORRUPT_SHARE = 0.1  # weight of the corrupt set's covariance beside the clean set's


@dataclass(frozen=True, eq=False)
class Sample:
    """Flattened windows of a set of folds, of one pair.

    Parameters
    ----------
    clean, corrupt : Tensor, float32, shape (clean, dim) and (corrupt, dim)
        Windows of either class.
    clean_episode, corrupt_episode : Tensor, int64, shape (clean,) and (corrupt,)
        Episode of each, in its member.
    """

    clean: Float32[Tensor, "clean dim"]
    corrupt: Float32[Tensor, "corrupt dim"]
    clean_episode: Int64[Tensor, " clean"]
    corrupt_episode: Int64[Tensor, " corrupt"]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Sample":
        """Apply `function` to the windows of both classes."""
        return replace(self, clean=function(self.clean), corrupt=function(self.corrupt))


def draw_sample(
    clean: Population,
    corrupt: Population,
    folds: Sequence[int],
    count: int,
    rng: np.random.Generator,
    *,
    by_window: bool = False,
) -> Sample:
    """Draw `count` windows of either class of a pair: an episode uniformly, then a window of it.

    Parameters
    ----------
    clean, corrupt : Population
        Each with an episode in `folds`; of the clean set only those
        that `corrupt` is compared with.
    folds : sequence of int
        Folds to draw from.
    count : int
        Windows of a class.
    rng : Generator
        Source of the draw.
    by_window : bool
        Every window counts the same, instead of every episode.
    """
    drawn = []
    for population in (clean.compared_with(corrupt), corrupt):
        episodes = population.in_folds(folds)
        episode, number = pick_windows(
            episodes, population.windows.counts[episodes], count, rng, by_window=by_window
        )
        drawn.append((population.gather(episode, number).flatten(1), torch.from_numpy(episode)))
    (p, p_episode), (q, q_episode) = drawn
    return Sample(p, q, p_episode, q_episode)


def find_basis(
    seen: Sample, unseen: Sample, *, condition_dim: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the eigenbasis of the windows and the clean set's variance along it.

    The basis is that of the clean set where it varies, and of the corrupt set where it does not
    (`CORRUPT_SHARE`, method.md section 8), which may not count for more than the clean one. The
    variances are the larger of training and held-out clean windows: where few episodes leave a
    direction too narrow, held-out ones show it. The last `condition_dim` coordinates stay as they
    are.

    Returns
    -------
    tuple of Tensor
        Mean (dim,), basis (dim, dim) and variance (dim,) of a `networks.WindowNetwork`.
    """
    clean = seen.clean.double()
    centre, moved = clean.mean(dim=0), clean.shape[1] - condition_dim
    own, other = (covariance(x[:, :moved].double()) for x in (clean, seen.corrupt))
    scale = torch.clamp(torch.trace(own) / torch.trace(other).clamp_min(1e-12), max=1.0)
    _, columns = torch.linalg.eigh(own + CORRUPT_SHARE * scale * other)
    columns = _beside(columns, condition_dim)
    spreads = [
        ((part.double() - centre) @ columns).square().mean(dim=0)
        for part in (seen.clean, unseen.clean)
    ]
    variance = torch.maximum(*spreads)
    order = torch.cat([torch.argsort(variance[:moved]), torch.arange(moved, len(variance))])
    return centre.float(), columns[:, order].float(), variance[order].float()


def _beside(columns: Tensor, condition_dim: int) -> Tensor:
    """Let the last coordinates be themselves."""
    moved = len(columns)
    basis = torch.eye(moved + condition_dim, dtype=columns.dtype)
    basis[:moved, :moved] = columns
    return basis


def split_frames(
    windows: Float32[Tensor, "*batch dim"], horizon: int, action: int
) -> Float32[Tensor, "*batch horizon action"]:
    """Frames of flattened windows; values behind them are left out."""
    return windows[..., : horizon * action].reshape(*windows.shape[:-1], horizon, action)


def noise_scales(
    log_snr: Float32[Tensor, "*level"],
) -> tuple[Float32[Tensor, "*level"], Float32[Tensor, "*level"]]:
    """Scales a and sigma of ``a x + sigma z``, a^2 + sigma^2 = 1, at a log-SNR.

    Both are roots of sigmoids: 1 - a^2 has no digits left at low noise.
    """
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def covariance(rows: Tensor) -> Tensor:
    """Covariance (dim, dim) of rows (n, dim), also where dim is 1."""
    return torch.cov(rows.T).reshape(rows.shape[1], rows.shape[1])


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
    episodes* (James and Stein 1961; block by block, Cai 1999). method.md section 8.

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
