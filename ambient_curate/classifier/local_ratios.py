"""Local log-ratios: a logistic regression on log-ratios of one dimension, summed over frames.

Sparse and time-local differences (a held command, a gripper that toggles, one joint that jitters)
are sums of one-dimensional log-ratios, which few episodes are enough to estimate: of the marginals
of simple statistics, of stationary normal laws, and of Markov chains.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor, nn
from torch.nn import functional as F

from ambient_curate.classifier.calibration import spline_basis
from ambient_curate.classifier.local_laws import PARTS, Chains, LocalLaw, StationaryNormals, Tables
from ambient_curate.classifier.networks import saturate
from ambient_curate.classifier.samples import Sample, noise_scales, split_frames

MOST = 2_048  # windows of a class in all
BOUND = 10.0  # nats at which a log-ratio saturates
RIDGES = (3e-2, 3e-3)  # tried in turn; the held-out loss decides
STIFFNESS = (0.3, 1.0, 0.03)  # of the ridge: sums over dimensions, single ones, intercepts
KNOTS = 4  # of the splines in log-SNR
LEVELS_EACH = 2  # at which a window is noised, for the weights


class LocalRatios(nn.Module):
    """Log-odds of "clean" from local log-ratios, weighted by a logistic regression.

    Its tables are made at the levels of a lattice, at which alone it can be read.

    Parameters
    ----------
    horizon, action : int
        Shape of a window; values behind it are not looked at.
    levels : int
        Of the lattice.
    chains : bool
        Whether the log-ratios are those of Markov chains, or all others.
    """

    centre: Tensor
    snr: Tensor
    splines: Tensor
    weight: Tensor

    def __init__(self, horizon: int, action: int, levels: int, *, chains: bool = False) -> None:
        super().__init__()
        self.horizon, self.action = horizon, action
        self.register_buffer("centre", torch.zeros(action))
        self.register_buffer("snr", torch.zeros(levels))
        self.register_buffer("splines", torch.zeros(levels, KNOTS + 1))
        kinds: list[LocalLaw] = [Chains(action, levels)]
        if not chains:
            kinds = [Tables(horizon, action, levels), StationaryNormals(horizon, action, levels)]
        self.kinds = nn.ModuleList(kinds)
        sizes = [size for kind in kinds for size in kind.sizes]
        self.sizes = sizes
        self.ratios = len(sizes) + sum(sizes)
        self.register_buffer("weight", torch.zeros((self.ratios + 1) * (KNOTS + 1) - 2))

    def _kinds(self) -> list["LocalLaw"]:
        return [kind for kind in self.kinds if isinstance(kind, LocalLaw)]

    def fit(
        self,
        seen: Sample,
        unseen: Sample,
        log_snr: Float32[Tensor, " level"],
        generator: torch.Generator,
    ) -> "LocalRatios":
        """Estimate the log-ratios on training windows, then their weights.

        A weight is fitted on rows whose log-ratios are made without their own part of the
        episodes, so that none is rewarded for what it knows by heart.

        Parameters
        ----------
        seen, unseen : Sample
            Training and held-out windows; of several ridges that with the least loss on the
            latter is kept.
        log_snr : Tensor, float32, shape (level,)
            The lattice.
        generator : torch.Generator
            Source of the noise.
        """
        self.snr.copy_(log_snr)
        self.splines.copy_(_make_splines(log_snr))
        self.centre.copy_(self._frames(seen.clean).mean(dim=(0, 1)))
        frames = [self._centred(x[:MOST]) for x in (seen.clean, seen.corrupt)]
        episodes = [e[:MOST] for e in (seen.clean_episode, seen.corrupt_episode)]
        part = [torch.unique(e, return_inverse=True)[1] % PARTS for e in episodes]
        for kind in self._kinds():
            kind.fit(frames, part, log_snr, generator)
        held = [self._centred(x[: MOST // 2]) for x in (unseen.clean, unseen.corrupt)]
        whole = [torch.full((len(x),), PARTS) for x in held]
        rows = [
            self._noise(some, parts, generator) for some, parts in ((frames, part), (held, whole))
        ]
        self.weight.copy_(self._weigh(*rows))
        for kind in self._kinds():
            kind.keep_whole()
        return self

    def _weigh(self, seen: "_Rows", unseen: "_Rows") -> Float32[Tensor, " weight"]:
        splines, single, every = KNOTS + 1, sum(self.sizes), len(self.sizes)
        kinds = (every * splines, single * splines, splines - 2)
        stiffness = torch.cat(
            [torch.full((n,), s) for n, s in zip(kinds, STIFFNESS, strict=True)]
        ).double()
        best, weight = math.inf, torch.zeros(sum(kinds), dtype=torch.float64)
        found = weight
        for ridge in RIDGES:
            weight = _fit_logistic(seen, ridge * stiffness, weight)
            loss = _loss_of(unseen.features @ weight.float(), unseen.is_clean)
            if loss < best:
                best, found = loss, weight
        return found.float()

    def _noise(
        self, frames: Sequence[Tensor], part: Sequence[Tensor], generator: torch.Generator
    ) -> "_Rows":
        """Noise clean and corrupt windows at `LEVELS_EACH` levels each, and describe them."""
        features, is_clean = [], []
        for side, (rows, parts) in enumerate(zip(frames, part, strict=True)):
            for number in torch.unique(parts).tolist():
                described = self._describe(rows[parts == number], number, generator)
                features.append(described)
                is_clean.append(torch.full((len(described),), float(side == 0)))
        return _Rows(torch.cat(features), torch.cat(is_clean))

    def _describe(
        self, rows: Tensor, part: int, generator: torch.Generator
    ) -> Float32[Tensor, "row feature"]:
        """Log-ratios of noised rows, as many of them at every level, times splines in log-SNR."""
        levels = torch.arange(len(self.snr))
        count = -(-LEVELS_EACH * len(rows) // len(levels))
        order = torch.randperm(len(rows), generator=generator)
        index = order[torch.arange(count * len(levels)) % len(rows)].view(count, -1).T
        noise = torch.randn((*index.shape, *rows.shape[1:]), generator=generator)
        signal, spread = noise_scales(self.snr[:, None, None, None])
        ratios = self._read(signal * rows[index] + spread * noise, levels, part)
        splines = self.splines[:, None]
        weighted = (ratios[..., None] * splines[:, :, None]).flatten(2)
        return torch.cat([weighted, splines[..., 2:].expand(-1, count, -1)], dim=2).flatten(0, 1)

    def _read(
        self, frames: Float32[Tensor, "level row frame action"], levels: Tensor, part: int
    ) -> Float32[Tensor, "level row ratio"]:
        """Log-ratios, summed over the dimensions and each."""
        ratios = [ratio for kind in self._kinds() for ratio in kind(frames, levels, part)]
        each = [saturate(ratio, BOUND) for ratio in ratios]
        sums = [saturate(ratio.sum(dim=2, keepdim=True), BOUND) for ratio in each]
        return torch.cat([*sums, *each], dim=2)

    def forward(
        self, noised: Float32[Tensor, "level row dim"], log_snr: Float32[Tensor, " level"]
    ) -> Float32[Tensor, "level row 1"]:
        """Log-odds of noised windows at levels of the lattice; see `networks.PairNetwork`."""
        levels = (log_snr[:, None] - self.snr).abs().argmin(dim=1)
        splines = self.splines[levels]
        sizes = [self.ratios * splines.shape[1], splines.shape[1] - 2]
        heights, offset = torch.split(self.weight, sizes)
        weight = heights.view(self.ratios, -1) @ splines.T  # (ratio, level)
        start = noise_scales(self.snr[levels][:, None, None, None])[0] * self.centre
        ratios = self._read(self._frames(noised) - start, levels, -1)
        return ratios @ weight.T[..., None] + (splines[:, 2:] @ offset)[:, None, None]

    def _frames(self, windows: Tensor) -> Tensor:
        return split_frames(windows, self.horizon, self.action)

    def _centred(self, windows: Tensor) -> Tensor:
        return self._frames(windows) - self.centre


def _make_splines(log_snr: Float32[Tensor, " level"]) -> Float64[Tensor, "level spline"]:
    snr = log_snr.double().numpy()
    return torch.from_numpy(spline_basis(snr, np.linspace(snr.min(), snr.max(), KNOTS)))


class _Rows(NamedTuple):
    """What weights are fitted on."""

    features: Float32[Tensor, "row feature"]
    is_clean: Float32[Tensor, " row"]


def _fit_logistic(
    seen: _Rows, penalty: Float64[Tensor, " feature"], start: Float64[Tensor, " feature"]
) -> Float64[Tensor, " feature"]:
    """Balanced logistic regression without an intercept, with a ridge for every feature."""
    from scipy.optimize import minimize

    rows, weight, sign = seen.features, _balanced(seen.is_clean), 2.0 * seen.is_clean - 1.0
    ridge = penalty.numpy()

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (rows @ torch.from_numpy(w).float())
        pull = rows.T @ (-weight * sign * torch.sigmoid(-margin))
        value = float((weight * F.softplus(-margin)).double().sum())
        return value + 0.5 * float(ridge @ w**2), pull.double().numpy() + ridge * w

    found = minimize(loss, start.numpy(), jac=True, method="L-BFGS-B", options={"maxiter": 50})
    return torch.from_numpy(found.x)


def _balanced(y: Float32[Tensor, " n"]) -> Float32[Tensor, " n"]:
    return torch.where(y > 0.5, 0.5 / y.sum(), 0.5 / (1.0 - y).sum())


def _loss_of(logit: Tensor, y: Tensor) -> float:
    return float((_balanced(y) * F.softplus(torch.where(y > 0.5, -logit, logit))).sum())
