"""Bounded samples of windows that a pair is fitted on, and the basis they are seen in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ambient_curate.arms import Arm
from ambient_curate.windows import pick_windows

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
    clean: Arm,
    corrupt: Arm,
    folds: Sequence[int],
    count: int,
    rng: np.random.Generator,
    *,
    by_window: bool = False,
) -> Sample:
    """Draw `count` windows of either class of a pair: an episode uniformly, then a window of it.

    Parameters
    ----------
    clean, corrupt : Arm
        Each with an episode in `folds`; of the clean set only the opponents of `corrupt`.
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
    for arm in (clean.facing(corrupt), corrupt):
        episodes = arm.in_folds(folds)
        episode, number = pick_windows(
            episodes, arm.windows.counts[episodes], count, rng, by_window=by_window
        )
        drawn.append((arm.gather(episode, number).flatten(1), torch.from_numpy(episode)))
    (p, p_episode), (q, q_episode) = drawn
    return Sample(p, q, p_episode, q_episode)


def find_basis(seen: Sample, unseen: Sample, *, told: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Find the eigenbasis of the windows and the clean set's variance along it.

    The basis is that of the clean set where it varies, and of the corrupt set where it does not
    (`CORRUPT_SHARE`, METHOD.md section 8), which may not count for more than the clean one. The
    variances are the larger of training and held-out clean windows: where few episodes leave a
    direction too narrow, held-out ones show it. The last `told` coordinates stay as they are.

    Returns
    -------
    tuple of Tensor
        Mean (dim,), basis (dim, dim) and variance (dim,) of a `networks.WindowNetwork`.
    """
    clean = seen.clean.double()
    centre, moved = clean.mean(dim=0), clean.shape[1] - told
    own, other = (covariance(x[:, :moved].double()) for x in (clean, seen.corrupt))
    scale = torch.clamp(torch.trace(own) / torch.trace(other).clamp_min(1e-12), max=1.0)
    _, columns = torch.linalg.eigh(own + CORRUPT_SHARE * scale * other)
    columns = _beside(columns, told)
    spreads = [
        ((part.double() - centre) @ columns).square().mean(dim=0)
        for part in (seen.clean, unseen.clean)
    ]
    variance = torch.maximum(*spreads)
    order = torch.cat([torch.argsort(variance[:moved]), torch.arange(moved, len(variance))])
    return centre.float(), columns[:, order].float(), variance[order].float()


def _beside(columns: Tensor, told: int) -> Tensor:
    """Let the last coordinates be themselves."""
    moved = len(columns)
    basis = torch.eye(moved + told, dtype=columns.dtype)
    basis[:moved, :moved] = columns
    return basis


def covariance(rows: Tensor) -> Tensor:
    """Covariance (dim, dim) of rows (n, dim), also where dim is 1."""
    return torch.cov(rows.T).reshape(rows.shape[1], rows.shape[1])
