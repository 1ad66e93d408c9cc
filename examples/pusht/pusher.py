"""A scripted pusher: it imagines straight pushes, and does the one that pays best for its time.

It sees the true physics. The candidates start at points around the block and go towards it, up to
a third of a radian askew; each is simulated in a copy of the physics, which also says how long the
best push is. On the way to where a push starts, the pusher goes around the block.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import shapely
from gym_pusht.envs import PushTEnv

from examples.pusht.environment import SIZE

AGENT = 15.0  # its radius; lengths are in pixels, speeds in pixels a frame
CLEARANCE = AGENT + 8.0  # from the block, of the ring on which it goes around
GRAZE = AGENT + 3.0  # from the block, of a straight way past it
SPACING = 14.0  # of points on the ring
WALKING, PUSHING = 20.0, 8.0
ASKEW_RAD = (-0.35, 0.0, 0.35)
LONGEST = 160.0  # push
GYRATION = 44.0  # of the block: what a turn by a radian is worth
SETTLED = 1.5  # distance to the target at which the agent has arrived
PATIENCE = 8  # frames to wait for that
OVERHEAD = 8.0  # frames that a push costs besides its way
FINE_DT_S, FRAME_S = 0.02, 0.1
LITTLE = 0.2  # gain that is not worth a push
NUDGE = 40.0  # length of a push when none is worth it
TREMOR_MEMORY = 0.5  # of the frame before


@dataclass(frozen=True)
class Hand:
    """How good a pusher is.

    Parameters
    ----------
    tremor : float
        Standard deviation of a wandering error of the target, pixels.
    considered : float
        Share of the candidates, drawn at random, among which it chooses, in (0, 1].
    """

    tremor: float = 0.0
    considered: float = 1.0


@dataclass(frozen=True)
class Push:
    """A straight push as it was imagined."""

    start: int  # point of the ring
    end: np.ndarray
    gain: float  # what it brings the block nearer to the goal
    frames: float


def push_block(environment: PushTEnv, hand: Hand, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Give the agent's target of every frame, as the environment stands then; without end."""
    error = np.zeros(2)
    for target in _aim(environment, hand, rng):
        fresh = rng.normal(scale=hand.tremor, size=2)
        error = TREMOR_MEMORY * error + math.sqrt(1 - TREMOR_MEMORY**2) * fresh
        yield np.clip(target + error, 0, SIZE)


def _aim(environment: PushTEnv, hand: Hand, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Give the targets of a steady hand."""
    imagined = _Imagination()
    while True:
        ring = _Ring(environment)
        push = _choose_push(imagined, environment, ring, hand, rng)
        yield from _travel(environment, ring.find_way(push.start), WALKING)
        yield from _travel(environment, [ring.points[push.start], push.end], PUSHING)


def _travel(environment: PushTEnv, corners: list[np.ndarray], speed: float) -> Iterator[np.ndarray]:
    """Move the target along straight lines, then wait until the agent is there."""
    for start, end in pairwise(corners):
        count = math.ceil(float(np.linalg.norm(end - start)) / speed)
        yield from (start + (end - start) * step / count for step in range(1, count + 1))
    for _ in range(PATIENCE):
        if np.linalg.norm(environment.agent.position - corners[-1]) < SETTLED:
            return
        yield corners[-1]


def _choose_push(
    imagined: "_Imagination",
    environment: PushTEnv,
    ring: "_Ring",
    hand: Hand,
    rng: np.random.Generator,
) -> Push:
    """Choose what brings the block nearest to the goal for its time; if nothing does, anything."""
    candidates = [(start, askew) for start in ring.ways for askew in ASKEW_RAD]
    count = max(1, round(hand.considered * len(candidates)))
    drawn = rng.choice(len(candidates), count, replace=False)
    pushes = [imagined.try_push(environment, ring, *candidates[number]) for number in drawn]
    best = max(pushes, key=lambda push: push.gain / push.frames)
    if best.gain > LITTLE:
        return best
    start = pushes[0].start
    return Push(start, np.clip(ring.points[start] + NUDGE * ring.inwards[start], 0, SIZE), 0, 0)


class _Ring:
    """The points around the block from which it can be pushed, and the ways there.

    Attributes
    ----------
    points, inwards : ndarray, shape (point, 2)
        Where, and unit vectors from there towards the block.
    ways : dict of int to list of int
        By point: those that lead there, from the one next to the agent; none is beyond the walls.
    """

    def __init__(self, environment: PushTEnv) -> None:
        body = environment.block
        corners = [[body.local_to_world(v) for v in each.get_vertices()] for each in body.shapes]
        block = shapely.union_all([shapely.Polygon(each) for each in corners])
        outline = block.buffer(CLEARANCE).exterior
        places = np.arange(0, outline.length - SPACING / 2, SPACING)
        points = shapely.line_interpolate_point(outline, places)
        self.points = shapely.get_coordinates(points)
        self.inwards = shapely.get_coordinates(shapely.shortest_line(points, block))[1::2]
        self.inwards -= self.points
        self.inwards /= np.linalg.norm(self.inwards, axis=1, keepdims=True)
        self.agent = np.array(environment.agent.position)
        self.ways = self._find_ways()
        self._grazed = block.buffer(GRAZE)

    def _find_ways(self) -> dict[int, list[int]]:
        inside = ((self.points > 0) & (self.points < SIZE)).all(axis=1)
        far = np.linalg.norm(self.points - self.agent, axis=1)
        here, count = int(np.where(inside, far, np.inf).argmin()), len(self.points)
        ways: dict[int, list[int]] = {}
        for sign in (1, -1):
            way: list[int] = []
            for step in range(count):
                way = [*way, (here + sign * step) % count]
                if not inside[way[-1]]:
                    break
                if len(way) < len(ways.get(way[-1], range(count + 1))):
                    ways[way[-1]] = way
        return ways

    def measure_way(self, start: int) -> float:
        """Give about how far it is to a point."""
        straight = float(np.linalg.norm(self.points[start] - self.agent))
        return max(straight, SPACING * len(self.ways[start]))

    def find_way(self, start: int) -> list[np.ndarray]:
        """Give the corners of the way to a point, cut short where the block is not touched."""
        ahead = [self.points[number] for number in self.ways[start]]
        corners = [self.agent]
        while ahead:
            seen = [place for place, point in enumerate(ahead) if self._is_free(corners[-1], point)]
            place = max(seen, default=0)  # 0: out of a contact
            corners.append(ahead[place])
            ahead = ahead[place + 1 :]
        return corners

    def _is_free(self, start: np.ndarray, end: np.ndarray) -> bool:
        return not self._grazed.intersects(shapely.LineString([start, end]))


class _Imagination:
    """A copy of the physics."""

    def __init__(self) -> None:
        self._twin = PushTEnv(obs_type="state")
        self._twin.reset(seed=0)

    def try_push(self, environment: PushTEnv, ring: _Ring, start: int, askew: float) -> Push:
        """Push from a point of the ring, and see where the block was nearest to the goal."""
        twin, speed = self._twin, PUSHING / FRAME_S
        direction = _turn(ring.inwards[start], askew)
        twin.block.angle = environment.block.angle  # first: it turns about the centre of gravity
        twin.block.position = environment.block.position
        twin.block.velocity, twin.block.angular_velocity = (0, 0), 0
        twin.agent.position = tuple(ring.points[start])
        twin.agent.velocity = tuple(speed * direction)
        before = nearest = _distance(twin)
        length = 0.0
        for step in range(1, round(LONGEST / speed / FINE_DT_S)):
            twin.space.step(FINE_DT_S)
            distance = _distance(twin)
            if distance < nearest:
                nearest, length = distance, step * FINE_DT_S * speed
            elif distance > nearest + 15:
                break
        end = ring.points[start] + length * direction
        frames = OVERHEAD + ring.measure_way(start) / WALKING + length / PUSHING
        return Push(start, np.clip(end, 0, SIZE), before - nearest, frames)


def _turn(vector: np.ndarray, angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([c * vector[0] - s * vector[1], s * vector[0] + c * vector[1]])


def _distance(environment: PushTEnv) -> float:
    """Give the root mean square distance of the block's points from where they should be."""
    block, (x, y, angle) = environment.block, environment.goal_pose
    c, s, (u, v) = math.cos(angle), math.sin(angle), block.center_of_gravity
    centre: Any = block.local_to_world((u, v))
    turn = 2 * GYRATION * math.sin((block.angle - angle) / 2)
    return math.hypot(centre.x - (x + c * u - s * v), centre.y - (y + s * u + c * v), turn)
