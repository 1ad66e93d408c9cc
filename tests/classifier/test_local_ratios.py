"""Local log-ratios against closed forms: independent frames, Markov chains, nothing to tell."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from ambient_curate.classifier.local_ratios import LocalRatios, _fit_logistic, _Rows
from ambient_curate.classifier.samples import Sample

HORIZON = 12
LEVELS = torch.tensor([-4.0, -1.0, 1.0, 2.5, 4.0])
pytestmark = pytest.mark.usefixtures("one_thread")


def make_sample(clean: np.ndarray, corrupt: np.ndarray) -> Sample:
    """Of windows (row, frame, action), in 30 episodes a class."""
    rows = (torch.from_numpy(x).float().flatten(1) for x in (clean, corrupt))
    return Sample(*rows, torch.arange(len(clean)) % 30, torch.arange(len(corrupt)) % 30)


def add_noise(rows: Tensor, log_snr: Tensor, seed: int = 5) -> Tensor:
    """Rows at every level, with fresh noise: (level, row, dim)."""
    z = torch.randn(len(log_snr), *rows.shape, generator=seeded(seed))
    signal, spread = (torch.sigmoid(x).sqrt()[:, None, None] for x in (log_snr, -log_snr))
    return signal * rows + spread * z


def scales(log_snr: float) -> tuple[float, float]:
    """Signal and noise standard deviation of a level."""
    return (1.0 / (1.0 + math.exp(-log_snr))) ** 0.5, (1.0 / (1.0 + math.exp(log_snr))) ** 0.5


def signs(rng: np.random.Generator, count: int) -> np.ndarray:
    """Independent frames of two points."""
    return rng.choice([-1.0, 1.0], size=(count, HORIZON, 1))


def toggles(rng: np.random.Generator, count: int, stay: float) -> np.ndarray:
    """A gripper that is open or closed, and stays so from frame to frame with a probability."""
    changes = np.where(rng.random((count, HORIZON, 1)) < stay, 1.0, -1.0)
    changes[:, 0] = rng.choice([-1.0, 1.0], size=(count, 1))
    return changes.cumprod(axis=1)


def filter_forward(noised: np.ndarray, log_snr: float, stay: float) -> np.ndarray:
    """Exact log-density of noised toggles, by forward filtering; noised of shape (row, frame)."""
    a, sigma = scales(log_snr)
    seen = norm.pdf(noised[..., None], a * np.array([-1.0, 1.0]), sigma)
    move = np.array([[stay, 1.0 - stay], [1.0 - stay, stay]])
    ahead, logs = 0.5 * seen[:, 0], np.zeros(len(noised))
    for frame in range(HORIZON):
        if frame:
            ahead = ahead @ move * seen[:, frame]
        total = ahead.sum(axis=1, keepdims=True)
        logs, ahead = logs + np.log(total[:, 0]), ahead / total
    return logs


def compare(found: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """Mean error of 2 P(clean) - 1, and what is lost of the least cross-entropy; half is clean."""
    is_clean = np.arange(len(found)) < len(found) // 2
    losses = [np.logaddexp(0.0, np.where(is_clean, -x, x)).mean() for x in (found, exact)]
    error = np.abs(np.tanh(found / 2.0) - np.tanh(exact / 2.0)).mean()
    return float(error), float(losses[0] - losses[1])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fit(
    seen: Sample, unseen: Sample, *, action: int = 1, seed: int = 0, chains: bool = False
) -> LocalRatios:
    ratios = LocalRatios(HORIZON, action, len(LEVELS), chains=chains)
    return ratios.fit(seen, unseen, LEVELS, seeded(seed))


@pytest.fixture(scope="module", params=[False, True], ids=["tables", "chains"])
def two_points(request: pytest.FixtureRequest) -> tuple[LocalRatios, Sample]:
    """Frames of two points against normal ones of the same mean and variance."""
    rng = np.random.default_rng(0)
    seen, unseen = (
        make_sample(signs(rng, n), rng.normal(size=(n, HORIZON, 1))) for n in (1_500, 400)
    )
    return fit(seen, unseen, chains=request.param), unseen


def test_two_points_are_told_from_a_normal_law_of_the_same_moments(
    two_points: tuple[LocalRatios, Sample],
) -> None:
    rng, ratios = np.random.default_rng(1), two_points[0]
    rows = make_sample(signs(rng, 400), rng.normal(size=(400, HORIZON, 1)))
    noised = add_noise(torch.cat([rows.clean, rows.corrupt]), LEVELS)
    logits = ratios(noised, LEVELS)
    assert logits.shape == (len(LEVELS), 800, 1)
    known = []
    for snr, x, found in zip(LEVELS.tolist(), noised.double().numpy(), logits[..., 0], strict=True):
        a, sigma = scales(snr)
        density = (norm.pdf(x, a, sigma) + norm.pdf(x, -a, sigma)) / 2.0
        exact = (np.log(density) - norm.logpdf(x)).sum(axis=1)
        error, lost = compare(found.double().numpy(), exact)
        known.append(np.abs(np.tanh(exact / 2.0)).mean())
        assert error < 0.12, snr
        assert lost < 0.025, snr
    assert known[0] < 0.01  # noise hides all
    assert known[-1] > 0.95  # hardly anything


def test_toggles_of_another_rate_are_found_as_by_forward_filtering() -> None:
    rng = np.random.default_rng(2)
    seen, unseen, further = (
        make_sample(toggles(rng, n, 0.95), toggles(rng, n, 0.6)) for n in (1_500, 400, 400)
    )
    ratios = fit(seen, unseen, chains=True)
    noised = add_noise(torch.cat([further.clean, further.corrupt]), LEVELS)
    logits, known = ratios(noised, LEVELS)[..., 0].double().numpy(), []
    for snr, x, found in zip(LEVELS.tolist(), noised.double().numpy(), logits, strict=True):
        exact = filter_forward(x, snr, 0.95) - filter_forward(x, snr, 0.6)
        error, lost = compare(found, exact)
        known.append(np.abs(np.tanh(exact / 2.0)).mean())
        assert error < 0.1, snr
        assert lost < 0.025, snr
    assert known[-1] > 0.7


@pytest.mark.parametrize("chains", [False, True])
def test_equal_laws_have_log_odds_of_about_nothing(chains: bool) -> None:
    rng = np.random.default_rng(3)
    seen, unseen, further = (
        make_sample(toggles(rng, n, 0.8), toggles(rng, n, 0.8)) for n in (1_500, 400, 400)
    )
    logits = fit(seen, unseen, chains=chains)(add_noise(further.clean, LEVELS), LEVELS)
    assert float(logits.abs().mean()) < 0.1
    assert float(logits[0].abs().mean()) < 0.1  # noise hides chance too


def test_answers_are_the_features_times_the_weights_that_were_fitted(
    two_points: tuple[LocalRatios, Sample],
) -> None:
    ratios, sample = two_points
    noised = add_noise(sample.clean[:40], LEVELS)
    centre = torch.sigmoid(LEVELS).sqrt()[:, None, None, None] * ratios.centre
    frames = noised.unflatten(-1, (HORIZON, 1)) - centre
    values = ratios._read(frames, torch.arange(len(LEVELS)), -1)
    splines = ratios.splines[:, None].expand(-1, 40, -1)
    products = (values[..., None] * splines[:, :, None]).flatten(2)
    exact = torch.cat([products, splines[..., 2:]], dim=2) @ ratios.weight
    found = ratios(noised, LEVELS)[..., 0]
    torch.testing.assert_close(found, exact, atol=1e-4, rtol=1e-4)
    assert found.std() > 1.0


def test_levels_do_not_see_one_another_and_the_nearest_of_the_lattice_is_read(
    two_points: tuple[LocalRatios, Sample],
) -> None:
    ratios, sample = two_points
    noised = add_noise(sample.clean[:20], LEVELS)
    together = ratios(noised, LEVELS)
    for number, level in enumerate(LEVELS):
        alone = ratios(noised[number][None], level[None] + 0.3)
        torch.testing.assert_close(alone[0], together[number], atol=1e-4, rtol=1e-4)
    one = ratios(noised[:, 7:8], LEVELS)
    torch.testing.assert_close(one[:, 0], together[:, 7], atol=1e-4, rtol=1e-4)


def test_its_state_is_all_there_is_of_it_and_values_behind_a_window_are_ignored(
    two_points: tuple[LocalRatios, Sample],
) -> None:
    ratios, sample = two_points
    again = LocalRatios(HORIZON, 1, len(LEVELS), chains=len(ratios.kinds) == 1)
    again.load_state_dict(ratios.state_dict())
    noised = add_noise(sample.corrupt[:20], LEVELS)
    wider = torch.cat([noised, torch.full((len(LEVELS), 20, 2), torch.nan)], dim=2)
    assert torch.equal(again(wider, LEVELS), ratios(noised, LEVELS))
    assert not list(ratios.parameters())


def test_a_seed_decides_the_fit_whatever_is_known_beside_the_actions() -> None:
    rng = np.random.default_rng(4)
    seen, unseen = (
        make_sample(rng.normal(size=(n, HORIZON, 2)), 1.5 * rng.normal(size=(n, HORIZON, 2)))
        for n in (300, 200)
    )
    told = [part.map(lambda x: torch.cat([x, 9.0 * x[:, :3]], dim=1)) for part in (seen, unseen)]
    plain, wider, other = (
        fit(seen, unseen, action=2),
        fit(*told, action=2),
        fit(seen, unseen, action=2, seed=1),
    )
    torch.testing.assert_close(plain.weight, wider.weight, atol=5e-3, rtol=0.01)
    assert torch.equal(plain.weight, fit(seen, unseen, action=2).weight)
    assert not torch.equal(plain.weight, other.weight)


@pytest.mark.parametrize("chains", [False, True])
@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_short_windows_a_constant_dimension_and_one_episode_have_finite_log_odds(
    horizon: int, chains: bool
) -> None:
    rng = np.random.default_rng(6)
    rows = torch.from_numpy(rng.normal(size=(2, 200, horizon, 2))).float()
    rows[..., 1] = 0.25
    rows[1, ..., 0] *= 3.0
    same = torch.zeros(200, dtype=torch.int64)
    sample = Sample(rows[0].flatten(1), rows[1].flatten(1), same, same)
    ratios = LocalRatios(horizon, 2, len(LEVELS), chains=chains)
    ratios.fit(sample, sample, LEVELS, seeded())
    logits = ratios(add_noise(sample.clean, LEVELS), LEVELS)
    assert torch.isfinite(logits).all()
    assert logits[-1].mean() > 0.1
    assert logits[0].abs().mean() < 0.3
    far = ratios(add_noise(1e6 * sample.clean, LEVELS), LEVELS)
    assert torch.isfinite(far).all()


def test_the_weights_are_those_of_a_balanced_logistic_regression_with_a_ridge() -> None:
    rng = np.random.default_rng(11)
    x = rng.normal(size=(900, 4))
    y = rng.random(900) < 1.0 / (1.0 + np.exp(-(x @ [1.0, -0.5, 0.0, 2.0]) + 1.0))
    weight = np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum())
    model = LogisticRegression(C=1.0 / 0.01, fit_intercept=False, tol=1e-8)
    exact = model.fit(x, y, sample_weight=weight).coef_[0]
    found = _fit_logistic(
        _Rows(torch.from_numpy(x).float(), torch.from_numpy(y).float()),
        torch.full((4,), 0.01, dtype=torch.float64),
        torch.zeros(4, dtype=torch.float64),
    )
    np.testing.assert_allclose(found, exact, atol=2e-3)
