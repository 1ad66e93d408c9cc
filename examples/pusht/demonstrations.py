"""What the scripted pusher did, as a collection: good episodes and clumsy ones."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from examples.pusht.environment import RATE_HZ, make
from examples.pusht.pusher import Hand, push_block

STEADY = Hand()
CLUMSY = Hand(tremor=12.0, considered=0.2)
CLUMSY_SEED = 1_000_000  # of the first clumsy episode; the good ones begin at 0
SETTINGS = f"""\
clean = "clean"
horizon = 16
represent = "absolute"

[datasets]
clean.rate_hz = {RATE_HZ}
clumsy.rate_hz = {RATE_HZ}
"""


@dataclass(frozen=True)
class Episode:
    """What was seen and done at every frame, and what came of it."""

    state: np.ndarray  # (frame, 6), before the action
    action: np.ndarray  # (frame, 2)
    succeeded: bool


def record_episode(hand: Hand, seed: int) -> Episode:
    """Push from where the environment begins at this seed until its episode ends."""
    environment = make()
    state, _ = environment.reset(seed=seed)
    world: Any = environment.unwrapped
    states: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    succeeded = False
    for action in push_block(world, hand, np.random.default_rng(seed)):
        states.append(state)
        actions.append(action)
        state, _, terminated, truncated, info = environment.step(action.astype(np.float32))
        succeeded = bool(info["is_success"])
        if terminated or truncated:
            break
    environment.close()
    return Episode(np.array(states, np.float32), np.array(actions, np.float32), succeeded)


def write_demonstrations(directory: Path, clean: int, clumsy: int) -> dict[str, Any]:
    """Write the collection and ``pushers.json``; what is there already is left as it is.

    Parameters
    ----------
    directory : Path
        Gets ``ambient.toml``, ``clean.npz`` and ``clumsy.npz``.
    clean : int
        Successful episodes of the steady hand; it pushes until it has so many.
    clumsy : int
        Episodes of the clumsy hand, successful or not.

    Returns
    -------
    dict
        ``attempts`` and ``successes`` of both.
    """
    facts = directory / "pushers.json"
    settings = f"# {clean} episodes of {STEADY}, {clumsy} of {CLUMSY}\n{SETTINGS}"
    if directory.exists():
        if (directory / "ambient.toml").read_text(encoding="utf-8") != settings:
            raise SystemExit(f"{directory} is not the data of this study: choose another --out")
        found: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8"))
        return found
    half_made = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(half_made, ignore_errors=True)
    half_made.mkdir(parents=True)
    kept: list[Episode] = []
    attempts = 0
    while len(kept) < clean:
        episode = record_episode(STEADY, attempts)
        attempts += 1
        if episode.succeeded:
            kept.append(episode)
    rest = [record_episode(CLUMSY, CLUMSY_SEED + number) for number in range(clumsy)]
    found = {
        "clean": {"attempts": attempts, "successes": len(kept)},
        "clumsy": {"attempts": clumsy, "successes": sum(each.succeeded for each in rest)},
    }
    _save(half_made / "clean.npz", kept)
    _save(half_made / "clumsy.npz", rest)
    (half_made / facts.name).write_text(json.dumps(found), encoding="utf-8")
    (half_made / "ambient.toml").write_text(settings, encoding="utf-8")
    half_made.rename(directory)
    return found


def _save(path: Path, episodes: list[Episode]) -> None:
    np.savez(
        path,
        action=np.concatenate([each.action for each in episodes]),
        state=np.concatenate([each.state for each in episodes]),
        episode_ends=np.cumsum([len(each.action) for each in episodes]),
    )
