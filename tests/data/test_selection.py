"""The grammar of `where` and `episodes`, and what they pick."""

import operator
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient_curate.data.selection import (
    Comparison,
    MemberOptions,
    Selection,
    parse_slice,
    parse_where,
)
from ambient_curate.errors import ConfigError
from ambient_curate.readers.episodes import Episode, EpisodeName, Label

OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def pick(options: dict[str, Any], one: Episode) -> Episode | None:
    return choose(Selection(MemberOptions(**options), np.array([one.number])), one)


def choose(selection: Selection, one: Episode) -> Episode | None:
    """Pick an episode as it is read: by its name, then by the rest."""
    return selection.pick(one) if selection.choose([EpisodeName(one.id, one.number)]) else None


def episode(index: int, **labels: Label) -> Episode:
    action = np.arange(6, dtype=np.float32).reshape(2, 3) + index
    return Episode(f"e{index}", index, action, Path("shard"), labels=labels)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("success == true", [("success", "==", True)]),
        ("success==false", [("success", "==", False)]),
        ("speed >= -0.5 and speed<1e3", [("speed", ">=", -0.5), ("speed", "<", 1000.0)]),
        ("n != 3", [("n", "!=", 3)]),
        ("name == pick", [("name", "==", "pick")]),
        ("name == 'a and b == c'", [("name", "==", "a and b == c")]),
        ('name == "" and mask/train > 0', [("name", "==", ""), ("mask/train", ">", 0)]),
        ("  a   ==  'true' ", [("a", "==", "true")]),
        ("and == and", [("and", "==", "and")]),
    ],
)
def test_where_is_parsed(text: str, expected: list[tuple[str, str, Label]]) -> None:
    terms = parse_where(text)
    assert terms == tuple(Comparison(*term) for term in expected)
    assert [type(term.value) for term in terms] == [type(value) for _, _, value in expected]


@pytest.mark.parametrize(
    "text",
    [
        *("", "success", "success = true", "== 1", "a == ", "a == 1 or b == 2", "a == 1 b == 2"),
        *("a == 1 and", "a == 1and b == 2", "a == 'b", "1 < a < 3", "a === 1"),
        "a == 'b'and c == 1",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not COLUMN OP VALUE"):
        parse_where(text)


@given(st.text(alphabet="ab=!<> '\"and1.e-true", max_size=40))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        assert parse_where(text)
    except ConfigError as error:
        assert error.hint


@given(st.integers(-5, 5), st.sampled_from(sorted(OPERATORS)), st.integers(-5, 5))
def test_a_comparison_is_python_s(label: int, operation: str, value: int) -> None:
    (term,) = parse_where(f"column {operation} {value}")
    assert term.holds(label) is OPERATORS[operation](label, value)


@pytest.mark.parametrize(("label", "value"), [("3", 3), ("true", True), (1.0, "1")])
def test_text_is_never_compared_with_a_number(label: Label, value: Label) -> None:
    for operation in OPERATORS:
        with pytest.raises(ConfigError, match="text with a number"):
            Comparison("column", operation, value).holds(label)


@given(
    st.none() | st.integers(-12, 12),
    st.none() | st.integers(-12, 12),
    st.none() | st.integers(1, 4),
    st.integers(0, 10),
)
def test_a_slice_picks_what_python_s_picks(
    start: int | None, stop: int | None, step: int | None, total: int
) -> None:
    shown = ["" if number is None else str(number) for number in (start, stop, step)]
    text = ":".join(shown)
    assert parse_slice(text) == slice(start, stop, step)
    options = MemberOptions(episodes=text)
    selection = Selection(options, np.arange(total))
    picked = [i for i in range(total) if choose(selection, episode(i))]
    assert picked == list(range(total))[start:stop:step]
    assert selection.left_out.total() == total - len(picked)


def test_a_slice_is_of_numbers_and_an_end_below_0_counts_episodes() -> None:
    numbers = np.array([7, 0, 3, 1, 6, 4])  # 2 and 5 were deleted

    def picked(text: str) -> list[int]:
        selection = Selection(MemberOptions(episodes=text), numbers)
        return [number for number in numbers.tolist() if selection.keeps(EpisodeName("e", number))]

    assert picked("0:3") == [0, 1]
    assert picked("5:") == [7, 6]
    assert picked("-2:") == [7, 6]
    assert picked(":-2") == [0, 3, 1, 4]
    assert picked("-99:1") == [0]
    assert picked("::2") == [0, 6, 4]


@pytest.mark.parametrize("text", ["", "3", "a:b", "1:2:0", "::-1", "1:2:3:4", "1.5:2", "0x1:2"])
def test_anything_but_a_forward_slice_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a slice"):
        parse_slice(text)


def test_reasons_are_counted() -> None:
    options = MemberOptions(
        episodes=(0, 1, 2, 3), where="good == true", exclude=("e1", 2, "e9", 77), dims=(2, 0)
    )
    selection = Selection(options, np.arange(6))
    picked = [choose(selection, episode(i, good=i % 2 == 1)) for i in range(6)]
    kept = [e for e in picked if e is not None]
    assert [e.id for e in kept] == ["e3"]
    np.testing.assert_array_equal(kept[0].action, [[5, 3], [8, 6]])
    assert selection.left_out == {
        "exclude = ['e1', 2, 'e9', 77]": 2,
        "where = 'good == true'": 1,
        "episodes = (0, 1, 2, 3)": 2,
    }


def test_the_task_is_a_column_too() -> None:
    one = Episode("e", 0, np.zeros((1, 1), np.float32), Path("s"), task="pick it up")
    assert pick({"where": "task == 'pick it up'"}, one) is one
    assert pick({"where": "task != 'pick it up'"}, one) is None


def test_an_unknown_column_lists_the_labels() -> None:
    with pytest.raises(ConfigError, match="names 'sucess', which episode e0 of shard") as caught:
        pick({"where": "sucess == true"}, episode(0, success=True, n=1))
    assert caught.value.hint == "its labels: n, success"


def test_dims_beyond_the_action_are_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("dims = [0, 3]: episode e0 of shard has 3")):
        pick({"dims": (0, 3)}, episode(0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("path", ""),
        ("episodes", "1"),
        ("episodes", ()),
        ("episodes", (-1,)),
        ("where", "a"),
        ("split", " "),
        ("action", ("a", "a")),
        ("dims", (0, 0)),
        ("dims", (True,)),
        ("rate_hz", 0.0),
        ("rate_hz", float("inf")),
        ("exclude", ("a", "")),
    ],
)
def test_a_wrong_member_option_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name} = .*: expected "):
        MemberOptions(**{name: value})
