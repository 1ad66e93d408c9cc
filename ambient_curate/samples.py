"""Bounded samples of windows that a network is fitted on, and the basis they are seen in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ambient_curate.arms import Arm
from ambient_curate.windows import draw_windows

CORRUPT_SHARE = 0.1  # weight of the corrupt arms' covariance beside the clean set's
FEWEST = 256  # windows of an arm, however many arms share the sample


@dataclass(frozen=True, eq=False)
class Sample:
    """Flattened windows of a set of folds.

    Parameters
    ----------
    clean : Tensor, float32, shape (clean, dim)
        Clean windows.
    weight : Tensor, float32, shape (clean, head)
        How much each counts in every head, 1 on average.
    corrupt : Tensor, float32, shape (corrupt, dim)
        Corrupt windows of all arms, equally many of each.
    head : Tensor, int64, shape (corrupt,)
        Arm of each, from 0.
    clean_episode : Tensor, int64, shape (clean,)
        Episode of each clean window, in its member.
    corrupt_episode : Tensor, int64, shape (corrupt,)
        Episode of each corrupt window, in its member.
    """

    clean: Float32[Tensor, "clean dim"]
    weight: Float32[Tensor, "clean head"]
    corrupt: Float32[Tensor, "corrupt dim"]
    head: Int64[Tensor, " corrupt"]
    clean_episode: Int64[Tensor, " clean"]
    corrupt_episode: Int64[Tensor, " corrupt"]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Sample":
        """Apply `function` to the windows of both classes."""
        return replace(self, clean=function(self.clean), corrupt=function(self.corrupt))


def draw_sample(
    clean: Arm,
    corrupt: Sequence[Arm],
    folds: Sequence[int],
    count: int,
    rng: np.random.Generator,
    *,
    by_window: bool = False,
) -> Sample:
    """Draw half of `count` clean windows, and `count` corrupt ones shared among the arms.

    Parameters
    ----------
    clean, corrupt : Arm and sequence of Arm
        Each with an episode in `folds`.
    folds : sequence of int
        Folds to draw from.
    count : int
        Bound of the sample; an arm gives at least `FEWEST`.
    rng : Generator
        Source of the draw.
    by_window : bool
        Every window counts the same, instead of every episode.
    """
    each = max(FEWEST, count // len(corrupt))
    base, episode = draw_windows(
        clean.windows, clean.in_folds(folds).tolist(), count // 2, rng, by_window=by_window
    )
    parts, weights, episodes = [], [], []
    for arm in corrupt:
        windows, member = draw_windows(
            arm.windows, arm.in_folds(folds).tolist(), each, rng, by_window=by_window
        )
        parts.append(windows if arm.shift is None else windows + arm.shift)
        episodes.append(torch.from_numpy(member))
        admitted = (
            np.ones(episode.size)
            if arm.opponents is None
            else np.isin(episode, arm.opponents).astype(np.float64)
        )
        weights.append(torch.from_numpy(admitted / admitted.mean()).float())
    head = torch.arange(len(corrupt)).repeat_interleave(each)
    return Sample(
        base.flatten(1),
        torch.stack(weights, dim=1),
        torch.cat(parts).flatten(1),
        head,
        torch.from_numpy(episode),
        torch.cat(episodes),
    )


def find_basis(seen: Sample, unseen: Sample, *, told: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Find the eigenbasis of the windows and the clean set's variance along it.

    The basis is that of the clean set where it varies, and of the corrupt arms where it does not
    (`CORRUPT_SHARE`, METHOD.md section 8); no arm may count for more than the clean set. The
    variances are the larger of training and held-out clean windows: where few episodes leave a
    direction too narrow, held-out ones show it. The last `told` coordinates stay as they are.

    Returns
    -------
    tuple of Tensor
        Mean (dim,), basis (dim, dim) and variance (dim,) of a `NoiseClassifier`.
    """
    clean = seen.clean.double()
    centre, moved = clean.mean(dim=0), clean.shape[1] - told
    pooled = _covariance(clean[:, :moved])
    size = torch.trace(pooled)
    heads = seen.weight.shape[1]
    mixed = torch.zeros_like(pooled)
    for head in range(heads):
        part = _covariance(seen.corrupt[seen.head == head, :moved].double())
        mixed += part * torch.clamp(size / torch.trace(part).clamp_min(1e-12), max=1.0)
    _, columns = torch.linalg.eigh(pooled + CORRUPT_SHARE * mixed / heads)
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


def _covariance(rows: Tensor) -> Tensor:
    return torch.cov(rows.T).reshape(rows.shape[1], rows.shape[1])
