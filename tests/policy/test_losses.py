"""Both losses: one minimiser, the closed-form posterior mean of linear-Gaussian windows."""

import itertools
import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ambient_curate.noise import flow_from_sigma
from ambient_curate.policy.losses import (
    Noised,
    Prediction,
    estimate_x0,
    find_added,
    find_target,
    is_beyond_buffer,
    noise_further,
    noise_windows,
)
from ambient_curate.policy.options import Loss

HORIZON, ACTION = 3, 2
DIM = HORIZON * ACTION
PAIRS = [(0.03, 0.08), (0.1, 0.2), (0.3, 0.6), (0.3, 0.95), (0.7, 0.9)]  # sigma_min, sigma
PREDICTIONS = get_args(Prediction)
LOSSES = get_args(Loss)
FAR = 1e6  # a buffer that hardly any row lies in


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def covariance(seed: int = 7) -> Tensor:
    """Eigenvalues from 2 down to 2e-4: some modes lie below every noise, some above."""
    basis, _ = torch.linalg.qr(draw(DIM, DIM, seed=seed))
    variance = 2.0 * 10.0 ** torch.linspace(0, -4, DIM, dtype=torch.float64)
    return basis @ torch.diag(variance) @ basis.mT


def exact_draws(count: int, sources: int, seed: int = 1) -> Tensor:
    """Independent windows (source, count, dim) whose second moments are exactly the identity.

    What is linear or quadratic in them then has no Monte Carlo error.
    """
    whole, _ = torch.linalg.qr(draw(count, sources * DIM, seed=seed))
    return (math.sqrt(count) * whole).reshape(count, sources, DIM).transpose(0, 1)


def scale(sigma: float) -> float:
    return math.sqrt(1.0 - sigma**2)


def constant(value: float, like: Tensor) -> Tensor:
    return torch.full((len(like),), value, dtype=like.dtype)


def windows(flat: Tensor) -> Tensor:
    return flat.reshape(-1, HORIZON, ACTION)


def make_noised(loss: str, sources: Tensor, pair: tuple[float, float], spread: Tensor) -> Noised:
    low, high = pair
    factor = torch.linalg.cholesky(spread).to(sources.dtype)
    x0, first, second = windows(sources[0] @ factor.mT), windows(sources[1]), windows(sources[2])
    sigma = constant(high, x0)
    if loss == "denoise":
        return noise_windows(x0, sigma, second)
    return noise_further(x0, constant(low, x0), sigma, first, second, buffer=FAR)


def regress(target: Tensor, x_t: Tensor) -> Tensor:
    """Best linear map (dim, dim) from noised windows to targets."""
    x, y = x_t.flatten(1).double(), target.flatten(1).double()
    return torch.linalg.solve(x.mT @ x, x.mT @ y).mT


def as_estimate(prediction: Prediction, linear: Tensor, sigma: float) -> Tensor:
    """Map (dim, dim) from x_t to the window that a linear network predicts."""
    unit = torch.eye(DIM, dtype=torch.float64)
    output = windows(unit @ linear.mT)
    return estimate_x0(prediction, output, windows(unit), constant(sigma, unit)).flatten(1).mT


def posterior_mean(spread: Tensor, sigma: float) -> Tensor:
    a = scale(sigma)
    noisy = a**2 * spread + sigma**2 * torch.eye(DIM, dtype=torch.float64)
    return a * spread @ torch.linalg.inv(noisy)


def relative(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_minimiser_is_the_posterior_mean(
    prediction: Prediction, loss: str, pair: tuple[float, float]
) -> None:
    spread = covariance()
    noised = make_noised(loss, exact_draws(64, 3), pair, spread)
    sigma = constant(pair[1], noised.x0)
    linear = regress(find_target(prediction, noised, sigma), noised.x_t)
    error = relative(as_estimate(prediction, linear, pair[1]), posterior_mean(spread, pair[1]))
    assert error < 1e-9


@pytest.mark.validity
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_minimiser_is_found_from_independent_draws_in_float32(
    loss: str, pair: tuple[float, float]
) -> None:
    spread = covariance()
    second = torch.zeros(DIM, DIM, dtype=torch.float64)
    crossed = {prediction: second.clone() for prediction in PREDICTIONS}
    for seed in range(4):
        sources = draw(3, 600_000, DIM, seed=seed, dtype=torch.float32)
        noised = make_noised(loss, sources, pair, spread)
        x_t = noised.x_t.flatten(1).double()
        second += x_t.mT @ x_t
        for prediction in PREDICTIONS:
            target = find_target(prediction, noised, constant(pair[1], noised.x0))
            crossed[prediction] += x_t.mT @ target.flatten(1).double()
    truth = posterior_mean(spread, pair[1])
    linear = {p: torch.linalg.solve(second, crossed[p]).mT for p in PREDICTIONS}
    errors = {p: relative(as_estimate(p, linear[p], pair[1]), truth) for p in PREDICTIONS}
    print(f"{loss} {pair}:", {p: round(error, 4) for p, error in errors.items()})
    assert max(errors.values()) < 1e-2


def first_stage(sources: Tensor, low: float, spread: Tensor) -> Tensor:
    x0 = sources[0] @ torch.linalg.cholesky(spread).mT
    return scale(low) * x0 + low * sources[1]


@pytest.mark.parametrize("pair", PAIRS)
def test_the_stand_ins_are_the_published_formulas_corrected(pair: tuple[float, float]) -> None:
    spread, sources = covariance(), exact_draws(64, 3)
    low, high = pair
    gap = high**2 - low**2
    noised = make_noised("ambient", sources, pair, spread)
    x_t, x_n = noised.x_t.flatten(1), first_stage(sources, low, spread)
    share = high * (1 - low**2) / gap
    epsilon = share * x_t - high * scale(high) * scale(low) / gap * x_n
    torch.testing.assert_close(noised.noise.flatten(1), epsilon, rtol=1e-10, atol=1e-10)
    sample = (high**2 * scale(low) * x_n - low**2 * scale(high) * x_t) / gap
    torch.testing.assert_close(noised.x0.flatten(1), sample, rtol=1e-10, atol=1e-10)
    v = (scale(high) * x_t - sample) / high
    found = find_target("v", noised, constant(high, x_t)).flatten(1)
    torch.testing.assert_close(found, v, rtol=1e-10, atol=1e-9)
    tau = float(flow_from_sigma(high))
    x_tau = math.hypot(1 - tau, tau) * x_t
    found = find_target("flow", noised, constant(high, x_t)).flatten(1)
    torch.testing.assert_close(found, (x_tau - sample) / tau, rtol=1e-10, atol=1e-9)

    truth = posterior_mean(spread, high)
    assert relative(as_estimate("epsilon", regress(epsilon, x_t), high), truth) < 1e-9
    slide = epsilon + share * (high / scale(high) - 1.0) * x_t
    wrong = relative(as_estimate("epsilon", regress(slide, x_t), high), truth)
    print(f"{pair}: the slide's coefficient errs by {wrong:.2f}")
    assert wrong > 0.1


def test_the_slides_coefficient_is_wrong_even_without_a_first_stage() -> None:
    x0, z = windows(draw(8, DIM)), windows(draw(8, DIM, seed=1))
    high = 0.6
    x_t = noise_windows(x0, constant(high, x0), z).x_t
    slide = x_t / scale(high) - scale(high) / high * x0
    assert relative(slide, z) > 0.1
    torch.testing.assert_close(x_t / high - scale(high) / high * x0, z)


@pytest.mark.parametrize("pair", PAIRS)
def test_two_stages_have_the_law_of_one(pair: tuple[float, float]) -> None:
    spread, sources = covariance(), exact_draws(64, 3)
    noised = make_noised("ambient", sources, pair, spread)
    x0 = sources[0] @ torch.linalg.cholesky(spread).mT
    noise = (noised.x_t.flatten(1) - scale(pair[1]) * x0) / pair[1]
    unit = torch.eye(DIM, dtype=torch.float64)
    torch.testing.assert_close(noise.mT @ noise / 64, unit)
    torch.testing.assert_close(noise.mT @ sources[0] / 64, 0 * unit)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_stand_in_adds_the_variance_that_is_stated(pair: tuple[float, float]) -> None:
    spread, sources = covariance(), exact_draws(64, 3)
    noised = make_noised("ambient", sources, pair, spread)
    added = noised.x0.flatten(1) - sources[0] @ torch.linalg.cholesky(spread).mT
    variance = (pair[0] * pair[1]) ** 2 / (pair[1] ** 2 - pair[0] ** 2)
    unit = torch.eye(DIM, dtype=torch.float64)
    torch.testing.assert_close(added.mT @ added / 64, variance * unit)
    torch.testing.assert_close(added.mT @ noised.x_t.flatten(1) / 64, 0 * unit)


def test_units_of_x0_matter_where_sigma_min_differs_by_datum() -> None:
    """Half of the windows are of another law and have another sigma_min."""
    high, groups = 0.6, [(0.1, covariance(7)), (0.5, covariance(8))]
    sources = exact_draws(64, 3)
    noised = [make_noised("ambient", sources, (low, high), spread) for low, spread in groups]
    plain = [make_noised("denoise", sources, (low, high), spread) for low, spread in groups]
    x_t, x0 = (torch.cat([getattr(each, name) for each in noised]) for name in ("x_t", "x0"))
    truth = regress(torch.cat([each.x0 for each in plain]), torch.cat([each.x_t for each in plain]))
    assert relative(regress(x0, x_t), truth) < 1e-9

    factors = [(high**2 - low**2) / (high**2 * scale(low)) for low, _ in groups]
    factor = torch.tensor(factors, dtype=torch.float64).repeat_interleave(64)[:, None, None]
    residual_of_x_n = regress(factor * x0, factor * x_t)
    assert relative(residual_of_x_n, truth) > 0.05


def test_a_sigma_min_of_zero_is_the_denoising_loss_to_the_bit() -> None:
    x0, first, z = (draw(64, 5, 3, seed=s, dtype=torch.float32) for s in range(3))
    sigma = torch.linspace(0.002, 1.0, 64)
    expected = noise_windows(x0, sigma, z)
    found = noise_further(x0, torch.zeros(64), sigma, first, z, buffer=4.0)
    for name in ("x_t", "x0", "noise"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert torch.equal(expected.x0, x0) and torch.equal(expected.noise, z)
    close = noise_further(x0, torch.full((64,), 1e-6), sigma, first, z, buffer=4.0)
    torch.testing.assert_close(close.x0, expected.x0, rtol=0, atol=1e-5)
    assert not torch.equal(close.x0, expected.x0)


LEVEL = st.floats(0.0, 1.0)


@given(LEVEL, st.floats(0.001, 1.0), st.sampled_from([1.5, 4.0, 25.0]))
def test_the_buffer_limits_the_ve_weight(low: float, high: float, buffer: float) -> None:
    if high <= low:
        expected = False
    elif high == 1.0:
        expected = True  # infinite VE noise: weight 1
    else:
        s, s_min = high / scale(high), low / scale(low)
        weight = math.inf if s <= s_min else s**4 / (s**2 - s_min**2) ** 2
        if math.isclose(weight, buffer, rel_tol=1e-6):
            return
        expected = weight <= buffer
    sigma_min, sigma = (torch.tensor([x], dtype=torch.float64) for x in (low, high))
    assert is_beyond_buffer(sigma_min, sigma, buffer).tolist() == [expected]


def test_a_buffer_of_four_begins_at_the_square_root_of_two() -> None:
    edge = math.sqrt(2.0) * 0.3 / scale(0.3)
    ve = torch.tensor([0.999 * edge, 1.001 * edge], dtype=torch.float64)
    sigma, sigma_min = ve / torch.sqrt(1 + ve**2), torch.full((2,), 0.3, dtype=torch.float64)
    assert is_beyond_buffer(sigma_min, sigma, 4.0).tolist() == [False, True]
    x0, first, z = (windows(draw(2, DIM, seed=s)) for s in range(3))
    noised = noise_further(x0, sigma_min, sigma, first, z, buffer=4.0)
    assert torch.equal(noised.x0[0], x0[0]) and torch.equal(noised.noise[0], z[0])
    # a weight of 4 is a noise of 4^(1/4) z
    torch.testing.assert_close(noised.noise[1], math.sqrt(2.0) * z[1], rtol=2e-3, atol=0)
    for bad in (1.0, 0.0, math.nan):
        with pytest.raises(ValueError, match="never below 1"):
            noise_further(x0, sigma_min, sigma, first, z, buffer=bad)


@given(st.floats(0.002, 0.999), st.floats(0.0, 1.0), st.sampled_from(PREDICTIONS))
def test_estimates_invert_targets(sigma: float, sigma_min: float, prediction: Prediction) -> None:
    x0, first, z = (windows(draw(4, DIM, seed=s)) for s in range(3))
    level = constant(sigma, x0)
    for noised in (
        noise_windows(x0, level, z),
        noise_further(x0, constant(sigma_min, x0), level, first, z, buffer=4.0),
    ):
        target = find_target(prediction, noised, level)
        found = estimate_x0(prediction, target, noised.x_t, level)
        torch.testing.assert_close(found, noised.x0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", ["sample", "v", "flow"])
@pytest.mark.parametrize("sigma", [1.0, 0.9999, 0.002])
def test_the_ends_of_the_schedule_are_finite_in_float32(
    prediction: Prediction, sigma: float
) -> None:
    x0, first, z = (draw(64, 5, 3, seed=s, dtype=torch.float32) for s in range(3))
    level = constant(sigma, x0)
    noised = noise_further(x0, constant(sigma / 2, x0), level, first, z, buffer=4.0)
    target = find_target(prediction, noised, level)
    found = estimate_x0(prediction, target, noised.x_t, level)
    torch.testing.assert_close(found, noised.x0, rtol=1e-5, atol=1e-5)


def naive(row: tuple[Tensor, ...], low: float, high: float) -> dict[str, Tensor]:
    """Targets of one row by the formulas, in scalars; buffer 4."""
    x0, first, z = row
    a, a_n = scale(high), scale(low)
    ambient = 0 < low < high and (high == 1 or high / a >= math.sqrt(2.0) * low / a_n)
    if ambient:
        gap = high**2 - low**2
        x_n = a_n * x0 + low * first
        x_t = a / a_n * x_n + math.sqrt(gap) / a_n * z
        x0 = (high**2 * a_n * x_n - low**2 * a * x_t) / gap
        z = (x_t - a * x0) / high
    x_t = a * x0 + high * z
    return {"x_t": x_t, "sample": x0, "epsilon": z, "v": a * z - high * x0, "flow": z - x0}


@pytest.mark.parametrize("size", [3, 9])
def test_mixed_rows_of_equal_sizes_are_those_of_a_loop(size: int) -> None:
    """Batch, horizon and action of one size hide no wrong broadcast."""
    low = [0.0, 0.3, 0.3, 0.3, 1.0, 0.9, 0.05, 0.5, 0.02][-size:]
    high = [0.4, 0.31, 0.2, 0.9, 0.7, 1.0, 0.05, 0.8, 0.1][-size:]
    x0, first, z = (draw(size, size, size, seed=s) for s in range(3))
    sigma_min, sigma = (torch.tensor(x, dtype=torch.float64) for x in (low, high))
    further = noise_further(x0, sigma_min, sigma, first, z, buffer=4.0)
    once = noise_windows(x0, sigma, z)
    for noised, lows in ((further, low), (once, [0.0] * size)):
        for row, pair in enumerate(zip(lows, high, strict=True)):
            expected = naive((x0[row], first[row], z[row]), *pair)
            torch.testing.assert_close(noised.x_t[row], expected["x_t"])
            for prediction in PREDICTIONS:
                target = find_target(prediction, noised, sigma)
                assert target.shape == x0.shape
                torch.testing.assert_close(target[row], expected[prediction])
                if high[row] < 1.0:
                    estimate = estimate_x0(prediction, target, noised.x_t, sigma)
                    torch.testing.assert_close(estimate[row], expected["sample"])


def test_the_losses_differ_and_their_predictions_too() -> None:
    """The oracles above would not tell a loss that is the other under its name."""
    noised = [make_noised(loss, exact_draws(64, 3), PAIRS[2], covariance()) for loss in LOSSES]
    sigma = constant(PAIRS[2][1], noised[0].x0)
    targets = [find_target(p, n, sigma) for p in PREDICTIONS for n in noised]
    for one, other in itertools.combinations(targets, 2):
        assert relative(one, other) > 0.05


def test_an_unknown_prediction_is_refused() -> None:
    x = windows(draw(2, DIM))
    with pytest.raises((ValueError, TypeError)):
        find_target("score", noise_windows(x, constant(0.5, x), x), constant(0.5, x))  # type: ignore[arg-type]
    with pytest.raises((ValueError, TypeError)):
        estimate_x0("score", x, x, constant(0.5, x))  # type: ignore[arg-type]


def test_the_most_that_stand_ins_add_is_found_at_every_level() -> None:
    """sigma_n^2 sigma_t^2 / D of the largest sigma_min that the buffer lets through."""
    lowest = torch.tensor([0.0, 0.05, 0.3, 1.0, 0.3, 0.7])
    levels = torch.tensor([0.02, 0.06, 0.2, 0.5, 0.9, 1.0])
    found = find_added(lowest, levels, buffer=4.0)
    for level, value in zip(levels.double().tolist(), found.tolist(), strict=True):
        added = [0.0]
        for low in lowest.double().tolist():
            if low < level and low < 1.0:
                ratio = (low**2 / (1 - low**2)) * (1 - level**2) / level**2
                if (1 - ratio) ** 2 * 4.0 >= 1.0:
                    added.append(low**2 * level**2 / (level**2 - low**2))
        assert value == pytest.approx(max(added), rel=1e-5)
    assert found[0] == 0.0 and found[-1] > 0.5
