"""Calibration of log-odds, smooth in the noise level: of one estimate, or a stack of several."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

KNOTS = 5
AT_FULL_NOISE = 2  # quadratic splines that are not 0 at the lowest log-SNR
RIDGE = 3e-4  # of the mean loss: what a weight that hardly matters is pulled to 0 by
LARGEST_LOGIT = 30.0


@dataclass(frozen=True)
class Calibration:
    """Per noise level, the calibrated logit is ``slope @ logits + intercept`` (Platt 1999).

    Parameters
    ----------
    slope : ndarray, float64, shape (member, level)
        Weight of each estimate, >= 0. All are 0 where none rises with the truth in held-out data:
        the classifier then says 1/2.
    intercept : ndarray, float64, shape (level,)
        On the grid it was made for.
    """

    slope: Float64[np.ndarray, "member level"]
    intercept: Float64[np.ndarray, " level"]


@dataclass(frozen=True)
class CalibrationModel:
    """Weights and intercept as quadratic splines of the log-SNR."""

    knots: Float64[np.ndarray, " knot"]
    slopes: Float64[np.ndarray, "member spline"]
    offset: Float64[np.ndarray, " spline"]

    def at(self, log_snr: Float[np.ndarray, " n"]) -> Calibration:
        """Evaluate at given noise levels."""
        splines = spline_basis(log_snr, self.knots).T
        slope, intercept = self.slopes @ splines, self.offset @ splines
        return Calibration(slope, np.where(slope.max(axis=0) > 0.0, intercept, 0.0))


def fit_calibration(
    logits: Float[np.ndarray, "n member"],
    log_snr: Float[np.ndarray, " n"],
    is_clean: Bool[np.ndarray, " n"],
    *,
    anchored: bool = True,
) -> CalibrationModel:
    """Fit by logistic regression on held-out scores; each class gets half of the weight.

    Weights of several estimates are not negative, so that none is used against what it says
    (stacking; Wolpert 1992, Breiman 1996). At full noise clean and corrupt are alike whatever they
    are: an intercept could only be an error there, of the few episodes it is fitted on, and would
    shift the probability off 1/2.

    Parameters
    ----------
    logits : ndarray, shape (n, member)
        Uncalibrated log-odds of "clean", of episodes that had no part in training.
    log_snr : ndarray, shape (n,)
        Noise level of each score.
    is_clean : ndarray, bool, shape (n,)
        Both values must occur.
    anchored : bool
        Whether the noisiest level hides everything, so that the intercept is 0 there.
    """
    from scipy.optimize import minimize

    knots = np.linspace(float(log_snr.min()), float(log_snr.max()), KNOTS)
    splines, members = spline_basis(log_snr, knots), logits.shape[1]
    fixed = AT_FULL_NOISE if anchored else 0
    slopes = (_bounded(logits)[:, :, None] * splines[:, None]).reshape(len(logits), -1)
    features = np.concatenate([slopes, splines[:, fixed:]], axis=1)
    sign, weight = 2.0 * is_clean - 1.0, _balanced(is_clean)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (features @ w)
        pull = weight * sign * _sigmoid(-margin)
        value = weight @ np.logaddexp(0.0, -margin) + 0.5 * RIDGE * w @ w
        return float(value), RIDGE * w - pull @ features

    start = np.zeros(features.shape[1])
    start[: slopes.shape[1]] = 1.0 / members
    bounds = [(0.0, None)] * slopes.shape[1] + [(None, None)] * (splines.shape[1] - fixed)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    slope, intercept = np.split(found, [slopes.shape[1]])
    offset = np.concatenate([np.zeros(fixed), intercept])
    return CalibrationModel(knots, slope.reshape(members, -1), offset)


def calibrated_loss(
    model: CalibrationModel,
    logits: Float[np.ndarray, "n member"],
    log_snr: Float[np.ndarray, " n"],
    is_clean: Bool[np.ndarray, " n"],
) -> float:
    """Balanced cross-entropy, in nats, of the calibrated probabilities; ln 2: nothing is known."""
    at = model.at(log_snr)
    logit = (at.slope * _bounded(logits).T).sum(axis=0) + at.intercept
    loss = np.logaddexp(0.0, np.where(is_clean, -logit, logit))
    return float(_balanced(is_clean) @ loss)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return np.asarray(expit(values))


def _bounded(logits: np.ndarray) -> np.ndarray:
    return np.clip(logits.astype(np.float64), -LARGEST_LOGIT, LARGEST_LOGIT)


def _balanced(is_clean: np.ndarray) -> np.ndarray:
    """Weights of sum 1, half of it for each class."""
    clean = np.count_nonzero(is_clean)
    return np.where(is_clean, 0.5 / clean, 0.5 / (is_clean.size - clean))


def spline_basis(
    log_snr: Float[np.ndarray, " n"], knots: Float64[np.ndarray, " knot"]
) -> Float64[np.ndarray, "n spline"]:
    """Quadratic B-splines over equally spaced knots, constant beyond them; they sum to 1."""
    from scipy.interpolate import BSpline

    step, degree = knots[1] - knots[0], 2
    if step == 0.0:  # a single level
        return np.eye(knots.size + degree - 1)[np.zeros(len(log_snr), dtype=np.int64)]
    beyond = step * np.arange(1, degree + 1)
    all_knots = np.concatenate([knots[0] - beyond[::-1], knots, knots[-1] + beyond])
    inside = np.clip(np.asarray(log_snr, dtype=np.float64), knots[0], knots[-1])
    found = BSpline.design_matrix(inside, all_knots, degree).toarray()
    return np.asarray(found, dtype=np.float64)
