"""The figure of tilts shows what the verdict says, with Wilson's interval."""

from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from scipy.stats import binomtest

from ambient_curate.errors import NotEnoughDataError
from ambient_curate.report.plots import plot_tilt, wilson

pytestmark = pytest.mark.usefixtures("closed_figures")


def make_row(name: str, clean: float, mixture: float) -> dict[str, Any]:
    tilt = {"clean": clean, "mixture": mixture, "weighted": clean + 0.01, "episodes": 20.4}
    return {"dataset": name, "tilt": tilt}


def test_the_most_tilted_is_on_top_with_its_gap_and_its_interval() -> None:
    rows = [make_row("a$b", 0.1, 0.2), make_row("c", 0.1, 0.4), {"dataset": "p", "tilt": None}]
    ax = plot_tilt(rows)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["c  20", r"a\$b  20"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    gap, interval = (c for c in ax.collections if isinstance(c, LineCollection))
    np.testing.assert_allclose([s[:, 0] for s in gap.get_segments()], [[0.1, 0.4], [0.1, 0.2]])
    ends = np.array(wilson(np.array([0.11]), np.array([20.4])))[:, 0]
    np.testing.assert_allclose([s[:, 0] for s in interval.get_segments()], [ends, ends])
    weighted = next(line for line in ax.get_lines() if line.get_marker() == "|")
    np.testing.assert_allclose(weighted.get_xdata(), 0.11)
    assert ax.get_xlim()[0] == 0.0 and ax.get_xlim()[1] > 0.4


@pytest.mark.parametrize(("hits", "trials"), [(0, 3), (3, 3), (4, 17), (500, 1000)])
def test_wilson_is_scipy_s(hits: int, trials: int) -> None:
    found = wilson(np.array([hits / trials]), np.array([float(trials)]))
    expected = binomtest(hits, trials).proportion_ci(method="wilson")
    np.testing.assert_allclose(np.ravel(found), [expected.low, expected.high], atol=1e-7)


def test_a_run_without_windows_says_what_to_do() -> None:
    with pytest.raises(NotEnoughDataError, match="no tilt") as caught:
        plot_tilt([{"dataset": "a", "tilt": None}])
    assert "--granularity datapoint" in str(caught.value.hint)
