"""Reports of runs of 1e4, 1e5 and 1e6 windows: seconds to write, bytes, first paint in Chromium.

``python bench_report.py [WINDOWS ...]``. The run is one that `annotate` made; its manifest is
replaced by one of so many rows.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "readers"))
from small_run import annotate_small, write_collection
from small_worker import make_small

from ambient_curate.report.page import write_report
from ambient_curate.run.records import open_run_results

EPISODE, PART = 200, 65_536
DATASETS = ("far", "jitter")


def grow(template: pa.Table, folder: Path, windows: int) -> None:
    """Write parts of so many windows, of whole episodes."""
    rng, number = np.random.default_rng(0), 0
    for old in folder.glob("*"):
        old.unlink()
    each = windows // len(DATASETS)
    for dataset in DATASETS:
        for first in range(0, each, PART // EPISODE * EPISODE):
            count = min(PART // EPISODE * EPISODE, each - first)
            row = first + np.arange(count)
            columns = {
                "dataset": pa.array([dataset]).take(pa.array(np.zeros(count, np.int64))),
                "episode_id": pa.array([f"episode {n}" for n in row // EPISODE]),
                "episode_index": row // EPISODE,
                "start": row % EPISODE,
                "sigma_min": np.clip(rng.beta(1, 3, count), 0, 1),
                "status": pa.array(["ok"]).take(pa.array(np.zeros(count, np.int64))),
            }
            arrays = [
                pa.array(columns[f.name]).cast(f.type)
                if f.name in columns
                else pa.nulls(count, f.type)
                if f.nullable
                else pa.array(np.zeros(count, np.int64)).cast(f.type)
                for f in template
            ]
            part = pa.Table.from_arrays(arrays, schema=pa.schema(list(template)))
            pq.write_table(part, folder / f"part-{number:05d}.parquet")
            number += 1


def paint(path: Path) -> str:
    """Milliseconds until Chromium shows something; - where there is none."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return "-"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(path.as_uri())
        page.wait_for_selector("#accuracy .main-svg")
        entry = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        found = f"{page.evaluate(entry):.0f}"
        browser.close()
    return found


def main() -> None:
    """Print a line a size."""
    make_small()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made = annotate_small(write_collection(root / "set"), root / "run", granularity="datapoint")
        template = pq.read_schema(next((made.path / "manifest").glob("*")))
        print("windows  seconds  bytes  first paint (ms)")
        for windows in [int(float(text)) for text in sys.argv[1:]] or [10_000, 100_000, 1_000_000]:
            grow(template, made.path / "manifest", windows)
            begin = time.perf_counter()
            path = write_report(open_run_results(made.path))
            took = time.perf_counter() - begin
            print(f"{windows:,}  {took:.2f}  {path.stat().st_size:,}  {paint(path)}")


if __name__ == "__main__":
    main()
