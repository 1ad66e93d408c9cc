"""Block sorting as a gymnasium environment: pick a block, carry it through a gap, drop it."""

from typing import Any

import gymnasium as gym
import numpy as np

RATE_HZ = 10.0
SECONDS = 12.0
MOST_FRAMES = round(SECONDS * RATE_HZ)
REACH = 0.1  # metres that the gripper moves in a frame along each axis, at most
SLIP = 0.08  # of a frame's motion: standard deviation of what the arm does beside it, on each axis
GRASP = 0.04  # metres from the block's centre within which closing fingers hold it
WALL = 0.5  # y of the wall between the table and the bins, metres
GAPS = (0.32, 0.68)  # x of the middle of the gap in it
GAP = 0.12  # how wide it is, metres
BINS = {"left": (0.04, 0.3), "right": (0.7, 0.96)}  # x of each; y as `BIN_Y`
BIN_Y = (0.74, 0.96)
COLORS = {"red": 0.0, "blue": 1.0}
RIGHT_RULE = {"red": "left", "blue": "right"}
TABLE_X = {"red": (0.06, 0.4), "blue": (0.6, 0.94)}  # each colour is delivered on its own side
TABLE_Y = (0.06, 0.3)
HOME_X, HOME_Y = (0.15, 0.85), (0.25, 0.42)
STATE = ("x", "y", "closed", "block_dx", "block_dy", "gap_dx", "color")


class SortingEnv(gym.Env[dict[str, Any], np.ndarray]):
    """A gripper on a table of 1 m, one block, and two bins behind a wall with a gap.

    The action is how far the gripper shall move, in metres a frame, and how far it shall close.
    It observes ``state``, named in `STATE`: where the gripper is (metres), 0 open to 1 closed, the
    block and the gap less the gripper (metres), 0 red or 1 blue; and ``rule``, which is 1, the
    right one. An episode ends when the block is let go in a bin, when the gripper meets the wall,
    or after `SECONDS`. The information tells ``placed``, and ``is_success``: in the right bin.
    """

    def __init__(self) -> None:
        low = np.array([0, 0, 0, -1, -1, -1, 0], dtype=np.float32)
        self.observation_space = gym.spaces.Dict(
            state=gym.spaces.Box(low, 1.0, (len(STATE),), np.float32),
            rule=gym.spaces.Box(0.0, 1.0, (), np.float32),
        )
        low, high = np.array([[-REACH, -REACH, 0.0], [REACH, REACH, 1.0]], dtype=np.float32)
        self.action_space = gym.spaces.Box(low, high, (3,), np.float32)
        self.color = "red"
        self.place, self.closed = np.zeros(2), 0.0
        self.block, self.gap = np.zeros(2), 0.5
        self.held = self.collided = False
        self.bin: str | None = None
        self.path: list[np.ndarray] = []
        """States since `reset`."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin with an open gripper at home, and a block of either colour."""
        super().reset(seed=seed)
        draw = self.np_random.uniform
        self.color = "red" if draw() < 0.5 else "blue"
        self.place, self.closed = np.array([draw(*HOME_X), draw(*HOME_Y)]), 0.0
        self.block = np.array([draw(*TABLE_X[self.color]), draw(*TABLE_Y)])
        self.gap = draw(*GAPS)
        self.held, self.collided, self.bin = False, False, None
        self.path = [self._state()]
        return self._observe(), self._tell()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Move, then close or open."""
        action = np.asarray(action, dtype=np.float64)
        self._move(action[:2])
        self._grip(float(np.clip(action[2], 0.0, 1.0)))
        self.path.append(self._state())
        told, late = self._tell(), len(self.path) > MOST_FRAMES
        ended = self.collided or self.bin is not None
        return self._observe(), float(told["is_success"]), ended, late, told

    def _move(self, step: np.ndarray) -> None:
        step = np.clip(step, -REACH, REACH)
        slip = SLIP * np.hypot(*step) * self.np_random.normal(size=2)
        new = np.clip(self.place + step + slip, 0.0, 1.0)
        step = new - self.place
        if (new[1] - WALL) * (self.place[1] - WALL) <= 0.0 and step[1] != 0.0:
            crossing = self.place[0] + step[0] * (WALL - self.place[1]) / step[1]
            self.collided = abs(crossing - self.gap) > GAP / 2
        if not self.collided:
            self.place = new
            if self.held:
                self.block = new.copy()

    def _grip(self, closed: float) -> None:
        was, self.closed = self.closed, closed
        if was < 0.5 <= closed:
            self.held = float(np.hypot(*(self.place - self.block))) <= GRASP
        elif closed < 0.5 <= was and self.held:
            self.held = False
            self.bin = find_bin(self.block)

    def _state(self) -> np.ndarray:
        away, aside = self.block - self.place, self.gap - self.place[0]
        seen = [*self.place, self.closed, *away, aside, COLORS[self.color]]
        return np.array(seen, dtype=np.float32)

    def _observe(self) -> dict[str, Any]:
        return {"state": self.path[-1], "rule": np.asarray(1.0, dtype=np.float32)}

    def _tell(self) -> dict[str, Any]:
        placed = self.bin is not None
        return {"placed": placed, "is_success": placed and self.bin == RIGHT_RULE[self.color]}


def find_bin(place: np.ndarray) -> str | None:
    """Give the name of the bin at a place, or None."""
    if not BIN_Y[0] <= place[1] <= BIN_Y[1]:
        return None
    inside = [name for name, (low, high) in BINS.items() if low <= place[0] <= high]
    return inside[0] if inside else None
