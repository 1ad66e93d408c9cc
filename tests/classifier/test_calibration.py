"""Calibration against laws whose right slope and intercept are known."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from ambient_curate.classifier.calibration import (
    LARGEST_LOGIT,
    RIDGE,
    CalibrationModel,
    calibrated_loss,
    fit_calibration,
    spline_basis,
)

Array = NDArray[np.float64]
SNR = (-6.0, 8.0)


def apply(model: CalibrationModel, logits: Array, log_snr: Array) -> Array:
    """Calibrated probabilities."""
    at = model.at(log_snr)
    return np.asarray(expit((at.slope * logits.T).sum(axis=0) + at.intercept))


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
    return ((truth - intercept * rise(log_snr)) / slope)[:, None], log_snr, is_clean


def rise(log_snr: Array) -> Array:
    """Smooth step from 0 at full noise to 1 at half of the range: no offset where all are alike."""
    t = (log_snr - SNR[0]) / (SNR[1] - SNR[0]) * 4.0
    return np.where(t < 1.0, t**2 / 2, 1.0 - np.maximum(2.0 - t, 0.0) ** 2 / 2)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.33, 0.4), (2.5, -0.7)])
def test_a_known_slope_and_intercept_are_recovered(slope: float, intercept: float) -> None:
    scores = draw_scores(40_000, np.random.default_rng(0), slope=slope, intercept=intercept)
    model = fit_calibration(*scores)
    found = model.at(np.linspace(-2.0, 7.0, 10))
    assert (found.slope[0] < 1.12 * slope + 0.02).all()
    assert (found.slope[0] > 0.8 * slope - 0.02).all()  # the ridge pulls towards 0
    np.testing.assert_allclose(
        found.intercept, intercept * rise(np.linspace(-2.0, 7.0, 10)), atol=0.12
    )
    assert model.at(np.array([SNR[0]])).intercept[0] == pytest.approx(0.0, abs=1e-3)


def test_the_slope_follows_the_noise_level() -> None:
    truth, log_snr, is_clean = draw_scores(40_000, np.random.default_rng(1))
    over = 1.0 + 2.0 * (log_snr - SNR[0]) / (SNR[1] - SNR[0])  # 1 at high noise, 3 at low
    model = fit_calibration(truth * over[:, None], log_snr, is_clean)
    x = np.array([0.0, 3.0, 6.0])
    expected = 1.0 / (1.0 + 2.0 * (x - SNR[0]) / (SNR[1] - SNR[0]))
    np.testing.assert_allclose(model.at(x).slope[0], expected, rtol=0.15)


def test_calibrated_probabilities_are_frequencies() -> None:
    rng = np.random.default_rng(2)
    model = fit_calibration(*draw_scores(40_000, rng, slope=0.3, intercept=0.5))
    logits, log_snr, is_clean = draw_scores(40_000, rng, slope=0.3, intercept=0.5)
    p = apply(model, logits, log_snr)
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
    c = apply(model, logits, log_snr)
    assert (model.at(log_snr).slope > 0.0).all()
    assert c[is_clean].mean() + c[~is_clean].mean() == pytest.approx(1.0, abs=0.02)


def test_an_imbalance_of_the_classes_changes_nothing() -> None:
    rng = np.random.default_rng(4)
    logits, log_snr, is_clean = draw_scores(80_000, rng, slope=0.5, intercept=0.3)
    kept = ~is_clean | (rng.random(is_clean.size) < 0.05)  # one clean in twenty
    model = fit_calibration(logits[kept], log_snr[kept], is_clean[kept])
    found = model.at(np.array([0.0, 3.0, 6.0]))
    np.testing.assert_allclose(found.slope, 0.5, atol=0.1)
    np.testing.assert_allclose(found.intercept, 0.3, atol=0.25)  # unbalanced: 0.3 - ln 20


def test_scores_that_are_noise_get_no_slope() -> None:
    rng = np.random.default_rng(7)
    logits, log_snr = rng.normal(0.0, 3.0, (40_000, 1)), rng.uniform(*SNR, 40_000)
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
    assert found.slope[0, 0] == pytest.approx(found.slope[0, 1])
    assert found.slope[0, 3] == pytest.approx(found.slope[0, 2])


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
            logits[here], is_clean[here], sample_weight=weight * 2_000
        )
        found = model.at(np.array([level]))
        assert found.slope[0, 0] == pytest.approx(platt.coef_[0, 0], abs=0.01)
        assert found.intercept[0] == pytest.approx(float(np.ravel(platt.intercept_)[0]), abs=0.01)


def test_the_loss_is_the_balanced_cross_entropy() -> None:
    logits, log_snr, is_clean = draw_scores(500, np.random.default_rng(11))
    is_clean[:300] = False
    model = fit_calibration(logits, log_snr, is_clean)
    c = apply(model, logits, log_snr)
    classes = -np.log(c[is_clean]).mean(), -np.log(1.0 - c[~is_clean]).mean()
    found = calibrated_loss(model, logits, log_snr, is_clean)
    assert found == pytest.approx(np.mean(classes))


def test_a_silenced_score_costs_the_logarithm_of_two() -> None:
    logits, log_snr, is_clean = draw_scores(5_000, np.random.default_rng(12))
    model = fit_calibration(-logits, log_snr, is_clean)
    high = log_snr > 2.0
    loss = calibrated_loss(model, -logits[high], log_snr[high], is_clean[high])
    assert loss == pytest.approx(np.log(2.0))


def test_infinite_logits_are_bounded() -> None:
    logits, log_snr, is_clean = draw_scores(2_000, np.random.default_rng(13))
    logits[:2, 0] = np.inf, -np.inf
    bounded = np.clip(logits, -LARGEST_LOGIT, LARGEST_LOGIT)
    one, other = (fit_calibration(x, log_snr, is_clean) for x in (logits, bounded))
    assert one.slopes.tolist() == other.slopes.tolist()


def draw_halves(
    n: int, rng: np.random.Generator, shares: tuple[float, ...]
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Estimates that know independent parts of what there is to know: the log-odds are their sum.

    Each part is N(+-s d^2/2, s d^2), s being its share.
    """
    log_snr, is_clean = rng.uniform(*SNR, n), rng.random(n) < 0.5
    d, share = 2.0 * expit(0.5 * log_snr)[:, None], np.array(shares)
    sign = np.where(is_clean, 0.5, -0.5)[:, None]
    return rng.normal(sign * share * d**2, d * np.sqrt(share)), log_snr, is_clean


def test_estimates_that_know_different_parts_are_added_up() -> None:
    rng = np.random.default_rng(14)
    scores = draw_halves(40_000, rng, (0.3, 0.7))
    scaled = scores[0] * [2.0, 0.5], *scores[1:]
    model = fit_calibration(*scaled)
    found = model.at(np.linspace(0.0, 7.0, 8)).slope
    np.testing.assert_allclose(found[0], 0.5, atol=0.1)
    np.testing.assert_allclose(found[1], 2.0, atol=0.25)
    further = draw_halves(20_000, rng, (0.3, 0.7))
    loss = calibrated_loss(model, further[0] * [2.0, 0.5], *further[1:])
    exact = np.logaddexp(0.0, np.where(further[2], -1.0, 1.0) * further[0].sum(axis=1)).mean()
    assert loss == pytest.approx(exact, abs=0.005)


def test_an_estimate_that_adds_nothing_gets_hardly_any_weight() -> None:
    """Noise, and one that says the opposite: the others are used as if these were not there."""
    rng = np.random.default_rng(15)
    logits, log_snr, is_clean = draw_scores(40_000, rng)
    noise = rng.normal(size=logits.shape)
    model = fit_calibration(np.concatenate([noise, logits, -logits], 1), log_snr, is_clean)
    found = model.at(np.linspace(-1.0, 7.0, 9)).slope
    assert (found >= 0.0).all()
    assert found[0].max() < 0.1
    np.testing.assert_allclose(found[2], 0.0, atol=1e-6)
    alone = fit_calibration(logits, log_snr, is_clean).at(np.linspace(-1.0, 7.0, 9)).slope
    np.testing.assert_allclose(found[1], alone[0], atol=0.03)


def test_an_estimate_alone_at_high_noise_gives_way_to_another_at_low_noise() -> None:
    rng = np.random.default_rng(16)
    logits, log_snr, is_clean = draw_scores(40_000, rng)
    low = log_snr > 1.0
    noise = rng.normal(0.0, 1.5, logits.shape)
    one, other = np.where(low[:, None], noise, logits), np.where(low[:, None], logits, noise)
    found = fit_calibration(np.concatenate([one, other], 1), log_snr, is_clean).at(
        np.array([-2.5, 5.0])
    )
    assert found.slope[0, 0] > 0.6 > 0.2 > found.slope[1, 0]
    assert found.slope[1, 1] > 0.8 > 0.1 > found.slope[0, 1]


def test_weights_are_those_that_minimise_the_penalised_loss() -> None:
    """The conditions of Karush, Kuhn and Tucker hold, by finite differences."""
    scores = draw_halves(2_000, np.random.default_rng(17), (0.5, 0.5))
    scores = scores[0] * [1.0, -1.0], *scores[1:]  # the second is against the truth
    model = fit_calibration(*scores)

    def penalised(slopes: Array, offset: Array) -> float:
        changed = CalibrationModel(model.knots, slopes, offset)
        square = np.sum(slopes**2) + np.sum(offset**2)
        return calibrated_loss(changed, *scores) + 0.5 * RIDGE * float(square)

    for name, value in (("slopes", model.slopes), ("offset", model.offset)):
        for place in np.ndindex(value.shape):
            if name == "offset" and place[0] < 2:
                assert value[place] == 0.0  # anchored
                continue
            step = np.zeros(value.shape)
            step[place] = 1e-4
            around = [
                penalised(
                    *(
                        (value + by * step, model.offset)
                        if name == "slopes"
                        else (model.slopes, value + by * step)
                    )
                )
                for by in (-1.0, 1.0)
            ]
            slope = (around[1] - around[0]) / 2e-4
            if name == "slopes" and value[place] == 0.0:
                assert slope > -1e-5, place  # a weight would only do harm
            else:
                assert slope == pytest.approx(0.0, abs=1e-4), place
    assert not model.slopes[1].any()


def test_without_an_anchor_the_noisiest_level_may_have_an_offset() -> None:
    rng = np.random.default_rng(18)
    logits, log_snr, is_clean = draw_scores(20_000, rng)
    shifted = logits - 0.8
    free, held = (fit_calibration(shifted, log_snr, is_clean, anchored=a) for a in (False, True))
    ends = np.array(SNR)
    np.testing.assert_allclose(free.at(ends).intercept[1], 0.8, atol=0.15)
    assert held.at(ends).intercept[0] == 0.0
    assert free.offset[0] != 0.0


def test_splines_are_those_of_scikit_learn_and_sum_to_one() -> None:
    from sklearn.preprocessing import SplineTransformer

    x, knots = np.linspace(-9.0, 11.0, 50), np.linspace(*SNR, 5)
    basis = SplineTransformer(knots=knots[:, None], degree=2, extrapolation="constant")
    exact = basis.fit(knots[:, None]).transform(x[:, None])
    np.testing.assert_allclose(spline_basis(x, knots), exact, atol=1e-12)
    np.testing.assert_allclose(exact.sum(axis=1), 1.0)
    single = spline_basis(np.full(3, 2.0), np.full(5, 2.0))
    assert single.sum(axis=1).tolist() == [1.0] * 3
    assert single.shape == (3, 6)


def test_a_single_level_is_calibrated() -> None:
    logits, _, is_clean = draw_scores(4_000, np.random.default_rng(19))
    model = fit_calibration(2.0 * logits, np.full(4_000, 3.0), is_clean)
    found = model.at(np.array([3.0]))
    assert found.slope[0, 0] == pytest.approx(0.5, abs=0.1)
