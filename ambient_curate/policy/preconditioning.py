"""Per-mode preconditioning: a linear filter predicts first, the network predicts what it leaves.

Robot actions are smooth: along most principal axes of a window there is next to no signal, and a
plain network's white error there drowns it. Karras et al. (2022, section 5) scale input and output
by one number a level. Here each principal axis has its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ambient_curate.policy.losses import signal_scale

Windows = Float[Tensor, "row horizon action"]
Levels = Float[Tensor, " row"]
Places = Int64[Tensor, " row"]


class PerMode(nn.Module):
    """Turns noised windows into what a network sees, and its output into windows.

    For windows of mean mu and covariance C = U diag(lambda) U', noised to
    ``x_t = a x_0 + sigma z``, with ``spread = a^2 lambda + sigma^2``::

        input   U diag(1 / sqrt(spread)) U' (x_t - a mu)
        x_0     mu + U diag(a lambda / spread) U' (x_t - a mu)
                   + U diag(sigma sqrt(lambda / spread)) U' output

    The second line alone is the Wiener filter, the best prediction of normal windows; input and
    target then have unit variance along every axis at every level. Input and output are windows
    again, not coordinates: neither the signs nor the order of eigenvectors matter, and a
    convolution keeps its axis. The minimiser of the squared error is as without preconditioning.

    Parameters
    ----------
    band : Tensor, int64, shape (level,)
        Which modes a noise level uses: levels at which nearly the same windows are admitted share.
    mean : Tensor, shape (band, dim)
        Of flattened windows, ``dim = horizon * action``.
    basis : Tensor, shape (band, dim, dim)
        Orthonormal columns U.
    variance : Tensor, shape (band, dim)
        Along the columns; > 0.
    """

    band: Tensor
    mean: Tensor
    basis: Tensor
    variance: Tensor

    def __init__(
        self,
        band: Int64[Tensor, " level"],
        mean: Float[Tensor, "band dim"],
        basis: Float[Tensor, "band dim dim"],
        variance: Float[Tensor, "band dim"],
    ) -> None:
        super().__init__()
        self.register_buffer("band", band)
        self.register_buffer("mean", mean)
        self.register_buffer("basis", basis)
        self.register_buffer("variance", variance)

    def whiten(self, x_t: Windows, sigma: Levels, level: Places) -> Windows:
        """Give what the network sees.

        Parameters
        ----------
        x_t : Tensor, shape (row, horizon, action)
            Noised windows.
        sigma : Tensor, shape (row,)
            Their VP levels in (0, 1].
        level : Tensor, int64, shape (row,)
            Places of these among all levels.
        """
        at = self._at(sigma, level)
        return at.leave(at.enter_noised(x_t) / torch.sqrt(at.spread)).view_as(x_t)

    def find_target(self, x0: Windows, x_t: Windows, sigma: Levels, level: Places) -> Windows:
        """Say what the network's output is compared with.

        Parameters
        ----------
        x0 : Tensor, shape (row, horizon, action)
            The windows, or their stand-ins.
        x_t, sigma, level
            As in `whiten`.
        """
        at = self._at(sigma, level)
        # the filter's error by window and noise: x0 less the filtered x_t cancels at low noise
        signal = at.enter(x0.flatten(1) - at.mean)
        noise = at.enter((x_t.flatten(1) - at.signal * x0.flatten(1)) / at.sigma)
        error = at.sigma * signal - at.signal * at.variance * noise
        return at.leave(error / torch.sqrt(at.variance * at.spread)).view_as(x0)

    def estimate_x0(self, output: Windows, x_t: Windows, sigma: Levels, level: Places) -> Windows:
        """Predict the windows from the network's output; `find_target` undone.

        Parameters
        ----------
        output : Tensor, shape (row, horizon, action)
            What the network gave.
        x_t, sigma, level
            As in `whiten`.
        """
        at = self._at(sigma, level)
        filtered = at.signal * at.variance / at.spread * at.enter_noised(x_t)
        rest = at.sigma * torch.sqrt(at.variance / at.spread) * at.enter(output.flatten(1))
        return (at.mean + at.leave(filtered + rest)).view_as(x_t)

    def _at(self, sigma: Levels, level: Places) -> "_Modes":
        band = self.band[level]
        a, s = signal_scale(sigma)[:, None], sigma[:, None]
        return _Modes(a, s, self.mean[band], self.variance[band], self.basis, band)


@dataclass(frozen=True, eq=False)
class _Modes:
    """The modes of each row, and the bases of all bands."""

    signal: Float[Tensor, "row 1"]
    sigma: Float[Tensor, "row 1"]
    mean: Float[Tensor, "row dim"]
    variance: Float[Tensor, "row dim"]
    basis: Float[Tensor, "band dim dim"]
    band: Places

    @property
    def spread(self) -> Float[Tensor, "row dim"]:
        """Variance of noised windows along each axis."""
        return self.signal**2 * self.variance + self.sigma**2

    def enter_noised(self, x_t: Windows) -> Float[Tensor, "row dim"]:
        """Coordinates of noised windows about their mean."""
        return self.enter(x_t.flatten(1) - self.signal * self.mean)

    def enter(self, flat: Float[Tensor, "row dim"]) -> Float[Tensor, "row dim"]:
        """Coordinates of centred flattened windows."""
        return self._multiply(flat, self.basis)

    def leave(self, coordinates: Float[Tensor, "row dim"]) -> Float[Tensor, "row dim"]:
        """Flattened windows of coordinates."""
        return self._multiply(coordinates, self.basis.mT)

    def _multiply(
        self, rows: Float[Tensor, "row dim"], matrices: Float[Tensor, "band dim dim"]
    ) -> Float[Tensor, "row dim"]:
        # bfloat16's error of large modes would swamp the small ones
        with torch.autocast(rows.device.type, enabled=False):
            products = rows @ matrices  # (band, row, dim): cheaper than a matrix for each row
        return products[self.band, torch.arange(len(rows), device=rows.device)]


def fit_modes(
    windows_by_band: Sequence[Float[Tensor, "_ horizon action"]],
    band: Int64[Tensor, " level"],
    *,
    floor: float,
) -> PerMode:
    """Fit the modes of each band to the windows that are admitted in it.

    Parameters
    ----------
    windows_by_band : sequence of Tensor, shape (window, horizon, action)
        Scaled windows of band 0, 1, ...; at least one each.
    band : Tensor, int64, shape (level,)
        Band of each noise level; every band is some level's.
    floor : float
        Least variance along an axis, in squared units of scaled actions; > 0.

    Returns
    -------
    PerMode
        In float32; moments and eigenvectors are computed in float64.

    Raises
    ------
    ValueError
        If a band has no windows, or `band` and `floor` are not as said.
    """
    if not floor > 0.0:
        raise ValueError(f"the least variance is {floor}: expected a number > 0")
    bands, numbered = len(windows_by_band), set(band.tolist())
    if numbered != set(range(bands)):
        raise ValueError(f"there are windows of {bands} bands, and levels of bands {numbered}")
    fitted = [_fit_band(windows.flatten(1).double(), floor) for windows in windows_by_band]
    mean, basis, variance = (torch.stack(each).float() for each in zip(*fitted, strict=True))
    return PerMode(band, mean, basis, variance)


def _fit_band(
    flat: Float[Tensor, "window dim"], floor: float
) -> tuple[Float[Tensor, " dim"], Float[Tensor, "dim dim"], Float[Tensor, " dim"]]:
    if len(flat) == 0:
        raise ValueError("a band has no windows: expected at least one")
    mean = flat.mean(dim=0)
    centred = flat - mean
    variance, basis = torch.linalg.eigh(centred.mT @ centred / len(flat))
    return mean, basis, variance.clamp(min=floor)
