"""Calibration against laws whose right slope and intercept are known."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from ambient_curate.calibration import (
    LARGEST_LOGIT,
    calibrated_loss,
    fit_calibration,
)

Array = NDArray[np.float64]
SNR = (-6.0, 8.0)


def draw_scores(
    n: int, rng: np.random.Generator, *, slope: float = 1.0, intercept: float = 0.0
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Scores whose true log-odds are ``slope * logit + intercept``, balanced by construction.

    The true log-odds of N(0, 1) against N(d, 1) are N(+-d^2/2, d^2); d falls with noise.
    """
    log_snr = rng.uniform(*SNR, n)
    is_clean = rng.random(n) < 0.5
    d = 2.0 * expit(0.5 * log_snr)
    truth = rng.normal(np.where(is_clean, 0.5, -0.5) * d**2, d)
    return (truth - intercept * rise(log_snr)) / slope, log_snr, is_clean


def rise(log_snr: Array) -> Array:
    """Smooth step from 0 at full noise to 1 at half of the range: no offset where all are alike."""
    t = (log_snr - SNR[0]) / (SNR[1] - SNR[0]) * 4.0
    return np.where(t < 1.0, t**2 / 2, 1.0 - np.maximum(2.0 - t, 0.0) ** 2 / 2)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.33, 0.4), (2.5, -0.7)])
def test_a_known_slope_and_intercept_are_recovered(slope: float, intercept: float) -> None:
    scores = draw_scores(40_000, np.random.default_rng(0), slope=slope, intercept=intercept)
    model = fit_calibration(*scores)
    found = model.at(np.linspace(-2.0, 7.0, 10))
    np.testing.assert_allclose(found.slope, slope, atol=0.12 * slope + 0.02)
    np.testing.assert_allclose(
        found.intercept, intercept * rise(np.linspace(-2.0, 7.0, 10)), atol=0.12
    )
    assert model.at(np.array([SNR[0]])).intercept[0] == pytest.approx(0.0, abs=1e-3)


def test_the_slope_follows_the_noise_level() -> None:
    truth, log_snr, is_clean = draw_scores(40_000, np.random.default_rng(1))
    over = 1.0 + 2.0 * (log_snr - SNR[0]) / (SNR[1] - SNR[0])  # 1 at high noise, 3 at low
    model = fit_calibration(truth * over, log_snr, is_clean)
    x = np.array([0.0, 3.0, 6.0])
    expected = 1.0 / (1.0 + 2.0 * (x - SNR[0]) / (SNR[1] - SNR[0]))
    np.testing.assert_allclose(model.at(x).slope, expected, rtol=0.15)


def test_calibrated_probabilities_are_frequencies() -> None:
    rng = np.random.default_rng(2)
    model = fit_calibration(*draw_scores(40_000, rng, slope=0.3, intercept=0.5))
    logits, log_snr, is_clean = draw_scores(40_000, rng, slope=0.3, intercept=0.5)
    at = model.at(log_snr)
    p = expit(at.slope * logits + at.intercept)
    for low in np.arange(0.0, 1.0, 0.1):
        inside = (p >= low) & (p < low + 0.1)
        n = max(int(inside.sum()), 1)
        error = abs(is_clean[inside].mean() - p[inside].mean()) if n > 100 else 0.0
        assert error < 4.0 * (0.25 / n) ** 0.5 + 0.01


def test_the_mean_over_both_classes_is_one_half() -> None:
    """E_p c + E_q c = 1, which the plug-in of Delta leans on, is the fit's own condition.

    It holds to the share of the levels near full noise, where no offset is allowed.
    """
    scores = draw_scores(8_000, np.random.default_rng(3), slope=0.4)
    logits, log_snr, is_clean = (x[scores[1] > -2.0] for x in scores)
    is_clean[:3_000] &= np.arange(3_000) % 3 == 0  # unbalanced, and wrong
    model = fit_calibration(logits, log_snr, is_clean)
    at = model.at(log_snr)
    c = expit(at.slope * logits + at.intercept)
    assert (at.slope > 0.0).all()
    assert c[is_clean].mean() + c[~is_clean].mean() == pytest.approx(1.0, abs=0.02)


def test_an_imbalance_of_the_classes_changes_nothing() -> None:
    rng = np.random.default_rng(4)
    logits, log_snr, is_clean = draw_scores(80_000, rng, slope=0.5, intercept=0.3)
    kept = ~is_clean | (rng.random(is_clean.size) < 0.05)  # one clean in twenty
    model = fit_calibration(logits[kept], log_snr[kept], is_clean[kept])
    found = model.at(np.array([0.0, 3.0, 6.0]))
    np.testing.assert_allclose(found.slope, 0.5, atol=0.1)
    np.testing.assert_allclose(found.intercept, 0.3, atol=0.25)  # unbalanced: 0.3 - ln 20


def test_weights_count_as_repetitions() -> None:
    logits, log_snr, is_clean = draw_scores(600, np.random.default_rng(5))
    times = np.random.default_rng(6).integers(1, 4, 600)
    weighted = fit_calibration(logits, log_snr, is_clean, times.astype(np.float64))
    repeated = fit_calibration(*(np.repeat(x, times) for x in (logits, log_snr, is_clean)))
    # the ridge penalty is fixed and the repeated sample larger, hence no closer
    np.testing.assert_allclose(weighted.coefficients, repeated.coefficients, atol=0.1)
    x = np.array([-3.0, 0.0, 5.0])
    np.testing.assert_allclose(weighted.at(x).slope, repeated.at(x).slope, atol=0.02)


def test_scores_that_are_noise_get_no_slope() -> None:
    rng = np.random.default_rng(7)
    logits, log_snr = rng.normal(0.0, 3.0, 40_000), rng.uniform(*SNR, 40_000)
    found = fit_calibration(logits, log_snr, rng.random(40_000) < 0.5).at(np.linspace(*SNR, 30))
    assert (found.slope >= 0.0).all()
    assert found.slope.max() < 0.05
    np.testing.assert_allclose(found.intercept, 0.0, atol=0.15)


def test_scores_that_mislead_are_silenced() -> None:
    logits, log_snr, is_clean = draw_scores(5_000, np.random.default_rng(8))
    model = fit_calibration(-logits, log_snr, is_clean)
    found = model.at(np.linspace(2.0, 7.0, 9))
    assert not found.slope.any()
    assert not found.intercept.any()


def test_a_noise_level_beyond_those_seen_is_read_as_the_nearest() -> None:
    model = fit_calibration(*draw_scores(5_000, np.random.default_rng(9)))
    found = model.at(np.array([-50.0, model.knots[0], model.knots[-1], 50.0]))
    assert found.slope[0] == pytest.approx(found.slope[1])
    assert found.slope[3] == pytest.approx(found.slope[2])


def test_a_level_far_from_the_others_is_platt_scaled_alone() -> None:
    """At two far-apart levels: two separate logistic regressions, without offset at full noise."""
    rng = np.random.default_rng(10)
    logits, _, is_clean = draw_scores(4_000, rng)
    log_snr = np.where(np.arange(4_000) % 2 == 0, *SNR)
    model = fit_calibration(logits, log_snr, is_clean)
    for level in SNR:
        here = log_snr == level
        weight = np.where(is_clean, 1.0 / is_clean.sum(), 1.0 / (~is_clean).sum())[here]
        platt = LogisticRegression(C=np.inf, fit_intercept=level != SNR[0]).fit(
            logits[here, None], is_clean[here], sample_weight=weight * 2_000
        )
        found = model.at(np.array([level]))
        assert found.slope[0] == pytest.approx(platt.coef_[0, 0], abs=0.01)
        assert found.intercept[0] == pytest.approx(float(np.ravel(platt.intercept_)[0]), abs=0.01)


def test_the_loss_is_the_balanced_cross_entropy() -> None:
    rng = np.random.default_rng(11)
    logits, log_snr, is_clean = draw_scores(500, rng)
    weight = rng.uniform(0.5, 2.0, 500)
    model = fit_calibration(logits, log_snr, is_clean)
    at = model.at(log_snr)
    c = expit(at.slope * logits + at.intercept)
    arms = (
        np.average(-np.log(c[is_clean]), weights=weight[is_clean]),
        np.average(-np.log(1.0 - c[~is_clean]), weights=weight[~is_clean]),
    )
    found = calibrated_loss(model, logits, log_snr, is_clean, weight)
    assert found == pytest.approx(np.mean(arms))


def test_a_silenced_score_costs_the_logarithm_of_two() -> None:
    logits, log_snr, is_clean = draw_scores(5_000, np.random.default_rng(12))
    model = fit_calibration(-logits, log_snr, is_clean)
    high = log_snr > 2.0
    loss = calibrated_loss(model, -logits[high], log_snr[high], is_clean[high])
    assert loss == pytest.approx(np.log(2.0))


def test_infinite_logits_are_bounded() -> None:
    logits, log_snr, is_clean = draw_scores(2_000, np.random.default_rng(13))
    logits[:2] = np.inf, -np.inf
    bounded = np.clip(logits, -LARGEST_LOGIT, LARGEST_LOGIT)
    one, other = (fit_calibration(x, log_snr, is_clean) for x in (logits, bounded))
    assert one.coefficients.tolist() == other.coefficients.tolist()
