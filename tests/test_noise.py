"""Noise units against closed forms and against diffusers, which trainers run."""

import diffusers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient_curate import noise
from ambient_curate.errors import ConfigError

SCHEDULES = [
    "squaredcos_cap_v2:100",
    "squaredcos_cap_v2:1000",
    "linear:1000",
    "scaled_linear:100",
    "flow:10",
    "flow-reversed:4",
    "edm:18",
]
SIGMA = st.floats(1e-4, 1.0 - 1e-6)


@pytest.mark.parametrize(
    ("ve", "vp"), [(0.0, 0.0), (0.75, 0.6), (1.0, 0.5**0.5), (4.0 / 3.0, 0.8), (1e9, 1.0)]
)
def test_ve_noise_and_vp_sigma_share_a_signal_to_noise_ratio(ve: float, vp: float) -> None:
    assert noise.sigma_from_ve(ve) == pytest.approx(vp, abs=1e-15)


@pytest.mark.parametrize(("time", "vp"), [(0.0, 0.0), (0.5, 0.5**0.5), (0.6, 0.6 / 0.52**0.5)])
def test_flow_time_and_vp_sigma_share_a_signal_to_noise_ratio(time: float, vp: float) -> None:
    assert noise.sigma_from_flow(time) == pytest.approx(vp, abs=1e-15)


@given(SIGMA)
def test_every_unit_leads_back_to_the_level_it_came_from(sigma: float) -> None:
    back = [
        noise.sigma_from_ve(noise.ve_from_sigma(sigma)),
        noise.sigma_from_flow(noise.flow_from_sigma(sigma)),
        noise.sigma_from_log_snr(noise.log_snr(sigma)),
    ]
    np.testing.assert_allclose(back, sigma, rtol=1e-9, atol=1e-11)


@given(SIGMA)
def test_the_units_agree_with_one_another(sigma: float) -> None:
    ve, time = noise.ve_from_sigma(sigma), noise.flow_from_sigma(sigma)
    np.testing.assert_allclose(time / (1.0 - time), ve, rtol=1e-9)
    np.testing.assert_allclose(noise.log_snr(sigma), -2.0 * np.log(ve), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(noise.signal_scale(sigma) ** 2 + sigma**2, 1.0, rtol=1e-14)


def test_the_ends_of_the_scale_are_exact() -> None:
    assert noise.signal_scale(0.0) == 1.0
    assert noise.signal_scale(1.0) == 0.0
    assert noise.ve_from_sigma(1.0) == np.inf
    assert noise.flow_from_sigma([0.0, 1.0]).tolist() == [0.0, 1.0]
    assert noise.sigma_from_flow([0.0, 1.0]).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("steps", [10, 100, 1000])
@pytest.mark.parametrize("name", ["squaredcos_cap_v2", "linear", "scaled_linear"])
def test_ddpm_levels_are_those_of_diffusers(name: str, steps: int) -> None:
    for scheduler in (diffusers.DDPMScheduler, diffusers.DDIMScheduler):
        made = scheduler(num_train_timesteps=steps, beta_schedule=name)
        alpha_bar = made.alphas_cumprod.double().numpy()
        levels = noise.schedule_levels(f"{name}:{steps}")
        np.testing.assert_allclose(1.0 - levels**2, alpha_bar, rtol=1e-3, atol=1e-6)
        # diffusers keeps float32: its 1 - alpha_bar is known to 6e-8 a step
        np.testing.assert_allclose(levels**2, 1.0 - alpha_bar, atol=6e-8 * steps)


@pytest.mark.parametrize(
    ("index", "sigma"),
    [(0, 0.0251), (1, 0.0418), (3, 0.0737), (29, 0.4616), (75, 0.9309), (90, 0.9902)],
)
def test_squared_cosine_levels_keep_their_published_values(index: int, sigma: float) -> None:
    assert noise.schedule_levels("squaredcos_cap_v2:100")[index] == pytest.approx(sigma, abs=5e-5)


@pytest.mark.parametrize("steps", [2, 18, 50])
def test_edm_levels_are_those_of_diffusers(steps: int) -> None:
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(steps)
    karras = scheduler.sigmas[:-1].double().numpy()[::-1]  # the last one is the data
    levels = noise.schedule_levels(f"edm:{steps}")
    np.testing.assert_allclose(noise.ve_from_sigma(levels), karras, rtol=1e-5)


@pytest.mark.parametrize("steps", [4, 10])
def test_flow_levels_are_those_of_diffusers(steps: int) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps).tolist())
    times = scheduler.sigmas[:-1].double().numpy()
    falling = noise.sigma_from_flow(times)
    np.testing.assert_allclose(noise.schedule_levels(f"flow-reversed:{steps}"), falling, rtol=1e-6)
    np.testing.assert_allclose(noise.schedule_levels(f"flow:{steps}"), falling[::-1], rtol=1e-6)


@pytest.mark.parametrize(
    "schedule", ["", "cosine:100", "flow", "flow:1", "flow:-4", "flow:2.5", "flow:100001", "edm:x"]
)
def test_an_unknown_schedule_is_an_error_that_lists_the_known_ones(schedule: str) -> None:
    with pytest.raises(ConfigError, match="is not known") as caught:
        noise.schedule_levels(schedule)
    assert caught.value.hint is not None
    assert all(name in caught.value.hint for name in noise.SCHEDULES)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_grid_holds_every_level_of_the_trainer_exactly(schedule: str) -> None:
    levels = noise.schedule_levels(schedule)
    grid = noise.grid(schedule)
    assert set(levels[levels < 1.0]) <= set(grid)
    # so that sigma_min = 0 is earned: at the lowest level, or below any that flow matching draws
    lowest = noise.LOWEST_FLOW if schedule.startswith("flow") else levels.min()
    assert grid[0] == pytest.approx(lowest, rel=1e-9)
    assert (np.diff(grid) > 0.0).all()
    assert grid[0] > 0.0
    assert grid[-1] < 1.0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_grid_leaves_no_gap_wider_than_its_lattice(schedule: str) -> None:
    snr = noise.log_snr(noise.grid(schedule, base_levels=16))
    levels = noise.schedule_levels(schedule)
    trainer = noise.log_snr(levels[levels < 1.0])
    lowest = max(trainer.min(), -2.0 * np.log(20.0))
    highest = (
        max(trainer.max(), noise.log_snr(noise.LOWEST_FLOW))
        if "flow" in schedule
        else trainer.max()
    )
    spacing = (highest - lowest) / 15
    inside = snr[snr >= lowest - 1e-9]
    assert np.abs(np.diff(inside)).max() <= 1.01 * spacing


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(sigma_min=st.floats(0.0, 1.0))
def test_the_first_admissible_index_splits_the_schedule(schedule: str, sigma_min: float) -> None:
    levels = noise.schedule_levels(schedule)
    index = noise.first_admissible_index(sigma_min, schedule)
    usable = levels > sigma_min
    if index is None:
        assert not usable.any()
    elif schedule.startswith("flow-reversed"):
        assert usable.tolist() == [True] * (index + 1) + [False] * (levels.size - index - 1)
    else:
        assert usable.tolist() == [False] * index + [True] * (levels.size - index)


def test_a_level_equal_to_sigma_min_is_not_admissible() -> None:
    levels = noise.schedule_levels("squaredcos_cap_v2:100")
    assert noise.first_admissible_index(float(levels[3]), "squaredcos_cap_v2:100") == 4
    assert noise.first_admissible_index(0.0, "flow-reversed:4") == 3
    assert noise.first_admissible_index(1.0, "flow:10") is None


@given(st.integers(0, 4), st.integers(0, 3), st.integers(1, 5))
def test_noise_is_drawn_in_pairs_of_which_one_is_the_other_negated(
    windows: int, pairs: int, dim: int
) -> None:
    rng, plain = np.random.default_rng([windows, pairs]), np.random.default_rng([windows, pairs])
    drawn = noise.draw_pairs(rng, windows, 2 * pairs, dim)
    first = plain.standard_normal((windows, pairs, dim), dtype=np.float32)
    assert drawn.dtype == np.float32
    assert drawn.shape == (windows, 2 * pairs, dim)
    np.testing.assert_array_equal(drawn[:, :pairs], first)
    np.testing.assert_array_equal(drawn[:, pairs:], -first)
    assert rng.random() == plain.random()  # and nothing else was drawn


def test_what_is_odd_in_the_noise_cancels_in_the_mean_of_a_pair() -> None:
    """A probability near 1/2 is nearly 1/2 plus an odd function: pairs beat as many draws."""
    rng = np.random.default_rng(0)
    pairs = noise.draw_pairs(rng, 2_000, 2, 3).astype(np.float64)
    plain = rng.standard_normal((2_000, 2, 3))
    np.testing.assert_array_equal(np.tanh(pairs).sum(axis=1), 0.0)
    assert pairs.std() == pytest.approx(1.0, abs=0.03)
    assert np.unique(pairs).size > 0.99 * pairs.size
    of_pairs, of_draws = (
        (1.0 / (1.0 + np.exp(-0.5 * z.sum(axis=2) - 0.2))).mean(axis=1).std()
        for z in (pairs, plain)
    )
    assert of_pairs < 0.15 * of_draws


@pytest.mark.parametrize("draws", [1, 3])
def test_an_odd_number_of_draws_is_no_pairs(draws: int) -> None:
    with pytest.raises(ValueError, match="are no pairs"):
        noise.draw_pairs(np.random.default_rng(0), 2, draws, 3)
