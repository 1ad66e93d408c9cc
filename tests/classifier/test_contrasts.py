"""Contrasts: right where there is much evidence, nothing where there is only chance."""

import numpy as np
import pytest
import torch

from ambient_curate.classifier.samples import BLOCK, CAUTION, Sample, find_contrast

DIM = 2 * BLOCK


def make_sample(
    rng: np.random.Generator,
    *,
    episodes: int = 12,
    windows: int = 20,
    shift: np.ndarray | float = 0.0,
    wider: np.ndarray | float = 1.0,
) -> Sample:
    """Windows of an episode lie around a centre of its own: half of the variance is between."""

    def draw() -> np.ndarray:
        centre = rng.normal(size=(episodes, 1, DIM))
        return (centre + rng.normal(size=(episodes, windows, DIM))).reshape(-1, DIM) / 2**0.5

    clean, corrupt = draw(), shift + wider * draw()
    episode = torch.arange(episodes).repeat_interleave(windows)
    return Sample(
        torch.from_numpy(clean).float(), torch.from_numpy(corrupt).float(), episode, episode
    )


ONES = torch.ones(DIM)


def test_with_many_episodes_the_moments_are_those_of_the_sample() -> None:
    rng = np.random.default_rng(0)
    shift, wider = np.linspace(2.0, 4.0, DIM), np.linspace(2.0, 4.0, DIM)
    sample = make_sample(rng, episodes=400, shift=shift, wider=wider)
    clean, corrupt, variance = find_contrast(sample, sample.clean.var(dim=0))
    assert clean.shape == corrupt.shape == variance.shape == (DIM,)
    assert clean.dtype == corrupt.dtype == variance.dtype == torch.float32
    torch.testing.assert_close(clean, sample.clean.mean(dim=0), atol=0.03, rtol=0.0)
    torch.testing.assert_close(corrupt, sample.corrupt.mean(dim=0), atol=0.03, rtol=0.0)
    torch.testing.assert_close(variance, sample.corrupt.var(dim=0), atol=0.0, rtol=0.05)


def test_between_equal_laws_next_to_nothing_is_left() -> None:
    left, raw = np.zeros(2), np.zeros(2)
    for seed in range(100):
        sample = make_sample(np.random.default_rng(seed))
        clean, corrupt, variance = find_contrast(sample, ONES)
        own = sample.corrupt.var(dim=0) / sample.clean.var(dim=0)
        left += [float((corrupt - clean).square().sum()), float(variance.log().square().sum())]
        means = sample.corrupt.mean(dim=0) - sample.clean.mean(dim=0)
        raw += [float(means.square().sum()), float(own.log().square().sum())]
    assert (left < 0.05 * raw).all()


def test_shrinking_lowers_the_error_whether_or_not_a_block_differs() -> None:
    """Squared error of the difference of means, against that of the plain difference."""
    shift = np.where(np.arange(DIM) < BLOCK, 1.0, 0.0)
    errors = np.zeros((2, 2))  # shrunk or plain, block
    for seed in range(100):
        sample = make_sample(np.random.default_rng(seed), shift=shift)
        clean, corrupt, _ = find_contrast(sample, ONES)
        plain = sample.corrupt.mean(dim=0) - sample.clean.mean(dim=0)
        for row, found in enumerate((corrupt - clean, plain)):
            square = (found.double().numpy() - shift) ** 2
            errors[row] += square.reshape(2, BLOCK).sum(axis=1)
    assert errors[0, 0] < 1.3 * errors[1, 0]
    assert errors[0, 1] < 0.05 * errors[1, 1]


def test_more_windows_of_the_same_episodes_are_no_more_evidence() -> None:
    sample = make_sample(np.random.default_rng(3), shift=0.5)
    again = torch.arange(len(sample.clean)).repeat_interleave(7)
    many = Sample(
        sample.clean[again],
        sample.corrupt[again],
        sample.clean_episode[again],
        sample.corrupt_episode[again],
    )
    for one, other in zip(find_contrast(sample, ONES), find_contrast(many, ONES), strict=True):
        torch.testing.assert_close(one, other)


def test_a_difference_is_shrunk_by_its_mean_squared_t() -> None:
    """By hand: two episodes a side, at -1 and 1 and at 9 and 11 in every coordinate."""
    windows = torch.tensor([-1.0, 1.0])[:, None].expand(2, 3).contiguous()
    episode = torch.tensor([5, 8])
    sample = Sample(windows, windows + 10.0, episode, episode)
    clean, corrupt, _ = find_contrast(sample, torch.ones(3))
    error = 2 * 1.0  # of either mean: variance 2 over 2 episodes
    factor = 1.0 - CAUTION / (10.0**2 / error)
    torch.testing.assert_close(corrupt - clean, torch.full((3,), 10.0 * factor))
    torch.testing.assert_close((corrupt + clean) / 2, torch.full((3,), 5.0))


def test_one_episode_says_nothing() -> None:
    sample = make_sample(np.random.default_rng(4), episodes=1, shift=9.0, wider=5.0)
    clean, corrupt, variance = find_contrast(sample, ONES)
    torch.testing.assert_close(clean, corrupt)
    torch.testing.assert_close(variance, ONES)


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_constant_coordinates_have_finite_moments(constant: float) -> None:
    sample = make_sample(np.random.default_rng(6))
    sample.clean[:, 0] = sample.corrupt[:, 0] = constant
    sample.clean[:, 1] = constant
    variance = sample.clean.var(dim=0)
    clean, corrupt, spread = find_contrast(sample, variance)
    assert all(torch.isfinite(each).all() for each in (clean, corrupt, spread))
    assert clean[0] == corrupt[0] == constant
    assert spread[0] < 1e-6
    assert spread[1] > 0.1  # it moves where the clean set does not
