"""Losses of a diffusion policy, and how sigma_min enters them.

Two losses teach the same thing. The denoising loss takes its target from the window x_0. The
ambient loss only sees the window as it is at its sigma_min, n for short, and noises that one
further (Daras et al. 2024, arXiv 2404.10177). With ``a = sqrt(1 - sigma^2)``, levels n < t and
``D = sigma_t^2 - sigma_n^2``::

    x_n = a_n x_0 + sigma_n z_1              x_t = (a_t / a_n) x_n + sqrt(D) / a_n z_2
    x~_0 = (sigma_t^2 a_n x_n - sigma_n^2 a_t x_t) / D

``E[x~_0 | x_t] = E[x_0 | x_t]``: the stand-in x~_0 is right on average, with an added variance of
``sigma_n^2 sigma_t^2 / D``. So with z_1 drawn afresh at every visit, and errors weighted by
anything that depends on (x_t, t) only, both losses have one minimiser. The ambient loss removes no
bias that sigma_min leaves in; it is noisier.

Errors are compared in units of x_0, or in units that x_t and t turn into these, as every
`Prediction` is. The residual of x_n, ``A h + B x_t - x_n`` with ``A = D / (sigma_t^2 a_n)`` and
``B = sigma_n^2 a_t / (sigma_t^2 a_n)``, weighs a datum by its own A^2; where sigma_min differs by
datum it has another minimiser.

The stand-in for the noise is ``(x_t - a_t x~_0) / sigma_t``, that is::

    [sigma_t a_n^2 / D] x_t - [sigma_t a_t a_n / D] x_n  =  z_2 sigma_t a_n / sqrt(D)

The slides of the talk of April 10, 2026 have a coefficient of x_t that is larger by
``sigma_t / a_t``; with it the loss teaches something else, even at sigma_min = 0.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Prediction = Literal["sample", "epsilon", "v", "flow"]

Windows = Float[Tensor, "row horizon action"]
Levels = Float[Tensor, " row"]


@dataclass(frozen=True, eq=False)
class Noised:
    """Noised windows and what they are made of: ``x_t = a x0 + sigma noise``.

    Parameters
    ----------
    x_t : Tensor, shape (row, horizon, action)
        What the network sees.
    x0 : Tensor, shape (row, horizon, action)
        The windows, or with the ambient loss their stand-ins.
    noise : Tensor, shape (row, horizon, action)
        What takes `x0` to `x_t`; for windows themselves it is the noise that was drawn.
    """

    x_t: Windows
    x0: Windows
    noise: Windows


def signal_scale(sigma: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return the factor a = sqrt(1 - sigma^2) of the signal at VP `sigma` in [0, 1]."""
    return torch.sqrt((1.0 - sigma) * (1.0 + sigma))  # 1 - sigma^2 loses its digits near 1


def noise_windows(x0: Windows, sigma: Levels, z: Windows) -> Noised:
    """Noise windows in one stage, for the denoising loss.

    Parameters
    ----------
    x0 : Tensor, shape (row, horizon, action)
        Scaled windows.
    sigma : Tensor, shape (row,)
        VP levels in (0, 1].
    z : Tensor, shape (row, horizon, action)
        Standard normal noise.

    Raises
    ------
    ValueError
        If a shape is another, or a level leaves its range.
    """
    _check_shapes(x0, z, sigma)
    _check_levels(sigma)
    return Noised(_rows(signal_scale(sigma)) * x0 + _rows(sigma) * z, x0, z)


def noise_further(
    x0: Windows,
    sigma_min: Levels,
    sigma: Levels,
    z_first: Windows,
    z_second: Windows,
    *,
    buffer: float,
) -> Noised:
    """Noise windows in two stages, to sigma_min and further, for the ambient loss.

    Rows that are not beyond the buffer (`is_beyond_buffer`), and rows whose sigma_min is 0, become
    exactly ``noise_windows(x0, sigma, z_second)``.

    Parameters
    ----------
    x0 : Tensor, shape (row, horizon, action)
        Scaled windows.
    sigma_min, sigma : Tensor, shape (row,)
        VP levels: of the first stage in [0, 1], and where to in (0, 1].
    z_first, z_second : Tensor, shape (row, horizon, action)
        Standard normal noise of either stage, independent and fresh at every visit of a window.
    buffer : float
        See `is_beyond_buffer`.

    Returns
    -------
    Noised
        With stand-ins for the window and its noise.

    Raises
    ------
    ValueError
        If `buffer` is not above 1, a shape is another, or a level leaves its range.
    """
    for noise, level in ((z_first, sigma_min), (z_second, sigma)):
        _check_shapes(x0, noise, level)
    _check_levels(sigma)
    if not bool(((sigma_min >= 0.0) & (sigma_min <= 1.0)).all()):
        raise ValueError("sigma_min leaves [0, 1], or is not a number")
    beyond = is_beyond_buffer(sigma_min, sigma, buffer)
    trusted = torch.where(beyond, sigma_min, 0.0)  # no first stage: both losses agree to the bit
    ratio = _rows(_ve_ratio(trusted, sigma))
    first = _rows(trusted / signal_scale(trusted))  # VE noise of the first stage
    share = torch.sqrt((1.0 - ratio) * (1.0 + ratio))  # sqrt(D) / (sigma_t a_n)
    y_n = x0 + first * z_first  # x_n / a_n
    x_t = _rows(signal_scale(sigma)) * y_n + _rows(sigma) * share * z_second
    noise = z_second / share
    return Noised(x_t, y_n - first * ratio * noise, noise)


def is_beyond_buffer(sigma_min: Levels, sigma: Levels, buffer: float) -> Bool[Tensor, " row"]:
    """Say which rows are far enough above their sigma_min for the ambient loss.

    Just above sigma_min the stand-in is nearly all noise. With the levels as VE noise
    ``s = sigma / a``, a row is beyond the buffer where ``s > s_min`` and the weight
    ``s^4 / (s^2 - s_min^2)^2``, that of x_n's squared residual when it is put in units of x_0, is
    at most `buffer`.

    Parameters
    ----------
    sigma_min, sigma : Tensor, shape (row,)
        VP levels, in [0, 1] and (0, 1].
    buffer : float
        Largest weight, > 1; 4 means ``s >= 1.41 s_min``.

    Returns
    -------
    Tensor, bool, shape (row,)
        True too where sigma_min is 0 and the weight 1.

    Raises
    ------
    ValueError
        If `buffer` is not above 1.
    """
    if not buffer > 1.0:
        raise ValueError(f"the buffer is {buffer}: the weight it limits is never below 1")
    ratio = _ve_ratio(sigma_min, sigma)
    return (sigma > sigma_min) & (((1.0 - ratio) * (1.0 + ratio)) ** 2 * buffer >= 1.0)


def find_added(
    sigma_min: Float[Tensor, " datum"], sigma: Float[Tensor, " level"], *, buffer: float
) -> Float[Tensor, " level"]:
    """Find the largest variance of a stand-in about its window at every level, 0 for windows.

    Parameters
    ----------
    sigma_min : Tensor, shape (datum,)
        VP levels in [0, 1] of all data.
    sigma : Tensor, shape (level,)
        VP levels in (0, 1].
    buffer : float
        As in `noise_further`.
    """
    lowest = torch.unique(sigma_min)
    most = []
    for level in sigma:
        rows = level.expand(lowest.shape)
        beyond = is_beyond_buffer(lowest, rows, buffer)
        trusted = torch.where(beyond, lowest, 0.0)
        first, ratio = trusted / signal_scale(trusted), _ve_ratio(trusted, rows)
        most.append((first.square() / ((1.0 - ratio) * (1.0 + ratio))).max())
    return torch.stack(most)


def find_target(prediction: Prediction, noised: Noised, sigma: Levels) -> Windows:
    """Say what a network's output is compared with.

    Parameters
    ----------
    prediction : {"sample", "epsilon", "v", "flow"}
        The window, its noise, ``a noise - sigma x0`` (Salimans and Ho 2022) or ``noise - x0`` (the
        velocity of flow matching, with noise at time 1).
    noised : Noised
        Of either loss.
    sigma : Tensor, shape (row,)
        VP levels in (0, 1].
    """
    match prediction:
        case "sample":
            return noised.x0
        case "epsilon":
            return noised.noise
        case "v":
            return _rows(signal_scale(sigma)) * noised.noise - _rows(sigma) * noised.x0
        case "flow":
            return noised.noise - noised.x0
    raise _unknown(prediction)


def estimate_x0(prediction: Prediction, output: Windows, x_t: Windows, sigma: Levels) -> Windows:
    """Predict the window from a network's output; `find_target` undone.

    Flow matching has its own ``x_tau = (1 - tau) x_0 + tau noise = R x_t``, with
    ``tau = sigma / (sigma + a)`` and ``R = sqrt((1 - tau)^2 + tau^2) = 1 / (sigma + a)``, and
    ``x_0 = x_tau - tau output``.

    Parameters
    ----------
    prediction : {"sample", "epsilon", "v", "flow"}
        What the output stands for.
    output, x_t : Tensor, shape (row, horizon, action)
        What the network gave and what is noised.
    sigma : Tensor, shape (row,)
        VP levels in (0, 1]; below 1 for epsilon, since the noise of pure noise tells no window.
    """
    a, s = _rows(signal_scale(sigma)), _rows(sigma)
    match prediction:
        case "sample":
            return output
        case "epsilon":
            return (x_t - s * output) / a
        case "v":
            return a * x_t - s * output
        case "flow":
            return (x_t - s * output) / (s + a)
    raise _unknown(prediction)


def _ve_ratio(sigma_min: Levels, sigma: Levels) -> Levels:
    """VE noise at sigma_min over VE noise at sigma; finite at sigma = 1."""
    return sigma_min * signal_scale(sigma) / (sigma * signal_scale(sigma_min))


def _check_shapes(x0: Tensor, z: Tensor, sigma: Tensor) -> None:
    """Refuse what PyTorch would broadcast: one noise for many windows, say."""
    if x0.ndim != 3 or z.shape != x0.shape or sigma.shape != x0.shape[:1]:
        found = [tuple(each.shape) for each in (x0, z, sigma)]
        raise ValueError(
            f"windows, noise and levels have shapes {found}: expected (row, horizon, action) "
            "twice, and (row,)"
        )


def _check_levels(sigma: Tensor) -> None:
    if not bool(((sigma > 0.0) & (sigma <= 1.0)).all()):
        raise ValueError("sigma leaves (0, 1], or is not a number")


def _rows(values: Levels) -> Float[Tensor, "row 1 1"]:
    return values[:, None, None]


def _unknown(prediction: str) -> ValueError:
    return ValueError(f"prediction {prediction!r} is none of {get_args(Prediction)}")
