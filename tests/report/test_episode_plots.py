"""The figures of an episode show its windows and its actions."""

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.collections import QuadMesh

from ambient_curate.errors import NotEnoughDataError
from ambient_curate.noise import log_snr
from ambient_curate.report.episode_plots import MOST, plot_actions, plot_episode, plot_p_clean

pytestmark = pytest.mark.usefixtures("closed_figures")


def make_rows(sigma_min: list[float | None]) -> pa.Table:
    values = pa.array(sigma_min, pa.float64())
    return pa.table(
        {
            "dataset": ["d"] * len(sigma_min),
            "episode_id": ["e $1$"] * len(sigma_min),
            "start": pa.array(range(0, 2 * len(sigma_min), 2), pa.int32()),
            "sigma_min": values,
            "sigma_min_lower": values,
            "sigma_min_upper": values,
        }
    )


def test_windows_stand_where_they_begin_and_unanswered_ones_are_marked() -> None:
    ax = plot_episode(make_rows([0.1, None, 0.3]), rate_hz=4.0)
    line, crosses = ax.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(line.get_ydata(), [0.1, np.nan, 0.3])
    assert crosses.get_xdata().tolist() == [0.5] and crosses.get_label() == "no answer (1)"
    assert ax.get_xlabel() == "window's first frame (s)"
    assert plot_episode(make_rows([0.1])).get_xlabel() == "window's first frame"


def test_rows_of_whole_episodes_cannot_be_drawn_along_one() -> None:
    whole = make_rows([0.1]).set_column(2, "start", pa.nulls(1, pa.int32()))
    for rows in (whole, make_rows([])):
        with pytest.raises(NotEnoughDataError, match="no window of this episode"):
            plot_episode(rows)


def test_actions_are_drawn_as_stored_as_far_as_they_can_be_told_apart() -> None:
    action = np.random.default_rng(0).normal(size=(9, 20))
    ax = plot_actions(action, rate_hz=2.0)
    lines = ax.get_lines()
    assert len(lines) == MOST
    np.testing.assert_array_equal(lines[3].get_ydata(), action[:, 3])
    assert lines[0].get_xdata()[-1] == 4.0
    styles = {(line.get_color(), line.get_linestyle()) for line in lines}
    assert len(styles) == MOST
    legend = ax.get_legend()
    assert legend is not None and "4 more" in legend.get_title().get_text()


GRID = np.array([0.03, 0.3, 0.9])


def test_curves_stand_over_their_windows_with_sigma_min_across_them() -> None:
    curves = [[0.0, 0.2, 0.4], None, [0.1, 0.5, 0.9]]
    rows = make_rows([0.1, None, 1.0]).append_column("p_clean", pa.array(curves))
    ax = plot_p_clean(rows, GRID, rate_hz=4.0)
    (mesh,) = (c for c in ax.collections if isinstance(c, QuadMesh))
    expected = np.array([[0.0, np.nan, 0.1], [0.2, np.nan, 0.5], [0.4, np.nan, 0.9]])
    found = np.ma.filled(np.ma.masked_invalid(mesh.get_array()), np.nan).reshape(3, 3)
    np.testing.assert_array_equal(found, expected)
    assert mesh.get_clim() == (0.0, 1.0)
    edges = mesh.get_coordinates()[0, :, 0]
    np.testing.assert_allclose((edges[1:] + edges[:-1]) / 2, [0.0, 0.5, 1.0])
    (line,) = ax.get_lines()
    np.testing.assert_array_equal(line.get_ydata(), [0.1, np.nan, 0.9])  # 1 is off the grid
    at = ax.transData.transform(np.column_stack([np.zeros(3), GRID]))[:, 1]
    slope = np.diff(at) / -np.diff(log_snr(GRID))
    np.testing.assert_allclose(slope, slope[0])


def test_without_a_curve_it_says_how_to_store_them() -> None:
    rows = make_rows([0.1]).append_column("p_clean", pa.nulls(1, pa.list_(pa.float32())))
    with pytest.raises(NotEnoughDataError, match="no window of this episode has a curve") as caught:
        plot_p_clean(rows, GRID)
    assert "--store-curves" in str(caught.value.hint)
