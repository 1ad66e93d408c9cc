"""Push-T (Chi et al. 2023), observed as six numbers and without a display.

The observation is the agent's x and y, the block's x and y, and the cosine and sine of its angle:
the angle itself would jump where it passes zero.
"""

import os
from typing import Any

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import gym_pusht  # noqa: F401  registers the environment
import gymnasium as gym
import numpy as np

SIZE = 512  # pixels; the agent and its target lie in [0, SIZE]^2
RATE_HZ = 10.0
MOST_FRAMES = 300


def make() -> gym.Env[Any, Any]:
    """Make an environment; an episode ends at 95 % coverage, or after `MOST_FRAMES`."""
    environment = gym.make("gym_pusht/PushT-v0", obs_type="state", disable_env_checker=True)
    environment = gym.wrappers.ClipAction(environment)
    low, high = np.array([0, 0, 0, 0, -1, -1.0]), np.array([SIZE] * 4 + [1, 1.0])
    space = gym.spaces.Box(low, high, dtype=np.float64)
    return gym.wrappers.TransformObservation(environment, unroll_angle, space)


def unroll_angle(observation: np.ndarray) -> np.ndarray:
    """Give the cosine and the sine of the block's angle in place of the angle."""
    angle = observation[4]
    return np.array([*observation[:4], np.cos(angle), np.sin(angle)])
