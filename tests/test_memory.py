"""The heap: what is freed is given back or kept, as said, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from pathlib import Path
from ambient_curate.memory import trim

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) // 1024

trim()
first = held()
blocks = [b"x" * 100_000 for _ in range(1000)]
kept = blocks[50::50]  # lie between the others: the heap cannot shrink at its end alone
del blocks
before = held()
trim()
print(first, before, held(), len(kept))
"""

LOOP = """
import resource, sys
import torch
from ambient_curate.memory import hold, trim

if sys.argv[1] == "hold":
    hold()

rows = torch.ones(1_024, 448)

def call():
    soft = rows * torch.rsqrt(1.0 + (rows / 8.0).square())
    return torch.cat([soft, 0.5 * (soft.square() - 1.0)], dim=1) @ torch.ones(896, 128)

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(5)
again = faults(20)
trim()
print(again, faults(1))
"""

on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems' allocators are left alone"
)


def run(script: str, *words: str) -> list[int]:
    """What a script prints; glibc's thresholds are those it starts with, and do not move."""
    command = [sys.executable, "-c", script, *words]
    root, size = Path(__file__).parents[1], str(128 << 10)
    given = os.environ | {"MALLOC_TRIM_THRESHOLD_": size, "MALLOC_MMAP_THRESHOLD_": size}
    done = subprocess.run(command, cwd=root, env=given, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


@on_linux
def test_freed_memory_between_kept_blocks_is_given_back() -> None:
    first, before, after, _ = run(SCRIPT)
    assert before - first > 80  # of the 95 MiB that were allocated, 5 are in use
    assert after - first < 20


@on_linux
def test_what_a_loop_frees_is_kept_until_it_is_given_back() -> None:
    pages = 4 * 1_024 * 896 // 4_096  # of the largest tensor
    again, after_trim = run(LOOP, "hold")
    assert again < 5 * pages  # in twenty calls, when the heap grows once more
    assert after_trim > 0.5 * pages
    fetched, _ = run(LOOP, "leave")
    assert fetched > 50 * pages  # else nothing would have to be held
