"""The figure of locality: how far apart crops are, and how far a denoiser looks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ambient_curate import canvas
from ambient_curate.bounds import delta_at
from ambient_curate.errors import NotEnoughDataError


def plot_locality(
    localities: Sequence[Mapping[str, Any]], *, epsilon: float, ax: Axes | None = None
) -> Axes:
    """Draw how far crops are from the clean ones as they grow, and the sigma_max that follows.

    Parameters
    ----------
    localities : sequence of mapping
        ``run.json``'s ``locality``; groups are left out.
    epsilon : float
        Tolerance of the annotation, in (0, 0.5).
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        Delta in [0, 2] against the radius in frames, a line per dataset with its certified lower
        bound, the threshold, and a dot at the largest radius that is alike.

    Raises
    ------
    NotEnoughDataError
        If the run was made without locality.
    """
    drawn = [each for each in localities if each["group"] is None]
    if not drawn:
        raise NotEnoughDataError(
            "the run says nothing of locality: there is nothing to draw",
            "annotate with --locality",
        )
    drawn.sort(key=lambda each: -float(np.mean(each["delta"])))
    ax = canvas.prepare_axes(ax)
    level = canvas.draw_level(ax, delta_at(epsilon), f"threshold 4ε = {delta_at(epsilon):g}")
    colors = canvas.pick_colors(len(drawn))
    lines = [_draw(ax, each, color) for each, color in zip(drawn, colors, strict=True)]
    key = [line for line, color in zip(lines, colors, strict=True) if color != canvas.GREY]
    if others := len(drawn) - len(key):
        key.append(Line2D([], [], color=canvas.GREY, lw=0.9, label=f"{others} others"))
    bound = Line2D([], [], color=canvas.INK, ls=(0, (5, 2)), lw=0.9)
    bound.set_label("at least (certified, 95 %)")
    canvas.add_legend(ax, f"{canvas.SIGMA}_max", [*key, bound, level])
    ax.set(xlabel="radius of the crop (frames to either side)", ylim=(-0.04, 2.04))
    ax.set_ylabel("divergence Δ of crops (0 to 2)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def _draw(ax: Axes, each: Mapping[str, Any], color: str) -> Line2D:
    """Draw a dataset; return its line for the legend."""
    named = color != canvas.GREY
    delta = np.array(each["delta"])
    lower = np.array([np.nan if x is None else x for x in each["delta_lower"]])
    radius = np.arange(delta.size)
    name = f"{canvas.literal_name(each['dataset'])}  {each['sigma_max']:.3g}"
    if each["status"] != "ok":
        name += f" ({each['status']})"
    style: dict[str, Any] = {"color": color, "lw": 1.7 if named else 0.7}
    (line,) = ax.plot(radius, delta, label=name, zorder=3 if named else 2, **style)
    if named:
        ax.plot(radius, lower, color=color, ls=(0, (5, 2)), lw=0.9, alpha=0.75)
    if each["radius"] >= 0:
        at = each["radius"], delta[each["radius"]]
        ax.plot(*at, "o", ms=5, color=style["color"], mec="white", mew=0.8, zorder=5)
    return line
