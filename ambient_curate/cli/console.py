"""Progress, warnings and failures on stderr, tables on stdout; exit codes.

Bars and colours appear on a terminal only, where ``NO_COLOR`` is honoured; into a file or a pipe go
plain lines.
"""

import errno
import re
import shlex
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from threading import RLock
from typing import Any, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from ambient_curate.errors import CurateError
from ambient_curate.files import to_json
from ambient_curate.progress import Update

CONTINUED = ("annotate", "demo", "export", "merge", "train")  # go on where they were interrupted
GATE_NOT_MET = 3
INTERRUPTED = 130
_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_OF_ESTIMATE = 300.0  # what the time left is estimated from: pieces of work take minutes
_NUMBER = re.compile(r"[-+]?(\d[\d,]*\.?\d*|\.\d+)(e[-+]?\d+)?\s?%?", re.IGNORECASE)
_NO_NUMBER = ("", "-")


class ConsoleProgress:
    """Shows updates on stderr: bars on a terminal, else a line at the start, the end and between.

    Safe to call from several threads.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where to write; None: stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._draws = self._console.is_terminal and not self._console.is_dumb_terminal
        self._bars = _make_bars(self._console)  # without a terminal they only keep count
        self._open: dict[str, Task] = {}
        self._lock = RLock()

    def __call__(self, update: Update) -> None:
        """Show an update."""
        with self._lock:
            if update.state == "warning":
                _print(self._console, f"warning: {update.note}")
                return
            if update.state == "started":
                self._start(update)
            task = self._open[update.work]
            note = task.fields["note"] if update.note is None else update.note
            self._bars.update(task.id, advance=update.steps, note=note)
            if update.state in ("done", "stopped"):
                self._end(task, update.state)
            elif self._console.get_time() - task.fields["shown"] >= _SECONDS_BETWEEN_LINES:
                self._print_line(task, *_describe_rate(task))

    def _start(self, update: Update) -> None:
        """Open a bar, or widen the one of other pieces of the same work."""
        if (task := self._open.get(update.work)) is not None:
            task.fields["pieces"] += 1
            if task.total is not None:
                self._bars.update(task.id, total=task.total + (update.total or 0))
            return
        if not self._open:
            self._bars = _make_bars(self._console)
            if self._draws:
                self._bars.start()
        now = self._console.get_time()
        self._bars.add_task(update.work, total=update.total, note="", pieces=1, shown=now)
        self._open[update.work] = self._bars.tasks[-1]
        if not self._draws:
            _print(self._console, f"{update.work}: started")

    def _end(self, task: Task, state: str) -> None:
        """Close the bar of a work whose pieces have all ended; the last bar stays on the screen."""
        task.fields["pieces"] -= 1
        if task.fields["pieces"]:
            return
        self._print_line(task, state)
        del self._open[task.description]
        if self._open:
            self._bars.remove_task(task.id)
        elif self._draws:
            self._bars.stop()

    def _print_line(self, task: Task, state: str, left: str = "") -> None:
        if self._draws:
            return
        task.fields["shown"] = self._console.get_time()
        parts = (state, task.fields["note"], _format_seconds(task.elapsed), left)
        _print(self._console, f"{task.description}: {', '.join(filter(None, parts))}")


def _describe_rate(task: Task) -> tuple[str, str]:
    """Say how much is done, and about how long the rest takes, empty where that is unknown."""
    if not task.total:
        return f"{task.completed:,.0f}", ""
    left = task.time_remaining
    return f"{task.percentage:.0f} %", f"{_format_seconds(left)} left" if left else ""


def _format_seconds(seconds: int | float | None) -> str:
    return str(timedelta(seconds=int(seconds or 0)))


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
        speed_estimate_period=_SECONDS_OF_ESTIMATE,
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


class CurateGroup(TyperGroup):
    """Turn an expected failure into a message, a hint and exit code 1; a bug stays a traceback."""

    def invoke(self, ctx: Any) -> Any:  # a click.Context of the click inside typer
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except CurateError as error:
            _fail(str(error), error.hint)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                _fail(f"the disk is full: {error}", "make room and give the same command again")
            if error.filename is None:
                raise
            _fail(f"{error.filename}: {error.strerror}", "check the path and its permissions")
        except KeyboardInterrupt:
            continues = ctx.invoked_subcommand in CONTINUED
            tell("interrupted" + ": the same command continues" * continues)
            raise typer.Exit(INTERRUPTED) from None


def tell(*lines: str) -> None:
    """Print lines to stderr."""
    for line in lines:
        typer.echo(line, err=True)


def quote(path: Path) -> str:
    """Write a path as a shell takes it in a command."""
    return shlex.quote(str(path))


def print_below(lines: Iterable[str]) -> None:
    """Print lines to stdout after an empty one; nothing if there are none."""
    if text := "\n".join(lines):
        typer.echo(f"\n{text}")


def echo_json(content: Any) -> None:
    """Print JSON to stdout."""
    typer.echo(to_json(content, indent=2))


def _fail(message: str, hint: str | None) -> NoReturn:
    tell(f"error: {message}", *([f"hint: {hint}"] if hint else []))
    raise typer.Exit(1) from None
