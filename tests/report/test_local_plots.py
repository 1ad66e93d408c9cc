"""The figure of locality shows what run.json says, of one dataset or of many."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from ambient_curate.errors import NotEnoughDataError
from ambient_curate.report.canvas import COLORS
from ambient_curate.report.sigma_max_plots import plot_locality


def say(name: str, radius: int, group: str | None = None, status: str = "ok") -> dict[str, Any]:
    delta = np.where(np.arange(6) > radius, 0.8, 0.05)
    lower = [None, *(delta[1:] - 0.04).tolist()]
    found = {"dataset": name, "group": group, "status": status, "radius": radius}
    return found | {"delta": delta.tolist(), "delta_lower": lower, "sigma_max": 0.25}


def test_lines_dots_and_names_are_those_of_the_run() -> None:
    ax = plot_locality(
        [say("a", 2), say("b $x$", -1, status="classifier-unreliable")], epsilon=0.05
    )
    lines = {str(line.get_label()): line for line in ax.get_lines()}
    np.testing.assert_allclose(lines["a  0.25"].get_ydata(), say("a", 2)["delta"])
    dots = [line for line in ax.get_lines() if line.get_marker() == "o"]
    assert [(dot.get_xdata()[0], dot.get_ydata()[0]) for dot in dots] == [(2, 0.05)]
    legend = ax.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[0] == r"b \$x\$  0.25 (classifier-unreliable)" and texts[1] == "a  0.25"
    plt.close("all")


def test_of_sixty_datasets_some_are_named() -> None:
    ax = plot_locality([say(f"d{n}", n % 6) for n in range(60)], epsilon=0.05)
    legend = ax.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert len(texts) == len(COLORS) + 3 and "53 others" in texts
    plt.close("all")


def test_a_run_without_locality_says_what_to_do() -> None:
    for found in ([], [say("a", 1, group="x")]):
        with pytest.raises(NotEnoughDataError, match="nothing of locality"):
            plot_locality(found, epsilon=0.05)
