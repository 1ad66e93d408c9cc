"""Arms of the study: a policy is trained, sorts many blocks, and is judged."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ambient_curate import load_policy, roll_out, train_policy
from examples.sorting.environment import MOST_FRAMES, SortingEnv

# Told how fast it moves, a policy goes on as it moves and hardly looks where the block is.
COMMON: dict[str, Any] = {
    "n_obs_steps": 1,
    "n_action_steps": 4,
    "batch_size": 128,
    "precision": "bfloat16",
}
STEPS = 16  # of denoising


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
        return train_policy(out / "run", out=path, **(COMMON | self.options)).path


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
        Seed of the first block, and how many follow.
    tags : dict
        More columns of its table.
    """

    arm: str
    training: Training
    first: int
    count: int
    tags: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.training.name}_{self.first}"

    def run(self, out: Path) -> pa.Table:
        """Train, act, and write a row a block, unless that was done before.

        Returns
        -------
        pyarrow.Table
            ``arm``, ``training``, the tags, ``block``, ``color``, ``placed`` (in any bin),
            ``success`` (in the right one), ``collided``, ``frames``, ``x`` and ``y`` of the path.
        """
        if (known := self.find(out)) is not None:
            return known
        table = self._act(out).replace_schema_metadata({"trial": self._told})
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

    def _act(self, out: Path) -> pa.Table:
        policy = load_policy(self.training.train(out), steps=STEPS)
        worlds: list[SortingEnv] = []  # in the order of the blocks

        def make() -> SortingEnv:
            worlds.append(SortingEnv())
            return worlds[-1]

        blocks = range(self.first, self.first + self.count)
        found = roll_out(policy, make, blocks, most_frames=MOST_FRAMES)
        rows = []
        for block, world, success in zip(blocks, worlds, found.successes, strict=True):
            x, y = zip(*(state[:2].tolist() for state in world.path), strict=True)
            rows.append(
                {
                    "arm": self.arm,
                    "training": self.training.name,
                    **self.tags,
                    "block": block,
                    "color": world.color,
                    "placed": world.bin is not None,
                    "success": success,
                    "collided": world.collided,
                    "frames": len(x),
                    "x": x,
                    "y": y,
                }
            )
        return pa.Table.from_pylist(rows)
