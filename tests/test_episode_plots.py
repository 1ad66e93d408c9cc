"""The figures of an episode show its windows and its actions."""

import numpy as np
import pyarrow as pa
import pytest

from ambient_curate.episode_plots import MOST, plot_actions, plot_episode
from ambient_curate.errors import NotEnoughDataError

pytestmark = pytest.mark.usefixtures("closed_figures")


def make_rows(sigma_min: list[float | None]) -> pa.Table:
    values = pa.array(sigma_min, pa.float64())
    return pa.table(
        {
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
    whole = make_rows([0.1]).set_column(1, "start", pa.nulls(1, pa.int32()))
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
