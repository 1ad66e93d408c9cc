"""Map a function over independent pieces of work with several threads, in a fixed order."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Stopped = Callable[[], bool]


class Interrupted(Exception):
    """Raised by a piece of work that was told to stop; never seen by the caller of `map_items`."""


def map_items(
    function: Callable[[Item, Stopped], Result], items: Iterable[Item], *, workers: int
) -> Iterator[Result]:
    """Yield ``function(item, stopped)`` for every item, in the order of the items.

    The heavy work is in libraries that release the interpreter's lock, so threads share the data
    and still use every core. At an exception, Ctrl-C included, pieces that have not begun are
    dropped and running ones see ``stopped()`` turn true; a long one should then raise
    `Interrupted`.

    Parameters
    ----------
    function : callable
        Must give the same result whatever runs beside it.
    items : iterable
        Taken as workers become free, a few ahead of the results.
    workers : int
        Pieces run at once, >= 1.
    """
    stop = threading.Event()
    pool = ThreadPoolExecutor(workers)
    pending = []
    try:
        for item in items:
            pending.append(pool.submit(function, item, stop.is_set))
            if len(pending) >= 2 * workers:
                yield pending.pop(0).result()
        while pending:
            yield pending.pop(0).result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
