"""Spectra against processes whose spectrum is known."""

from itertools import starmap

import numpy as np
import pytest
from scipy.integrate import quad

from ambient_curate.analysis.spectra import (
    choose_segment,
    coefficient_delta,
    compare_spectra,
    drowning_sigma,
    estimate_spectrum,
    fit_decay,
    hiding_sigma,
    mean_power,
)
from ambient_curate.errors import NotEnoughDataError
from ambient_curate.noise import signal_scale

FRAMES = 131  # of an episode: one segment of 128 frames


def power_laws(
    alphas: list[float], episodes: int, rng: np.random.Generator, frames: int = FRAMES
) -> list[np.ndarray]:
    """Normal series of power ``f^-alpha``, a dimension each, cut out of longer periodic ones."""
    whole = 8 * frames
    frequency = np.fft.rfftfreq(whole)
    with np.errstate(divide="ignore"):
        gain = np.where(frequency[:, None] > 0, frequency[:, None] ** (-np.array(alphas) / 2), 0.0)
    shape = (episodes, frequency.size, len(alphas))
    z = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / 2**0.5
    series = np.fft.irfft(z * gain * whole**0.5, whole, axis=1)
    return list(series[:, whole // 2 : whole // 2 + frames])


def autoregressive(phi: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """AR(1) with unit innovations, started from its stationary law."""
    values = rng.normal(size=(count, 1))
    values[0] /= (1 - phi**2) ** 0.5
    for i in range(1, count):
        values[i] += phi * values[i - 1]
    return values


def test_white_noise_has_its_variance_as_power_at_every_frequency() -> None:
    rng = np.random.default_rng(0)
    episodes = [rng.normal(size=(300, 2)) * [1.0, 3.0] + 50.0 for _ in range(200)]
    found = estimate_spectrum(episodes, segment=64)
    inner = found.power.mean(axis=0)[1:]  # the mean's removal reaches the first frequency
    assert np.allclose(inner / [1.0, 9.0], 1.0, atol=0.1)
    assert found.frequency[-1] == 0.5 and found.n_episodes == 200


@pytest.mark.parametrize("phi", [0.6, 0.95])
def test_an_autoregression_has_its_closed_form(phi: float) -> None:
    rng = np.random.default_rng(1)
    found = estimate_spectrum([autoregressive(phi, 2000, rng) for _ in range(60)], segment=256)
    exact = 1.0 / (1.0 + phi**2 - 2.0 * phi * np.cos(2.0 * np.pi * found.frequency))
    ratio = found.power.mean(axis=0)[4:, 0] / exact[4:]
    assert np.abs(ratio - 1.0).max() < 0.09  # 4 standard errors
    assert abs(ratio.mean() - 1.0) < 0.01


def test_the_exponent_of_a_power_law_is_found() -> None:
    alphas = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    found = estimate_spectrum(power_laws(alphas, 1500, np.random.default_rng(2)))
    assert found.segment == 128
    assert np.abs(fit_decay(found).value - alphas).max() < 0.04


def test_steep_spectra_are_whitened_by_more_differences() -> None:
    found = estimate_spectrum(power_laws([0.0, 1.0, 3.0, 5.0], 40, np.random.default_rng(3)))
    assert found.order.tolist() == [0, 1, 2, 3]


def coverage(alphas: list[float], repetitions: int, episodes: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    hits = np.zeros(len(alphas))
    for _ in range(repetitions):
        found = fit_decay(estimate_spectrum(power_laws(alphas, episodes, rng)))
        hits += (found.lower <= alphas) & (found.upper >= alphas)
    return hits / repetitions


def least_coverage(repetitions: int) -> float:
    return float(0.95 - 3 * (0.95 * 0.05 / repetitions) ** 0.5)


def test_the_interval_of_the_exponent_covers() -> None:
    assert (coverage([0.0, 2.0, 3.0], 150, 10, seed=4) >= least_coverage(150)).all()


@pytest.mark.validity
@pytest.mark.parametrize("episodes", [5, 20, 50])
def test_the_interval_of_the_exponent_covers_in_a_thousand_simulations(episodes: int) -> None:
    alphas = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0]
    assert (coverage(alphas, 1000, episodes, seed=5) >= least_coverage(1000)).all()


@pytest.mark.validity
def test_the_band_of_the_power_covers_where_episodes_are_alike() -> None:
    rng = np.random.default_rng(6)
    hits = np.zeros(32)
    for _ in range(1000):
        episodes = [rng.normal(size=(300, 1)) for _ in range(20)]
        found = mean_power(estimate_spectrum(episodes, segment=64))
        hits += ((found.lower <= 1.0) & (found.upper >= 1.0))[:, 0]
    assert (hits[1:-1] / 1000).min() >= least_coverage(1000) - 0.01  # 31 of them


def test_an_interval_is_over_episodes_not_frames() -> None:
    """Copies of one episode say no more of the episodes that were not recorded."""
    rng = np.random.default_rng(7)
    episodes = power_laws([2.0], 6, rng)
    longer = [np.tile(episode, (1, 3)) for episode in episodes]
    one, three = (fit_decay(estimate_spectrum(e)) for e in (episodes, longer))
    assert np.allclose(three.upper - three.lower, one.upper - one.lower)


def test_a_dimension_that_never_moves_has_no_exponent() -> None:
    rng = np.random.default_rng(8)
    episodes = [np.hstack([rng.normal(size=(80, 1)), np.ones((80, 1))]) for _ in range(4)]
    found = estimate_spectrum(episodes)
    assert found.moving.tolist() == [0]
    assert np.isnan(fit_decay(found).value).tolist() == [False, True]
    assert np.isfinite(fit_decay(found, pooled=True).value).all()


def test_one_episode_has_no_interval() -> None:
    found = fit_decay(estimate_spectrum(power_laws([1.0], 1, np.random.default_rng(9))))
    assert np.isfinite(found.value) and np.isnan(found.lower) and np.isnan(found.upper)


def test_short_episodes_are_counted_and_left_out() -> None:
    rng = np.random.default_rng(10)
    episodes = [rng.normal(size=(n, 1)) for n in [20, *[100] * 30]]
    assert choose_segment([len(e) for e in episodes]) == 97
    found = estimate_spectrum(episodes)
    assert (found.n_episodes, found.too_short) == (30, 1)
    with pytest.raises(NotEnoughDataError, match="episodes of 8 frames are too short"):
        estimate_spectrum([e[:8] for e in episodes])
    with pytest.raises(NotEnoughDataError, match="the longest has 20"):
        estimate_spectrum(episodes[:1], segment=64)


def test_at_the_drowning_level_signal_and_noise_are_equal() -> None:
    power = np.array([1e-6, 0.01, 1.0, 40.0])
    sigma = drowning_sigma(power)
    assert np.allclose(signal_scale(sigma) ** 2 * power, sigma**2)


@pytest.mark.parametrize("ratio", [0.001, 0.2, 0.7, 1.0, 3.0, 500.0])
def test_the_delta_of_a_coefficient_is_the_integral(ratio: float) -> None:
    def integrand(x: float) -> float:
        p, q = np.exp(-x), np.exp(-x / ratio) / ratio
        return float((p - q) ** 2 / max(p + q, 1e-300))

    ends = [0.0, *(s * min(ratio, 1) for s in (1, 10)), 5.0, 60.0, 60.0 * max(ratio, 1)]
    ends = sorted(set(ends))
    exact = sum(quad(integrand, *ends[i : i + 2], limit=200)[0] for i in range(len(ends) - 1))
    assert coefficient_delta(ratio) == pytest.approx(exact, abs=1e-6)
    assert coefficient_delta(1 / ratio) == pytest.approx(coefficient_delta(ratio), abs=1e-9)


def test_the_hiding_level_is_where_the_rule_begins_to_hold() -> None:
    p, q = np.array([0.5, 2.0, 0.3, 0.0]), np.array([4.0, 0.02, 0.31, 0.0])
    sigma = hiding_sigma(p, q, epsilon=0.05)
    assert sigma[2:].tolist() == [0.0, 0.0]
    noised = [signal_scale(sigma[:2]) ** 2 * x[:2] + sigma[:2] ** 2 for x in (p, q)]
    found = list(starmap(coefficient_delta, [(float(r),) for r in noised[0] / noised[1]]))
    assert found == pytest.approx([0.2, 0.2], abs=1e-6)


def test_a_tremor_is_found_in_its_band() -> None:
    rng = np.random.default_rng(11)
    clean = [x[:, :1] for x in power_laws([2.0], 60, rng)]
    tremor = 6.0 * np.sin(2 * np.pi * (0.2 * np.arange(FRAMES)[:, None] + rng.random()))
    spectra = [estimate_spectrum(e, segment=128) for e in (clean, [c + tremor for c in clean[:40]])]
    found = compare_spectra(*spectra)
    worst = int(np.argmax(found.ratio.value))
    assert 0.14 < found.frequency[worst] < 0.28
    assert found.ratio.lower[worst] > 5
    assert found.hidden[worst] == found.hidden.max()
    below = found.frequency < 0.1
    assert ((found.ratio.lower < 1.2) & (found.ratio.upper > 0.8))[below].all()
    with pytest.raises(ValueError, match="spectra of"):
        compare_spectra(spectra[0], estimate_spectrum(clean, segment=64))
