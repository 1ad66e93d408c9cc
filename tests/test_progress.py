"""Progress: what a function that follows it is told, also of pieces that many tasks report."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from ambient_curate.progress import Update, join_pieces, silent, track, warn


def started(work: str, total: float | None = None) -> Update:
    return Update(work, total=total, state="started")


def done(work: str) -> Update:
    return Update(work, state="done")


def stopped(work: str) -> Update:
    return Update(work, state="stopped")


def test_silence_takes_everything_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with track(silent, "fit", 3) as advance:
        advance(2, "loss .6")
    warn(silent, "skipped")
    assert capsys.readouterr() == ("", "")


def test_a_piece_of_work_is_reported_from_its_start_to_its_end() -> None:
    updates: list[Update] = []
    with track(updates.append, "fit", 30) as advance:
        advance()
        advance(2.5, "loss .6")
    warn(updates.append, "skipped a file")
    with pytest.raises(KeyboardInterrupt), track(updates.append, "read"):
        raise KeyboardInterrupt
    assert updates == [
        *(started("fit", 30), Update("fit", 1), Update("fit", 2.5, "loss .6"), done("fit")),
        Update("", note="skipped a file", state="warning"),
        *(started("read"), stopped("read")),
    ]


def test_pieces_of_a_known_total_are_one_work_from_the_first_of_them_on() -> None:
    updates: list[Update] = []
    with join_pieces(updates.append, {"fit": 30, "score": 7}) as join:
        assert updates == []  # nothing has begun
        for steps in (10, 12):
            with track(join, "fit", 10) as advance:
                advance(steps, f"note {steps}")
        with track(join, "score") as advance:
            advance(0.5)
    assert updates == [
        *(started("fit", 30), Update("fit", 10, "note 10"), Update("fit", 12, "note 12")),
        *(started("score", 7), Update("score", 0.5)),
        *(done("fit"), done("score")),
    ]


def test_pieces_at_the_same_time_are_one_work_too() -> None:
    updates: list[Update] = []
    with join_pieces(updates.append, {"fit": 4}) as join, ExitStack() as pieces:
        both = [pieces.enter_context(track(join, "fit", 2)) for _ in range(2)]
        for advance in (*both, *both):
            advance()
    assert updates == [started("fit", 4), *[Update("fit", 1)] * 4, done("fit")]


def test_other_works_and_warnings_pass_through() -> None:
    updates: list[Update] = []
    with join_pieces(updates.append, {"fit": 4}) as join:
        with track(join, "read a file", 5) as advance:
            advance(2, "half")
        warn(join, "skipped a file")
    assert updates == [
        *(started("read a file", 5), Update("read a file", 2, "half"), done("read a file")),
        Update("", note="skipped a file", state="warning"),
    ]


def test_a_piece_that_fails_leaves_the_others_their_work_and_what_ends_all_is_told() -> None:
    updates: list[Update] = []
    with pytest.raises(KeyError), join_pieces(updates.append, {"fit": 4}) as join:
        with pytest.raises(ValueError, match="one"), track(join, "fit"):
            raise ValueError("one")
        with track(join, "fit") as advance:
            advance(3)
        raise KeyError
    assert updates == [started("fit", 4), Update("fit", 3), stopped("fit")]


def test_work_that_is_not_wanted_to_its_end_is_done() -> None:
    updates: list[Update] = []

    def read() -> Iterator[int]:
        with track(updates.append, "read", 2):
            yield from range(2)

    reading = read()
    next(reading)
    reading.close()
    assert updates == [started("read", 2), done("read")]
