"""Figures of the study."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ambient_curate.run.records import Run
from examples.sorting.environment import BIN_Y, BINS, GAP, GAPS, WALL
from examples.sorting.tables import wilson

SHOWN = 60  # rollouts of an arm
RATES = {"success": "success", "placed": "motion: placed", "logic": "logic: right of placed"}


def draw_figures(out: Path, results: pa.Table, run: Run) -> None:
    """Draw ``arms.png``, ``sweep.png`` and ``rollouts.png`` into a directory."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    final = results.filter(pc.equal(results["phase"], "final"))
    frame = results.drop_columns(["x", "y"]).to_pandas()
    drawn = {
        "arms": draw_arms(plt, frame[frame.phase == "final"]),
        "sweep": draw_sweep(plt, frame[frame.phase == "validation"], run),
        "rollouts": draw_rollouts(plt, final),
    }
    for name, figure in drawn.items():
        figure.savefig(out / f"{name}.png", dpi=75 if name == "rollouts" else 110)
        plt.close(figure)


def measure_rates(rows: pd.DataFrame) -> dict[str, tuple[float, float, float]]:
    """Give each of `RATES` with the ends of its interval."""
    of = {"success": rows.success, "placed": rows.placed, "logic": rows.success[rows.placed]}
    return {name: (float(happened.mean()), *wilson(happened)) for name, happened in of.items()}


def _errorbar(axes: Any, at: Any, rates: list[tuple[float, float, float]], **looks: Any) -> None:
    value, low, high = np.array(rates).T
    axes.errorbar(at, value, np.abs([value - low, high - value]), capsize=2, **looks)


def draw_arms(plt: Any, final: pd.DataFrame) -> Any:
    """Draw success, motion and logic of every arm, with intervals."""
    arms = final.arm.unique()
    rates = [measure_rates(final[final.arm == arm]) for arm in arms]
    figure, axes = plt.subplots(figsize=(7, 0.5 + 0.42 * len(arms)), layout="constrained")
    for number, (name, label) in enumerate(RATES.items()):
        value, low, high = np.array([rate[name] for rate in rates]).T
        at = np.arange(len(arms)) + 0.2 * (number - 1)
        spread = np.abs([value - low, high - value])
        axes.errorbar(value, at, xerr=spread, fmt="o", markersize=4, capsize=2, label=label)
    axes.set(yticks=range(len(arms)), yticklabels=arms, xlim=(0, 1.01))
    axes.set(xlabel=f"rate (Wilson 95 %, {final.groupby('arm').size().iloc[0]:,} blocks each)")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure


def draw_sweep(plt: Any, validation: pd.DataFrame, run: Run) -> Any:
    """Draw success, motion and logic against sigma_max, with the other arms' success."""
    sweep = validation[validation.arm == "locality"]
    at = sorted(sweep.value.unique())
    rates = [measure_rates(sweep[sweep.value == value]) for value in at]
    figure, axes = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
    for name, label in RATES.items():
        _errorbar(axes, at, [rate[name] for rate in rates], marker="o", label=label)
    for arm, style, label in (("cotrain", ":", "co-training"), ("clean", "--", "clean alone")):
        chosen = validation[validation.arm.str.startswith(arm)]
        best = chosen.groupby("training").success.mean().max()
        axes.axhline(best, color="0.4", linestyle=style, label=f"success of {label}, its best")
    found = run.info["legibility"][0]
    ends = found["sigma_max_lower"], found["sigma_max_upper"]
    axes.axvspan(*ends, color="0.9", zorder=0, label="sigma_max as annotated (95 %)")
    axes.set(xlabel="sigma_max of the wrong rule", ylabel="rate (Wilson 95 %)", ylim=(0, 1.02))
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_rollouts(plt: Any, final: pa.Table) -> Any:
    """Draw the first rollouts of every arm: blue right, orange wrong, grey not placed."""
    arms = final["arm"].unique().to_pylist()
    columns = 3
    rows = -(-len(arms) // columns)
    size = (2.6 * columns, 2.8 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, arm in zip(grid.flat, arms, strict=False):
        first, last = GAPS[0] - GAP / 2, GAPS[1] + GAP / 2  # the gap is somewhere between
        axes.plot([0, first], [WALL] * 2, [last, 1], [WALL] * 2, color="0.2", linewidth=2)
        axes.plot([first, last], [WALL] * 2, color="0.2", linewidth=1, linestyle=":")
        for low, high in BINS.values():
            corner, height = (low, BIN_Y[0]), BIN_Y[1] - BIN_Y[0]
            axes.add_patch(mpl.patches.Rectangle(corner, high - low, height, color="0.9"))
        for row in final.filter(pc.equal(final["arm"], arm)).slice(0, SHOWN).to_pylist():
            color = "C0" if row["success"] else "C1" if row["placed"] else "0.6"
            axes.plot(row["x"], row["y"], color=color, linewidth=0.5, alpha=0.6)
        axes.set(aspect="equal", xlim=(0, 1), ylim=(0, 1))
        axes.set_title(arm, fontsize=8)
    return figure
