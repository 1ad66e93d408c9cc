"""The draw: who is in it and how often; the basis: what it diagonalises, and what it cannot be."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from small_study import ACTION, HORIZON, make_population
from torch import Tensor

from ambient_curate.classifier.samples import Sample, draw_sample, find_basis
from ambient_curate.data.populations import Population

LENGTHS = (3, 30, 5, 12, 3, 8)
FOLD = (0, 1, 2, 0, 1, 2)
DIM = HORIZON * ACTION


def marked_population(
    name: str, mark: float, fold: Sequence[int] = FOLD, **fields: object
) -> Population:
    """Every value of episode i is `mark` + i, so that a window tells where it is from."""
    episodes = [np.full((n, ACTION), mark + i) for i, n in enumerate(LENGTHS)]
    return make_population(name, episodes, fold, **fields)


CLEAN = marked_population("clean", 0.0)


def shares(windows: Tensor) -> Counter[float]:
    assert (windows == windows[:, :1]).all()
    return Counter(windows[:, 0].tolist())


def test_every_episode_of_the_folds_has_the_same_share_of_either_class() -> None:
    corrupt = marked_population("a", 100.0)
    sample = draw_sample(CLEAN, corrupt, [0, 2], 3000, np.random.default_rng(0))
    for drawn, mark in ((sample.clean, 0.0), (sample.corrupt, 100.0)):
        assert shares(drawn) == {mark + episode: 750 for episode in (0, 2, 3, 5)}


def test_by_window_an_episode_counts_for_its_windows() -> None:
    sample = draw_sample(
        CLEAN, marked_population("a", 100.0), [0, 1], 8000, np.random.default_rng(0), by_window=True
    )
    windows = {0.0: 1, 1.0: 28, 3.0: 10, 4.0: 1}
    for draw, mark in ((sample.clean, 0.0), (sample.corrupt, 100.0)):
        found = shares(draw)
        assert found.total() == 8000
        for episode, n in windows.items():
            p = n / sum(windows.values())
            spread = (8000 * p * (1 - p)) ** 0.5
            assert abs(found[mark + episode] - 8000 * p) < 4 * spread


def test_every_window_tells_its_episode() -> None:
    sample = draw_sample(
        CLEAN, marked_population("a", 100.0), [0, 2], 800, np.random.default_rng(0)
    )
    assert torch.equal(sample.clean[:, 0], sample.clean_episode.float())
    assert torch.equal(sample.corrupt[:, 0], 100.0 + sample.corrupt_episode)


def test_only_opponents_of_the_corrupt_set_are_drawn_from_the_clean_one() -> None:
    control = marked_population("control", 100.0, clean_episodes=np.array([1, 2]))
    sample = draw_sample(CLEAN, control, [0, 1, 2], 1200, np.random.default_rng(0))
    assert shares(sample.clean) == {1.0: 600, 2.0: 600}
    assert shares(sample.corrupt) == {100.0 + episode: 200 for episode in range(6)}
    sample = draw_sample(CLEAN, control, [1], 1200, np.random.default_rng(0))
    assert shares(sample.clean) == {1.0: 1200}


class Mark:
    """Adds a ramp, and a hundredth of the window's own number."""

    def __init__(self, by: float) -> None:
        self.ramp = by * torch.arange(float(DIM)).reshape(HORIZON, ACTION)

    def apply(self, windows: Tensor, episode: np.ndarray, number: np.ndarray) -> Tensor:
        own = torch.from_numpy(episode + 0.01 * number).float()
        return windows + self.ramp + own[:, None, None]


def test_what_is_planted_in_a_side_is_in_its_windows_and_in_no_others() -> None:
    for planted, planted_clean in ((Mark(1.0), None), (None, Mark(2.0)), (Mark(1.0), Mark(2.0))):
        control = marked_population("q", 100.0, planted=planted, planted_clean=planted_clean)
        sample = draw_sample(CLEAN, control, [0, 1, 2], 1200, np.random.default_rng(0))
        sides = (
            (sample.corrupt, sample.corrupt_episode, 100.0, planted),
            (sample.clean, sample.clean_episode, 0.0, planted_clean),
        )
        for windows, episode, start, mark in sides:
            rest = windows - start - episode[:, None]
            if mark is not None:
                rest = rest - mark.ramp.flatten() - episode[:, None]
                numbers = (100.0 * rest[:, 0]).round()
                longest = [LENGTHS[e] - HORIZON for e in episode.tolist()]
                assert (numbers >= 0).all() and (numbers <= torch.tensor(longest)).all()
                assert len(numbers.unique()) > 10
                rest = rest - 0.01 * numbers[:, None]
            assert rest.abs().max() < 1e-3
    drawn = draw_sample(CLEAN, marked_population("q", 100.0), [0], 50, np.random.default_rng(0))
    assert shares(drawn.clean).keys() == {0.0, 3.0}  # the clean population is as it was


def test_map_reaches_the_windows_of_both_classes_only() -> None:
    sample = draw_sample(CLEAN, marked_population("a", 9.0), [0], 600, np.random.default_rng(0))
    mapped = sample.map(lambda windows: windows + 1.0)
    assert torch.equal(mapped.clean, sample.clean + 1.0)
    assert torch.equal(mapped.corrupt, sample.corrupt + 1.0)
    assert mapped.clean_episode is sample.clean_episode
    assert mapped.corrupt_episode is sample.corrupt_episode


def random_sample(seed: int, rows: int = 400) -> Sample:
    """Correlated clean windows, and corrupt ones with a covariance of their own."""
    rng = np.random.default_rng(seed)

    def draw() -> Tensor:
        values = rng.normal(size=(rows, DIM)) @ rng.normal(size=(DIM, DIM))
        return torch.from_numpy(values + rng.normal(size=DIM)).float()

    return Sample(draw(), draw(), torch.arange(rows), torch.arange(rows))


def joint_covariance(sample: Sample) -> np.ndarray:
    """Clean, plus a tenth of the corrupt set's, scaled down to the clean set's trace."""
    clean, corrupt = (np.cov(x.double().numpy().T) for x in (sample.clean, sample.corrupt))
    return np.asarray(clean + 0.1 * corrupt * min(1.0, np.trace(clean) / np.trace(corrupt)))


@pytest.mark.parametrize("seed", range(3))
def test_the_basis_is_orthonormal_and_diagonalises_clean_and_corrupt_together(seed: int) -> None:
    seen, unseen = random_sample(seed), random_sample(seed + 10)
    mean, basis, variance = find_basis(seen, unseen)
    np.testing.assert_allclose(mean, seen.clean.mean(dim=0), atol=1e-5)
    np.testing.assert_allclose(basis.T @ basis, np.eye(DIM), atol=1e-5)
    turned = basis.double().numpy().T @ joint_covariance(seen) @ basis.double().numpy()
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


def test_a_corrupt_set_does_not_dominate_the_basis_however_large_its_values() -> None:
    seen, unseen = random_sample(0), random_sample(1)
    larger, largest = (
        Sample(seen.clean, by * seen.corrupt, seen.clean_episode, seen.corrupt_episode)
        for by in (10.0, 1e4)
    )
    _, basis, variance = find_basis(larger, unseen)
    _, same, equal = find_basis(largest, unseen)
    np.testing.assert_allclose((basis.T @ same).abs(), np.eye(DIM), atol=1e-3)
    np.testing.assert_allclose(equal, variance, rtol=1e-3)


def test_the_last_coordinates_stay_as_they_are_where_no_noise_hides_them() -> None:
    seen, unseen = random_sample(0), random_sample(1)
    mean, basis, variance = find_basis(seen, unseen, condition_dim=2)
    shown, moved = basis[:, -2:], slice(0, DIM - 2)
    assert torch.equal(shown, torch.eye(DIM)[:, -2:])
    assert torch.equal(basis[-2:, moved], torch.zeros(2, DIM - 2))
    known, held = ((s.clean[:, -2:] - mean[-2:]).square().mean(dim=0) for s in (seen, unseen))
    torch.testing.assert_close(variance[-2:], torch.maximum(known, held))
    others = [s.map(lambda x: x[:, moved]) for s in (seen, unseen)]
    for one, other in zip(
        (mean[moved], basis[moved, moved], variance[moved]), find_basis(*others), strict=True
    ):
        torch.testing.assert_close(one.abs(), other.abs(), rtol=1e-3, atol=1e-3)


def test_windows_of_one_number_and_constant_windows_have_a_basis() -> None:
    one, number = torch.tensor([[1.0], [3.0]]), torch.arange(2)
    sample = Sample(one, one, number, number)
    mean, basis, variance = find_basis(sample, sample)
    assert (mean.tolist(), basis.abs().tolist(), variance.tolist()) == ([2.0], [[1.0]], [1.0])
    still = sample.map(lambda windows: torch.zeros(2, 3))
    _, basis, variance = find_basis(still, still)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-6)
    assert variance.tolist() == [0.0, 0.0, 0.0]
