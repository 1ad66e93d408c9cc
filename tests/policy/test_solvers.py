"""Solvers: the right law where the exact denoiser is known, and the steps of diffusers."""

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_policy import Recorder, draw, make_sigma
from torch import Tensor, nn

from ambient_curate.policy.denoiser import Denoiser
from ambient_curate.policy.solvers import Solver, pick_levels, sample_windows

pytestmark = pytest.mark.usefixtures("one_thread")  # small tensors on a busy machine

LEVELS = "squaredcos_cap_v2:100"
MEAN = 0.7
SOLVERS: list[Solver] = ["ddim", "ddpm"]


class ExactDenoiser(Denoiser):
    """The posterior mean of windows whose every number is N(mean, variance)."""

    def __init__(self, mean: float, variance: float, schedule: str = LEVELS) -> None:
        super().__init__(nn.Identity(), "sample", make_sigma(schedule), None)
        self.mean, self.variance = mean, variance

    def estimate_x0(self, x_t: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        sigma = self.sigma[level][:, None, None]
        a = torch.sqrt(1.0 - sigma.square())
        gain = a * self.variance / (a.square() * self.variance + sigma.square())
        return self.mean + gain * (x_t - a * self.mean)


class BentDenoiser(Denoiser):
    """Any nonlinear prediction, that depends on the noised window and its level."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), "sample", make_sigma(LEVELS), None)
        self.asked: list[Tensor] = []

    def estimate_x0(self, x_t: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        self.asked.append(x_t.clone())
        return bend(x_t, int(level[0]))


def bend(x: Tensor, level: int) -> Tensor:
    return torch.tanh(1.5 * x.flip(1)) - 0.3 * x * (level / 100.0) + 0.2


def solve(denoiser: Denoiser, start: Tensor, steps: int, solver: Solver, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    condition = torch.zeros(len(start), 0)
    return sample_windows(
        denoiser, condition, start, steps=steps, solver=solver, generator=generator
    )


def exact_variance(variance: float, solver: Solver, schedule: str = LEVELS) -> float:
    """Variance of the samples, in float64, of steps as Ho et al. (2020), equation 7, writes them.

    Their x_{t-1} is normal about ``c_0 x_0 + c_1 x_t`` with variance ``beta~``; that of DDIM keeps
    the noise instead.
    """
    alpha_bar = (1.0 - make_sigma(schedule).double() ** 2).tolist()[::-1]
    found = 1.0
    for here, below in zip(alpha_bar, [*alpha_bar[1:], None], strict=True):
        gain = here**0.5 * variance / (here * variance + 1.0 - here)
        if below is None:
            return gain**2 * found
        alpha = here / below
        if solver == "ddpm":
            c_0 = below**0.5 * (1.0 - alpha) / (1.0 - here)
            c_1 = alpha**0.5 * (1.0 - below) / (1.0 - here)
            fresh = (1.0 - below) / (1.0 - here) * (1.0 - alpha)
        else:
            c_1 = ((1.0 - below) / (1.0 - here)) ** 0.5
            c_0, fresh = below**0.5 - c_1 * here**0.5, 0.0
        found = (c_0 * gain + c_1) ** 2 * found + fresh
    raise AssertionError


def test_levels_are_those_of_the_examples() -> None:
    assert pick_levels(100, 10).tolist() == list(range(90, -1, -10))
    assert pick_levels(100, 1).tolist() == [0]
    for steps in (7, 8, 1000):
        assert pick_levels(7, steps).tolist() == [6, 5, 4, 3, 2, 1, 0]


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_levels_fall_evenly_to_the_lowest(levels: int, steps: int) -> None:
    picked = pick_levels(levels, steps).tolist()
    visited = min(levels, steps)
    # in whole numbers: 55 of 75 levels in floats would visit 14 in place of 15
    assert picked == [number * levels // visited for number in range(visited)][::-1]
    assert picked[-1] == 0 and picked[0] < levels and len(set(picked)) == visited


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps is {steps}: expected a whole number >= 1"):
        solve(Recorder(torch.zeros(())), draw(1, 2, 2), steps, "ddim")


def test_an_unknown_solver_is_not_taken_for_another() -> None:
    with pytest.raises((ValueError, TypeError)):
        solve(Recorder(torch.zeros(())), draw(1, 2, 2), 3, "euler")  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("variance", [0.25, 1.0, 2.0])
def test_exact_denoiser_gives_its_law(solver: Solver, variance: float) -> None:
    start = draw(20_000, 4, 4, seed=1)
    samples = solve(ExactDenoiser(MEAN, variance), start, 100, solver).double()
    found, discrete = float(samples.var()), exact_variance(variance, solver)
    error = (2.0 / samples.numel()) ** 0.5
    print(
        f"{solver} v={variance}: mean {samples.mean():.4f}, variance / v {found / variance:.4f}, "
        f"of exact steps {discrete / variance:.4f} +- {error:.4f}"
    )
    assert abs(found / discrete - 1.0) < 4.0 * error
    # an error of 100 steps, not of the formulas: see the next test
    assert 0.0 < 1.0 - discrete / variance < (0.04 if solver == "ddim" else 0.075)
    spread = (variance / samples.numel()) ** 0.5
    assert abs(float(samples.mean()) - MEAN) < 1e-3 + 4.0 * spread
    rows = samples.flatten(1)  # the numbers of a window were independent and stay so
    off = torch.corrcoef(rows.T) - torch.eye(16, dtype=torch.float64)
    assert off.abs().max() < 5.0 / 20_000**0.5


@pytest.mark.parametrize("solver", SOLVERS)
def test_error_of_variance_falls_with_the_number_of_levels(solver: Solver) -> None:
    start, schedules = draw(2000, 4, 4, seed=2), ("squaredcos_cap_v2:50", "squaredcos_cap_v2:400")
    errors = []
    for schedule in schedules:
        samples = solve(ExactDenoiser(0.0, 0.25, schedule), start, 400, solver)
        errors.append(1.0 - exact_variance(0.25, solver, schedule) / 0.25)
        assert (
            abs(float(samples.var()) / 0.25 - 1.0 + errors[-1]) < 5 * (2.0 / start.numel()) ** 0.5
        )
    print(f"{solver}: error of the variance, 50 levels {errors[0]:.4f}, 400 {errors[1]:.4f}")
    assert 6.0 < errors[0] / errors[1] < 10.0  # first order: 8


@pytest.mark.parametrize("steps", [10, 100])
@pytest.mark.parametrize(("solver", "eta"), [("ddim", 0.0), ("ddpm", 1.0)])
def test_trajectories_are_those_of_diffusers_ddim(solver: Solver, eta: float, steps: int) -> None:
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=False,
        prediction_type="sample",
        set_alpha_to_one=True,  # the last step goes to noise 0, which is x0, as ours does
    )
    check_trajectory(scheduler, solver, steps, {"eta": eta})


@pytest.mark.parametrize("steps", [10, 100])
def test_trajectories_are_those_of_diffusers_ddpm(steps: int) -> None:
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=False,
        prediction_type="sample",
        variance_type="fixed_small",
    )
    check_trajectory(scheduler, "ddpm", steps, {})


def check_trajectory(
    scheduler: diffusers.SchedulerMixin, solver: Solver, steps: int, extra: dict[str, float]
) -> None:
    """Compare every noised window on the way; both draw the same fresh noise."""
    start, ours = draw(5, 4, 3, seed=3), BentDenoiser()
    last = solve(ours, start, steps, solver, seed=9)
    if steps == 100:  # float32 keeps sigma of level 99 but not 1 - sigma^2 = 2.4e-7: 7e-4 in x_t
        scheduler.alphas_cumprod = 1.0 - ours.sigma.double() ** 2
    generator, x, asked = torch.Generator().manual_seed(9), start, []
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == pick_levels(100, steps).tolist()
    for time in scheduler.timesteps.tolist():
        asked.append(x)
        x = scheduler.step(bend(x, time), time, x, generator=generator, **extra).prev_sample
    worst = max(
        float((a - b).abs().max()) for a, b in zip([*ours.asked, last], [*asked, x], strict=True)
    )
    print(f"{type(scheduler).__name__} {extra}, {steps} steps: largest difference {worst:.1e}")
    assert worst < 1e-4
    assert float((asked[-1] - start).abs().max()) > 0.5  # something was done


def test_without_alpha_one_diffusers_stays_at_the_lowest_level() -> None:
    """Diffusers' other setting ends at x_t of the lowest level; ours always ends at x0."""
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=False,
        prediction_type="sample",
        set_alpha_to_one=False,
    )
    scheduler.set_timesteps(10)
    x = draw(2, 4, 3)
    torch.testing.assert_close(scheduler.step(bend(x, 0), 0, x).prev_sample, x)
    ours = BentDenoiser()
    last = solve(ours, x, 10, "ddim")
    assert torch.equal(last, bend(ours.asked[-1], 0))


def test_ddim_ignores_the_generator_and_ddpm_does_not() -> None:
    start = draw(3, 4, 2)
    for solver in SOLVERS:
        first, again, other = (solve(BentDenoiser(), start, 10, solver, seed) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert torch.equal(first, other) == (solver == "ddim")
    generator = torch.Generator().manual_seed(5)
    sample_windows(BentDenoiser(), torch.zeros(3, 0), start, steps=10, generator=generator)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state())


def test_denoiser_sees_its_conditions_and_falling_levels() -> None:
    denoiser, condition = Recorder(draw(3, 4, 2), make_sigma(LEVELS)), draw(3, 5)
    start = draw(3, 4, 2, seed=1)
    last = sample_windows(denoiser, condition, start, steps=4, generator=torch.Generator())
    assert torch.equal(last, denoiser.answer)
    assert torch.equal(denoiser.asked[0][0], start)
    assert [level.tolist() for _, level, _ in denoiser.asked] == [[n] * 3 for n in (75, 50, 25, 0)]
    assert all(torch.equal(seen, condition) for _, _, seen in denoiser.asked)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2:1000", "flow:10", "edm:18", "linear:1000"])
def test_samples_are_finite_from_pure_noise_on(solver: Solver, schedule: str) -> None:
    sigma = make_sigma(schedule)
    for steps in (*range(1, 13), sigma.numel()):
        denoiser = ExactDenoiser(0.0, 0.5, schedule)
        samples = solve(denoiser, draw(200, 2, 2), min(steps, 250), solver)
        assert torch.isfinite(samples).all()
        assert np.abs(samples.numpy()).max() < 5.0
