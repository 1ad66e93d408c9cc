"""One function a figure: a table of a run in, the `Axes` out; without `ax`, on a new figure.

Figures of datasets leave out the rows of groups. To see one dataset, filter the table.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from ambient_curate.divergence import delta_at, tv_range_at
from ambient_curate.errors import NotEnoughDataError
from ambient_curate.option_fields import check_argument, number_in
from ambient_curate.report import canvas
from ambient_curate.report.canvas import Curve, Row
from ambient_curate.run.records import name_set

_INTERVAL = "approximate 95 % interval"
_EPISODES = "episodes (clean / corrupt)"
_MARKERS = "osD^v<>"


def plot_accuracy(curves: pa.Table, *, ax: Axes | None = None) -> Axes:
    """Draw how well clean and corrupt windows are distinguished at each noise level.

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
        curve._replace(lower=(1 + curve.lower) / 2, upper=(1 + curve.upper) / 2, bounds=())
        for curve in _dataset_curves(curves, "accuracy", "tv")
    ]
    ax = canvas.prepare_axes(ax)
    canvas.draw_curves(
        ax, drawn, _EPISODES, band=_INTERVAL, key=[canvas.draw_level(ax, 0.5, "chance")]
    )
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
        threshold, and a dot where a line last crosses it. Of at most five datasets also the
        certified lower and upper bounds, and the upper bounds of the sampled windows.

    Raises
    ------
    NotEnoughDataError
        If no row speaks for a dataset.
    """
    epsilon = check_argument("epsilon", epsilon, number_in("(0, 0.5)"))
    drawn = _dataset_curves(curves, "delta", "delta")
    ax = canvas.prepare_axes(ax)
    threshold = delta_at(epsilon)
    level = canvas.draw_level(ax, threshold, f"threshold 4ε = {threshold:g}")
    colors = canvas.draw_curves(ax, drawn, _EPISODES, band=_INTERVAL, key=[level])
    for curve, color in zip(drawn, colors, strict=True):
        crossing = _last_crossing(curve, threshold)
        order = 4 if color == canvas.GREY else 5
        if crossing is not None:
            ax.plot(crossing, threshold, "o", ms=5, color=color, mec="white", mew=0.8, zorder=order)
    ax.set(ylabel="divergence Δ from the clean data (0 to 2)", ylim=(-0.04, 2.04))
    return ax


def plot_tv(curves: pa.Table, *, epsilon: float, ax: Axes | None = None) -> Axes:
    """Draw the total variation distance of each dataset from the clean data.

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
        TV in [0, 1] against sigma, lines as of `plot_delta`. In the grey range Delta decides:
        it is below 4 epsilon where TV is below 2 epsilon, and never where TV is at least
        sqrt(2 epsilon).

    Raises
    ------
    NotEnoughDataError
        If no row speaks for a dataset.
    """
    epsilon = check_argument("epsilon", epsilon, number_in("(0, 0.5)"))
    drawn = _dataset_curves(curves, "tv", "tv")
    ax = canvas.prepare_axes(ax)
    key = [_draw_margin(ax, epsilon)]
    canvas.draw_curves(ax, drawn, _EPISODES, band=_INTERVAL, key=key)
    ax.set(ylabel="total variation from the clean data (0 to 1)", ylim=(-0.02, 1.02))
    return ax


def plot_certificate(curves: pa.Table, *, epsilon: float, ax: Axes | None = None) -> Axes:
    """Draw what is certain of the total variation, whatever the classifier is worth.

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
        The certified lower bound of TV in [0, 1] against sigma, colours as of `plot_accuracy`,
        over the range where Delta may be 4 epsilon. Of at most five datasets also the upper one.

    Raises
    ------
    NotEnoughDataError
        If no row speaks for a dataset.
    """
    drawn = _dataset_curves(curves, "accuracy", "tv")
    ax = canvas.prepare_axes(ax)
    canvas.draw_certificates(ax, drawn, [_draw_margin(ax, epsilon)])
    ax.set(ylabel="total variation, certified (0 to 1)", ylim=(-0.02, 1.02))
    return ax


def plot_bracket(
    verdict: Sequence[Mapping[str, Any]], *, schedule: str, ax: Axes | None = None
) -> Axes:
    """Draw what is believed and what is certain of sigma_min, beside the trainer's steps.

    Parameters
    ----------
    verdict : sequence of mapping
        ``verdict`` of ``run.json``; the clean dataset is left out.
    schedule : str
        The trainer's noise schedule, as for `noise.schedule_levels`.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        A row per dataset and group, sorted: sigma_min, its approximate interval (thick), its
        certified bracket (thin), and a pale bar over the usable levels. A row without sigma_min
        says why. Above, the trainer's steps.

    Raises
    ------
    NotEnoughDataError
        If there is no corrupt row.
    ConfigError
        If the schedule is not known.
    """
    canvas.check_verdict(verdict)
    rows = [_row(answer, "bracket") for answer in verdict if not answer["is_clean"]]
    _require(len(rows), "corrupt")
    return canvas.draw_rows(ax, rows, schedule=schedule)


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
        For datasets and groups: a row each, as of `plot_bracket`, without the approximate
        interval. For episodes and windows: the share usable at sigma, a line per dataset, between
        the shares by ``sigma_min_upper`` and ``sigma_min_lower``. Rows without sigma_min count as
        never usable, as trainers read them.

    Raises
    ------
    NotEnoughDataError
        If there is no corrupt row.
    """
    canvas.check_table(manifest, "manifest", "is_clean", "episode_id", "sigma_min")
    light = manifest.select([name for name in manifest.column_names if name != "p_clean"])
    corrupt = _select(light, pc.invert(light["is_clean"]), "corrupt")
    if corrupt["episode_id"].null_count < corrupt.num_rows:
        return _draw_shares(canvas.prepare_axes(ax), corrupt)
    return canvas.draw_rows(ax, [_row(row, "sigma_min") for row in corrupt.to_pylist()])


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
        of the predictions, and the diagonal of a calibrated classifier. More datasets than colours
        are grey, and what they say together stands before them.

    Raises
    ------
    NotEnoughDataError
        If no row speaks for a dataset.
    """
    canvas.check_table(reliability, "reliability", "group", "mean_c", "fraction_clean")
    rows = _select(reliability, pc.is_null(reliability["group"]), "dataset")
    ax = canvas.prepare_axes(ax, size=(6.4, 4.6))
    ax.plot([0, 1], [0, 1], color=canvas.GREY, lw=1, ls=(0, (4, 3)), zorder=1)
    size, title = 200, f"datasets: {(n_datasets := len(pc.unique(rows['dataset'])))}"
    if n_datasets > len(canvas.COLORS):
        x, y, area = (_floats(rows, name) for name in ("mean_c", "fraction_clean", "weight"))
        ax.scatter(x, y, 60 * area, color=canvas.GREY, alpha=0.5, lw=0, zorder=2)
        rows, size, title = _pool(rows), 600, f"{title}, grey\ncolour: their mean"
    names = ("sigma_low", "sigma_high", "weight", "mean_c", "fraction_clean")
    lows, highs, weight, predicted, observed = (_floats(rows, name) for name in names)
    bands = sorted(set(zip(lows, highs, strict=True)))
    shades = mpl.colormaps["viridis"](np.linspace(0.0, 0.85, len(bands)))
    for (low, high), shade, marker in zip(bands, shades, cycle(_MARKERS), strict=False):
        chosen = (lows == low) & (highs == high)
        x, y, area = (column[chosen] for column in (predicted, observed, size * weight))
        style: dict[str, Any] = {"alpha": 0.8, "ec": "white", "lw": 0.4, "zorder": 3}
        label = f"{canvas.SIGMA} {low:.2g} to {high:.2g}"
        ax.scatter(x, y, area, color=shade, marker=marker, label=label, **style)
    legend = canvas.add_legend(ax, f"{title}\narea: share of predictions")
    for handle in legend.legend_handles:
        handle.set_sizes([40.0])  # type: ignore[union-attr]
    ax.set(xlim=(-0.02, 1.02), xlabel="mean predicted probability of clean, c")
    ax.set(ylim=(-0.02, 1.02), ylabel="observed share of clean windows", aspect="equal")
    return ax


def _pool(rows: pa.Table) -> pa.Table:
    """Average a reliability over its datasets, each bin by its share of the predictions."""
    keys = ("sigma_low", "sigma_high", "p_low")
    for name in ("mean_c", "fraction_clean"):
        rows = rows.append_column(f"{name}_mass", pc.multiply(rows[name], rows["weight"]))
    sums = ("weight", "mean_c_mass", "fraction_clean_mass")
    pooled = rows.group_by(keys).aggregate([(name, "sum") for name in sums])
    pooled = pooled.filter(pc.greater(pooled["weight_sum"], 0.0))
    count = len(pc.unique(rows["dataset"]))
    columns = {name: pooled[name] for name in keys}
    for name in ("mean_c", "fraction_clean"):
        columns[name] = pc.divide(pooled[f"{name}_mass_sum"], pooled["weight_sum"])
    return pa.table(columns | {"weight": pc.divide(pooled["weight_sum"], float(count))})


def _draw_margin(ax: Axes, epsilon: float) -> Artist:
    """Draw the range of TV in which Delta may be 4 epsilon; return it for the legend."""
    low, high = tv_range_at(epsilon)
    label = f"possible where Δ = 4ε:\n{low:.3g} to {high:.3g}"
    shade = mpl.colors.to_rgba(canvas.INK, 0.08)
    return ax.axhspan(low, high, fc=shade, ec=canvas.INK, lw=0.6, zorder=0, label=label)


def _require(n_rows: int, kind: str) -> None:
    if n_rows == 0:
        raise NotEnoughDataError(
            f"the table holds no {kind} row, so there is nothing to draw",
            "choose a finished run with a dataset beside the clean set",
        )


def _select(table: pa.Table, mask: pa.ChunkedArray, kind: str) -> pa.Table:
    """Return the rows of `mask`; there must be one to draw."""
    rows = table.filter(mask)
    _require(rows.num_rows, kind)
    return rows


def _dataset_curves(table: pa.Table, value: str, bound: str) -> list[Curve]:
    """Return a curve per dataset, the highest first, with the interval and bounds of `bound`."""
    canvas.check_table(table, "curves", "group", "sigma", value)
    rows = _select(table, pc.is_null(table["group"]), "dataset").sort_by("sigma")
    n_clean, n_corrupt = rows["n_clean"].to_numpy(), rows["n_corrupt"].to_numpy()
    names = np.asarray(rows["dataset"].cast(pa.string()).to_pylist(), dtype=object)
    ends = ("lower_approx", "upper_approx", "lower", "upper_empirical", "upper")
    columns = ("sigma", value, *(f"{bound}_{end}" for end in ends))
    curves = []
    for name in np.unique(names):
        of = names == name
        note = f"{n_clean[of].max():,} / {n_corrupt[of].max():,}"
        sigma, line, lower, upper, *bounds = (_floats(rows, column)[of] for column in columns)
        curves.append(Curve(name, note, sigma, line, lower, upper, tuple(bounds)))
    return sorted(curves, key=lambda curve: -float(curve.value.mean()))


def _row(answer: Mapping[str, Any], bracket: str) -> Row:
    """Return an answer of the verdict, or of the manifest, whose bracket goes by this name."""

    def number(key: str) -> float:
        value = answer.get(key)
        return np.nan if value is None else float(value)

    name, group = answer["dataset"], answer["group"]
    return Row(
        name_set(name, group),
        number("sigma_min"),
        (number("lower"), number("upper")),
        (number(f"{bracket}_lower"), number(f"{bracket}_upper")),
        number("sigma_max"),
        answer["status"],
    )


def _last_crossing(curve: Curve, threshold: float) -> float | None:
    """Return where the drawn line last falls through the threshold; None: nowhere."""
    above = np.flatnonzero(curve.value >= threshold)
    if above.size == 0 or above[-1] == curve.value.size - 1:
        return None
    i = above[-1]
    share = (curve.value[i] - threshold) / (curve.value[i] - curve.value[i + 1])
    left, right = canvas.sigma_position(curve.sigma[i : i + 2])
    return float(canvas.sigma_at(np.array([left + share * (right - left)]))[0])


def _draw_shares(ax: Axes, rows: pa.Table) -> Axes:
    """Draw the share of episodes or windows usable at each noise level, a line per dataset."""
    what = "episodes" if rows["start"].null_count == rows.num_rows else "windows"
    datasets = pc.dictionary_encode(rows["dataset"].cast(pa.string())).combine_chunks()
    code_of_row = datasets.indices.to_numpy()
    value, maximum = _floats(rows, "sigma_min"), _floats(rows, "sigma_max")
    lower, upper = (_floats(rows, f"sigma_min_{end}") for end in ("lower", "upper"))
    lower, upper = (np.where(np.isnan(bound), value, bound) for bound in (lower, upper))
    zero, one = canvas.sigma_ends(np.append(value, maximum))
    left, right = canvas.sigma_position(np.array([zero, one]))
    levels = canvas.sigma_at(np.linspace(left, right, 1024))  # finer than a pixel
    curves = []
    for code, name in enumerate(datasets.dictionary.to_pylist()):
        of = code_of_row == code
        missing = np.isnan(value[of]).sum()
        note = f"{of.sum():,}" + (f" ({missing:,} null)" if missing else "")
        share, low, high = (
            _usable_share(v[of], maximum[of], levels) for v in (value, upper, lower)
        )
        curves.append(Curve(name, note, levels, share, low, high))
    curves.sort(key=lambda curve: -float(curve.value.mean()))
    canvas.draw_curves(ax, curves, f"n {what}", band="by the ends of\ntheir intervals")
    canvas.set_sigma_axis(ax, zero, one, ends=True)
    ax.set(ylabel=f"share of {what} usable at {canvas.SIGMA}", ylim=(-0.02, 1.02))
    return ax


def _usable_share(minimum: np.ndarray, maximum: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return the share of rows with ``sigma_min < level`` or ``level <= sigma_max``, per level."""
    local = np.nan_to_num(maximum)
    above = np.searchsorted(np.sort(np.maximum(minimum, local)), levels)  # NaN sorts last
    below = local.size - np.searchsorted(np.sort(local), levels)
    return (above + below) / minimum.size


def _floats(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


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
        ones crowd (`weights.Tilt`), of the clean set, of what is used at the lowest noise, and of
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
