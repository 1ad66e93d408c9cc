"""The journal of a training: losses and held-out errors as CSV, and for TensorBoard."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from ambient_curate.errors import ConfigError
from ambient_curate.files import replace_whole

LOG, ERRORS = "log.csv", "validation.csv"
_HEADS = {
    LOG: ("step", "loss", "learning_rate"),
    ERRORS: ("step", "level", "sigma", "error"),
}


class Journal:
    """Appends to the logs of a training; rows after the step it resumes from are dropped.

    Parameters
    ----------
    folder : Path
        Where ``log.csv`` and ``validation.csv`` lie.
    step : int
        Steps that are done.
    tensorboard : bool
        Also write events for TensorBoard.

    Raises
    ------
    ConfigError
        If TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool = False) -> None:
        self._events = _open_events(folder, step) if tensorboard else None
        self._files = {name: _reopen(folder / name, step) for name in _HEADS}
        self._losses: list[float] = []
        self._last = (step, 0.0)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: Any) -> None:
        for file in self._files.values():
            file.close()
        if self._events is not None:
            self._events.close()

    def add_loss(self, step: int, loss: float, learning_rate: float) -> None:
        """Remember the loss of a step."""
        self._losses.append(loss)
        self._last = step, learning_rate

    def write_losses(self) -> None:
        """Write the mean of the losses since the last row."""
        step, rate = self._last
        loss = float(np.mean(self._losses))
        self._losses = []
        self._write(LOG, [(step, repr(loss), repr(rate))])
        if self._events is not None:
            self._events.add_scalar("loss", loss, step)
            self._events.add_scalar("learning_rate", rate, step)

    def write_errors(
        self,
        step: int,
        levels: Int64[np.ndarray, " probe"],
        sigma: Float64[np.ndarray, " level"],
        errors: Float64[np.ndarray, " probe"],
    ) -> None:
        """Write held-out errors at some levels."""
        places = levels.tolist()
        triples = zip(places, sigma[levels].tolist(), errors.tolist(), strict=True)
        self._write(ERRORS, [(step, level, repr(s), repr(error)) for level, s, error in triples])
        if self._events is not None:
            self._events.add_scalar("held-out error", float(errors.mean()), step)

    def flush(self) -> None:
        """Hand all rows to the operating system."""
        for file in self._files.values():
            file.flush()

    def _write(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        csv.writer(self._files[name], lineterminator="\n").writerows(rows)


def _reopen(path: Path, step: int) -> Any:
    """Open a log for appending, after the rows of steps that will be done again are gone."""
    rows = []
    if path.exists():
        whole = path.read_text(encoding="utf-8").splitlines(keepends=True)
        lines = [line for line in whole if line.endswith("\n")]  # a crash cuts the last one
        rows = [row for row in csv.reader(lines) if len(row) == len(_HEADS[path.name])]
    kept = [row for row in rows if row[0].isdecimal() and int(row[0]) <= step]
    with (
        replace_whole(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows([_HEADS[path.name], *kept])
    return path.open("a", newline="", encoding="utf-8")


def _open_events(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "tensorboard is not installed", "pip install 'ambient-curate[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder / "events"), purge_step=step + 1)
