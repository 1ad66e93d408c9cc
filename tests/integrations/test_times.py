"""Times: never a forbidden one, every allowed one, by the trainer's law, weighted by its share."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from ambient_curate.integrations import sample_time
from ambient_curate.noise import schedule_levels

SCHEDULE = "squaredcos_cap_v2:20"
LEVELS = schedule_levels(SCHEDULE)


def draws(low: float, high: float, schedule: str, count: int = 20_000, **options: float):
    generator = torch.Generator().manual_seed(0)
    rows = torch.full((count,), low, dtype=torch.float64)
    return sample_time(rows, torch.full_like(rows, high), schedule, generator=generator, **options)


@pytest.mark.parametrize("high", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("low", [0.0, 0.5, float(LEVELS[7]), 0.97])
def test_steps_are_drawn_alike_among_those_allowed(low: float, high: float) -> None:
    found = draws(low, high, SCHEDULE)
    allowed = np.flatnonzero((low < LEVELS) | (high >= LEVELS))
    steps, counts = np.unique(found.time.numpy(), return_counts=True)
    assert steps.tolist() == allowed.tolist()
    expected = 20_000 / len(allowed)
    assert ((counts - expected) ** 2 / expected).sum() < 60  # chi-square of 19, p < 1e-5
    assert set(found.weight.tolist()) == {np.float32(len(allowed) / 20)}


@pytest.mark.parametrize("schedule", [SCHEDULE, "flow", "flow-reversed", "edm"])
@pytest.mark.parametrize("low", [1.0, float("nan")])
def test_what_may_never_be_used_weighs_nothing(schedule: str, low: float) -> None:
    found = draws(low, 0.0, schedule, 100)
    assert found.weight.tolist() == [0.0] * 100
    if schedule == SCHEDULE:
        assert found.time.max() < 20


@pytest.mark.parametrize(("exponent", "floor"), [(1.0, 0.0), (1.5, 0.0), (1.5, 0.15)])
@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (0.3, 0.0), (0.6, 0.2), (0.3, 0.3)])
@pytest.mark.parametrize("schedule", ["flow", "flow-reversed"])
def test_flow_times_follow_the_restricted_law(
    schedule: str, low: float, high: float, exponent: float, floor: float
) -> None:
    found = draws(low, high, schedule, exponent=exponent, floor=floor)
    time = found.time.double().numpy()
    noise = 1 - time if schedule == "flow-reversed" else time
    sigma = noise / np.hypot(noise, 1 - noise)
    edge = 1e-6
    assert ((sigma > low - edge) | (sigma <= high + edge)).all()
    own = floor + (1 - floor) * np.random.default_rng(1).beta(exponent, 1.0, 400_000)
    level = own / np.hypot(own, 1 - own)
    kept = own[(level > low) | (level <= high)]
    assert kstest(noise, kept).pvalue > 1e-4
    assert float(found.weight[0]) == pytest.approx(len(kept) / len(own), abs=0.005)


def test_edm_times_follow_the_restricted_law() -> None:
    found = draws(0.4, 0.1, "edm")
    own = np.exp(norm.ppf((np.arange(400_000) + 0.5) / 400_000) * 1.2 - 1.2)
    level = own / np.sqrt(1 + own**2)
    kept = own[(level > 0.4) | (level <= 0.1)]
    assert kstest(found.time.double().numpy(), kept).pvalue > 1e-4
    assert float(found.weight[0]) == pytest.approx(len(kept) / len(own), abs=1e-3)


def test_weighted_losses_are_those_of_draws_with_forbidden_ones_dropped() -> None:
    """The mean of weight x loss at restricted draws is that of all draws, forbidden ones 0."""
    low = torch.rand(60_000, generator=torch.Generator().manual_seed(1)).double()
    found = sample_time(low, None, SCHEDULE, generator=torch.Generator().manual_seed(2))
    loss = torch.from_numpy(LEVELS**2)
    mean = float((found.weight * loss[found.time]).mean())
    every = torch.from_numpy(LEVELS)
    exact = float(((every > low[:, None]) * loss).mean())
    assert mean == pytest.approx(exact, abs=0.005)


def test_rows_have_their_own_times_and_a_seed_the_same() -> None:
    low = torch.tensor([0.0, 0.9, float(LEVELS[-2])])
    one, other = (
        sample_time(low, None, SCHEDULE, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert torch.equal(one.time, other.time)
    assert one.weight.tolist() == pytest.approx([1.0, (LEVELS > 0.9).mean(), 1 / 20])
    assert int(one.time[2]) == 19
