"""Finished runs with every table, made up by the package's own writers, to draw figures of.

A corrupt dataset is p moved by `shift` standard deviations: for two Gaussians of equal covariance
TV is ``2 Phi(d / 2) - 1`` with ``d = shift sqrt(1 - sigma^2)``, over the noise that it adds.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from ambient_curate import noise
from ambient_curate.data.collection import open_collection
from ambient_curate.run.records import Run, describe_files
from ambient_curate.run.tables import (
    curves_schema,
    manifest_schema,
    reliability_schema,
    sort_rows,
    tabulate,
    write_curves,
    write_part,
    write_reliability,
)

SCHEDULE = "squaredcos_cap_v2:100"
EPSILON = 0.05
HORIZON, ACTION = 16, 7
GRID = noise.grid(SCHEDULE)
NAMES = ("bridge", "berkeley_autolab_ur5", "fractal20220817_data", "taco_play", "kuka", "toto")


def name_datasets(count: int) -> list[str]:
    return [f"{NAMES[i % len(NAMES)]}_{i:02d}" if count > 6 else NAMES[i] for i in range(count)]


def make_tv(size: float) -> np.ndarray:
    """TV of a Gaussian of standard deviation `size` from its copy moved by three of them."""
    scale = noise.signal_scale(GRID)
    d = 3.0 * size * scale / np.sqrt((size * scale) ** 2 + GRID**2)
    return np.asarray(2.0 * norm.cdf(d / 2.0) - 1.0)


def make_run(folder: Path, datasets: int, *, abstain: Sequence[int] = (), rows: int = 0) -> Run:
    """Write a run of so many corrupt datasets; of `rows` windows a dataset, 0: none of their own.

    `abstain` are the positions of the datasets that get no sigma_min.
    """
    rng = np.random.default_rng(datasets)
    names = name_datasets(datasets)
    sizes = np.exp(np.linspace(np.log(0.02), np.log(3.0), datasets)) if datasets > 1 else [0.3]
    status = [("too-few-episodes", "classifier-unreliable")[i % 2] for i in range(datasets)]
    status = [s if i in abstain else "ok" for i, s in enumerate(status)]
    tvs = {name: make_tv(size) for name, size in zip(names, sizes, strict=True)}
    granularity = "datapoint" if rows else "dataset"
    verdict = [answer("clean", 60, 0.0, is_clean=True)]
    for i, name in enumerate(names):
        value = float(np.interp(-0.2, -2.0 * tvs[name] ** 2, GRID))
        n = int(rng.integers(20, 90_000))
        row = answer(name, n, value if status[i] == "ok" else None, status=status[i])
        verdict.append(row | {"tilt": tilt(rng, value) if rows and status[i] == "ok" else None})
    folder.mkdir(parents=True)
    (folder / "manifest").mkdir()
    info = {"epsilon": EPSILON, "schedule": SCHEDULE, "grid": GRID.tolist(), "verdict": verdict}
    info |= {"granularity": granularity, "members": dict.fromkeys(["clean", *names])}
    info |= {"collection": {"path": "../data", "clean": "clean"}, "options": {"on_error": "fail"}}
    if rows:
        info["sources"] = write_data(folder.parent / "data", ["clean", *names], rows, rng)
    (folder / "run.json").write_text(json.dumps({"schema": "made up for figures"}))
    write_curves(curves(tvs, verdict), folder / "curves.parquet")
    write_reliability(reliability(names, rng), folder / "reliability.parquet")
    metadata = {
        "granularity": granularity,
        "epsilon": str(EPSILON),
        "grid": json.dumps(GRID.tolist()),
        "representation": "absolute",
        "normaliser": "{}",
        "weighting": "episode",
        "run_digest": "0",
    }
    table = windows(verdict, rows, rng) if rows else whole(verdict)
    table = sort_rows(tabulate(table, manifest_schema(metadata)))
    write_part(table, folder / "manifest" / "part-00000.parquet")
    return Run(folder, info)


def write_data(
    root: Path, names: Sequence[str], windows: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Write an episode a dataset, at 10 Hz, and say of it what a run does."""
    root.mkdir()
    rates = "".join(f"{name}.rate_hz = 10.0\n" for name in names)
    (root / "ambient.toml").write_text(f"[datasets]\n{rates}")
    for name in names:
        steps = rng.normal(size=(windows + HORIZON - 1, ACTION))
        action = np.cumsum(np.cumsum(steps, axis=0), axis=0).astype(np.float32) / 100
        np.savez(root / f"{name}.npz", action=action, episode_ends=[len(action)])
    members = open_collection(root).members
    return {member.name: {"files": describe_files(member)} for member in members}


def answer(name: str, episodes: int, value: float | None, **changes: Any) -> dict[str, Any]:
    def spread(down: float, up: float) -> tuple[float | None, float | None]:
        if value is None:
            return None, None
        return value * down, min(1.0, value * up) if value else 0.0

    (lower, upper), (low, high) = spread(0.9, 1.15), spread(0.2, 3.0)
    return {
        "dataset": name,
        "group": None,
        "is_clean": False,
        "episodes": episodes,
        "windows": 40 * episodes,
        "sigma_min": value,
        "lower": lower,
        "upper": upper,
        "bracket_lower": low,
        "bracket_upper": high,
        "status": "ok",
        "tilt": None,
    } | changes


def tilt(rng: np.random.Generator, value: float) -> dict[str, float]:
    clean = float(rng.uniform(0.02, 0.2))
    return {
        "usable": 1.0 - value,
        "mixture": clean * float(rng.uniform(1.2, 3.0)),
        "clean": clean,
        "weighted": clean * float(rng.uniform(0.9, 1.1)),
        "windows": 1234.0,
        "episodes": float(rng.uniform(5, 90)),
    }


def curves(tvs: dict[str, np.ndarray], verdict: list[dict[str, Any]]) -> Any:
    columns: dict[str, list[Any]] = {name: [] for name in curves_schema().names}
    for row in verdict[1:]:
        tv = tvs[row["dataset"]]
        wide = 0.4 / np.sqrt(min(row["episodes"], 60) / 10)
        delta = 2.0 * tv**2
        bound = {
            "tv": tv,
            "delta": delta,
            "tv_lower_approx": np.maximum(tv - wide / 4, 0),
            "tv_upper_approx": np.minimum(tv + wide / 4, 1),
            "delta_lower_approx": np.maximum(delta - wide / 3, 0),
            "delta_upper_approx": np.minimum(delta + wide / 3, 2),
            "tv_lower": np.maximum(tv - wide, 0),
            "tv_upper": np.minimum(tv + 1.5 * wide, 1),
            "tv_upper_empirical": np.minimum(tv + wide / 2, 1),
            "delta_lower": np.maximum(delta - wide, 0),
            "delta_upper": np.minimum(delta + 2 * wide, 2),
            "delta_upper_empirical": np.minimum(delta + wide, 2),
            "accuracy": (1 + tv) / 2,
        }
        n = GRID.size
        for name in columns:
            columns[name] += list(bound.get(name, np.full(n, 0.5)))[:n]
        for name, value in {"dataset": row["dataset"], "group": None, "n_clean": 60}.items():
            columns[name][-n:] = [value] * n
        columns["n_corrupt"][-n:] = [row["episodes"]] * n
        columns["sigma"][-n:], columns["log_snr"][-n:] = list(GRID), list(noise.log_snr(GRID))
    return tabulate(columns, curves_schema())


def reliability(names: Sequence[str], rng: np.random.Generator) -> Any:
    bands = np.array([0.02, 0.1, 0.3, 0.6, 0.8, 0.95, 0.999])
    bins = np.linspace(0, 1, 11)
    columns: dict[str, list[Any]] = {name: [] for name in reliability_schema().names}
    for name in names:
        for low, high in pairwise(bands):
            weight = rng.dirichlet(np.full(10, 0.7))
            for k in range(10):
                centre = 0.5 * (bins[k] + bins[k + 1])
                row = (name, None, low, high, bins[k], bins[k + 1], weight[k], centre)
                fraction = float(np.clip(centre + rng.normal(scale=0.05), 0, 1))
                for column, value in zip(columns.values(), (*row, fraction), strict=True):
                    column.append(value)
    return tabulate(columns, reliability_schema())


def whole(verdict: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {
        "dataset": [row["dataset"] for row in verdict],
        "horizon": [HORIZON] * len(verdict),
        "is_clean": [row["is_clean"] for row in verdict],
        "sigma_min": [row["sigma_min"] for row in verdict],
        "sigma_min_lower": [row["bracket_lower"] for row in verdict],
        "sigma_min_upper": [row["bracket_upper"] for row in verdict],
        "sigma_max": [None if row["sigma_min"] is None else 0.0 for row in verdict],
        "status": [row["status"] for row in verdict],
    }


def windows(
    verdict: list[dict[str, Any]], count: int, rng: np.random.Generator
) -> dict[str, list[Any]]:
    """Windows of one episode a dataset, whose sigma_min wanders, some without an answer."""
    columns: dict[str, list[Any]] = {}
    for row in verdict:
        level = row["sigma_min"]
        walk = np.clip(np.exp(rng.normal(scale=0.15, size=count).cumsum() * 0.5), 0.3, 3.0)
        value = None if level is None else np.clip(level * walk, 0, 1)
        for start in range(count):
            there = value is not None and not (start % 17 == 16 and not row["is_clean"])
            one = float(value[start]) if there and value is not None else None
            rise = 1.0 / (1.0 + (max(one or 0.0, 1e-3) / GRID) ** 3)
            here = {
                "dataset": row["dataset"],
                "episode_id": f"{row['dataset']}__0",
                "episode_index": 0,
                "start": start,
                "horizon": HORIZON,
                "is_clean": row["is_clean"],
                "sigma_min": one,
                "sigma_min_lower": None if one is None else 0.85 * one,
                "sigma_min_upper": None if one is None else min(1.0, 1.2 * one),
                "sigma_max": None if one is None else 0.0,
                "weight": 1.0,
                "p_clean": (0.5 * rise).tolist() if there else None,
                "status": "ok" if there else row["status"] if level is None else "non-finite",
                "fold": 0,
            }
            for name, cell in here.items():
                columns.setdefault(name, []).append(cell)
    return columns
