"""Calibration of a classifier's logits, smooth in the noise level."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

KNOTS = 5
AT_FULL_NOISE = 2  # quadratic splines that are not 0 at the lowest log-SNR
STRENGTH = 1e3  # inverse of the ridge penalty: almost none
LARGEST_LOGIT = 30.0


@dataclass(frozen=True)
class Calibration:
    """Per noise level, the calibrated logit is ``slope * logit + intercept`` (Platt 1999).

    Parameters
    ----------
    slope, intercept : ndarray, float64, shape (level,)
        On the grid it was made for. Where held-out data give no rising relation both are 0: the
        classifier then says 1/2.
    """

    slope: Float64[np.ndarray, " level"]
    intercept: Float64[np.ndarray, " level"]


@dataclass(frozen=True)
class CalibrationModel:
    """Slope and intercept as quadratic splines of the log-SNR."""

    knots: Float64[np.ndarray, " knot"]
    coefficients: Float64[np.ndarray, "2 spline"]

    def at(self, log_snr: Float[np.ndarray, " n"]) -> Calibration:
        """Evaluate at given noise levels."""
        slope, intercept = self.coefficients @ _splines(log_snr, self.knots).T
        rising = slope > 0.0
        return Calibration(np.where(rising, slope, 0.0), np.where(rising, intercept, 0.0))


def fit_calibration(
    logits: Float[np.ndarray, " n"],
    log_snr: Float[np.ndarray, " n"],
    is_clean: Bool[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"] | None = None,
    *,
    anchored: bool = True,
) -> CalibrationModel:
    """Fit by logistic regression on held-out scores; each class gets half of the weight.

    At full noise clean and corrupt are alike whatever they are: an intercept could only be an
    error there, of the few episodes it is fitted on, and would shift the probability off 1/2.

    Parameters
    ----------
    logits : ndarray, shape (n,)
        Uncalibrated log-odds of "clean", of episodes that had no part in training.
    log_snr : ndarray, shape (n,)
        Noise level of each score.
    is_clean : ndarray, bool, shape (n,)
        Both values must occur.
    weight : ndarray, shape (n,), or None
        Relative weights within a class, >= 0; None: equal.
    anchored : bool
        Whether the noisiest level hides everything, so that the intercept is 0 there.
    """
    from sklearn.linear_model import LogisticRegression

    knots = np.linspace(float(log_snr.min()), float(log_snr.max()), KNOTS)
    splines = _splines(log_snr, knots)
    fixed = AT_FULL_NOISE if anchored else 0
    features = np.concatenate([_bounded(logits)[:, None] * splines, splines[:, fixed:]], axis=1)
    model = LogisticRegression(C=STRENGTH, fit_intercept=False, solver="newton-cholesky")
    model.fit(features, is_clean, sample_weight=_balanced(is_clean, weight))
    slope, intercept = np.split(model.coef_[0].astype(np.float64), [splines.shape[1]])
    intercept = np.concatenate([np.zeros(fixed), intercept])
    return CalibrationModel(knots, np.stack([slope, intercept]))


def calibrated_loss(
    model: CalibrationModel,
    logits: Float[np.ndarray, " n"],
    log_snr: Float[np.ndarray, " n"],
    is_clean: Bool[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"] | None = None,
) -> float:
    """Balanced cross-entropy, in nats, of the calibrated probabilities; ln 2: nothing is known."""
    calibration = model.at(log_snr)
    logit = calibration.slope * _bounded(logits) + calibration.intercept
    loss = np.logaddexp(0.0, np.where(is_clean, -logit, logit))
    return float(np.average(loss, weights=_balanced(is_clean, weight)))


def _bounded(logits: np.ndarray) -> np.ndarray:
    return np.clip(logits.astype(np.float64), -LARGEST_LOGIT, LARGEST_LOGIT)


def _balanced(is_clean: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    weight = np.ones(is_clean.size) if weight is None else weight.astype(np.float64)
    share = np.where(is_clean, weight[is_clean].sum(), weight[~is_clean].sum())
    return weight / share * (is_clean.size / 2)


def _splines(log_snr: np.ndarray, knots: np.ndarray) -> np.ndarray:
    from sklearn.preprocessing import SplineTransformer

    basis = SplineTransformer(knots=knots[:, None], degree=2, extrapolation="constant")
    basis.fit(knots[:, None])  # one level alone would be refused
    return basis.transform(np.asarray(log_snr, dtype=np.float64)[:, None])
