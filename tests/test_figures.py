"""Figures by name."""

from pathlib import Path

import pyarrow as pa
import pytest

from ambient_curate import local_plots, plots
from ambient_curate.figures import FIGURES, save_run_figure
from ambient_curate.results import Run


class Other(Run):
    """A run without files."""

    def curves(self) -> pa.Table:
        return pa.table({})

    manifest = reliability = curves


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_is_drawn_by_its_function(
    figure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_figures: None
) -> None:
    import matplotlib.pyplot as plt

    drawn = []

    def draw(*_: object, **__: object) -> object:
        drawn.append(figure)
        return plt.subplots()[1]

    module = local_plots if figure == "locality" else plots
    monkeypatch.setattr(module, f"plot_{figure.replace('-', '_')}", draw)
    run = Other(tmp_path, {"epsilon": 0.05, "verdict": [], "schedule": "flow:10"})
    path = save_run_figure(run, figure, tmp_path / "figure.svg")  # type: ignore[arg-type]
    assert drawn == [figure]
    assert path.read_text().startswith("<?xml")
