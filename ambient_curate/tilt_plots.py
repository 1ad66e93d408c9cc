"""The figure of tilts: what choosing by window does to the law of the training windows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes

from ambient_curate import canvas
from ambient_curate.errors import NotEnoughDataError

_Z = 1.959964  # of a two-sided 95 % interval


def plot_tilt(verdict: Sequence[Mapping[str, Any]], *, ax: Axes | None = None) -> Axes:
    """Draw how far choosing by window moves the training windows away from the clean law.

    Parameters
    ----------
    verdict : sequence of mapping
        ``run.json``'s ``verdict`` of a run by window.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        A row per dataset, the most tilted on top: the share of windows that lies where the used
        ones crowd (`tilts.Tilt`), of the clean set, of what is used at the lowest noise, and of
        everything by column ``weight``, with Wilson's interval of as many episodes as the weights
        leave effective. The gap between the first two is a total variation.

    Raises
    ------
    NotEnoughDataError
        If no row has a tilt.
    """
    rows = [row for row in verdict if row["tilt"]]
    if not rows:
        raise NotEnoughDataError(
            "the run has no tilt of a mixture: there is nothing to draw",
            "annotate with --granularity datapoint",
        )
    rows.sort(key=lambda row: row["tilt"]["clean"] - row["tilt"]["mixture"])
    clean, mixture, weighted, episodes = (
        np.array([row["tilt"][key] for row in rows], dtype=np.float64)
        for key in ("clean", "mixture", "weighted", "episodes")
    )
    names = [
        f"{canvas.literal_name(row['dataset'])}  {n:,.0f}"
        for row, n in zip(rows, episodes, strict=True)
    ]
    size = 6.8 + 0.075 * max(map(len, names)), 1.1 + 0.3 * max(len(rows), 4)
    ax = canvas.prepare_axes(ax, size)
    y = np.arange(len(rows)) - 0.15  # the interval beneath must not hide the gap
    blue, orange = canvas.COLORS[:2]
    ax.hlines(y, clean, mixture, orange, lw=1.3, zorder=2)
    style: dict[str, Any] = {"ls": "none", "ms": 5.5, "zorder": 3}
    ax.plot(mixture, y, "o", color=orange, label="used at the lowest noise", **style)
    ax.plot(clean, y, "o", color=canvas.INK, mfc="white", label="clean set alone", **style)
    lower, upper = wilson(weighted, episodes)
    spread = np.stack([weighted - lower, upper - weighted])
    label = "all, by column weight\n(approximate 95 %)"
    ax.errorbar(
        weighted, y + 0.35, xerr=spread, fmt="|", ms=8, color=blue, lw=1.3, label=label, zorder=4
    )
    ax.set_yticks(np.arange(len(rows)), names)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(0.0, 1.05 * float(max(mixture.max(), upper.max())))
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    canvas.add_legend(ax, "n: episodes that the\nweights leave effective")
    ax.set_xlabel("share of windows where the used ones crowd (0 to 1)")
    return ax


def wilson(
    share: Float64[np.ndarray, " row"], trials: Float64[np.ndarray, " row"]
) -> tuple[Float64[np.ndarray, " row"], Float64[np.ndarray, " row"]]:
    """Wilson's approximate 95 % interval of a share of so many trials, which need not be whole.

    Parameters
    ----------
    share : ndarray, shape (row,)
        In [0, 1].
    trials : ndarray, shape (row,)
        Independent ones, > 0.

    Returns
    -------
    tuple of ndarray, shape (row,)
        Lower and upper ends, in [0, 1], around `share`.
    """
    middle = share + _Z**2 / (2 * trials)
    half = _Z * np.sqrt(share * (1 - share) / trials + (_Z / (2 * trials)) ** 2)
    whole = 1 + _Z**2 / trials
    return np.clip((middle - half) / whole, 0.0, share), np.clip(
        (middle + half) / whole, share, 1.0
    )
