"""The maze as a gymnasium environment: be at a place, be told a goal, go there, touch nothing."""

from typing import Any

import gymnasium as gym
import numpy as np

from examples.maze.paths import RATE_HZ
from examples.maze.world import Maze, make_maze

REACHED = 0.15  # metres from the goal
SECONDS = 30.0
MOST_FRAMES = round(SECONDS * RATE_HZ)


class MazeEnv(gym.Env[dict[str, Any], np.ndarray]):
    """A point that is, a frame later, where the action says, unless a wall is on the way.

    It observes ``state`` (its place, metres), ``goal_x`` and ``goal_y``. An episode ends within
    `REACHED` of the goal (success), at a wall, or after `SECONDS`.

    Parameters
    ----------
    maze : Maze
        Where.
    """

    def __init__(self, maze: Maze) -> None:
        self.maze = maze
        side = float(maze.cells)
        number = gym.spaces.Box(0.0, side, (), np.float32)
        self.observation_space = gym.spaces.Dict(
            state=gym.spaces.Box(0.0, side, (2,), np.float32), goal_x=number, goal_y=number
        )
        self.action_space = gym.spaces.Box(0.0, side, (2,), np.float32)
        self.collided = False
        self.path: list[np.ndarray] = []
        """Places since `reset`, metres."""
        self.goal = np.zeros(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin at a random place with a random goal."""
        super().reset(seed=seed)
        start, self.goal = self.maze.draw_pair(self.np_random)
        self.path, self.collided = [start], False
        return self._observe(), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Go to a place."""
        there = np.asarray(action, dtype=np.float64)
        clear = self.maze.is_clear(self.path[-1], there)
        self.collided = not clear
        if clear:
            self.path.append(there)
        reached = clear and bool(np.hypot(*(self.path[-1] - self.goal)) <= REACHED)
        late = len(self.path) > MOST_FRAMES
        told = {"is_success": reached, "collided": not clear}
        return self._observe(), float(reached), reached or not clear, late, told

    def _observe(self) -> dict[str, Any]:
        goal = {
            name: np.asarray(value, dtype=np.float32)
            for name, value in zip(("goal_x", "goal_y"), self.goal, strict=True)
        }
        return {"state": self.path[-1].astype(np.float32)} | goal


def make() -> MazeEnv:
    """Make it in the study's maze, for ``ambient-curate rollout --env``."""
    return MazeEnv(make_maze())
