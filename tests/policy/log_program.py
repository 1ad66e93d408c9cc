"""Logs a training elsewhere: ``begin`` is killed after 40 steps, ``resume`` goes on from 20.

``begin`` also logs an undisturbed training of 60 steps, and ``resume`` prints what both logs hold.
"""

import json
import os
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from test_journal import write

from ambient_curate.policy.fitting import Journal, open_tracker
from ambient_curate.policy.options import Log

BLOCK, HEADER, RECORD = 32_768, 7, struct.Struct("<IHB")  # of LevelDB's logs


def open_journal(log: Log, folder: Path, step: int) -> Journal:
    folder.mkdir(exist_ok=True)
    config = {"steps": 60, "out": None}
    tracker = open_tracker(log, folder, identity=f"id{folder.name}", config=config)
    return Journal(folder, step, tracker)


def read_trackio(folder: Path) -> Iterator[dict[str, Any]]:
    from trackio.sqlite_storage import SQLiteStorage

    yield from SQLiteStorage.get_logs("ambient-curate", f"{folder.name}-id{folder.name}")


def read_wandb(folder: Path) -> Iterator[dict[str, Any]]:
    from wandb.proto import wandb_internal_pb2

    for file in sorted(folder.glob(f"wandb/offline-run-*-id{folder.name}/*.wandb")):
        for data in read_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                row = {each.key or each.nested_key[0]: each for each in record.history.item}
                values = {name: json.loads(each.value_json) for name, each in row.items()}
                yield values | {"step": values["_step"]}


def read_records(content: bytes) -> Iterator[bytes]:
    """Records of a log of LevelDB, after a header of Weights & Biases; a torn end is left out."""
    place, data = HEADER, b""
    while place + RECORD.size <= len(content):
        if BLOCK - place % BLOCK < RECORD.size:
            place += BLOCK - place % BLOCK
            continue
        _, size, kind = RECORD.unpack_from(content, place)
        data += content[place + RECORD.size : place + RECORD.size + size]
        place += RECORD.size + size
        if kind in (1, 4):  # whole, or the last piece
            yield data
            data = b""


READERS = {"wandb": read_wandb, "trackio": read_trackio}

if __name__ == "__main__":
    log, stage, root = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if stage == "begin":
        with open_journal(log, root / "whole", 0) as journal:  # type: ignore[arg-type]
            write(journal, 0, 60)
        journal = open_journal(log, root / "stopped", 0)  # type: ignore[arg-type]
        write(journal, 0, 20)
        journal.flush()  # as with every checkpoint
        write(journal, 20, 40)
        time.sleep(2.0)  # so that Trackio, which writes every half second, has some that come again
        os._exit(9)
    with open_journal(log, root / "stopped", 20) as journal:  # type: ignore[arg-type]
        write(journal, 20, 60)
    names = ("whole", "stopped")
    print("ROWS", json.dumps({name: list(READERS[log](root / name)) for name in names}))
