"""A run whose sigma_min of every window is known, and what a trainer's window must be given."""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import lerobot_writer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from small_run import annotate_small

from ambient_curate.run.records import Run

HORIZON, STRIDE = 4, 2
LENGTHS = {
    "clean": (9, 12, 10, 9, 11, 9, 10, 12, 9, 10),
    "jitter": (10, 9, 3, 12, 9, 11, 4),
    "far": (9,) * 6,
}
Known = dict[tuple[str, int], dict[int, tuple[float, float]]]


def walk(name: str) -> list[np.ndarray]:
    """Actions of the episodes of a member; an episode of 3 frames has no whole window."""
    rng = np.random.default_rng(list(LENGTHS).index(name))
    sizes = [(length, 2) for length in LENGTHS[name]]
    return [(0.1 * rng.normal(size=size).cumsum(axis=0)).astype(np.float32) for size in sizes]


def write_demos(root: Path) -> Path:
    """HDF5 files of demonstrations."""
    for name in LENGTHS:
        (root / name).mkdir(parents=True)
        with h5py.File(root / name / "demos.hdf5", "w") as file:
            for episode, actions in enumerate(walk(name)):
                file[f"data/demo_{episode}/actions"] = actions
    return root


def write_lerobot(root: Path, episodes: Sequence[np.ndarray], version: str = "v3.0") -> Path:
    """A LeRobot dataset of two data files, with a folder of videos."""
    lengths = [len(episode) for episode in episodes]
    tables = lerobot_writer.make_frames(lengths)
    kind = pa.list_(pa.float32(), 2)
    for number, (table, episode) in enumerate(zip(tables, episodes, strict=True)):
        place = table.column_names.index("action")
        tables[number] = table.set_column(place, "action", pa.array(list(episode), kind))
    files = [0 if number < len(tables) / 2 else 1 for number in range(len(tables))]
    lerobot_writer.write_dataset(root, version, tables, files)
    features = json.loads((root / "meta/info.json").read_text())["features"]
    action = {"dtype": "float32", "shape": [2], "names": None}
    lerobot_writer.change_info(root, features=features | {"action": action})
    (root / "meta/stats.json").write_text(json.dumps({"action": {"min": [0.0, 0.0]}}))
    (root / "videos/top").mkdir(parents=True)
    (root / "videos/top/file.mp4").write_bytes(b"video")
    return root


def write_sets(root: Path) -> Path:
    """LeRobot datasets of the same episodes."""
    for name in LENGTHS:
        write_lerobot(root / name, walk(name))
    return root


def annotate_known(folder: Path, write: Callable[[Path], Path] = write_demos) -> tuple[Run, Known]:
    """Annotate the demonstrations, then put known values in place of what was found."""
    run = annotate_small(
        write(folder / "set"),
        folder / "run",
        granularity="datapoint",
        stride=STRIDE,
        represent="absolute",
    )
    rng, known = np.random.default_rng(0), {}
    for part in sorted((run.path / "manifest").glob("part-*.parquet")):
        table = pq.read_table(part)
        rows = table.to_pylist()
        for row in rows:
            if not row["is_clean"] and row["status"] == "ok":
                give(row, rng)
            if row["status"] != "too-short":
                none = row["sigma_min"] is None
                values = (1.0, 0.0) if none else (row["sigma_min"], row["sigma_max"] or 0.0)
                known.setdefault((row["dataset"], row["episode_index"]), {})[row["start"]] = values
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), part)
    return run, known


def give(row: dict, rng: np.random.Generator) -> None:
    """Any sigma_min, one window in eight none, one in eight a sigma_max below it."""
    kind = rng.integers(8)
    low = None if kind == 0 else float(rng.uniform(0.0, 1.0))
    row |= {"sigma_min": low, "sigma_min_lower": None, "sigma_min_upper": None}
    row["status"] = "classifier-unreliable" if low is None else "ok"
    row["sigma_max"] = low / 2 if kind == 1 and low is not None else None


def expected(known: Known, name: str, episode: int, start: int) -> tuple[float, float]:
    """Look at every whole window of the episode; of two as near the later."""
    whole = known.get((name, episode), {})
    if not whole:
        return 1.0, 0.0
    inside = min(max(start, 0), LENGTHS[name][episode] - HORIZON)
    return whole[min(whole, key=lambda first: (abs(first - inside), -first))]


def all_frames() -> list[tuple[str, int, int]]:
    """Every frame of every episode, in order."""
    return [
        (name, episode, frame)
        for name, lengths in sorted(LENGTHS.items())
        for episode, length in enumerate(lengths)
        for frame in range(length)
    ]


def sampler_starts(name: str, before: int, after: int) -> list[tuple[int, int]]:
    """Diffusion Policy's windows, by its rule: (episode, first frame, which may be negative)."""
    return [
        (episode, start)
        for episode, length in enumerate(LENGTHS[name])
        for start in range(-before, length - HORIZON + after + 1)
    ]


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def flatten(ranges: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(range(first, end) for first, end in ranges))
