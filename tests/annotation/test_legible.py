"""Every figure of a small and of a large run can be read: no text is cut off or on another."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from paper_runs import make_run

from ambient_curate.report import figures
from ambient_curate.report.figures import FIGURES, save_run_figure
from ambient_curate.run.records import Run

RUNS: dict[str, dict[str, Any]] = {
    "one": {"datasets": 1},
    "none": {"datasets": 1, "abstain": [0]},
    "sixty": {"datasets": 60, "abstain": range(0, 60, 7)},
    "one, by window": {"datasets": 1, "rows": 50},
    "sixty, by window": {"datasets": 60, "abstain": range(0, 60, 7), "rows": 50},
}
BY_WINDOW: tuple[figures.Figure, ...] = ("sigma-min", "tilt", "episode")
ASKED = ("locality", "legibility")  # of other runs: in tests of their own
WHOLE = [name for name in FIGURES if name not in ("tilt", "episode", *ASKED)]
ROWS = ("bracket", "sigma-min")  # where an abstention shows
CASES = [
    (name, figure)
    for name, made in RUNS.items()
    for figure in (BY_WINDOW if "rows" in made else ROWS if name == "none" else WHOLE)
]
pytestmark = pytest.mark.usefixtures("closed_figures")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    return {
        name: make_run(tmp_path_factory.mktemp("made") / "run", **made)
        for name, made in RUNS.items()
    }


def texts_of(axes: Axes) -> list[Text]:
    found = [axes.xaxis.label, axes.yaxis.label]
    for axis, ends in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        ticks = axis.get_major_ticks() if axis.get_visible() else []
        inside = [tick for tick in ticks if min(ends) <= tick.get_loc() <= max(ends)]
        found += [label for tick in inside for label in (tick.label1, tick.label2)]
    if (legend := axes.get_legend()) is not None:
        found += [legend.get_title(), *legend.get_texts()]
    return [
        text for text in [*found, *axes.texts] if text.get_text().strip() and text.get_visible()
    ]


@pytest.mark.parametrize(("name", "figure"), CASES)
def test_no_text_is_cut_off_or_on_another(
    runs: dict[str, Run],
    name: str,
    figure: figures.Figure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("matplotlib.pyplot.close", drawn.append)
    save_run_figure(runs[name], figure, tmp_path / "figure.png")
    (whole,) = drawn
    whole.set_layout_engine("none")  # as it was saved
    whole.set_dpi(200)
    whole.draw_without_rendering()
    panels = [*whole.axes, *(child for ax in whole.axes for child in ax.child_axes)]
    boxes = [(t.get_text(), t.get_window_extent()) for ax in panels for t in texts_of(ax)]
    assert len(boxes) > 5
    for text, box in boxes:
        assert whole.bbox.x0 - 1 <= box.x0 and box.x1 <= whole.bbox.x1 + 1, text
        assert whole.bbox.y0 - 1 <= box.y0 and box.y1 <= whole.bbox.y1 + 1, text
    for (one, a), (two, b) in combinations(boxes, 2):
        wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(wide, high) < 1.5, (one, two)  # pixels


def test_every_figure_is_looked_at() -> None:
    assert {figure for _, figure in CASES} == {*figures.FIGURES} - {*ASKED}
