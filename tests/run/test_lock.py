"""Locks, between real processes: who has it, who waits, who is refused, and what is left behind."""

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ambient_curate.errors import RunError
from ambient_curate.run import lock as run_lock
from ambient_curate.run.lock import Lock

HOLDER = """
import sys
from pathlib import Path
from ambient_curate.run import lock as locks
from ambient_curate.errors import RunError

locks._SECONDS_BETWEEN_TRIES = 0.01
path, way = Path(sys.argv[1]), sys.argv[2]

def tell(*words):
    print(*words, flush=True)

with locks.Lock(path) as lock:
    if way == "take":
        try:
            lock.take()
        except RunError as error:
            sys.exit(f"{error}; {error.hint}")
    else:
        lock.join((path.parent / "ready").exists, lambda text: tell("told:", text))
    tell("has it")
    for line in sys.stdin:
        if line == "share\\n":
            lock.share()
            tell("shares")
        else:
            break
tell("left")
"""
COUNTER = """
import sys
import time
from pathlib import Path
from ambient_curate.run import lock as locks

locks._SECONDS_BETWEEN_TRIES = 0.0005
folder = Path(sys.argv[1])
for _ in range(30):
    with locks.Lock(folder / ".lock") as lock:
        lock.join(lambda: False, lambda text: None)
        before = int((folder / "count").read_text())
        time.sleep(0.0005)
        (folder / "count").write_text(str(before + 1))
"""
SECONDS = 30.0  # after which a silent process has hung


class Holder:
    """A process that holds, or wants, the lock of a folder."""

    def __init__(self, path: Path, way: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path), way],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self.pid = self.process.pid
        self._said = b""

    def hear(self, seconds: float = SECONDS) -> str | None:
        """Next line; None if there is none in that time."""
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._said:
                if not selector.select(max(end - time.monotonic(), 0.0)):
                    return None
                more = self.process.stdout.read(4096)
                assert more, (self.process.stderr or self.process.stdout).read()
                self._said += more
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())

    def leave(self) -> None:
        self.say("leave")
        assert self.hear() == "left"
        assert self.process.wait(SECONDS) == 0

    def refused(self) -> str:
        """What it is told that must have the lock to itself, and cannot."""
        _, told = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == 1
        return told.decode()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(SECONDS)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


Start = Callable[[str], Holder]


@pytest.fixture
def lock_file(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


@pytest.fixture
def start(lock_file: Path) -> Iterator[Start]:
    holders: list[Holder] = []

    def begin(way: str) -> Holder:
        holders.append(Holder(lock_file, way))
        return holders[-1]

    yield begin
    for holder in holders:
        holder.end()


@pytest.mark.parametrize("way", ["take", "join"])
def test_a_lock_is_there_only_while_it_is_held(lock_file: Path, start: Start, way: str) -> None:
    holder = start(way)
    assert holder.hear() == "has it"
    assert lock_file.read_text() == str(holder.pid)
    holder.leave()
    assert not lock_file.exists()


def test_a_second_taker_is_told_who_has_it(lock_file: Path, start: Start) -> None:
    holder = start("take")
    assert holder.hear() == "has it"
    told = start("take").refused()
    assert f"{lock_file.parent} is being written by process {holder.pid};" in told
    assert "wait for it or end it" in told
    assert lock_file.read_text() == str(holder.pid)  # a refusal takes nothing away
    holder.leave()
    after = start("take")
    assert after.hear() == "has it"
    after.leave()


def test_one_that_joins_waits_says_so_once_and_then_has_it_to_itself(
    lock_file: Path, start: Start
) -> None:
    first = start("take")
    assert first.hear() == "has it"
    second = start("join")
    assert (second.hear() or "").startswith(f"told: waiting for process {first.pid},")
    assert second.hear(0.3) is None
    first.leave()
    assert second.hear() == "has it"
    assert lock_file.read_text() == str(second.pid)
    assert f"process {second.pid};" in start("take").refused()
    second.leave()
    assert not lock_file.exists()


def test_those_that_join_share_it_once_it_may_be_shared_and_the_last_removes_it(
    lock_file: Path, start: Start
) -> None:
    first = start("take")
    assert first.hear() == "has it"
    waiting = start("join")
    assert (waiting.hear() or "").startswith("told:")
    first.say("share")
    assert first.hear() == "shares"
    assert waiting.hear(0.3) is None  # it is not told yet that it may
    (lock_file.parent / "ready").touch()
    assert waiting.hear() == "has it"
    late = start("join")
    assert late.hear() == "has it"
    assert "is being written by process" in start("take").refused()
    for holder in (first, late):
        holder.leave()
        assert lock_file.exists()
        assert "is being written by process" in start("take").refused()
    waiting.leave()
    assert not lock_file.exists()


@pytest.mark.parametrize("way", ["take", "join"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_killed_holder_lets_go(lock_file: Path, start: Start, way: str, shared: bool) -> None:
    holder = start("take")
    assert holder.hear() == "has it"
    if shared:
        holder.say("share")
        assert holder.hear() == "shares"
    holder.process.kill()
    holder.process.wait(SECONDS)
    assert lock_file.read_text() == str(holder.pid)  # which now says nothing
    after = start(way)
    assert after.hear() == "has it"
    assert lock_file.read_text() == str(after.pid)
    after.leave()
    assert not lock_file.exists()


def test_one_of_those_that_wait_follows_a_killed_holder(lock_file: Path, start: Start) -> None:
    holder = start("take")
    assert holder.hear() == "has it"
    waiting = [start("join"), start("join")]
    for each in waiting:
        assert (each.hear() or "").startswith(f"told: waiting for process {holder.pid},")
    holder.process.kill()
    first = int(waiting[0].hear(0.5) is None)
    if first:
        assert waiting[1].hear() == "has it"
    assert waiting[1 - first].hear(0.3) is None
    waiting[first].leave()
    assert waiting[1 - first].hear() == "has it"
    waiting[1 - first].leave()
    assert not lock_file.exists()


def test_no_two_have_it_at_once_though_its_file_comes_and_goes(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    command = [sys.executable, "-c", COUNTER, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(2.0 * SECONDS) for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "120"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


def test_a_lock_that_was_not_had_touches_nothing(lock_file: Path) -> None:
    with Lock(lock_file):
        assert not lock_file.exists()
    with Lock(lock_file) as lock:
        lock.take()
        lock.take()  # which it has
        with Lock(lock_file) as other, pytest.raises(RunError):
            other.take()
        assert lock_file.read_text() == str(os.getpid())
    assert not lock_file.exists()
    lock_file.write_text(f"{os.getppid()}0000000")  # left behind
    with Lock(lock_file) as lock:
        lock.take()
        assert lock_file.read_text() == str(os.getpid())
    assert not lock_file.exists()


def test_a_file_that_is_removed_while_it_is_being_locked_is_no_lock(
    lock_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder ends between our opening of the file and our locking of it."""
    first, plain, tried = Lock(lock_file), run_lock._try, []

    def slow_try(descriptor: int, how: int) -> bool:
        monkeypatch.setattr(run_lock, "_try", plain)
        tried.append(os.fstat(descriptor).st_ino)
        first.__exit__()
        assert not lock_file.exists()
        return plain(descriptor, how)

    first.take()
    monkeypatch.setattr(run_lock, "_try", slow_try)
    with Lock(lock_file) as second:
        second.take()
        assert len(tried) == 1
        assert lock_file.read_text() == str(os.getpid())
        with Lock(lock_file) as third, pytest.raises(RunError):
            third.take()
    assert not lock_file.exists()
