"""The sampler: the joint law of datum and level is the specified one, however it is consumed."""

import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.utils.data import DataLoader, Dataset

from ambient_curate.errors import NotEnoughDataError
from ambient_curate.noise import schedule_levels
from ambient_curate.policy.level_sampler import (
    Admission,
    BatchSampler,
    LevelSampler,
    find_bands,
    never_admitted,
    share_of,
    split_shares,
)

SIGMA = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
NAMES = ("clean", "near", "far")


def admit(
    sigma_min: Sequence[Sequence[float]],
    sigma_max: Sequence[Sequence[float]] | None = None,
    weight: Sequence[float] | None = None,
) -> Admission:
    flat = np.array([value for part in sigma_min for value in part], dtype=np.float64)
    low = np.zeros_like(flat) if sigma_max is None else np.concatenate(sigma_max).astype(float)
    w = None if weight is None else np.array(weight, dtype=np.float64)
    return Admission(NAMES[: len(sigma_min)], tuple(map(len, sigma_min)), flat, low, w)


def may_use(admission: Admission) -> np.ndarray:
    """The rule itself, datum by datum and level by level."""
    table = np.zeros((SIGMA.size, admission.sigma_min.size), dtype=bool)
    for level, sigma in enumerate(SIGMA):
        for datum, (low, high) in enumerate(
            zip(admission.sigma_max, admission.sigma_min, strict=True)
        ):
            high = 1.0 if np.isnan(high) else high
            low = 0.0 if np.isnan(low) else low
            table[level, datum] = low >= high or sigma > high or sigma <= low
    return table


def joint_law(admission: Admission, shares: dict[str, float] | None) -> np.ndarray:
    """P(level, datum) by the definition: uniform level, dataset by its share, datum by weight."""
    admitted = may_use(admission)
    w = np.ones(admission.sigma_min.size) if admission.weight is None else admission.weight
    law = np.where(admitted, w, 0.0)
    if shares is not None:
        for name, span in admission.spans():
            mass = law[:, span].sum(axis=1, keepdims=True)
            law[:, span] *= shares[name] / np.where(mass > 0, mass, 1.0)
    return law / law.sum(axis=1, keepdims=True) / SIGMA.size


CASES = {
    "natural": (admit([[0, 0], [0.4, 0.4, 0.8], [0.95, 1.0, np.nan, 0.6]]), None),
    "shares": (
        admit([[0, 0], [0.4, 0.4, 0.8], [0.95, 1.0, np.nan, 0.6]]),
        {"clean": 0.2, "near": 0.5, "far": 0.3},
    ),
    "both sides": (
        admit([[0, 0], [0.8, 0.6, 1.0], [1.0, 0.2]], [[0, 0], [0.3, 0.1, 0.3], [0.5, 0.4]]),
        {"clean": 1.0, "near": 2.0, "far": 0.5},
    ),
    "weighted": (admit([[0, 0], [0, 0, 0.5]], weight=[2.0, 1.0, 0.25, 0.0, 3.0]), None),
}


def counted(datum: np.ndarray, level: np.ndarray, admission: Admission) -> np.ndarray:
    n = admission.sigma_min.size
    return np.bincount(level * n + datum, minlength=SIGMA.size * n).reshape(SIGMA.size, n)


def check_law(counts: np.ndarray, law: np.ndarray) -> None:
    assert counts[law == 0].sum() == 0
    expected = law[law > 0] * counts.sum()
    assert expected.min() > 50
    assert chisquare(counts[law > 0], expected).pvalue > 0.001


@pytest.mark.parametrize("name", CASES)
def test_a_million_draws_follow_the_specified_law(name: str) -> None:
    admission, shares = CASES[name]
    sampler = LevelSampler(admission, SIGMA, shares=shares, seed=5)
    datum, level = sampler.draw(0, 1_000_000)
    law = joint_law(admission, shares)
    check_law(counted(datum, level, admission), law)
    for wrong in CASES:  # the test can fail
        other = joint_law(*CASES[wrong])
        if wrong != name and other.shape == law.shape:
            observed = counted(datum, level, admission)[other > 0]
            with pytest.raises(AssertionError):
                assert observed.sum() == 1_000_000
                check_law(counted(datum, level, admission), other)


class Pairs(Dataset[tuple[int, int]]):
    """Gives back what it is asked for."""

    def __getitem__(self, item: tuple[int, int]) -> tuple[int, int]:  # type: ignore[override]
        return item


@pytest.mark.parametrize("workers", [0, 2, 4])
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_the_law_is_the_same_through_loaders_and_ranks(workers: int) -> None:
    admission, shares = CASES["both sides"]
    sampler = LevelSampler(admission, SIGMA, shares=shares, seed=1)
    batch, steps, ranks = 10_000, 100, 2
    counts = np.zeros((SIGMA.size, admission.sigma_min.size))
    seen: dict[int, list[np.ndarray]] = {}
    for rank in range(ranks):
        batches = BatchSampler(sampler, batch, range(steps), rank=rank, ranks=ranks)
        loader = DataLoader(
            Pairs(), batch_sampler=batches, num_workers=workers, collate_fn=np.array
        )
        assert len(loader) == steps
        for step, pairs in enumerate(loader):
            counts += counted(pairs[:, 0], pairs[:, 1], admission)
            if step < 3:
                seen.setdefault(step, []).append(pairs)
    assert counts.sum() == batch * steps == 1_000_000
    check_law(counts, joint_law(admission, shares))
    for step, parts in seen.items():  # ranks share one batch
        assert np.concatenate(parts).tolist() == np.stack(sampler.draw(step, batch), 1).tolist()


def test_steps_are_drawn_independently_of_where_one_begins() -> None:
    sampler = LevelSampler(*CASES["natural"][:1], SIGMA, seed=3)
    whole = list(BatchSampler(sampler, 8, range(6)))
    assert list(BatchSampler(sampler, 8, range(4, 6))) == whole[4:]
    assert whole[0] != whole[1]
    assert (
        list(BatchSampler(LevelSampler(CASES["natural"][0], SIGMA, seed=4), 8, range(6))) != whole
    )


LEVEL = st.one_of(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0, np.nan]), st.floats(0, 1))


@settings(max_examples=60)
@given(st.lists(st.tuples(LEVEL, LEVEL), min_size=1, max_size=12), st.integers(0, 12))
def test_what_is_drawn_may_be_used(limits: list[tuple[float, float]], cut: int) -> None:
    high, low = [a for a, _ in limits], [b for _, b in limits]
    cut = min(cut, len(limits))
    admission = admit([[0.0], high[:cut], high[cut:]], [[0.0], low[:cut], low[cut:]])
    sampler = LevelSampler(admission, SIGMA, seed=0)
    datum, level = sampler.draw(1, 2_000)
    allowed = may_use(admission)
    assert allowed[level, datum].all()
    counts = [allowed[:, span].sum(axis=1) for _, span in admission.spans()]
    shares = sampler.coverage()
    for count, (name, span) in zip(counts, admission.spans(), strict=True):
        size = max(span.stop - span.start, 1)
        np.testing.assert_allclose(shares[name] * size, count)


def test_a_level_without_data_is_an_error_and_a_dataset_without_levels_is_named() -> None:
    with pytest.raises(NotEnoughDataError, match=r"at 2 of 5 noise levels.*sigma 0\.1000"):
        LevelSampler(admit([[0.4, 0.5]]), SIGMA)
    with pytest.raises(NotEnoughDataError, match=r"at 2 of 5"):  # left out by its share
        LevelSampler(admit([[0.0], [0.4]]), SIGMA, shares={"clean": 0.0, "near": 1.0})
    sampler = LevelSampler(admit([[0.0], [0.95, np.nan], [0.2]]), SIGMA)
    assert never_admitted(sampler) == ["near"]


def test_a_datum_at_the_very_level_is_not_admitted_by_its_sigma_min() -> None:
    sampler = LevelSampler(admit([[0.0], [SIGMA[2]]]), SIGMA)
    assert sampler.coverage()["near"].tolist() == [0, 0, 0, 1, 1]
    below = LevelSampler(admit([[0.0], [1.0]], [[0.0], [SIGMA[2]]]), SIGMA)
    assert below.coverage()["near"].tolist() == [1, 1, 1, 0, 0]


def test_effective_sizes_are_kish() -> None:
    admission = admit([[0, 0], [0, 0, 0]], weight=[1.0, 1.0, 1.0, 0.0, 3.0])
    assert admission.effective_sizes() == {"clean": 2.0, "near": 1.6}
    assert admit([[0, 0], [0.5]]).effective_sizes() == {"clean": 2.0, "near": 1.0}


def test_wrong_values_are_refused() -> None:
    for bad in (-0.1, 1.5):
        with pytest.raises(ValueError, match="leaves"):
            admit([[0.0, bad]])
    with pytest.raises(ValueError, match="weight"):
        admit([[0.0, 0.0]], weight=[1.0, np.nan])
    with pytest.raises(ValueError, match="one value a datum"):
        Admission(("a",), (3,), np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match="multiple of 2 ranks"):
        BatchSampler(LevelSampler(admit([[0.0]]), SIGMA), 7, range(1), ranks=2)


def test_shares_and_bands() -> None:
    shares = split_shares({"a": 10, "clean": 5, "b": 30}, "clean", 0.2)
    assert shares == pytest.approx({"a": 0.2, "clean": 0.2, "b": 0.6})
    sampler = LevelSampler(admit([[0.0], [0.4] * 10, [0.4, 0.8]]), SIGMA)
    assert find_bands(sampler).tolist() == [0, 0, 1, 1, 2]
    assert find_bands(sampler, change=0.6).tolist() == [0, 0, 1, 1, 1]
    assert share_of(8, 1, 2) == slice(4, 8)


@pytest.mark.slow
def test_ten_million_data_are_drawn_quickly() -> None:
    rng = np.random.default_rng(0)
    n = 10_000_000
    admission = Admission(
        ("clean", "open"),
        (n // 100, n - n // 100),
        np.append(np.zeros(n // 100), rng.random(n - n // 100)),
        np.zeros(n),
    )
    sampler = LevelSampler(admission, np.sort(schedule_levels("squaredcos_cap_v2:100")))
    start, batches = time.perf_counter(), 2_000
    drawn = sum(len(each) for each in BatchSampler(sampler, 256, range(batches)))
    print(f"{drawn / (time.perf_counter() - start):,.0f} items/s")
    assert drawn == 256 * batches
