"""Clocks: a trainer's time against the rule sigma > sigma_min or sigma <= sigma_max, by hand."""

import numpy as np
import pytest
from scipy.stats import norm

from ambient_curate.errors import ConfigError
from ambient_curate.export.trainer_time import Clock
from ambient_curate.noise import schedule_levels

SIGMA = np.array([0.0, 0.002, 0.05, 0.3, 0.7, 0.999, 1.0])
DISCRETE = ["squaredcos_cap_v2:100", "linear:1000", "scaled_linear:50"]


@pytest.mark.parametrize("schedule", DISCRETE)
def test_steps_are_those_with_more_noise_and_a_level_itself_is_not(schedule: str) -> None:
    levels = schedule_levels(schedule)
    sigma = np.concatenate([SIGMA, levels[[0, 7, -1]]])
    clock = Clock(schedule)
    for low, after, until in zip(sigma, clock.after(sigma), clock.until(sigma), strict=True):
        above = np.flatnonzero(levels > low)
        assert after == (above[0] if above.size else len(levels))
        assert until == after - 1
    assert clock.after(np.array([np.nan]))[0] == len(levels)
    assert clock.until(np.array([np.nan]))[0] == -1


@pytest.mark.parametrize(
    ("schedule", "sigma_of", "times"),
    [
        ("flow", lambda t: t / np.hypot(t, 1 - t), np.linspace(0.001, 1, 50)),
        ("flow-reversed", lambda t: (1 - t) / np.hypot(t, 1 - t), np.linspace(0, 0.999, 50)),
        ("edm", lambda s: s / np.sqrt(1 + s * s), np.geomspace(0.002, 80, 50)),
    ],
)
def test_continuous_times_are_those_with_more_noise(schedule, sigma_of, times) -> None:
    clock, noise = Clock(schedule), sigma_of(times)
    for low, bound in zip(SIGMA, clock.after(SIGMA), strict=True):
        found = times < bound if schedule == "flow-reversed" else times > bound
        assert found.tolist() == (noise > low).tolist()
    for high, bound in zip(SIGMA, clock.until(SIGMA), strict=True):
        found = times >= bound if schedule == "flow-reversed" else times <= bound
        near = np.isclose(noise, high, rtol=1e-9)
        assert (found == (noise <= high))[~near].all()
    assert clock.rule.startswith("usable at times")


def test_the_share_of_times_is_what_a_count_says() -> None:
    rng = np.random.default_rng(0)
    low, high = rng.uniform(size=(2, 40))
    high = np.where(rng.uniform(size=40) < 0.5, 0.0, np.minimum(high, low))
    for schedule in DISCRETE:
        levels = schedule_levels(schedule)
        usable = (levels > low[:, None]) | (levels <= high[:, None])
        np.testing.assert_allclose(Clock(schedule).share(low, high), usable.mean(axis=1))
    time = (np.arange(200_000) + 0.5) / 200_000
    for schedule, sigma in (
        ("flow", time / np.hypot(time, 1 - time)),
        ("flow-reversed", (1 - time) / np.hypot(time, 1 - time)),
    ):
        counted = [((sigma > a) | (sigma <= b)).mean() for a, b in zip(low, high, strict=True)]
        np.testing.assert_allclose(Clock(schedule).share(low, high), counted, atol=1e-4)
    noise = np.exp(norm.ppf(time) * 1.2 - 1.2)
    sigma = noise / np.sqrt(1 + noise**2)
    counted = [((sigma > a) | (sigma <= b)).mean() for a, b in zip(low, high, strict=True)]
    np.testing.assert_allclose(Clock("edm").share(low, high), counted, atol=1e-4)
    assert Clock("edm").share(np.array([np.nan, 0.0]), np.array([np.nan, 0.0])).tolist() == [0, 1]


@pytest.mark.parametrize("schedule", ["", "flow:10", "edm:5", "cosine:100", "linear", "linear:x"])
def test_an_unknown_schedule_is_refused(schedule: str) -> None:
    with pytest.raises(ConfigError, match="is not known"):
        Clock(schedule)
