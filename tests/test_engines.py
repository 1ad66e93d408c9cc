"""The engine: order, equal results for any number of workers, and an orderly end."""

import threading
import time
from collections.abc import Iterator

import pytest

from ambient_curate.engines import Interrupted, Stopped, map_items


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_results_come_in_the_order_of_the_items(workers: int, count: int) -> None:
    def square(item: int, stopped: Stopped) -> int:
        time.sleep(0.002 * (item % 3 == 0))  # the first of three is the last to finish
        return item**2

    assert list(map_items(square, range(count), workers=workers)) == [i**2 for i in range(count)]


def test_no_more_run_at_once_than_there_are_workers() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def work(item: int, stopped: Stopped) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1

    list(map_items(work, range(20), workers=3))
    assert most == 3


def test_items_are_taken_only_a_few_ahead_of_the_results() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(100):
            taken += 1
            yield item

    results = map_items(lambda item, stopped: item, items(), workers=2)
    assert next(results) == 0
    assert taken <= 5
    results.close()
    assert taken <= 5


def test_an_exception_drops_what_has_not_begun_and_stops_what_runs() -> None:
    began, seen_stop = [], threading.Event()
    failing = threading.Event()

    def work(item: int, stopped: Stopped) -> int:
        began.append(item)
        if item == 0:
            failing.wait(5.0)
            raise ValueError("piece 0 is broken")
        failing.set()
        for _ in range(1_000):
            if stopped():
                seen_stop.set()
                raise Interrupted
            time.sleep(0.005)
        return item

    with pytest.raises(ValueError, match="piece 0 is broken"):
        list(map_items(work, range(50), workers=2))
    assert seen_stop.is_set()
    assert len(began) <= 4


def test_results_before_the_exception_are_delivered() -> None:
    def work(item: int, stopped: Stopped) -> int:
        if item == 3:
            raise KeyError(item)
        return item

    results = map_items(work, range(10), workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(results)


def test_a_caller_who_leaves_early_waits_for_the_running_and_leaves_no_thread() -> None:
    finished = []

    def work(item: int, stopped: Stopped) -> int:
        while item > 0 and not stopped():
            time.sleep(0.002)
        finished.append(item)
        return item

    before = threading.active_count()
    results = map_items(work, range(30), workers=3)
    assert next(results) == 0
    results.close()
    assert threading.active_count() == before
    assert 0 < len(finished) < 10


def test_an_exception_of_the_items_stops_the_workers() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    seen = []

    def work(item: int, stopped: Stopped) -> None:
        while not stopped():
            time.sleep(0.002)
        seen.append(item)
        raise Interrupted

    with pytest.raises(OSError, match="the disk is gone"):
        list(map_items(work, items(), workers=2))
    assert seen == [1]
