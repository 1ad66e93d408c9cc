"""What the figures share: the noise axis, colours, curves, rows, legends, saving.

Noise levels are VP sigmas on an axis uniform in log-SNR, the scale on which a classifier sees them.
A legend names the lines from the top down, with their n. Of more datasets than colours, the named
ones are evenly spaced over the ranking and the others are grey.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ambient_curate.errors import ConfigError
from ambient_curate.files import replace_whole
from ambient_curate.noise import log_snr, schedule_levels, sigma_from_log_snr

# Okabe and Ito's colour-blind-safe palette without its yellow, which is lost on white paper.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#9a9a9a"
PALE = "#cfe3f1"
INK = "#404040"
SIGMA = "\N{GREEK SMALL LETTER SIGMA}"

_UNDATED = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}  # metadata
_TICKS = (0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 0.99)
_HIGHEST = 0.99875  # VE noise 20: curves change nothing beyond it
_END_GAP = 1.5  # log-SNR between the outermost level and where sigma 0 and 1 are drawn
_FEW_CURVES = 5  # with more, the lines of their bounds cannot be followed
# Meaning, dashes and drawing of a curve's bounds. Divergences never rise with sigma, so that a
# lower bound holds to the left of its level and an upper one to the right.
_BOUNDS: tuple[tuple[str, Any, Any], ...] = (
    ("at least (certified, 95 %)", (0, (5, 2)), "steps-pre"),
    ("at most, sampled windows", (0, (1, 1.2)), "steps-post"),
    ("at most (certified, 95 %)", (0, (6, 1.5, 1, 1.5)), "steps-post"),
)


class Curve(NamedTuple):
    """A line over noise levels; NaN is not drawn.

    Parameters
    ----------
    name, note : str
        Of the legend; the note is its n.
    sigma, value, lower, upper : ndarray, float64, shape (level,)
        Rising noise levels, the line, and its band.
    bounds : tuple of ndarray, float64, shape (level,)
        Certified lower bound, upper bound of the sampled windows, certified upper bound; or none.
    """

    name: str
    note: str
    sigma: np.ndarray
    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    bounds: tuple[np.ndarray, ...] = ()


class Row(NamedTuple):
    """The answer for a dataset or group: noise levels, NaN where there is none.

    Parameters
    ----------
    name : str
        Its label.
    value : float
        sigma_min.
    interval, bracket : tuple of float
        Ends of the approximate interval and of the certified bracket.
    maximum : float
        sigma_max: usable at or below; 0 for none.
    status : str
        Why there is no value.
    """

    name: str
    value: float
    interval: tuple[float, float]
    bracket: tuple[float, float]
    maximum: float
    status: str


def check_table(table: pa.Table, name: str, *columns: str) -> None:
    """Refuse what is not the table that is to be drawn."""
    if not isinstance(table, pa.Table):
        raise TypeError(f"{name} = {table!r}: expected a table, such as `{name}()` of a run")
    if missing := [column for column in columns if column not in table.column_names]:
        raise ValueError(f"the table has no column {', '.join(missing)}: expected {name} of a run")


def check_verdict(verdict: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what is not the rows of a verdict."""
    if isinstance(verdict, str | Mapping) or not isinstance(verdict, Sequence):
        raise TypeError("expected the rows of a verdict, such as run.info['verdict']")


def prepare_axes(ax: Axes | None, size: tuple[float, float] = (7.6, 4.2)) -> Axes:
    """Return `ax`, or the axes of a new figure of `size` in inches, in the house style."""
    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#e6e6e6", lw=0.6)
    ax.set_axisbelow(True)
    return ax


def stack_axes(count: int, height: float = 3.2) -> Sequence[Axes]:
    """Give the axes of a new figure, one above the other, over one x; `height` in inches."""
    size = (7.6, height * count)
    _, found = plt.subplots(count, 1, figsize=size, layout="constrained", sharex=True)
    return list(found)


def pick_colors(count: int) -> list[str]:
    """Give `count` ranked datasets colours: the named ones evenly spaced, the others `GREY`."""
    named = np.linspace(0, count - 1, min(count, len(COLORS))).round().astype(int)
    color_of = dict(zip(named.tolist(), COLORS, strict=False))
    return [color_of.get(index, GREY) for index in range(count)]


def add_legend(
    ax: Axes, title: str, handles: Sequence[Artist] | None = None, *, columns: int = 1
) -> Legend:
    """Put the legend outside, at the upper right, where it covers no data."""
    style: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.01)}
    style |= {"frameon": False, "fontsize": "small", "title_fontsize": "small", "alignment": "left"}
    return ax.legend(handles=handles, title=title, ncols=columns, **style)


def add_color_bar(ax: Axes, mesh: QuadMesh, label: str) -> None:
    """Explain the colours of a mesh on its right."""
    place = ax.inset_axes((1.02, 0.0, 0.025, 1.0))  # beside it, not beyond the legends
    bar = ax.figure.colorbar(mesh, cax=place)
    bar.set_label(label, fontsize="small")
    bar.ax.tick_params(labelsize="small")
    bar.outline.set_visible(False)


def literal_name(name: str) -> str:
    """Return a name as matplotlib prints it literally, at most 40 characters."""
    short = name if len(name) <= 40 else f"{name[:28]}…{name[-11:]}"
    return short.replace("$", r"\$")


def draw_level(ax: Axes, level: float, label: str) -> Artist:
    """Draw a horizontal reference line and return it for the legend."""
    return ax.axhline(level, color=INK, lw=0.8, zorder=1, label=label)


def draw_curves(
    ax: Axes, curves: Sequence[Curve], title: str, *, band: str, key: Iterable[Artist] = ()
) -> list[str]:
    """Draw lines, bands, the bounds of few curves, the legend and the axis of noise levels.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    curves : sequence of Curve
        From the highest to the lowest.
    title : str
        Of the legend.
    band : str
        What the band is.
    key : iterable of Artist
        What else the legend explains.

    Returns
    -------
    list of str
        The colour of each curve.
    """
    colors = pick_colors(len(curves))
    shown: list[Artist] = []
    for curve, color in zip(curves, colors, strict=True):
        width, opacity, order = (0.7, 0.7, 2) if color == GREY else (1.7, 1.0, 3)
        style: dict[str, Any] = {"color": color, "lw": width, "alpha": opacity, "zorder": order}
        style["label"] = f"{literal_name(curve.name)}  {curve.note}"
        (line,) = ax.plot(curve.sigma, curve.value, **style)
        if color != GREY:  # dozens of pale bands add up to a dark one
            ax.fill_between(curve.sigma, curve.lower, curve.upper, color=color, alpha=0.14, lw=0)
            shown.append(line)
    if others := len(curves) - len(shown):
        shown.append(Line2D([], [], color=GREY, lw=0.9, label=f"{others} others"))
        band += "\n(of the named)"
    shown.append(Line2D([], [], ls="none", label=" "))
    if any(np.isfinite(curve.lower).any() for curve in curves):
        shown.append(Patch(color=GREY, alpha=0.3, lw=0, label=band))
    if len(curves) <= _FEW_CURVES:
        shown += _draw_bounds(ax, curves, colors)
    add_legend(ax, title, [*shown, *key])
    sigma = np.concatenate([curve.sigma for curve in curves])
    set_sigma_axis(ax, float(sigma.min()), min(float(sigma.max()), _HIGHEST))
    return colors


def draw_certificates(ax: Axes, curves: Sequence[Curve], key: Iterable[Artist] = ()) -> None:
    """Draw what is certified of curves, in the colours that `draw_curves` gives them.

    Parameters
    ----------
    ax : Axes
        Where to draw, on the axis of noise levels.
    curves : sequence of Curve
        In the order of `draw_curves`, with bounds.
    key : iterable of Artist
        What else the legend explains.
    """
    (low, _, _), _, (high, dashes, above) = _BOUNDS
    few, shown = len(curves) <= _FEW_CURVES, {}
    for curve, color in zip(curves, pick_colors(len(curves)), strict=True):
        lower, _, upper = curve.bounds
        width, order = (0.7, 2) if color == GREY else (1.7, 3)
        style: dict[str, Any] = {"drawstyle": "steps-pre", "lw": width, "zorder": order}
        ax.plot(curve.sigma, lower, color=color, **style)
        shown[low] = Line2D([], [], color=INK, lw=1.7, label=low)
        if few and np.isfinite(upper).any():
            ax.plot(curve.sigma, upper, color=color, lw=0.9, ls=dashes, drawstyle=above)
            shown[high] = Line2D([], [], color=INK, lw=0.9, ls=dashes, label=high)
    add_legend(ax, "colours as above", [*shown.values(), *key])
    sigma = np.concatenate([curve.sigma for curve in curves])
    set_sigma_axis(ax, float(sigma.min()), min(float(sigma.max()), _HIGHEST))


def _draw_bounds(ax: Axes, curves: Sequence[Curve], colors: Sequence[str]) -> list[Artist]:
    """Draw the bounds in their curves' colours; return the legend of their dashes."""
    drawn: dict[str, Artist] = {}
    for curve, color in zip(curves, colors, strict=True):
        for bound, (label, dashes, steps) in zip(curve.bounds, _BOUNDS, strict=False):
            if np.isfinite(bound).any():
                style: dict[str, Any] = {"ls": dashes, "lw": 0.9}
                ax.plot(curve.sigma, bound, color=color, alpha=0.75, drawstyle=steps, **style)
                drawn[label] = Line2D([], [], color=INK, label=label, **style)
    return [drawn[label] for label, _, _ in _BOUNDS if label in drawn]


def draw_rows(ax: Axes | None, rows: Sequence[Row], *, schedule: str | None = None) -> Axes:
    """Draw sigma_min with its intervals, a row each, the most usable on top.

    Parameters
    ----------
    ax : Axes, optional
        Where to draw.
    rows : sequence of Row
        At least one.
    schedule : str, optional
        The trainer's, as for `noise.schedule_levels`: its steps are then marked on top.

    Returns
    -------
    Axes
        Noise levels from 0 to 1; the usable ones are pale.
    """
    rows = sorted(rows, key=lambda row: (np.isnan(row.value), row.value))
    numbers = [(row.value, row.maximum, *row.interval, *row.bracket) for row in rows]
    levels = np.array([]) if schedule is None else schedule_levels(schedule)
    zero, one = sigma_ends(np.append(np.ravel(numbers), levels[levels <= _HIGHEST]))
    value, maximum, lower, upper, low, high = np.clip(np.array(numbers).T, zero, one)
    known, local = ~np.isnan(value), maximum > zero
    names = [literal_name(row.name) for row in rows]
    size = 6.8 + 0.075 * max(map(len, names)), 1.1 + 0.22 * max(len(rows), 6)
    ax = prepare_axes(ax, size)
    y = np.arange(len(rows))
    ax.hlines(y[known], value[known], one, PALE, lw=10, zorder=1, label="usable")
    ax.hlines(y[local], zero, maximum[local], PALE, lw=10, zorder=1)
    for start, end, label, width in (
        (low, high, "certified bracket\n(95 %)", 1.3),
        (lower, upper, "approximate interval\n(95 %)", 7.0),
    ):
        if (there := ~np.isnan(start) & ~np.isnan(end)).any():
            ax.hlines(y[there], start[there], end[there], COLORS[0], lw=width, label=label)
    style: dict[str, Any] = {"color": COLORS[0], "ms": 5.5, "mfc": "white", "mew": 1.5, "zorder": 3}
    ax.plot(value, y, "o", label=r"$\sigma_{min}$", **style)
    for row in y[~known]:
        text = f"not annotated: {rows[row].status}"
        ax.text(zero, row, text, va="center", size="small", color=INK)
    ax.set_yticks(y, names)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    missing = f"\n({(~known).sum()} not annotated)" if not known.all() else ""
    add_legend(ax, f"n = {len(rows)}{missing}", None if known.any() else [])
    set_sigma_axis(ax, zero, one, ends=True)
    if schedule is not None:
        _add_step_axis(ax, levels, schedule)
    return ax


def _add_step_axis(ax: Axes, levels: np.ndarray, schedule: str) -> None:
    """Mark the trainer's steps on top, and number as many as there is room for."""
    top = ax.twiny()
    top.spines[["left", "right", "bottom"]].set_visible(False)
    top.set_xscale("function", functions=(sigma_position, sigma_at))
    top.set_xlim(ax.get_xlim())
    steps = np.flatnonzero(levels <= _HIGHEST)
    steps = steps[np.argsort(levels[steps])]
    place = sigma_position(levels[steps])
    width = float(np.ptp(sigma_position(np.array(ax.get_xlim()))))
    digits = len(str(steps.max()))
    numbered = steps[_thin(place, width * (0.02 + 0.022 * digits))]
    top.set_xticks(levels[numbered], [str(step) for step in numbered])
    top.set_xticks(levels[steps[_thin(place, width / 400)]], minor=True)
    top.tick_params(labelsize="small")
    top.set_xlabel(f"step of {schedule}", fontsize="small")


def _thin(places: np.ndarray, gap: float) -> list[int]:
    """Return which of the rising places to keep so that no two are nearer than `gap`."""
    kept: list[int] = []
    for index, place in enumerate(places):
        if not kept or place - places[kept[-1]] >= gap:
            kept.append(index)
    return kept


def sigma_ends(sigma: np.ndarray) -> tuple[float, float]:
    """Return where 0 and 1 are drawn, on an axis that holds all of `sigma`; NaN is left out."""
    inside = np.append(sigma[(sigma > 0) & (sigma < 1)], [_TICKS[0], _TICKS[-1]])
    low, high = sigma_position(np.array([inside.min(), inside.max()]))
    zero, one = sigma_at(np.array([low - _END_GAP, high + _END_GAP])).tolist()
    return zero, one


def sigma_position(sigma: np.ndarray) -> np.ndarray:
    """Place on the axis of VP `sigma`: minus the log-SNR, which 0 and 1 do not have."""
    return -log_snr(np.clip(sigma, 1e-6, 1 - 1e-9))


def sigma_at(position: np.ndarray) -> np.ndarray:
    """VP sigma at a place on the axis; inverse of `sigma_position`."""
    return sigma_from_log_snr(-position)


def set_sigma_height(ax: Axes, low: float, high: float) -> None:
    """Make y uniform in log-SNR, from `low` to `high` or where nothing changes any more."""
    high = min(high, _HIGHEST)
    ax.set_yscale("function", functions=(sigma_position, sigma_at))
    ax.set_ylim(low, high)
    ticks = {tick: f"{tick:g}".removeprefix("0") for tick in _TICKS if low <= tick <= high}
    ax.set_yticks(list(ticks), list(ticks.values()))
    ax.set_ylabel(f"noise level {SIGMA} (VP)")


def set_sigma_axis(ax: Axes, low: float, high: float, *, ends: bool = False) -> None:
    """Make x uniform in log-SNR from `low` to `high`; with `ends` these stand for 0 and 1."""
    ax.set_xscale("function", functions=(sigma_position, sigma_at))
    left, right = sigma_position(np.array([low, high]))
    margin = 0.015 * (right - left)
    ax.set_xlim(*sigma_at(np.array([left - margin, right + margin])).tolist())
    ticks = {tick: f"{tick:g}".removeprefix("0") for tick in _TICKS if low <= tick <= high}
    if ends:
        ticks = {low: "0", **ticks, high: "1"}
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set_xlabel(f"noise level {SIGMA} (VP)")


def save_figure(ax: Axes, path: Path) -> None:
    """Save the figure of `ax`; equal figures give equal bytes.

    Parameters
    ----------
    ax : Axes
        Any axes of the figure.
    path : Path
        Its suffix chooses the format: ``.png``, ``.svg`` or ``.pdf``.

    Raises
    ------
    ConfigError
        If the suffix is another.
    OSError
        If the file system refuses; a file that was there stays as it was.
    """
    suffix = path.suffix.lower()
    if suffix not in _UNDATED:
        raise ConfigError(
            f"{path} has the suffix {path.suffix!r}; expected one of {', '.join(_UNDATED)}",
            f"for example {path.with_suffix('.png')}",
        )
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("the axes belong to no figure")
    figure.draw_without_rendering()  # one pass of the layout may leave a label cut off
    with mpl.rc_context({"svg.hashsalt": "ambient-curate"}), replace_whole(path) as temporary:
        figure.savefig(temporary, format=suffix[1:], dpi=200, metadata=_UNDATED[suffix])
