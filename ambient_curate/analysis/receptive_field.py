"""Receptive fields: the frames a denoiser depends on, by theory and by its Jacobian.

At a noise level the derivative of one frame of the predicted window by every noised frame is the
denoiser's sensitivity; its radius is the smallest that holds 95 % of its square. For a stationary
normal process the best denoiser is the Wiener filter of its power spectral density (method.md
section 12). A window's own covariance, with its two ends, is the business of `fields`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from ambient_curate.analysis.spectra import (
    Spectrum,
)
from ambient_curate.noise import signal_scale, ve_from_sigma

SHARE = 0.95  # of the squared sensitivity that a field holds

Denoise = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """What one predicted frame depends on, at several noise levels.

    Parameters
    ----------
    sigma : ndarray, float64, shape (level,)
        VP noise levels in (0, 1).
    offset : ndarray, int64, shape (frame,)
        Noised frames, counted from the predicted one: rising, 0 is the frame itself.
    square : ndarray, float64, shape (level, frame)
        Mean squared Frobenius norm of ``d x0^_k / d y_i``, y the window under VE noise: summed
        over the dimensions of both, so that D independent dimensions that are passed unchanged
        give D at offset 0.
    """

    sigma: Float64[np.ndarray, " level"]
    offset: Int64[np.ndarray, " frame"]
    square: Float64[np.ndarray, "level frame"]

    @property
    def radius(self) -> Int64[np.ndarray, " level"]:
        """Smallest radius that holds `SHARE` of the square, at every level, in frames."""
        distance = np.abs(self.offset)
        rings = np.stack([self.square[:, distance <= r].sum(axis=1) for r in np.unique(distance)])
        enough = rings >= SHARE * rings[-1]
        return np.unique(distance)[enough.argmax(axis=0)].astype(np.int64)


def wiener_sensitivity(
    power: Float[np.ndarray, "bin dim"], sigma: Float[np.ndarray, " level"]
) -> Sensitivity:
    """Sensitivity of the best denoiser of a stationary normal process, dimension by dimension.

    The filter's gain at a frequency is ``S / (S + s^2)``, s the VE noise, and its inverse Fourier
    transform the derivative of a frame by those around it. For other processes it is the best
    linear denoiser.

    Parameters
    ----------
    power : ndarray, shape (bin, dim)
        Two-sided power S >= 0 at the frequencies 0, 1/N, ..., 1/2 cycles a frame: N / 2 + 1 bins.
        The process repeats after N frames: choose N much larger than the field.
    sigma : ndarray, shape (level,)
        VP noise levels in (0, 1).

    Raises
    ------
    ValueError
        If a level is not between 0 and 1.

    References
    ----------
    Wiener, Extrapolation, Interpolation and Smoothing of Stationary Time Series, 1949, chapter 3.
    """
    sigma = np.asarray(sigma, dtype=np.float64)
    if ((sigma <= 0.0) | (sigma >= 1.0)).any():
        raise ValueError(f"noise levels {sigma.tolist()}: expected levels between 0 and 1")
    frames = 2 * (len(power) - 1)
    noise = ve_from_sigma(sigma)[:, None, None] ** 2
    kernel = np.fft.irfft(power / (power + noise), frames, axis=1)
    offset = np.arange(frames) - frames // 2
    square = np.fft.fftshift(np.square(kernel), axes=1).sum(axis=2)
    return Sensitivity(sigma, offset, square)


def spectrum_sensitivity(
    spectrum: Spectrum, sigma: Float[np.ndarray, " level"], *, frames: int | None = None
) -> Sensitivity:
    """Sensitivity of the best linear denoiser of a dataset, from its mean power.

    The power at frequency 0, where the spectrum has none, is taken from the lowest frequency:
    postures that do not move for a whole segment add nothing to it.

    Parameters
    ----------
    spectrum : Spectrum
        Of actions as the noise meets them.
    sigma : ndarray, shape (level,)
        VP noise levels in (0, 1).
    frames : int or None
        Keep offsets below half of this, as a window of so many frames has. None: all.
    """
    mean = spectrum.power.mean(axis=0)
    if spectrum.segment % 2:  # an even number of frames has a highest frequency of 1/2
        grid = np.linspace(0.0, 0.5, len(mean) + 1)[1:]
        mean = np.stack([np.interp(grid, spectrum.frequency, column) for column in mean.T], axis=1)
    whole = wiener_sensitivity(np.concatenate([mean[:1], mean]), sigma)
    if frames is None:
        return whole
    kept = (whole.offset >= -(frames // 2)) & (whole.offset < frames - frames // 2)
    return Sensitivity(whole.sigma, whole.offset[kept], whole.square[:, kept])


def measure_sensitivity(
    denoise: Callable[[int], Denoise],
    windows: Float32[Tensor, "row horizon action"],
    sigma: Float[np.ndarray, " level"],
    *,
    generator: torch.Generator,
    middle: int | None = None,
) -> Sensitivity:
    """Sensitivity of a denoiser, from its Jacobian at noised windows.

    Parameters
    ----------
    denoise : callable
        Given the number of a level in `sigma`, a function that estimates the windows under noised
        ones ``a x0 + sigma z``, row by row: (row, horizon, action) to the same. A row must not
        depend on the others.
    windows : Tensor, float32, shape (row, horizon, action)
        Windows, best such as it was not trained on.
    sigma : ndarray, shape (level,)
        VP noise levels in (0, 1).
    generator : torch.Generator
        Source of the noise, the same at every level.
    middle : int or None
        The predicted frame k. None: horizon // 2.
    """
    sigma = np.asarray(sigma, dtype=np.float64)
    horizon = windows.shape[1]
    middle = horizon // 2 if middle is None else middle
    noise = torch.randn(windows.shape, generator=generator)
    squares = []
    for number, level in enumerate(sigma.tolist()):
        signal = float(signal_scale(level))
        jacobian = frame_jacobian(denoise(number), signal * windows + level * noise, middle)
        # y = x_sigma / a, so that a derivative by y is a times that by x_sigma
        mean = (signal * jacobian).square().sum(dim=(0, 3)).mean(dim=0, dtype=torch.float64)
        squares.append(mean.numpy())
    return Sensitivity(sigma, np.arange(horizon, dtype=np.int64) - middle, np.stack(squares))


def frame_jacobian(
    denoise: Denoise, noised: Float32[Tensor, "row horizon action"], frame: int
) -> Float32[Tensor, "output row horizon action"]:
    """Differentiate one predicted frame by all noised ones, of every row at once.

    Rows do not depend on each other, so that the derivative of the sum over rows holds that of
    each: as many backward passes as an action has dimensions, vectorised.
    """

    def predicted(x: Tensor) -> Tensor:
        return denoise(x)[:, frame].sum(dim=0)

    return torch.func.jacrev(predicted)(noised).detach()


class Field(NamedTuple):
    """What the middle frame of a dataset's windows depends on, by one way to find it.

    Parameters
    ----------
    name : str
        Of the dataset, or of the policy.
    way : str
        How it was found: closed form or Jacobian.
    sensitivity : Sensitivity
        At several levels.
    """

    name: str
    way: str
    sensitivity: Sensitivity
