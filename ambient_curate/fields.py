"""Fields: how far the best denoiser looks, from the covariance of the windows."""

import numpy as np
from jaxtyping import Float64, Int64

from ambient_curate.noise import ve_from_sigma

SHARE = 0.95  # of the squared Jacobian that a field holds


def wiener_field(
    covariance: Float64[np.ndarray, "dim dim"], horizon: int, sigma: Float64[np.ndarray, " level"]
) -> Int64[np.ndarray, " level"]:
    """Radius of the receptive field of the best linear denoiser at every noise level.

    Of windows with covariance C under VE noise s it is ``J = C (C + s^2 I)^-1``. The radius is the
    smallest that holds `SHARE` of the squared Jacobian of a frame's output, for every frame
    (METHOD.md section 11).

    Parameters
    ----------
    covariance : ndarray, float64, shape (dim, dim)
        Of flattened windows.
    horizon : int
        Frames in a window.
    sigma : ndarray, float64, shape (level,)
        VP noise levels in (0, 1).

    Returns
    -------
    ndarray, int64, shape (level,)
        Radii in 0 .. horizon - 1.
    """
    values, columns = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0)
    action = len(covariance) // horizon
    frame = np.arange(horizon)
    distance = np.abs(frame[:, None] - frame)
    near = distance[:, :, None] <= frame  # (output frame, input frame, radius)
    found = []
    for noise in ve_from_sigma(sigma):
        jacobian = (columns * (values / (values + noise**2))) @ columns.T
        blocks = np.square(jacobian).reshape(horizon, action, horizon, action)
        energy = blocks.sum(axis=(1, 3))
        within = np.einsum("ki,kir->kr", energy, near)
        enough = within >= SHARE * within[:, -1:]
        found.append(int(enough.argmax(axis=1).max()))
    return np.array(found, dtype=np.int64)


def list_reaches(
    field: Int64[np.ndarray, " level"], horizon: int, sigma: Float64[np.ndarray, " level"]
) -> Float64[np.ndarray, " radius"]:
    """Highest level up to which a denoiser never looks further than each radius.

    Parameters
    ----------
    field : ndarray, int64, shape (level,)
        Radii at each level; the largest so far counts.
    horizon : int
        Frames in a window.
    sigma : ndarray, float64, shape (level,)
        Rising noise levels.

    Returns
    -------
    ndarray, float64, shape (radius,)
        For radii 0 .. horizon - 1; 0 where no level is so local, 1 at the last radius, which is
        the whole window.

    Examples
    --------
    >>> list_reaches(np.array([0, 1, 1, 2]), 4, np.array([0.1, 0.2, 0.3, 0.4])).tolist()
    [0.1, 0.3, 0.4, 1.0]
    """
    widest = np.maximum.accumulate(field)
    levels = np.searchsorted(widest, np.arange(horizon), side="right")
    reach = np.append(0.0, sigma)[levels]
    reach[-1] = 1.0
    return reach
