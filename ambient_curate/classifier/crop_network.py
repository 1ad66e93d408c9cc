"""The network that sees a crop of a window around one frame, of any radius."""

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor
from torch.nn import functional as F

from ambient_curate.classifier.networks import (
    FARTHEST,
    LARGEST_RATIO,
    SQUASH,
    Features,
    PairNetwork,
    saturate,
)
from ambient_curate.noise import log_snr, sigma_from_log_snr

SPAN = 8.0  # log-SNR between the smallest and the largest radius on the axis of levels


def radius_levels(horizon: int) -> Float64[np.ndarray, " radius"]:
    """Put radii ``horizon - 1 .. 0`` on the axis of noise levels, on which less and less is shown.

    Evenly spaced in log-SNR, so that what is smooth, isotonic or interpolated in the noise level is
    so in the radius.

    Examples
    --------
    >>> radius_levels(3).round(3).tolist()
    [0.134, 0.707, 0.991]
    """
    radius = np.arange(horizon - 1, -1, -1)
    return sigma_from_log_snr(step_between(horizon) * (radius - (horizon - 1) / 2))


def radius_at(level: Float64[np.ndarray, "*rows"], horizon: int) -> Float64[np.ndarray, "*rows"]:
    """Radius, in frames and fractions, that a level in (0, 1) stands for."""
    return np.asarray(log_snr(level) / step_between(horizon) + (horizon - 1) / 2)


def step_between(horizon: int) -> float:
    """Log-SNR between two radii of windows of `horizon` >= 2 frames."""
    return SPAN / (horizon - 1)


def order_frames(horizon: int) -> np.ndarray:
    """Frames by their distance from each centre, the earlier of two first.

    Examples
    --------
    >>> order_frames(3).tolist()
    [[0, 1, 2], [1, 0, 2], [2, 1, 0]]
    """
    frame = np.arange(horizon)
    return np.stack([np.argsort(np.abs(frame - i), kind="stable") for i in range(horizon)])


class CropNetwork(PairNetwork):
    """Sees frames ``i - rho .. i + rho`` of a window, as far as they exist, and the centre i.

    The crop is taken at the trainer's lowest noise. Frames are ordered by their distance from the
    centre; what is new in each, given those before it, is its innovation under the normal law of
    the clean windows (a Cholesky factor for each centre). A crop is then a prefix, and the exact
    log-ratio of normal laws of a crop is a cumulative sum. Rows go round the frames: row k has
    centre ``k mod horizon``.

    Parameters
    ----------
    mean : Tensor, shape (2, dim)
        Means of the clean and of the corrupt windows.
    covariance : Tensor, shape (2, dim, dim)
        Their covariances, positive semi-definite.
    horizon : int
        Frames in a window, >= 2.
    sigma : float
        The lowest noise, in (0, 1).
    generator : torch.Generator
        Source of the initial weights.
    """

    mean: Tensor
    covariance: Tensor
    sizes: Tensor
    whitener: Tensor
    constant: Tensor
    order: Tensor
    slots: Tensor
    reach: Tensor

    def __init__(
        self,
        mean: Float[Tensor, "law dim"],
        covariance: Float[Tensor, "law dim dim"],
        horizon: int,
        sigma: float,
        *,
        generator: torch.Generator,
    ) -> None:
        action, half = mean.shape[1] // horizon, SPAN / 2
        features = 2 * (2 * horizon - 1) * action + horizon
        super().__init__(features, (-half, half), generator=generator)
        self.horizon = horizon
        self.register_buffer("mean", mean.float())
        self.register_buffer("covariance", covariance.float())
        self.register_buffer("sizes", torch.tensor([float(horizon), sigma], dtype=torch.float64))
        order = torch.from_numpy(order_frames(horizon))
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("slots", _place_slots(order), persistent=False)
        frame = torch.arange(horizon)
        distance = (frame[:, None] - frame).abs()
        reach = (distance[:, None] <= frame[:, None]).sum(dim=-1)  # frames of (centre, radius)
        self.register_buffer("reach", reach, persistent=False)
        self._whiten()

    def _whiten(self) -> None:
        """Factor the laws of noised windows, centre by centre, in double precision."""
        sigma, dim = float(self.sizes[1]), self.mean.shape[1]
        laws = (1.0 - sigma**2) * self.covariance.double() + sigma**2 * torch.eye(dim).double()
        index = self._index()
        ordered = laws[:, index[:, :, None], index[:, None, :]]  # (law, centre, dim, dim)
        factor = torch.linalg.cholesky(ordered)
        eye = torch.eye(dim, dtype=torch.float64).expand_as(factor)
        inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
        self.register_buffer("whitener", inverse.float())
        scale = inverse.diagonal(dim1=-2, dim2=-1).log().float()
        self.register_buffer("constant", scale)

    def _index(self) -> Tensor:
        """Coordinates of flattened windows in the order of each centre."""
        action = self.mean.shape[1] // self.horizon
        return (self.order[..., None] * action + torch.arange(action)).flatten(1)

    def describe(
        self,
        noised: Float32[Tensor, "#level row dim"],
        log_snr: Float32[Tensor, " level"],
    ) -> tuple[Features, Float32[Tensor, "level row"]]:
        """Innovations inside the crop, their squares and the centre; the crop's normal ratio."""
        shape = noised.shape[:2]
        centre = (torch.arange(shape[0] * shape[1]) % self.horizon).reshape(shape)
        news = self._innovations(noised.flatten(0, 1)).reshape(len(self.mean), *noised.shape)
        density = self.constant[:, centre] - 0.5 * news.square()
        gain = density[0] - density[1]
        soft = saturate(news[0], SQUASH)
        square = 0.5 * (soft.square() - 1.0)
        radius = self.radius(log_snr)
        by_frame = gain.reshape(*gain.shape[:-1], self.horizon, -1).sum(dim=-1).cumsum(dim=-1)
        last = self.reach[centre, radius[:, None]] - 1  # (level, row)
        ratio = by_frame.expand(*last.shape, -1).gather(-1, last[..., None])[..., 0]
        ratio = saturate(ratio, LARGEST_RATIO)
        values = torch.stack([soft, square], dim=-1).reshape(*shape, self.horizon, -1)
        where = F.one_hot(centre, self.horizon).float().expand(*last.shape, -1)
        return (self._crop(values, centre, radius), where), ratio

    def radius(self, log_snr: Float32[Tensor, " level"]) -> Tensor:
        """Nearest whole radius of levels."""
        exact = log_snr / step_between(self.horizon) + (self.horizon - 1) / 2
        return exact.round().long().clamp(0, self.horizon - 1)

    def _innovations(self, rows: Tensor) -> Tensor:
        """Innovations of rows under every law: (law, row, dim), in the order of their centres."""
        news = rows.new_empty(len(self.mean), *rows.shape)
        for centre, index in enumerate(self._index()[: len(rows)]):
            part = rows[centre :: self.horizon, index] - self.mean[:, None, index]
            news[:, centre :: self.horizon] = part @ self.whitener[:, centre].mT
        return news.clamp(-FARTHEST, FARTHEST)

    def _crop(self, values: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
        """Lay frames out by their place before or after the centre; 0 outside of the crop."""
        padded = F.pad(values, (0, 0, 0, 1))  # (level, row, frame + 1, value)
        slot = self.slots[centre][..., None].expand(*centre.shape, -1, values.shape[-1])
        laid = padded.gather(2, slot)
        distance = (torch.arange(2 * self.horizon - 1) - (self.horizon - 1)).abs()
        shown = (distance <= radius[:, None]).float()[:, None, :, None]
        return (laid * shown).flatten(2)


def _place_slots(order: Tensor) -> Tensor:
    """Rank of the frame at each place relative to each centre; `horizon` where there is none."""
    horizon = len(order)
    slots = torch.full((horizon, 2 * horizon - 1), horizon)
    place = order - torch.arange(horizon)[:, None] + horizon - 1
    return slots.scatter(1, place, torch.arange(horizon).expand(horizon, -1))
