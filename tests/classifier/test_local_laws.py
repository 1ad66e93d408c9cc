"""Laws of one dimension at a time against closed forms and enumeration."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm
from torch import Tensor

from ambient_curate.classifier.local_laws import PARTS, STATES, Chains, StationaryNormals, Tables

HORIZON = 12
LEVELS = torch.tensor([-4.0, -1.0, 1.0, 2.5, 4.0])
pytestmark = pytest.mark.usefixtures("one_thread")


def add_noise(rows: Tensor, log_snr: Tensor, seed: int = 5) -> Tensor:
    """Rows at every level, with fresh noise: (level, row, dim)."""
    z = torch.randn(len(log_snr), *rows.shape, generator=seeded(seed))
    signal, spread = (torch.sigmoid(x).sqrt()[:, None, None] for x in (log_snr, -log_snr))
    return signal * rows + spread * z


def scales(log_snr: float) -> tuple[float, float]:
    """Signal and noise standard deviation of a level."""
    return (1.0 / (1.0 + math.exp(-log_snr))) ** 0.5, (1.0 / (1.0 + math.exp(log_snr))) ** 0.5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_table_is_the_log_ratio_of_the_marginals() -> None:
    """Normal frames of two spreads: log-ratios of single frames, at two levels."""
    rng = np.random.default_rng(7)
    levels = torch.tensor([-1.0, 3.0])
    frames = [
        torch.from_numpy(by * rng.normal(size=(1_500, HORIZON, 1))).float() for by in (1.0, 2.0)
    ]
    tables, part = Tables(HORIZON, 1, 2), torch.arange(1_500) % PARTS
    tables.fit(frames, [part, part], levels, seeded())
    assert tables.table.shape[1] == PARTS + 1
    tables.keep_whole()
    x = torch.linspace(-1.6, 1.6, 9)
    for number, snr in enumerate(levels.tolist()):
        rows = x[:, None, None].expand(9, HORIZON, 1)
        found = tables(rows[None], torch.tensor([number]), -1)[0][0, :, 0] / HORIZON
        a, sigma = scales(snr)
        spread = [(a**2 * by + sigma**2) ** 0.5 for by in (1.0, 4.0)]
        p, q = (norm.pdf(x.numpy(), 0.0, s) for s in spread)
        error = np.abs(found.numpy() - np.log(p / q))
        assert error.mean() < 0.1  # of one frame, from drawn noise
        assert error.max() < 0.3


def test_stationary_normal_laws_have_their_log_ratio() -> None:
    rng = np.random.default_rng(8)
    apart = np.abs(np.subtract.outer(np.arange(HORIZON), np.arange(HORIZON)))
    laws = [np.exp(-0.3 * apart), 0.5 * np.exp(-2.0 * apart)]
    frames = [
        torch.from_numpy(np.linalg.cholesky(law) @ rng.normal(size=(6_000, HORIZON, 1))).float()
        for law in laws
    ]
    part = torch.arange(6_000) % PARTS
    normals = StationaryNormals(HORIZON, 1, len(LEVELS))
    normals.fit(frames, [part, part], LEVELS, seeded())
    normals.keep_whole()
    for number, snr in enumerate(LEVELS.tolist()):
        a, sigma = scales(snr)
        x = add_noise(frames[0][:200].flatten(1), LEVELS[number : number + 1])[0]
        both = [
            multivariate_normal(np.zeros(HORIZON), a**2 * law + sigma**2 * np.eye(HORIZON))
            for law in laws
        ]
        exact = np.subtract(*(law.logpdf(x.double().numpy()) for law in both))
        found = normals(x[None, ..., None], torch.tensor([number]), -1)[0][0, :, 0].numpy()
        assert np.abs(found - exact).mean() < 0.05 + 0.05 * np.abs(exact).mean()


def test_a_chain_is_filtered_as_a_sum_over_all_paths_says() -> None:
    """Three frames of a fitted chain, against the enumeration of all its states."""
    rng = np.random.default_rng(9)
    frames = [torch.from_numpy(rng.normal(size=(600, 3, 1)).cumsum(axis=1)).float() for _ in "pq"]
    frames[1] = 0.5 * frames[1]
    part, chains = torch.arange(600) % PARTS, Chains(1, len(LEVELS))
    chains.fit(frames, [part, part], LEVELS, seeded())
    x, level = frames[0][:4], torch.tensor([2])
    a, sigma = scales(float(LEVELS[2]))
    seen = norm.pdf(x[..., 0, None].numpy(), a * chains.centre[0].numpy(), sigma)
    for number in range(PARTS + 1):
        logs = []
        for side in ("clean", "corrupt"):
            start = getattr(chains, f"{side}_start")[number, 0].double().numpy()
            move = getattr(chains, f"{side}_move")[number, 0].double().numpy()
            np.testing.assert_allclose(start.sum(), 1.0, atol=1e-5)
            np.testing.assert_allclose(move.sum(axis=1), 1.0, atol=1e-5)
            paths = np.einsum("ra,rb,rc,a,ab,bc->r", *seen.transpose(1, 0, 2), start, move, move)
            logs.append(np.log(paths))
        found = chains(x[None], level, number)[0][0, :, 0]
        np.testing.assert_allclose(found, logs[0] - logs[1], atol=2e-3)
    assert seen.shape[-1] == STATES


def test_what_is_fitted_without_a_part_does_not_depend_on_it() -> None:
    rng = np.random.default_rng(10)
    frames = [torch.from_numpy(rng.normal(size=(300, HORIZON, 2))).float() for _ in "pq"]
    part = torch.arange(300) % PARTS
    changed = [torch.where((part == 1)[:, None, None], 0.3 * x.flip(1), x) for x in frames]
    for estimate, tables in (
        (lambda: StationaryNormals(HORIZON, 2, len(LEVELS)), ("form", "constant")),
        (lambda: Chains(2, len(LEVELS)), ("clean_start", "corrupt_move")),
    ):
        made = []
        for rows in (frames, changed):
            one = estimate()
            if isinstance(one, Chains):  # in the same states
                rows = [x.sign() * (0.5 + (x.abs() > 0.7)) for x in rows]
            one.fit(rows, [part, part], LEVELS, seeded())
            made.append(one)
        for name in tables:
            first, second = (getattr(one, name) for one in made)
            torch.testing.assert_close(first[1], second[1])
            assert not torch.allclose(first[0], second[0], rtol=1e-3)
            assert not torch.allclose(first[-1], second[-1], rtol=1e-3)
