"""Tables of the study: success rates, how smooth successes are, and paired comparisons."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.stats import binomtest, norm

from ambient_curate.run.records import Run

REFERENCE = "cotrain"
RESAMPLES = 2000
MARGIN = 0.02  # of success that an arm may lose and still be called not worse


def describe_results(results: pa.Table, run: Run) -> str:
    """Lay out all that was found, in Markdown.

    Parameters
    ----------
    results : pyarrow.Table
        Of all trials.
    run : Run
        The annotation.
    """
    frame = results.drop_columns(["x", "y"]).to_pandas()
    verdict = find_verdict(run)
    found = f"{verdict['dataset']} {_cell(verdict['sigma_min'])}, {verdict['status']}"
    lines = ["## sigma_min by the classifier", "", f"- {found}"]
    for phase, title in (
        ("validation", "Validation pairs (these choose)"),
        ("final", "Fresh pairs"),
        ("varied", "Fresh pairs, acting in other ways"),
        ("unet", "Fresh pairs, U-Net"),
    ):
        part = frame[frame.phase == phase]
        if len(part):
            lines += ["", f"## {title}", "", *tabulate_arms(part)]
        if phase in ("final", "unet") and len(part):
            lines += ["", *compare_arms(part)]
    return "\n".join(lines) + "\n"


def find_verdict(run: Run) -> dict[str, Any]:
    """Give what the run says of its one corrupt dataset."""
    return next(row for row in run.info["verdict"] if row["dataset"] != "clean")


def tabulate_arms(frame: pd.DataFrame) -> Iterator[str]:
    """Give the lines of a table with a row an arm and value."""
    yield "| arm | pairs | success % | Wilson 95 % | collided % | Acc^2 |"
    yield "|---|---|---|---|---|---|"
    for (arm, value), rows in frame.groupby(["arm", "value"], dropna=False, sort=False):
        name = arm if pd.isna(value) else f"{arm} {value:g}"
        low, high = (100 * end for end in wilson(rows.success))
        success, collided = 100 * rows.success.mean(), 100 * rows.collided.mean()
        yield (
            f"| {name} | {len(rows)} | {success:.1f} | {low:.1f} to {high:.1f} | {collided:.1f} | "
            f"{rows.acceleration.mean():.2f} |"
        )


def wilson(successes: "pd.Series[bool]") -> tuple[float, float]:
    """Give Wilson's 95 % interval of a rate."""
    found = binomtest(int(successes.sum()), len(successes)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def compare_arms(frame: pd.DataFrame) -> Iterator[str]:
    """Give the lines of a table that compares every arm with co-training on common pairs."""
    reference = _first_arm(frame, REFERENCE)
    yield (
        f"| against {reference}, same pairs | success, points | at least (95 %, one-sided) | "
        "Acc^2 / its Acc^2, common successes | 95 % |"
    )
    yield "|---|---|---|---|---|"
    for arm in frame.arm.unique():
        if arm == reference:
            continue
        gain, least = success_gain(frame, arm, reference)
        ratio, low, high = acceleration_ratio(frame, arm, reference)
        yield (
            f"| {arm} | {100 * gain:+.1f} | {100 * least:+.1f} | {ratio:.2f} | "
            f"{low:.2f} to {high:.2f} |"
        )


def _first_arm(frame: pd.DataFrame, prefix: str) -> str:
    return str(next(arm for arm in frame.arm.unique() if arm.startswith(prefix)))


def pair_up(frame: pd.DataFrame, arm: str, reference: str, column: str) -> pd.DataFrame:
    """Give a column of two arms, ``one`` and ``other``, a row a pair and seed that both tried."""
    keys = ["seed", "pair"]
    one, other = (frame[frame.arm == name].set_index(keys)[column] for name in (arm, reference))
    return pd.DataFrame({"one": one, "other": other}).dropna().astype(float)


def success_gain(frame: pd.DataFrame, arm: str, reference: str) -> tuple[float, float]:
    """Give the difference of success, and its lower 95 % confidence bound, given these policies."""
    both = pair_up(frame, arm, reference, "success")
    gain = (both.one - both.other).to_numpy()
    error = gain.std(ddof=1) / np.sqrt(gain.size)
    return float(gain.mean()), float(gain.mean() - norm.ppf(0.95) * error)


def acceleration_ratio(frame: pd.DataFrame, arm: str, reference: str) -> tuple[float, float, float]:
    """Give the ratio of mean Acc^2 on common successes, with a bootstrap interval over pairs."""
    both = pair_up(frame, arm, reference, "acceleration").to_numpy()
    if len(both) == 0:
        return np.nan, np.nan, np.nan
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(both), size=(RESAMPLES, len(both)))
    means = both[drawn].mean(axis=1)
    low, high = np.quantile(means[:, 0] / means[:, 1], [0.025, 0.975])
    return float(both[:, 0].mean() / both[:, 1].mean()), float(low), float(high)


def _cell(value: float | None) -> str:
    return "not annotated" if value is None else f"{value:.3f}"
