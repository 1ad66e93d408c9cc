"""Demonstrations: a few by the right rule, many by the opposite one, as a collection."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ambient_curate.progress import Progress, track
from examples.sorting.environment import RATE_HZ, RIGHT_RULE, SortingEnv
from examples.sorting.expert import sort_block

WRONG_RULE = dict(zip(RIGHT_RULE, reversed(RIGHT_RULE.values()), strict=True))
SETTINGS = f"""\
clean = "right"
horizon = 16
represent = "absolute"

[datasets]
right.rate_hz = {RATE_HZ:g}
wrong.rate_hz = {RATE_HZ:g}
"""


def write_demonstrations(
    directory: Path, right: int, wrong: int, progress: Progress, *, seed: int = 0
) -> None:
    """Write the collection; what is there already is left as it is.

    Parameters
    ----------
    directory : Path
        Gets ``ambient.toml``, and the members ``right`` and ``wrong``, in Parquet.
    right, wrong : int
        Demonstrations of each rule, of one block each.
    progress : Progress
        Told of every demonstration.
    seed : int
        Of blocks and motions.
    """
    settings = f"# {right} by the right rule, {wrong} by the wrong one, seed {seed}\n{SETTINGS}"
    if directory.exists():
        if (directory / "ambient.toml").read_text(encoding="utf-8") != settings:
            raise SystemExit(f"{directory} is not the data of this study: choose another --out")
        return
    half_made = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(half_made, ignore_errors=True)
    wanted = {"right": (right, RIGHT_RULE), "wrong": (wrong, WRONG_RULE)}
    for number, (name, (count, rule)) in enumerate(wanted.items()):
        rng = np.random.default_rng([seed, number])
        with track(progress, f"demonstrating {name}", count) as advance:
            episodes = []
            for _ in range(count):
                episodes.append(demonstrate(rule, rng))
                advance(1)
        (half_made / name).mkdir(parents=True)
        pq.write_table(tabulate(episodes), half_made / name / "data.parquet")
    (half_made / "ambient.toml").write_text(settings, encoding="utf-8")
    half_made.rename(directory)


def demonstrate(rule: dict[str, str], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Let the expert sort one block.

    Returns
    -------
    dict of str to ndarray
        ``state``, shape (frame, 6), ``action``, shape (frame, 3), and ``rule``.

    Raises
    ------
    RuntimeError
        If the block did not come where the rule says.
    """
    world = SortingEnv()
    seen, _ = world.reset(seed=int(rng.integers(2**31)))
    states, actions = [], []
    for action in sort_block(world, rule, rng):
        states.append(seen["state"])
        actions.append(action.astype(np.float32))
        seen = world.step(action)[0]
    if world.bin != rule[world.color]:
        raise RuntimeError(f"the expert put a {world.color} block into {world.bin}")
    told = np.array(rule == RIGHT_RULE, dtype=np.float32)
    return {"state": np.array(states), "action": np.array(actions), "rule": told}


def tabulate(episodes: list[dict[str, np.ndarray]]) -> pa.Table:
    """Lay out demonstrations as a dataset."""
    columns: dict[str, list[np.ndarray]] = {}
    for number, episode in enumerate(episodes):
        frames = len(episode["action"])
        values = {"episode_index": np.full(frames, number), "frame_index": np.arange(frames)}
        values["rule"] = np.full(frames, float(episode["rule"]))
        for name in ("state", "action"):
            values |= {f"{name}_{axis}": each for axis, each in enumerate(episode[name].T)}
        for name, found in values.items():
            columns.setdefault(name, []).append(found)
    return pa.table({name: np.concatenate(parts) for name, parts in columns.items()})
