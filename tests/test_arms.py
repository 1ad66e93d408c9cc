"""Folds that never part copies, and a planted control whose answer is known."""

import hashlib
from collections import Counter
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import norm

from ambient_curate.arms import CONTROL, Arm, Control, assign_folds, plant_control
from ambient_curate.bounds import gaussian_delta
from ambient_curate.noise import signal_scale
from ambient_curate.windows import Windows

FOLDS = 5
Ids = dict[str, list[str]]


@st.composite
def datasets(draw: st.DrawFn) -> tuple[Ids, Ids]:
    """Ids and digests of up to three datasets; few digests, so that copies are common."""
    names = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
    ids, digests = {}, {}
    for name in names:
        ids[name] = draw(st.lists(st.text(max_size=3), max_size=14, unique=True))
        size = len(ids[name])
        digest = st.integers(0, 12).map(str)
        digests[name] = draw(st.lists(digest, min_size=size, max_size=size))
    return ids, digests


@given(datasets(), st.integers(3, 6))
def test_copies_share_a_fold_within_and_across_datasets(drawn: tuple[Ids, Ids], folds: int) -> None:
    ids, digests = drawn
    found = assign_folds(ids, digests, folds)
    fold_of: dict[str, set[int]] = {}
    for name in ids:
        for digest, fold in zip(digests[name], found[name].tolist(), strict=True):
            fold_of.setdefault(digest, set()).add(fold)
    assert all(len(folds_of_one) == 1 for folds_of_one in fold_of.values())


@given(datasets(), st.integers(3, 6))
def test_what_a_dataset_adds_is_spread_evenly(drawn: tuple[Ids, Ids], folds: int) -> None:
    ids, digests = drawn
    found = assign_folds(ids, digests, folds)
    known: set[str] = set()
    for name in ids:
        new = {d: f for d, f in zip(digests[name], found[name], strict=True) if d not in known}
        known |= new.keys()
        sizes = np.bincount(list(new.values()), minlength=folds) if new else np.zeros(folds)
        assert sizes.size == folds
        assert np.ptp(sizes) <= 1


@given(datasets(), st.randoms(use_true_random=False))
def test_folds_do_not_depend_on_the_order_of_the_episodes(
    drawn: tuple[Ids, Ids], random: Random
) -> None:
    ids, digests = drawn
    orders = {name: random.sample(range(len(ids[name])), len(ids[name])) for name in ids}
    moved = assign_folds(
        {name: [ids[name][i] for i in order] for name, order in orders.items()},
        {name: [digests[name][i] for i in order] for name, order in orders.items()},
        FOLDS,
    )
    found = assign_folds(ids, digests, FOLDS)
    for name, order in orders.items():
        assert moved[name].tolist() == found[name][order].tolist()


def test_the_fold_is_the_rank_of_the_hashed_id() -> None:
    ids = [f"demo_{i}" for i in range(23)]
    found = assign_folds({"a": ids}, {"a": ids}, FOLDS)["a"]
    ranked = sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest())
    assert found.tolist() == [ranked.index(name) % FOLDS for name in ids]
    assert sorted(Counter(found.tolist()).values()) == [4, 4, 5, 5, 5]


def gaussian_arm(
    covariance: NDArray[np.float64], episodes: int, horizon: int, *, seed: int = 0
) -> Arm:
    """Episodes of one window each, independent draws of N(0, covariance)."""
    rng = np.random.default_rng(seed)
    draws = rng.multivariate_normal(np.zeros(len(covariance)), covariance, episodes, method="eigh")
    return arm_of(draws.astype(np.float32), horizon)


def arm_of(windows: NDArray[np.float32], horizon: int) -> Arm:
    n = len(windows)
    frames = torch.from_numpy(windows.reshape(n * horizon, -1))
    length = np.full(n, horizon, dtype=np.int64)
    views = Windows(frames, None, np.arange(n) * horizon, length, horizon, 1)
    return Arm("clean", None, views, np.arange(n), np.arange(n) % FOLDS)


def planted(arm: Arm, epsilon: float = 0.05) -> Control:
    control = plant_control(arm, FOLDS, epsilon)
    assert control is not None
    return control


def flat(arm: Arm) -> NDArray[np.float64]:
    return arm.windows.gather(arm.episodes, np.zeros_like(arm.episodes)).flatten(1).double().numpy()


@pytest.mark.parametrize("epsilon", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("least", [1e-4, 0.01, 0.5])
def test_the_control_crosses_where_the_exact_divergence_does(least: float, epsilon: float) -> None:
    rng = np.random.default_rng(4)
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    covariance = turn @ np.diag([least, 0.6, 0.8, 1.0, 2.0, 9.0]) @ turn.T
    arm = gaussian_arm(covariance, 200, horizon=3)
    control = planted(arm, epsilon)
    assert control.arm.shift is not None
    shift = control.arm.shift.flatten().double().numpy()
    own = np.cov(flat(arm).T)
    sigma, a = control.sigma_min, float(signal_scale(control.sigma_min))
    noised = a**2 * own + sigma**2 * np.eye(6)
    distance = a * float(np.sqrt(shift @ np.linalg.solve(noised, shift)))  # Mahalanobis
    assert gaussian_delta(distance) == pytest.approx(4.0 * epsilon, rel=1e-4)

    # and by quadrature of the two densities along the direction in which they differ
    unit = shift / np.linalg.norm(shift)
    spread = float(np.sqrt(unit @ noised @ unit))
    mean = a * float(np.linalg.norm(shift))

    def integrand(x: float) -> float:
        p, q = norm.pdf(x, 0.0, spread), norm.pdf(x, mean, spread)
        return float((p - q) ** 2 / (p + q))

    delta, _ = quad(integrand, -8.0 * spread, mean + 8.0 * spread, points=[mean / 2], limit=200)
    assert delta == pytest.approx(4.0 * epsilon, rel=1e-4)


@pytest.mark.parametrize("level", [0.5, 0.9, 1.1, 1.5])
def test_the_control_is_usable_above_its_crossing_only(level: float) -> None:
    control = planted(gaussian_arm(np.diag([0.02, 0.5, 1.0, 1.0]), 100, horizon=2))
    assert control.arm.shift is not None
    sigma = min(level * control.sigma_min, 0.999)
    a = float(signal_scale(sigma))
    least = float(np.linalg.eigvalsh(np.cov(flat(control.arm).T))[0])
    distance = a * float(control.arm.shift.norm()) / (a**2 * least + sigma**2) ** 0.5
    assert (gaussian_delta(distance) < 0.2) == (level > 1.0)


def test_windows_without_spread_in_one_direction_cross_at_one_fifth() -> None:
    windows = np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32)
    windows[:, 3] = windows[:, 0]  # they differ by nothing, in every window
    control = planted(arm_of(windows, horizon=2))
    assert control.sigma_min == pytest.approx(0.2, abs=1e-4)
    assert control.arm.shift is not None
    shift = control.arm.shift.flatten()
    torch.testing.assert_close(shift.abs() / shift.norm(), torch.tensor([0.5, 0, 0, 0.5]).sqrt())
    assert shift[0] * shift[3] < 0


def test_dimensions_that_never_move_stay_where_they_are() -> None:
    windows = np.random.default_rng(2).normal(size=(40, 6)).astype(np.float32)
    windows[:, [1, 4]] = 3.0
    shift = planted(arm_of(windows, horizon=3)).arm.shift
    assert shift is not None
    assert shift.shape == (3, 2)
    assert not shift.flatten()[[1, 4]].any()
    assert shift.any()


@pytest.mark.parametrize("episodes", [10, 11, 23])
def test_the_control_and_its_opponents_part_the_clean_set_in_every_fold(episodes: int) -> None:
    arm = gaussian_arm(np.eye(4), episodes, horizon=2)
    control = planted(arm).arm
    assert control.opponents is not None
    both = np.concatenate([control.episodes, control.opponents])
    assert sorted(both.tolist()) == arm.episodes.tolist()
    assert control.dataset == CONTROL
    for fold in range(FOLDS):
        halves = [int((arm.fold[part] == fold).sum()) for part in (control.episodes, both)]
        assert halves[0] >= 1
        assert 0 <= halves[1] - 2 * halves[0] <= 1
        assert control.in_folds([fold]).tolist() == [
            e for e in control.episodes.tolist() if arm.fold[e] == fold
        ]


def test_too_few_or_motionless_episodes_give_no_control() -> None:
    assert plant_control(gaussian_arm(np.eye(4), 2 * FOLDS - 1, horizon=2), FOLDS, 0.05) is None
    still = arm_of(np.ones((40, 4), dtype=np.float32), horizon=2)
    assert plant_control(still, FOLDS, 0.05) is None


def test_in_folds_keeps_the_arms_own_episodes() -> None:
    arm = gaussian_arm(np.eye(4), 20, horizon=2)
    part = Arm("clean", "g", arm.windows, np.array([0, 1, 2, 7, 19]), arm.fold)
    assert part.in_folds([0, 2]).tolist() == [0, 2, 7]
    assert part.in_folds([3]).tolist() == []
