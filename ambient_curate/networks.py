"""The classifier's network: K + 1 outputs on what a channel shows of windows."""

import math

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional as F

SQUASH = 8.0  # standard deviations at which a coordinate saturates
FARTHEST = 1e9
BANDS = 32
BUMPS = 16
MOMENTS = ("clean_mean", "corrupt_mean", "corrupt_variance")
LARGEST_RATIO = 10.0  # nats at which the normal laws' log-ratio saturates
Features = tuple[Float32[Tensor, "level row _"], ...]  # to be laid side by side
WIDTH = 128  # units of a layer
DEPTH = 2  # residual blocks


class RatioNetwork(nn.Module):
    """Logits ``l_0 .. l_K`` of windows of which little is shown; pair i: ``sigmoid(l_0 - l_i)``.

    A channel shows less of a window from level to level. A subclass says what is shown
    (`project`, `blur`) and what features and log-ratios of normal laws there are in it
    (`describe`). The features enter a residual MLP, modulated by the level (FiLM, Perez et al.
    2018), which starts from, and corrects, the log-ratio. A head's logit is moved towards that
    ratio by the share `reliance`, 0 at first.

    Parameters
    ----------
    features, heads : int
        Number of features, and K.
    log_snr_range : tuple of float
        Lowest and highest log-SNR in use.
    generator : torch.Generator
        Source of the initial weights.
    """

    centres: Tensor
    reliance: Tensor

    def __init__(
        self,
        features: int,
        heads: int,
        log_snr_range: tuple[float, float],
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        low, high = log_snr_range
        self.register_buffer("centres", torch.linspace(low, high, BUMPS))
        self.inlet = _linear(features + heads, WIDTH, generator)
        self.level = _linear(BUMPS, WIDTH, generator)
        self.films = nn.ModuleList(
            _linear(WIDTH, 2 * WIDTH, generator, zero=True) for _ in range(DEPTH + 1)
        )
        self.blocks = nn.ModuleList(_linear(WIDTH, WIDTH, generator) for _ in range(DEPTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(DEPTH))
        self.outlet = _linear(WIDTH, heads + 1, generator, zero=True)
        self.trust = _linear(WIDTH, heads, generator, zero=True)
        nn.init.ones_(self.trust.bias)
        self.register_buffer("reliance", torch.zeros(heads))

    def project(self, windows: Float32[Tensor, "*batch dim"]) -> Float32[Tensor, "*batch dim"]:
        """Coordinates of flattened windows, in which they are noised and looked at."""
        raise NotImplementedError

    def blur(
        self,
        coordinates: Float32[Tensor, "#level row dim"],
        noise: Float32[Tensor, "#level row dim"],
        log_snr: Float32[Tensor, " level"],
    ) -> Float32[Tensor, "_ row dim"]:
        """Noise coordinates as the channel does at these levels."""
        raise NotImplementedError

    def describe(
        self,
        noised: Float32[Tensor, "#level row dim"],
        log_snr: Float32[Tensor, " level"],
        keep: Float32[Tensor, "#level row dim"] | None,
    ) -> tuple[Features, Float32[Tensor, "level row head"]]:
        """Features of what is shown, and its log-likelihood ratio under normal laws."""
        raise NotImplementedError

    def forward(
        self,
        noised: Float32[Tensor, "#level row dim"],
        log_snr: Float32[Tensor, " level"],
        keep: Float32[Tensor, "#level row dim"] | None = None,
    ) -> Float32[Tensor, "level row outputs"]:
        """Logits of noised coordinates.

        Parameters
        ----------
        noised : Tensor, float32, shape (level, row, dim)
            Of `blur`.
        log_snr : Tensor, float32, shape (level,)
            Levels.
        keep : Tensor or None
            Dropout mask (0 or 1 / share kept) of the coordinates; None: all.
        """
        features, ratio = self.describe(noised, log_snr, keep)
        level = F.silu(self.level(self._bumps(log_snr)))[:, None]
        hidden = self.inlet(torch.cat([*features, ratio], dim=-1))
        hidden = _modulate(hidden, self.films[0](level))
        for block, norm, film in zip(self.blocks, self.norms, self.films[1:], strict=True):
            hidden = hidden + block(F.silu(_modulate(norm(hidden), film(level))))
        logits = self.outlet(F.silu(hidden))
        pairs = logits[..., :1] - logits[..., 1:] + self.trust(level) * ratio
        pairs = torch.lerp(pairs, ratio, self.reliance)
        return torch.cat([logits[..., :1], logits[..., :1] - pairs], dim=-1)

    def _bumps(self, log_snr: Tensor) -> Tensor:
        low, high = self.centres[0], self.centres[-1]
        spacing = (high - low) / (BUMPS - 1)
        distance = (log_snr.clamp(low, high)[..., None] - self.centres) / spacing
        return torch.exp(-0.5 * distance.square())


class NoiseClassifier(RatioNetwork):
    """Sees windows through noise: the channel ``x_sigma = a x_0 + sigma z``.

    It works in the eigenbasis of the windows (`project`), where the channel is the same: with
    ``u = basis^T (x_0 - mean)``, it takes ``u_sigma = a u + sigma z``. Every coordinate is divided
    by its spread at that noise level, ``sqrt(a^2 variance + sigma^2)``, so that fine structure is
    as visible as coarse at every level. The features are the whitened coordinates, their squares
    and the log-energies of bands of coordinates (log-likelihood ratios of Gaussians are linear in
    the first two); the log-ratio is that of independent normal laws with the moments `contrast`.

    Parameters
    ----------
    mean : Tensor, shape (dim,)
        Centre of the windows.
    basis : Tensor, shape (dim, dim)
        Orthonormal columns, by rising `variance`.
    variance : Tensor, shape (dim,)
        Variance of the clean windows along each column, >= 0.
    contrast : tuple of Tensor, shape (K, dim)
        For each of K >= 1 corrupt arms: means of the clean set and of the arm, and the arm's
        variances, all in the eigenbasis (`contrasts.find_contrast`).
    log_snr_range : tuple of float
        Lowest and highest log-SNR in use.
    generator : torch.Generator
        Source of the initial weights.
    told : int
        Coordinates at the end that no noise hides, with basis vectors of their own.
    """

    mean: Tensor
    basis: Tensor
    variance: Tensor
    bands: Tensor
    clean_mean: Tensor
    corrupt_mean: Tensor
    corrupt_variance: Tensor

    def __init__(
        self,
        mean: Float[Tensor, " dim"],
        basis: Float[Tensor, "dim dim"],
        variance: Float[Tensor, " dim"],
        contrast: tuple[
            Float[Tensor, "head dim"], Float[Tensor, "head dim"], Float[Tensor, "head dim"]
        ],
        log_snr_range: tuple[float, float],
        *,
        generator: torch.Generator,
        told: int = 0,
    ) -> None:
        dim = mean.shape[0]
        bands = _band_means(dim - told)
        features = 2 * dim + bands.shape[1]
        super().__init__(features, contrast[0].shape[0], log_snr_range, generator=generator)
        self.register_buffer("mean", mean.float())
        self.register_buffer("basis", basis.float())
        self.register_buffer("variance", variance.float())
        self.register_buffer("bands", bands)
        for name, moment in zip(MOMENTS, contrast, strict=True):
            self.register_buffer(name, moment.float())

    def project(self, windows: Float32[Tensor, "*batch dim"]) -> Float32[Tensor, "*batch dim"]:
        """Coordinates of un-noised flattened windows in the eigenbasis."""
        return (windows - self.mean) @ self.basis

    def blur(
        self,
        coordinates: Float32[Tensor, "#level row dim"],
        noise: Float32[Tensor, "#level row dim"],
        log_snr: Float32[Tensor, " level"],
    ) -> Float32[Tensor, "level row dim"]:
        """Return ``a u + sigma z``, the rows of a level at its noise."""
        signal, spread = (x.sqrt() for x in self._powers(log_snr))
        return signal * coordinates + spread * noise

    def _powers(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """``a^2`` and ``sigma^2`` of every level (1 - a^2 has no digits left at low noise).

        What is told has 1 and 0.
        """
        signal, noise = (torch.sigmoid(x)[:, None, None] for x in (log_snr, -log_snr))
        moved, dim = self.bands.shape[0], self.mean.shape[0]
        if moved == dim:
            return signal, noise
        hidden = torch.arange(dim, device=log_snr.device) < moved
        return torch.where(hidden, signal, 1.0), torch.where(hidden, noise, 0.0)

    def describe(
        self,
        noised: Float32[Tensor, "level row dim"],
        log_snr: Float32[Tensor, " level"],
        keep: Float32[Tensor, "level row dim"] | None,
    ) -> tuple[Features, Float32[Tensor, "level row head"]]:
        """Whitened coordinates, their squares and energies; the ratio of independent normals."""
        signal, noise = self._powers(log_snr)
        spread = signal * self.variance + noise
        whitened = noised * torch.rsqrt(spread)
        whitened = whitened.clamp(-FARTHEST, FARTHEST)  # squares stay finite in float32
        power = whitened.square()
        soft = saturate(whitened, SQUASH)
        square = 0.5 * (soft.square() - 1.0)
        if keep is not None:
            soft, square = soft * keep, square * keep
        ratio = self._normal_ratio(soft, square, keep, signal, noise, spread)
        energy = torch.log(power[..., : len(self.bands)] @ self.bands + 1e-6) * self._band_gain
        return (soft, square, energy), ratio

    def _normal_ratio(
        self,
        soft: Float32[Tensor, "level row dim"],
        square: Float32[Tensor, "level row dim"],
        keep: Float32[Tensor, "level row dim"] | None,
        signal: Float32[Tensor, "level 1 #dim"],
        noise: Float32[Tensor, "level 1 #dim"],
        spread: Float32[Tensor, "level 1 dim"],
    ) -> Float32[Tensor, "level row head"]:
        """Log-likelihood ratio, clean to corrupt, of independent normal coordinates."""
        scale = torch.sqrt(signal / spread)
        clean, corrupt = scale * self.clean_mean, scale * self.corrupt_mean
        narrower = spread / (signal * self.corrupt_variance + noise)
        linear = clean - narrower * corrupt
        constant = 0.5 * (narrower * (1.0 + corrupt.square()) - 1.0 - clean.square())
        constant = constant - 0.5 * torch.log(narrower)
        ratio = soft @ linear.mT + square @ (narrower - 1.0).mT
        whole = constant.sum(dim=-1)[:, None] if keep is None else keep @ constant.mT
        return saturate(ratio + whole, LARGEST_RATIO)

    @property
    def _band_gain(self) -> Tensor:
        """Inverse standard deviation of a band's log-energy for independent normal coordinates."""
        return torch.rsqrt(2.0 * self.bands.amax(dim=0))


def saturate(values: Tensor, limit: float) -> Tensor:
    """Bound values smoothly by `limit` in magnitude; small ones stay as they are."""
    return values * torch.rsqrt(1.0 + (values / limit).square())


def _modulate(hidden: Tensor, film: Tensor) -> Tensor:
    gain, shift = film.chunk(2, dim=-1)
    return hidden * (1.0 + gain) + shift


def _band_means(dim: int) -> Tensor:
    """Return the matrix that averages neighbouring coordinates into at most `BANDS` bands."""
    count = min(BANDS, dim)
    band = torch.arange(dim) * count // dim
    members = F.one_hot(band, count).float()
    return members / members.sum(dim=0)


def _linear(
    inputs: int, outputs: int, generator: torch.Generator, *, zero: bool = False
) -> nn.Linear:
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    bound = 0.0 if zero else 1.0 / math.sqrt(inputs)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.zero_()
    return layer
