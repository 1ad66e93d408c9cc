"""Tables of the study: rates with intervals, and paired comparisons."""

from collections.abc import Iterator
from math import sqrt

import pandas as pd
import pyarrow as pa
from scipy.stats import binomtest, norm

from ambient_curate.run.records import Run

REFERENCES = ("cotrain", "cotrain, best share", "clean")


def describe_results(results: pa.Table, run: Run) -> str:
    """Lay out all that was found, in Markdown.

    Parameters
    ----------
    results : pyarrow.Table
        Of all trials.
    run : Run
        Of the annotation.
    """
    frame = results.drop_columns(["x", "y"]).to_pandas()
    lines = [describe_levels(run)]
    for phase, title in (
        ("validation", "Validation blocks (these choose)"),
        ("final", "Fresh blocks"),
    ):
        part = frame[frame.phase == phase]
        lines += ["", f"## {title}", "", *tabulate_arms(part)]
        if phase == "final":
            lines += ["", *compare_arms(part)]
    return "\n".join(lines) + "\n"


def describe_levels(run: Run) -> str:
    """Say what the classifier found, which saw no rollout."""
    wrong = next(row for row in run.info["verdict"] if not row["is_clean"])
    if wrong["sigma_min"] is None:
        return f"The wrong rule's annotation: none ({wrong['status']})"
    legibility = run.info["legibility"][0]
    return (
        f"The wrong rule, as annotated: sigma_max {legibility['sigma_max']:.3f} "
        f"[{legibility['sigma_max_lower']:.3f}, {legibility['sigma_max_upper']:.3f}], sigma_min "
        f"{wrong['sigma_min']:.3f} [{wrong['lower']:.3f}, {wrong['upper']:.3f}]"
    )


def tabulate_arms(frame: pd.DataFrame) -> Iterator[str]:
    """Give the lines of a table with a row an arm and value: rates in %, Wilson 95 %."""
    yield "| arm | blocks | success = motion x logic | motion: placed | logic: right of placed |"
    yield "|---|---|---|---|---|"
    for (arm, value), rows in frame.groupby(["arm", "value"], dropna=False, sort=False):
        name = arm if pd.isna(value) else f"{arm} {value:g}"
        cells = (_cell(rows.success), _cell(rows.placed), _cell(rows.success[rows.placed]))
        yield f"| {name} | {len(rows)} | {' | '.join(cells)} |"


def _cell(happened: "pd.Series[bool]") -> str:
    if happened.empty:
        return "-"
    low, high = wilson(happened)
    return f"{100 * happened.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"


def wilson(happened: "pd.Series[bool]") -> tuple[float, float]:
    """Give Wilson's 95 % interval of a rate; [0, 1] of nothing."""
    if happened.empty:
        return 0.0, 1.0
    found = binomtest(int(happened.sum()), len(happened)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def compare_arms(frame: pd.DataFrame) -> Iterator[str]:
    """Give the lines of a table that compares every arm's success with some, block by block."""
    references = [arm for arm in REFERENCES if (frame.arm == arm).any()]
    yield f"| success, points over | {' | '.join(references)} |"
    yield "|---" * (1 + len(references)) + "|"
    for arm in frame.arm.unique():
        cells = []
        for reference in references:
            gain, least = success_gain(frame, arm, reference)
            cells.append(f"{100 * gain:+.1f}, at least {100 * least:+.1f}")
        yield f"| {arm} | {' | '.join(cells)} |"


def success_gain(frame: pd.DataFrame, arm: str, reference: str) -> tuple[float, float]:
    """Give the difference of success, and its lower 95 % confidence bound, given these policies.

    Parameters
    ----------
    frame : DataFrame
        With ``arm``, ``seed``, ``block`` and ``success``; blocks that both tried are compared.
    arm, reference : str
        Two arms.
    """
    one, other = (
        frame[frame.arm == name].set_index(["seed", "block"]).success.astype(float)
        for name in (arm, reference)
    )
    gain = (one - other).dropna()
    error = float(gain.std(ddof=1)) / sqrt(len(gain))
    return float(gain.mean()), float(gain.mean() - norm.ppf(0.95) * error)
