"""Figures of spectra, receptive fields and probes: results in, `Axes` out."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from ambient_curate.analysis.probes import Probe
from ambient_curate.analysis.receptive_field import Field
from ambient_curate.analysis.spectra import (
    Sounding,
    Spectrum,
    drowning_sigma,
    fit_decay,
    mean_power,
)
from ambient_curate.errors import NotEnoughDataError, write_count
from ambient_curate.report import canvas
from ambient_curate.report.canvas import Curve

COLUMNS = 3  # panels beside each other
_NAMED = 7  # dimensions with lines and bands of their own
_DROWNING = (0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 0.99)
_TINY = 1e-30


def plot_spectrum(soundings: Sequence[Sounding]) -> Axes:
    """Draw power against frequency, a panel a dataset, and the noise level that drowns it.

    Parameters
    ----------
    soundings : sequence of Sounding
        At least one.

    Returns
    -------
    Axes
        The first panel of a new figure. Power is two-sided and a frame, in squared scaled units.
        A dimension has a line, with an interval over episodes if there are few, and its exponent;
        the mean of the dimensions is black. On the right: the VP level at which the noise has as
        much power. Panels for ratios to the clean set come last.

    Raises
    ------
    NotEnoughDataError
        If nothing was measured.
    """
    _require(len(soundings), "dataset with a spectrum")
    contrasts = [s for s in soundings if s.contrast is not None]
    panels = _make_panels(len(soundings) + (2 if contrasts else 0), (4.6, 3.3))
    for ax, sounding in zip(panels, soundings, strict=False):
        _draw_spectrum(ax, sounding)
    if contrasts:
        _draw_ratios(panels[-2], contrasts)
        _draw_hiding(panels[-1], contrasts)
    return panels[0]


def _draw_spectrum(ax: Axes, sounding: Sounding) -> None:
    spectrum = sounding.spectrum
    band, decay = mean_power(spectrum), fit_decay(spectrum)
    moving = spectrum.moving.tolist()
    few = len(moving) <= _NAMED
    for place, dim in enumerate(moving):
        color = canvas.COLORS[place] if few and place < 6 else canvas.GREY
        label = (
            f"{dim}: {_name_decay(decay, dim)}" if few and np.isfinite(decay.value[dim]) else None
        )
        style: dict[str, Any] = {"color": color, "lw": 1.0 if few else 0.5, "label": label}
        ax.plot(spectrum.frequency, np.maximum(band.value[:, dim], _TINY), **style)
        if few:
            ends = (np.maximum(end[:, dim], _TINY) for end in (band.lower, band.upper))
            ax.fill_between(spectrum.frequency, *ends, color=color, alpha=0.15, lw=0)
    _draw_mean(ax, spectrum, len(moving))
    ax.set(xscale="log", yscale="log", ylabel="power (scaled units²)")
    count = f"{write_count(spectrum.n_episodes, 'episode')}, segments of {spectrum.segment}"
    ax.set_title(f"{canvas.literal_name(sounding.name)}\n{count}", fontsize="small")
    known = bool(np.isfinite(decay.value).any())
    title = r"dimension: exponent $\alpha$" if few else rf"exponent $\alpha$, {len(moving)} dims"
    title = title if known else "too few frequencies\nfor an exponent"
    ax.legend(title=title, fontsize=6.5, title_fontsize=6.5, loc="best", frameon=False)
    _label_frequency(ax, sounding.rate_hz)
    _add_drowning_axis(ax)


def _draw_mean(ax: Axes, spectrum: Spectrum, dims: int) -> None:
    whole = spectrum.power[:, :, spectrum.moving].mean(axis=2, keepdims=True)
    pooled = Spectrum(spectrum.frequency, whole, spectrum.order[:1], spectrum.segment, 0)
    band, decay = mean_power(pooled), fit_decay(pooled)
    label = f"mean: {_name_decay(decay, 0)}" if np.isfinite(decay.value[0]) else "mean"
    if dims == 1:
        return
    ax.plot(spectrum.frequency, band.value[:, 0], color="black", lw=1.8, label=label)
    style: dict[str, Any] = {"color": "black", "alpha": 0.2, "lw": 0}
    ax.fill_between(spectrum.frequency, band.lower[:, 0], band.upper[:, 0], **style)


def _name_decay(decay: Any, dim: int) -> str:
    value, low, high = (getattr(decay, end)[dim] for end in ("value", "lower", "upper"))
    if np.isnan(value):
        return "-"
    return f"{value:.1f}" if np.isnan(low) else f"{value:.1f} ({low:.1f} to {high:.1f})"


def _label_frequency(ax: Axes, rate_hz: float | None) -> None:
    unit = "cycles a frame" if rate_hz is None else f"cycles a frame, of 1/{rate_hz:g} s"
    ax.set_xlabel(f"frequency ({unit})")


def _add_drowning_axis(ax: Axes) -> None:
    """Mark on the right which noise has the power on the left."""
    right = ax.twinx()
    right.spines[["top", "left"]].set_visible(False)
    right.set(yscale="log", ylim=ax.get_ylim())
    low, high = ax.get_ylim()
    levels = [s for s in _DROWNING if low < s**2 / (1 - s**2) < high]
    right.set_yticks(
        [s**2 / (1 - s**2) for s in levels], [f"{s:g}".removeprefix("0") for s in levels]
    )
    right.yaxis.set_minor_locator(NullLocator())
    right.set_ylabel(f"drowned at {canvas.SIGMA} (VP)")


def _draw_ratios(ax: Axes, soundings: Sequence[Sounding]) -> None:
    """Draw the power of corrupt datasets over that of the clean one."""
    ax.axhline(1.0, color=canvas.INK, lw=0.8)
    for color, sounding in zip(canvas.COLORS, soundings, strict=False):
        found = sounding.contrast
        if found is None:
            continue
        name = canvas.literal_name(sounding.name)
        ax.plot(found.frequency, found.ratio.value, "o-", ms=3, lw=1.2, color=color, label=name)
        ends = (found.ratio.lower, found.ratio.upper)
        ax.fill_between(found.frequency, *ends, color=color, alpha=0.15, lw=0)
    ax.set(xscale="log", yscale="log", ylabel="power / power of the clean set")
    ax.set_xlabel("frequency (cycles a frame)")
    ax.set_title("where the corruption sits\n95 % interval over episodes", fontsize="small")
    ax.legend(fontsize="x-small", frameon=False)


def _draw_hiding(ax: Axes, soundings: Sequence[Sounding]) -> None:
    """Draw what drowns the clean signal, and what hides each difference from it."""
    finest = max((s.contrast for s in soundings if s.contrast), key=lambda c: c.frequency.size)
    style: dict[str, Any] = {"color": canvas.INK, "ls": "--", "lw": 1.2}
    style["label"] = "clean signal drowned"
    ax.plot(finest.frequency, drowning_sigma(finest.clean), **style)
    for color, sounding in zip(canvas.COLORS, soundings, strict=False):
        found = sounding.contrast
        if found is None:
            continue
        name = canvas.literal_name(sounding.name)
        ax.plot(found.frequency, found.hidden, "o-", ms=3, lw=1.2, color=color, label=name)
    ax.set(xscale="log", ylim=(0, 1), ylabel=f"noise level {canvas.SIGMA} (VP)")
    ax.set_xlabel("frequency (cycles a frame)")
    ax.set_title("noise that hides one coefficient's\ndifference (Δ < 4ε)", fontsize="small")
    ax.legend(fontsize="x-small", frameon=False)


def plot_jacobian(fields: Sequence[Field]) -> Axes:
    """Draw what the middle frame of a window depends on, at several noise levels.

    Parameters
    ----------
    fields : sequence of Field
        A panel each: of a dataset in closed form, of a denoiser by its Jacobian.

    Returns
    -------
    Axes
        The first panel of a new figure: root mean squared Frobenius norm of the derivative of the
        middle frame by each noised frame, a line a level.

    Raises
    ------
    NotEnoughDataError
        If there is no field.
    """
    _require(len(fields), "receptive field")
    panels = _make_panels(len(fields), (4.2, 3.1))
    for ax, field in zip(panels, fields, strict=True):
        found = field.sensitivity
        chosen = np.unique(np.linspace(0, found.sigma.size - 1, 7).round().astype(int))
        shades = mpl.colormaps["viridis"](np.linspace(0.0, 0.9, chosen.size))
        for shade, level in zip(shades, chosen.tolist(), strict=True):
            label = f"{found.sigma[level]:.3g}: {found.radius[level]}"
            value = np.sqrt(found.square[level])
            ax.plot(found.offset, value, ".-", ms=4, lw=1.2, color=shade, label=label)
        ax.set(xlabel="noised frame, from the predicted one", ylabel="sensitivity (norm)")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_title(f"{canvas.literal_name(field.name)}\n{field.way}", fontsize="small")
        title = f"{canvas.SIGMA}: radius"
        ax.legend(title=title, fontsize=6.5, title_fontsize=6.5, frameon=False)
    return panels[0]


def plot_field(fields: Sequence[Field], *, ax: Axes | None = None) -> Axes:
    """Draw how far a denoiser depends on other frames against the noise level.

    Parameters
    ----------
    fields : sequence of Field
        A line each; Jacobians are dashed.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        Smallest radius, in frames, that holds 95 % of the squared sensitivity.

    Raises
    ------
    NotEnoughDataError
        If there is no field.
    """
    _require(len(fields), "receptive field")
    ax = canvas.prepare_axes(ax)
    for number, (name, way, found) in enumerate(fields):
        color = canvas.COLORS[number % len(canvas.COLORS)]
        again = ":" if number >= len(canvas.COLORS) else "-"
        dashes = again if way == fields[0].way else "--"
        label = f"{canvas.literal_name(name)}, {way}"
        style: dict[str, Any] = {"color": color, "ls": dashes, "lw": 1.5, "label": label}
        ax.plot(found.sigma, found.radius, drawstyle="steps-mid", **style)
    levels = np.concatenate([field.sensitivity.sigma for field in fields])
    canvas.set_sigma_axis(ax, float(levels.min()), float(levels.max()))
    ax.set(ylabel="radius of the receptive field (frames)", ylim=(-0.3, None))
    canvas.add_legend(ax, "holds 95 % of the squared sensitivity")
    return ax


def plot_probe(probes: Sequence[Probe], *, ax: Axes | None = None) -> Axes:
    """Draw how well a task variable is read from noised windows.

    Parameters
    ----------
    probes : sequence of Probe
        A line each.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        Balanced accuracy out of fold, with its interval over episodes, and chance (dotted).

    Raises
    ------
    NotEnoughDataError
        If there is no probe.
    """
    _require(len(probes), "probe")
    ax = canvas.prepare_axes(ax)
    ordered = sorted(probes, key=lambda probe: -float(probe.accuracy.mean()))
    curves = [
        Curve(
            f"{probe.dataset}, {probe.of}",
            f"{sum(probe.episodes)} in {len(probe.classes)}",
            *(probe.sigma, probe.accuracy, probe.lower, probe.upper),
        )
        for probe in ordered
    ]
    band = "approximate 95 % interval"
    colors = canvas.draw_curves(ax, curves, "n episodes in classes", band=band)
    for probe, color in zip(ordered, colors, strict=True):
        ax.axhline(probe.chance, color=color, lw=0.9, ls=":")
    ax.set(ylabel="balanced accuracy, out of fold (dotted: chance)", ylim=(0, 1.02))
    return ax


def _make_panels(count: int, size: tuple[float, float]) -> list[Axes]:
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    figure, grid = plt.subplots(
        *(rows, columns),
        figsize=(size[0] * columns, size[1] * rows),
        layout="constrained",
        squeeze=False,
    )
    for ax in grid.flat[count:]:
        figure.delaxes(ax)
    return [canvas.prepare_axes(ax) for ax in grid.flat[:count]]


def _require(count: int, what: str) -> None:
    if count == 0:
        raise NotEnoughDataError(f"there is no {what} to draw", "choose another source")
