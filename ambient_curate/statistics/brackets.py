"""Certified divergence bounds at every level, and brackets of sigma_min from them."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64

from ambient_curate.statistics.lower_bounds import (
    Losses,
    certify_delta,
    certify_jsd,
    certify_tv,
    log_evidence,
)
from ambient_curate.statistics.upper_bounds import population_upper


def walk_up(sigma: Float64[np.ndarray, " level"], differs: Bool[np.ndarray, " level"]) -> float:
    """Lower end: the last of the levels, from the lowest on, at which the laws surely differ.

    Delta never rises with sigma. Hypotheses "Delta < 4 epsilon" are therefore tested from the
    lowest level up and the walk ends at the first that cannot be rejected: a true one is rejected
    only if the first true one is, so that no level needs a correction for the others.

    Parameters
    ----------
    sigma : ndarray, float64, shape (level,)
        Rising noise levels.
    differs : ndarray, bool, shape (level,)
        Whether each level's own test, at the full error rate, says ``Delta >= 4 epsilon``.

    Returns
    -------
    float
        A lower bound of sigma_min; 0 if the first test says nothing, 1 if all of them do.

    References
    ----------
    Maurer, Hothorn and Lehmacher, Multiple comparisons in drug clinical trials and preclinical
    assays: a-priori ordered hypotheses, 1995; method.md section 4.

    Examples
    --------
    >>> levels = np.array([0.1, 0.2, 0.4])
    >>> walk_up(levels, np.array([True, False, True]))
    0.1
    """
    steps = int(np.argmin(np.append(differs, False)))
    if steps == sigma.size:
        return 1.0
    return float(sigma[steps - 1]) if steps else 0.0


def walk_down(sigma: Float64[np.ndarray, " level"], alike: Bool[np.ndarray, " level"]) -> float:
    """Upper end: the last of the levels, from the highest down, at which the laws are surely alike.

    Parameters
    ----------
    sigma : ndarray, float64, shape (level,)
        Rising noise levels.
    alike : ndarray, bool, shape (level,)
        Whether each level's own test, at the full error rate, says ``Delta < 4 epsilon``.

    Returns
    -------
    float
        An upper bound of sigma_min; 1 if the first test says nothing, 0 if all of them do.

    Examples
    --------
    >>> walk_down(np.array([0.1, 0.2, 0.4]), np.array([True, False, True]))
    0.4
    """
    steps = int(np.argmin(np.append(alike[::-1], False)))
    if steps == sigma.size:
        return 0.0
    return float(sigma[sigma.size - steps]) if steps else 1.0


ALPHA = 0.05  # of every certified bound at one level, and of a bracket as a whole
MONTE_CARLO = 0.0025  # of it, what the draws of the upper side may use

Levels = Float64[np.ndarray, " level"]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out losses of a population's classifiers.

    Parameters
    ----------
    brier, errors, bce : Losses
        Squared error, share of wrong answers, and cross-entropy in nats, by episode and level.
    smallest : float
        What probabilities are clipped to in the cross-entropy.
    """

    brier: Losses
    errors: Losses
    bce: Losses
    smallest: float


@dataclass(frozen=True, eq=False)
class FiniteSets:
    """Upper ends of the divergences of the two noised finite sets a trainer sees.

    Parameters
    ----------
    delta, tv : ndarray, float64, shape (level,)
        Never below the divergences, at no level, but for a probability of `MONTE_CARLO`.
    n_clean, n_corrupt : int
        Episodes in them.
    """

    delta: Levels
    tv: Levels
    n_clean: int
    n_corrupt: int


def know_nothing(levels: int, n_clean: int, n_corrupt: int) -> FiniteSets:
    """Upper ends that say nothing, for levels at which none is known."""
    return FiniteSets(np.full(levels, 2.0), np.ones(levels), n_clean, n_corrupt)


@dataclass(frozen=True, eq=False)
class Envelope:
    """Bounds at each level, 95 % each on its own; NaN where nothing can be said.

    Parameters
    ----------
    delta_lower, tv_lower, jsd_lower : ndarray, float64, shape (level,)
        Certified for the populations, whatever the classifier is worth.
    delta_upper_empirical, tv_upper_empirical : ndarray, float64, shape (level,)
        For the two finite sets.
    delta_upper, tv_upper : ndarray, float64, shape (level,)
        Certified for the populations.
    lower, upper : float
        Bracket of sigma_min, 95 % as a whole.
    tv_floor : float
        Least `tv_upper` that so many episodes can give, for equal sets; NaN: none below 1.
    """

    delta_lower: Levels
    tv_lower: Levels
    jsd_lower: Levels
    delta_upper_empirical: Levels
    tv_upper_empirical: Levels
    delta_upper: Levels
    tv_upper: Levels
    lower: float
    upper: float
    tv_floor: float


def build_envelope(
    sigma: Levels, held_out: HeldOut | None, finite: FiniteSets, *, epsilon: float
) -> Envelope:
    """Bound a population's divergences from both sides and bracket its sigma_min.

    Parameters
    ----------
    sigma : ndarray, float64, shape (level,)
        The grid.
    held_out : HeldOut or None
        None where the episodes are not drawn independently and alike: nothing is then said of
        populations.
    finite : FiniteSets
        Of the same windows.
    epsilon : float
        Margin of the rule, ``Delta < 4 epsilon``.
    """
    blank = np.full(sigma.size, np.nan)
    if held_out is None:
        return Envelope(
            blank, blank, blank, finite.delta, finite.tv, blank, blank, 0.0, 1.0, np.nan
        )
    threshold = 4.0 * epsilon
    evidence = log_evidence(held_out.brier, held_out.errors, threshold, alpha=ALPHA / 2)
    alike, _ = _population(finite, ALPHA / 2)
    none = np.zeros(1)
    _, floor = _population(replace(finite, delta=none, tv=none), ALPHA)
    return Envelope(
        certify_delta(held_out.brier, held_out.errors, alpha=ALPHA),
        certify_tv(held_out.errors, alpha=ALPHA),
        certify_jsd(held_out.bce, smallest=held_out.smallest, alpha=ALPHA),
        finite.delta,
        finite.tv,
        *_population(finite, ALPHA),
        walk_up(sigma, evidence >= np.log(2.0 / ALPHA)),
        walk_down(sigma, alike < threshold),
        float(floor[0]),
    )


def _population(finite: FiniteSets, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    return population_upper(
        finite.delta, finite.tv, finite.n_clean, finite.n_corrupt, alpha - MONTE_CARLO
    )
