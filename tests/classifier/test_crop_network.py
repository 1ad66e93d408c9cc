"""Crops: what is shown, exact ratios of normal laws, and planted divergences found again."""

import numpy as np
import pytest
import torch
from oracle_study import cross
from planted_bits import crop_divergence, draw_bits
from scipy.stats import multivariate_normal

from ambient_curate.annotation.sigma_max import find_radius
from ambient_curate.classifier.channels import crop_channel
from ambient_curate.classifier.crop_network import (
    CropNetwork,
    order_frames,
    radius_at,
    radius_levels,
)
from ambient_curate.classifier.fit import FitOptions
from ambient_curate.noise import log_snr
from ambient_curate.training import TrainOptions

HORIZON, ACTION, SIGMA = 5, 2, 0.1
DIM = HORIZON * ACTION


def make_laws(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Means and covariances of a clean law and of a corrupt one."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(2, DIM, DIM)) / DIM**0.5
    return rng.normal(size=(2, DIM)), factors @ factors.transpose(0, 2, 1) + 0.1 * np.eye(DIM)


def make(seed: int = 0) -> CropNetwork:
    mean, covariance = (torch.from_numpy(each) for each in make_laws(seed))
    generator = torch.Generator().manual_seed(seed)
    return CropNetwork(mean, covariance, HORIZON, SIGMA, generator=generator).eval()


def levels() -> torch.Tensor:
    """Log-SNR of radii horizon - 1 .. 0."""
    return torch.from_numpy(log_snr(radius_levels(HORIZON))).float()


def test_levels_rise_evenly_and_stand_for_whole_radii() -> None:
    for horizon in (2, 5, 16, 64):
        found = radius_levels(horizon)
        assert (np.diff(found) > 0).all() and found[0] > 0 and found[-1] < 1
        np.testing.assert_allclose(radius_at(found, horizon), np.arange(horizon)[::-1], atol=1e-9)
    assert make().radius(levels()).tolist() == [4, 3, 2, 1, 0]


def test_every_frame_comes_once_by_its_distance() -> None:
    for centre, frames in enumerate(order_frames(7)):
        assert sorted(frames.tolist()) == list(range(7))
        distance = np.abs(frames - centre)
        assert (np.diff(distance) >= 0).all()


def test_the_log_ratio_is_that_of_the_normal_laws_of_the_crop() -> None:
    network, (mean, covariance) = make(), make_laws()
    rows = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 3 * HORIZON, DIM))).float()
    _, ratio = network.describe(rows, levels())
    a2 = 1 - SIGMA**2
    for number, radius in enumerate(range(HORIZON - 1, -1, -1)):
        for row, x in enumerate(rows[0].double().numpy()):
            centre = row % HORIZON
            frames = [f for f in range(HORIZON) if abs(f - centre) <= radius]
            seen = [f * ACTION + d for f in frames for d in range(ACTION)]
            law = [
                multivariate_normal(
                    m[seen], a2 * c[np.ix_(seen, seen)] + SIGMA**2 * np.eye(len(seen))
                )
                for m, c in zip(mean, covariance, strict=True)
            ]
            exact = law[0].logpdf(x[seen]) - law[1].logpdf(x[seen])
            exact = exact / np.sqrt(1 + (exact / 10) ** 2)  # as far as it saturates
            assert float(ratio[number, row]) == pytest.approx(exact, abs=2e-3)
    found = network(rows, levels())
    torch.testing.assert_close(found[..., 1], ratio)  # by the normal laws alone
    torch.testing.assert_close(found[..., 0], ratio)  # nothing is learnt as yet


def test_innovations_of_the_clean_law_are_white() -> None:
    network, (_, covariance) = make(), make_laws()
    a2, frames = 1 - SIGMA**2, order_frames(HORIZON)
    law = a2 * covariance[0] + SIGMA**2 * np.eye(DIM)
    for centre in range(HORIZON):
        index = (frames[centre][:, None] * ACTION + np.arange(ACTION)).ravel()
        w = network.whitener[0, centre].double().numpy()
        np.testing.assert_allclose(w @ law[np.ix_(index, index)] @ w.T, np.eye(DIM), atol=1e-5)
        assert np.triu(w, 1).max() == 0.0


def test_what_lies_outside_of_the_crop_changes_nothing() -> None:
    network = make()
    with torch.no_grad():  # a network that says something
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator()))
    rows = torch.randn(1, HORIZON, DIM, generator=torch.Generator().manual_seed(2))
    before = network(rows, levels())
    for frame in range(HORIZON):
        changed = rows.clone()
        changed[..., frame * ACTION] += 1.0
        after = network(changed, levels())
        for number, radius in enumerate(range(HORIZON - 1, -1, -1)):
            for centre in range(HORIZON):
                close = torch.allclose(before[number, centre], after[number, centre], atol=1e-5)
                assert close == (abs(frame - centre) > radius), (frame, centre, radius)


def test_rows_at_levels_of_their_own_are_seen_as_rows_of_a_level() -> None:
    network = make()
    rows = torch.randn(1, HORIZON, DIM, generator=torch.Generator().manual_seed(3))
    together = network(rows, levels())
    alone = network(rows[0][:, None], levels())
    for row in range(HORIZON):
        torch.testing.assert_close(alone[row, 0], together[row, row], rtol=1e-4, atol=1e-5)


def test_noise_is_that_of_the_lowest_level_at_every_radius() -> None:
    windows, noise = torch.ones(1, 3, DIM), torch.full((1, 3, DIM), 2.0)
    channel = crop_channel(HORIZON, SIGMA, dim=DIM)
    found = channel.blur(windows, noise, levels())
    torch.testing.assert_close(found, torch.full((1, 3, DIM), (1 - SIGMA**2) ** 0.5 + 2 * SIGMA))


def test_far_values_stay_finite() -> None:
    network = make()
    rows = torch.full((1, HORIZON, DIM), 1e12)
    assert torch.isfinite(network(rows, levels())).all()


@pytest.mark.slow
@pytest.mark.parametrize(("episodes", "slack"), [(50, 0.1), (400, 0.03)])
def test_planted_crop_divergences_are_found_at_every_radius(episodes: int, slack: float) -> None:
    """Signs that repeat those of nine frames before, or their opposite: alike up to radius 4."""
    rng = np.random.default_rng(0)
    (found,) = cross(
        draw_bits(rng, episodes, 60, 0.9),
        [draw_bits(rng, 2 * episodes, 60, 0.1)],
        horizon=16,
        options=FitOptions(folds=3),
        channel=crop_channel(16, 0.0251, dim=16),
        draws=16,
    )
    exact = crop_divergence(16)
    np.testing.assert_allclose(found.delta[::-1], exact, atol=slack)
    assert (found.envelope.delta_lower[::-1] <= exact).all()
    assert find_radius(np.array(found.sigma_min), 16) == np.flatnonzero(exact < 0.2).max() == 4


def test_small_planted_bits_are_told_apart_where_they_differ_only() -> None:
    rng = np.random.default_rng(1)
    (found,) = cross(
        draw_bits(rng, 60, 24, 0.95, period=3),
        [draw_bits(rng, 90, 24, 0.05, period=3)],
        horizon=6,
        options=FitOptions(
            folds=3, windows=2048, held_out=512, train=TrainOptions(steps=150, warm_up=10)
        ),
        channel=crop_channel(6, 0.0251, dim=6),
        draws=6,
    )
    exact = crop_divergence(6, 0.95, 3)
    assert exact[:2].max() == 0.0 and exact[2] > 0.3
    np.testing.assert_allclose(found.delta[::-1], exact, atol=0.15)
    assert find_radius(np.array(found.sigma_min), 6) == 1
