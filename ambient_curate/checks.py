"""Checks that can show a classifier to be unreliable: four positive findings.

Each asks for evidence of one fault, and passes where there is none. Where laws are equal, a sound
classifier fails any of the four in less than one run of twenty (METHOD.md section 7).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ambient_curate.crossing import stretch

CERTAIN = 0.001  # largest p-value that counts as a difference
CONFIDENCE = 0.95  # of the accuracy's interval
WIDENING = 1.3  # of the control's 95 % interval: a false alarm would null every dataset
HEIGHTENING = 2.5  # of its lower end: what is found too high errs on the safe side
BALANCE_CONFIDENCE = 0.99  # simultaneous over the levels
CLEAR_ERRORS = 3.0  # standard errors that a Brier score may lie too low


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Parameters
    ----------
    check : str
        Name of the check.
    passed : bool
        False: the classifier is unreliable.
    numbers : mapping of str to float
        What was compared.
    sentence : str
        The same in plain words.
    """

    check: str
    passed: bool
    numbers: Mapping[str, float]
    sentence: str


@dataclass(frozen=True, eq=False)
class FoldBrier:
    """Balanced Brier score of every fold, with its standard error between episodes.

    Parameters
    ----------
    mean, error : ndarray, float64, shape (fold,)
        In [0, 1], and >= 0; the error is infinite where no fold has two episodes of a class.
    """

    mean: Float64[np.ndarray, " fold"]
    error: Float64[np.ndarray, " fold"]


def check_blindness(
    p_value: float, accuracy: Float64[np.ndarray, " redraw"], sigma_min: float
) -> Finding:
    """Find a difference that a test without a classifier is sure of and the network misses.

    Parameters
    ----------
    p_value : float
        Of `energy.compare_episodes`.
    accuracy : ndarray, float64, shape (redraw,)
        Bootstrap of the network's balanced accuracy at the lowest level of the grid.
    sigma_min : float
        What the network's curve gives.

    Returns
    -------
    Finding
        Not passed where the p-value is at most `CERTAIN`, the accuracy's interval reaches down to
        1/2, and sigma_min is 0. A small difference that the network sees is no finding; one below
        the rule's margin that it cannot be shown to see is (METHOD.md section 7).
    """
    tail = (1.0 - CONFIDENCE) / 2
    lower, upper = (float(end) for end in np.quantile(accuracy, [tail, 1.0 - tail]))
    certain = p_value <= CERTAIN
    sees = lower > 0.5 or sigma_min > 0.0
    test = (
        f"a test without a classifier {'finds a' if certain else 'is not sure of any'} difference "
        f"(p = {p_value:.3f})"
    )
    network = (
        f"the network {'sees one' if sees else 'sees none'}: its accuracy at the lowest noise is "
        f"{lower:.3f} to {upper:.3f}, its sigma_min {sigma_min:.3f}"
    )
    numbers = {"p_value": p_value, "lower": lower, "upper": upper, "sigma_min": sigma_min}
    return Finding("blindness", sees or not certain, numbers, f"{test}; {network}")


def check_control(expected: float, found: float, lower: float, upper: float) -> Finding:
    """Find that the planted control came out where it was not planted.

    Parameters
    ----------
    expected : float
        Where it was planted, in (0, 1).
    found, lower, upper : float
        Its sigma_min and the 95 % bootstrap interval around it, in [0, 1].

    Returns
    -------
    Finding
        Not passed where `expected` lies above the interval, its upper end stretched `WIDENING`
        times away from `found` in log-SNR, or below the lower end stretched `HEIGHTENING` times;
        an end at 0 or 1 is not stretched. Too low is unsafe; too high costs data only, but
        far too high tells of networks that have met the episodes they score.
    """
    high = stretch(found, upper, WIDENING)
    low, lowest = (stretch(found, lower, by) for by in (WIDENING, HEIGHTENING))
    passed = bool(lowest <= expected <= high)
    ending = (
        "the network is too weak for this data"
        if expected > high
        else "as if networks scored what they were trained on"
        if not passed
        else "found too high, which is the safe side"
        if expected < low
        else "recovered"
    )
    sentence = (
        f"the planted control was expected at sigma {expected:.3f} and found at {found:.3f} "
        f"({low:.3f} to {high:.3f}): {ending}"
    )
    numbers = {"expected": expected, "found": found, "lower": low, "upper": high}
    return Finding("control", passed, numbers, sentence)


def check_balance(
    offset: Float64[np.ndarray, " level"],
    redraws: Float64[np.ndarray, "redraw level"],
    sigma: Float64[np.ndarray, " level"],
    epsilon: float,
) -> Finding:
    """Find a level at which E_p c + E_q c - 1 is surely beyond the rule's margin.

    Parameters
    ----------
    offset : ndarray, float64, shape (level,)
        E_p c + E_q c - 1; 0 for the best classifier.
    redraws : ndarray, float64, shape (redraw, level)
        Its bootstrap by episode, with equal folds drawn for both classes.
    sigma : ndarray, float64, shape (level,)
        The grid.
    epsilon : float
        Margin of the rule.

    Returns
    -------
    Finding
        Not passed where the interval at some level lies wholly outside [-epsilon, epsilon]. The
        intervals hold at all levels at once: their width, in standard errors, is a quantile of
        the largest deviation over the levels.
    """
    spread = redraws.std(axis=0)
    deviation = np.abs(redraws - offset) / np.where(spread > 0.0, spread, np.inf)
    width = np.quantile(deviation.max(axis=1), BALANCE_CONFIDENCE) * spread
    sure = np.abs(offset) - width  # the end nearest to 0
    passed = bool((sure <= epsilon).all())
    worst = int(np.argmax(np.abs(offset) if passed else sure))
    numbers = {
        "sigma": float(sigma[worst]),
        "offset": float(offset[worst]),
        "lower": float(offset[worst] - width[worst]),
        "upper": float(offset[worst] + width[worst]),
        "epsilon": epsilon,
    }
    sentence = (
        f"E_p c + E_q c - 1 is {numbers['offset']:+.3f} ({numbers['lower']:+.3f} to "
        f"{numbers['upper']:+.3f}) at sigma {numbers['sigma']:.3f}, "
        f"{'within' if passed else 'surely beyond'} the margin of {epsilon:g}"
    )
    return Finding("balance", passed, numbers, sentence)


def average_brier(
    brier: Float64[np.ndarray, " episode"],
    is_clean: Bool[np.ndarray, " episode"],
    fold: Int64[np.ndarray, " episode"],
) -> FoldBrier:
    """Average episodes' Brier scores by fold, each class with half of the weight.

    Parameters
    ----------
    brier : ndarray, float64, shape (episode,)
        Mean squared error of the probability of "clean" over an episode.
    is_clean : ndarray, bool, shape (episode,)
        Its class.
    fold : ndarray, int64, shape (episode,)
        Its fold; every fold has episodes of both classes.

    Raises
    ------
    ValueError
        If a fold has no episode of a class.
    """
    folds = np.unique(fold)
    mean, square = np.zeros(folds.size), np.zeros(folds.size)
    for label in (True, False):
        cell = [brier[(fold == k) & (is_clean == label)] for k in folds]
        sizes = np.array([scores.size for scores in cell])
        if not sizes.all():
            raise ValueError("every fold needs episodes of both classes")
        freedom = sizes.sum() - folds.size
        residual = sum(float(np.square(scores - scores.mean()).sum()) for scores in cell)
        variance = residual / freedom if freedom else np.inf  # pooled: folds have few episodes
        mean += 0.5 * np.array([scores.mean() for scores in cell])
        square += 0.25 * variance / sizes
    return FoldBrier(mean, np.sqrt(square))


def check_overfit(reported: FoldBrier, held_out: FoldBrier) -> Finding:
    """Find reported scores that are better than a network's scores on what it never saw.

    Parameters
    ----------
    reported : FoldBrier
        Of the scores in use.
    held_out : FoldBrier
        Of the same folds' networks on episodes that had no part in their fit.

    Returns
    -------
    Finding
        Not passed where the reported score is lower by more than `CLEAR_ERRORS` standard errors,
        on average over the folds: then scores are not out of fold.
    """
    gap = float((held_out.mean - reported.mean).mean())
    error = float(np.sqrt((reported.error**2 + held_out.error**2).sum())) / reported.mean.size
    passed = bool(gap <= CLEAR_ERRORS * error)
    numbers = {
        "reported": float(reported.mean.mean()),
        "held_out": float(held_out.mean.mean()),
        "gap": gap,
        "error": error,
    }
    sentence = (
        f"the Brier score in use is {numbers['reported']:.4f}, that of episodes known to be held "
        f"out {numbers['held_out']:.4f} (standard error of the gap {error:.4f}): "
        f"{'no sign of scores' if passed else 'scores come'} from networks that saw the episode"
    )
    return Finding("overfit", passed, numbers, sentence)
