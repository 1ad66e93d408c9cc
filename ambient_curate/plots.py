"""One function a figure: an Arrow table in, the `Axes` out; without `ax`, on a new figure.

Noise levels are VP sigmas on an axis uniform in log-SNR, the scale on which a classifier sees them.
A legend names the lines from the top down, with their n. Of more datasets than colours, the named
ones are evenly spaced over the ranking and the others are grey; filter the table to see one.
"""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from ambient_curate.errors import ConfigError, NotEnoughDataError
from ambient_curate.files import replace_whole
from ambient_curate.noise import log_snr, sigma_from_log_snr

# Okabe and Ito's colour-blind-safe palette without its yellow, which is lost on white paper.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#9a9a9a"
PALE = "#cfe3f1"
INK = "#404040"
_UNDATED = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}  # metadata

_SIGMA = "\N{GREEK SMALL LETTER SIGMA}"
_TICKS = (0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 0.99)
_HIGHEST = 0.99875  # VE noise 20: curves change nothing beyond it
_END_GAP = 1.5  # log-SNR between the outermost level and where sigma 0 and 1 are drawn
_MARKERS = "osD^v<>"


class _Curve(NamedTuple):
    name: str
    note: str  # its n, for the legend
    sigma: np.ndarray
    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def plot_accuracy(curves: pa.Table, *, ax: Axes | None = None) -> Axes:
    """Draw how well clean and corrupt windows are told apart at each noise level.

    Parameters
    ----------
    curves : pyarrow.Table
        ``curves.parquet``; rows of groups are left out.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        Balanced out-of-fold accuracy in [0, 1] against sigma, a line per dataset with its
        approximate interval ``(1 + TV) / 2``, and chance.

    Raises
    ------
    NotEnoughDataError
        If no row speaks for a dataset.
    """
    drawn = [
        curve._replace(lower=(1 + curve.lower) / 2, upper=(1 + curve.upper) / 2)
        for curve in _dataset_curves(curves, "accuracy", "tv")
    ]
    ax = _axes(ax)
    _draw_curves(ax, drawn, "episodes (clean / corrupt)")
    _draw_level(ax, 0.5, "chance")
    ax.set_ylabel("balanced accuracy, out of fold")
    ax.set_ylim(min(0.46, *(float(curve.value.min()) - 0.02 for curve in drawn)), 1.02)
    return ax


def plot_delta(curves: pa.Table, *, epsilon: float, ax: Axes | None = None) -> Axes:
    """Draw the triangular discrimination of each dataset and where it falls below 4 epsilon.

    Parameters
    ----------
    curves : pyarrow.Table
        ``curves.parquet``; rows of groups are left out.
    epsilon : float
        Tolerance of the annotation, in (0, 0.5).
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        Delta in [0, 2] against sigma, a line per dataset with its approximate interval, the
        threshold, and a dot where a line last crosses it.

    Raises
    ------
    NotEnoughDataError
        If no row speaks for a dataset.
    """
    drawn = _dataset_curves(curves, "delta", "delta")
    ax = _axes(ax)
    colors = _draw_curves(ax, drawn, "episodes (clean / corrupt)")
    threshold = 4 * epsilon
    _draw_level(ax, threshold, f"threshold 4ε = {threshold:g}")
    for curve, color in zip(drawn, colors, strict=True):
        crossing = _last_crossing(curve, threshold)
        order = 4 if color == GREY else 5
        if crossing is not None:
            ax.plot(crossing, threshold, "o", ms=5, color=color, mec="white", mew=0.8, zorder=order)
    ax.set(ylabel="divergence Δ from the clean data (0 to 2)", ylim=(-0.04, 2.04))
    return ax


def plot_sigma_min(manifest: pa.Table, *, ax: Axes | None = None) -> Axes:
    """Draw the noise levels from which on the corrupt data may train.

    Parameters
    ----------
    manifest : pyarrow.Table
        Of any granularity; clean rows are left out.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        For datasets and groups: a row each, sorted, with sigma_min, its interval, and a pale bar
        over the usable levels. For episodes and windows: the share usable at sigma, a line per
        dataset, between the shares by ``sigma_min_upper`` and ``sigma_min_lower``. Rows without
        sigma_min count as never usable, as trainers read them.

    Raises
    ------
    NotEnoughDataError
        If there is no corrupt row.
    """
    light = manifest.select([name for name in manifest.column_names if name != "p_clean"])
    corrupt = _select(light, pc.invert(light["is_clean"]), "corrupt")
    values = np.concatenate([_floats(corrupt, "sigma_min"), _floats(corrupt, "sigma_max")])
    inside = np.append(values[(values > 0) & (values < 1)], [_TICKS[0], _TICKS[-1]])
    low, high = _position(np.array([inside.min(), inside.max()]))
    zero, one = _sigma_at(np.array([low - _END_GAP, high + _END_GAP])).tolist()
    whole = corrupt["episode_id"].null_count == corrupt.num_rows
    ax = (_draw_rows if whole else _draw_shares)(ax, corrupt, (zero, one))
    _set_sigma_axis(ax, zero, one, ends=True)
    return ax


def plot_reliability(reliability: pa.Table, *, ax: Axes | None = None) -> Axes:
    """Draw the observed share of clean windows against the classifier's prediction.

    Parameters
    ----------
    reliability : pyarrow.Table
        ``reliability.parquet``; rows of groups are left out.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        A point per dataset, noise band and bin of predictions, its area proportional to its share
        of the predictions, and the diagonal of a calibrated classifier.

    Raises
    ------
    NotEnoughDataError
        If no row speaks for a dataset.
    """
    rows = _select(reliability, pc.is_null(reliability["group"]), "dataset")
    ax = _axes(ax, size=(6.4, 4.6))
    ax.plot([0, 1], [0, 1], color=GREY, lw=1, ls=(0, (4, 3)), zorder=1)
    names = ("sigma_low", "sigma_high", "weight", "mean_c", "fraction_clean")
    lows, highs, weight, predicted, observed = (_floats(rows, name) for name in names)
    bands = sorted(set(zip(lows, highs, strict=True)))
    shades = mpl.colormaps["viridis"](np.linspace(0.0, 0.85, len(bands)))
    for (low, high), shade, marker in zip(bands, shades, cycle(_MARKERS), strict=False):
        chosen = (lows == low) & (highs == high)
        x, y, area = (column[chosen] for column in (predicted, observed, 200 * weight))
        style: dict[str, Any] = {"alpha": 0.8, "ec": "white", "lw": 0.4, "zorder": 3}
        label = f"{_SIGMA} {low:.2g} to {high:.2g}"
        ax.scatter(x, y, area, color=shade, marker=marker, label=label, **style)
    n_datasets = len(pc.unique(rows["dataset"]))
    legend = _legend(ax, f"datasets: {n_datasets}\narea: share of predictions")
    for handle in legend.legend_handles:
        handle.set_sizes([40.0])  # type: ignore[union-attr]
    ax.set(xlim=(-0.02, 1.02), xlabel="mean predicted probability of clean, c")
    ax.set(ylim=(-0.02, 1.02), ylabel="observed share of clean windows", aspect="equal")
    return ax


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
    with mpl.rc_context({"svg.hashsalt": "ambient-curate"}), replace_whole(path) as temporary:
        figure.savefig(temporary, format=suffix[1:], dpi=200, metadata=_UNDATED[suffix])


def _axes(ax: Axes | None, size: tuple[float, float] = (7.6, 4.2)) -> Axes:
    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#e6e6e6", lw=0.6)
    ax.set_axisbelow(True)
    return ax


def _select(table: pa.Table, mask: pa.ChunkedArray, kind: str) -> pa.Table:
    """Return the rows of `mask`; there must be one to draw."""
    rows = table.filter(mask)
    if rows.num_rows == 0:
        raise NotEnoughDataError(
            f"the table holds no {kind} row, so there is nothing to draw",
            "choose a finished run with a dataset beside the clean set",
        )
    return rows


def _dataset_curves(table: pa.Table, value: str, bound: str) -> list[_Curve]:
    """Return a curve per dataset, the highest first, with the interval of `bound`."""
    rows = _select(table, pc.is_null(table["group"]), "dataset").sort_by("sigma")
    n_clean, n_corrupt = rows["n_clean"].to_numpy(), rows["n_corrupt"].to_numpy()
    names = _texts(rows, "dataset")
    columns = ("sigma", value, f"{bound}_lower_approx", f"{bound}_upper_approx")
    curves = []
    for name in np.unique(names):
        of = names == name
        note = f"{n_clean[of].max():,} / {n_corrupt[of].max():,}"
        curves.append(_Curve(name, note, *(_floats(rows, column)[of] for column in columns)))
    return sorted(curves, key=lambda curve: -float(curve.value.mean()))


def _draw_curves(ax: Axes, curves: Sequence[_Curve], what: str) -> list[str]:
    """Draw lines, bands, legend and x axis; return the colour of each curve."""
    named = np.linspace(0, len(curves) - 1, min(len(curves), len(COLORS))).round().astype(int)
    color_of = dict(zip(named.tolist(), COLORS, strict=False))
    colors = [color_of.get(index, GREY) for index in range(len(curves))]
    handles = []
    for curve, color in zip(curves, colors, strict=True):
        rest = color == GREY
        width, opacity, order, band = (0.7, 0.7, 2, 0.02) if rest else (1.7, 1.0, 3, 0.14)
        style: dict[str, Any] = {"color": color, "lw": width, "alpha": opacity, "zorder": order}
        style["label"] = f"{_plain(curve.name)}  {curve.note}"
        handles += ax.plot(curve.sigma, curve.value, **style)
        ax.fill_between(curve.sigma, curve.lower, curve.upper, color=color, alpha=band, lw=0)
    shown = [handles[index] for index in color_of]
    if others := len(curves) - len(shown):
        shown.append(Line2D([], [], color=GREY, lw=0.9, label=f"{others} others"))
    _legend(ax, what, shown)
    sigma = np.concatenate([curve.sigma for curve in curves])
    _set_sigma_axis(ax, float(sigma.min()), min(float(sigma.max()), _HIGHEST))
    return colors


def _draw_level(ax: Axes, level: float, text: str) -> None:
    """Draw a horizontal reference line, named in the margin at its right end."""
    ax.axhline(level, color=INK, lw=0.9, ls=(0, (4, 3)), zorder=1)
    margin = ax.get_yaxis_transform()
    ax.text(1.015, level, text, va="center", transform=margin, size="small", color=INK)


def _last_crossing(curve: _Curve, threshold: float) -> float | None:
    """Return where the drawn line last falls through the threshold; None: nowhere."""
    above = np.flatnonzero(curve.value >= threshold)
    if above.size == 0 or above[-1] == curve.value.size - 1:
        return None
    i = above[-1]
    share = (curve.value[i] - threshold) / (curve.value[i] - curve.value[i + 1])
    left, right = _position(curve.sigma[i : i + 2])
    return float(_sigma_at(np.array([left + share * (right - left)]))[0])


def _draw_rows(ax: Axes | None, rows: pa.Table, ends: tuple[float, float]) -> Axes:
    """Draw sigma_min and its interval, a row per dataset or group, the most usable on top."""
    value = _floats(rows, "sigma_min")
    order = np.argsort(value, kind="stable")  # NaN, not annotated, comes last
    value, maximum = value[order], _floats(rows, "sigma_max")[order]
    lower, upper = (_floats(rows, f"sigma_min_{end}")[order] for end in ("lower", "upper"))
    names, groups, status = (_texts(rows, name)[order] for name in ("dataset", "group", "status"))
    y = np.arange(value.size)
    known, local = ~np.isnan(value), maximum > 0
    ax = _axes(ax, size=(7.2, 1.1 + 0.22 * max(value.size, 6)))
    value, maximum, lower, upper = (np.clip(v, *ends) for v in (value, maximum, lower, upper))
    ax.hlines(y[known], value[known], ends[1], PALE, lw=7, zorder=1, label="usable")
    ax.hlines(y[local], ends[0], maximum[local], PALE, lw=7, zorder=1)
    ax.hlines(y, lower, upper, COLORS[0], lw=1.6, zorder=2, label="interval")
    ax.plot(value, y, "o", color=COLORS[0], ms=5, zorder=3, label=r"$\sigma_{min}$")
    for row in y[~known]:
        ax.text(ends[0], row, f"not annotated: {status[row]}", va="center", size="small", color=INK)
    labels = [n if g is None else f"{n} / {g}" for n, g in zip(names, groups, strict=True)]
    ax.set_yticks(y, list(map(_plain, labels)))
    ax.set_ylim(value.size - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    missing = f"\n({(~known).sum()} not annotated)" if not known.all() else ""
    _legend(ax, f"n = {value.size}{missing}")
    return ax


def _draw_shares(ax: Axes | None, rows: pa.Table, ends: tuple[float, float]) -> Axes:
    """Draw the share of episodes or windows usable at each noise level, a line per dataset."""
    what = "episodes" if rows["start"].null_count == rows.num_rows else "windows"
    left, right = _position(np.array(ends))
    levels = _sigma_at(np.linspace(left, right, 1024))  # finer than a pixel
    datasets = pc.dictionary_encode(rows["dataset"].cast(pa.string())).combine_chunks()
    code_of_row = datasets.indices.to_numpy()
    value, maximum = _floats(rows, "sigma_min"), _floats(rows, "sigma_max")
    lower, upper = (_floats(rows, f"sigma_min_{end}") for end in ("lower", "upper"))
    lower, upper = (np.where(np.isnan(bound), value, bound) for bound in (lower, upper))
    curves = []
    for code, name in enumerate(datasets.dictionary.to_pylist()):
        of = code_of_row == code
        missing = np.isnan(value[of]).sum()
        note = f"{of.sum():,}" + (f" ({missing:,} null)" if missing else "")
        shares = [_usable_share(each[of], maximum[of], levels) for each in (value, upper, lower)]
        curves.append(_Curve(name, note, levels, *shares))
    ax = _axes(ax)
    _draw_curves(ax, sorted(curves, key=lambda curve: -float(curve.value.mean())), f"n {what}")
    ax.set(ylabel=f"share of {what} usable at {_SIGMA}", ylim=(-0.02, 1.02))
    return ax


def _usable_share(minimum: np.ndarray, maximum: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return the share of rows with ``sigma_min < level`` or ``level <= sigma_max``, per level."""
    local = np.nan_to_num(maximum)
    above = np.searchsorted(np.sort(np.maximum(minimum, local)), levels)  # NaN sorts last
    below = local.size - np.searchsorted(np.sort(local), levels)
    return (above + below) / minimum.size


def _position(sigma: np.ndarray) -> np.ndarray:
    return -log_snr(np.clip(sigma, 1e-6, 1 - 1e-9))


def _sigma_at(position: np.ndarray) -> np.ndarray:
    return sigma_from_log_snr(-position)


def _set_sigma_axis(ax: Axes, low: float, high: float, *, ends: bool = False) -> None:
    """Make x uniform in log-SNR from `low` to `high`; with `ends` these stand for 0 and 1."""
    ax.set_xscale("function", functions=(_position, _sigma_at))
    left, right = _position(np.array([low, high]))
    margin = 0.015 * (right - left)
    ax.set_xlim(*_sigma_at(np.array([left - margin, right + margin])).tolist())
    ticks = {tick: f"{tick:g}".removeprefix("0") for tick in _TICKS if low <= tick <= high}
    if ends:
        ticks = {low: "0", **ticks, high: "1"}
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set_xlabel(f"noise level {_SIGMA} (VP)")


def _legend(ax: Axes, title: str, handles: Sequence[Line2D] | None = None) -> Legend:
    """Put the legend outside, at the upper right, where it covers no data."""
    style: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.01)}
    style |= {"frameon": False, "fontsize": "small", "title_fontsize": "small", "alignment": "left"}
    return ax.legend(handles=handles, title=title, **style)


def _plain(name: str) -> str:
    """Return a dataset's name as matplotlib prints it literally, at most 40 characters."""
    short = name if len(name) <= 40 else f"{name[:28]}…{name[-11:]}"
    return short.replace("$", r"\$")


def _floats(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def _texts(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table[name].cast(pa.string()).to_pylist(), dtype=object)
