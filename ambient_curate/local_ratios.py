"""Local log-ratios: sums over the frames of what one dimension tells at a time, through the noise.

Sparse and time-local differences (a held command, a gripper that toggles, one joint that jitters)
are sums of one-dimensional log-ratios, which few episodes are enough to estimate: of the marginals
of simple statistics, of stationary normal laws, and of Markov chains.
"""

import math

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ambient_curate.calibration import spline_basis
from ambient_curate.local_laws import PARTS, Chains, LocalLaw, StationaryNormals, Tables
from ambient_curate.networks import saturate
from ambient_curate.samples import Sample

MOST = 2_048  # windows of a class in all
BOUND = 10.0  # nats at which a log-ratio saturates
RIDGES = (3e-2, 3e-3)  # tried in turn; the held-out loss decides
STIFFNESS = (0.3, 1.0, 0.03)  # of the ridge: sums over dimensions, single ones, intercepts
KNOTS = 4  # of the splines in log-SNR


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
    weight: Tensor

    def __init__(self, horizon: int, action: int, levels: int, *, chains: bool = False) -> None:
        super().__init__()
        self.horizon, self.action = horizon, action
        self.register_buffer("centre", torch.zeros(action))
        self.register_buffer("snr", torch.zeros(levels))
        kinds: list[LocalLaw] = [Chains(action, levels)]
        if not chains:
            kinds = [Tables(horizon, action, levels), StationaryNormals(horizon, action, levels)]
        self.kinds = nn.ModuleList(kinds)
        sizes = [size for kind in kinds for size in kind.sizes]
        self.sizes = sizes
        count = len(sizes) + sum(sizes)
        self.register_buffer("weight", torch.zeros((count + 1) * (KNOTS + 1) - 2))

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
        self.centre.copy_(self._frames(seen.clean).mean(dim=(0, 1)))
        frames = [self._centred(x[:MOST]) for x in (seen.clean, seen.corrupt)]
        episodes = [e[:MOST] for e in (seen.clean_episode, seen.corrupt_episode)]
        part = [torch.unique(e, return_inverse=True)[1] % PARTS for e in episodes]
        for kind in self._kinds():
            kind.fit(frames, part, log_snr, generator)
        rows = self._noise(torch.cat(frames), torch.cat(part), log_snr, generator, repeats=2)
        y = torch.cat([torch.ones(len(frames[0])), torch.zeros(len(frames[1]))]).repeat(2)
        held = [self._centred(x[: MOST // 2]) for x in (unseen.clean, unseen.corrupt)]
        whole = torch.full((sum(map(len, held)),), PARTS)
        others = self._noise(torch.cat(held), whole, log_snr, generator, repeats=2)
        label = torch.cat([torch.ones(len(held[0])), torch.zeros(len(held[1]))]).repeat(2)
        self.weight.copy_(self._weigh((rows, y), (others, label)))
        for kind in self._kinds():
            kind.keep_whole()
        return self

    def _weigh(self, seen: tuple[Tensor, Tensor], unseen: tuple[Tensor, Tensor]) -> Tensor:
        splines, single, every = KNOTS + 1, sum(self.sizes), len(self.sizes)
        kinds = (every * splines, single * splines, splines - 2)
        stiffness = torch.cat(
            [torch.full((n,), s) for n, s in zip(kinds, STIFFNESS, strict=True)]
        ).double()
        best, weight = math.inf, torch.zeros(sum(kinds), dtype=torch.float64)
        found = weight
        for ridge in RIDGES:
            weight = _fit_logistic(*seen, ridge * stiffness, weight)
            loss = _loss_of(unseen[0] @ weight.float(), unseen[1])
            if loss < best:
                best, found = loss, weight
        return found

    def _noise(
        self,
        frames: Tensor,
        part: Tensor,
        log_snr: Tensor,
        generator: torch.Generator,
        *,
        repeats: int,
    ) -> Float32[Tensor, "row feature"]:
        """Features of windows noised at levels that are drawn for each."""
        frames, part = frames.repeat(repeats, 1, 1), part.repeat(repeats)
        level = torch.randint(len(log_snr), (len(frames),), generator=generator)
        snr = log_snr[level][:, None, None]
        noise = torch.randn(frames.shape, generator=generator)
        noised = torch.sigmoid(snr).sqrt() * frames + torch.sigmoid(-snr).sqrt() * noise
        return self._describe(noised, level, part)

    def _describe(
        self, frames: Tensor, level: Int64[Tensor, " row"], part: Int64[Tensor, " row"]
    ) -> Float32[Tensor, "row feature"]:
        """Log-ratios times splines in the log-SNR."""
        ratios, splines = self._read(frames, level, part), self._splines()[level]
        return torch.cat([(ratios[:, :, None] * splines[:, None]).flatten(1), splines[:, 2:]], 1)

    def _read(
        self, frames: Tensor, level: Int64[Tensor, " row"], part: Int64[Tensor, " row"]
    ) -> Float32[Tensor, "row ratio"]:
        """Log-ratios, summed over the dimensions and each."""
        ratios = [ratio for kind in self._kinds() for ratio in kind(frames, level, part)]
        each = [saturate(ratio, BOUND) for ratio in ratios]
        sums = [saturate(ratio.sum(dim=1, keepdim=True), BOUND) for ratio in each]
        return torch.cat([*sums, *each], dim=1)

    def _splines(self) -> Float32[Tensor, "level spline"]:
        snr = self.snr.double().cpu().numpy()
        knots = np.linspace(snr.min(), snr.max(), KNOTS)
        return torch.from_numpy(spline_basis(snr, knots)).float().to(self.snr.device)

    def forward(
        self, noised: Float32[Tensor, "level row dim"], log_snr: Float32[Tensor, " level"]
    ) -> Float32[Tensor, "level row 1"]:
        """Log-odds of noised windows at levels of the lattice; see `networks.PairNetwork`."""
        nearest = (log_snr[:, None] - self.snr).abs().argmin(dim=1)
        level = nearest[:, None].expand(noised.shape[:2]).flatten()
        start = torch.sigmoid(self.snr[level]).sqrt()[:, None, None] * self.centre
        frames = self._frames(noised).flatten(0, 1) - start
        ratios = self._read(frames, level, torch.zeros_like(level))
        splines = self._splines()
        size = ratios.shape[1], splines.shape[1]
        heights, offset = self.weight[: size[0] * size[1]], self.weight[size[0] * size[1] :]
        at_level = splines @ heights.reshape(size).T
        logit = (ratios * at_level[level]).sum(dim=1) + (splines[:, 2:] @ offset)[level]
        return logit.reshape(*noised.shape[:2], 1)

    def _frames(self, windows: Tensor) -> Tensor:
        moved = self.horizon * self.action
        return windows[..., :moved].reshape(*windows.shape[:-1], self.horizon, self.action)

    def _centred(self, windows: Tensor) -> Tensor:
        return self._frames(windows) - self.centre


def _fit_logistic(
    rows: Float32[Tensor, "n feature"],
    y: Float32[Tensor, " n"],
    penalty: Float64[Tensor, " feature"],
    start: Float64[Tensor, " feature"],
) -> Float64[Tensor, " feature"]:
    """Balanced logistic regression without an intercept, with a ridge for every feature."""
    from scipy.optimize import minimize

    weight, sign = _balanced(y), 2.0 * y - 1.0
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
