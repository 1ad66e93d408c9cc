"""How fast the classifier answers, beside what this machine multiplies matrices at.

    python tests/benchmarks/bench_inference.py

One thread, float32. A row is one noised window at one level. The matrix products of a row are
counted by torch's own counter; their share of the rate of a large square product says how much of
the machine is used, and a profile says what the rest of the time goes to.
"""

import time
from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from ambient_curate import heap
from ambient_curate.classifier import FoldClassifier
from ambient_curate.devices import CPU_ROWS
from ambient_curate.networks import NoiseClassifier
from ambient_curate.noise import grid, log_snr

SIGMA = grid("squaredcos_cap_v2:100")
SECONDS = 3.0


def make_classifier(dim: int, heads: int) -> FoldClassifier:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator))
    moments = tuple(torch.rand(heads, dim, generator=generator) for _ in range(3))
    spread = (-6.0, float(log_snr(SIGMA[0])))
    network = NoiseClassifier(
        *(torch.zeros(dim), basis, torch.rand(dim, generator=generator), moments, spread),
        generator=generator,
    )
    table = torch.ones(heads, SIGMA.size)
    return FoldClassifier(network.requires_grad_(False).eval(), table, 0.0 * table, SIGMA)


def rate(work, units: float) -> float:
    """Units a second, the best of several runs of some seconds in all."""
    best, start = 0.0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        before = time.perf_counter()
        work()
        best = max(best, units / (time.perf_counter() - before))
    return best


def measure(dim: int, heads: int, windows: int, draws: int, levels: slice, peak: float) -> None:
    classifier = make_classifier(dim, heads)
    x, z = torch.randn(windows, 1, dim), torch.randn(windows, draws, dim)

    def ask() -> torch.Tensor:
        return classifier.predict(x, z, list(range(heads)), levels)

    rows = ask().numel() // heads
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        classifier.network(torch.randn(1, rows, dim), torch.zeros(1))
    flops = counter.get_total_flops()
    found = rate(ask, 1.0)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        ask()
    times: Counter[str] = Counter()
    for event in profiled.key_averages():
        times[event.key] += event.self_cpu_time_total
    whole = sum(times.values())
    shown = ", ".join(
        f"{k.removeprefix('aten::')} {t / whole:.0%}" for k, t in times.most_common(6)
    )
    print(
        f"dim {dim:3}, {heads} heads, {rows:6,} rows a call: {found * rows:9,.0f} rows/s, "
        f"{flops / rows / 1e3:5.0f} kflop each: {found * flops / peak:.0%} of the product's rate\n"
        f"    {shown}",
        flush=True,
    )


def main() -> None:
    torch.set_num_threads(1)
    heap.hold()
    a, b = torch.randn(2, 1024, 1024)
    peak = rate(lambda: a @ b, 2.0 * 1024**3)
    print(f"square product of 1,024: {peak / 1e9:.1f} Gflop/s")
    for dim in (16, 112, 224, 700):
        for heads in (1, 20):
            measure(dim, heads, CPU_ROWS // 16, 16, slice(0, 1), peak)
    for rows in (256, 1_024, 2_048, 8_192):  # what a call of another size would give
        measure(112, 1, rows // 16, 16, slice(0, 1), peak)


if __name__ == "__main__":
    main()
