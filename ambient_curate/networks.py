"""The noise-conditioned classifier's network: K + 1 outputs on whitened, noised windows."""

import math

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional as F

SQUASH = 8.0  # standard deviations at which a coordinate saturates
FARTHEST = 1e9
BANDS = 32
BUMPS = 16
WIDTH = 128  # units of a layer
DEPTH = 2  # residual blocks


class NoiseClassifier(nn.Module):
    """Logits ``l_0 .. l_K`` of a noised window; pair i says P(clean) is ``sigmoid(l_0 - l_i)``.

    It works in the eigenbasis of the windows (`project`), where the channel is the same: with
    ``u = basis^T (x_0 - mean)``, it takes ``u_sigma = a u + sigma z``. Every coordinate is divided
    by its spread at that noise level, ``sqrt(a^2 variance + sigma^2)``, so that fine structure is
    as visible as coarse at every level. The whitened coordinates, their squares and the
    log-energies of bands of coordinates (log-likelihood ratios of Gaussians are linear in the
    first two) enter a residual MLP, modulated by the noise level (FiLM, Perez et al. 2018).

    Parameters
    ----------
    mean : Tensor, shape (dim,)
        Centre of the windows.
    basis : Tensor, shape (dim, dim)
        Orthonormal columns, by rising `variance`.
    variance : Tensor, shape (dim,)
        Variance of the clean windows along each column, >= 0.
    heads : int
        K, the number of corrupt arms, >= 1.
    log_snr_range : tuple of float
        Lowest and highest log-SNR in use.
    generator : torch.Generator
        Source of the initial weights.
    """

    mean: Tensor
    basis: Tensor
    variance: Tensor
    bands: Tensor
    centres: Tensor

    def __init__(
        self,
        mean: Float[Tensor, " dim"],
        basis: Float[Tensor, "dim dim"],
        variance: Float[Tensor, " dim"],
        heads: int,
        log_snr_range: tuple[float, float],
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        dim = mean.shape[0]
        self.register_buffer("mean", mean.float())
        self.register_buffer("basis", basis.float())
        self.register_buffer("variance", variance.float())
        self.register_buffer("bands", _band_means(dim))
        low, high = log_snr_range
        self.register_buffer("centres", torch.linspace(low, high, BUMPS))
        self.inlet = _linear(2 * dim + self.bands.shape[1], WIDTH, generator)
        self.level = _linear(BUMPS, WIDTH, generator)
        self.films = nn.ModuleList(
            _linear(WIDTH, 2 * WIDTH, generator, zero=True) for _ in range(DEPTH + 1)
        )
        self.blocks = nn.ModuleList(_linear(WIDTH, WIDTH, generator) for _ in range(DEPTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(DEPTH))
        self.outlet = _linear(WIDTH, heads + 1, generator, zero=True)

    def project(self, windows: Float32[Tensor, "*batch dim"]) -> Float32[Tensor, "*batch dim"]:
        """Coordinates of un-noised flattened windows in the eigenbasis."""
        return (windows - self.mean) @ self.basis

    def forward(
        self,
        coordinates: Float32[Tensor, "*batch dim"],
        log_snr: Float32[Tensor, "*level"],
        keep: Float32[Tensor, "*batch dim"] | None = None,
    ) -> Float32[Tensor, "*batch outputs"]:
        """Logits of noised coordinates.

        Parameters
        ----------
        coordinates : Tensor, float32, shape (*batch, dim)
            ``a u + sigma z``.
        log_snr : Tensor, float32
            Noise levels, of a shape that broadcasts against ``*batch``.
        keep : Tensor or None
            Dropout mask (0 or 1 / share kept) of the coordinates; None: all.
        """
        # a^2 and sigma^2; 1 - a^2 has no digits left at low noise
        signal, spread = torch.sigmoid(log_snr)[..., None], torch.sigmoid(-log_snr)[..., None]
        whitened = coordinates * torch.rsqrt(signal * self.variance + spread)
        whitened = whitened.clamp(-FARTHEST, FARTHEST)  # squares stay finite in float32
        power = whitened.square()
        soft = whitened * torch.rsqrt(1.0 + power / SQUASH**2)
        square = 0.5 * (soft.square() - 1.0)
        if keep is not None:
            soft, square = soft * keep, square * keep
        energy = torch.log(power @ self.bands + 1e-6) * self._band_gain
        hidden = self.inlet(torch.cat([soft, square, energy], dim=-1))
        level = F.silu(self.level(self._bumps(log_snr)))
        hidden = _modulate(hidden, self.films[0](level))
        for block, norm, film in zip(self.blocks, self.norms, self.films[1:], strict=True):
            hidden = hidden + block(F.silu(_modulate(norm(hidden), film(level))))
        return self.outlet(F.silu(hidden))

    @property
    def _band_gain(self) -> Tensor:
        """Inverse standard deviation of a band's log-energy for independent normal coordinates."""
        return torch.rsqrt(2.0 * self.bands.amax(dim=0))

    def _bumps(self, log_snr: Tensor) -> Tensor:
        low, high = self.centres[0], self.centres[-1]
        spacing = (high - low) / (BUMPS - 1)
        distance = (log_snr.clamp(low, high)[..., None] - self.centres) / spacing
        return torch.exp(-0.5 * distance.square())


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
