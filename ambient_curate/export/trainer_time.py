"""Noise levels in a trainer's own time, and the time from which a window may be used."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Float64

from ambient_curate.errors import ConfigError
from ambient_curate.noise import (
    flow_from_sigma,
    schedule_levels,
    sigma_from_ve,
    ve_from_sigma,
)

CONTINUOUS = ("edm", "flow", "flow-reversed")
DISCRETE = ("squaredcos_cap_v2:T", "linear:T", "scaled_linear:T")
Levels = Float64[np.ndarray, " row"]


@dataclass(frozen=True)
class Clock:
    """A trainer's time.

    Parameters
    ----------
    schedule : str
        ``squaredcos_cap_v2:T``, ``linear:T`` or ``scaled_linear:T``: steps 0 to T - 1, rising
        noise. ``edm``: the standard deviation of the noise. ``flow``: 0 is data, 1 noise.
        ``flow-reversed``: 0 is noise, 1 data, as in GR00T.

    Raises
    ------
    ConfigError
        If the schedule is none of these.
    """

    schedule: str

    def __post_init__(self) -> None:
        name = self.schedule.partition(":")[0]
        if self.schedule in CONTINUOUS:
            return
        if f"{name}:T" not in DISCRETE:
            raise ConfigError(
                f"schedule {self.schedule!r} is not known to export",
                f"use one of {', '.join((*DISCRETE, *CONTINUOUS))}",
            )
        schedule_levels(self.schedule)

    @property
    def is_discrete(self) -> bool:
        """Whether time is counted in steps."""
        return self.schedule not in CONTINUOUS

    @property
    def steps(self) -> int:
        """Number of steps, of a discrete time."""
        return len(self.levels)

    @property
    def rule(self) -> str:
        """When a window may be used, in terms of `after` and `until`, for people."""
        if self.is_discrete:
            return "usable at steps t >= t_min and at t <= t_max"
        if self.schedule == "flow-reversed":
            return "usable at times t < t_min and at t >= t_max"
        return "usable at times t > t_min and at t <= t_max"

    def after(self, sigma_min: Levels) -> np.ndarray:
        """Say from when on there is more noise than `sigma_min`; NaN and 1: never.

        Returns
        -------
        ndarray, int64 or float64, shape (row,)
            Of steps the first one, T if there is none. Of continuous times the bound itself, which
            is not usable.
        """
        sigma = np.nan_to_num(np.asarray(sigma_min, dtype=np.float64), nan=1.0)
        if self.is_discrete:
            return np.searchsorted(self.levels, sigma, side="right").astype(np.int64)
        return self._translate(sigma)

    def until(self, sigma_max: Levels) -> np.ndarray:
        """Say until when there is no more noise than `sigma_max`; NaN and 0: never.

        Returns
        -------
        ndarray, int64 or float64, shape (row,)
            Of steps the last one, -1 if there is none. Of continuous times the bound itself, which
            is usable.
        """
        sigma = np.nan_to_num(np.asarray(sigma_max, dtype=np.float64), nan=0.0)
        if self.is_discrete:
            return np.searchsorted(self.levels, sigma, side="right").astype(np.int64) - 1
        return self._translate(sigma)

    def share(self, sigma_min: Levels, sigma_max: Levels) -> Levels:
        """Share of the trainer's times at which a window may be used.

        Of steps all count alike. Of flows time is uniform; of ``edm`` the logarithm of the noise is
        normal with mean -1.2 and standard deviation 1.2 (Karras et al. 2022, table 1).
        """
        after, until = self.after(sigma_min), self.until(sigma_max)
        if self.is_discrete:
            steps = len(self.levels)
            return np.minimum(1.0, (steps - after + until + 1) / steps)
        if self.schedule == "edm":
            from scipy.special import ndtr

            with np.errstate(divide="ignore"):
                after, until = (ndtr((np.log(time) + 1.2) / 1.2) for time in (after, until))
            return np.minimum(1.0, 1.0 - after + until)
        if self.schedule == "flow-reversed":
            after, until = 1.0 - after, 1.0 - until
        return np.minimum(1.0, 1.0 - after + until)

    @cached_property
    def levels(self) -> np.ndarray:
        """VP noise levels of the steps of a discrete time, rising."""
        return schedule_levels(self.schedule)

    def _translate(self, sigma: np.ndarray) -> np.ndarray:
        if self.schedule == "edm":
            return ve_from_sigma(sigma)
        time = flow_from_sigma(sigma)
        return 1.0 - time if self.schedule == "flow-reversed" else time


def rescale(sigma: Levels, factor: float) -> Levels:
    """Give the noise levels of actions that are `factor` times as large; NaN stays NaN."""
    if factor == 1.0:
        return sigma
    inside = np.where(sigma < 1.0, sigma, 0.0)  # 1 is pure noise at any scale
    found = sigma_from_ve(ve_from_sigma(inside) * factor)
    return np.where(sigma < 1.0, found, sigma)


def round_outward(
    sigma_min: Levels, sigma_max: Levels
) -> tuple[Float32[np.ndarray, " row"], Float32[np.ndarray, " row"]]:
    """Round to float32, up and down, so that no level is admitted that was not."""
    low, high = sigma_min.astype(np.float32), sigma_max.astype(np.float32)
    low = np.where(low < sigma_min, np.nextafter(low, np.float32(2.0)), low)
    return low, np.where(high > sigma_max, np.nextafter(high, np.float32(-1.0)), high)
