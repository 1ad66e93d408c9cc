"""The journal: means of losses, and the same bytes with and without a stop."""

import csv
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ambient_curate.errors import ConfigError
from ambient_curate.policy import fitting
from ambient_curate.policy.fitting import ERRORS, LOG, Journal, check_tracker, open_tracker
from ambient_curate.policy.options import Log

SIGMA = np.array([0.1, 1.0 / 3.0, 0.9])
LEVELS = np.array([0, 2])
EVERY = 10  # steps in a row
ROWS = 6


def loss_of(step: int) -> float:
    return 1.0 / (step + 3.0)


def write(journal: Journal, first: int, last: int) -> None:
    """Rows after `first` up to `last`; held-out errors at every second."""
    for step in range(first + 1, last + 1):
        journal.add_loss(step, loss_of(step), 1e-3 / step)
        if step % EVERY == 0:
            journal.write_losses()
        if step % (2 * EVERY) == 0:
            journal.write_errors(step, LEVELS, SIGMA, np.array([step / 7.0, 0.25]))


def write_whole(folder: Path) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    with Journal(folder, 0) as journal:
        write(journal, 0, ROWS * EVERY)
    return read(folder)


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_rows_are_means_since_the_row_before(tmp_path: Path) -> None:
    write_whole(tmp_path)
    with (tmp_path / LOG).open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["step", "loss", "learning_rate"]
    assert [int(row[0]) for row in rows] == [10, 20, 30, 40, 50, 60]
    for number, row in enumerate(rows):
        steps = range(10 * number + 1, 10 * number + 11)
        assert float(row[1]) == pytest.approx(sum(map(loss_of, steps)) / 10, rel=1e-12)
        assert float(row[2]) == 1e-3 / steps[-1]  # all digits are kept


def test_held_out_errors_stand_with_their_level_and_its_noise(tmp_path: Path) -> None:
    with Journal(tmp_path, 0) as journal:
        journal.write_errors(20, LEVELS, SIGMA, np.array([1.0 / 7.0, 0.25]))
    lines = (tmp_path / ERRORS).read_text().splitlines()
    assert lines == ["step,level,sigma,error", f"20,0,0.1,{1 / 7!r}", "20,2,0.9,0.25"]


@pytest.mark.parametrize("stop", range(0, ROWS * EVERY + 1, EVERY))
@pytest.mark.parametrize("reached", [0, 5, 10, 25])
def test_a_resumed_journal_is_that_of_an_undisturbed_training(
    tmp_path: Path, stop: int, reached: int
) -> None:
    """Checkpoint at `stop`, then some more steps, whose rows are written again."""
    whole = write_whole(tmp_path / "whole")
    folder = tmp_path / "stopped"
    folder.mkdir()
    with Journal(folder, 0) as journal:
        write(journal, 0, min(stop + reached, ROWS * EVERY))
    with Journal(folder, stop) as journal:
        write(journal, stop, ROWS * EVERY)
    assert read(folder) == whole


@pytest.mark.parametrize("cut", [1, 3, 8, 12])
@pytest.mark.parametrize("name", [LOG, ERRORS])
def test_a_half_written_line_is_dropped(tmp_path: Path, name: str, cut: int) -> None:
    """Even one that has all its commas, and a wrong last number."""
    whole = write_whole(tmp_path)
    path = tmp_path / name
    path.write_bytes(whole[name][:-cut])
    Journal(tmp_path, 10**6).__exit__()
    lines = whole[name].splitlines(keepends=True)
    assert path.read_bytes() == b"".join(lines[:-1])


def test_rows_after_the_step_are_dropped_as_numbers_not_as_texts(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text(
        "step,loss,learning_rate\n9,0.5,0.1\n10,0.4,0.1\n100,0.3,0.1\n11,nonsense\n\n"
    )
    Journal(tmp_path, 10).__exit__()
    text = (tmp_path / LOG).read_text()
    assert text == "step,loss,learning_rate\n9,0.5,0.1\n10,0.4,0.1\n"


def test_a_kill_right_after_resuming_loses_no_kept_row(tmp_path: Path) -> None:
    whole = write_whole(tmp_path)
    journal = Journal(tmp_path, ROWS * EVERY)  # neither flushed nor closed
    assert read(tmp_path) == whole
    journal.__exit__()


def test_flushed_rows_are_in_the_file(tmp_path: Path) -> None:
    with Journal(tmp_path, 0) as journal:
        write(journal, 0, 20)
        journal.flush()
        assert (tmp_path / LOG).read_text().count("\n") == 3
        assert (tmp_path / ERRORS).read_text().count("\n") == 3


UNNAMED: dict[str, Any] = {"identity": "", "config": {}}


class Remembered:
    """A tracker that remembers what it was given."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.closed: list[bool] = []

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.rows.append((step, dict(values)))

    def close(self, *, failed: bool) -> None:
        self.closed.append(failed)


def test_a_tracker_gets_the_numbers_of_the_files(tmp_path: Path) -> None:
    tracker = Remembered()
    with Journal(tmp_path, 10, tracker) as journal:
        write(journal, 10, 20)
    loss = float(np.mean([loss_of(step) for step in range(11, 21)]))
    assert tracker.rows == [
        (20, {"loss": loss, "learning_rate": 1e-3 / 20}),
        (20, {"held-out error": (20 / 7.0 + 0.25) / 2}),
    ]
    assert tracker.closed == [False]


@pytest.mark.parametrize("stop", [0, 10, 30, 60])
def test_a_tracker_of_a_resumed_training_gets_all_there_is(tmp_path: Path, stop: int) -> None:
    """Also one that the interrupted process did not have."""
    expected, tracker = Remembered(), Remembered()
    for folder in ("whole", "stopped"):
        (tmp_path / folder).mkdir()
    with Journal(tmp_path / "whole", 0, expected) as journal:
        write(journal, 0, ROWS * EVERY)
    with Journal(tmp_path / "stopped", 0) as journal:
        write(journal, 0, ROWS * EVERY)
    with Journal(tmp_path / "stopped", stop, tracker) as journal:
        write(journal, stop, ROWS * EVERY)
    assert joined(tracker) == joined(expected)
    steps = [step for step, _ in tracker.rows]
    assert steps == sorted(steps)


def joined(tracker: Remembered) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for step, values in tracker.rows:
        found.setdefault(step, {}).update(values)
    return found


def test_a_tracker_learns_that_a_training_failed(tmp_path: Path) -> None:
    tracker = Remembered()
    with pytest.raises(KeyboardInterrupt), Journal(tmp_path, 0, tracker):
        raise KeyboardInterrupt
    assert tracker.closed == [True]


@pytest.mark.parametrize("log", ["tensorboard", "wandb", "trackio"])
def test_a_log_whose_package_is_missing_is_refused_with_its_extra(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"{log} is not installed") as error:
        check_tracker(log)
    assert error.value.hint == f"pip install 'ambient-curate[{log}]'"
    check_tracker(None)


def test_a_folder_of_that_name_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match="wandb is not installed"):
        check_tracker("wandb")


@pytest.mark.filterwarnings("default")  # theirs
def test_tensorboard_shows_a_resumed_training_as_an_undisturbed_one(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    stages = {"whole": [(0, 60)], "closed": [(0, 40), (20, 60)], "killed": [(0, 40), (20, 60)]}
    for name, parts in stages.items():
        folder = tmp_path / name
        folder.mkdir()
        for first, last in parts:
            journal = Journal(folder, first, open_tracker("tensorboard", folder, **UNNAMED))
            write(journal, first, last)
            journal.flush()
            if name != "killed" or last == 60:  # else its last events reach no file
                journal.__exit__()
    shown = [read_tensorboard(tmp_path / name) for name in stages]
    assert shown[1:] == shown[:1] * 2
    assert [step for step, _ in shown[0]["loss"]] == [10, 20, 30, 40, 50, 60]
    assert [step for step, _ in shown[0]["held-out error"]] == [20, 40, 60]


def read_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    names = events.Tags()["scalars"]
    return {name: [(row.step, row.value) for row in events.Scalars(name)] for name in names}


@pytest.mark.parametrize("log", ["wandb", "trackio"])
def test_a_resumed_training_goes_on_in_the_same_log(tmp_path: Path, log: str) -> None:
    """Killed after step 40, resumed from 20; nothing but the local disk is written to."""
    pytest.importorskip(log)
    place = {
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "HF_HUB_OFFLINE": "1",
    }
    paths = os.pathsep.join(["tests", "tests/policy", os.environ.get("PYTHONPATH", "")])
    program = [sys.executable, str(Path(__file__).with_name("log_program.py")), log]
    done = [
        subprocess.run(
            [*program, stage, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | place | {"PYTHONPATH": paths},
        )
        for stage in ("begin", "resume")
    ]
    assert [each.returncode for each in done] == [9, 0], done[0].stderr + done[1].stderr
    (line,) = done[1].stdout.splitlines()  # of what it prints itself, nothing is on stdout
    logs = json.loads(line.removeprefix("ROWS "))
    whole = [by_step(rows) for rows in (logs["whole"], logs["stopped"])]
    assert whole[0] == whole[1]
    assert sorted(whole[0]) == [10, 20, 30, 40, 50, 60]
    assert whole[0][30] == {"loss": mean_loss(30), "learning_rate": 1e-3 / 30}
    assert whole[0][40]["held-out error"] == (40 / 7.0 + 0.25) / 2
    if log == "trackio":  # offline, Weights & Biases has a file a process, which it joins by id
        assert len(logs["stopped"]) == len(logs["whole"])


def mean_loss(step: int) -> float:
    return float(np.mean([loss_of(each) for each in range(step - 9, step + 1)]))


def by_step(rows: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """What a log holds of each step; a step that is there twice has the same numbers."""
    names, found = ("loss", "learning_rate", "held-out error"), dict[int, dict[str, float]]()
    for row in rows:
        own = found.setdefault(row["step"], {})
        for name in names:
            if name in row:
                assert own.setdefault(name, row[name]) == row[name]
    return found
