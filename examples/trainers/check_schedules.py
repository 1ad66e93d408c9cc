"""Compares noise levels and usable times with what diffusers' own schedulers do to actions.

``python check_schedules.py``, in the environment of LeRobot, which has diffusers. A scheduler
noises zeros, and ones without noise: that tells its noise and its signal at every time.
"""

import sys

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from ambient_curate.export.trainer_time import Clock

STEPS = 100


def levels_of(add_noise, times) -> np.ndarray:
    """VP noise levels at all times, float64."""
    found = []
    for time in times:
        at = time.reshape(1)
        signal = add_noise(torch.ones(1, 1), torch.zeros(1, 1), at).double()
        noise = add_noise(torch.zeros(1, 1), torch.ones(1, 1), at).double()
        found.append(float(noise / torch.hypot(signal, noise)))
    return np.array(found)


def judge(name: str, clock: Clock, sigma: np.ndarray, time: np.ndarray) -> None:
    """Compare the times from which levels are exceeded with the times that have them."""
    error = (np.abs(clock.after(sigma) - time) / np.maximum(time, 1.0)).max()
    sys.stdout.write(f"{name}: {len(sigma)} levels, largest error of time {error:.1e}\n")
    assert error < 1e-6


def main() -> None:
    """Compare them all."""
    for schedule in ("squaredcos_cap_v2", "linear", "scaled_linear"):
        for kind in (DDPMScheduler, DDIMScheduler):
            made = kind(num_train_timesteps=STEPS, beta_schedule=schedule)
            sigma = levels_of(made.add_noise, torch.arange(STEPS))
            # of powers: float32 holds a small level, the root of 1 - its signal's, more coarsely
            error = np.abs(Clock(f"{schedule}:{STEPS}").levels ** 2 - sigma**2).max()
            sys.stdout.write(f"{kind.__name__} {schedule}: largest error of power {error:.1e}\n")
            assert error < 1e-6
    made = EDMEulerScheduler(sigma_data=1.0)
    made.set_timesteps(STEPS)
    noise = made.sigmas[:-1].double().numpy()
    judge("EDMEulerScheduler", Clock("edm"), noise / np.sqrt(1 + noise**2), noise)
    made = FlowMatchEulerDiscreteScheduler(num_train_timesteps=STEPS)
    made.set_timesteps(STEPS)
    at = made.timesteps
    sigma = levels_of(lambda x, z, t: made.scale_noise(x, t, z), at)
    judge("FlowMatchEulerDiscreteScheduler", Clock("flow"), sigma, at.double().numpy() / STEPS)
    judge("and reversed", Clock("flow-reversed"), sigma, 1 - at.double().numpy() / STEPS)


if __name__ == "__main__":
    main()
