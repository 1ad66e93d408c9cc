"""The figure of legibility shows what the curves and run.json say."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pytest

from ambient_curate.errors import NotEnoughDataError
from ambient_curate.report.sigma_max_plots import plot_legibility

SIGMA, DELTA = np.array([0.03, 0.1, 0.3, 0.7, 0.95]), np.array([1.2, 1.19, 1.1, 0.5, 0.1])
pytestmark = pytest.mark.usefixtures("closed_figures")


def tabulate(names: dict[str, float]) -> pa.Table:
    parts = [
        {"dataset": [n] * 5, "group": [None] * 5, "sigma": SIGMA, "delta": share * DELTA}
        for n, share in names.items()
    ]
    types = {"group": pa.string()}
    return pa.concat_tables(
        pa.table({k: pa.array(v, types.get(k)) for k, v in part.items()}) for part in parts
    )


def say(name: str, level: float, group: str | None = None, status: str = "ok") -> dict[str, Any]:
    ends = {"sigma_max_lower": 0.8 * level, "sigma_max_upper": min(1.1 * level, 1.0)}
    return {"dataset": name, "group": group, "status": status, "sigma_max": level, **ends}


def test_lines_are_what_is_hidden_and_dots_are_at_sigma_max(tmp_path: Path) -> None:
    said = [say("a", 0.4), say("same $", 1.0), say("a", 0.2, group="x")]
    ax = plot_legibility(tabulate({"a": 1.0, "same $": 0.01}), said, epsilon=0.05)
    lines = {str(line.get_label()): line for line in ax.get_lines()}
    np.testing.assert_allclose(lines["a  0.4"].get_ydata(), DELTA[0] - DELTA)
    np.testing.assert_allclose(lines[r"same \$  1"].get_ydata(), 0.01 * (DELTA[0] - DELTA))
    dots = [line for line in ax.get_lines() if line.get_marker() == "o"]
    assert [(dot.get_xdata()[0], dot.get_ydata()[0]) for dot in dots] == [(0.4, 0.2)]
    assert ax.get_ylim()[1] > 1.1
    ax.get_figure().savefig(tmp_path / "figure.png")
    plt.close("all")


def test_an_unreliable_one_says_so() -> None:
    said = [say("a", 0.4, status="classifier-unreliable")]
    ax = plot_legibility(tabulate({"a": 1.0}), said, epsilon=0.05)
    legend = ax.get_legend()
    assert legend is not None
    assert "a  0.4 (classifier-unreliable)" in [text.get_text() for text in legend.get_texts()]


def test_a_run_without_legibility_says_what_to_do() -> None:
    for said in ([], [say("a", 0.4, group="x")]):
        with pytest.raises(NotEnoughDataError, match="nothing of legibility"):
            plot_legibility(tabulate({"a": 1.0}), said, epsilon=0.05)
