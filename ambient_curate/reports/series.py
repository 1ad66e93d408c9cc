"""Series: curves over noise levels, reliability and tilt, rounded for a page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ambient_curate.bounds import delta_at, tv_range_at
from ambient_curate.reports.ranking import BINS, Histogram, Name

MOST_GROUPS = 200  # curves of groups beyond that many are left out, and the page says so
COLUMNS = (
    *("accuracy", "delta", "delta_lower_approx", "delta_upper_approx", "tv", "tv_lower_approx"),
    *("tv_upper_approx", "delta_lower", "delta_upper", "tv_lower", "tv_upper"),
)


def list_curves(curves: pa.Table) -> tuple[list[dict[str, Any]], int]:
    """List the curves of datasets and groups, and the number of groups that are left out.

    Parameters
    ----------
    curves : pyarrow.Table
        ``curves.parquet``.
    """
    frame = curves.to_pandas()
    for name in ("dataset", "group"):
        frame[name] = frame[name].astype(object)
    found: list[dict[str, Any]] = []
    left_out = 0
    for (dataset, group), rows in frame.groupby(["dataset", "group"], dropna=False, sort=True):
        label = group if isinstance(group, str) else None
        if label is not None and sum(each["group"] is not None for each in found) >= MOST_GROUPS:
            left_out += 1
            continue
        counts = {name: int(rows[name].iloc[0]) for name in ("n_clean", "n_corrupt")}
        values = {name: round_all(rows[name].to_numpy(dtype=np.float64)) for name in COLUMNS}
        sigma = round_all(rows["sigma"].to_numpy(), 6)
        found.append({"dataset": dataset, "group": label, **counts, "sigma": sigma, **values})
    return found, left_out


def list_reliability(reliability: pa.Table) -> list[dict[str, Any]]:
    """Average what is predicted and what is so over the bands of noise levels, bin by bin."""
    frame = reliability.to_pandas()
    frame = frame[frame["group"].isna()].astype({"dataset": object})
    found = []
    for dataset, rows in frame.groupby("dataset", sort=True):
        points = []
        for _, cell in rows.groupby("p_low", sort=True):
            weight = cell["weight"].to_numpy()
            if weight.sum() > 0:
                means = [
                    float(np.average(cell[name], weights=weight))
                    for name in ("mean_c", "fraction_clean")
                ]
                points.append([round(x, 4) for x in (*means, float(weight.mean()))])
        found.append({"dataset": dataset, "group": None, "points": points})
    return found


def list_histograms(histograms: Mapping[Name, Histogram], clean: str) -> list[dict[str, Any]]:
    """List histograms of sigma_min by corrupt dataset and group."""
    return [
        {
            **{"dataset": dataset, "group": group, "counts": found.counts.tolist(), "bins": BINS},
            **{"nulls": found.nulls, "zeros": found.zeros, "ones": found.ones},
        }
        for (dataset, group), found in sorted(histograms.items(), key=lambda x: (x[0][0], str(x)))
        if dataset != clean
    ]


def list_tilts(verdict: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List how far choosing by window tilts the mixture, of datasets that have it."""
    return [
        {"dataset": row["dataset"], "group": None, **row["tilt"]} for row in verdict if row["tilt"]
    ]


def threshold(epsilon: float) -> dict[str, float]:
    """Give what the rule compares with."""
    low, high = tv_range_at(epsilon)
    return {"delta": delta_at(epsilon), "tv_low": low, "tv_high": high}


def round_all(values: np.ndarray, digits: int = 4) -> list[float | None]:
    """Round for JSON; NaN is null."""
    return [None if np.isnan(value) else round(float(value), digits) for value in values]
