"""What figures share: the axis of noise levels, the choice of colours and steps, saved bytes."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from ambient_curate.errors import ConfigError
from ambient_curate.noise import log_snr, schedule_levels
from ambient_curate.report.canvas import (
    COLORS,
    GREY,
    Curve,
    Row,
    draw_curves,
    draw_rows,
    literal_name,
    pick_colors,
    prepare_axes,
    save_figure,
    set_sigma_axis,
    set_sigma_height,
    sigma_at,
    sigma_ends,
    sigma_position,
    stack_axes,
)

SIGMA = np.array([0.03, 0.1, 0.3, 0.6, 0.9, 0.99])
pytestmark = pytest.mark.usefixtures("closed_figures")


def make_curve(name: str = "a", height: float = 0.5, **changes: Any) -> Curve:
    value = np.linspace(height, 0, SIGMA.size)
    return Curve(name, "9", SIGMA, value, value / 2, np.minimum(2 * value, 1))._replace(**changes)


def make_row(name: str, value: float = 0.3) -> Row:
    return Row(name, value, (value, value), (0.0, 1.0), 0.0, "ok")


def draw(*curves: Curve, **changes: Any) -> Axes:
    ax = prepare_axes(None)
    draw_curves(ax, curves, "title", band="band", **changes)
    return ax


def legend_texts(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def test_the_sigma_axis_is_uniform_in_log_snr() -> None:
    ax = draw(make_curve())
    at = ax.transData.transform(np.column_stack([SIGMA, np.ones_like(SIGMA)]))[:, 0]
    slope = np.diff(at) / -np.diff(log_snr(SIGMA))
    np.testing.assert_allclose(slope, slope[0])
    assert slope[0] > 0
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert ticks == [".03", ".1", ".3", ".6", ".9", ".99"]
    left, right = ax.get_xlim()
    assert left < 0.03
    assert 0.99 < right < 1
    assert ax.get_xlabel() == "noise level \N{GREEK SMALL LETTER SIGMA} (VP)"


def test_a_place_on_the_axis_is_a_level_and_back() -> None:
    np.testing.assert_allclose(sigma_at(sigma_position(SIGMA)), SIGMA)
    assert np.isfinite(sigma_position(np.array([0.0, 1.0]))).all()


def test_levels_where_nothing_changes_any_more_are_cut_off() -> None:
    ax = draw(make_curve(sigma=np.append(SIGMA[:-1], 1 - 1e-7)))
    assert 0.99875 < ax.get_xlim()[1] < 0.9992


def test_0_and_1_stand_outside_of_everything_that_is_between() -> None:
    zero, one = sigma_ends(np.array([0.0, np.nan, 0.004, 0.9995, 1.0]))
    assert 0 < zero < 0.004
    assert 0.9995 < one < 1
    assert sigma_ends(np.array([np.nan])) == sigma_ends(np.array([0.2, 0.5]))


def test_of_many_curves_seven_are_named_from_the_highest_to_the_lowest() -> None:
    ax = draw(*(make_curve(f"d{i:02d}", 0.9 - i / 60) for i in range(48)))
    texts = legend_texts(ax)
    assert [text.split()[0] for text in texts[:7]] == [
        f"d{i:02d}" for i in np.linspace(0, 47, 7).round().astype(int)
    ]
    assert texts[7:] == ["41 others", " ", "band\n(of the named)"]
    assert sum(line.get_color() == GREY for line in ax.get_lines()) == 41
    assert sum(isinstance(band, PolyCollection) for band in ax.collections) == 7


def test_stacked_axes_share_their_noise_levels() -> None:
    above, beneath = stack_axes(2)
    for ax, low in ((above, 0.03), (beneath, 0.1)):
        set_sigma_axis(ax, low, 0.9)
    assert above.get_xlim() == beneath.get_xlim()
    assert above.get_position().y0 > beneath.get_position().y1


def test_a_height_is_uniform_in_log_snr_too() -> None:
    ax = prepare_axes(None)
    set_sigma_height(ax, 0.03, 1 - 1e-9)
    at = ax.transData.transform(np.column_stack([np.ones_like(SIGMA), SIGMA]))[:, 1]
    slope = np.diff(at) / -np.diff(log_snr(SIGMA))
    np.testing.assert_allclose(slope, slope[0])
    assert 0.99 < ax.get_ylim()[1] < 0.9992


def test_colours_are_returned_in_the_order_of_the_curves() -> None:
    curves = [make_curve(f"d{i}") for i in range(9)]
    found = draw_curves(prepare_axes(None), curves, "", band="")
    assert found == pick_colors(9)
    # nine to seven: 0, 1.33, 2.67, 4, 5.33, 6.67, 8
    names = dict(zip((0, 1, 3, 4, 5, 7, 8), COLORS, strict=True))
    assert found == [names.get(index, GREY) for index in range(9)]


def test_names_are_literal_and_short() -> None:
    assert literal_name("$x_1$") == r"\$x_1\$"
    assert literal_name("x" * 40) == "x" * 40
    short = literal_name(f"first {'long ' * 20}last")
    assert len(short) == 40
    assert short.startswith("first long")
    assert short.endswith("long last")
    assert legend_texts(draw(make_curve("$a$")))[0] == r"\$a\$  9"


def test_a_figure_of_rows_grows_with_their_names_and_number() -> None:
    few, many = (draw_rows(None, [make_row("a")] * count) for count in (1, 48))
    long = draw_rows(None, [make_row("a" * 40)])
    sizes = [ax.figure.get_size_inches() for ax in (few, many, long)]
    assert sizes[1][1] > 3 * sizes[0][1]
    assert sizes[2][0] > sizes[0][0] + 2
    assert [label.get_text() for label in many.get_yticklabels()] == ["a"] * 48


@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2:100", "linear:10000"])
def test_numbered_steps_are_the_schedule_s_and_do_not_touch(schedule: str) -> None:
    ax = draw_rows(None, [make_row("a" * 40)], schedule=schedule)
    (top,) = set(ax.figure.axes) - {ax}
    ax.figure.draw_without_rendering()
    levels = schedule_levels(schedule)
    labels = top.get_xticklabels()
    steps = [int(label.get_text()) for label in labels]
    np.testing.assert_allclose(top.get_xticks(), levels[steps])
    assert len(steps) > 5
    boxes = [label.get_window_extent() for label in labels]  # pixels
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    places = ax.transData.transform(np.column_stack([levels[steps], np.zeros(len(steps))]))[:, 0]
    middles = [(box.x0 + box.x1) / 2 for box in boxes]
    np.testing.assert_allclose(middles, places, atol=1.0)


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")]
)
def test_equal_figures_give_equal_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, start: bytes
) -> None:
    bounds = (np.full(6, 0.1), np.full(6, 0.6), np.full(6, np.nan))
    for name, date in (("one", "100000000"), ("two", "900000000")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", date)  # the date of a file, where one is written
        curves = draw(make_curve(bounds=bounds))
        rows = draw_rows(None, [make_row("a")], schedule="flow:10")
        save_figure(curves, tmp_path / (f"curves_{name}{suffix}"))
        save_figure(rows, tmp_path / (f"rows_{name}{suffix}"))
    for kind in ("curves", "rows"):
        one, two = ((tmp_path / f"{kind}_{name}{suffix}").read_bytes() for name in ("one", "two"))
        assert one == two
        assert one.startswith(start)
    assert len(list(tmp_path.iterdir())) == 4


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'\.jpg'; expected one of \.png, \.svg, \.pdf"):
        save_figure(draw(make_curve()), tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())
