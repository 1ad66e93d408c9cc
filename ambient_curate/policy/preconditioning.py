"""Per-mode preconditioning: a linear filter predicts, the network predicts the residual.

Robot actions are smooth: along most principal axes of a window there is next to no signal, and a
plain network's white error there drowns it. Karras et al. (2022, section 5) scale input and output
by one number a level. Here each principal axis has its own. The filter also knows how the robot has
just moved, which a network learns too coarsely to go on without a jolt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ambient_curate.policy.losses import signal_scale

Windows = Float[Tensor, "row horizon action"]
Levels = Float[Tensor, " row"]
Motion = Float[Tensor, "row motion"]
Places = Int64[Tensor, " row"]


STILL = 1e-6  # spread of motion, in scaled states, that is none
RIDGE = 1e-6  # of the regression on motion, in units of its variance


def find_motion(
    condition: Float[Tensor, "row condition"], motion_dim: int, action_dim: int
) -> Motion:
    """Give the observed states before the present one, less the present one.

    Parameters
    ----------
    condition : Tensor, shape (row, condition)
        Begins with the observed states, oldest first, of as many dimensions as an action.
    motion_dim : int
        Observed states before the present, times `action_dim`; 0: none.
    action_dim : int
        Dimensions of an action.
    """
    past = condition[:, :motion_dim]
    present = condition[:, motion_dim : motion_dim + action_dim]
    return past - present.repeat(1, motion_dim // action_dim)


class PerMode(nn.Module):
    """Turns noised windows into what a network sees, and its output into windows.

    For windows of mean ``mu + slope' m`` and covariance C = U diag(lambda) U', given the motion m
    that was seen, noised to ``x_t = a x_0 + sigma z``, with ``spread = a^2 lambda + sigma^2`` and
    mu standing for that mean::

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
    slope : Tensor, shape (band, motion, dim), or None
        Change of the mean by motion, in units of its spread. None: no motion is known.
    motion_scale : Tensor, shape (motion,), or None
        What turns motion into these units. None: no motion is known.
    """

    band: Tensor
    mean: Tensor
    basis: Tensor
    variance: Tensor
    slope: Tensor
    motion_scale: Tensor

    def __init__(
        self,
        band: Int64[Tensor, " level"],
        mean: Float[Tensor, "band dim"],
        basis: Float[Tensor, "band dim dim"],
        variance: Float[Tensor, "band dim"],
        slope: Float[Tensor, "band motion dim"] | None = None,
        motion_scale: Float[Tensor, " motion"] | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("band", band)
        self.register_buffer("mean", mean)
        self.register_buffer("basis", basis)
        self.register_buffer("variance", variance)
        nothing = basis[:, :0].clone(), basis[0, 0, :0].clone()
        self.register_buffer("slope", nothing[0] if slope is None else slope)
        self.register_buffer("motion_scale", nothing[1] if motion_scale is None else motion_scale)

    def see_motion(
        self, condition: Float[Tensor, "row condition"], action_dim: int
    ) -> Float[Tensor, "row motion"]:
        """Give what `find_motion` finds, in units of its spread."""
        motion = find_motion(condition, self.motion_scale.shape[0], action_dim)
        return motion * self.motion_scale

    def whiten(
        self, x_t: Windows, sigma: Levels, level: Places, motion: Motion | None = None
    ) -> Windows:
        """Give what the network sees.

        Parameters
        ----------
        x_t : Tensor, shape (row, horizon, action)
            Noised windows.
        sigma : Tensor, shape (row,)
            Their VP levels in (0, 1].
        level : Tensor, int64, shape (row,)
            Places of these among all levels.
        motion : Tensor, shape (row, motion), or None
            Seen before each window, by `see_motion`. None: nothing is known of it.
        """
        at = self._at(sigma, level, motion)
        return at.leave(at.enter_noised(x_t) / torch.sqrt(at.spread)).view_as(x_t)

    def find_target(
        self,
        x0: Windows,
        x_t: Windows,
        sigma: Levels,
        level: Places,
        motion: Motion | None = None,
    ) -> Windows:
        """Say what the network's output is compared with.

        Parameters
        ----------
        x0 : Tensor, shape (row, horizon, action)
            The windows, or their stand-ins.
        x_t, sigma, level, motion
            As in `whiten`.
        """
        at = self._at(sigma, level, motion)
        # the filter's error by window and noise: x0 less the filtered x_t cancels at low noise
        signal = at.enter(x0.flatten(1) - at.mean)
        noise = at.enter((x_t.flatten(1) - at.signal * x0.flatten(1)) / at.sigma)
        error = at.sigma * signal - at.signal * at.variance * noise
        return at.leave(error / torch.sqrt(at.variance * at.spread)).view_as(x0)

    def temper(self, error: Windows, sigma: Levels, level: Places, added: Levels) -> Windows:
        """Weigh the errors along each axis by how much of their target is signal.

        Along an axis of little variance a target that stands for the window is nearly all noise,
        which would drown what the others teach. Weights that are the same for all data at a level
        leave the minimiser where it is.

        Parameters
        ----------
        error : Tensor, shape (row, horizon, action)
            Output less target.
        sigma, level
            As in `whiten`.
        added : Tensor, shape (row,)
            Variance of stand-ins about their windows at the row's level.

        Returns
        -------
        Tensor, shape (row, horizon, action)
            Errors whose squares are those along each axis over 1 + the variance of the target's
            noise there.
        """
        at = self._at(sigma, level, None)
        noise = added[:, None] * at.spread / (at.sigma**2 * at.variance)
        return at.leave(at.enter(error.flatten(1)) / torch.sqrt(1.0 + noise)).view_as(error)

    def estimate_x0(
        self,
        output: Windows,
        x_t: Windows,
        sigma: Levels,
        level: Places,
        motion: Motion | None = None,
    ) -> Windows:
        """Predict the windows from the network's output; `find_target` undone.

        Parameters
        ----------
        output : Tensor, shape (row, horizon, action)
            What the network gave.
        x_t, sigma, level, motion
            As in `whiten`.
        """
        at = self._at(sigma, level, motion)
        filtered = at.signal * at.variance / at.spread * at.enter_noised(x_t)
        rest = at.sigma * torch.sqrt(at.variance / at.spread) * at.enter(output.flatten(1))
        return (at.mean + at.leave(filtered + rest)).view_as(x_t)

    def _at(self, sigma: Levels, level: Places, motion: Motion | None) -> "_Modes":
        band = self.band[level]
        mean = self.mean[band]
        if motion is not None:
            mean = mean + _multiply(motion, self.slope, band)
        a, s = signal_scale(sigma)[:, None], sigma[:, None]
        return _Modes(a, s, mean, self.variance[band], self.basis, band)


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
        return _multiply(flat, self.basis, self.band)

    def leave(self, coordinates: Float[Tensor, "row dim"]) -> Float[Tensor, "row dim"]:
        """Flattened windows of coordinates."""
        return _multiply(coordinates, self.basis.mT, self.band)


def _multiply(
    rows: Float[Tensor, "row one"], matrices: Float[Tensor, "band one other"], band: Places
) -> Float[Tensor, "row other"]:
    # bfloat16's error of large modes would swamp the small ones
    with torch.autocast(rows.device.type, enabled=False):
        products = rows @ matrices  # (band, row, other): cheaper than a matrix for each row
    return products[band, torch.arange(len(rows), device=rows.device)]


def fit_modes(
    windows_by_band: Sequence[Float[Tensor, "_ horizon action"]],
    band: Int64[Tensor, " level"],
    *,
    floor: float,
    motion_by_band: Sequence[Motion] | None = None,
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
    motion_by_band : sequence of Tensor, shape (window, motion), or None
        Before each window, by `find_motion`. None: nothing is known of it.

    Returns
    -------
    PerMode
        In float32; moments and eigenvectors are computed in float64.

    Raises
    ------
    ValueError
        If a band has no windows, or `band` and `floor` are not as described.
    """
    if not floor > 0.0:
        raise ValueError(f"the least variance is {floor}: expected a number > 0")
    bands, numbered = len(windows_by_band), set(band.tolist())
    if numbered != set(range(bands)):
        raise ValueError(f"there are windows of {bands} bands, and levels of bands {numbered}")
    if motion_by_band is None:
        motion_by_band = [windows.new_empty(len(windows), 0) for windows in windows_by_band]
    spread = torch.cat(list(motion_by_band)).double().square().mean(dim=0).sqrt()
    scale = torch.where(spread > STILL, 1.0 / spread.clamp(min=STILL), 0.0)
    fitted = [
        _fit_band(windows.flatten(1).double(), motion.double() * scale, floor)
        for windows, motion in zip(windows_by_band, motion_by_band, strict=True)
    ]
    mean, basis, variance, slope = (torch.stack(each).float() for each in zip(*fitted, strict=True))
    return PerMode(band, mean, basis, variance, slope, scale.float())


def _fit_band(
    flat: Float[Tensor, "window dim"], motion: Float[Tensor, "window motion"], floor: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fit mean, basis, variance and slope."""
    if len(flat) == 0:
        raise ValueError("a band has no windows: expected at least one")
    middle, usual = flat.mean(dim=0), motion.mean(dim=0)
    centred, moved = flat - middle, motion - usual
    gram = moved.mT @ moved / len(flat) + RIDGE * torch.eye(motion.shape[1]).to(motion)
    slope = torch.linalg.solve(gram, moved.mT @ centred / len(flat))
    left = centred - moved @ slope
    variance, basis = torch.linalg.eigh(left.mT @ left / len(flat))
    return middle - usual @ slope, basis, variance.clamp(min=floor), slope
