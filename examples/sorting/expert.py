"""The scripted expert: minimum-jerk motions, planned anew at every frame, no two alike."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64

from examples.sorting.environment import BIN_Y, BINS, GRASP, RATE_HZ, WALL, SortingEnv

SPEED = 0.4  # metres a second, on average over a motion
SHORTEST_S = 0.5
ARRIVED = 0.005  # metres from the end of a motion
MISSES = 0.4  # of demonstrations first close beside the block
MISSED = 0.1  # metres by which they do, at most
EDGE = 0.06  # metres from a bin's edge within which no block is let go
BOW = 0.05  # of a motion's length: how far to a side it goes, at most
WAIT = 8  # frames held still at the end, so that windows reach the last motion

Place = Float64[np.ndarray, "2"]


def sort_block(
    world: SortingEnv, rule: dict[str, str], rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield the actions, shape (3,), that sort the world's block by a rule.

    Parameters
    ----------
    world : SortingEnv
        Looked at before every action; the caller steps it.
    rule : dict of str to str
        From colours to bins.
    rng : Generator
        Of all variation.
    """
    low, high = BINS[rule[world.color]]
    gap = np.array([world.gap + rng.normal(0.0, 0.006), WALL])
    into = rng.uniform((low + EDGE, BIN_Y[0] + EDGE), (high - EDGE, BIN_Y[1] - EDGE))
    if rng.random() < MISSES:
        beside = _find_beside(world.block, rng)
        yield from _move(world, beside, rng)
        yield from _turn_grip(0.0, 1.0, rng)
        yield from _turn_grip(1.0, 0.0, rng)
    yield from _move(world, world.block.copy(), rng)
    yield from _turn_grip(0.0, 1.0, rng)
    yield from _move(world, gap, rng)
    yield from _move(world, into, rng)
    yield from _turn_grip(1.0, 0.0, rng)
    yield from np.zeros((WAIT, 3))


def _find_beside(block: Place, rng: np.random.Generator) -> Place:
    """Draw a place on the table beside a block."""
    while True:
        angle, far = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(GRASP + 2 * ARRIVED, MISSED)
        place: Place = block + far * np.array([np.cos(angle), np.sin(angle)])
        if ((place > 0.0) & (place < (1.0, WALL - GRASP))).all():
            return place


def _move(world: SortingEnv, end: Place, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Move there and stop, without a turn of the grip; bowed, as arms do."""
    way, closed = end - world.place, world.closed
    seconds = max(SHORTEST_S, float(np.hypot(*way)) / SPEED) * np.exp(rng.normal(0.0, 0.1))
    left = max(3, round(seconds * RATE_HZ))
    side = np.array([-way[1], way[0]]) * rng.uniform(-BOW, BOW) * 4 / left
    velocity, acceleration = side.copy(), np.zeros(2)
    while not world.collided and (left > 1 or np.hypot(*(end - world.place)) > ARRIVED):
        step, velocity, acceleration = step_jerkless(
            end - world.place, velocity, acceleration, float(max(left, 2))
        )
        yield np.array([*step, closed])
        left -= 1


def step_jerkless(
    way: Place, velocity: Place, acceleration: Place, frames: float
) -> tuple[Place, Place, Place]:
    """Go a frame along the motion of least jerk that ends at rest (Flash and Hogan 1985).

    Parameters
    ----------
    way : ndarray, shape (2,)
        To the end, metres.
    velocity, acceleration : ndarray, shape (2,)
        Now, in metres a frame and a frame squared.
    frames : float
        Until the end, >= 1.

    Returns
    -------
    tuple of ndarray
        Displacement in a frame; velocity and acceleration after it.
    """
    # the quintic v t + a t^2 / 2 + c3 t^3 + c4 t^4 + c5 t^5 that is at `way`, at rest, in the end
    t = frames
    moved = np.array(
        [
            way - velocity * t - acceleration * t**2 / 2,
            -velocity - acceleration * t,
            -acceleration,
        ]
    )
    system = [[t**3, t**4, t**5], [3 * t**2, 4 * t**3, 5 * t**4], [6 * t, 12 * t**2, 20 * t**3]]
    c3, c4, c5 = np.linalg.solve(np.array(system), moved)
    step = velocity + acceleration / 2 + c3 + c4 + c5
    after = velocity + acceleration + 3 * c3 + 4 * c4 + 5 * c5
    return step, after, acceleration + 6 * c3 + 12 * c4 + 20 * c5


def _turn_grip(start: float, end: float, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Stay, while the grip turns in a few frames."""
    for closed in np.linspace(start, end, 1 + int(rng.integers(3, 6)))[1:]:
        yield np.array([0.0, 0.0, closed])
