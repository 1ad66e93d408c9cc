"""sigma_max by locality: up to it, the frames that a denoiser depends on are like clean ones."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from ambient_curate.annotation.assessment import assess_crops
from ambient_curate.annotation.curves import PopulationCurves
from ambient_curate.annotation.reliability import RELIABLE
from ambient_curate.classifier.crop_network import radius_at, radius_levels
from ambient_curate.classifier.fit import FoldClassifier
from ambient_curate.classifier.out_of_fold import noise_seed
from ambient_curate.data.populations import Population, PopulationName
from ambient_curate.data.study import Study
from ambient_curate.data.windows import draw_windows
from ambient_curate.noise import grid, ve_from_sigma
from ambient_curate.statistics.sigma_min import last_crossing

SHARE = 0.95  # of the squared Jacobian that a field holds


def wiener_field(
    covariance: Float64[np.ndarray, "dim dim"], horizon: int, sigma: Float64[np.ndarray, " level"]
) -> Int64[np.ndarray, " level"]:
    """Radius of the receptive field of the best linear denoiser at every noise level.

    Of windows with covariance C under VE noise s it is ``J = C (C + s^2 I)^-1``. The radius is the
    smallest that holds `SHARE` of the squared Jacobian of a frame's output, for every frame
    (method.md section 11).

    Parameters
    ----------
    covariance : ndarray, float64, shape (dim, dim)
        Of flattened windows.
    horizon : int
        Frames in a window.
    sigma : ndarray, float64, shape (level,)
        VP noise levels in (0, 1).

    Returns
    -------
    ndarray, int64, shape (level,)
        Radii in 0 .. horizon - 1.
    """
    values, columns = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0)
    action = len(covariance) // horizon
    frame = np.arange(horizon)
    distance = np.abs(frame[:, None] - frame)
    near = distance[:, :, None] <= frame  # (output frame, input frame, radius)
    found = []
    for noise in ve_from_sigma(sigma):
        jacobian = (columns * (values / (values + noise**2))) @ columns.T
        blocks = np.square(jacobian).reshape(horizon, action, horizon, action)
        energy = blocks.sum(axis=(1, 3))
        within = np.einsum("ki,kir->kr", energy, near)
        enough = within >= SHARE * within[:, -1:]
        found.append(int(enough.argmax(axis=1).max()))
    return np.array(found, dtype=np.int64)


def list_reaches(
    field: Int64[np.ndarray, " level"], horizon: int, sigma: Float64[np.ndarray, " level"]
) -> Float64[np.ndarray, " radius"]:
    """Highest level up to which a denoiser depends on no frame beyond each radius.

    Parameters
    ----------
    field : ndarray, int64, shape (level,)
        Radii at each level; the largest so far counts.
    horizon : int
        Frames in a window.
    sigma : ndarray, float64, shape (level,)
        Rising noise levels.

    Returns
    -------
    ndarray, float64, shape (radius,)
        For radii 0 .. horizon - 1; 0 where no level is so local, 1 at the last radius, which is
        the whole window.

    Examples
    --------
    >>> list_reaches(np.array([0, 1, 1, 2]), 4, np.array([0.1, 0.2, 0.3, 0.4])).tolist()
    [0.1, 0.3, 0.4, 1.0]
    """
    widest = np.maximum.accumulate(field)
    levels = np.searchsorted(widest, np.arange(horizon), side="right")
    reach = np.append(0.0, sigma)[levels]
    reach[-1] = 1.0
    return reach


AROUND = 2  # noise draws a centre, a pair
NEXT_TO = 1e-6  # frames: a crossing this near to a whole radius is at it
ROWS = 2048  # of one call of a network, over all radii


def score_crops(
    classifier: FoldClassifier,
    windows: Float32[Tensor, "window horizon action"],
    noise: Float32[Tensor, "window draw dim"],
    head: int,
) -> Float64[np.ndarray, "window centre level"]:
    """Mean probability of "clean" of the crops about every frame.

    Parameters
    ----------
    classifier : FoldClassifier
        Of crops, of the fold that holds the windows out.
    windows : Tensor, float32, shape (window, horizon, action)
        Normalised.
    noise : Tensor, float32, shape (window, draw, dim)
        `AROUND` draws for each frame, which go round the frames.
    head : int
        Corrupt population.
    """
    horizon, levels = windows.shape[1], slice(0, classifier.sigma.size)
    at_once = max(1, ROWS // (noise.shape[1] * classifier.sigma.size))
    parts = [
        classifier.predict(windows[i : i + at_once], noise[i : i + at_once], [head], levels)
        for i in range(0, len(windows), at_once)
    ]
    c = torch.cat(parts, dim=1)[..., 0].double()  # (level, window, draw)
    around = c.reshape(*c.shape[:2], -1, horizon).mean(dim=2)
    return around.permute(1, 2, 0).numpy()


def cross_crops(
    curves: Float64[np.ndarray, "row level"],
    levels: Float64[np.ndarray, " level"],
    threshold: float,
) -> Int64[np.ndarray, " row"]:
    """Largest radius up to which every curve stays above `threshold`; -1: not even single frames.

    Parameters
    ----------
    curves : ndarray, float64, shape (row, level)
        Mean probability of "clean".
    levels : ndarray, float64, shape (level,)
        Of `crop_network.radius_levels`.
    threshold : float
        1/2 - epsilon.
    """
    return find_radius(last_crossing(curves, levels, threshold), levels.size)


def find_radius(crossing: Float64[np.ndarray, "*rows"], horizon: int) -> Int64[np.ndarray, "*rows"]:
    """Largest whole radius beyond a crossing on the axis of `radius_levels`.

    Examples
    --------
    >>> find_radius(np.array([0.0, 0.5, 1.0]), 3).tolist()
    [2, 1, -1]
    """
    inside = (crossing > 0.0) & (crossing < 1.0)
    exact = radius_at(np.where(inside, crossing, 0.5), horizon)
    radius = np.clip(np.ceil(exact - NEXT_TO) - 1, -1, horizon - 1).astype(np.int64)
    return np.where(inside, radius, np.where(crossing <= 0.0, horizon - 1, -1))


def reach_at(
    radius: Int64[np.ndarray, "*rows"], reaches: Float64[np.ndarray, " radius"]
) -> Float64[np.ndarray, "*rows"]:
    """sigma_max of a radius, from `sigma_max.list_reaches`; 0 for -1."""
    return np.append(reaches, 0.0)[radius]


WINDOWS = 16_384  # of a population, from which its covariance is estimated


@dataclass(frozen=True)
class Locality:
    """What crops say of a population.

    Attributes
    ----------
    dataset, group : str and str or None
        Of the population.
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
        Level up to which the best denoiser depends on no frame beyond each radius.
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


def assess_localities(study: Study, work: Path) -> dict[PopulationName, Locality]:
    """Say of every population up to which noise its neighbourhoods are like clean ones.

    Parameters
    ----------
    study : Study
        What is annotated.
    work : Path
        Where the scores of its crops lie.
    """
    levels = radius_levels(study.options.horizon)
    assessment = assess_crops(study, levels, work)
    sigma = grid(study.options.schedule)
    clean = _find_field(study, study.clean, sigma)
    found = {}
    for population in study.corrupt:
        name = population.dataset, population.group
        field = np.maximum(clean, _find_field(study, population, sigma))
        reaches = list_reaches(field, study.options.horizon, sigma)
        found[name] = _describe(assessment.populations[name], assessment.statuses[name], reaches)
    return found


def _find_field(study: Study, population: Population, sigma: np.ndarray) -> np.ndarray:
    seed = noise_seed(study.options.seed, f"{population.dataset}\x00{population.group}", "field")
    by_window = study.options.weighting == "window"
    windows, _ = draw_windows(
        population.windows,
        population.episodes,
        min(WINDOWS, int(population.windows.counts[population.episodes].sum())),
        np.random.default_rng(seed),
        by_window=by_window,
    )
    rows = windows.flatten(1).double().numpy()
    covariance = np.cov(rows.T).reshape(rows.shape[1], rows.shape[1])
    return wiener_field(covariance, study.options.horizon, sigma)


def _describe(
    population: PopulationCurves, status: str, reaches: Float64[np.ndarray, " radius"]
) -> Locality:
    levels = np.array(
        [population.sigma_min, population.upper, population.lower, population.envelope.lower]
    )
    radius, lower, upper, bracket = find_radius(levels, population.sigma.size).tolist()
    values = reach_at(np.array([radius, lower, upper]), reaches)
    found, least, most = np.where(status == RELIABLE, values, 0.0).tolist()
    return Locality(
        dataset=population.dataset,
        group=population.group,
        status=status,
        sigma_max=found,
        sigma_max_lower=least,
        sigma_max_upper=most,
        radius=radius,
        radius_lower=lower,
        radius_upper=upper,
        radius_bracket=bracket,
        delta=tuple(population.delta[::-1].tolist()),
        delta_lower=tuple(
            None if np.isnan(x) else float(x) for x in population.envelope.delta_lower[::-1]
        ),
        reaches=tuple(reaches.tolist()),
    )


def list_localities(found: Mapping[PopulationName, Locality]) -> list[dict[str, Any]]:
    """List what crops say, as ``run.json`` keeps it."""
    return [asdict(each) for each in found.values()]
