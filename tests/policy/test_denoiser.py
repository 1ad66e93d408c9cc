"""The denoiser: what its output stands for, against formulas written out row by row."""

from typing import Any

import pytest
import torch
from small_policy import (
    ACTION,
    HORIZON,
    draw,
    make_denoiser,
    make_modes,
    make_shape,
    make_sigma,
)
from torch import Tensor, nn

from ambient_curate.errors import ConfigError
from ambient_curate.policy.denoiser import Denoiser, Shape, build_denoiser
from ambient_curate.policy.losses import Noised, find_added, noise_further, noise_windows
from ambient_curate.policy.networks import embed_condition
from ambient_curate.policy.options import Prediction
from ambient_curate.policy.preconditioning import PerMode

pytestmark = pytest.mark.usefixtures("one_thread")  # small tensors on a busy machine

PREDICTIONS: list[Prediction] = ["wiener", "sample", "epsilon", "v", "flow"]
SIDE = 4  # rows = horizon = actions: a wrong broadcast has nowhere to hide
LEVEL = torch.tensor([0, 3, 9, 5])
NONE = torch.zeros(SIDE, 0)


class Says(nn.Module):
    """A backbone that gives what it is told to, and remembers what it was given."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        self.x, self.time, self.condition = x, time, condition
        return self.output


def square_modes() -> PerMode:
    return make_modes(make_shape(horizon=SIDE, action_dim=SIDE))


def noised_windows() -> Noised:
    sigma = make_sigma()[LEVEL]
    return noise_windows(draw(SIDE, SIDE, SIDE, seed=1), sigma, draw(SIDE, SIDE, SIDE, seed=2))


def right_output(prediction: Prediction, noised: Noised) -> Tensor:
    """What a network must say, in float64, row by row."""
    rows, modes = [], square_modes()
    for row, level in enumerate(LEVEL.tolist()):
        x0, x_t, z = (each[row].double() for each in (noised.x0, noised.x_t, noised.noise))
        s = make_sigma().double()[level]
        a, tau = (1.0 - s**2).sqrt(), s / (s + (1.0 - s**2).sqrt())
        if prediction == "wiener":
            band = int(modes.band[level])
            mean, u, variance = (
                m[band].double() for m in (modes.mean, modes.basis, modes.variance)
            )
            covariance = u @ torch.diag(variance) @ u.T
            seen = a**2 * covariance + s**2 * torch.eye(SIDE**2)
            gain = a * covariance @ torch.linalg.inv(seen)
            left = x0.flatten() - mean - gain @ (x_t.flatten() - a * mean)
            unit = u @ torch.diag(s * (variance / (a**2 * variance + s**2)).sqrt()) @ u.T
            rows.append(torch.linalg.solve(unit, left).reshape(SIDE, SIDE))
        else:
            told = {"sample": x0, "epsilon": z, "v": a * z - s * x0}
            # the velocity d x_tau / d tau of x_tau = (1 - tau) x0 + tau z, by differences
            flow = (((0.5 - tau) * x0 + (0.5 + tau) * z) - ((1 - tau) * x0 + tau * z)) / 0.5
            rows.append(told.get(prediction, flow))
    return torch.stack(rows).float()


def denoiser_of(prediction: Prediction, backbone: nn.Module) -> Denoiser:
    modes = square_modes() if prediction == "wiener" else None
    return Denoiser(backbone, prediction, make_sigma(), modes)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_right_output_has_no_error_and_gives_the_window(prediction: Prediction) -> None:
    noised = noised_windows()
    output = right_output(prediction, noised)
    denoiser = denoiser_of(prediction, Says(output))
    assert float(output.std()) > 0.5
    assert denoiser.errors(output, noised, LEVEL, NONE).max() < 1e-7
    # epsilon divides float32's errors by a, .005 at the highest level
    rtol, atol = (0.0, 3e-4) if prediction == "epsilon" else (1e-4, 1e-5)
    found = denoiser.estimate_x0(noised.x_t, LEVEL, NONE)
    torch.testing.assert_close(found, noised.x0, rtol=rtol, atol=atol)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_errors_are_mean_squares_of_their_own_row(prediction: Prediction) -> None:
    noised, off = noised_windows(), torch.tensor([0.0, 1.0, -2.0, 0.5])
    output = right_output(prediction, noised) + off[:, None, None]
    found = denoiser_of(prediction, nn.Identity()).errors(output, noised, LEVEL, NONE)
    torch.testing.assert_close(found, off.square(), rtol=1e-4, atol=1e-6)


def test_estimate_comes_in_float32_from_half_as_precise_outputs() -> None:
    noised = noised_windows()
    denoiser = denoiser_of("sample", Says(noised.x0.bfloat16()))
    found = denoiser.estimate_x0(noised.x_t, LEVEL, NONE)
    assert found.dtype == torch.float32
    assert torch.equal(found, noised.x0.bfloat16().float())


@pytest.mark.parametrize("levels", [10, 1000])
def test_network_is_told_the_level_as_a_time_below_100(levels: int) -> None:
    backbone, condition = Says(draw(SIDE, SIDE, SIDE)), draw(SIDE, 3)
    sigma = make_sigma(f"squaredcos_cap_v2:{levels}")
    level = torch.tensor([0, 1, levels // 2, levels - 1])
    x_t = draw(SIDE, SIDE, SIDE, seed=5)
    Denoiser(backbone, "v", sigma, None)(x_t, level, condition)
    expected = torch.tensor([n * 100.0 / levels for n in level.tolist()])
    torch.testing.assert_close(backbone.time, expected)
    assert backbone.time.max() < 100.0
    assert torch.equal(backbone.x, x_t)
    assert torch.equal(backbone.condition, condition)


def test_wiener_network_sees_whitened_windows() -> None:
    backbone, noised = Says(draw(SIDE, SIDE, SIDE)), noised_windows()
    denoiser_of("wiener", backbone)(noised.x_t, LEVEL, NONE)
    modes, sigma = square_modes(), make_sigma()
    for row, level in enumerate(LEVEL.tolist()):
        band, s = int(modes.band[level]), sigma[level]
        u, spread = modes.basis[band], (1 - s**2) * modes.variance[band] + s**2
        flat = noised.x_t[row].flatten() - (1 - s**2).sqrt() * modes.mean[band]
        expected = u @ torch.diag(spread.rsqrt()) @ u.T @ flat
        torch.testing.assert_close(backbone.x[row].flatten(), expected, rtol=1e-4, atol=1e-5)


def test_the_filter_is_told_the_observed_motion() -> None:
    """In what the network sees, is compared with, and gives."""
    shape = make_shape(horizon=SIDE, action_dim=SIDE, motion_dim=2 * SIDE)
    modes, noised, condition = make_modes(shape), noised_windows(), draw(SIDE, 3 * SIDE + 1)
    states = condition[:, : 3 * SIDE].reshape(SIDE, 3, SIDE)
    motion = torch.cat([states[:, 0] - states[:, 2], states[:, 1] - states[:, 2]], dim=1)
    motion = motion * torch.linspace(1.0, 4.0, 2 * SIDE)
    backbone = Says(draw(SIDE, SIDE, SIDE))
    denoiser = Denoiser(backbone, "wiener", make_sigma(), modes)
    sigma, x_t = make_sigma()[LEVEL], noised.x_t
    denoiser(x_t, LEVEL, condition)
    assert torch.equal(backbone.condition, torch.cat([condition, motion], dim=1))
    assert torch.equal(backbone.x, modes.whiten(x_t, sigma, LEVEL, motion))
    assert not torch.equal(backbone.x, modes.whiten(x_t, sigma, LEVEL))
    target = modes.find_target(noised.x0, x_t, sigma, LEVEL, motion)
    assert float(denoiser.errors(target, noised, LEVEL, condition).max()) == 0.0
    found = denoiser.estimate_x0(x_t, LEVEL, condition)
    assert torch.equal(found, modes.estimate_x0(backbone.output, x_t, sigma, LEVEL, motion))


def test_the_network_is_told_the_condition_at_its_octaves() -> None:
    backbone, condition = Says(draw(SIDE, SIDE, SIDE)), draw(SIDE, 3)
    denoiser = Denoiser(backbone, "v", make_sigma(), None, 3)
    denoiser(draw(SIDE, SIDE, SIDE, seed=5), LEVEL, condition)
    assert torch.equal(backbone.condition, embed_condition(condition, 3))
    shape = make_shape(octaves=3)
    built = make_denoiser(shape)
    x_t, level = draw(2, shape.horizon, shape.action_dim), torch.tensor([1, 2])
    told = draw(2, shape.condition_dim)
    assert built.estimate_x0(x_t, level, told).shape == x_t.shape


def test_modes_and_the_wiener_prediction_belong_together() -> None:
    with pytest.raises(ValueError, match="the wiener prediction, and no other, has modes"):
        Denoiser(nn.Identity(), "wiener", make_sigma(), None)
    for prediction in PREDICTIONS[1:]:
        with pytest.raises(ValueError, match="the wiener prediction, and no other, has modes"):
            Denoiser(nn.Identity(), prediction, make_sigma(), square_modes())


def test_an_unknown_prediction_is_refused_at_once() -> None:
    with pytest.raises((ValueError, TypeError)):
        Denoiser(nn.Identity(), "score", make_sigma(), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("network", ["mlp", "unet-small"])
def test_every_weight_learns(network: Any, prediction: Prediction) -> None:
    shape = make_shape(network=network, prediction=prediction)
    denoiser = make_denoiser(shape)
    level = torch.arange(10)
    noised = noise_windows(
        draw(10, HORIZON, ACTION), denoiser.sigma[level], draw(10, HORIZON, ACTION)
    )
    condition = draw(10, shape.condition_dim)
    output = denoiser(noised.x_t, level, condition)
    torch.autograd.backward(denoiser.errors(output, noised, level, condition).mean())
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0.0, name
    assert not {"sigma", "modes.mean"} & {name for name, _ in denoiser.named_parameters()}


def test_weights_come_from_the_generator_alone() -> None:
    def build(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shape = make_shape(prediction="v")
        return build_denoiser(shape, make_sigma(), None, generator=generator).state_dict()

    before = torch.get_rng_state()
    first, again, other = build(1), build(1), build(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["backbone.inlet.weight"], other["backbone.inlet.weight"])


def build(shape: Shape, schedule: str) -> Denoiser:
    return build_denoiser(shape, make_sigma(schedule), None, generator=torch.Generator())


@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2:1000", "flow:10"])
def test_epsilon_is_refused_where_float32_has_no_signal_left(schedule: str) -> None:
    assert make_sigma(schedule)[-1] == 1.0
    with pytest.raises(ConfigError, match="tells no window") as error:
        build(make_shape(prediction="epsilon"), schedule)
    assert "another prediction" in str(error.value.hint)
    x_t, level = draw(1, HORIZON, ACTION), torch.tensor([make_sigma(schedule).numel() - 1])
    found = build(make_shape(prediction="v"), schedule).estimate_x0(x_t, level, draw(1, 4))
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("network", ["unet", "unet-small"])
def test_windows_that_a_unet_cannot_halve_are_refused_before_training(network: Any) -> None:
    shape = make_shape(network=network, prediction="v", horizon=10)
    with pytest.raises(ConfigError, match=f"10 frames do not suit {network}: .* multiple of 4"):
        build(shape, "linear:10")
    build(make_shape(prediction="v", horizon=10), "linear:10")


@pytest.mark.parametrize(
    ("network", "millions"), [("mlp", 0.9), ("unet-small", 5.3), ("unet", 65.0)]
)
def test_networks_have_their_sizes(network: Any, millions: float) -> None:
    shape = make_shape(network=network, prediction="v", horizon=16)
    found = sum(p.numel() for p in build(shape, "linear:10").parameters()) / 1e6
    print(f"{network}: {found:.2f} M parameters")
    assert found == pytest.approx(millions, rel=0.1)


def test_tempered_targets_of_the_ambient_loss_have_unit_variance_along_every_axis() -> None:
    """Also where the window has next to none, and the stand-in's noise would drown the rest."""
    count, low, level = 40_000, 0.1, 5
    sigma = make_sigma()[level]
    dim = SIDE * SIDE
    basis, _ = torch.linalg.qr(draw(dim, dim, seed=3))
    variance = 10.0 ** torch.linspace(-6.0, 0.0, dim)
    band = torch.zeros(10, dtype=torch.int64)
    modes = PerMode(band, torch.zeros(1, dim), basis[None], variance[None])
    x0 = (draw(count, dim, seed=4) * variance.sqrt() @ basis.T).reshape(count, SIDE, SIDE)
    first, second = (draw(count, SIDE, SIDE, seed=seed) for seed in (5, 6))
    rows = sigma.expand(count)
    noised = noise_further(x0, torch.full((count,), low), rows, first, second, buffer=4.0)
    added = find_added(torch.tensor([low, 0.0]), make_sigma(), buffer=4.0)
    level_rows = torch.full((count,), level)
    target = modes.find_target(noised.x0, noised.x_t, rows, level_rows)
    found = modes.temper(target, rows, level_rows, added[level_rows]).flatten(1) @ basis
    plain = target.flatten(1) @ basis
    assert plain.square().mean(dim=0).max() > 100.0
    torch.testing.assert_close(found.square().mean(dim=0), torch.ones(dim), rtol=0.05, atol=0.0)
    denoiser = Denoiser(Says(target), "wiener", make_sigma(), modes)
    errors = denoiser.errors(
        0 * target, noised, level_rows, torch.zeros(count, 0), added[level_rows]
    )
    torch.testing.assert_close(errors, found.square().mean(dim=1), rtol=1e-3, atol=1e-5)
