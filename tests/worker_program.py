"""A worker of test_workers.py: the first word of a task says what happens to it."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from ambient_curate.errors import DatasetError
from ambient_curate.progress import Progress, track, warn
from ambient_curate.run.workers import serve

folder = Path(__file__).parent


def log(*words: object) -> None:
    with open(folder / "log", "a", buffering=1) as file:  # a line is one write: appended whole
        print(os.getpid(), *words, file=file)


def tried(task: str) -> int:
    return (folder / "log").read_text().count(f" begin {task}\n")


def handle(task: str, progress: Progress) -> None:  # noqa: C901, PLR0915
    log("begin", task)
    kind = task.partition(" ")[0]
    if kind in ("raise", "once"):
        if kind == "raise" or tried(task) == 1:
            raise ValueError("no\n  such value")
    elif kind in ("kill", "kill-once"):
        if kind == "kill" or tried(task) == 1:
            with track(progress, "doomed", 2) as advance:
                advance()
                os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "unnamed":
        os.kill(os.getpid(), signal.SIGRTMIN + 1)
    elif kind == "exit":
        sys.exit(3)
    elif kind == "refuse":
        with track(progress, "half", 2):
            raise DatasetError("the file is \u00fcbel", "mend it")
    elif kind == "refuse-plain":
        raise DatasetError("no hint")
    elif kind == "full":
        raise OSError(int(task.split()[1]), "no room", "some/file")
    elif kind == "meet":  # two must be at it at once
        end = time.monotonic() + 10
        while (folder / "log").read_text().count("begin meet") < 2:
            assert time.monotonic() < end
            time.sleep(0.005)
    elif kind == "doze":
        time.sleep(0.05)
    elif kind == "sleep":
        time.sleep(60)
    elif kind == "print":
        print("printed by print")
        os.write(1, b"printed by a library\n")
        subprocess.run(["echo", "printed by a child"])
    elif kind == "environment":
        log(*(os.environ[f"{n}_NUM_THREADS"] for n in ("OMP", "MKL", "OPENBLAS")))
    elif kind == "fork":  # what is left behind must not hold the pipe open
        subprocess.Popen(["sleep", "3"], stdin=subprocess.DEVNULL, close_fds=False)
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "report":
        start = time.monotonic()
        warn(progress, "m\u00e4ssage\nof two lines")
        with track(progress, "fast", 3000) as advance:
            for _ in range(3000):
                advance()
            advance(0, "last note")
        log("seconds", time.monotonic() - start)
        with track(progress, "fast") as advance:
            advance(0.25)
        with track(progress, "no steps", 0.5):
            pass
    elif kind == "threads":

        def advance_often() -> None:
            for _ in range(1000):
                advance()

        with track(progress, "shared", 4000) as advance:
            threads = [threading.Thread(target=advance_often) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    log("end", task)


if __name__ == "__main__":
    serve(handle)
