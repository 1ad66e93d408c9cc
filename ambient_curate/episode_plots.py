"""The figures of one episode: its actions, and sigma_min along it."""

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from matplotlib.axes import Axes

from ambient_curate import canvas
from ambient_curate.errors import NotEnoughDataError

MOST = 16  # dimensions that are drawn


def plot_episode(rows: pa.Table, *, rate_hz: float | None = None, ax: Axes | None = None) -> Axes:
    """Draw sigma_min of the windows of one episode where they begin.

    Parameters
    ----------
    rows : pyarrow.Table
        Rows of one episode of a manifest by window.
    rate_hz : float or None
        Frames in a second; None: the axis counts frames.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        sigma_min in [0, 1] with its interval; windows without an answer are marked at 1.

    Raises
    ------
    NotEnoughDataError
        If there are no rows, or they do not speak for windows.
    """
    if rows.num_rows == 0 or rows["start"].null_count:
        raise NotEnoughDataError(
            "no window of this episode has a row of its own",
            "annotate with --granularity datapoint, and give an episode of that run",
        )
    ax = canvas.prepare_axes(ax, (7.6, 2.6))
    start = rows["start"].to_numpy() / (rate_hz or 1.0)
    value, lower, upper = (
        rows[name].to_numpy() for name in ("sigma_min", "sigma_min_lower", "sigma_min_upper")
    )
    color = canvas.COLORS[0]
    ax.fill_between(start, lower, upper, color=color, alpha=0.18, lw=0, label="95 % interval")
    label = f"{canvas.SIGMA}_min ({rows.num_rows:,} windows)"
    ax.plot(start, value, color=color, lw=1.5, label=label)
    null = np.isnan(value)
    if null.any():
        label = f"no answer ({null.sum():,})"
        ax.plot(start[null], np.ones(null.sum()), "x", color=canvas.GREY, ms=4, label=label)
    canvas.add_legend(ax, canvas.literal_name(str(rows["episode_id"][0])))
    ax.set(ylim=(-0.03, 1.03), ylabel=f"{canvas.SIGMA}_min")
    ax.set_xlabel("window's first frame" if rate_hz is None else "window's first frame (s)")
    return ax


def plot_actions(
    action: Float[np.ndarray, "frame action"],
    *,
    rate_hz: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the actions of one episode, as stored.

    Parameters
    ----------
    action : ndarray, shape (frame, action)
        In the dataset's units.
    rate_hz : float or None
        Frames in a second; None: the axis counts frames.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        A line for each of at most `MOST` dimensions.
    """
    ax = canvas.prepare_axes(ax, (7.6, 2.6))
    time = np.arange(len(action)) / (rate_hz or 1.0)
    for number in range(min(action.shape[1], MOST)):
        color = canvas.COLORS[number % len(canvas.COLORS)]
        dashes = ("-", "--", ":")[number // len(canvas.COLORS) % 3]
        ax.plot(time, action[:, number], dashes, color=color, lw=1.1, label=str(number))
    more = action.shape[1] - MOST
    canvas.add_legend(ax, "dimension" if more <= 0 else f"dimension\n({more} more)")
    ax.set(ylabel="action, as stored", xlabel="frame" if rate_hz is None else "time (s)")
    return ax
