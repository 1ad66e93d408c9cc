"""The journal: means of losses, and the same bytes with and without a stop."""

import csv
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ambient_curate.errors import ConfigError
from ambient_curate.policy.fitting import ERRORS, LOG, Journal

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


def test_missing_tensorboard_is_told_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="tensorboard is not installed") as error:
        Journal(tmp_path, 0, tensorboard=True)
    assert error.value.hint == "pip install 'ambient-curate[tensorboard]'"
    assert list(tmp_path.iterdir()) == []


def test_without_tensorboard_it_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    write_whole(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOG, ERRORS]


class Events:
    """What TensorBoard's writer is told."""

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.closed = folder, purge_step, False
        self.scalars: list[tuple[str, float, int]] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.closed = True


def test_tensorboard_is_told_the_same_and_forgets_what_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Events] = []

    def open_events(*values: Any, **named: Any) -> Events:
        opened.append(Events(*values, **named))
        return opened[-1]

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = open_events  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with Journal(tmp_path, 10, tensorboard=True) as journal:
        write(journal, 10, 20)
    (events,) = opened
    assert (events.folder, events.purge_step, events.closed) == (str(tmp_path / "events"), 11, True)
    loss = float(np.mean([loss_of(step) for step in range(11, 21)]))
    assert events.scalars == [
        ("loss", loss, 20),
        ("learning_rate", 1e-3 / 20, 20),
        ("held-out error", (20 / 7.0 + 0.25) / 2, 20),
    ]
