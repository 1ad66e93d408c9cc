"""Spectra, receptive fields and probes of datasets: ``python -m examples.spectra --help``."""

import argparse
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import typer
from matplotlib.axes import Axes
from PIL import Image

from ambient_curate.analysis.receptive_field import spectrum_sensitivity
from ambient_curate.analysis.sources import read_recordings
from ambient_curate.analysis.spectra import Sounding, drowning_sigma, fit_decay
from ambient_curate.analysis.survey import survey_fields, survey_probes, survey_spectra
from ambient_curate.errors import CurateError
from ambient_curate.report import source_plots

EDGES = (0.02, 0.05, 0.125, 0.25, 0.5)  # of the bands that have an exponent of their own
LEVELS = (0.025, 0.1, 0.46, 0.9)  # at which radii are told
DPI = 110


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the figures and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m examples.spectra", description=__doc__)
    parser.add_argument("data", nargs="+", type=Path, help="datasets or collections")
    parser.add_argument("--out", type=Path, required=True, help="directory of the figures")
    parser.add_argument("--probe", action="append", default=[], metavar="DATA=VARIABLE")
    given = parser.parse_args(arguments)
    mpl.use("Agg")
    given.out.mkdir(parents=True, exist_ok=True)
    rows: list[list[str]] = []
    for source in given.data:
        with read_recordings(source) as recordings:
            soundings = survey_spectra(recordings)
            save(source_plots.plot_spectrum(soundings), given.out / f"{source.name}_spectrum.png")
            fields = survey_fields(recordings)
            save(source_plots.plot_field(fields), given.out / f"{source.name}_field.png")
        rows += [describe(sounding) for sounding in soundings]
        for line in describe_contrasts(soundings):
            typer.echo(line)
    typer.echo("\n".join(lay_table(rows)))
    for text in given.probe:
        name, _, variable = text.partition("=")
        probe_source(next(d for d in given.data if d.name == name), variable, given.out)


def save(ax: Axes, path: Path) -> None:
    """Write a figure small enough for a repository: few pixels, 256 colours."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.savefig(path, dpi=DPI)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256)
    small.save(path, optimize=True)
    mpl.pyplot.close(figure)


def describe(sounding: Sounding) -> list[str]:
    """Say how the power of one dataset falls, what drowns it, and how far a denoiser looks."""
    spectrum = sounding.spectrum
    whole = fit_decay(spectrum, pooled=True)
    exponent = "-"
    if np.isfinite(whole.value[0]):
        exponent = f"{whole.value[0]:.2f} [{whole.lower[0]:.2f}, {whole.upper[0]:.2f}]"
    bands = [
        fit_decay(spectrum, low=low, high=high, pooled=True).value[0]
        for low, high in pairwise(EDGES)
    ]
    mean = spectrum.power[:, :, spectrum.moving].mean(axis=(0, 2))
    at = [np.abs(spectrum.frequency - edge).argmin() for edge in EDGES[1:]]
    radii = spectrum_sensitivity(spectrum, np.array(LEVELS)).radius
    return [
        *(sounding.name, str(spectrum.n_episodes), str(spectrum.segment), exponent),
        *("-" if np.isnan(value) else f"{value:.1f}" for value in bands),
        *(f"{sigma:.3f}" for sigma in drowning_sigma(mean[at])),
        *(str(radius) for radius in radii),
    ]


def lay_table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lay out the descriptions as Markdown."""
    spans = [f"{low:g}-{high:g}" for low, high in pairwise(EDGES)]
    columns = ["dataset", "n", "segment", "alpha [95 %]", *(f"alpha {span}" for span in spans)]
    columns += [f"drowned {edge:g}" for edge in EDGES[1:]]
    columns += [f"r at {level:g}" for level in LEVELS]
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def describe_contrasts(soundings: Sequence[Sounding]) -> Iterator[str]:
    """Say in which bands each corrupt dataset differs from the clean set, and what hides it."""
    for sounding in soundings:
        found = sounding.contrast
        if found is None:
            continue
        yield f"{sounding.name} against the clean set: frequency, power ratio [95 %], hidden at"
        for band, frequency in enumerate(found.frequency):
            low, high = found.ratio.lower[band], found.ratio.upper[band]
            text = f"{found.ratio.value[band]:.2f} [{low:.2f}, {high:.2f}]"
            yield f"  {frequency:.3f}  {text}  {found.hidden[band]:.3f}"


def probe_source(source: Path, variable: str, out: Path) -> None:
    """Probe a source, draw and print."""
    try:
        probes = survey_probes(source, variable)
    except CurateError as error:
        typer.echo(f"{source.name}: {error}")
        return
    save(source_plots.plot_probe(probes), out / f"{source.name}_probe.png")
    for probe in probes:
        low, high, half = probe.lower[0], probe.upper[0], probe.halfway or 0.0
        typer.echo(
            f"{probe.dataset}, {variable}: {len(probe.classes)} classes, {sum(probe.episodes)} "
            f"episodes, {probe.accuracy[0]:.2f} [{low:.2f}, {high:.2f}] at sigma "
            f"{probe.sigma[0]:.3f}, chance {probe.chance:.2f}, half gone at {half:.4f}, "
            f"above chance up to {probe.readable:.4f}"
        )


if __name__ == "__main__":
    main()
