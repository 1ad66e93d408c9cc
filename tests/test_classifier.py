"""The classifier against distributions whose best answer is known, and against its own leaks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from oracle_study import (
    SIGMA,
    THROUGH_NOISE,
    cross,
    gaussian_episodes,
    gaussian_sigma_min,
    make_arm,
)

from ambient_curate.classifier import FitOptions, fit_fold
from ambient_curate.training import TrainOptions

QUICK = FitOptions(
    folds=3, windows=4096, held_out=1024, batch=128, train=TrainOptions(steps=300, warm_up=20)
)


def direction(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    vector = rng.normal(size=shape)
    return vector / np.linalg.norm(vector)


def test_gaussians_cross_where_the_closed_form_says() -> None:
    rng = np.random.default_rng(0)
    mean = direction(rng, (2, 2))
    clean = gaussian_episodes(rng, 200, np.zeros((2, 2)), 0.04)
    corrupt = gaussian_episodes(rng, 400, mean, 0.04)
    (found,) = cross(clean, [corrupt], horizon=2, options=QUICK)
    assert found.sigma_min == pytest.approx(gaussian_sigma_min(1.0, 0.04), abs=0.06)
    assert found.lower <= found.sigma_min <= found.upper


def test_equal_distributions_give_zero() -> None:
    rng = np.random.default_rng(1)
    sets = [gaussian_episodes(rng, count, np.zeros((2, 2)), 1.0) for count in (60, 90)]
    (found,) = cross(sets[0], sets[1:], horizon=2, options=QUICK)
    assert found.sigma_min == 0.0


def walks(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Episodes that a classifier can learn by heart: each stays near a place of its own."""
    return [rng.normal(size=2) + 0.02 * rng.normal(size=(12, 2)) for _ in range(count)]


def test_an_episode_is_never_scored_by_a_network_that_saw_it() -> None:
    rng = np.random.default_rng(2)
    clean, corrupt = walks(rng, 24), walks(rng, 24)
    p, q = make_arm("p", clean, 2, 3), make_arm("q", corrupt, 2, 3)
    torch.set_num_threads(1)
    network = fit_fold(p, [q], 0, THROUGH_NOISE, QUICK)

    def accuracy(folds: list[int]) -> float:
        """Balanced accuracy at the lowest noise, uncalibrated: which side of zero the logit is."""
        hits = []
        for arm, sign in ((p, 1.0), (q, -1.0)):
            for episode in arm.in_folds(folds):
                windows = arm.windows.of_episode(int(episode)).flatten(1)
                with torch.inference_mode():
                    logits = network.network(
                        network.network.project(windows)[None], torch.tensor([7.0])
                    )
                hits.append(float(((logits[..., 0] - logits[..., 1]) * sign > 0).float().mean()))
        return float(np.mean(hits))

    assert accuracy([2]) > 0.8  # by heart
    (found,) = cross(clean, [corrupt], horizon=2, options=QUICK)
    assert found.sigma_min == 0.0  # and yet no difference is claimed
    assert abs(0.5 * (found.clean[3] + found.corrupt[3])[0] - 0.5) < 0.15


def test_three_atoms_learn_the_exact_posterior() -> None:
    """p uniform on {0, 1}, q on {-1, 0}: c* is known at every point and level."""
    rng = np.random.default_rng(3)
    clean = [np.array([[float(atom)]]) for atom in rng.integers(0, 2, 150)]
    corrupt = [np.array([[float(atom)]]) for atom in rng.integers(-1, 1, 150)]
    p, q = make_arm("p", clean, 1, 3), make_arm("q", corrupt, 1, 3)
    network = fit_fold(p, [q], 0, THROUGH_NOISE, QUICK)
    noise = torch.randn(3, 500, 1, generator=torch.Generator().manual_seed(0))
    windows = torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1)
    for level in (20, 45, 70):
        c = network.predict(windows, noise, [0], slice(level, level + 1))[0, ..., 0].numpy()
        sigma = SIGMA[level]
        a = np.sqrt(1 - sigma**2)
        basis = float(network.network.basis[0, 0])
        x = a * windows[:, :, 0].numpy() + sigma * noise[..., 0].numpy() * basis
        p0, p1, pm = (np.exp(-((x - a * m) ** 2) / (2 * sigma**2)) for m in (0, 1, -1))
        exact = (p0 + p1) / (p0 + p1 + p0 + pm)
        assert np.abs(c.mean(axis=1) - exact.mean(axis=1)).max() < 0.06


def test_a_network_that_spoils_what_the_moments_say_is_not_relied_on() -> None:
    """Normal laws, a step so large that the network's part is noise: the ratio alone is kept."""
    rng = np.random.default_rng(7)
    mean = direction(rng, (2, 2))
    clean = gaussian_episodes(rng, 90, np.zeros((2, 2)), 0.04)
    corrupt = gaussian_episodes(rng, 90, mean, 0.04)
    p, q = make_arm("p", clean, 2, 3), make_arm("q", corrupt, 2, 3)
    good = fit_fold(p, [q], 0, THROUGH_NOISE, QUICK)
    wild = replace(QUICK, train=TrainOptions(steps=20, warm_up=0, learning_rate=3.0))
    spoilt = fit_fold(p, [q], 0, THROUGH_NOISE, wild)
    assert spoilt.network.reliance.tolist() == [1.0]
    noise = torch.randn(200, 1, 4, generator=torch.Generator().manual_seed(0))
    windows = torch.from_numpy(mean).float() + 0.2 * noise.reshape(200, 2, 2)
    level = slice(60, 61)
    found, expected = (each.predict(windows, noise, [0], level) for each in (spoilt, good))
    assert float((found - expected).abs().mean()) < 0.05


@pytest.mark.slow
def test_two_corrupt_sets_in_one_network_equal_two_networks() -> None:
    rng = np.random.default_rng(4)
    mean = direction(rng, (4, 2))
    clean = gaussian_episodes(rng, 300, np.zeros((4, 2)), 0.04)
    near = gaussian_episodes(rng, 600, 0.4 * mean, 0.04)
    far = gaussian_episodes(rng, 600, 2.0 * mean, 0.04)
    both = cross(clean, [near, far], horizon=4, options=FitOptions())
    alone = [cross(clean, [corrupt], horizon=4, options=FitOptions())[0] for corrupt in (near, far)]
    for one, other, distance in zip(both, alone, (0.4, 2.0), strict=True):
        assert one.sigma_min == pytest.approx(other.sigma_min, abs=0.04)
        assert one.sigma_min == pytest.approx(gaussian_sigma_min(distance, 0.04), abs=0.06)
        print(distance, gaussian_sigma_min(distance, 0.04), one.sigma_min, other.sigma_min)


@pytest.mark.slow
def test_fifty_against_five_thousand_equals_balanced() -> None:
    rng = np.random.default_rng(5)
    mean = direction(rng, (2, 2))
    clean = gaussian_episodes(rng, 50, np.zeros((2, 2)), 0.04)
    corrupt = gaussian_episodes(rng, 5000, mean, 0.04)
    exact = gaussian_sigma_min(1.0, 0.04)
    (unbalanced,) = cross(clean, [corrupt], horizon=2, options=FitOptions())
    (balanced,) = cross(clean, [corrupt[:50]], horizon=2, options=FitOptions())
    print(exact, unbalanced.sigma_min, balanced.sigma_min, (balanced.lower, balanced.upper))
    assert unbalanced.sigma_min == pytest.approx(exact, abs=0.06)
    assert balanced.sigma_min == pytest.approx(unbalanced.sigma_min, abs=0.08)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("distance", "variance"), [(1.0, 0.04), (2.0, 1.0)])
def test_gaussian_oracle_at_full_size(distance: float, variance: float) -> None:
    """500 clean and 5,000 corrupt episodes, 10 seeds: mean error <= .03, none over .06."""
    exact = gaussian_sigma_min(distance, variance)
    errors = []
    for seed in range(10):
        rng = np.random.default_rng([seed, 6])
        mean = distance * direction(rng, (4, 2))
        clean = gaussian_episodes(rng, 500, np.zeros((4, 2)), variance)
        corrupt = gaussian_episodes(rng, 5000, mean, variance)
        (found,) = cross(clean, [corrupt], horizon=4, options=FitOptions(seed=seed))
        errors.append(abs(found.sigma_min - exact))
        print(f"seed {seed}: {found.sigma_min:.3f} against {exact:.3f}", flush=True)
    print(f"mean error {np.mean(errors):.4f}, worst {np.max(errors):.4f}")
    assert np.mean(errors) <= 0.03
    assert np.max(errors) <= 0.06
