"""Curves of a pair over noise levels: sigma_min, its interval, and divergences at every level."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, Int64

from ambient_curate.classifier.out_of_fold import ACCURACY, BCE, BINS, BRIER, SMALLEST, C, band_of
from ambient_curate.data.populations import PopulationName
from ambient_curate.divergence import delta_from_mean, tv_from_accuracy
from ambient_curate.noise import log_snr
from ambient_curate.run.tables import curves_schema, reliability_schema, tabulate
from ambient_curate.statistics.bootstrap import bootstrap_means, few_folds, stretch
from ambient_curate.statistics.brackets import Envelope, HeldOut
from ambient_curate.statistics.challenger import ChallengerFinding
from ambient_curate.statistics.lower_bounds import Losses, delta_ratio
from ambient_curate.statistics.sigma_min import (
    avoid_levels,
    find_legibility,
    last_crossing,
    rising_fit,
    sparse_levels,
    sparse_shares,
)

CONFIDENCE = 0.95
NORMAL = 1.96  # standard errors of a normal interval with that confidence
MISSED = 0.01  # by which a fitted classifier's E_q c exceeds the best one's (method.md section 4)
CERTIFIED = (
    "delta_lower",
    "delta_upper_empirical",
    "delta_upper",
    "tv_lower",
    "tv_upper_empirical",
    "tv_upper",
    "jsd_lower",
)


@dataclass(frozen=True, eq=False)
class Side:
    """Scored episodes of one class of a population.

    Parameters
    ----------
    statistics : ndarray, float64, shape (episode, statistic, level)
        As `out_of_fold.EpisodeScore.statistics`, for the population's output.
    histogram : ndarray, float64, shape (episode, band, bin, 2)
        As `out_of_fold.EpisodeScore.histogram`.
    weight : ndarray, float64, shape (episode,)
        What an episode counts for, > 0.
    fold : ndarray, int64, shape (episode,)
        The fold whose network scored it.
    """

    statistics: Float64[np.ndarray, "episode statistic level"]
    histogram: Float64[np.ndarray, "episode band bin 2"]
    weight: Float64[np.ndarray, " episode"]
    fold: Int64[np.ndarray, " episode"]

    def interpolate(self, sigma: Float64[np.ndarray, " grid"]) -> "Side":
        """Statistics at all levels of a grid from those at its sparse ones, linear in log-SNR."""
        if sigma.size == self.statistics.shape[-1]:
            return self
        return replace(self, statistics=self.statistics @ sparse_shares(sigma))

    def hold_back(self, sigma: Float64[np.ndarray, " grid"]) -> "Side":
        """Statistics at all levels of a grid, of each the next sparse one from it upwards.

        Divergences do not rise with noise: what is certain at a level is certain below it.
        """
        if sigma.size == self.statistics.shape[-1]:
            return self
        places = sparse_levels(sigma.size)
        above = np.searchsorted(places, np.arange(sigma.size))
        return replace(self, statistics=self.statistics[..., above])

    def mean(self) -> Float64[np.ndarray, "statistic level"]:
        """Weighted mean over the episodes."""
        return np.average(self.statistics, axis=0, weights=self.weight)

    def redraw(
        self, statistic: int, rng: np.random.Generator, folds: int
    ) -> Float64[np.ndarray, "n level"]:
        """Bootstrap means of one statistic; two sides of equal seed `folds` draw equal folds."""
        return bootstrap_means(
            self.statistics[:, statistic],
            self.weight,
            rng,
            fold=self.fold,
            fold_rng=np.random.default_rng(folds),
        )

    def mean_histogram(self) -> Float64[np.ndarray, "band bin 2"]:
        """Weighted mean over the episodes."""
        return np.average(self.histogram, axis=0, weights=self.weight)


@dataclass(frozen=True, eq=False)
class PopulationCurves:
    """What out-of-fold scores say of one population, level by level.

    Parameters
    ----------
    dataset, group : str and str or None
        Of the population.
    sigma : ndarray, float64, shape (level,)
        The grid.
    n_clean, n_corrupt : int
        Scored episodes.
    clean, corrupt : ndarray, float64, shape (statistic, level)
        Means over the episodes of each class.
    isotonic : ndarray, float64, shape (level,)
        E_q c, non-decreasing in sigma.
    delta_interval, tv_interval : ndarray, float64, shape (2, level)
        Percentile intervals of a bootstrap over episodes: approximate.
    sigma_min, lower, upper : float
        Crossing of `isotonic`, inside the bracket, and its approximate interval; where a
        challenger was the better classifier, no lower than its own.
    legibility : tuple of float
        sigma_max up to which noise hides less than the margin, and its percentile interval.
    envelope : Envelope
        Certified bounds, and the bracket of sigma_min.
    reliability : ndarray, float64, shape (band, bin, 3)
        Share of the balanced predictions, their mean, and the clean share among them.
    network_sigma_min : float
        Crossing of `isotonic`, inside the bracket.
    challenger_sigma_min : float or None
        The challenger's, where it was the better one above `network_sigma_min`.
    challenger : str
        What it found, in plain words; empty: there was none.
    """

    dataset: str
    group: str | None
    sigma: Float64[np.ndarray, " level"]
    n_clean: int
    n_corrupt: int
    clean: Float64[np.ndarray, "statistic level"]
    corrupt: Float64[np.ndarray, "statistic level"]
    isotonic: Float64[np.ndarray, " level"]
    delta_interval: Float64[np.ndarray, "2 level"]
    tv_interval: Float64[np.ndarray, "2 level"]
    sigma_min: float
    lower: float
    upper: float
    legibility: tuple[float, float, float]
    envelope: Envelope
    reliability: Float64[np.ndarray, "band bin 3"]
    network_sigma_min: float
    challenger_sigma_min: float | None = None
    challenger: str = ""

    def raise_to(self, found: ChallengerFinding) -> "PopulationCurves":
        """Return the same with sigma_min and its upper end no lower than the challenger's.

        What is certified keeps the last word: nothing is raised above the bracket.
        """
        if found.sigma_min is None or found.upper is None:
            return replace(self, challenger=found.sentence)
        ends = np.minimum([found.sigma_min, found.upper], self.envelope.upper)
        sigma_min, upper = avoid_levels(ends, self.sigma).tolist()
        return replace(
            self,
            sigma_min=max(self.sigma_min, sigma_min),
            upper=max(self.upper, upper),
            challenger_sigma_min=found.sigma_min,
            challenger=found.sentence,
        )

    @property
    def delta(self) -> Float64[np.ndarray, " level"]:
        """Plug-in Delta, non-increasing in sigma."""
        return delta_from_mean(self.isotonic)


def summarize_population(
    name: PopulationName,
    sigma: Float64[np.ndarray, " level"],
    clean: Side,
    corrupt: Side,
    envelope: Envelope,
    *,
    epsilon: float,
    rng: np.random.Generator,
) -> PopulationCurves:
    """Average the scores of a population over episodes, and bootstrap over episodes.

    Folds are drawn before episodes, which shows how the networks differ, and the intervals are
    widened for their small number; they remain approximate (method.md section 4).

    Parameters
    ----------
    name : tuple of str and str or None
        The population's dataset and group.
    sigma : ndarray, float64, shape (level,)
        The grid.
    clean, corrupt : Side
        Out-of-fold scores.
    envelope : Envelope
        What is certain; the crossing stays inside its bracket.
    epsilon : float
        Margin of the rule.
    rng : Generator
        Of the bootstrap.
    """
    folds = int(rng.integers(2**32))
    p, q = clean.mean(), corrupt.mean()
    isotonic = rising_fit(q[C])
    inside = _keep_inside(isotonic, sigma, envelope, 0.5 - epsilon)
    crossing = float(last_crossing(inside, sigma, 0.5 - epsilon))
    drawn_q = corrupt.redraw(C, rng, folds)
    fits = np.stack([rising_fit(curve) for curve in drawn_q])
    hits = sum(side.redraw(ACCURACY, rng, folds) for side in (clean, corrupt))
    by = few_folds(np.unique(clean.fold).size)
    ends = _cross_band(q[C], NORMAL * by * drawn_q.std(axis=0), sigma, 0.5 - epsilon)
    delta, tv = delta_from_mean(fits), tv_from_accuracy(np.asarray(hits) / 2)
    found = delta_from_mean(isotonic), tv_from_accuracy(0.5 * (p[ACCURACY] + q[ACCURACY]))
    return PopulationCurves(
        *name,
        sigma,
        len(clean.weight),
        len(corrupt.weight),
        p,
        q,
        isotonic,
        np.clip(_widen(_percentiles(delta), found[0], by), 0.0, 2.0),
        np.clip(_widen(_percentiles(tv), found[1], by), 0.0, 1.0),
        crossing,
        min(*ends, crossing),
        max(*ends, crossing),
        _read_legibility(isotonic, fits, sigma, epsilon, by),
        envelope,
        _reliability(clean.mean_histogram(), corrupt.mean_histogram()),
        crossing,
    )


def _cross_band(
    curve: np.ndarray, width: np.ndarray, sigma: np.ndarray, threshold: float
) -> tuple[float, float]:
    """Crossings of a curve moved up and down; down by what a classifier misses, too.

    Where the curve runs flat near the threshold, a little more or less of it moves the crossing
    far: a percentile of redrawn crossings does not show that of a curve that never fails.
    """
    moved = rising_fit(curve + width), rising_fit(curve - width - MISSED)
    lower, upper = (float(last_crossing(each, sigma, threshold)) for each in moved)
    return lower, upper


def _read_legibility(
    curve: np.ndarray, redrawn: np.ndarray, sigma: np.ndarray, epsilon: float, by: float
) -> tuple[float, float, float]:
    found = float(find_legibility(curve, sigma, epsilon))
    among = _percentiles(find_legibility(redrawn, sigma, epsilon))
    ends = [stretch(found, float(end), by) for end in among]
    return found, min(*ends, found), max(*ends, found)


def _keep_inside(
    curve: np.ndarray, sigma: np.ndarray, envelope: Envelope, threshold: float
) -> np.ndarray:
    """Let the curve fail where Delta is certified to be large, and pass where it is to be small."""
    failing = np.where(sigma <= envelope.lower, np.minimum(curve, threshold), curve)
    above = np.nextafter(threshold, 1.0)
    return np.where(sigma >= envelope.upper, np.maximum(failing, above), failing)


def hold_out(clean: Side, corrupt: Side, rng: np.random.Generator) -> HeldOut:
    """Losses of episodes that weigh the same, for certificates; `rng` draws the folds' order."""
    order = rng.permutation(1 + max(side.fold.max() for side in (clean, corrupt)))

    def losses(statistic: int) -> Losses:
        p, q = (side.statistics[:, statistic] for side in (clean, corrupt))
        return Losses(p, q, order[clean.fold], order[corrupt.fold])

    right = losses(ACCURACY)
    errors = replace(right, clean=1.0 - right.clean, corrupt=1.0 - right.corrupt)
    return HeldOut(losses(BRIER), errors, losses(BCE), SMALLEST)


def _percentiles(values: np.ndarray) -> np.ndarray:
    tail = (1.0 - CONFIDENCE) / 2
    return np.quantile(values, [tail, 1.0 - tail], axis=0)


def _widen(ends: np.ndarray, found: np.ndarray, by: float) -> np.ndarray:
    return found + by * (ends - found)


def _reliability(clean: np.ndarray, corrupt: np.ndarray) -> np.ndarray:
    """Balanced: both classes carry half of the weight in every band."""
    both = 0.5 * (clean + corrupt)
    share = both[..., 0] / both[..., 0].sum(axis=1, keepdims=True)
    filled = np.where(both[..., 0] > 0, both[..., 0], 1.0)
    return np.stack([share, both[..., 1] / filled, 0.5 * clean[..., 0] / filled], axis=-1)


def tabulate_curves(populations: Sequence[PopulationCurves]) -> pa.Table:
    """Rows of ``curves.parquet``: one a population and level."""
    columns: dict[str, list[object]] = {name: [] for name in curves_schema().names}
    for population in populations:
        n = population.sigma.size
        both = 0.5 * (population.clean + population.corrupt)
        values = {
            "dataset": [population.dataset] * n,
            "group": [population.group] * n,
            "sigma": population.sigma,
            "log_snr": log_snr(population.sigma),
            "n_clean": [population.n_clean] * n,
            "n_corrupt": [population.n_corrupt] * n,
            "accuracy": both[ACCURACY],
            "mean_c_clean": population.clean[C],
            "mean_c_corrupt": population.corrupt[C],
            "mean_c_corrupt_isotonic": population.isotonic,
            "brier": both[BRIER],
            "bce": both[BCE],
            "delta": population.delta,
            "delta_ratio": _ratio(population),
            "delta_lower_approx": population.delta_interval[0],
            "delta_upper_approx": population.delta_interval[1],
            "tv": tv_from_accuracy(both[ACCURACY]),
            "tv_lower_approx": population.tv_interval[0],
            "tv_upper_approx": population.tv_interval[1],
            **{
                name: [null_if_nan(v) for v in getattr(population.envelope, name).tolist()]
                for name in CERTIFIED
            },
        }
        for name, column in values.items():
            columns[name].extend(column)
    return tabulate(columns, curves_schema())


def _ratio(population: PopulationCurves) -> np.ndarray:
    return delta_ratio(
        population.clean[C],
        population.corrupt[C],
        population.clean[BRIER],
        population.corrupt[BRIER],
    )


def null_if_nan(value: float) -> float | None:
    """Return a number for JSON and Arrow, where "nothing can be said" is null."""
    return None if np.isnan(value) else value


def tabulate_reliability(populations: Sequence[PopulationCurves]) -> pa.Table:
    """Rows of ``reliability.parquet``: one a population, band of levels and occupied bin."""
    columns: dict[str, list[object]] = {name: [] for name in reliability_schema().names}
    for population in populations:
        scored = population.sigma[sparse_levels(population.sigma.size)]
        band = band_of(scored.size)
        for (row, cell), share in np.ndenumerate(population.reliability[..., 0]):
            if share == 0:
                continue
            levels = scored[band == row]
            values = (
                population.dataset,
                population.group,
                levels[0],
                levels[-1],
                cell / BINS,
                (cell + 1) / BINS,
                *population.reliability[row, cell],
            )
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
    return tabulate(columns, reliability_schema())
