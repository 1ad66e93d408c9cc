"""Figures of the study."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ambient_curate import plot_accuracy
from ambient_curate.noise import schedule_levels
from ambient_curate.policy.solvers import pick_levels
from ambient_curate.run.records import Run
from examples.maze.arms import STEPS
from examples.maze.tables import find_verdict, wilson
from examples.maze.world import Maze

SHOWN = 60  # rollouts of an arm
TITLES = {
    "clean": "clean plans alone",
    "cotrain": "co-training",
    "dataset": "ambient, classifier by dataset",
    "datapoint": "ambient, classifier by window",
    "best of sweep": "ambient, best of the sweep",
    "cotrain, linear last step": "control: linear last step",
}


def draw_figures(out: Path, results: pa.Table, run: Run, maze: Maze) -> None:
    """Draw ``rollouts.png``, ``sweep.png`` and ``accuracy.png`` into a directory."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    final = results.filter(pc.equal(results["phase"], "final"))
    drawn = {
        "rollouts": draw_rollouts(plt, final, maze),
        "sweep": draw_sweep(plt, results, run),
    }
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    plot_accuracy(run.curves(), ax=axes)
    drawn["accuracy"] = figure
    for name, figure in drawn.items():
        figure.savefig(out / f"{name}.png", dpi=110)
        plt.close(figure)


def draw_rollouts(plt: Any, final: pa.Table, maze: Maze) -> Any:
    """Draw the first rollouts of every arm over the walls; failures are red."""
    arms = final["arm"].unique().to_pylist()
    columns = 3
    rows = -(-len(arms) // columns)
    size = (2.6 * columns, 2.8 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axes in grid.flat:
        axes.axis("off")  # the walls are frame enough
    for axes, arm in zip(grid.flat, arms, strict=False):
        for x0, y0, x1, y1 in maze.walls:
            axes.add_patch(mpl.patches.Rectangle((x0, y0), x1 - x0, y1 - y0, color="0.2"))
        for row in final.filter(pc.equal(final["arm"], arm)).slice(0, SHOWN).to_pylist():
            color = "C0" if row["success"] else "C3"
            axes.plot(row["x"], row["y"], color=color, linewidth=0.5, alpha=0.6)
        axes.set_aspect("equal")
        axes.set_title(TITLES.get(arm, arm), fontsize=8)
    return figure


def draw_sweep(plt: Any, results: pa.Table, run: Run) -> Any:
    """Draw success and Acc^2 against sigma_min, with the classifier's and the sampler's levels."""
    frame = results.filter(pc.equal(results["phase"], "validation"))
    frame = frame.drop_columns(["x", "y"]).to_pandas()
    sweep = frame[frame.arm == "sweep"].groupby("value")
    verdict = find_verdict(run)
    figure, panels = plt.subplots(2, 1, figsize=(5.5, 5), sharex=True, layout="constrained")
    at = np.array(sorted(sweep.groups))
    rates = np.array([[g.success.mean(), *wilson(g.success)] for _, g in sweep])
    means = sweep.acceleration.mean().reindex(at).to_numpy()
    errors = 1.96 * sweep.acceleration.sem().reindex(at).to_numpy()
    spread = np.abs(rates[:, 1:].T - rates[:, 0])
    panels[0].errorbar(
        at, rates[:, 0], spread, marker="o", capsize=2, label="one sigma_min for all"
    )
    panels[1].errorbar(at, means, errors, marker="o", capsize=2)
    styles = {"cotrain": ("C1", "co-training"), "datapoint": ("C2", "classifier, datapoint")}
    for arm, (color, label) in styles.items():
        rows = frame[(frame.arm == arm) & frame.value.isna()]
        panels[0].axhline(rows.success.mean(), color=color, linestyle="--", label=label)
        panels[1].axhline(rows.acceleration.mean(), color=color, linestyle="--")
    levels = np.sort(schedule_levels("squaredcos_cap_v2:100"))
    levels = levels[pick_levels(len(levels), STEPS)]
    for axes in panels:
        if verdict["sigma_min"] is not None:
            axes.axvline(verdict["sigma_min"], color="C3", label="classifier, dataset (95 %)")
            axes.axvspan(verdict["lower"], verdict["upper"], color="C3", alpha=0.15, linewidth=0)
        for level in levels[levels <= at.max()]:
            axes.axvline(level, color="0.7", linewidth=0.7, linestyle=":", zorder=0)
    panels[0].set(ylabel="success (Wilson 95 %)")
    panels[1].set(ylabel="Acc$^2$ of successes (m$^2$/s$^4$)", ylim=(0, None))
    panels[1].set(xlabel=f"sigma_min (dotted: levels that {STEPS} DDIM steps visit)")
    panels[0].legend(frameon=False, fontsize=8)
    return figure
