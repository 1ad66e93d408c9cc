"""A small finished run whose episodes have states, goals and tasks, to train policies on."""

import fcntl
import hashlib
import shutil
from pathlib import Path
from typing import Any

import array_writer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_worker import make_small

from ambient_curate.annotation.annotate import annotate
from ambient_curate.run.records import Run, open_run_results

HORIZON, ACTION = 4, 2
LENGTHS = {
    "clean": (9, 12, 10, 9, 11, 9, 10, 12, 9, 10),
    "jitter": (10, 9, 3, 12, 9, 11),
    "far": (9,) * 6,
}


def write_collection(root: Path, *, state: bool = True) -> Path:
    """Points that move to a goal in equal steps, some of them with jitter, some elsewhere."""
    for number, (name, lengths) in enumerate(LENGTHS.items()):
        rng = np.random.default_rng(number)
        columns: dict[str, list[Any]] = {"action": [], "goal": [], "task": []}
        states: list[np.ndarray] = []
        for episode, length in enumerate(lengths):
            start, goal = rng.normal(size=(2, ACTION)) + 3.0 * (name == "far")
            path = start + (goal - start) * np.linspace(0, 1, length + 1)[:, None]
            jitter = 0.3 * (name == "jitter") * rng.normal(size=(length, ACTION))
            columns["action"] += list(path[1:] + jitter)
            columns["goal"] += [float(goal[0])] * length
            columns["task"] += [("reach", "push")[episode % 2]] * length
            states += list(path[:-1])
        if state:
            columns["state"] = states
        folder = root / name
        folder.mkdir(parents=True)
        table: pa.Table = array_writer.frames(lengths, **columns)
        pq.write_table(table, folder / "data.parquet", write_page_checksum=True)
    return root


def annotate_small(collection: Path, out: Path, **options: Any) -> Run:
    """Annotate it; `small_worker.make_small` is to be called before."""
    given = {"horizon": HORIZON, "folds": 3, "workers": 1, "represent": "relative"}
    return annotate(collection, out=out, **given | options)


def place_run(made: Path, folder: Path, name: str = "run", **options: Any) -> Run:
    """Put the collection, as ``set``, and a run of it into a folder; each kind is made once.

    `made` is shared by all processes of a test session.
    """
    collection = made / "set"
    kind = made / hashlib.sha256(repr(sorted(options.items())).encode()).hexdigest()[:16]
    made.mkdir(exist_ok=True)
    with (made / "lock").open("w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make_small(patch.setattr)
        if not collection.is_dir():
            write_collection(collection)
        if not kind.is_dir():
            annotate_small(collection, kind, **options)
    if not (folder / "set").exists():
        shutil.copytree(collection, folder / "set", copy_function=shutil.copy2)
    shutil.copytree(kind, folder / name, copy_function=shutil.copy2)
    return open_run_results(folder / name)
