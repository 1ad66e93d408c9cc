"""Messages: numbers with their nouns, and many failures in few lines."""

import pytest

from ambient_curate.errors import Failures, name_some, write_count


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 frames"), (1, "1 frame"), (0.6, "1 frame"), (2, "2 frames"), (1234, "1,234 frames")],
)
def test_a_noun_agrees_with_the_number_that_is_written(number: float, text: str) -> None:
    assert write_count(number, "frame") == text


def test_failures_that_differ_in_path_and_numbers_only_are_one_kind() -> None:
    failures = Failures()
    assert list(failures.sentences()) == [] and failures.hint() is None
    assert failures.add("lone", "lone is lost", "find it")
    new = [failures.add(f"e_{n}.npz", f"e_{n}.npz has {n} rows", f"drop {n}") for n in range(2000)]
    assert new == [True] + [False] * 1999 and len(failures) == 2001
    first = "e_0.npz has 0 rows (and 1,999 more like it)"
    assert list(failures.sentences()) == [first, "lone is lost"]
    assert list(failures.sentences(1)) == [first, "and 1 more"]
    assert failures.hint() == "drop 0"


def test_a_long_list_of_names_is_cut() -> None:
    assert name_some(["a", "b"]) == "a, b"
    assert name_some([str(n) for n in range(2005)]) == "0, 1, 2, 3, 4 and 2,000 more"
