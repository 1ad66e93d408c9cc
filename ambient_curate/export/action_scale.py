"""Action scale: whether a trainer scales actions as the run did, or by what factor more."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from ambient_curate.errors import ConfigError
from ambient_curate.noise import sigma_from_ve, ve_from_sigma

TOLERANCE = 1e-4  # of a ratio of scales, relative
_EXPECTED = (
    'give a JSON file with "scale", a number a dimension of the action, or the meta/stats.json of '
    "a LeRobot dataset"
)


def read_scale(path: Path, kind: str) -> Float64[np.ndarray, " action"]:
    """Read by what a trainer multiplies every dimension of an action.

    Parameters
    ----------
    path : Path
        JSON: ``{"scale": [...]}``, or LeRobot's statistics, of which the range is used for
        ``minmax``, the 1 % and 99 % quantiles for ``quantile``, the standard deviation for
        ``gaussian``.
    kind : str
        Kind of the run's own normaliser.

    Raises
    ------
    ConfigError
        If the file is not such.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        scale = _find_scale(content, kind)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} tells no scale of actions: {error!r}", _EXPECTED) from error
    if scale.ndim != 1 or not np.isfinite(scale).all() or not (scale > 0.0).all():
        raise ConfigError(f"{path}: the scale of actions is {scale.tolist()}", _EXPECTED)
    return scale


def _find_scale(content: Mapping[str, Any], kind: str) -> np.ndarray:
    if "scale" in content:
        return np.asarray(content["scale"], dtype=np.float64)
    found = {
        name: np.ravel(np.asarray(v, dtype=np.float64)) for name, v in content["action"].items()
    }
    with np.errstate(divide="ignore"):
        if kind == "gaussian":
            return 1.0 / found["std"]
        low, high = ("q01", "q99") if kind == "quantile" else ("min", "max")
        return 2.0 / (found[high] - found[low])


def compare_scales(
    own: Float64[np.ndarray, " action"], trainer: Float64[np.ndarray, " other"]
) -> float:
    """Give the factor by which a trainer's scaled actions are larger than the run's.

    Offsets do not matter: noise hides no constant.

    Raises
    ------
    ConfigError
        If there is no one factor for all dimensions: noise would hide other things then.
    """
    shown = f"the run multiplies actions by {_show(own)}, the trainer by {_show(trainer)}"
    if own.shape != trainer.shape:
        raise ConfigError(shown, "annotate the dimensions that the trainer has")
    if not (own > 0.0).all():
        raise ConfigError(
            f"{shown}; where the clean set is constant the run compared nothing",
            "annotate without these dimensions: dims in ambient.toml",
        )
    ratio = trainer / own
    if np.ptp(ratio) > TOLERANCE * ratio.min():
        raise ConfigError(
            f"{shown}: one is no multiple of the other",
            "give the trainer the run's normaliser, which run.json holds, or annotate with its "
            "--normalize",
        )
    return float(ratio.mean())


def rescale(sigma: Float64[np.ndarray, " row"], factor: float) -> Float64[np.ndarray, " row"]:
    """Give the noise levels of actions that are `factor` times as large; NaN stays NaN."""
    if factor == 1.0:
        return sigma
    inside = np.where(sigma < 1.0, sigma, 0.0)  # 1 is pure noise at any scale
    found = sigma_from_ve(ve_from_sigma(inside) * factor)
    return np.where(sigma < 1.0, found, sigma)


def _show(scale: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in scale.tolist()) + "]"
