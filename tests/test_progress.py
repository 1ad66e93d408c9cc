"""Progress: what is shown of pieces of work that many tasks report."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

from ambient_curate.progress import SILENT, Progress, Shared, Task


@dataclass
class Bar:
    description: str
    total: int | float | None
    done: float = 0.0
    notes: list[str] = field(default_factory=list)
    failed: bool = False

    def advance(self, steps: int | float = 1, note: str | None = None) -> None:
        self.done += steps
        if note is not None:
            self.notes.append(note)


class Screen:
    """Bars in the order they were opened, and those that are still open."""

    def __init__(self) -> None:
        self.bars: list[Bar] = []
        self.open: list[str] = []
        self.messages: list[str] = []

    @contextmanager
    def task(self, description: str, total: int | float | None = None) -> Iterator[Task]:
        bar = Bar(description, total)
        self.bars.append(bar)
        self.open.append(description)
        try:
            yield bar
        except BaseException:
            bar.failed = True
            raise
        finally:
            self.open.remove(description)

    def message(self, text: str) -> None:
        self.messages.append(text)


def test_silence_takes_everything_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(SILENT, Progress)
    with SILENT.task("fit", 3) as task:
        assert isinstance(task, Task)
        task.advance(2, "loss .6")
    SILENT.message("skipped")
    assert capsys.readouterr() == ("", "")


def test_like_named_pieces_are_one_bar_of_all_their_steps() -> None:
    screen = Screen()
    with Shared(screen, {"fit": 30, "score": 7}) as shared:
        assert isinstance(shared, Progress)
        assert screen.bars == []  # nothing has begun
        for steps in (10, 12):
            with shared.task("fit", 10) as task:
                task.advance(steps, f"note {steps}")
            assert screen.open == ["fit"]  # others of its name are yet to come
        with shared.task("score") as task:
            task.advance(0.5)
        assert screen.open == ["fit", "score"]
    assert screen.bars == [Bar("fit", 30, 22, ["note 10", "note 12"]), Bar("score", 7, 0.5)]
    assert screen.open == []


def test_pieces_at_the_same_time_share_their_bar_too() -> None:
    screen = Screen()
    with Shared(screen, {"fit": 4}) as shared, ExitStack() as pieces:
        tasks = [pieces.enter_context(shared.task("fit", 2)) for _ in range(2)]
        for task in (*tasks, *tasks):
            task.advance()
    assert screen.bars == [Bar("fit", 4, 4)]


def test_other_pieces_are_shown_one_by_one_while_they_last() -> None:
    screen = Screen()
    with Shared(screen, {"fit": 4}) as shared:
        for total in (5, None):
            with shared.task("read a file", total) as task:
                task.advance(2, "half")
                assert screen.open == ["read a file"]
            assert screen.open == []
        shared.message("skipped a file")
    assert screen.bars == [Bar("read a file", total, 2, ["half"]) for total in (5, None)]
    assert screen.messages == ["skipped a file"]


def test_a_piece_that_fails_leaves_the_others_their_bar_and_what_ends_all_is_told() -> None:
    screen = Screen()
    with pytest.raises(KeyError), Shared(screen, {"fit": 4}) as shared:
        with pytest.raises(ValueError, match="one"), shared.task("fit"):
            raise ValueError("one")
        with shared.task("fit") as task:
            task.advance(3)
        with pytest.raises(ValueError, match="two"), shared.task("read"):
            raise ValueError("two")
        assert screen.open == ["fit"]
        raise KeyError
    assert screen.bars == [Bar("fit", 4, 3, failed=True), Bar("read", None, failed=True)]
    assert screen.open == []
