"""The maze: cells in a square, walls between some of them, and what a point may cross."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product

import numpy as np
from jaxtyping import Bool, Float64

WALL = 0.1  # metres, thickness
PADDING = 0.1  # metres that planners keep from a wall
SUBSTEP = 0.01  # metres between two looks for a collision

Cell = tuple[int, int]
Box = tuple[tuple[int, int], tuple[int, int]]  # columns and rows of cells, the last left out
Points = Float64[np.ndarray, "point 2"]


@dataclass(frozen=True)
class Maze:
    """Square cells of 1 m; the outer walls are closed.

    Parameters
    ----------
    cells : int
        Along each side.
    openings : frozenset of pairs of cells
        Neighbours, the lower first, with no wall between them.
    name : str
        For people.
    """

    cells: int
    openings: frozenset[tuple[Cell, Cell]]
    name: str

    @cached_property
    def walls(self) -> Float64[np.ndarray, "wall 4"]:
        """Rectangles: x and y of the low corner, x and y of the high one, in metres."""
        half, found = WALL / 2, []
        for fixed in range(self.cells + 1):
            for along in range(self.cells):
                low, high = along - half, along + 1 + half
                if not self._is_open((fixed - 1, along), (fixed, along)):
                    found.append((fixed - half, low, fixed + half, high))
                if not self._is_open((along, fixed - 1), (along, fixed)):
                    found.append((low, fixed - half, high, fixed + half))
        return np.array(found)

    def _is_open(self, one: Cell, other: Cell) -> bool:
        return (one, other) in self.openings

    def is_free(self, points: Points, *, padding: float = 0.0) -> Bool[np.ndarray, " point"]:
        """Say which points are farther than `padding` (in x or y) from every wall."""
        low, high = self.walls[:, :2] - padding, self.walls[:, 2:] + padding
        at = np.asarray(points)[:, None]
        inside = (at > low).all(axis=2) & (at < high).all(axis=2)
        in_maze = ((points > 0.0) & (points < self.cells)).all(axis=1)
        return in_maze & ~inside.any(axis=1)

    def is_clear(
        self, start: Sequence[float], end: Sequence[float], *, padding: float = 0.0
    ) -> bool:
        """Say whether a straight move touches no wall, looking every `SUBSTEP`."""
        start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
        if not np.isfinite(end).all():
            return False
        steps = max(1, int(np.ceil(min(np.hypot(*(end - start)), 2 * self.cells) / SUBSTEP)))
        share = np.arange(1, steps + 1)[:, None] / steps
        return bool(self.is_free(start + share * (end - start), padding=padding).all())

    @cached_property
    def rooms(self) -> Float64[np.ndarray, "room 4"]:
        """Maximal boxes of padded free space; rectangles like `walls`."""
        inset = WALL / 2 + PADDING
        ranges = list(combinations(range(self.cells + 1), 2))
        free = [box for box in product(ranges, ranges) if self._is_room(*box)]
        maximal = [box for box in free if not any(_holds(other, box) for other in free)]
        return np.array(
            [(x0 + inset, y0 + inset, x1 - inset, y1 - inset) for (x0, x1), (y0, y1) in maximal]
        )

    def _is_room(self, columns: tuple[int, int], rows: tuple[int, int]) -> bool:
        """Say whether no wall stands between the cells of a rectangle."""
        inside = set(product(range(*columns), range(*rows)))
        return all(
            pair in self.openings
            for pair in {_between(c, n) for c in inside for n in _neighbours(c, self.cells)}
            if inside.issuperset(pair)
        )

    def draw_pair(
        self, rng: np.random.Generator, *, apart: float = 1.0
    ) -> tuple[Float64[np.ndarray, " 2"], Float64[np.ndarray, " 2"]]:
        """Draw a start and a goal in the padded free space, at least `apart` metres apart."""
        while True:
            pair = rng.uniform(0.0, self.cells, (2, 2))
            if (
                np.hypot(*(pair[1] - pair[0])) >= apart
                and self.is_free(pair, padding=PADDING).all()
            ):
                return pair[0], pair[1]


def _holds(outer: Box, inner: Box) -> bool:
    """Say whether a rectangle of cells lies in another one."""
    pairs = zip(outer, inner, strict=True)
    return outer != inner and all(o[0] <= i[0] and i[1] <= o[1] for o, i in pairs)


def make_maze(*, cells: int = 5, extra: int = 2, seed: int = 3) -> Maze:
    """Dig a maze depth first, then open some more walls, so that there are ways to choose from.

    Parameters
    ----------
    cells : int
        Along each side.
    extra : int
        Openings beyond those of the spanning tree.
    seed : int
        Of the digging.
    """
    rng = np.random.default_rng(seed)
    openings: set[tuple[Cell, Cell]] = set()
    path, seen = [(0, 0)], {(0, 0)}
    while path:
        fresh = [cell for cell in _neighbours(path[-1], cells) if cell not in seen]
        if not fresh:
            path.pop()
            continue
        cell = fresh[rng.integers(len(fresh))]
        openings.add(_between(path[-1], cell))
        seen.add(cell)
        path.append(cell)
    every = {_between((i, j), cell) for i, j in seen for cell in _neighbours((i, j), cells)}
    closed = sorted(every - openings)
    chosen = rng.choice(len(closed), size=extra, replace=False)
    opened = frozenset(openings | {closed[number] for number in chosen})
    return Maze(cells, opened, f"maze {seed} with {extra} extra openings")


def _neighbours(cell: Cell, cells: int) -> list[Cell]:
    x, y = cell
    around = [(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)]
    return [(i, j) for i, j in around if 0 <= i < cells and 0 <= j < cells]


def _between(one: Cell, other: Cell) -> tuple[Cell, Cell]:
    return (one, other) if one < other else (other, one)
