"""Progress of long work: whoever wants to follow it passes a function that takes updates."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple


class Update(NamedTuple):
    """What has been done since the update before.

    Parameters
    ----------
    work : str
        Name of a piece of work; those of the same name at the same time are shown as one.
    steps : int or float
        How much more of it is done.
    note : str or None
        Of how it goes, such as a loss; the text of a warning.
    total : int or float or None
        Where it is started: all its steps, None where that is unknown.
    state : str
        started, running, done or stopped (by an error); warning: a line for the user.
    """

    work: str
    steps: int | float = 0
    note: str | None = None
    total: int | float | None = None
    state: Literal["started", "running", "done", "stopped", "warning"] = "running"


Progress = Callable[[Update], Any]
Advance = Callable[..., None]  # of `track`


def silent(update: Update) -> None:
    """Show nothing: the default of all functions that report."""


def warn(progress: Progress, text: str) -> None:
    """Tell the user one line, such as of a file that is left out."""
    progress(Update("", note=text, state="warning"))


@contextmanager
def track(progress: Progress, work: str, total: int | float | None = None) -> Iterator[Advance]:
    """Report a piece of work of `total` steps (None: unknown) from its start to its end.

    Yields
    ------
    callable
        ``advance(steps=1, note=None)`` reports that so many more are done.
    """

    def advance(steps: int | float = 1, note: str | None = None) -> None:
        progress(Update(work, steps, note))

    progress(Update(work, total=total, state="started"))
    try:
        yield advance
    except GeneratorExit:  # whoever reads has enough
        progress(Update(work, state="done"))
        raise
    except BaseException:
        progress(Update(work, state="stopped"))
        raise
    progress(Update(work, state="done"))


@contextmanager
def join_pieces(progress: Progress, totals: Mapping[str, int | float]) -> Iterator[Progress]:
    """Report the pieces of each of the works in `totals` as one, from the first on until all end.

    Yields
    ------
    Progress
        What the pieces report to.
    """
    begun = dict[str, None]()  # in this order

    def join(update: Update) -> None:
        if update.work not in totals:
            progress(update)
            return
        if update.work not in begun:
            begun[update.work] = None
            progress(Update(update.work, total=totals[update.work], state="started"))
        if update.state == "running":
            progress(update)

    state: Literal["done", "stopped"] = "stopped"
    try:
        yield join
        state = "done"
    finally:
        for work in begun:
            progress(Update(work, state=state))
