"""Rollouts: every episode is run as receding horizon says, and counted once."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy.stats import norm

from ambient_curate.errors import ConfigError
from ambient_curate.policy.rollouts import AT_ONCE, Rollouts, find_environment, roll_out

LENGTH = 7


class Counting:
    """An environment that ends after `LENGTH` frames, or sooner by its seed; 3k seeds succeed."""

    made: ClassVar[list["Counting"]] = []

    def __init__(self) -> None:
        self.closed = False
        Counting.made.append(self)

    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]:
        self.seed, self.frame, self.actions = seed, 0, list[float]()
        return self.seen(), {}

    def seen(self) -> Any:
        return {"state": np.array([self.seed, self.frame], np.float32), "goal": float(self.seed)}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert not self.closed
        self.actions.append(float(action[0]))
        self.frame += 1
        ended = self.frame >= LENGTH - self.seed % 2
        return self.seen(), 0.5, ended, False, {"is_success": self.seed % 3 == 0 and ended}

    def close(self) -> None:
        self.closed = True


class Recording:
    """A policy that numbers its actions and keeps what it is shown."""

    def __init__(self) -> None:
        self.shown: dict[int, list[float]] = {}
        self.plans = 0

    def reset(self) -> None:
        self.shown.clear()

    def observe(self, seen: Mapping[str, Any], *, environments: Sequence[int]) -> None:
        for row, number in enumerate(environments):
            self.shown.setdefault(number, []).append(float(seen["state"][row][1]))

    def act(self, seen: Mapping[str, Any], *, environments: Sequence[int]) -> np.ndarray:
        self.observe(seen, environments=environments)
        assert seen["goal"].tolist() == [row[0] for row in seen["state"]]
        self.plans += 1
        plan = np.arange(3.0) + 10 * self.plans
        return np.tile(plan[None, :, None], (len(environments), 1, 2))


class Plain(Counting):
    """Observes an array, and says nothing of success."""

    def seen(self) -> Any:
        return np.array([self.seed, self.frame], np.float32)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        seen, reward, ended, _, _ = super().step(action)
        return seen, reward, ended and self.seed == 4, ended, {}


def test_every_frame_is_observed_once_and_every_plan_executed_in_turn() -> None:
    Counting.made.clear()
    policy, seeds = Recording(), list(range(100, 100 + AT_ONCE + 2))
    found = roll_out(policy, Counting, seeds)
    lengths = [LENGTH - seed % 2 for seed in seeds]
    assert found.frames == tuple(lengths)
    assert found.successes == tuple(seed % 3 == 0 for seed in seeds)
    assert found.rewards == tuple(0.5 * length for length in lengths)
    for number, length in enumerate(lengths):  # the last frame of an episode needs no plan
        assert policy.shown[number] == list(range(length))
    assert Counting.made[0].actions == [10, 11, 12, 20, 21, 22, 30]
    assert all(each.closed for each in Counting.made)
    assert len(Counting.made) == len(seeds)


def test_an_array_is_the_state_and_termination_is_success() -> None:
    policy = Recording()
    policy.act = lambda seen, environments: np.zeros((len(environments), 2, 2))  # type: ignore[method-assign]
    found = roll_out(policy, Plain, [3, 4, 5])
    assert found.successes == (False, True, False)


def test_an_episode_ends_at_the_latest_when_told() -> None:
    found = roll_out(Recording(), Counting, [3, 4], most_frames=4)
    assert found.frames == (4, 4)
    assert found.successes == (False, False)


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (3, 10), (50, 50)])
def test_the_interval_is_wilsons(successes: int, n: int) -> None:
    told = Rollouts(
        tuple(range(n)), (True,) * successes + (False,) * (n - successes), (1,) * n, (0.0,) * n
    )
    z, p = norm.ppf(0.975), successes / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert told.interval == pytest.approx((middle - half, middle + half), abs=1e-12)


def test_an_environment_is_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_environment.py").write_text("def make(): return 7")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert find_environment("my_own_environment:make")() == 7


def test_an_environment_is_found_by_its_name() -> None:
    assert find_environment("collections:OrderedDict") is __import__("collections").OrderedDict
    for name in ("collections", "collections:Nothing", "nothing_here:X", "math:pi"):
        with pytest.raises(ConfigError, match="environment") as caught:
            find_environment(name)
        assert "MODULE:NAME" in str(caught.value.hint)
