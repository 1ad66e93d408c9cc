"""Networks for the log-odds of "clean" against one corrupt set, at any noise level."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.nn import functional as F

from ambient_curate.classifier.samples import (
    Sample,
    find_basis,
    find_contrast,
    split_frames,
)

SQUASH = 8.0  # standard deviations at which a coordinate saturates
FARTHEST = 1e9
BANDS = 32
BUMPS = 16
LARGEST_RATIO = 10.0  # nats at which the normal laws' log-ratio saturates
Features = tuple[Float32[Tensor, "level row _"], ...]  # to be laid side by side
WIDTH = 64  # units of a layer
LEVEL_WIDTH = 32  # of what is known of the level: in training every row has a level of its own
DEPTH = 2  # residual blocks
SPACING = 3  # frames between those that are compared with the first
CONSTANT = 1e-6  # variance of what is known that passes for none


class PairNetwork(nn.Module):
    """Log-odds of "clean" in one pair of clean and corrupt set, at every level of a channel.

    A channel shows less of a window from level to level. A subclass says what features and which
    log-ratio of normal laws there are in what is shown (`describe`). The features enter a residual
    MLP, modulated by the level (FiLM, Perez et al. 2018), which starts from, and corrects, the
    log-ratio.

    Parameters
    ----------
    features : int
        Number of features.
    log_snr_range : tuple of float
        Lowest and highest log-SNR in use.
    generator : torch.Generator
        Source of the initial weights.
    """

    centres: Tensor

    def __init__(
        self, features: int, log_snr_range: tuple[float, float], *, generator: torch.Generator
    ) -> None:
        super().__init__()
        low, high = log_snr_range
        self.register_buffer("centres", torch.linspace(low, high, BUMPS))
        self.shapes = [
            (LEVEL_WIDTH, BUMPS),
            (2 * WIDTH * (DEPTH + 1) + 1, LEVEL_WIDTH),  # FiLM of every layer, and the trust
            (WIDTH, features + 1),
            *[(WIDTH, WIDTH)] * DEPTH,
            (1, WIDTH),
        ]
        layers = [_draw_layer(shape, generator) for shape in self.shapes]
        for modulated in (1, -1):  # nothing is modulated, and the normal ratio is trusted, at first
            layers[modulated].zero_()
        layers[1][-1] = 1.0
        self.weights = nn.Parameter(torch.cat(layers))

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        """Matrix and offset of every layer: views of `weights`."""
        counts = [rows * (columns + 1) for rows, columns in self.shapes]
        found = []
        for part, (rows, columns) in zip(
            torch.split(self.weights, counts), self.shapes, strict=True
        ):
            matrix, offset = torch.split(part, [rows * columns, rows])
            found.append((matrix.view(rows, columns), offset))
        return found

    def describe(
        self, noised: Float32[Tensor, "#level row dim"], log_snr: Float32[Tensor, " level"]
    ) -> tuple[Features, Float32[Tensor, "level row"]]:
        """Features of what is shown, and its log-likelihood ratio under normal laws."""
        raise NotImplementedError

    def forward(
        self, noised: Float32[Tensor, "#level row dim"], log_snr: Float32[Tensor, " level"]
    ) -> Float32[Tensor, "level row member"]:
        """Log-odds by the network, and by the normal laws alone.

        Parameters
        ----------
        noised : Tensor, float32, shape (level, row, dim)
            Flattened windows, as the channel shows them.
        log_snr : Tensor, float32, shape (level,)
            Levels.
        """
        features, ratio = self.describe(noised, log_snr)
        level, modulation, inlet, *blocks, outlet = self._layers()
        known = F.linear(F.silu(F.linear(self._bumps(log_snr), *level)), *modulation)[:, None]
        *films, trust = torch.split(known, [2 * WIDTH] * (DEPTH + 1) + [1], dim=-1)
        hidden = F.linear(torch.cat([*features, ratio[..., None]], dim=-1), *inlet)
        hidden = _modulate(hidden, films[0])
        for block, film in zip(blocks, films[1:], strict=True):
            normed = F.layer_norm(hidden, (WIDTH,))
            hidden = hidden + F.linear(F.silu(_modulate(normed, film)), *block)
        logit = F.linear(F.silu(hidden), *outlet)[..., 0] + trust[..., 0] * ratio
        return torch.stack([logit, ratio], dim=-1)

    def _bumps(self, log_snr: Tensor) -> Tensor:
        low, high = self.centres[0], self.centres[-1]
        spacing = (high - low) / (BUMPS - 1)
        distance = (log_snr.clamp(low, high)[..., None] - self.centres) / spacing
        return torch.exp(-0.5 * distance.square())


class Sizes(NamedTuple):
    """Shape of a flattened window: frames, action dimensions, and values that no noise hides."""

    horizon: int
    action: int
    condition_dim: int = 0

    @property
    def moved(self) -> int:
        """Coordinates that noise reaches, the first of a window."""
        return self.horizon * self.action

    @property
    def dim(self) -> int:
        """Length of a flattened window."""
        return self.moved + self.condition_dim


class WindowNetwork(PairNetwork):
    """Sees noised windows in several coordinates, each scaled by its spread at that noise.

    Features: the window along the eigenvectors of its covariance, where fine structure is as
    visible as coarse at every level, with squares and log-energies of bands; and later frames and
    halves of short stretches relative to earlier ones, with squares, in which the direction of
    time shows. The log-ratio is that of independent normal laws along the eigenvectors (method.md
    section 8).

    Parameters
    ----------
    sizes : Sizes
        Of a window.
    log_snr_range : tuple of float
        Lowest and highest log-SNR in use.
    generator : torch.Generator
        Source of the initial weights.
    """

    mean: Tensor
    basis: Tensor
    variance: Tensor
    clean_mean: Tensor
    corrupt_mean: Tensor
    corrupt_variance: Tensor
    bands: Tensor
    relative: Tensor
    relative_variance: Tensor

    def __init__(
        self, sizes: Sizes, log_snr_range: tuple[float, float], *, generator: torch.Generator
    ) -> None:
        relative = _relative_rows(sizes.horizon)
        bands = _band_means(sizes.moved)
        eigen, others = 2 * sizes.dim + bands.shape[1], 2 * len(relative) * sizes.action
        super().__init__(eigen + others, log_snr_range, generator=generator)
        self.sizes = sizes
        self.register_buffer("bands", bands, persistent=False)
        self.register_buffer("relative", relative, persistent=False)
        vectors = ("mean", "variance", "clean_mean", "corrupt_mean", "corrupt_variance")
        for name in vectors:
            self.register_buffer(name, torch.ones(sizes.dim))
        self.register_buffer("basis", torch.eye(sizes.dim))
        self.register_buffer("relative_variance", torch.ones(len(relative), sizes.action))

    def learn_scales(self, seen: Sample, unseen: Sample) -> None:
        """Take coordinates, spreads and normal laws from training and held-out windows."""
        mean, basis, variance = find_basis(seen, unseen, condition_dim=self.sizes.condition_dim)
        variance[self.sizes.moved :].clamp_(min=CONSTANT)
        inside = seen.map(lambda x: (x - mean) @ basis)
        contrast = find_contrast(inside, variance)
        for name, value in zip(
            ("mean", "basis", "variance", "clean_mean", "corrupt_mean", "corrupt_variance"),
            (mean, basis, variance, *contrast),
            strict=True,
        ):
            getattr(self, name).copy_(value)
        clean, corrupt = (self._frames(x - mean) for x in (seen.clean, seen.corrupt))
        both = [(self.relative @ x).square().mean(dim=0) for x in (clean, corrupt)]
        self.relative_variance.copy_((both[0] + both[1]) / 2.0)

    def describe(
        self, noised: Float32[Tensor, "level row dim"], log_snr: Float32[Tensor, " level"]
    ) -> tuple[Features, Float32[Tensor, "level row"]]:
        """Scaled coordinates, absolute and relative; the ratio of independent normal laws."""
        signal, noise = (torch.sigmoid(x)[:, None, None] for x in (log_snr, -log_snr))
        centred = noised - self._known(signal.sqrt(), 1.0) * self.mean
        eigen, ratio = self._describe_eigen(
            centred @ self.basis, self._known(signal, 1.0), self._known(noise, 0.0)
        )
        frames = self._frames(centred)
        doubled = self.relative.square().sum(dim=-1, keepdim=True)
        spread = signal[..., None] * self.relative_variance + noise[..., None] * doubled
        later = saturate(self.relative @ frames * torch.rsqrt(spread), SQUASH).flatten(-2)
        return (*eigen, later, 0.5 * (later.square() - 1.0)), ratio

    def _frames(self, windows: Tensor) -> Tensor:
        return split_frames(windows, self.sizes.horizon, self.sizes.action)

    def _known(self, power: Tensor, instead: float) -> Tensor:
        """Powers of every coordinate: what is known has its own, whatever the level."""
        if not self.sizes.condition_dim:
            return power
        hidden = torch.arange(self.sizes.dim, device=power.device) < self.sizes.moved
        return torch.where(hidden, power, instead)

    def _describe_eigen(
        self, noised: Tensor, signal: Tensor, noise: Tensor
    ) -> tuple[Features, Float32[Tensor, "level row"]]:
        spread = signal * self.variance + noise
        whitened = (noised * torch.rsqrt(spread)).clamp(-FARTHEST, FARTHEST)
        soft = saturate(whitened, SQUASH)
        square = 0.5 * (soft.square() - 1.0)
        gain = torch.rsqrt(2.0 * self.bands.amax(dim=0))  # of independent normal coordinates
        power = whitened[..., : self.sizes.moved].square()
        energy = torch.log(power @ self.bands + 1e-6) * gain
        return (soft, square, energy), self._normal_ratio(soft, square, signal, noise, spread)

    def _normal_ratio(
        self, soft: Tensor, square: Tensor, signal: Tensor, noise: Tensor, spread: Tensor
    ) -> Float32[Tensor, "level row"]:
        """Log-likelihood ratio, clean to corrupt, of independent normal coordinates."""
        scale = torch.sqrt(signal / spread)
        clean, corrupt = scale * self.clean_mean, scale * self.corrupt_mean
        narrower = spread / (signal * self.corrupt_variance + noise)
        constant = 0.5 * (narrower * (1.0 + corrupt.square()) - 1.0 - clean.square())
        constant = (constant - 0.5 * torch.log(narrower)).sum(dim=-1)
        linear = (soft * (clean - narrower * corrupt)).sum(dim=-1)
        return saturate(linear + (square * (narrower - 1.0)).sum(dim=-1) + constant, LARGEST_RATIO)


def saturate(values: Tensor, limit: float) -> Tensor:
    """Bound values smoothly by `limit` in magnitude; small ones stay as they are."""
    return values * torch.rsqrt(1.0 + (values / limit).square())


def _relative_rows(horizon: int) -> Tensor:
    """Rows that take the first frame from later ones, and a short stretch's half from the other."""
    rows = []
    for frame in range(min(SPACING, horizon - 1), horizon, SPACING) if horizon > 1 else ():
        row = torch.zeros(horizon)
        row[frame], row[0] = 1.0, -1.0
        rows.append(row)
    half = SPACING + 1
    for first in range(0, horizon - 2 * half + 1, half):
        row = torch.zeros(horizon)
        row[first : first + half], row[first + half : first + 2 * half] = 1.0 / half, -1.0 / half
        rows.append(row)
    return torch.stack(rows) if rows else torch.zeros(0, horizon)


def _modulate(hidden: Tensor, film: Tensor) -> Tensor:
    gain, shift = film.chunk(2, dim=-1)
    return torch.addcmul(hidden + shift, hidden, gain)


def _band_means(dim: int) -> Tensor:
    """Return the matrix that averages neighbouring coordinates into at most `BANDS` bands."""
    count = min(BANDS, dim)
    band = torch.arange(dim) * count // dim
    members = F.one_hot(band, count).float()
    return members / members.sum(dim=0)


def _draw_layer(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw a layer: its matrix, then its offset, in a vector."""
    rows, columns = shape
    layer = torch.zeros(rows * (columns + 1))
    bound = 1.0 / math.sqrt(columns)
    layer[: rows * columns].uniform_(-bound, bound, generator=generator)
    return layer
