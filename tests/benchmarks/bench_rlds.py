"""How fast an RLDS shard full of images is scanned, and how much memory that takes.

    python tests/benchmarks/bench_rlds.py

Writes a shard of 80 episodes x 100 steps x 100 KB "images" (800 MB) to a temporary folder, warms
the page cache and measures our scan against the `tfrecord` package, told to decode every feature
(its default) or only the numbers and labels that we decode, against `tensorflow-datasets` where it
is installed (it cannot decode a part of the steps only), and against `cat`. "Images" are strings,
which nobody has to decompress. Our scans, and that of `tensorflow-datasets`, run in processes of
their own; ours import only the readers and report their peak anonymous memory. The ways are taken
in turn, five times over; the best time of each counts.
"""

import functools
import importlib.util
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

EPISODES, STEPS, IMAGE_BYTES = 80, 100, 100_000
ROUNDS = 5
STEP_FEATURES = {
    "action": ("7", "float32"),
    "reward": (None, "float32"),
    "discount": (None, "float32"),
    "is_first": (None, "bool"),
    "is_last": (None, "bool"),
    "is_terminal": (None, "bool"),
}
TFDS = "tensorflow_datasets.core.features"
CHOSEN = {
    "steps/action": "float",
    "steps/observation/state": "float",
    "steps/is_first": "int",
    "episode_metadata/success": "int",
}


def write_dataset(folder: Path) -> Path:
    """Write the metadata and the one shard; return the shard."""
    from tfrecord.writer import TFRecordWriter

    rng = np.random.default_rng(0)
    noise = rng.bytes(IMAGE_BYTES)
    shard = folder / "bench-train.tfrecord-00000-of-00001"
    writer = TFRecordWriter(str(shard))
    for _ in range(EPISODES):
        flags = np.zeros((3, STEPS), np.int64)
        flags[0, 0] = flags[1, -1] = flags[2, -1] = 1
        writer.write(
            {
                "steps/action": (rng.standard_normal(7 * STEPS), "float"),
                "steps/observation/state": (rng.standard_normal(7 * STEPS), "float"),
                "steps/observation/image_0": ([noise] * STEPS, "byte"),
                "steps/language_instruction": ([b"stack the cubes"] * STEPS, "byte"),
                "steps/reward": (np.zeros(STEPS), "float"),
                "steps/discount": (np.ones(STEPS), "float"),
                "steps/is_first": (flags[0], "int"),
                "steps/is_last": (flags[1], "int"),
                "steps/is_terminal": (flags[2], "int"),
                "episode_metadata/success": (1, "int"),
            }
        )
    writer.close()
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    split = {"name": "train", "shardLengths": [str(EPISODES)], "filepathTemplate": template}
    split["numBytes"] = str(shard.stat().st_size)
    info = {"name": "bench", "version": "1.0.0", "fileFormat": "tfrecord", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(json.dumps(describe_features()))
    return shard


def describe_features() -> dict:
    """Make features.json as tensorflow-datasets writes it."""
    text = {"pythonClassName": f"{TFDS}.text_feature.Text", "text": {}}
    observation = {"state": tensor("7", "float32"), "image_0": text}
    steps = {name: tensor(*kind) for name, kind in STEP_FEATURES.items()}
    steps |= {"observation": group(observation), "language_instruction": text}
    sequence = {
        "pythonClassName": f"{TFDS}.dataset_feature.Dataset",
        "sequence": {"feature": group(steps), "length": "-1"},
    }
    return group({"steps": sequence, "episode_metadata": group({"success": tensor(None, "bool")})})


def tensor(size: str | None, dtype: str) -> dict:
    """Describe a feature of numbers."""
    name = "tensor_feature.Tensor" if size else "scalar.Scalar"
    shape = {"dimensions": [size]} if size else {}
    return {
        "pythonClassName": f"{TFDS}.{name}",
        "tensor": {"dtype": dtype, "encoding": "none", "shape": shape},
    }


def group(features: dict) -> dict:
    """Describe a feature of features."""
    return {
        "pythonClassName": f"{TFDS}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }


def timed(count: Callable[[Path], int], place: Path) -> float:
    """Read all frames of a place; return the seconds."""
    start = time.perf_counter()
    frames = count(place)
    seconds = time.perf_counter() - start
    if frames != EPISODES * STEPS:
        raise RuntimeError(f"read {frames} frames")
    return seconds


def scan(folder: Path, checksums: bool) -> int:
    """Read every episode with our reader; return the number of frames."""
    from ambient_curate.readers import rlds
    from ambient_curate.readers.episodes import ReaderOptions

    dataset = rlds.open_dataset(folder, ReaderOptions(checksums=checksums))
    return sum(e.length for shard in dataset.shards for e in dataset.read_shard(shard))


def scan_with_package(shard: Path, features: dict[str, str] | None) -> int:
    """Read the shard with the `tfrecord` package; return the number of frames."""
    from tfrecord.reader import tfrecord_loader

    return sum(len(e["steps/action"]) // 7 for e in tfrecord_loader(str(shard), None, features))


def scan_with_tensorflow(folder: Path) -> int:
    """Read the shard with `tensorflow-datasets`; return the number of frames."""
    import tensorflow_datasets as tfds

    episodes = tfds.builder_from_directory(folder).as_dataset(split="train")
    batches = (steps for episode in episodes for steps in episode["steps"].batch(STEPS))
    return sum(len(steps["action"].numpy()) for steps in batches)


def read_with_cat(shard: Path) -> float:
    """Read the file with `cat`; return the seconds."""
    start = time.perf_counter()
    subprocess.run(["cat", str(shard)], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def report_scan(folder: Path, checksums: bool) -> None:
    """Scan in this process and print seconds and peak anonymous megabytes as JSON."""
    peak_kb = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak_kb
        while not done.is_set():
            peak_kb = max(peak_kb, anonymous_kb())
            done.wait(0.001)

    read = functools.partial(scan, checksums=checksums)
    seconds = min(timed(read, folder) for _ in range(3))
    # Memory is watched in another scan, which the watching slows down.
    watcher = threading.Thread(target=watch)
    watcher.start()
    timed(read, folder)
    done.set()
    watcher.join()
    print(json.dumps({"seconds": seconds, "peak_mb": peak_kb / 1024}))


def anonymous_kb() -> int:
    """Anonymous memory of this process, from /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise RuntimeError("/proc/self/status has no RssAnon")


def report_tensorflow(folder: Path) -> None:
    """Scan in this process and print the seconds as JSON."""
    print(json.dumps({"seconds": min(timed(scan_with_tensorflow, folder) for _ in range(3))}))


def scan_in_child(folder: Path, how: str) -> dict[str, float]:
    """Scan in a fresh process; one process cannot import both packages."""
    command = [sys.executable, __file__, how, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def list_ways(folder: Path, shard: Path) -> dict[str, Callable[[], Any]]:
    """Name the ways to read the shard."""
    ways: dict[str, Callable[[], Any]] = {
        "cat": lambda: read_with_cat(shard),
        "tfrecord, all": lambda: timed(lambda file: scan_with_package(file, None), shard),
        "tfrecord, chosen": lambda: timed(lambda file: scan_with_package(file, CHOSEN), shard),
        "ours, no checksums": lambda: scan_in_child(folder, "unchecked"),
        "ours, checksums": lambda: scan_in_child(folder, "checked"),
    }
    if importlib.util.find_spec("tensorflow_datasets") is None:
        print("tensorflow-datasets is not installed: without it")
        return ways
    return ways | {"tensorflow-datasets": lambda: scan_in_child(folder, "tensorflow")}


def main() -> None:
    """Write the shard, measure and print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shard = write_dataset(folder)
        size_mb = shard.stat().st_size / 1e6
        read_with_cat(shard)
        ways = list_ways(folder, shard)
        rounds = [{way: measure() for way, measure in ways.items()} for _ in range(ROUNDS)]
    best, peak = {}, {}
    for way in rounds[0]:
        results = [r[way] if isinstance(r[way], dict) else {"seconds": r[way]} for r in rounds]
        best[way] = min(result["seconds"] for result in results)
        peak[way] = max(result.get("peak_mb", float("nan")) for result in results)
    print(f"{size_mb:.0f} MB, {EPISODES} episodes, warm cache, best of {ROUNDS}")
    for way, seconds in best.items():
        print(
            f"{way:20} {seconds * 1e3:8.1f} ms {size_mb / seconds / 1e3:8.1f} GB/s   "
            f"peak anonymous {peak[way]:5.0f} MB"
        )
    ours = best["ours, no checksums"]
    for way, seconds in best.items():
        if way != "cat" and not way.startswith("ours"):
            print(f"no checksums: {seconds / ours:.0f}x {way} (mark: 50x)")
    ratio = best["cat"] / best["ours, checksums"]
    print(f"checksums: {ratio:.0%} of cat (mark: 80 %)")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "tensorflow":
        report_tensorflow(Path(sys.argv[2]))
    else:
        report_scan(Path(sys.argv[2]), checksums=sys.argv[1] == "checked")
