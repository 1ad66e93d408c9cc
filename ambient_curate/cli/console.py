"""Progress and warnings on stderr, tables on stdout.

Bars and colours appear on a terminal only, where ``NO_COLOR`` is honoured; into a file or a pipe go
plain lines.
"""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from threading import Lock

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ambient_curate.progress import Task

_SECONDS_BETWEEN_LINES = 10.0
_NUMBER = re.compile(r"[-+]?(\d[\d,]*\.?\d*|\.\d+)(e[-+]?\d+)?\s?%?", re.IGNORECASE)
_NO_NUMBER = ("", "-")


class ConsoleProgress:
    """Shows progress on stderr: bars on a terminal, else a line at the start, the end and between.

    Safe to use from several threads.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where to write; None: stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bars: Progress | None = None
        self._n_open = 0
        self._lock = Lock()

    @contextmanager
    def task(self, description: str, total: int | float | None = None) -> Iterator[Task]:
        """Show a task of `total` units (None: unknown) until the block ends."""
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            yield from _show_lines(self._console, description, total)
            return
        bars = self._open()
        task_id = bars.add_task(description, total=total, note="")
        try:
            yield _Bar(bars, task_id)
        finally:
            self._close(bars, task_id)

    def message(self, text: str) -> None:
        """Print a warning above the bars."""
        _print(self._console, f"warning: {text}")

    def _open(self) -> Progress:
        with self._lock:
            if self._bars is None:
                self._bars = _make_bars(self._console)
                self._bars.start()
            self._n_open += 1
            return self._bars

    def _close(self, bars: Progress, task_id: TaskID) -> None:
        """End a task; the last one to end stays on the screen."""
        with self._lock:
            self._n_open -= 1
            if self._n_open:
                bars.remove_task(task_id)
            else:
                bars.stop()
                self._bars = None


class _Bar:
    """A task that is drawn as a bar."""

    def __init__(self, bars: Progress, task_id: TaskID) -> None:
        self._bars = bars
        self._task_id = task_id

    def advance(self, steps: int | float = 1, note: str | None = None) -> None:
        if note is not None:
            self._bars.update(self._task_id, note=note)
        self._bars.advance(self._task_id, steps)


class _Lines:
    """A task that is reported in lines."""

    def __init__(self, console: Console, description: str, total: int | float | None) -> None:
        self._console = console
        self._description = description
        self._total = total
        self._done = 0.0
        self._note: str | None = None
        self._start = self._last = time.monotonic()
        self._lock = Lock()

    def advance(self, steps: int | float = 1, note: str | None = None) -> None:
        with self._lock:
            self._done += steps
            self._note = self._note if note is None else note
            if time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
                self._last = time.monotonic()
                percent = f"{100 * self._done / self._total:.0f} %" if self._total else None
                self.tell(percent or f"{self._done:,.0f}")

    def tell(self, state: str) -> None:
        elapsed = str(timedelta(seconds=int(time.monotonic() - self._start)))
        details = ", ".join(part for part in (state, self._note, elapsed) if part)
        _print(self._console, f"{self._description}: {details}")


def _show_lines(console: Console, description: str, total: int | float | None) -> Iterator[Task]:
    task = _Lines(console, description, total)
    _print(console, f"{description}: started")
    try:
        yield task
    except BaseException:
        task.tell("stopped")
        raise
    task.tell("done")


def _make_bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        redirect_stdout=False,  # stdout is for data, also while a bar is on the screen
    )


def render_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    console: Console | None = None,
) -> None:
    """Print a table to stdout: framed on a terminal, else aligned text of any width.

    Parameters
    ----------
    columns : sequence of str
        Headings. A column of numbers only (blank and ``-`` aside) is aligned to the right.
    rows : sequence of sequence of str
        Cells, as many a row as there are columns; printed as they are.
    title : str, optional
        A line above the table.
    console : rich.console.Console, optional
        Where to print; None: stdout.

    Raises
    ------
    ValueError
        If a row has more or fewer cells than there are columns.
    """
    console = console or Console()
    right = [all(map(_is_number, cells)) for _, *cells in zip(columns, *rows, strict=True)]
    if console.is_terminal:
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        for column, numeric in zip(columns, right, strict=True):
            table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
        return
    lines = [columns, *rows]
    widths = [max(map(cell_len, cells)) for cells in zip(*lines, strict=True)]
    if title is not None:
        _print(console, title)
    for line in lines:
        padded = map(_pad, line, widths, right)
        _print(console, "  ".join(padded).rstrip())


def _is_number(cell: str) -> bool:
    return cell in _NO_NUMBER or _NUMBER.fullmatch(cell) is not None


def _pad(cell: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(cell))
    return space + cell if right else cell + space


def _print(console: Console, text: str) -> None:
    """Print `text` as it is: no markup, no colours of its own, not broken at the width."""
    console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
