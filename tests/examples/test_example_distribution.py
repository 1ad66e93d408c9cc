"""The example of distribution learning: its pieces, and the whole of it in little."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import ttest_1samp, wasserstein_distance

from examples import distribution


def test_the_distance_is_the_mean_of_those_of_projections() -> None:
    rng = np.random.default_rng(0)
    drawn, truth = rng.normal(size=(400, 2)), rng.normal(0.5, 1.3, size=(400, 2))
    angles = np.pi * np.arange(distribution.DIRECTIONS) / distribution.DIRECTIONS
    naive = [
        wasserstein_distance(drawn @ [np.cos(a), np.sin(a)], truth @ [np.cos(a), np.sin(a)])
        for a in angles
    ]
    found = distribution.measure_distance(drawn, truth)
    assert found == pytest.approx(np.mean(naive), rel=0.02)  # quantiles are interpolated


def test_snapped_samples_lie_on_the_lattice_and_near_where_they_were() -> None:
    samples = distribution.draw_law(500, np.random.default_rng(0))
    snapped = distribution.snap(samples)
    steps = snapped / distribution.LATTICE
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-5)
    assert np.abs(snapped - samples).max() <= distribution.LATTICE / 2 + 1e-6


def test_the_comparison_is_paired_and_its_arm_chosen_elsewhere() -> None:
    rng = np.random.default_rng(1)
    rows = []
    for seed in (*distribution.CHOOSING, *range(6)):
        shared = rng.normal()
        for x in (0.0, 0.2, 0.5, 1.0):
            best = 0.5 if seed in distribution.CHOOSING else 0.2  # chosen: .5, though .2 is better
            rows.append(
                {
                    "seed": seed,
                    "sigma_min": x,
                    "distance": shared + abs(x - best) + 0.01 * rng.normal(),
                }
            )
    chosen, lines = distribution.compare(pa.Table.from_pylist(rows))
    assert chosen == 0.5
    table = {(r["seed"], r["sigma_min"]): r["distance"] for r in rows}
    less = [table[seed, 1.0] - table[seed, 0.5] for seed in range(6)]
    interval = ttest_1samp(less, 0.0).confidence_interval()
    assert f"{np.mean(less):.4f} [{interval.low:.4f}, {interval.high:.4f}]" in lines[-1]


def test_the_whole_runs_in_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"STEPS": 5, "BATCH": 16, "DRAWN": 50, "TRUTH": 100, "DDIM_STEPS": 3}
    for name, value in (small | {"SWEEP": (0.0, 0.4, 1.0), "CHOOSING": (100,)}).items():
        monkeypatch.setattr(distribution, name, value)
    distribution.main(["--out", str(tmp_path), "--seeds", "2"])
    first = pq.read_table(tmp_path / "results.parquet")
    assert first.num_rows == 9
    assert np.isfinite(first["distance"].to_numpy()).all()
    assert "ambient: sigma_min 0.4" in capsys.readouterr().out
    assert (tmp_path / "distance.png").stat().st_size > 5_000
    distribution.main(["--out", str(tmp_path), "--seeds", "2"])
    assert pq.read_table(tmp_path / "results.parquet").equals(first)
