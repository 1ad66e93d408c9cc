"""Arms of the study: a policy is trained, acts on many pairs of start and goal, and is judged."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ambient_curate import load_policy, roll_out, train_policy
from ambient_curate.policy.acting import Policy
from examples.maze.control import LinearLast
from examples.maze.environment import MOST_FRAMES, MazeEnv
from examples.maze.paths import squared_acceleration
from examples.maze.world import Maze

# A network that is told places as numbers alone sees walls a decimetre thick too coarsely.
COMMON = {"condition": "goal_x,goal_y", "n_obs_steps": 2, "octaves": 4, "precision": "bfloat16"}
STEPS = 16  # of denoising
LEAST_FRAMES = 8  # of a path whose acceleration is measured


@dataclass(frozen=True)
class Training:
    """How one policy is trained.

    Parameters
    ----------
    name : str
        Of its directory.
    options : dict
        Options of `train_policy` besides `COMMON`, or in their place.
    """

    name: str
    options: dict[str, Any]

    def train(self, out: Path) -> Path:
        """Train it, or find it trained; return its directory."""
        path = out / "policies" / self.name
        path.parent.mkdir(exist_ok=True)
        return train_policy(out / "run", out=path, **COMMON | self.options).path


@dataclass(frozen=True)
class Trial:
    """How one policy is tried.

    Parameters
    ----------
    arm : str
        For people; several trainings may be of one arm.
    training : Training
        Of the policy.
    first, count : int
        Seed of the first pair of start and goal, and how many follow.
    steps : int
        Denoising steps.
    n_action_steps : int or None
        Actions executed of a window; None: as the policy was trained for.
    control : Training or None
        A policy of the clean set; its linear filter takes the last denoising step.
    """

    arm: str
    training: Training
    first: int
    count: int
    steps: int = STEPS
    n_action_steps: int | None = None
    control: Training | None = None
    tags: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its file."""
        control = "" if self.control is None else "_linear"
        acting = "" if self.n_action_steps is None else f"_actions{self.n_action_steps}"
        solver = "" if self.steps == STEPS else f"_steps{self.steps}"
        return f"{self.training.name}{control}{acting}{solver}_{self.first}"

    def run(self, out: Path, maze: Maze) -> pa.Table:
        """Train, act, and write a row a pair, unless that was done before.

        Returns
        -------
        pyarrow.Table
            ``arm``, ``training``, the tags, ``pair``, ``success``, ``collided``, ``frames``,
            ``acceleration`` (of a success; m^2 / s^4), ``x`` and ``y`` of the path.
        """
        if (known := self.find(out)) is not None:
            return known
        table = self._act(self._load(out), maze).replace_schema_metadata({"trial": self._told})
        file = self._file(out)
        file.parent.mkdir(exist_ok=True)
        half_made = file.with_suffix(".tmp")
        pq.write_table(table, half_made)
        os.replace(half_made, file)
        return table

    def find(self, out: Path) -> pa.Table | None:
        """Read what was found before; None if this was not tried."""
        if not self._file(out).exists():
            return None
        table = pq.read_table(self._file(out))
        return table if table.schema.metadata[b"trial"] == self._told else None

    @property
    def _told(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    def _file(self, out: Path) -> Path:
        return out / "trials" / f"{self.name}.parquet"

    def _load(self, out: Path) -> Policy:
        path = self.training.train(out)
        policy = load_policy(path, steps=self.steps, n_action_steps=self.n_action_steps)
        if self.control is not None:
            clean = load_policy(self.control.train(out))
            policy.denoiser = LinearLast(policy.denoiser, clean.denoiser)
        return policy

    def _act(self, policy: Policy, maze: Maze) -> pa.Table:
        worlds: list[MazeEnv] = []  # in the order of the pairs

        def make() -> MazeEnv:
            worlds.append(MazeEnv(maze))
            return worlds[-1]

        pairs = range(self.first, self.first + self.count)
        found = roll_out(policy, make, pairs, most_frames=MOST_FRAMES)
        rows = []
        for pair, world, success in zip(pairs, worlds, found.successes, strict=True):
            x, y = zip(*(place.tolist() for place in world.path), strict=True)
            smooth = success and len(x) >= LEAST_FRAMES
            rows.append(
                {
                    "arm": self.arm,
                    "training": self.training.name,
                    **self.tags,
                    "pair": pair,
                    "success": success,
                    "collided": world.collided,
                    "frames": len(x),
                    "acceleration": squared_acceleration(world.path) if smooth else None,
                    "x": x,
                    "y": y,
                }
            )
        return pa.Table.from_pylist(rows)
