"""Times: never a forbidden one, every allowed one, by the trainer's law, weighted by its share."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import chi2, kstest, norm
from torch.utils.data import DataLoader

from ambient_curate.errors import NotEnoughDataError
from ambient_curate.integrations import AdmittedPairs, FrameAnnotations, Law, PairDraws, sample_time
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


def test_numpy_draws_what_torch_draws() -> None:
    """For trainers in JAX: from the same uniform numbers, the same times and weights."""
    rng = np.random.default_rng(0)
    low, high = rng.random(1_000), np.where(rng.random(1_000) < 0.3, rng.random(1_000), 0.0)
    for law in (Law(SCHEDULE), Law("edm"), Law("flow", 1.5, 0.001), Law("flow-reversed", 1.5)):
        uniform = torch.rand(
            1_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        ).numpy()
        time, share = law.draw_admitted(low, high, uniform)
        drawn = sample_time(
            torch.from_numpy(low),
            torch.from_numpy(high),
            law.schedule,
            exponent=law.exponent,
            floor=law.floor,
            generator=torch.Generator().manual_seed(0),
        )
        np.testing.assert_allclose(drawn.time.numpy(), time, rtol=1e-6)
        np.testing.assert_allclose(drawn.weight.numpy(), share, rtol=1e-6)
        sigma = law.find_sigma(time)[share > 0]
        assert ((sigma > low[share > 0] - 1e-9) | (sigma <= high[share > 0] + 1e-9)).all()


LOWS = [0.0, 0.0, 0.3, 0.6, 0.95, 1.0, 0.5, 0.7, 0.2, float("nan")]
HIGHS = [0.0, 0.0, 0.0, 0.1, 0.0, 0.0, 0.5, 0.0, 0.9, 0.4]  # the last of all are met at high noise
FRAMES = [30, 11, 7, 8, 9, 10, 0, 2, 4, 5]  # data 6, which the table lacks, may never be used


class Numbers(torch.utils.data.Dataset):
    """A trainer's dataset, whose datum is its number."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, number: int) -> dict[str, int]:
        return {"number": number}


def write_table(path: Path) -> FrameAnnotations:
    columns = {"index": FRAMES, "sigma_min": [1.0 if np.isnan(v) else v for v in LOWS]}
    columns |= {"sigma_max": HIGHS, "weight": [1.0] * len(LOWS)}
    pq.write_table(pa.table(columns), path)
    return FrameAnnotations(path)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "law", [Law(SCHEDULE), Law("flow", 1.5, 0.001), Law("flow-reversed"), Law("edm")]
)
def test_a_plain_loop_gets_admitted_pairs_by_the_law_of_the_trainer(
    tmp_path: Path, law: Law, workers: int
) -> None:
    """Times as the trainer draws them; at each, all data alike that may be used at it, no other."""
    annotations = write_table(tmp_path / "ambient.parquet")
    pairs = AdmittedPairs(Numbers(), annotations, law, index=[*FRAMES, 6])
    loader = DataLoader(pairs, 500, sampler=pairs.sample(20_000, seed=3), num_workers=workers)
    batches = [(sample["number"], time) for sample, time in loader]
    number, time = (torch.cat(each).numpy() for each in zip(*batches, strict=True))
    assert number.shape == (20_000,)
    assert time.dtype == (np.int64 if law.schedule == SCHEDULE else np.float32)
    sigma = law.find_sigma(time)
    low, high = np.array([*LOWS, 1.0]), np.array([*HIGHS, 0.0])
    admitted = (sigma[:, None] > low) | (sigma[:, None] <= high)
    assert admitted[np.arange(len(number)), number].mean() > 1 - 1e-4  # float32 at the very bound
    own = law.draw(np.random.default_rng(9), 200_000)
    if law.schedule != SCHEDULE:
        assert kstest(time, own).pvalue > 1e-4
    edges = np.quantile(law.find_sigma(own), np.linspace(0, 1, 11)[1:-1])
    band = np.searchsorted(edges, sigma)
    statistic, freedom = 0.0, 0
    for each in range(10):
        rows = band == each
        law_of = (admitted[rows] / admitted[rows].sum(axis=1, keepdims=True)).sum(axis=0)
        count = np.bincount(number[rows], minlength=len(low))
        assert (count[law_of == 0] == 0).all()
        some = law_of >= 5
        statistic += ((count - law_of)[some] ** 2 / law_of[some]).sum()
        freedom += some.sum() - 1
    assert chi2.sf(statistic, freedom) > 1e-4


def test_epochs_differ_seeds_repeat_and_ranks_share(tmp_path: Path) -> None:
    annotations = write_table(tmp_path / "ambient.parquet")
    pairs = AdmittedPairs(Numbers(), annotations, Law("edm"), index=[*FRAMES, 6])
    sampler = pairs.sample(3_000, seed=1)
    first, second = list(sampler), list(sampler)
    assert first != second
    again = pairs.sample(3_000, seed=1)
    again.epoch = 1
    assert list(again) == second
    parts = [pairs.sample(3_000, seed=1, rank=rank, ranks=4) for rank in range(4)]
    assert [len(part) for part in parts] == [750] * 4
    shares = [list(part) for part in parts]
    assert [pair for together in zip(*shares, strict=True) for pair in together] == first
    assert len(pairs.sample()) == len(pairs) == 11


def test_times_at_which_nothing_may_be_used_are_refused() -> None:
    low, high = np.array([0.5, 0.8, 1.0]), np.array([0.0, 0.3, 0.0])
    with pytest.raises(NotEnoughDataError, match=r"nothing .* of sigma 0\.3000 to 0\.5000"):
        PairDraws(low, high, Law("flow"))
    PairDraws(low, np.array([0.5, 0.0, 0.0]), Law("flow"))
    with pytest.raises(NotEnoughDataError, match=r"nothing may be used at 100\.00%"):
        PairDraws(np.array([]), np.array([]), Law(SCHEDULE))
    lowest = Law("squaredcos_cap_v2:100")  # below its first step a dataset needs nothing
    PairDraws(np.array([lowest.clock.levels[0] / 2]), np.zeros(1), lowest)


def test_a_dataset_and_its_indices_are_as_long(tmp_path: Path) -> None:
    annotations = write_table(tmp_path / "ambient.parquet")
    with pytest.raises(ValueError, match="10 indices of 11 data"):
        AdmittedPairs(Numbers(), annotations, Law("flow"), index=FRAMES)
