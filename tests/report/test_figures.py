"""Figures by name."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from ambient_curate.report import plots, sigma_max_plots
from ambient_curate.report.figures import FIGURES, list_figures, save_run_figure
from ambient_curate.run.records import Run


class Other(Run):
    """A run without files."""

    def curves(self) -> pa.Table:
        return pa.table({})

    manifest = reliability = curves


@pytest.mark.parametrize("figure", [name for name in FIGURES if name != "episode"])
def test_every_figure_is_drawn_by_its_function(
    figure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_figures: None
) -> None:
    import matplotlib.pyplot as plt

    drawn = []

    def draw_as(name: str) -> Callable[..., object]:
        def draw(*_: object, ax: object = None, **__: object) -> object:
            drawn.append(name)
            return ax or plt.subplots()[1]

        return draw

    special = {"locality": sigma_max_plots, "legibility": sigma_max_plots, "tilt": plots}
    module = special.get(figure, plots)
    monkeypatch.setattr(plots, "plot_certificate", draw_as("certificate"))
    monkeypatch.setattr(module, f"plot_{figure.replace('-', '_')}", draw_as(figure))
    run = Other(tmp_path, {"epsilon": 0.05, "verdict": [], "schedule": "flow:10"})
    path = save_run_figure(run, figure, tmp_path / "figure.svg")  # type: ignore[arg-type]
    assert drawn == (["accuracy", "certificate"] if figure == "accuracy" else [figure])
    assert plt.get_fignums() == []
    assert path.read_text().startswith("<?xml")


def test_figures_without_numbers_are_not_listed(tmp_path: Path) -> None:
    row = {"tilt": None}
    assert list_figures(Run(tmp_path, {"verdict": [row]})) == list(FIGURES[:6])
    asked = {"locality": [{}], "legibility": [{}]}
    full = {"verdict": [row, {"tilt": {"clean": 0.1}}], **asked}
    assert list_figures(Run(tmp_path, full)) == [name for name in FIGURES if name != "episode"]
