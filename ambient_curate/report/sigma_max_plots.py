"""Figures of sigma_max: by locality, and by what noise hides of a difference."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ambient_curate.divergence import delta_at
from ambient_curate.errors import NotEnoughDataError
from ambient_curate.report import canvas
from ambient_curate.report.canvas import Curve

_HEADROOM = 1.06


def plot_legibility(
    curves: pa.Table,
    legibility: Sequence[Mapping[str, Any]],
    *,
    epsilon: float,
    ax: Axes | None = None,
) -> Axes:
    """Draw how much of Delta noise has hidden, and the sigma_max where that passes 4 epsilon.

    Parameters
    ----------
    curves : pyarrow.Table
        ``curves.parquet``.
    legibility : sequence of mapping
        ``run.json``'s ``legibility``; groups are left out.
    epsilon : float
        Tolerance of the annotation, in (0, 0.5).
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        Delta at the lowest level less Delta, in [0, 2], against sigma: a line per dataset, the
        threshold, and a dot at sigma_max with its approximate interval.

    Raises
    ------
    NotEnoughDataError
        If the run was made without legibility.
    """
    entries = [each for each in legibility if each["group"] is None]
    if not entries:
        raise NotEnoughDataError(
            "the run says nothing of legibility: there is nothing to draw",
            "annotate with --legibility",
        )
    drawn = [_hidden(curves, each) for each in entries]
    order = sorted(range(len(entries)), key=lambda number: -float(drawn[number].value.mean()))
    ax = canvas.prepare_axes(ax)
    threshold = delta_at(epsilon)
    level = canvas.draw_level(ax, threshold, f"threshold 4ε = {threshold:g}")
    title = f"{canvas.SIGMA}_max, with its 95 % interval"
    ranked = [drawn[number] for number in order]
    colors = canvas.draw_curves(ax, ranked, title, band="", key=[level])
    for number, color in zip(order, colors, strict=True):
        _mark(ax, entries[number], threshold, color)
    top = max(threshold, *(float(curve.value.max()) for curve in drawn))
    ax.set(ylabel="Δ that noise has hidden (0 to 2)", ylim=(-0.02 * top, _HEADROOM * top))
    return ax


def _hidden(curves: pa.Table, each: Mapping[str, Any]) -> Curve:
    named = pc.equal(pc.cast(curves["dataset"], pa.string()), each["dataset"])
    rows = curves.filter(pc.and_(named, pc.is_null(curves["group"]))).sort_by("sigma")
    sigma, delta = (rows[name].to_numpy() for name in ("sigma", "delta"))
    note = f"{each['sigma_max']:.3g}" + ("" if each["status"] == "ok" else f" ({each['status']})")
    blank = np.full(sigma.size, np.nan)
    return Curve(each["dataset"], note, sigma, delta[0] - delta, blank, blank)


def _mark(ax: Axes, each: Mapping[str, Any], threshold: float, color: str) -> None:
    """Mark sigma_max where it lies on the axis."""
    if not 0.0 < each["sigma_max"] < 1.0:
        return
    low, high = ax.get_xlim()
    ends = np.clip([each["sigma_max_lower"], each["sigma_max_upper"]], min(low, high), None)
    ax.plot(np.clip(ends, None, max(low, high)), [threshold] * 2, color=color, lw=1.2, zorder=4)
    ax.plot(each["sigma_max"], threshold, "o", ms=5, color=color, mec="white", mew=0.8, zorder=5)


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
