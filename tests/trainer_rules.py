"""Trainers' own rules for actions and their files of statistics, restated from their code.

Nothing of the package is used here: what the package reads and writes is compared with this.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Stats = dict[str, Any]
MASK = (True, True, True, False)  # of Octo and OpenVLA: a gripper that stays as it is stored


def measure(values: np.ndarray) -> Stats:
    """Statistics of actions, as NumPy gives them; the quantiles are those of openpi and others."""
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    ends = {"min": values.min(0), "max": values.max(0), "q01": low, "q99": high}
    return {**ends, "mean": values.mean(0), "std": values.std(0), "count": np.array([len(values)])}


def lerobot(x: np.ndarray, s: Stats, kind: str) -> np.ndarray:
    if kind == "gaussian":
        return (x - s["mean"]) / (s["std"] + 1e-8)
    low, high = (s["min"], s["max"]) if kind == "minmax" else (s["q01"], s["q99"])
    width = np.where(high - low == 0, 1e-8, high - low)
    return 2 * (x - low) / width - 1


def openpi(x: np.ndarray, s: Stats, kind: str) -> np.ndarray:
    if kind == "gaussian":
        return (x - s["mean"]) / (s["std"] + 1e-6)
    return (x - s["q01"]) / (s["q99"] - s["q01"] + 1e-6) * 2.0 - 1.0


def octo(x: np.ndarray, s: Stats, kind: str) -> np.ndarray:
    if kind == "gaussian":
        return np.where(MASK, (x - s["mean"]) / (s["std"] + 1e-8), x)
    scaled = 2 * (x - s["q01"]) / (s["q99"] - s["q01"] + 1e-8) - 1  # its names: p01, p99
    return np.where(MASK, np.clip(scaled, -1, 1), x)


def openvla(x: np.ndarray, s: Stats, kind: str) -> np.ndarray:
    if kind == "gaussian":
        return np.where(MASK, (x - s["mean"]) / (s["std"] + 1e-8), x)
    low, high = (s["min"], s["max"]) if kind == "minmax" else (s["q01"], s["q99"])
    scaled = np.where(MASK, np.clip(2 * (x - low) / (high - low + 1e-8) - 1, -1, 1), x)
    return np.where(s["min"] == s["max"], 0.0, scaled)


def gr00t_n15(x: np.ndarray, s: Stats, kind: str) -> np.ndarray:
    made = x.copy()
    if kind == "gaussian":
        on = s["std"] != 0
        made[:, on] = (x[:, on] - s["mean"][on]) / s["std"][on]
        return made
    low, high = (s["min"], s["max"]) if kind == "minmax" else (s["q01"], s["q99"])
    on = low != high
    made[:, on] = 2 * ((x[:, on] - low[on]) / (high[on] - low[on])) - 1
    if kind == "quantile":
        return np.clip(made, -1, 1)
    made[:, ~on] = 0
    return made


def gr00t(x: np.ndarray, s: Stats, kind: str) -> np.ndarray:
    if kind == "gaussian":
        return np.clip(gr00t_n15(x, s, kind), -1, 1)
    low, high = (s["min"], s["max"]) if kind == "minmax" else (s["q01"], s["q99"])
    on, made = ~np.isclose(high, low), np.zeros_like(x)
    made[:, on] = 2 * ((x[:, on] - low[on]) / (high[on] - low[on])) - 1
    return np.clip(made, -1, 1)


def divide_robomimic(s: Stats, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Its offset, and its scale, which divides."""
    if kind == "gaussian":
        return s["mean"], np.where(s["std"] < 1e-6, 1.0, s["std"])
    out = 0.999999
    width = s["max"] - s["min"]
    small = width < 1e-4
    scale = np.where(small, 2 * out, width) / (2 * out)
    return np.where(small, s["min"], s["min"] + scale * out), scale


def robomimic(x: np.ndarray, s: Stats, kind: str) -> np.ndarray:
    offset, scale = divide_robomimic(s, kind)
    return (x - offset) / scale


def listed(stats: Stats) -> Stats:
    return {name: np.asarray(values).tolist() for name, values in stats.items()}


def lerobot_file(s: Stats, kind: str) -> Any:
    return {"action": listed(s), "observation.state": listed(s), "timestamp": {"min": [0.0]}}


def openpi_file(s: Stats, kind: str) -> Any:
    kept = {name: [*s[name].tolist(), 0.0, 0.0] for name in ("mean", "std", "q01", "q99")}  # padded
    return {"norm_stats": {"state": kept, "actions": kept}}


def octo_file(s: Stats, kind: str) -> Any:
    named = listed(s) | {"mask": list(MASK)}
    named |= {"p01": named.pop("q01"), "p99": named.pop("q99")}
    return {"num_transitions": 100, "action": named, "num_trajectories": 10}


def openvla_file(s: Stats, kind: str) -> Any:
    action = listed(s) | {"mask": list(MASK)}
    return {"bridge": {"action": action, "proprio": action, "num_transitions": 100}}


def group(s: Stats) -> Any:
    """Two joint groups of an action of four dimensions."""
    del s["count"]
    parts = {"arm": slice(0, 3), "hand": slice(3, 4)}
    return {key: {n: v[part].tolist() for n, v in s.items()} for key, part in parts.items()}


def gr00t_n15_file(s: Stats, kind: str) -> Any:
    grouped = group(dict(s))
    return {"new_embodiment": {"statistics": {"state": grouped, "action": grouped}}}


def gr00t_file(s: Stats, kind: str) -> Any:
    grouped = group(dict(s))
    return {"new_embodiment": {"state": grouped, "action": grouped, "relative_action": {}}}


def robomimic_file(s: Stats, kind: str) -> Any:
    offset, scale = divide_robomimic(s, kind)
    return {"actions": {"offset": [offset.tolist()], "scale": [scale.tolist()]}}


Rule = Callable[[np.ndarray, Stats, str], np.ndarray]
ALL, WITHOUT_RANGE = ("minmax", "quantile", "gaussian"), ("quantile", "gaussian")
TRAINERS: dict[str, tuple[Rule, Callable[[Stats, str], Any], tuple[str, ...]]] = {
    "lerobot": (lerobot, lerobot_file, ALL),
    "openpi": (openpi, openpi_file, WITHOUT_RANGE),
    "octo": (octo, octo_file, WITHOUT_RANGE),
    "openvla": (openvla, openvla_file, ALL),
    "gr00t-n1.5": (gr00t_n15, gr00t_n15_file, ALL),
    "gr00t": (gr00t, gr00t_file, ALL),
    "robomimic": (robomimic, robomimic_file, ("minmax", "gaussian")),
}
CASES = [(name, kind) for name, (_, _, kinds) in TRAINERS.items() for kind in kinds]


def write_file(folder: Path, name: str, stats: Stats, kind: str) -> Path:
    """Write a trainer's file of statistics."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(TRAINERS[name][1](stats, kind)))
    return path


def write_episodes(path: Path, episodes: list[np.ndarray]) -> Path:
    """Write LeRobot's ``episodes_stats.jsonl`` of format 2.1, which has no quantiles."""
    lines = []
    for number, values in enumerate(episodes):
        stats = listed(measure(values))
        del stats["q01"], stats["q99"]
        lines.append(json.dumps({"episode_index": number, "stats": {"action": stats}}))
    path.write_text("\n".join(lines) + "\n")
    return path
