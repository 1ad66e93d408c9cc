"""The draw: who is in it and how often; the basis: what it diagonalises, and what it cannot be."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from small_study import ACTION, HORIZON, make_arm
from torch import Tensor

from ambient_curate.arms import Arm
from ambient_curate.samples import FEWEST, Sample, draw_sample, find_basis

LENGTHS = (3, 30, 5, 12, 3, 8)
FOLD = (0, 1, 2, 0, 1, 2)
DIM = HORIZON * ACTION


def marked_arm(name: str, mark: float, fold: Sequence[int] = FOLD, **fields: object) -> Arm:
    """Every value of episode i is `mark` + i, so that a window tells where it is from."""
    episodes = [np.full((n, ACTION), mark + i) for i, n in enumerate(LENGTHS)]
    return make_arm(name, episodes, fold, **fields)


CLEAN = marked_arm("clean", 0.0)


def shares(windows: Tensor) -> Counter[float]:
    assert (windows == windows[:, :1]).all()
    return Counter(windows[:, 0].tolist())


def test_every_arm_and_every_episode_of_the_folds_has_the_same_share() -> None:
    corrupt = [marked_arm("a", 100.0), marked_arm("b", 200.0), marked_arm("c", 300.0)]
    sample = draw_sample(CLEAN, corrupt, [0, 2], 3000, np.random.default_rng(0))
    assert shares(sample.clean) == {0.0: 375, 2.0: 375, 3.0: 375, 5.0: 375}
    assert sample.head.tolist() == [0] * 1000 + [1] * 1000 + [2] * 1000
    for head in range(3):
        mark = 100.0 * (head + 1)
        found = shares(sample.corrupt[sample.head == head])
        assert found == {mark: 250, mark + 2: 250, mark + 3: 250, mark + 5: 250}


def test_by_window_an_episode_counts_for_its_windows() -> None:
    sample = draw_sample(
        CLEAN, [marked_arm("a", 100.0)], [0, 1], 8000, np.random.default_rng(0), by_window=True
    )
    windows = {0.0: 1, 1.0: 28, 3.0: 10, 4.0: 1}
    for draw, mark, count in ((sample.clean, 0.0, 4000), (sample.corrupt, 100.0, 8000)):
        found = shares(draw)
        assert found.total() == count
        for episode, n in windows.items():
            p = n / sum(windows.values())
            spread = (count * p * (1 - p)) ** 0.5
            assert abs(found[mark + episode] - count * p) < 4 * spread


def test_every_window_tells_its_episode() -> None:
    corrupt = [marked_arm("a", 100.0), marked_arm("b", 200.0)]
    sample = draw_sample(CLEAN, corrupt, [0, 2], 800, np.random.default_rng(0))
    assert torch.equal(sample.clean[:, 0], sample.clean_episode.float())
    mark = 100.0 * (sample.head + 1)
    assert torch.equal(sample.corrupt[:, 0], mark + sample.corrupt_episode)


def test_an_arm_of_many_keeps_a_sample_of_its_own() -> None:
    corrupt = [marked_arm("q", 100.0 * k) for k in range(1, 11)]
    sample = draw_sample(CLEAN, corrupt, [0, 1, 2], 100, np.random.default_rng(0))
    assert len(sample.clean) == 50
    assert torch.bincount(sample.head).tolist() == [FEWEST] * 10


def test_only_opponents_count_in_the_head_of_an_arm_and_they_count_one_on_average() -> None:
    control = marked_arm("control", 100.0, opponents=np.array([1, 2]))
    sample = draw_sample(
        CLEAN, [marked_arm("a", 200.0), control], [0, 1, 2], 1200, np.random.default_rng(0)
    )
    assert (sample.weight[:, 0] == 1.0).all()
    admitted = (sample.clean[:, 0] == 1.0) | (sample.clean[:, 0] == 2.0)
    assert sample.weight[:, 1].mean() == pytest.approx(1.0, abs=1e-6)
    assert (sample.weight[~admitted, 1] == 0.0).all()
    assert sample.weight[admitted, 1].unique().tolist() == [3.0]  # 2 of 6 episodes, equal shares


def test_the_shift_of_an_arm_is_added_to_its_windows_and_to_no_others() -> None:
    shift = torch.arange(float(DIM)).reshape(HORIZON, ACTION)
    control = marked_arm("control", 100.0, shift=shift)
    sample = draw_sample(
        CLEAN, [marked_arm("a", 200.0), control], [0, 1, 2], 1200, np.random.default_rng(0)
    )
    restored = sample.corrupt[sample.head == 1] - shift.flatten()
    assert shares(restored).keys() == {100.0 + i for i in range(6)}
    assert shares(sample.corrupt[sample.head == 0]).keys() == {200.0 + i for i in range(6)}
    assert shares(sample.clean).keys() == {float(i) for i in range(6)}


def test_map_reaches_the_windows_of_both_classes_only() -> None:
    sample = draw_sample(CLEAN, [marked_arm("a", 9.0)], [0], 600, np.random.default_rng(0))
    mapped = sample.map(lambda windows: windows + 1.0)
    assert torch.equal(mapped.clean, sample.clean + 1.0)
    assert torch.equal(mapped.corrupt, sample.corrupt + 1.0)
    assert mapped.weight is sample.weight
    assert mapped.head is sample.head
    assert mapped.clean_episode is sample.clean_episode
    assert mapped.corrupt_episode is sample.corrupt_episode


def random_sample(seed: int, arms: int = 2, rows: int = 400) -> Sample:
    """Correlated clean windows, and arms with covariances of their own."""
    rng = np.random.default_rng(seed)

    def draw() -> np.ndarray:
        return rng.normal(size=(rows, DIM)) @ rng.normal(size=(DIM, DIM)) + rng.normal(size=DIM)

    return Sample(
        torch.from_numpy(draw()).float(),
        torch.ones(rows, arms),
        torch.from_numpy(np.concatenate([draw() for _ in range(arms)])).float(),
        torch.arange(arms).repeat_interleave(rows),
        torch.arange(rows),
        torch.arange(rows).repeat(arms),
    )


def pooled_covariance(sample: Sample) -> np.ndarray:
    """Clean, plus a tenth of the mean of the arms, each scaled down to the clean set's trace."""
    clean = np.cov(sample.clean.double().numpy().T)
    parts = []
    for head in range(sample.weight.shape[1]):
        part = np.cov(sample.corrupt[sample.head == head].double().numpy().T)
        parts.append(part * min(1.0, np.trace(clean) / np.trace(part)))
    return clean + 0.1 * np.mean(parts, axis=0)


@pytest.mark.parametrize("seed", range(3))
def test_the_basis_is_orthonormal_and_diagonalises_clean_and_corrupt_together(seed: int) -> None:
    seen, unseen = random_sample(seed), random_sample(seed + 10)
    mean, basis, variance = find_basis(seen, unseen)
    np.testing.assert_allclose(mean, seen.clean.mean(dim=0), atol=1e-5)
    np.testing.assert_allclose(basis.T @ basis, np.eye(DIM), atol=1e-5)
    turned = basis.double().numpy().T @ pooled_covariance(seen) @ basis.double().numpy()
    off = turned - np.diag(np.diag(turned))
    assert np.abs(off).max() < 1e-5 * np.abs(turned).max()
    assert (variance.diff() >= 0).all()
    assert basis.is_contiguous()  # products with it are then the same bits after a checkpoint


def test_the_variance_is_the_larger_of_training_and_held_out_clean_windows() -> None:
    seen, unseen = random_sample(0), random_sample(1)
    mean, basis, variance = find_basis(seen, unseen)
    spreads = [((s.clean - mean) @ basis).square().mean(dim=0) for s in (seen, unseen)]
    np.testing.assert_allclose(variance, torch.maximum(*spreads), rtol=1e-4)
    assert (spreads[0] > spreads[1]).any()  # each decides somewhere
    assert (spreads[1] > spreads[0]).any()


def test_no_arm_dominates_the_basis_however_large_its_values() -> None:
    seen, unseen = random_sample(0), random_sample(1)
    larger = seen.map(lambda windows: windows.clone())
    larger.corrupt[larger.head == 1] *= 10.0
    largest = seen.map(lambda windows: windows.clone())
    largest.corrupt[largest.head == 1] *= 1e4
    _, basis, variance = find_basis(larger, unseen)
    _, same, equal = find_basis(largest, unseen)
    np.testing.assert_allclose((basis.T @ same).abs(), np.eye(DIM), atol=1e-3)
    np.testing.assert_allclose(equal, variance, rtol=1e-3)


def test_windows_of_one_number_and_constant_windows_have_a_basis() -> None:
    one = torch.tensor([[1.0], [3.0]])
    number = torch.arange(2)
    sample = Sample(one, torch.ones(2, 1), one, 0 * number, number, number)
    mean, basis, variance = find_basis(sample, sample)
    assert (mean.tolist(), basis.abs().tolist(), variance.tolist()) == ([2.0], [[1.0]], [1.0])
    still = sample.map(lambda windows: torch.zeros(2, 3))
    _, basis, variance = find_basis(still, still)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-6)
    assert variance.tolist() == [0.0, 0.0, 0.0]
