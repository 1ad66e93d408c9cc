"""Figures of one episode: its actions, and sigma_min along it."""

from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from matplotlib.axes import Axes

from ambient_curate.errors import NotEnoughDataError, write_count
from ambient_curate.report import canvas

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
    label = rf"$\sigma_{{min}}$ ({write_count(rows.num_rows, 'window')}," "\nwhere they begin)"
    ax.plot(start, value, color=color, lw=1.5, label=label)
    null = np.isnan(value)
    if null.any():
        label = f"no answer ({null.sum():,})"
        ax.plot(start[null], np.ones(null.sum()), "x", color=canvas.GREY, ms=4, label=label)
    name, episode = (canvas.literal_name(str(rows[key][0])) for key in ("dataset", "episode_id"))
    canvas.add_legend(ax, f"{name}\nepisode {episode}")
    ax.set(ylim=(-0.03, 1.03), ylabel=r"$\sigma_{min}$ (VP)")
    ax.set_xlabel("window's first frame" if rate_hz is None else "window's first frame (s)")
    return ax


def plot_p_clean(
    rows: pa.Table,
    grid: Float[np.ndarray, " level"],
    *,
    rate_hz: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the curves of the windows of one episode side by side, and sigma_min over them.

    Parameters
    ----------
    rows : pyarrow.Table
        Rows of one episode of a manifest by window, with their curves.
    grid : ndarray, shape (level,)
        The noise levels of the curves, rising.
    rate_hz : float or None
        Frames in a second; None: the axis counts frames.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        The probability of clean, by colour from 0 to 1, against the window's first frame and sigma.

    Raises
    ------
    NotEnoughDataError
        If no row has a curve, or they do not speak for windows.
    """
    curves = rows["p_clean"].to_pylist()
    if rows["start"].null_count or not any(curves):
        raise NotEnoughDataError(
            "no window of this episode has a curve",
            "annotate with --granularity datapoint --store-curves",
        )
    ax = canvas.prepare_axes(ax, (7.6, 2.6))
    blank = [np.nan] * len(grid)
    values = np.array([curve or blank for curve in curves]).T
    start = rows["start"].to_numpy() / (rate_hz or 1.0)
    style: dict[str, Any] = {"cmap": "PuOr", "vmin": 0.0, "vmax": 1.0, "rasterized": True}
    mesh = ax.pcolormesh(start, grid, values, shading="nearest", **style)
    value = np.clip(rows["sigma_min"].to_numpy(), grid[0], grid[-1])
    ax.plot(start, value, color=canvas.INK, lw=1.2)
    canvas.set_sigma_height(ax, float(grid[0]), float(grid[-1]))
    canvas.add_color_bar(ax, mesh, "probability of clean, c")
    ax.grid(visible=False)
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
    title = "dimension" if more <= 0 else f"dimension ({more} more)"
    canvas.add_legend(ax, title, columns=1 + (action.shape[1] > MOST // 2))
    ax.set(ylabel="action, as stored", xlabel="frame" if rate_hz is None else "time (s)")
    return ax
