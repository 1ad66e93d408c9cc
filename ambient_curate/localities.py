"""Localities: up to which noise the neighbourhoods that a denoiser looks at are like clean ones."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from ambient_curate.answers import hear_crops
from ambient_curate.arms import Arm, ArmName
from ambient_curate.crops import radius_levels
from ambient_curate.curves import ArmCurves
from ambient_curate.examinations import RELIABLE
from ambient_curate.fields import list_reaches, wiener_field
from ambient_curate.noise import grid
from ambient_curate.radii import find_radius, reach_at
from ambient_curate.scoring import noise_seed
from ambient_curate.study import Study
from ambient_curate.windows import draw_windows

WINDOWS = 16_384  # of an arm, from which its covariance is estimated


@dataclass(frozen=True)
class Locality:
    """What crops say of an arm.

    Attributes
    ----------
    dataset, group : str and str or None
        Of the arm.
    status : str
        Whether the classifier of crops may be believed; sigma_max is 0 where it may not.
    sigma_max, sigma_max_lower, sigma_max_upper : float
        Usable at or below; with its approximate 95 % interval.
    radius, radius_lower, radius_upper : int
        Largest radius at which crops are alike, -1 for none, with the same interval.
    radius_bracket : int
        Certified with 95 %: no larger radius is alike.
    delta, delta_lower : tuple of float
        Estimated Delta of crops at radii 0, 1, ... and its certified lower bound (NaN: none).
    reaches : tuple of float
        Level up to which the best denoiser looks no further than each radius.
    """

    dataset: str
    group: str | None
    status: str
    sigma_max: float
    sigma_max_lower: float
    sigma_max_upper: float
    radius: int
    radius_lower: int
    radius_upper: int
    radius_bracket: int
    delta: tuple[float, ...]
    delta_lower: tuple[float | None, ...]
    reaches: tuple[float, ...]


def hear_localities(study: Study, work: Path) -> dict[ArmName, Locality]:
    """Say of every arm up to which noise its neighbourhoods are like clean ones.

    Parameters
    ----------
    study : Study
        What is annotated.
    work : Path
        Where the scores of its crops lie.
    """
    levels = radius_levels(study.options.horizon)
    answers = hear_crops(study, levels, work)
    sigma = grid(study.options.schedule)
    clean = _find_field(study, study.clean, sigma)
    found = {}
    for arm in study.corrupt:
        name = arm.dataset, arm.group
        field = np.maximum(clean, _find_field(study, arm, sigma))
        reaches = list_reaches(field, study.options.horizon, sigma)
        found[name] = _describe(answers.arms[name], answers.statuses[name], reaches)
    return found


def _find_field(study: Study, arm: Arm, sigma: np.ndarray) -> np.ndarray:
    seed = noise_seed(study.options.seed, f"{arm.dataset}\x00{arm.group}", "field")
    by_window = study.options.weighting == "window"
    windows, _ = draw_windows(
        arm.windows,
        arm.episodes,
        min(WINDOWS, int(arm.windows.counts[arm.episodes].sum())),
        np.random.default_rng(seed),
        by_window=by_window,
    )
    rows = windows.flatten(1).double().numpy()
    covariance = np.cov(rows.T).reshape(rows.shape[1], rows.shape[1])
    return wiener_field(covariance, study.options.horizon, sigma)


def _describe(arm: ArmCurves, status: str, reaches: Float64[np.ndarray, " radius"]) -> Locality:
    levels = np.array([arm.sigma_min, arm.upper, arm.lower, arm.envelope.lower])
    radius, lower, upper, bracket = find_radius(levels, arm.sigma.size).tolist()
    values = reach_at(np.array([radius, lower, upper]), reaches)
    found, least, most = np.where(status == RELIABLE, values, 0.0).tolist()
    return Locality(
        *(arm.dataset, arm.group, status, found, least, most),
        *(radius, lower, upper, bracket),
        tuple(arm.delta[::-1].tolist()),
        tuple(None if np.isnan(x) else float(x) for x in arm.envelope.delta_lower[::-1]),
        tuple(reaches.tolist()),
    )


def list_localities(found: Mapping[ArmName, Locality]) -> list[dict[str, Any]]:
    """List what crops say, as ``run.json`` keeps it."""
    return [asdict(each) for each in found.values()]
