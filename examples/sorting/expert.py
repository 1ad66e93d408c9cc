"""The scripted expert: minimum-jerk motions, no two alike."""

from collections.abc import Iterator

import numpy as np

from examples.sorting.environment import BIN_Y, BINS, GAP, RATE_HZ, WALL, SortingEnv

SPEED = 0.4  # metres a second, on average over a motion
SHORTEST_S = 0.5
BOW = 0.1  # of a motion's length: its bow, at most
WITHIN = 0.05  # metres from a bin's edge that blocks are let go
WAIT = 8  # frames held still at the end, so that windows reach the last motion


def sort_block(
    world: SortingEnv, rule: dict[str, str], rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield the actions that sort the world's block by a rule: from colours to bins."""
    start, block = world.place.copy(), world.block.copy()
    gap = np.array([np.mean(GAP) + rng.normal(0.0, 0.006), WALL])
    low, high = BINS[rule[world.color]]
    into = np.array([rng.uniform(low, high), rng.uniform(*BIN_Y)])
    into = np.clip(into, (low + WITHIN, BIN_Y[0] + WITHIN), (high - WITHIN, BIN_Y[1] - WITHIN))
    grasp = block + rng.normal(0.0, 0.002, 2)
    yield from _with_grip(move(start, grasp, rng), 0.0)
    yield from _turn_grip(grasp, 0.0, 1.0, rng)
    yield from _with_grip(move(grasp, gap, rng), 1.0)
    yield from _with_grip(move(gap, into, rng), 1.0)
    yield from _turn_grip(into, 1.0, 0.0, rng)
    yield from _with_grip(np.repeat(into[None], WAIT, axis=0), 0.0)


def move(start: np.ndarray, end: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give the places of a minimum-jerk motion (Flash and Hogan 1985), bowed to a side.

    Parameters
    ----------
    start, end : ndarray, shape (2,)
        Metres.
    rng : Generator
        Of speed and bow.

    Returns
    -------
    ndarray, shape (frame, 2)
        From the frame after `start` to `end`.
    """
    way = end - start
    seconds = max(SHORTEST_S, float(np.hypot(*way)) / SPEED) * np.exp(rng.normal(0.0, 0.1))
    t = np.linspace(0.0, 1.0, 1 + max(2, round(seconds * RATE_HZ)))[1:, None]
    along = 10 * t**3 - 15 * t**4 + 6 * t**5
    side = np.array([-way[1], way[0]]) * rng.uniform(-BOW, BOW)
    return start + along * way + 4 * along * (1 - along) * side


def _with_grip(places: np.ndarray, closed: float) -> Iterator[np.ndarray]:
    for place in places:
        yield np.array([*place, closed])


def _turn_grip(
    place: np.ndarray, start: float, end: float, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    for part in np.linspace(0.0, 1.0, 1 + int(rng.integers(3, 6)))[1:]:
        yield np.array([*place, start + part * (end - start)])
