"""Figures of certificates, and of many datasets."""

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.collections import PathCollection
from test_plots import CERTIFIED, legend_texts, make_curves, make_table

from ambient_curate.report.canvas import COLORS, GREY
from ambient_curate.report.plots import plot_accuracy, plot_certificate, plot_reliability
from ambient_curate.run import schema as tables

pytestmark = pytest.mark.usefixtures("closed_figures")


def test_what_is_certain_has_the_colours_and_order_of_the_accuracy() -> None:
    table = pa.concat_tables(
        [
            make_curves({"high": 0.9}, tv_lower=0.1, tv_upper=0.8),
            make_curves({"low": 0.3}, tv_lower=0.2, tv_upper=None),  # surer, but less apart
        ]
    ).unify_dictionaries()
    ax = plot_certificate(table, epsilon=0.02)
    drawn = [
        (line.get_color(), line.get_drawstyle(), *np.unique(np.asarray(line.get_ydata())))
        for line in ax.get_lines()
    ]
    assert drawn[:2] == [(COLORS[0], "steps-pre", 0.1), (COLORS[0], "steps-post", 0.8)]
    assert drawn[2] == (COLORS[1], "steps-pre", 0.2)
    assert legend_texts(ax) == [
        "colours as above",
        *CERTIFIED,
        "possible where Δ = 4ε:\n0.04 to 0.2",
    ]
    np.testing.assert_allclose(ax.get_xlim(), plot_accuracy(table).get_xlim())


def test_of_many_datasets_only_the_lower_bound_is_drawn() -> None:
    heights = {f"d{i}": 0.9 - i / 60 for i in range(9)}
    ax = plot_certificate(make_curves(heights, tv_lower=0.1, tv_upper=0.8), epsilon=0.05)
    assert len(ax.get_lines()) == 9
    assert sum(line.get_color() == GREY for line in ax.get_lines()) == 2
    assert CERTIFIED[1] not in legend_texts(ax)


def test_a_reliability_of_many_datasets_shows_their_mean_by_weight() -> None:
    rows = [
        {
            "dataset": f"d{i}",
            "sigma_low": 0.03,
            "sigma_high": 0.3,
            "p_low": p_low,
            "weight": (1 + i) / 10,
            "mean_c": p_low + 0.01 * i,
            "fraction_clean": p_low + 0.02 * i,
        }
        for i in range(9)
        for p_low in (0.2, 0.6)
    ]
    ax = plot_reliability(make_table(tables.reliability_schema(), rows))
    every, mean = (c for c in ax.collections if isinstance(c, PathCollection))
    assert len(every.get_offsets()) == 18
    middle = sum((1 + i) * i for i in range(9)) / 45
    expected = [[p + 0.01 * middle, p + 0.02 * middle] for p in (0.2, 0.6)]
    np.testing.assert_allclose(np.sort(mean.get_offsets(), axis=0), expected)
    assert legend_texts(ax)[0].startswith("datasets: 9, grey\n")
