"""How long the rows of a large collection take, and how much memory, by its size.

    python tests/benchmarks/bench_annotation.py [WINDOWS ...] [--length 165] [--workers N]

For every number of windows (by default 1e5, 1e6, 1e7) a collection is written: 100 clean episodes
and as many jittered ones as hold the windows, of 165 frames of 7 dimensions each, windows of 16.
It is read, fitted, scored and taught once; the rows are then written `repeats` times by the same
processes. A table gives the time of what comes before, the median time a window, and the peak
anonymous memory of the largest process and of all together.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

HORIZON, LENGTH, ACTION = 16, 165, 7
EPISODES_PER_FILE = 500


def write_member(
    folder: Path, episodes: int, jitter: float, seed: int, *, length: int = LENGTH
) -> None:
    """Smooth motions with white noise of standard deviation `jitter`, in files of some hundreds."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number, first in enumerate(range(0, episodes, EPISODES_PER_FILE)):
        shape = (min(EPISODES_PER_FILE, episodes - first), length, ACTION)
        motion = rng.standard_normal(shape, dtype=np.float32).cumsum(axis=1).cumsum(axis=1)
        motion /= np.abs(motion).max(axis=1, keepdims=True)
        noise = rng.standard_normal(shape, dtype=np.float32)
        np.save(folder / f"{number:05d}.npy", motion + np.float32(jitter) * noise)


class Memory:
    """Peak anonymous memory of a process and its children, looked at many times a second."""

    def __init__(self, pid: int) -> None:
        self.pid, self.largest, self.together = pid, 0, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            found = [_anonymous(pid) for pid in _family(self.pid)]
            self.largest = max(self.largest, *found, 0)
            self.together = max(self.together, sum(found))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look as long as the block lasts."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(member for child in children for member in _family(int(child)))]


def _anonymous(pid: int) -> int:
    """Bytes; 0 of a process that has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def annotate_repeatedly(collection: Path, out: Path, workers: int, repeats: int) -> None:
    """Prepare once, then write the rows repeatedly; print the seconds and peaks of each."""
    import os

    from ambient_curate.annotation import annotate, request
    from ambient_curate.annotation.tasks import plan_parts
    from ambient_curate.progress import silent
    from ambient_curate.run.directory import open_run

    changes = {"out": out, "granularity": "datapoint", "workers": workers}
    order = request.make_request(collection, None, changes)
    with open_run(out, order.inputs, "bench") as run, annotate._single_threads():
        with annotate._start_workers(run.work, order.options) as engine:
            start = time.perf_counter()
            study, _ = annotate._prepare(run, order, engine, silent)
            print(json.dumps({"prepared": time.perf_counter() - start}), flush=True)
            for _ in range(repeats):
                for folder in ("manifest", "sums"):
                    shutil.rmtree(run.work / folder, ignore_errors=True)
                memory = Memory(os.getpid())
                with memory.watched():
                    start = time.perf_counter()
                    annotate._carry_out(plan_parts(study, run.work), engine, silent)
                    seconds = time.perf_counter() - start
                peaks = {"largest": memory.largest, "together": memory.together}
                print(json.dumps({"seconds": seconds, **peaks}), flush=True)
        students = json.loads((run.work / "plan.json").read_text())["taught"]
        print(json.dumps({"taught": students}), flush=True)


def measure(windows: int, length: int, workers: int, repeats: int) -> dict[str, float]:
    """Run a size in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        each = length - HORIZON + 1
        write_member(folder / "set" / "clean", 100, 0.0, 0, length=length)
        write_member(folder / "set" / "jittered", -(-windows // each), 0.02, 1, length=length)
        words = ["--child", name, "--workers", str(workers), "--repeats", str(repeats)]
        done = subprocess.run(
            [sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True
        )
    said = [json.loads(line) for line in done.stdout.splitlines()]
    rows = [each for each in said if "seconds" in each]
    return {
        "windows": windows,
        "prepared": said[0]["prepared"],
        "seconds": statistics.median(row["seconds"] for row in rows),
        "largest": max(row["largest"] for row in rows),
        "together": max(row["together"] for row in rows),
        "taught": float(bool(said[-1]["taught"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("windows", nargs="*", type=float, default=[1e5, 1e6, 1e7])
    parser.add_argument("--length", type=int, default=LENGTH, help="frames of an episode")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        annotate_repeatedly(given.child / "set", given.child / "run", given.workers, given.repeats)
        return
    print("   windows  before (s)  rows (s)  us/window  windows/s  largest (MB)  all (MB)  student")
    for windows in given.windows:
        found = measure(int(windows), given.length, given.workers, given.repeats)
        print(
            f"{found['windows']:10,.0f}  {found['prepared']:10.1f}  {found['seconds']:8.2f}  "
            f"{found['seconds'] / found['windows'] * 1e6:9.1f}  "
            f"{found['windows'] / found['seconds']:9,.0f}  {found['largest'] / 1e6:12.0f}  "
            f"{found['together'] / 1e6:8.0f}  {'yes' if found['taught'] else 'no':>7}",
            flush=True,
        )
    rows = 3.6e8 * found["seconds"] / found["windows"] / 3600.0
    before = 60 * found["prepared"] / 3600.0
    print(
        "projected, not measured: for 3.6e8 windows of 60 data sets, as Open X-Embodiment has, the "
        f"rows take {rows:.1f} h, and what comes before them, 60 times what it took here, "
        f"{before:.1f} h"
    )


if __name__ == "__main__":
    main()
