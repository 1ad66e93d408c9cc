"""Rollouts of a policy in gymnasium environments, with success counts."""

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from ambient_curate.errors import ConfigError
from ambient_curate.option_fields import check_argument, whole
from ambient_curate.progress import Progress, silent, track

AT_ONCE = 16  # environments that the policy acts in together
_SUCCESS = ("is_success", "success")  # keys of an environment's info


@runtime_checkable
class Actor(Protocol):
    """What acts: a `Policy`, or anything that does the same."""

    def reset(self) -> None:
        """Forget everything."""

    def observe(
        self, observation: Mapping[str, ArrayLike], *, environments: Sequence[int]
    ) -> object:
        """Remember a frame of some environments."""

    def act(
        self, observation: Mapping[str, ArrayLike], *, environments: Sequence[int]
    ) -> np.ndarray:
        """Give the next actions of some environments, shape (env, step, action)."""
        ...


@dataclass(frozen=True)
class Rollouts:
    """What came of some episodes.

    Parameters
    ----------
    seeds : tuple of int
        One an episode.
    successes : tuple of bool
        Whether an episode succeeded at some frame.
    frames : tuple of int
        Length of each.
    rewards : tuple of float
        Sum of each.
    """

    seeds: tuple[int, ...]
    successes: tuple[bool, ...]
    frames: tuple[int, ...]
    rewards: tuple[float, ...]

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the success rate."""
        from scipy.stats import binomtest

        found = binomtest(sum(self.successes), len(self.successes))
        interval = found.proportion_ci(method="wilson")
        return float(interval.low), float(interval.high)


def find_environment(name: str) -> Callable[[], Any]:
    """Find what makes an environment, by ``MODULE:NAME``, also in the current folder.

    Raises
    ------
    ConfigError
        If there is none.
    """
    module, colon, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: it stands in for no library
    try:
        found = getattr(importlib.import_module(module), attribute) if colon else None
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"there is no environment {name!r}: {error}",
            "give MODULE:NAME of a function or class that makes a gymnasium environment",
        ) from error
    if not callable(found):
        raise ConfigError(
            f"{name!r} makes no environment",
            "give MODULE:NAME of a function or class that makes a gymnasium environment",
        )
    return found


def roll_out(
    policy: Actor,
    make: Callable[[], Any],
    seeds: Sequence[int],
    *,
    most_frames: int = 1000,
    progress: Progress = silent,
) -> Rollouts:
    """Let a policy act, in several environments at once, until every episode has ended.

    An episode succeeds when ``info["is_success"]`` or ``info["success"]`` is true at some frame,
    or where there is neither, when it terminates.

    Parameters
    ----------
    policy : Actor
        Acts by receding horizon: predicts a window, executes its first actions, predicts anew.
    make : callable
        Makes a gymnasium environment whose observation is an array (the state), or a mapping with
        ``state`` and the columns that the policy is conditioned on.
    seeds : sequence of int
        One an episode, given to ``reset``.
    most_frames : int
        Episodes end there at the latest.
    progress : Progress
        Told of every episode.

    Raises
    ------
    ConfigError
        If a seed or `most_frames` is wrong, there is no seed, or an environment's observation does
        not suit the policy.
    TypeError
        If `policy` cannot act, or `make` cannot be called.
    """
    seeds = _check_seeds(seeds)
    most_frames = check_argument("most_frames", most_frames, whole(1))
    if not isinstance(policy, Actor):
        raise TypeError(f"policy = {policy!r}: expected what load_policy gives")
    if not callable(make):
        raise TypeError(f"make = {make!r}: expected a function that makes an environment")
    results: dict[int, _Episode] = {}
    policy.reset()
    with track(progress, "rollouts", len(seeds)) as advance:
        for first in range(0, len(seeds), AT_ONCE):
            running = [
                _Episode(number, make(), seeds[number], most_frames)
                for number in range(first, min(first + AT_ONCE, len(seeds)))
            ]
            results |= {episode.number: episode for episode in running}
            while running:
                _act_together(policy, running)
                ended = [episode for episode in running if episode.ended]
                running = [episode for episode in running if not episode.ended]
                for episode in ended:
                    episode.environment.close()
                advance(len(ended))
    ordered = [results[number] for number in sorted(results)]
    return Rollouts(
        tuple(seeds),
        tuple(episode.succeeded for episode in ordered),
        tuple(episode.frames for episode in ordered),
        tuple(episode.reward for episode in ordered),
    )


def _check_seeds(seeds: Sequence[int]) -> list[int]:
    given = list(seeds) if isinstance(seeds, Iterable) else []
    if not given:
        raise ConfigError(f"seeds = {seeds!r}: expected one an episode", "such as range(20)")
    return [check_argument("seeds", seed, whole(0)) for seed in given]


def _act_together(policy: Actor, running: Sequence["_Episode"]) -> None:
    """Plan once for all, and execute as far as each episode goes."""
    numbers = [episode.number for episode in running]
    observed = [episode.observation for episode in running]
    together = {key: np.stack([each[key] for each in observed]) for key in observed[0]}
    try:
        plans = policy.act(together, environments=numbers)
    except ValueError as error:
        raise ConfigError(
            f"the environment does not suit the policy: {error}",
            "its observation is the state, or a mapping with `state` and the policy's condition",
        ) from error
    for episode, plan in zip(running, plans, strict=True):
        for step, action in enumerate(plan):
            episode.execute(action)
            if episode.ended:
                break
            if step < len(plan) - 1:  # the last frame is observed when the next plan is made
                rows = {key: value[None] for key, value in episode.observation.items()}
                policy.observe(rows, environments=[episode.number])


class _Episode:
    """One episode as it runs."""

    def __init__(self, number: int, environment: Any, seed: int, most_frames: int) -> None:
        self.number, self.environment, self._most = number, environment, most_frames
        seen, _ = environment.reset(seed=seed)
        self.observation = _read_observation(seen)
        self.frames, self.reward = 0, 0.0
        self.ended = self.succeeded = False

    def execute(self, action: np.ndarray) -> None:
        seen, reward, terminated, truncated, info = self.environment.step(action)
        self.observation = _read_observation(seen)
        self.frames += 1
        self.reward += float(reward)
        reported = [bool(info[key]) for key in _SUCCESS if key in info]
        self.succeeded |= any(reported) if reported else bool(terminated)
        self.ended = terminated or truncated or self.frames >= self._most


def _read_observation(seen: Any) -> dict[str, np.ndarray]:
    values = seen if isinstance(seen, Mapping) else {"state": seen}
    return {key: np.asarray(value) for key, value in values.items()}
