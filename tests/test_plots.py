"""Figures show the numbers of their tables: lines, bands, labels and limits on Agg."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection

from ambient_curate import schema as tables
from ambient_curate.errors import ConfigError, NotEnoughDataError
from ambient_curate.noise import log_snr
from ambient_curate.plots import (
    COLORS,
    GREY,
    plot_accuracy,
    plot_delta,
    plot_reliability,
    plot_sigma_min,
    save_figure,
)

SIGMA = np.array([0.03, 0.1, 0.3, 0.6, 0.9, 0.99])


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    mpl.use("Agg")
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


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


def test_accuracy_is_the_line_and_the_tv_interval_its_band() -> None:
    ax = plot_accuracy(make_curves({"low": 0.3, "high": 0.9}))
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
    ]
    assert [text.get_text() for text in ax.texts] == ["chance"]
    assert ax.texts[0].get_position()[1] == 0.5
    assert ax.get_xlabel() == "noise level \N{GREEK SMALL LETTER SIGMA} (VP)"
    assert ax.get_ylabel() == "balanced accuracy, out of fold"
    bottom, top = ax.get_ylim()
    assert bottom < 0.5 < 1 < top


def test_an_accuracy_below_chance_stays_in_the_picture() -> None:
    ax = plot_accuracy(make_curves({"odd": 0.5}, accuracy=0.31))
    assert ax.get_ylim()[0] < 0.31


def test_the_sigma_axis_is_uniform_in_log_snr() -> None:
    ax = plot_accuracy(make_curves({"a": 0.5}))
    at = ax.transData.transform(np.column_stack([SIGMA, np.ones_like(SIGMA)]))[:, 0]
    slope = np.diff(at) / -np.diff(log_snr(SIGMA))
    np.testing.assert_allclose(slope, slope[0])
    assert slope[0] > 0
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert ticks == [".03", ".1", ".3", ".6", ".9", ".99"]
    left, right = ax.get_xlim()
    assert left < 0.03
    assert 0.99 < right < 1


def test_levels_where_nothing_changes_any_more_are_cut_off() -> None:
    last = make_curves({"a": 0.5}, sigma=1 - 1e-7).slice(0, 1)
    ax = plot_accuracy(pa.concat_tables([make_curves({"a": 0.5}), last]).unify_dictionaries())
    assert 0.99875 < ax.get_xlim()[1] < 0.9992


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
    assert [text.get_text() for text in ax.texts] == ["threshold 4ε = 0.2"]
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


def test_of_many_datasets_seven_are_named_from_the_highest_to_the_lowest() -> None:
    heights = {f"d{i:02d}": 0.9 - i / 60 for i in range(48)}
    ax = plot_accuracy(make_curves(heights))
    _, *texts = legend_texts(ax)
    assert [text.split()[0] for text in texts[:-1]] == [
        f"d{i:02d}" for i in np.linspace(0, 47, 7).round().astype(int)
    ]
    assert texts[-1] == "41 others"
    assert len(lines(ax, GREY)) == 41
    assert len(bands(ax)) == 48


def test_a_missing_interval_is_not_drawn_as_one() -> None:
    ax = plot_accuracy(make_curves({"a": 0.5}, tv_lower_approx=None, tv_upper_approx=None))
    (band,) = (c for c in ax.collections if isinstance(c, PolyCollection))
    assert not band.get_paths()


def test_names_are_literal_and_short() -> None:
    name = "$x_1$ " + "long " * 20
    text = legend_texts(plot_accuracy(make_curves({name: 0.5})))[1]
    assert text.startswith(r"\$x_1\$ long")
    assert len(text) < 65


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
    usable, local, interval = (
        {int(s[0, 1]): s[:, 0].tolist() for s in c.get_segments() if s.size}
        for c in ax.collections
        if isinstance(c, LineCollection)
    )
    assert usable == {0: [zero, one], 1: [0.5, one], 2: [one, one]}
    assert local == {2: [zero, 0.1]}
    assert interval == {0: [zero, 0.2], 1: [0.4, 0.7]}
    assert [text.get_text() for text in ax.texts] == ["not annotated: too-few-episodes"]
    assert ax.texts[0].get_position()[1] == 3
    assert legend_texts(ax)[0] == "n = 4\n(1 not annotated)"


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
    assert sorted(texts) == ["a  200 (20 null)", "b  100 (10 null)"]
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


def test_a_manifest_of_clean_rows_only_has_nothing_to_draw() -> None:
    with pytest.raises(NotEnoughDataError, match="no corrupt row"):
        plot_sigma_min(make_manifest(WHOLE[:1]))


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
    assert plot_sigma_min(make_manifest(WHOLE), ax=figure.add_subplot()) in figure.axes
    assert plt.get_fignums() == before


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")]
)
def test_equal_figures_give_equal_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, start: bytes
) -> None:
    for name, date in (("one", "100000000"), ("two", "900000000")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", date)  # the date of a file, where one is written
        save_figure(plot_accuracy(make_curves({"a": 0.5})), tmp_path / (name + suffix))
    one, two = (tmp_path / (name + suffix) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes().startswith(start)
    assert len(list(tmp_path.iterdir())) == 2


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    ax = plot_accuracy(make_curves({"a": 0.5}))
    with pytest.raises(ConfigError, match=r"'\.jpg'; expected one of \.png, \.svg, \.pdf"):
        save_figure(ax, tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())
