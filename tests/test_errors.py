"""Messages: numbers with their nouns."""

import pytest

from ambient_curate.errors import write_count


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 frames"), (1, "1 frame"), (0.6, "1 frame"), (2, "2 frames"), (1234, "1,234 frames")],
)
def test_a_noun_agrees_with_the_number_that_is_written(number: float, text: str) -> None:
    assert write_count(number, "frame") == text
