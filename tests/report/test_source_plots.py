"""What is drawn of spectra, fields and probes, read back from the axes."""

import numpy as np
import pytest

from ambient_curate.analysis.probes import Probe
from ambient_curate.analysis.receptive_field import Field, wiener_sensitivity
from ambient_curate.analysis.spectra import (
    Sounding,
    compare_spectra,
    drowning_sigma,
    estimate_spectrum,
)
from ambient_curate.errors import NotEnoughDataError
from ambient_curate.report import source_plots

pytestmark = pytest.mark.usefixtures("closed_figures")
RNG = np.random.default_rng(0)


def walks(dims: int, count: int = 6) -> list[np.ndarray]:
    return [RNG.normal(size=(140, dims)).cumsum(axis=0) for _ in range(count)]


def test_a_spectrum_has_a_line_a_dimension_their_mean_and_what_drowns_them() -> None:
    spectrum = estimate_spectrum(walks(3))
    first = source_plots.plot_spectrum([Sounding("arm", spectrum, 30.0)])
    lines = [line.get_ydata() for line in first.get_lines()]
    mean = spectrum.power.mean(axis=0)
    assert np.allclose(np.transpose(lines[:3]), mean)
    assert np.allclose(lines[3], mean.mean(axis=1))
    assert "of 1/30 s" in first.get_xlabel() and "6 episodes" in first.get_title()
    right = first.get_figure().axes[-1]  # type: ignore[union-attr]
    for power, label in zip(right.get_yticks(), right.get_yticklabels(), strict=True):
        assert drowning_sigma(power) == pytest.approx(float("0" + label.get_text()))


def test_many_dimensions_are_grey_and_a_contrast_adds_two_panels() -> None:
    clean, other = (estimate_spectrum(walks(9)) for _ in range(2))
    found = compare_spectra(clean, other)
    drawn = [Sounding("clean", clean, None), Sounding("other", other, None, found)]
    first = source_plots.plot_spectrum(drawn)
    assert len(first.get_legend().get_texts()) == 1
    panels = [ax for ax in first.get_figure().axes if ax.get_title()]  # type: ignore[union-attr]
    assert len(panels) == 4
    assert np.allclose(panels[2].get_lines()[1].get_ydata(), found.ratio.value)
    assert np.allclose(panels[3].get_lines()[1].get_ydata(), found.hidden)


def fields() -> list[Field]:
    sigma = np.array([0.1, 0.5, 0.9])
    power = 1.0 / np.linspace(0.1, 1.0, 17)[:, None] ** 2
    found = wiener_sensitivity(power, sigma)
    return [Field("a", "closed form", found), Field("b", "Jacobian", found)]


def test_fields_are_drawn_side_by_side_and_as_radii() -> None:
    drawn = fields()
    first = source_plots.plot_jacobian(drawn)
    assert len(first.get_figure().axes) == 2  # type: ignore[union-attr]
    found = drawn[0].sensitivity
    for line, square in zip(first.get_lines(), found.square, strict=True):
        assert np.allclose(line.get_ydata(), np.sqrt(square))
    ax = source_plots.plot_field(drawn)
    assert [line.get_linestyle() for line in ax.get_lines()] == ["-", "--"]
    assert ax.get_lines()[0].get_ydata().tolist() == found.radius.tolist()


def test_a_probe_is_drawn_with_its_chance() -> None:
    sigma, values = np.array([0.1, 0.5, 0.9]), np.array([0.9, 0.7, 0.4])
    probe = Probe("d", "task", ("x", "y", "z"), (3, 4, 5), {}, sigma, values, values, values)
    ax = source_plots.plot_probe([probe])
    assert ax.get_lines()[0].get_ydata().tolist() == values.tolist()
    assert ax.get_lines()[-1].get_ydata()[0] == pytest.approx(1 / 3)
    assert "12 in 3" in ax.get_legend().get_texts()[0].get_text()


@pytest.mark.parametrize("name", ["plot_spectrum", "plot_jacobian", "plot_field", "plot_probe"])
def test_nothing_is_refused(name: str) -> None:
    with pytest.raises(NotEnoughDataError, match="to draw"):
        getattr(source_plots, name)([])
