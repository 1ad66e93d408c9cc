"""The figure of legibility: what noise has hidden of each dataset's difference."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes

from ambient_curate import canvas
from ambient_curate.bounds import delta_at
from ambient_curate.canvas import Curve
from ambient_curate.errors import NotEnoughDataError

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
    said = [each for each in legibility if each["group"] is None]
    if not said:
        raise NotEnoughDataError(
            "the run says nothing of legibility: there is nothing to draw",
            "annotate with --legibility",
        )
    drawn = [_hidden(curves, each) for each in said]
    order = sorted(range(len(said)), key=lambda number: -float(drawn[number].value.mean()))
    ax = canvas.prepare_axes(ax)
    threshold = delta_at(epsilon)
    level = canvas.draw_level(ax, threshold, f"threshold 4ε = {threshold:g}")
    title = f"{canvas.SIGMA}_max, with its 95 % interval"
    ranked = [drawn[number] for number in order]
    colors = canvas.draw_curves(ax, ranked, title, band="", key=[level])
    for number, color in zip(order, colors, strict=True):
        _mark(ax, said[number], threshold, color)
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
