"""Planners: smooth ways through the corridors (Drake), and jagged ones that a tree finds (OMPL)."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float64
from ompl import base, geometric, util
from pydrake.all import (
    BsplineTrajectory,
    ClarabelSolver,
    ExtractValue,
    GcsTrajectoryOptimization,
    GraphOfConvexSetsOptions,
    HPolyhedron,
    KinematicTrajectoryOptimization,
    Point,
    PyFunctionConstraint,
    SnoptSolver,
)

from examples.maze.paths import SPEED
from examples.maze.world import PADDING, Maze

Place = Float64[np.ndarray, " 2"]
Plan = Float64[np.ndarray, "point 2"]
Planner = Callable[[Place, Place], Plan | None]

ORDER = 5  # of the Bezier curve in each room, and of B-splines
CONTINUITY = 2  # derivatives of the path that are continuous
ROUNDINGS = 3
DENSE = 0.001  # seconds between the points of a smooth plan, before it is re-timed
KNOTS, LOOKS = 4.0, 8.0  # control points of an optimized plan, and looks at the walls, a metre
TREE_RANGE, TREE_BIAS, TREE_SECONDS = 0.5, 0.05, 10.0

logging.getLogger("drake").setLevel(logging.WARNING)


def plan_smooth(maze: Maze, start: Place, goal: Place) -> Plan | None:
    """Find a fast and smooth way over a graph of convex sets (Marcucci et al. 2023).

    Time is the only cost: with the path's length or energy added, plans cling to the corners and
    turn there twice as hard.

    Returns
    -------
    ndarray, shape (point, 2), or None
        Metres, at even times of the plan; None if no way was found.
    """
    planner = GcsTrajectoryOptimization(2)
    boxes = [HPolyhedron.MakeBox(each[:2], each[2:]) for each in maze.rooms]
    way = planner.AddRegions(boxes, ORDER, h_min=1e-3, h_max=20.0)
    source = planner.AddRegions([Point(start)], 0, h_min=0.0, h_max=0.0)
    target = planner.AddRegions([Point(goal)], 0, h_min=0.0, h_max=0.0)
    planner.AddEdges(source, way)
    planner.AddEdges(way, target)
    planner.AddTimeCost()
    planner.AddVelocityBounds(np.full(2, -SPEED), np.full(2, SPEED))
    planner.AddPathContinuityConstraints(CONTINUITY)
    options = GraphOfConvexSetsOptions()
    options.convex_relaxation, options.max_rounded_paths = True, ROUNDINGS
    options.solver = options.restriction_solver = ClarabelSolver()
    trajectory, result = planner.SolvePath(source, target, options)
    if not result.is_success():
        return None
    times = np.arange(trajectory.start_time(), trajectory.end_time(), DENSE)
    return trajectory.vector_values(np.append(times, trajectory.end_time())).T


class TreePlanner:
    """Rapidly exploring random trees (LaValle 1998), without simplification.

    Parameters
    ----------
    maze : Maze
        Where.
    seed : int
        Of all plans; OMPL keeps one source of randomness a process.
    """

    def __init__(self, maze: Maze, seed: int) -> None:
        self._walls = (maze.walls + PADDING * np.array([-1, -1, 1, 1])).tolist()
        util.noOutputHandler()
        util.RNG.setSeed(seed)
        self._space = base.RealVectorStateSpace(2)
        bounds = base.RealVectorBounds(2)
        bounds.setLow(0.0)
        bounds.setHigh(float(maze.cells))
        self._space.setBounds(bounds)

    def __call__(self, start: Place, goal: Place) -> Plan | None:
        """Find some way, or None."""
        setup = geometric.SimpleSetup(self._space)
        setup.setStateValidityChecker(self._is_valid)
        planner = geometric.RRT(setup.getSpaceInformation())
        planner.setRange(TREE_RANGE)
        planner.setGoalBias(TREE_BIAS)
        setup.setPlanner(planner)
        setup.setStartAndGoalStates(self._state(start), self._state(goal))
        setup.solve(TREE_SECONDS)
        if not setup.haveExactSolutionPath():
            return None
        states = setup.getSolutionPath().getStates()
        return np.array([[state[0], state[1]] for state in states])

    def _is_valid(self, state: Any) -> bool:
        x, y = state[0], state[1]  # plain numbers: thousands of points are asked for a plan
        return not any(
            left < x < right and low < y < high for left, low, right, high in self._walls
        )

    def _state(self, place: Place) -> Any:
        state = self._space.allocState()
        state[0], state[1] = map(float, place)
        return state


def plan_optimized(maze: Maze, first: Plan) -> Plan | None:
    """Pull a jagged plan smooth: a B-spline of least energy that keeps off the walls.

    Parameters
    ----------
    maze : Maze
        Where.
    first : ndarray, shape (point, 2)
        Metres; where the optimization begins. It stays on the same side of every wall.

    Returns
    -------
    ndarray, shape (point, 2), or None
        None if the solver found no feasible curve.
    """
    length = float(np.hypot(*np.diff(first, axis=0).T).sum())
    problem = KinematicTrajectoryOptimization(2, max(8, round(KNOTS * length)), ORDER, 1.0)
    problem.AddPathEnergyCost()
    problem.AddDurationConstraint(1.0, 1.0)
    for place, share in ((first[0], 0.0), (first[-1], 1.0)):
        problem.AddPathPositionConstraint(place, place, share)
    apart = PyFunctionConstraint(2, _Clearance(maze), np.zeros(1), np.full(1, np.inf), "clearance")
    for share in np.linspace(0.0, 1.0, round(LOOKS * length) + 2)[1:-1]:
        problem.AddPathPositionConstraint(apart, share)
    problem.SetInitialGuess(_spread(first, problem))
    result = SnoptSolver().Solve(problem.prog())
    if not result.is_success():
        return None
    trajectory = problem.ReconstructTrajectory(result)
    return trajectory.vector_values(np.arange(0.0, 1.0 + DENSE / 2, DENSE).clip(max=1.0)).T


def _spread(first: Plan, problem: KinematicTrajectoryOptimization) -> BsplineTrajectory:
    """Lay control points evenly along a polyline."""
    along = np.append(0.0, np.cumsum(np.hypot(*np.diff(first, axis=0).T)))
    at = np.linspace(0.0, along[-1], problem.num_control_points())
    points = np.stack([np.interp(at, along, first[:, axis]) for axis in (0, 1)])
    return BsplineTrajectory(problem.basis(), points)


class _Clearance:
    """How far a place is from the nearest wall, beyond `PADDING`, with its derivatives."""

    def __init__(self, maze: Maze) -> None:
        self._low, self._high = maze.walls[:, :2], maze.walls[:, 2:]

    def __call__(self, place: Any) -> Any:
        value = ExtractValue(place).ravel() if place.dtype == object else place
        outside = np.maximum(self._low - value, value - self._high)  # by axis; inside both are < 0
        apart = np.hypot(*outside.clip(min=0.0).T) + outside.max(axis=1).clip(max=0.0)
        near = int(apart.argmin())
        terms = [
            self._low[near, axis] - place[axis]
            if outside[near, axis] == self._low[near, axis] - value[axis]
            else place[axis] - self._high[near, axis]
            for axis in (0, 1)
        ]
        if (outside[near] > 0.0).all():
            return np.array([(terms[0] ** 2 + terms[1] ** 2) ** 0.5 - PADDING])
        return np.array([terms[int(outside[near].argmax())] - PADDING])
