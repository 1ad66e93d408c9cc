"""Temporal mixtures: windows as a mixture of normal laws with different frame covariances.

A command held for some frames, a pause, a tremor in part of the time: windows then follow one of a
few temporal covariances, of which a single covariance only knows the mean.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from ambient_curate.classifier.samples import Sample, noise_scales, split_frames

COMPONENTS = 4
STEPS = 40  # of expectation maximisation at most
STARTS = 2  # of it, from random memberships
GAIN = 1e-3  # nats a window below which it has converged
RIDGE = 1e-6
SMALLEST = 1e-8  # variance of a dimension
MOST = 2_048  # windows that a mixture is fitted on
EVENNESS = 8  # the higher, the fewer windows begin in several components


@dataclass(frozen=True)
class Mixture:
    """Law of windows: ``sum_m w_m N(mean_m, T_m x diag(d_m))``, T_m over frames, d_m over actions.

    Parameters
    ----------
    weight : Tensor, shape (component,)
        Positive, of sum 1.
    mean, spread : Tensor, shape (component, action)
        Means, the same at every frame, and variances of the dimensions.
    eigen : Tensor, shape (component, horizon)
        Eigenvalues of T_m, whose mean diagonal is 1.
    basis : Tensor, shape (component, horizon, horizon)
        Its eigenvectors.
    """

    weight: Float32[Tensor, " component"]
    mean: Float32[Tensor, "component action"]
    spread: Float32[Tensor, "component action"]
    eigen: Float32[Tensor, "component horizon"]
    basis: Float32[Tensor, "component horizon horizon"]

    def log_density(
        self,
        noised: Float32[Tensor, "level row horizon action"],
        log_snr: Float32[Tensor, " level"],
    ) -> Float32[Tensor, "level row"]:
        """Log-density of windows ``a x + sigma z``, but for a constant."""
        signal, noise = (torch.sigmoid(x)[:, None, None] for x in (log_snr, -log_snr))
        return torch.logsumexp(_log_joint(noised, self, signal, noise), dim=0)


def fit_mixture(
    windows: Float32[Tensor, "n horizon action"],
    components: int,
    noise: float,
    generator: torch.Generator,
) -> Mixture:
    """Fit by expectation maximisation, the best of `STARTS` random beginnings.

    Parameters
    ----------
    windows : Tensor, float32, shape (n, horizon, action)
        Not noised.
    components : int
        >= 1.
    noise : float
        Variance of the noise at which the law will be used at least: finer structure is of no use.
    generator : torch.Generator
        Source of the beginnings.
    """
    best, found, one = -torch.inf, None, torch.ones(1, 1, 1)
    for _ in range(STARTS if components > 1 else 1):
        chance = torch.rand(len(windows), components, generator=generator).clamp_min(1e-30)
        share, before = torch.softmax(EVENNESS * torch.log(chance), dim=1), -torch.inf
        for _ in range(STEPS):
            law = _maximise(windows, share)
            logs = _log_joint(windows[None], law, one, noise * one)[:, 0]
            total = torch.logsumexp(logs, dim=0)
            share, value = torch.exp(logs - total).T, float(total.mean())
            if value - before < GAIN:
                break
            before = value
        if value > best:
            best, found = value, law
    assert found is not None
    return found


def _maximise(
    x: Float32[Tensor, "n horizon action"], share: Float32[Tensor, "n component"]
) -> Mixture:
    """Weights, means, variances and temporal covariances of given memberships."""
    horizon, action = x.shape[1:]
    count = share.sum(dim=0) + 1e-9
    means, spreads, eigens, bases = [], [], [], []
    for mine, size in zip(share.T, count, strict=True):
        mean = mine @ x.mean(dim=1) / size
        centred = x - mean
        spread = (mine @ centred.square().mean(dim=1) / size).clamp_min(SMALLEST)
        rows = (centred * torch.sqrt(mine[:, None, None] / spread)).transpose(1, 2).flatten(0, 1)
        temporal = rows.T @ rows / (size * action) + RIDGE * torch.eye(horizon)
        eigen, basis = torch.linalg.eigh(temporal)
        means.append(mean)
        spreads.append(spread)
        eigens.append(eigen.clamp_min(0.0))
        bases.append(basis)
    rest = (torch.stack(parts) for parts in (means, spreads, eigens, bases))
    return Mixture(count / count.sum(), *rest)


def _log_joint(
    x: Float32[Tensor, "level row horizon action"],
    law: Mixture,
    signal: Float32[Tensor, "level 1 1"],
    noise: Float32[Tensor, "level 1 1"],
) -> Float32[Tensor, "component level row"]:
    """Log-density of every window with every component, whose variances are noised."""
    parts = []
    for weight, mean, spread, eigen, basis in zip(
        law.weight, law.mean, law.spread, law.eigen, law.basis, strict=True
    ):
        variance = signal * (eigen[:, None] * spread) + noise  # (level, horizon, action)
        along = basis.mT @ (x - (signal.sqrt() * mean)[:, None])
        square = along.square().flatten(2) @ (0.5 / variance).flatten(1)[..., None]
        volume = torch.log(weight) - 0.5 * torch.log(variance).sum(dim=(1, 2))
        parts.append(volume[:, None] - square[..., 0])
    return torch.stack(parts)


class MixtureRatio(nn.Module):
    """Log-likelihood ratio, clean to corrupt, of two temporal mixtures of noised windows.

    Parameters
    ----------
    horizon, action : int
        Shape of a window; values behind it are not looked at.
    """

    centre: Tensor

    def __init__(self, horizon: int, action: int) -> None:
        super().__init__()
        self.horizon, self.action = horizon, action
        self.register_buffer("centre", torch.zeros(action))
        shapes = {
            "weight": (COMPONENTS,),
            "mean": (COMPONENTS, action),
            "spread": (COMPONENTS, action),
            "eigen": (COMPONENTS, horizon),
            "basis": (COMPONENTS, horizon, horizon),
        }
        for side in ("clean", "corrupt"):
            for name, shape in shapes.items():
                self.register_buffer(f"{side}_{name}", torch.zeros(shape))

    def fit(
        self, seen: Sample, unseen: Sample, log_snr: float, generator: torch.Generator
    ) -> "MixtureRatio":
        """Fit both laws: one component or `COMPONENTS`, as held-out windows have it.

        Parameters
        ----------
        seen, unseen : Sample
            Training and held-out windows.
        log_snr : float
            Of the lowest level in use.
        generator : torch.Generator
            Source of the beginnings.
        """
        lowest = torch.tensor(log_snr, dtype=torch.float32)
        noise, (a, sigma) = float(torch.exp(-lowest)), noise_scales(lowest)
        self.centre.copy_(self._frames(seen.clean).mean(dim=(0, 1)))
        for side in ("clean", "corrupt"):
            rows, held = (self._centred(getattr(part, side)[:MOST]) for part in (seen, unseen))
            noised = a * held + sigma * torch.randn(held.shape, generator=generator)
            laws = [fit_mixture(rows, m, noise, generator) for m in (1, COMPONENTS)]
            best = max(
                laws, key=lambda law: float(law.log_density(noised[None], lowest[None]).mean())
            )
            self._keep(side, best)
        return self

    def _keep(self, side: str, law: Mixture) -> None:
        """Store a law; components that it lacks get no weight."""
        for name in ("weight", "mean", "spread", "eigen", "basis"):
            value = getattr(law, name)
            getattr(self, f"{side}_{name}").zero_()[: len(value)].copy_(value)

    def _law(self, side: str) -> Mixture:
        parts = [
            getattr(self, f"{side}_{name}")
            for name in ("weight", "mean", "spread", "eigen", "basis")
        ]
        used = parts[0] > 0.0
        return Mixture(*(part[used] for part in parts))

    def forward(
        self, noised: Float32[Tensor, "level row dim"], log_snr: Float32[Tensor, " level"]
    ) -> Float32[Tensor, "level row 1"]:
        """Log-odds of noised windows; see `networks.PairNetwork`."""
        signal, _ = noise_scales(log_snr[:, None, None, None])
        frames = self._frames(noised) - signal * self.centre
        clean, corrupt = (
            self._law(side).log_density(frames, log_snr) for side in ("clean", "corrupt")
        )
        return (clean - corrupt)[..., None]

    def _frames(self, windows: Tensor) -> Tensor:
        return split_frames(windows, self.horizon, self.action)

    def _centred(self, windows: Tensor) -> Tensor:
        return self._frames(windows) - self.centre
