"""The heap: what was freed goes back to the system, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from pathlib import Path
from ambient_curate.heap import trim

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


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' allocators are left alone")
def test_freed_memory_between_kept_blocks_is_given_back() -> None:
    root = Path(__file__).parents[1]
    words = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True)
    first, before, after, _ = map(int, done.stdout.split())
    assert before - first > 80  # of the 95 MiB that were allocated, 5 are in use
    assert after - first < 20
