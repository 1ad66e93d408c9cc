"""Paths: points on a plane, walked at one speed, and how hard they are to follow."""

import numpy as np
from jaxtyping import Float64
from scipy.interpolate import CubicSpline

SPEED = 1.0  # metres a second
RATE_HZ = 10.0

Path2d = Float64[np.ndarray, "frame 2"]


def retime(points: Path2d) -> Path2d:
    """Walk a polyline in even steps, at `RATE_HZ` and as nearly as possible at `SPEED`.

    Parameters
    ----------
    points : ndarray, shape (point, 2)
        Metres; as dense as the curve needs.
    """
    length = np.append(0.0, np.cumsum(np.hypot(*np.diff(points, axis=0).T)))
    steps = max(1, round(length[-1] * RATE_HZ / SPEED))
    at = np.linspace(0.0, length[-1], steps + 1)
    return np.stack([np.interp(at, length, points[:, axis]) for axis in (0, 1)], axis=1)


def squared_acceleration(path: Path2d) -> float:
    """Mean squared acceleration of the cubic spline through a path, in m^2 / s^4.

    The spline's acceleration is linear between frames, so that the mean is exact.

    Parameters
    ----------
    path : ndarray, shape (frame, 2)
        Metres, at `RATE_HZ`; at least 4 frames.
    """
    time = np.arange(len(path)) / RATE_HZ
    a = CubicSpline(time, path)(time, 2)
    first, last = a[:-1], a[1:]
    return float(((first**2 + first * last + last**2) / 3).sum(axis=1).mean())
