"""The noise channel: canonical levels sigma in (0, 1), their units, and grids.

The canonical level is VP ``sigma`` in [0, 1]: ``x_sigma = sqrt(1 - sigma^2) x_0 + sigma z`` with
``z ~ N(0, I)``, on normalised actions. Trainers speak other units; at equal signal-to-noise ratio
they describe one channel (method.md section 1).
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32
from numpy.typing import ArrayLike

from ambient_curate.errors import ConfigError

BASE_LEVELS = 32
LOWEST_FLOW = 0.002
SCHEDULES = (
    "squaredcos_cap_v2:T",
    "linear:T",
    "scaled_linear:T",
    "flow:N",
    "flow-reversed:N",
    "edm:N",
)

Levels = Float[np.ndarray, " level"]
Numbers = ArrayLike | float | int  # run-time checkers take no float for ArrayLike's complex


def sigma_from_ve(noise_std: Numbers) -> np.ndarray:
    """VP sigma of VE/EDM noise of standard deviation `noise_std` >= 0 (noise over signal).

    Examples
    --------
    >>> float(sigma_from_ve(0.75))
    0.6
    """
    noise_std = np.asarray(noise_std, dtype=np.float64)
    return np.asarray(noise_std / np.sqrt(1.0 + noise_std**2))


def ve_from_sigma(sigma: Numbers) -> np.ndarray:
    """VE/EDM noise standard deviation of VP `sigma` in [0, 1); 1 gives inf."""
    sigma = np.asarray(sigma, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray(sigma / signal_scale(sigma))


def signal_scale(sigma: Numbers) -> np.ndarray:
    """Return the factor a = sqrt(1 - sigma^2) of the signal at VP `sigma` in [0, 1]."""
    sigma = np.asarray(sigma, dtype=np.float64)
    return np.asarray(np.sqrt((1.0 - sigma) * (1.0 + sigma)))


def sigma_from_flow(time: Numbers) -> np.ndarray:
    """VP sigma of flow matching at `time` in [0, 1], where ``x = (1 - time) x_0 + time z``.

    openpi, pi0 and SmolVLA count this way. GR00T's time runs backwards: pass ``1 - time``.
    """
    time = np.asarray(time, dtype=np.float64)
    return np.asarray(time / np.hypot(1.0 - time, time))


def flow_from_sigma(sigma: Numbers) -> np.ndarray:
    """Flow-matching time in [0, 1] (1 is noise) of VP `sigma` in [0, 1]."""
    sigma = np.asarray(sigma, dtype=np.float64)
    return np.asarray(sigma / (sigma + signal_scale(sigma)))


def log_snr(sigma: Numbers) -> np.ndarray:
    """Logarithm of the signal-to-noise power ratio, ``-2 ln(VE noise)``, of `sigma` in (0, 1)."""
    return np.asarray(-2.0 * np.log(ve_from_sigma(sigma)))


def sigma_from_log_snr(value: Numbers) -> np.ndarray:
    """VP sigma in (0, 1) of a log signal-to-noise ratio; inverse of `log_snr`."""
    return sigma_from_ve(np.exp(-0.5 * np.asarray(value, dtype=np.float64)))


def schedule_levels(schedule: str) -> Levels:
    """VP noise levels a trainer visits, in the order of its own index.

    Parameters
    ----------
    schedule : str
        ``squaredcos_cap_v2:T``, ``linear:T`` or ``scaled_linear:T`` (DDPM betas of diffusers, steps
        0..T-1), ``flow:N`` (times 1/N..1), ``flow-reversed:N`` (times 0..1-1/N, data at 1), or
        ``edm:N`` (the N levels of Karras et al. 2022, equation 5, 0.002 to 80, rho 7, rising).

    Returns
    -------
    ndarray, float64, shape (level,)
        Levels in (0, 1].

    Raises
    ------
    ConfigError
        If the name or the count is not one of these.

    Examples
    --------
    >>> schedule_levels("squaredcos_cap_v2:100")[[0, 3, 50]].round(4).tolist()
    [0.0251, 0.0737, 0.7223]
    """
    name, _, count = schedule.partition(":") if isinstance(schedule, str) else ("", "", "")
    maker = _MAKERS.get(name)
    if maker is None or not count.isdecimal() or not 2 <= int(count) <= 100_000:
        raise ConfigError(
            f"schedule {schedule!r} is not known",
            f"use one of {', '.join(SCHEDULES)}, T and N >= 2",
        )
    return maker(int(count))


def grid(schedule: str, *, base_levels: int = BASE_LEVELS) -> Levels:
    """Noise levels of an annotation: every level of the trainer below 1, and a log-SNR lattice.

    Parameters
    ----------
    schedule : str
        As for `schedule_levels`.
    base_levels : int, default 32
        Points of the lattice, uniform in log-SNR between the trainer's lowest and highest level
        (at the highest, at most VE noise 20, beyond which nothing changes). Flow matching trains
        at continuous times, so its lattice begins at sigma 0.002 (`LOWEST_FLOW`). A lattice point
        nearer than a hundredth of its spacing to a trainer's level gives way to it.

    Returns
    -------
    ndarray, float64, shape (level,)
        Strictly rising, all in (0, 1).
    """
    trainer = np.unique(schedule_levels(schedule))
    trainer = trainer[(trainer > 0.0) & (trainer < 1.0)]
    lowest = min(trainer[0], LOWEST_FLOW) if schedule.startswith("flow") else trainer[0]
    lattice = np.linspace(log_snr(lowest), log_snr(trainer[-1]), base_levels)
    high = -2.0 * np.log(20.0)
    if lattice[-1] < high:
        lattice = np.linspace(lattice[0], max(lattice[-1], high), base_levels)
    spacing = abs(lattice[1] - lattice[0])
    distance = np.abs(lattice[:, None] - log_snr(trainer)[None, :]).min(axis=1)
    return np.unique(
        np.concatenate([trainer, sigma_from_log_snr(lattice[distance > spacing / 100])])
    )


def first_admissible_index(sigma_min: float, schedule: str) -> int | None:
    """Smallest index of the trainer's own schedule from which on a level lies above `sigma_min`.

    Returns
    -------
    int or None
        Index in the order of `schedule_levels`; None if no level lies above. For
        ``flow-reversed`` noise falls with the index, and the last admissible index is returned.
    """
    admissible = np.flatnonzero(schedule_levels(schedule) > sigma_min)
    if admissible.size == 0:
        return None
    return int(admissible[-1] if schedule.startswith("flow-reversed") else admissible[0])


def draw_pairs(
    rng: np.random.Generator, windows: int, draws: int, dim: int
) -> Float32[np.ndarray, "window draw dim"]:
    """Draw standard normal noise for windows in antithetic pairs: half is the other, negated.

    What is odd in the noise, most of what a probability near 1/2 varies by, cancels in their mean.

    Parameters
    ----------
    rng : Generator
        Source of the first half.
    windows, draws, dim : int
        Shape; `draws` is even.

    Raises
    ------
    ValueError
        If `draws` is odd.
    """
    if draws % 2:
        raise ValueError(f"{draws} draws are no pairs")
    half = rng.standard_normal((windows, draws // 2, dim), dtype=np.float32)
    return np.concatenate([half, -half], axis=1)


def _squaredcos(steps: int) -> Levels:
    time = np.arange(steps + 1, dtype=np.float64) / steps
    alpha_bar = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    return _from_betas(betas)


def _from_betas(betas: np.ndarray) -> Levels:
    # -expm1(sum log1p) keeps the digits of 1 - alpha_bar where alpha_bar is near 1
    return np.sqrt(-np.expm1(np.cumsum(np.log1p(-betas))))


def _linear(steps: int) -> Levels:
    return _from_betas(np.linspace(1e-4, 0.02, steps))


def _scaled_linear(steps: int) -> Levels:
    return _from_betas(np.linspace(1e-4**0.5, 0.02**0.5, steps) ** 2)


def _flow(steps: int) -> Levels:
    return sigma_from_flow(np.arange(1, steps + 1) / steps)


def _edm(steps: int) -> Levels:
    ramp = np.linspace(0.0, 1.0, steps)
    return sigma_from_ve((0.002 ** (1 / 7) + ramp * (80.0 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7)


_MAKERS: dict[str, Callable[[int], Levels]] = {
    "squaredcos_cap_v2": _squaredcos,
    "linear": _linear,
    "scaled_linear": _scaled_linear,
    "flow": _flow,
    "flow-reversed": lambda steps: _flow(steps)[::-1].copy(),
    "edm": _edm,
}
