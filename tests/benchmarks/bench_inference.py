"""How fast the classifier of a pair answers, beside what this machine multiplies matrices at.

    python tests/benchmarks/bench_inference.py

One thread, float32. A row is one noised window at one level. The matrix products of a row are
counted by torch's own counter; their share of the rate of a large square product says how much of
the machine is used, and a profile says what the rest of the time goes to. All members of a pair are
there, whether or not a fit would keep them; the share of each is timed alone.
"""

import time
from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from ambient_curate import memory
from ambient_curate.classifier.channels import noise_channel
from ambient_curate.classifier.fit import CPU_ROWS, FoldClassifier, PairClassifier
from ambient_curate.classifier.networks import Sizes
from ambient_curate.classifier.samples import Sample
from ambient_curate.noise import grid, log_snr

SIGMA = grid("squaredcos_cap_v2:100")
SECONDS = 3.0
WINDOWS, EPISODES = 1_024, 64  # of a class that the members are fitted on


def make_sample(generator: torch.Generator, dim: int) -> Sample:
    """Normal windows of either class, one of them a little wider."""
    clean, corrupt = torch.randn(2, WINDOWS, dim, generator=generator)
    episode = torch.arange(WINDOWS) % EPISODES
    return Sample(clean, 1.1 * corrupt, episode, episode)


def make_classifier(sizes: Sizes, heads: int) -> FoldClassifier:
    """The same pair for every head."""
    generator = torch.Generator().manual_seed(0)
    channel = noise_channel(SIGMA, sizes)
    samples = make_sample(generator, sizes.dim), make_sample(generator, sizes.dim)
    members = channel.build(*samples, generator).requires_grad_(False).eval()
    table = torch.full((sum(channel.names.values()), channel.levels.size), 0.25)
    pair = PairClassifier(channel, members, table, 0.0 * table[0])
    return FoldClassifier(dict.fromkeys(range(heads), pair), channel.levels)


def rate(work, units: float) -> float:
    """Units a second, the best of several runs of some seconds in all."""
    best, start = 0.0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        before = time.perf_counter()
        work()
        best = max(best, units / (time.perf_counter() - before))
    return best


def measure(sizes: Sizes, heads: int, windows: int, draws: int, levels: slice, peak: float) -> None:
    classifier = make_classifier(sizes, heads)
    x, z = torch.randn(windows, *sizes[:2]), torch.randn(windows, draws, sizes.dim)

    def sample_curves() -> torch.Tensor:
        return classifier.predict(x, z, range(heads), levels)

    answers = sample_curves().numel()
    noised = torch.randn(1, windows * draws, sizes.dim)
    at = torch.from_numpy(log_snr(classifier.sigma[levels])).float()
    members = classifier.pairs[0].members
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for member in members.values():
            member(noised, at)
    flops = counter.get_total_flops() / noised.shape[1]
    found = rate(sample_curves, answers)
    with torch.inference_mode():
        alone = {
            name: rate(lambda member=member: member(noised, at), float(noised.shape[1]))
            for name, member in members.items()
        }
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        sample_curves()
    times: Counter[str] = Counter()
    for event in profiled.key_averages():
        times[event.key] += event.self_cpu_time_total
    whole = sum(times.values())
    print(
        f"dim {sizes.dim:3}, {heads:2} heads, {noised.shape[1]:6,} rows a call: {found:9,.0f} "
        f"answers/s, {flops / 1e3:5.0f} kflop each: {found * flops / peak:.0%} of the product's "
        "rate\n    "
        + ", ".join(f"{name} {found / speed:.0%}" for name, speed in alone.items())
        + "\n    "
        + ", ".join(f"{k.removeprefix('aten::')} {t / whole:.0%}" for k, t in times.most_common(6)),
        flush=True,
    )


def main() -> None:
    torch.set_num_threads(1)
    memory.hold()
    a, b = torch.randn(2, 1024, 1024)
    peak = rate(lambda: a @ b, 2.0 * 1024**3)
    print(f"square product of 1,024: {peak / 1e9:.1f} Gflop/s")
    for sizes in (Sizes(8, 2), Sizes(16, 7), Sizes(16, 14), Sizes(50, 14)):
        for heads in (1, 20):
            measure(sizes, heads, CPU_ROWS // 16, 16, slice(0, 1), peak)
    for rows in (256, 1_024, 2_048, 8_192):  # what a call of another size would give
        measure(Sizes(16, 7), 1, rows // 16, 16, slice(0, 1), peak)


if __name__ == "__main__":
    main()
