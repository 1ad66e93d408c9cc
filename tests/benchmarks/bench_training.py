"""How many steps a second a policy trains, beside a bare loop with the same U-Net and batch.

    python tests/benchmarks/bench_training.py [--network unet-small] [--batch 64] [--steps 20]

The bare loop is what a diffusers user writes: noise from `DDPMScheduler.add_noise`, mean squared
error of epsilon, AdamW, cosine schedule, an EMA, gradients clipped. Both take turns, several times,
in float32 and in bfloat16; the table gives the median seconds a step of each, and their ratio.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ambient_curate.data.normalizer import fit_normalizer
from ambient_curate.data.windows import Windows
from ambient_curate.noise import schedule_levels
from ambient_curate.policy.checkpoints import find_levels
from ambient_curate.policy.denoiser import Shape, build_denoiser
from ambient_curate.policy.fitting import Fit, Lesson
from ambient_curate.policy.level_sampler import Admission, LevelSampler
from ambient_curate.policy.networks import PUBLISHED, SMALL, ConditionalUnet1d
from ambient_curate.policy.options import PolicyOptions
from ambient_curate.policy.preconditioning import fit_modes
from ambient_curate.policy.training_data import Demonstrations, Part
from ambient_curate.training import Ranks

SCHEDULE, HORIZON, ACTION, STATE = "squaredcos_cap_v2:100", 16, 7, 7
EPISODES, LENGTH = 200, 150


def make_lesson() -> Lesson:
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((EPISODES * LENGTH, ACTION), dtype=np.float32)
    action = torch.from_numpy(frames)
    length = np.full(EPISODES, LENGTH)
    scale = fit_normalizer("minmax", action.numpy())
    windows = Windows(
        action, None, np.cumsum(length) - length, length, HORIZON, 1, normalizer=scale
    )
    part = Part("clean", windows, np.arange(EPISODES), action, torch.zeros(EPISODES, 0))
    data = Demonstrations([part], scale, n_obs_steps=2, n_action_steps=8)
    nowhere = np.zeros(len(data))
    admission = Admission(("clean",), data.size, nowhere, nowhere)
    return Lesson(data, LevelSampler(admission, find_levels(SCHEDULE)), None)


def ours(lesson: Lesson, options: PolicyOptions) -> Iterator[float]:
    batch = lesson.data.read(np.arange(256))
    levels = schedule_levels(SCHEDULE).size
    modes = None
    if options.prediction == "wiener":
        modes = fit_modes([batch["action"]], torch.zeros(levels, dtype=torch.int64), floor=1e-6)
    condition = batch["condition"].shape[1]
    shape = Shape(options.network, options.prediction, HORIZON, ACTION, condition, levels, 1, 0, 0)
    sigma = torch.from_numpy(lesson.sampler.sigma).float()
    generator = torch.Generator().manual_seed(0)
    denoiser = build_denoiser(shape, sigma, modes, generator=generator)
    alone = Ranks(0, 1, torch.device("cpu"))
    yield from Fit(denoiser, lesson, options, alone).steps()


def bare(lesson: Lesson, options: PolicyOptions) -> Iterator[float]:
    channels = PUBLISHED if options.network == "unet" else SMALL
    whole = lesson.data.read(np.arange(0, len(lesson.data), 4))
    network: nn.Module = ConditionalUnet1d(
        ACTION,
        whole["condition"].shape[1],
        channels=channels,
        generator=torch.Generator().manual_seed(0),
    )
    dataset = TensorDataset(whole["action"], whole["condition"])
    loader = DataLoader(dataset, options.batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-4, weight_decay=1e-4)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10_000)
    average = EMAModel(network.parameters(), decay=0.999)
    scheduler = DDPMScheduler(100, beta_schedule="squaredcos_cap_v2")
    forward = torch.compile(network) if options.compile else network
    while True:
        for action, condition in loader:
            noise = torch.randn_like(action)
            time_ = torch.randint(100, (len(action),))
            noised = scheduler.add_noise(action, noise, time_)
            with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16"):
                output = forward(noised, time_.float(), condition)
            loss = nn.functional.mse_loss(output.float(), noise)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            rates.step()
            average.step(network.parameters())
            yield loss.item()


def measure(
    loops: dict[str, Callable[[], Iterator[float]]], steps: int, turns: int
) -> dict[str, float]:
    """Median over turns of the seconds a step; the loops take turns of `steps` each."""
    running = {name: loop() for name, loop in loops.items()}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for loop in running.values():  # the first steps allocate, or compile
        next(loop), next(loop)
    for turn in range(turns):
        for name in sorted(running, reverse=turn % 2 == 1):
            start = time.perf_counter()
            for _ in range(steps):
                next(running[name])
            seconds[name].append((time.perf_counter() - start) / steps)
    return {name: statistics.median(each) for name, each in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=["unet", "unet-small"], default="unet-small")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    lesson = make_lesson()
    print("precision  compiled  prediction    ours (ms)  bare (ms)  ratio")
    for precision in ("float32", "bfloat16"):
        for compiled in (False, True) if given.compile else (False,):
            for prediction in ("epsilon", "wiener"):
                options = PolicyOptions(
                    network=given.network,
                    prediction=prediction,  # type: ignore[arg-type]
                    batch_size=given.batch,
                    steps=10_000,
                    precision=precision,  # type: ignore[arg-type]
                    compile=compiled,
                )
                loops = {
                    "ours": lambda options=options: ours(lesson, options),
                    "bare": lambda options=options: bare(lesson, options),
                }
                found = measure(loops, given.steps, given.turns)
                print(
                    f"{precision:9}  {'yes' if compiled else 'no':8}  {prediction:10}  "
                    f"{found['ours'] * 1e3:11.1f}  {found['bare'] * 1e3:9.1f}  "
                    f"{found['ours'] / found['bare']:5.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
