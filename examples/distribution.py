"""Where to begin using corrupt samples: the distance to the truth against sigma_min.

``python -m examples.distribution --out DIR [--seeds 10]``, from the root of the checkout. A law in
the plane, 50 clean samples of it, and 5,000 that are snapped to a lattice: a fault of short
wavelength, which noise hides. For every sigma_min the built-in denoiser is trained with the snapped
samples at noise above it only; 0 is co-training, 1 the clean samples alone. What is drawn from it
is compared with the law by the sliced Wasserstein distance. The sigma_min of the "ambient" arm is
chosen on other seeds than those that are reported.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.stats import t as student

from ambient_curate.data.normalizer import Normalizer, fit_normalizer
from ambient_curate.data.windows import Windows
from ambient_curate.noise import schedule_levels
from ambient_curate.policy.denoiser import Denoiser
from ambient_curate.policy.fitting import Fit, Lesson, Ranks
from ambient_curate.policy.level_sampler import Admission, LevelSampler, find_bands
from ambient_curate.policy.networks import ResidualMlp
from ambient_curate.policy.options import PolicyOptions
from ambient_curate.policy.preconditioning import fit_modes
from ambient_curate.policy.solvers import sample_windows
from ambient_curate.policy.training_data import Demonstrations, Part

CLEAN, CORRUPT = 50, 5_000
CENTRES = 0.6 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
SPREAD, LATTICE = 0.2, 0.6
SIGMA = np.sort(schedule_levels("squaredcos_cap_v2:100"))
SWEEP = (0.0, 0.1, 0.2, 0.35, 0.5, 0.8, 1.0)  # of sigma_min
STEPS, BATCH, WIDTH = 1_000, 128, 64
DRAWN, TRUTH, DIRECTIONS, DDIM_STEPS = 4_000, 50_000, 64, 50
CHOOSING = (100, 101)  # seeds on which the ambient arm's sigma_min is chosen
ALONE = Ranks(0, 1, torch.device("cpu"))


def draw_law(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw from four round normal laws, shape (sample, 2)."""
    centres = CENTRES[rng.integers(len(CENTRES), size=count)]
    return (centres + SPREAD * rng.standard_normal((count, 2))).astype(np.float32)


def snap(samples: np.ndarray) -> np.ndarray:
    """Move every sample to the nearest point of a square lattice."""
    return (LATTICE * np.round(samples / LATTICE)).astype(np.float32)


def make_lesson(sigma_min: float, rng: np.random.Generator, seed: int) -> tuple[Lesson, Normalizer]:
    """Lay out clean and snapped samples as windows of one frame."""
    sets = draw_law(CLEAN, rng), snap(draw_law(CORRUPT, rng))
    scale = fit_normalizer("gaussian", sets[0])
    parts = [
        Part(name, _as_windows(samples, scale), np.arange(len(samples)), None, _nothing(samples))
        for name, samples in zip(("clean", "snapped"), sets, strict=True)
    ]
    data = Demonstrations(parts, None, n_obs_steps=1, n_action_steps=1)
    lowest = np.repeat([0.0, sigma_min], data.size)
    admission = Admission(("clean", "snapped"), data.size, lowest, np.zeros(len(data)))
    return Lesson(data, LevelSampler(admission, SIGMA, seed=seed), None), scale


def _as_windows(samples: np.ndarray, scale: Normalizer) -> Windows:
    one = np.ones(len(samples), dtype=np.int64)
    return Windows(torch.from_numpy(samples), None, np.cumsum(one) - 1, one, 1, 1, normalizer=scale)


def _nothing(samples: np.ndarray) -> torch.Tensor:
    return torch.zeros(len(samples), 0)


def train(lesson: Lesson, seed: int) -> Denoiser:
    """Train the denoiser; give its average."""
    band = find_bands(lesson.sampler)
    rng = np.random.default_rng([seed, 7])
    windows = []
    for number in range(int(band[-1]) + 1):
        levels = rng.choice(np.flatnonzero(band == number), size=4_096)
        windows.append(lesson.data.read(lesson.sampler.draw_at(levels, rng))["action"])
    modes = fit_modes(windows, torch.from_numpy(band), floor=1e-6)
    generator = torch.Generator().manual_seed(seed)
    backbone = ResidualMlp(1, 2, 0, width=WIDTH, generator=generator)
    denoiser = Denoiser(backbone, "wiener", torch.from_numpy(SIGMA).float(), modes)
    options = PolicyOptions(
        steps=STEPS, batch_size=BATCH, average_decay=0.995, n_obs_steps=1, seed=seed
    )
    fit = Fit(denoiser, lesson, options, ALONE)
    for _ in fit.steps():
        pass
    return fit.average


def measure_distance(drawn: np.ndarray, truth: np.ndarray) -> float:
    """Sliced Wasserstein-1 distance: the mean over directions of that of the projections."""
    angle = np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    directions = np.stack([np.cos(angle), np.sin(angle)])
    share = (np.arange(len(drawn)) + 0.5) / len(drawn)
    ours, theirs = (
        np.sort(drawn @ directions, axis=0),
        np.quantile(truth @ directions, share, axis=0),
    )
    return float(np.abs(ours - theirs).mean())


def run_once(seed: int, sigma_min: float) -> float:
    """Draw data, train, draw samples, and measure; equal seeds have equal data."""
    rng = np.random.default_rng(seed)
    lesson, scale = make_lesson(sigma_min, rng, seed)
    denoiser = train(lesson, seed)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(DRAWN, 1, 2, generator=generator)
    with torch.inference_mode():
        condition = torch.zeros(DRAWN, 0)
        scaled = sample_windows(
            denoiser, condition, start, steps=DDIM_STEPS, solver="ddpm", generator=generator
        )
    return measure_distance(scale.undo(scaled)[:, 0].numpy(), draw_law(TRUTH, rng))


def compare(results: pa.Table) -> tuple[float, list[str]]:
    """Choose the ambient arm on its own seeds, and compare it with both ends on the others."""
    frame = results.to_pandas()
    choosing = frame[frame.seed.isin(CHOOSING)].groupby("sigma_min").distance.mean()
    inside = choosing[(choosing.index > 0) & (choosing.index < 1)]
    chosen = float(inside.idxmin())
    table = frame[~frame.seed.isin(CHOOSING)].pivot(
        index="seed", columns="sigma_min", values="distance"
    )
    lines = ["sigma_min  distance  sd over seeds"]
    lines += [f"{v:9.2f}  {table[v].mean():8.4f}  {table[v].std():.4f}" for v in table.columns]
    lines.append(f"ambient: sigma_min {chosen:g}, chosen on seeds {', '.join(map(str, CHOOSING))}")
    for name, end in (("co-training", 0.0), ("clean only", 1.0)):
        less = (table[end] - table[chosen]).to_numpy()
        half = student.ppf(0.975, less.size - 1) * less.std(ddof=1) / np.sqrt(less.size)
        lines.append(
            f"{name} less ambient: {less.mean():.4f} [{less.mean() - half:.4f}, "
            f"{less.mean() + half:.4f}] (95 %, {less.size} seeds, paired t)"
        )
    return chosen, lines


def draw_figure(results: pa.Table, chosen: float, path: Path) -> None:
    """Draw the distance against sigma_min, with every seed."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    frame = results.to_pandas()
    frame = frame[~frame.seed.isin(CHOOSING)]
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for _, each in frame.groupby("seed"):
        axes.plot(each.sigma_min, each.distance, color="0.8", linewidth=0.8)
    mean = frame.groupby("sigma_min").distance.mean()
    axes.plot(
        mean.index, mean, color="C0", marker="o", label=f"mean of {frame.seed.nunique()} seeds"
    )
    axes.axvline(chosen, color="C1", linestyle=":", label=f"chosen on other seeds: {chosen:g}")
    axes.set(
        xlabel="sigma_min (0: co-training, 1: clean only)",
        ylabel="sliced Wasserstein-1 distance",
        ylim=(0, None),
    )
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m examples.distribution")
    parser.add_argument("--out", type=Path, required=True, help="directory of table and figure")
    parser.add_argument("--seeds", type=int, default=10, help="repetitions that are reported")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rows = []
    for seed in (*CHOOSING, *range(given.seeds)):
        rows += [{"seed": seed, "sigma_min": x, "distance": run_once(seed, x)} for x in SWEEP]
        print(f"seed {seed} done", file=sys.stderr)  # noqa: T201
    results = pa.Table.from_pylist(rows)
    pq.write_table(results, given.out / "results.parquet")
    chosen, lines = compare(results)
    draw_figure(results, chosen, given.out / "distance.png")
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    main()
