"""Figures show the numbers of their tables: lines, bands, labels and limits on Agg."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection

from ambient_curate.errors import ConfigError, NotEnoughDataError
from ambient_curate.noise import log_snr, schedule_levels
from ambient_curate.report.canvas import COLORS, GREY, INK
from ambient_curate.report.plots import (
    plot_accuracy,
    plot_bracket,
    plot_delta,
    plot_reliability,
    plot_sigma_min,
    plot_tv,
)
from ambient_curate.run import schema as tables

SIGMA = np.array([0.03, 0.1, 0.3, 0.6, 0.9, 0.99])
pytestmark = pytest.mark.usefixtures("closed_figures")


def make_table(schema: pa.Schema, rows: list[dict[str, Any]]) -> pa.Table:
    blank = {f.name: None if f.nullable else "" if "string" in str(f.type) else 0 for f in schema}
    return pa.Table.from_pylist([{**blank, **row} for row in rows], schema=schema)


def make_curves(heights: dict[str, float], **changes: Any) -> pa.Table:
    """Curves that fall from `height` (as TV) to 0, in an order that is not sorted."""
    rows = []
    for name, height in heights.items():
        falling = np.linspace(0, height, SIGMA.size)
        for sigma, at, tv in zip(SIGMA[::-1], log_snr(SIGMA[::-1]), falling, strict=True):
            row = {
                "dataset": name,
                "sigma": sigma,
                "log_snr": at,
                "n_clean": 50,
                "n_corrupt": 1234,
                "accuracy": (1 + tv) / 2,
                "delta": 2 * tv**2,
                "delta_lower_approx": max(2 * tv**2 - 0.1, 0),
                "delta_upper_approx": 2 * tv**2 + 0.1,
                "tv": tv,
                "tv_lower_approx": max(tv - 0.2, 0),
                "tv_upper_approx": min(tv + 0.2, 1),
            }
            rows.append({**row, **changes})
    return make_table(tables.curves_schema(), rows)


def make_manifest(rows: list[dict[str, Any]]) -> pa.Table:
    metadata = dict.fromkeys(set(tables.METADATA_KEYS) - {"schema_version"}, "")
    full = [
        {"is_clean": False, "status": "ok", "sigma_max": 0.0, "horizon": 16, **row} for row in rows
    ]
    return make_table(tables.manifest_schema(metadata), full)


def legend_texts(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    assert legend is not None
    return [legend.get_title().get_text(), *(text.get_text() for text in legend.get_texts())]


def bands(ax: Axes) -> list[np.ndarray]:
    """Lower and upper edge, shape (2, level), of each band."""
    edges = []
    for band in ax.collections:
        if isinstance(band, PolyCollection):
            points = band.get_paths()[0].vertices
            xs = np.unique(points[:, 0])
            ys = [points[points[:, 0] == x, 1] for x in xs]
            edges.append(np.array([[y.min() for y in ys], [y.max() for y in ys]]))
    return edges


def lines(ax: Axes, color: str) -> list[np.ndarray]:
    return [np.asarray(line.get_xydata()) for line in ax.get_lines() if line.get_color() == color]


def segments(ax: Axes) -> list[dict[int, list[float]]]:
    """From where to where each set of horizontal lines goes, by row."""
    return [
        {int(s[0, 1]): s[:, 0].tolist() for s in c.get_segments() if s.size}
        for c in ax.collections
        if isinstance(c, LineCollection)
    ]


def test_accuracy_is_the_line_and_the_tv_interval_its_band() -> None:
    ax = plot_accuracy(make_curves({"low": 0.3, "high": 0.9}, tv_lower=0.1))
    (high,), (low,) = lines(ax, COLORS[0]), lines(ax, COLORS[1])  # the highest comes first
    tv = np.linspace(0.9, 0, SIGMA.size)
    np.testing.assert_allclose(high, np.column_stack([SIGMA, (1 + tv) / 2]))
    np.testing.assert_allclose(low[:, 1], (1 + tv / 3) / 2)
    (band, _) = bands(ax)
    np.testing.assert_allclose(band[0], (1 + np.maximum(tv - 0.2, 0)) / 2)
    np.testing.assert_allclose(band[1], (1 + np.minimum(tv + 0.2, 1)) / 2)
    assert legend_texts(ax) == [
        "episodes (clean / corrupt)",
        "high  50 / 1,234",
        "low  50 / 1,234",
        " ",
        "approximate 95 % interval",
        "chance",
    ]
    (chance,) = lines(ax, INK)
    np.testing.assert_array_equal(chance[:, 1], 0.5)
    assert ax.get_xlabel() == "noise level \N{GREEK SMALL LETTER SIGMA} (VP)"
    assert ax.get_ylabel() == "balanced accuracy, out of fold"
    bottom, top = ax.get_ylim()
    assert bottom < 0.5 < 1 < top


def test_an_accuracy_below_chance_stays_in_the_picture() -> None:
    ax = plot_accuracy(make_curves({"odd": 0.5}, accuracy=0.31))
    assert ax.get_ylim()[0] < 0.31


def test_delta_marks_where_the_line_falls_through_the_threshold() -> None:
    ax = plot_delta(make_curves({"a": 0.8, "never above": 0.05}), epsilon=0.05)
    ((line), (marker)) = lines(ax, COLORS[0])
    tv = np.linspace(0.8, 0, SIGMA.size)
    np.testing.assert_allclose(line[:, 1], 2 * tv**2)
    # Delta is .2048 at sigma .6 and .0512 at .9; linear in log-SNR between the two
    share = (0.2048 - 0.2) / (0.2048 - 0.0512)
    left, right = log_snr([0.6, 0.9])
    at = left + share * (right - left)
    np.testing.assert_allclose(marker, [[(1 + np.exp(at)) ** -0.5, 0.2]])
    assert len(lines(ax, COLORS[1])) == 1
    (level,) = lines(ax, INK)
    np.testing.assert_array_equal(level[:, 1], 0.2)
    assert legend_texts(ax)[-1] == "threshold 4ε = 0.2"
    np.testing.assert_allclose(bands(ax)[0][1], 2 * tv**2 + 0.1)
    assert ax.get_ylim()[0] < 0 < 2 < ax.get_ylim()[1]


def test_a_line_that_stays_above_has_no_crossing() -> None:
    ax = plot_delta(make_curves({"a": 0.5}, delta=1.0), epsilon=0.05)
    assert len(lines(ax, COLORS[0])) == 1


def test_groups_are_left_out_of_a_dataset_figure() -> None:
    whole = make_curves({"a": 0.5})
    table = pa.concat_tables([whole, make_curves({"a": 0.9}, group="stack")]).unify_dictionaries()
    assert len(lines(plot_accuracy(table), COLORS[0])[0]) == SIGMA.size
    with pytest.raises(NotEnoughDataError, match="no dataset row"):
        plot_accuracy(make_curves({"a": 0.9}, group="stack"))


CERTIFIED = ("at least (certified, 95 %)", "at most (certified, 95 %)")
SAMPLED = "at most, sampled windows"


@pytest.mark.parametrize(("draw", "kind"), [(plot_delta, "delta"), (plot_tv, "tv")])
def test_bounds_are_the_table_s_and_hold_between_the_levels(draw: Any, kind: str) -> None:
    bounds = {f"{kind}_lower": 0.1, f"{kind}_upper_empirical": 0.6, f"{kind}_upper": 0.7}
    ax = draw(make_curves({"a": 0.9, "b": 0.8}, **bounds), epsilon=0.05)
    drawn = [
        (line.get_drawstyle(), *np.unique(np.asarray(line.get_ydata())))
        for line in ax.get_lines()
        if line.get_color() == COLORS[1] and line.get_drawstyle() != "default"
    ]
    assert drawn == [("steps-pre", 0.1), ("steps-post", 0.6), ("steps-post", 0.7)]
    assert legend_texts(ax)[5:8] == [CERTIFIED[0], SAMPLED, CERTIFIED[1]]


def test_a_vacuous_bound_is_neither_drawn_nor_explained() -> None:
    table = make_curves({"a": 0.9}, delta_upper_empirical=1.2)
    ax = plot_delta(table, epsilon=0.05)
    assert len(lines(ax, COLORS[0])) == 3  # the line, its crossing, and the sampled windows
    assert SAMPLED in legend_texts(ax)
    assert not set(CERTIFIED) & set(legend_texts(ax))


@pytest.mark.parametrize("n_datasets", [5, 6])
def test_bounds_are_left_out_where_they_cannot_be_followed(n_datasets: int) -> None:
    heights = {f"d{i}": 0.9 - i / 60 for i in range(n_datasets)}
    ax = plot_tv(make_curves(heights, tv_lower=0.1, tv_upper=0.8), epsilon=0.05)
    assert (CERTIFIED[0] in legend_texts(ax)) == (n_datasets == 5)
    assert len(lines(ax, COLORS[0])) == (3 if n_datasets == 5 else 1)


def test_tv_is_the_line_with_its_band_over_the_range_that_delta_leaves_open() -> None:
    ax = plot_tv(make_curves({"low": 0.3, "high": 0.9}), epsilon=0.02)
    ((high),), ((low),) = lines(ax, COLORS[0]), lines(ax, COLORS[1])
    tv = np.linspace(0.9, 0, SIGMA.size)
    np.testing.assert_allclose(high, np.column_stack([SIGMA, tv]))
    np.testing.assert_allclose(low[:, 1], tv / 3)
    np.testing.assert_allclose(bands(ax)[0], [np.maximum(tv - 0.2, 0), np.minimum(tv + 0.2, 1)])
    (edge,) = ax.patches
    box = edge.get_extents().transformed(ax.transData.inverted())
    np.testing.assert_allclose([box.y0, box.y1], [0.04, 0.2])
    assert legend_texts(ax)[-1] == "possible where Δ = 4ε:\n0.04 to 0.2"
    assert ax.get_ylim()[0] < 0 < 1 < ax.get_ylim()[1]


def test_a_missing_interval_is_not_drawn_as_one() -> None:
    ax = plot_accuracy(make_curves({"a": 0.5}, tv_lower_approx=None, tv_upper_approx=None))
    (band,) = (c for c in ax.collections if isinstance(c, PolyCollection))
    assert not band.get_paths()
    assert "approximate 95 % interval" not in legend_texts(ax)


WHOLE = [
    {"dataset": "clean", "is_clean": True, "sigma_min": 0.0},
    {"dataset": "b", "sigma_min": 0.5, "sigma_min_lower": 0.4, "sigma_min_upper": 0.7},
    {"dataset": "none", "sigma_min": None, "sigma_max": None, "status": "too-few-episodes"},
    {"dataset": "never", "sigma_min": 1.0, "sigma_max": 0.1},
    {"dataset": "a", "group": "g", "sigma_min": 0.0, "sigma_min_lower": 0, "sigma_min_upper": 0.2},
]


def test_sigma_min_has_a_row_per_dataset_sorted_with_intervals_and_usable_levels() -> None:
    ax = plot_sigma_min(make_manifest(WHOLE))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a / g", "b", "never", "none"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first row is on top
    ticks = dict(zip([t.get_text() for t in ax.get_xticklabels()], ax.get_xticks(), strict=True))
    assert list(ticks) == ["0", ".01", ".03", ".1", ".3", ".6", ".9", ".99", "1"]
    zero, one = ticks["0"], ticks["1"]
    assert zero < 0.01
    assert one > 0.99
    (points,) = lines(ax, COLORS[0])
    np.testing.assert_allclose(points[:3], [[zero, 0], [0.5, 1], [one, 2]])
    usable, local, bracket = segments(ax)
    assert usable == {0: [zero, one], 1: [0.5, one], 2: [one, one]}
    assert local == {2: [zero, 0.1]}
    assert bracket == {0: [zero, 0.2], 1: [0.4, 0.7]}
    assert [text.get_text() for text in ax.texts] == ["not annotated: too-few-episodes"]
    assert ax.texts[0].get_position()[1] == 3
    assert legend_texts(ax) == [
        "n = 4\n(1 not annotated)",
        "usable",
        "certified bracket\n(95 %)",
        r"$\sigma_{min}$",
    ]


def answer(name: str, *values: float | None, status: str = "ok", **changes: Any) -> dict[str, Any]:
    keys = ("sigma_min", "lower", "upper", "bracket_lower", "bracket_upper")
    numbers = dict(zip(keys, values or (None,) * 5, strict=True))
    return {"dataset": name, "group": None, "is_clean": False, "status": status} | numbers | changes


VERDICT = [
    answer("clean", 0.0, 0.0, 0.0, 0.0, 0.0, is_clean=True),
    answer("b", 0.5, 0.4, 0.6, 0.1, 1.0),
    answer("odd", status="classifier-unreliable"),
    answer("a", 0.03, 0.02, 0.04, 0.0, 0.2, group="g"),
]


def test_a_bracket_has_interval_and_bracket_beside_the_trainer_s_steps() -> None:
    ax = plot_bracket(VERDICT, schedule="flow-reversed:8")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a / g", "b", "odd"]
    zero, one = ax.get_xticks()[[0, -1]]
    (points,) = lines(ax, COLORS[0])
    np.testing.assert_allclose(points[:2], [[0.03, 0], [0.5, 1]])
    usable, _, bracket, interval = segments(ax)
    assert usable == {0: [0.03, one], 1: [0.5, one]}
    assert bracket == {0: [zero, 0.2], 1: [0.1, one]}
    assert interval == {0: [0.02, 0.04], 1: [0.4, 0.6]}
    assert [text.get_text() for text in ax.texts] == ["not annotated: classifier-unreliable"]
    assert legend_texts(ax)[3] == "approximate interval\n(95 %)"
    (top,) = set(ax.figure.axes) - {ax}
    assert top.get_xlim() == ax.get_xlim()
    assert top.get_xlabel() == "step of flow-reversed:8"
    levels = schedule_levels("flow-reversed:8")
    steps = [int(label.get_text()) for label in top.get_xticklabels()]
    np.testing.assert_allclose(top.get_xticks(), levels[steps])
    marked = np.union1d(top.get_xticks(), top.get_xticks(minor=True))
    np.testing.assert_allclose(marked, levels[:0:-1])  # all but pure noise


def test_a_verdict_without_any_answer_says_why_of_every_row() -> None:
    odd = [answer(name, status="too-few-episodes") for name in "ab"]
    ax = plot_bracket(odd, schedule="flow:10")
    assert [text.get_text() for text in ax.texts] == ["not annotated: too-few-episodes"] * 2
    assert legend_texts(ax) == ["n = 2\n(2 not annotated)"]


def fine_rows(kind: str) -> pa.Table:
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = [{"dataset": "clean", "episode_id": "c", "is_clean": True}]
    for i in range(300):
        value = float(rng.choice([0.0, 0.04, 0.12, 0.2, 0.41, 0.7, 0.95, 1.0]))
        rows.append(
            {
                "dataset": "a" if i % 3 else "b",
                "episode_id": str(i),
                "start": i if kind == "windows" else None,
                "sigma_min": None if i % 10 == 0 else value,
                "sigma_min_lower": None if i % 10 == 0 else value * 0.3,
                "sigma_min_upper": None if i % 10 == 0 else min(1.0, value * 1.2),
                "sigma_max": 0.05 if value > 0.1 and i % 7 == 0 else 0.0,
            }
        )
    return make_manifest(rows)


@pytest.mark.parametrize("kind", ["windows", "episodes"])
def test_shares_are_those_a_trainer_finds_usable(kind: str) -> None:
    table = fine_rows(kind)
    ax = plot_sigma_min(table)
    title, *texts = legend_texts(ax)
    assert title == f"n {kind}"
    assert sorted(texts[:2]) == ["a  200 (20 null)", "b  100 (10 null)"]
    assert texts[2:] == [" ", "by the ends of\ntheir intervals"]
    color = COLORS[texts.index("a  200 (20 null)")]
    (line,) = lines(ax, color)
    rows = [row for row in table.to_pylist() if row["dataset"] == "a"]

    def usable(sigma: float, column: str) -> float:
        def admits(row: dict[str, Any]) -> bool:
            low = 1.0 if row[column] is None else row[column]
            return sigma > low or sigma <= row["sigma_max"]

        return sum(map(admits, rows)) / len(rows)

    band = bands(ax)[COLORS.index(color)]
    for k in range(0, len(line), 37):
        sigma, share = line[k]
        assert share == pytest.approx(usable(sigma, "sigma_min"))
        assert band[0][k] == pytest.approx(usable(sigma, "sigma_min_upper"))
        assert band[1][k] == pytest.approx(usable(sigma, "sigma_min_lower"))
    assert line[-1, 1] < 1  # null and 1 are usable nowhere
    assert ax.get_ylabel().startswith(f"share of {kind} usable at")


def test_clean_rows_only_or_an_unknown_schedule_are_errors() -> None:
    with pytest.raises(NotEnoughDataError, match="no corrupt row"):
        plot_sigma_min(make_manifest(WHOLE[:1]))
    with pytest.raises(NotEnoughDataError, match="no corrupt row"):
        plot_bracket(VERDICT[:1], schedule="flow:10")
    with pytest.raises(ConfigError, match="'cosine:10' is not known"):
        plot_bracket(VERDICT, schedule="cosine:10")


def test_reliability_has_a_point_per_bin_with_its_weight_as_area() -> None:
    rows = [
        {
            "dataset": name,
            "sigma_low": low,
            "sigma_high": high,
            "weight": weight,
            "mean_c": mean_c,
            "fraction_clean": mean_c + 0.05,
        }
        for name in ("a", "b")
        for low, high in ((0.03, 0.3), (0.3, 0.9))
        for weight, mean_c in ((0.25, 0.2), (0.75, 0.6))
    ]
    ax = plot_reliability(make_table(tables.reliability_schema(), rows))
    assert legend_texts(ax) == [
        "datasets: 2\narea: share of predictions",
        "\N{GREEK SMALL LETTER SIGMA} 0.03 to 0.3",
        "\N{GREEK SMALL LETTER SIGMA} 0.3 to 0.9",
    ]
    first, second = (c for c in ax.collections if isinstance(c, PathCollection))
    expected = [[0.2, 0.25], [0.6, 0.65]] * 2
    np.testing.assert_allclose(first.get_offsets(), expected)
    np.testing.assert_allclose(second.get_offsets(), expected)
    areas = np.asarray(first.get_sizes())
    np.testing.assert_allclose(areas / areas.sum(), np.array([0.25, 0.75, 0.25, 0.75]) / 2)
    assert not np.array_equal(first.get_facecolor(), second.get_facecolor())
    np.testing.assert_array_equal(lines(ax, GREY)[0], [[0, 0], [1, 1]])


def test_a_given_axes_is_used_and_no_figure_is_made() -> None:
    figure, ax = plt.subplots()
    before = plt.get_fignums()
    assert plot_accuracy(make_curves({"a": 0.5}), ax=ax) is ax
    assert plot_delta(make_curves({"a": 0.5}), epsilon=0.1, ax=ax) is ax
    assert plot_tv(make_curves({"a": 0.5}), epsilon=0.1, ax=ax) is ax
    assert plot_sigma_min(make_manifest(WHOLE), ax=figure.add_subplot()) in figure.axes
    assert plot_bracket(VERDICT, schedule="flow:10", ax=figure.add_subplot()) in figure.axes
    assert plt.get_fignums() == before
