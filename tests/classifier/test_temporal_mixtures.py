"""Temporal mixtures against closed forms: densities, one component or several, known log-ratios."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from ambient_curate.classifier.samples import Sample
from ambient_curate.classifier.temporal_mixtures import (
    COMPONENTS,
    Mixture,
    MixtureRatio,
    fit_mixture,
)

HORIZON, ACTION = 8, 2
DIM = HORIZON * ACTION
LEVELS = torch.tensor([-3.0, 0.0, 3.0, 5.0])
pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def walk_covariance(step: float = 0.3) -> np.ndarray:
    """Correlation of neighbouring frames e^-step: smooth motion of unit variance."""
    apart = np.abs(np.subtract.outer(np.arange(HORIZON), np.arange(HORIZON)))
    return np.exp(-step * apart)


def held(phase: int, frames: int = 2) -> np.ndarray:
    """Matrix that holds commands for so many frames, of windows begun at a phase."""
    first = np.maximum((np.arange(HORIZON) + phase) // frames * frames - phase, 0)
    return np.eye(HORIZON)[first]


def held_covariances() -> list[np.ndarray]:
    """Temporal covariances of held smooth commands, by phase."""
    return [held(phase) @ walk_covariance() @ held(phase).T for phase in range(2)]


def draw(covariances: list[np.ndarray], count: int, rng: np.random.Generator) -> Tensor:
    """Flattened windows of an even mixture, its dimensions independent and alike."""
    chosen = rng.integers(len(covariances), size=count)
    values, vectors = np.linalg.eigh(np.stack(covariances))
    factors = vectors * np.sqrt(np.maximum(values, 0.0))[:, None]
    noise = rng.normal(size=(count, HORIZON, ACTION))
    return torch.from_numpy((factors[chosen] @ noise).reshape(count, -1)).float()


def log_density(covariances: list[np.ndarray], noised: Tensor, log_snr: float) -> np.ndarray:
    """Exact log-density of noised windows under an even mixture."""
    signal, noise = 1.0 / (1.0 + math.exp(-log_snr)), 1.0 / (1.0 + math.exp(log_snr))
    logs = [
        multivariate_normal(
            np.zeros(DIM), signal * np.kron(cov, np.eye(ACTION)) + noise * np.eye(DIM)
        ).logpdf(noised.double().numpy())
        for cov in covariances
    ]
    return np.asarray(np.logaddexp.reduce(logs, axis=0) - math.log(len(covariances)))


def add_noise(rows: Tensor, log_snr: Tensor, seed: int = 5) -> Tensor:
    """Rows at every level, with fresh noise: (level, row, dim)."""
    z = torch.randn(len(log_snr), *rows.shape, generator=seeded(seed))
    signal, spread = (torch.sigmoid(x).sqrt()[:, None, None] for x in (log_snr, -log_snr))
    return signal * rows + spread * z


def make_sample(clean: Tensor, corrupt: Tensor) -> Sample:
    return Sample(clean, corrupt, torch.arange(len(clean)) % 30, torch.arange(len(corrupt)) % 30)


def random_mixture() -> Mixture:
    """Three components with means, variances and temporal covariances of their own."""
    rng = np.random.default_rng(3)
    factors = rng.normal(size=(3, HORIZON, HORIZON)) / HORIZON**0.5
    eigen, basis = np.linalg.eigh(factors @ factors.transpose(0, 2, 1))
    parts = (
        np.array([0.2, 0.5, 0.3]),
        rng.normal(size=(3, ACTION)),
        rng.uniform(0.2, 2.0, (3, ACTION)),
        np.maximum(eigen, 0.0),
        basis,
    )
    return Mixture(*(torch.from_numpy(each).float() for each in parts))


@pytest.mark.parametrize("log_snr", [-2.0, 1.0, 4.0])
def test_the_log_density_is_that_of_normal_laws(log_snr: float) -> None:
    law, x = random_mixture(), torch.randn(40, HORIZON, ACTION, generator=seeded())
    signal, noise = 1.0 / (1.0 + math.exp(-log_snr)), 1.0 / (1.0 + math.exp(log_snr))
    exact = np.zeros(len(x))
    for k, weight in enumerate(law.weight.tolist()):
        basis = law.basis[k].double().numpy()
        temporal = basis @ np.diag(law.eigen[k].double().numpy()) @ basis.T
        covariance = signal * np.kron(temporal, np.diag(law.spread[k].double().numpy()))
        mean = signal**0.5 * np.tile(law.mean[k].double().numpy(), HORIZON)
        each = multivariate_normal(mean, covariance + noise * np.eye(DIM))
        exact += weight * each.pdf(x.double().flatten(1).numpy())
    found = law.log_density(x[None], torch.tensor([log_snr]))[0].double().numpy()
    constant = 0.5 * DIM * math.log(2.0 * math.pi)
    np.testing.assert_allclose(found, np.log(exact) + constant, atol=2e-3, rtol=1e-4)


def test_a_single_component_has_the_moments_of_the_windows() -> None:
    rng = np.random.default_rng(0)
    spread, mean = np.array([0.5, 3.0]), np.array([1.0, -2.0])
    factor = np.linalg.cholesky(walk_covariance())
    x = mean + factor @ rng.normal(size=(8_000, HORIZON, ACTION)) * np.sqrt(spread)
    law = fit_mixture(torch.from_numpy(x).float(), 1, 1e-3, seeded())
    temporal = law.basis[0] @ torch.diag(law.eigen[0]) @ law.basis[0].T
    assert law.weight.tolist() == [1.0]
    np.testing.assert_allclose(law.mean[0], mean, atol=0.06)
    np.testing.assert_allclose(law.spread[0], spread, rtol=0.03)
    np.testing.assert_allclose(temporal, walk_covariance(), atol=0.05)
    assert float(temporal.diagonal().mean()) == pytest.approx(1.0, abs=1e-4)


def test_a_single_component_holds_every_window_whatever_is_drawn() -> None:
    """Memberships begin as powers of random numbers, of which some are next to 0."""
    rows = torch.randn(30_000, 1, 1, generator=seeded())
    for seed in range(40):
        law = fit_mixture(rows, 1, 1e-3, seeded(seed))
        assert float(law.spread[0, 0]) == pytest.approx(float(rows.var()), rel=1e-3)


def test_a_mixture_finds_the_phases_of_held_commands() -> None:
    rows = draw(held_covariances(), 2_000, np.random.default_rng(1)).unflatten(1, (HORIZON, ACTION))
    law = fit_mixture(rows, 2, 1e-2, seeded())
    np.testing.assert_allclose(law.weight.numpy(), 0.5, atol=0.05)
    found = [
        (basis @ torch.diag(eigen) @ basis.T).numpy()
        for eigen, basis in zip(law.eigen, law.basis, strict=True)
    ]
    exact = [each / np.diag(each).mean() for each in held_covariances()]
    apart = [
        max(np.abs(f - e).max() for f, e in zip(found, exact[::by], strict=True)) for by in (1, -1)
    ]
    assert min(apart) < 0.1 < max(apart)


def test_the_likelihood_of_a_fit_is_no_less_than_that_of_the_true_law() -> None:
    rows = draw(held_covariances(), 2_000, np.random.default_rng(2))
    noised, level = add_noise(rows, torch.tensor([4.0]))[0], 4.0
    law = fit_mixture(rows.unflatten(1, (HORIZON, ACTION)), 2, math.exp(-level), seeded())
    rows = noised.unflatten(1, (HORIZON, ACTION))
    found = law.log_density(rows[None], torch.tensor([level]))[0]
    exact = log_density(held_covariances(), noised, level) + 0.5 * DIM * math.log(2.0 * math.pi)
    assert float(found.mean()) > exact.mean() - 0.1


def test_the_log_ratio_of_held_commands_is_found_with_the_phase_unknown() -> None:
    rng = np.random.default_rng(4)
    clean, corrupt = [walk_covariance()], held_covariances()
    seen, unseen = (make_sample(draw(clean, n, rng), draw(corrupt, n, rng)) for n in (2_048, 800))
    ratio = MixtureRatio(HORIZON, ACTION).fit(seen, unseen, float(LEVELS[-1]), seeded())
    rows = torch.cat([draw(clean, 300, rng), draw(corrupt, 300, rng)])
    noised = add_noise(rows, LEVELS)
    logits = ratio(noised, LEVELS)
    assert logits.shape == (len(LEVELS), 600, 1)
    for level, x, found in zip(
        LEVELS.tolist(), noised, logits[..., 0].double().numpy(), strict=True
    ):
        exact = log_density(clean, x, level) - log_density(corrupt, x, level)
        loss, least = (
            np.logaddexp(0.0, np.where(np.arange(600) < 300, -each, each)).mean()
            for each in (found, exact)
        )
        assert np.abs(np.tanh(found / 2) - np.tanh(exact / 2)).mean() < 0.05
        assert loss < least + 0.02
    assert least < 0.1  # hardly any noise: held commands are plain to see
    average = [sum(corrupt) / 2]
    single = log_density(clean, x, level) - log_density(average, x, level)
    assert np.abs(np.tanh(single / 2) - np.tanh(exact / 2)).mean() > 0.1  # which one law misses


def test_one_component_is_kept_where_one_is_right_and_several_where_they_are() -> None:
    rng = np.random.default_rng(5)
    laws = [walk_covariance()], held_covariances()
    seen, unseen = (make_sample(*(draw(law, n, rng) for law in laws)) for n in (1_500, 800))
    ratio = MixtureRatio(HORIZON, ACTION).fit(seen, unseen, 5.0, seeded())
    assert (ratio.clean_weight > 0).sum() == 1
    assert (ratio.corrupt_weight > 0).sum() == COMPONENTS


def test_equal_laws_have_a_log_ratio_of_about_nothing() -> None:
    rng = np.random.default_rng(6)
    law = held_covariances()
    seen, unseen = (make_sample(draw(law, n, rng), draw(law, n, rng)) for n in (2_048, 800))
    ratio = MixtureRatio(HORIZON, ACTION).fit(seen, unseen, 3.0, seeded())
    noised = add_noise(draw(law, 500, rng), LEVELS[:3])
    assert float(ratio(noised, LEVELS[:3]).abs().mean()) < 0.5
    assert float(ratio(noised[:1], LEVELS[:1]).abs().mean()) < 0.1  # noise hides chance too


def test_a_shift_of_the_clean_windows_and_values_behind_them_change_nothing() -> None:
    """The centre is the clean set's mean; what is known beside the actions is not looked at."""
    rng = np.random.default_rng(7)
    laws = [walk_covariance()], held_covariances()
    seen, unseen = (make_sample(*(draw(law, n, rng) for law in laws)) for n in (500, 300))
    moved = [part.map(lambda x: torch.cat([x + 3.0, 9.0 * x[:, :3]], 1)) for part in (seen, unseen)]
    plain = MixtureRatio(HORIZON, ACTION).fit(seen, unseen, 3.0, seeded())
    shifted = MixtureRatio(HORIZON, ACTION).fit(*moved, 3.0, seeded())
    noised = add_noise(unseen.corrupt[:50], LEVELS)
    there = noised + 3.0 * torch.sigmoid(LEVELS).sqrt()[:, None, None]
    wider = torch.cat([there, torch.full((len(LEVELS), 50, 3), torch.nan)], dim=2)
    torch.testing.assert_close(shifted(wider, LEVELS), plain(noised, LEVELS), atol=0.05, rtol=0.02)


def test_a_dimension_that_does_not_move_has_finite_densities() -> None:
    rng = np.random.default_rng(8)
    rows = [draw(held_covariances(), 300, rng) for _ in range(2)]
    for each in rows:
        each.unflatten(1, (HORIZON, ACTION))[..., 0] = 0.0
    sample = make_sample(rows[0], rows[1])
    ratio = MixtureRatio(HORIZON, ACTION).fit(sample, sample, 8.0, seeded())
    assert torch.isfinite(ratio(add_noise(rows[0], LEVELS), LEVELS)).all()


def test_a_seed_decides_the_fit_and_its_state_is_all_there_is_of_it() -> None:
    rng = np.random.default_rng(9)
    laws = [walk_covariance()], held_covariances()
    seen, unseen = (make_sample(*(draw(law, n, rng) for law in laws)) for n in (400, 200))
    one, same = (
        MixtureRatio(HORIZON, ACTION).fit(seen, unseen, 3.0, seeded(seed)) for seed in (1, 1)
    )
    again = MixtureRatio(HORIZON, ACTION)
    again.load_state_dict(one.state_dict())
    noised = add_noise(unseen.clean, LEVELS)
    assert torch.equal(one(noised, LEVELS), same(noised, LEVELS))
    assert torch.equal(one(noised, LEVELS), again(noised, LEVELS))
    assert not list(one.parameters())


def test_levels_do_not_see_one_another() -> None:
    sample = make_sample(*(draw(held_covariances(), 200, np.random.default_rng(s)) for s in (1, 2)))
    ratio = MixtureRatio(HORIZON, ACTION).fit(sample, sample, 3.0, seeded())
    noised = add_noise(sample.clean, LEVELS)
    together = ratio(noised, LEVELS)
    for number in range(len(LEVELS)):
        alone = ratio(noised[number : number + 1], LEVELS[number : number + 1])
        torch.testing.assert_close(alone[0], together[number])
