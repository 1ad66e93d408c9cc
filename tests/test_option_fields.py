"""Fields of options: what a declaration says is what is accepted, shown and documented."""

import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from ambient_curate.errors import ConfigError
from ambient_curate.option_fields import (
    COMMAND_ONLY,
    Options,
    Rule,
    above,
    number_in,
    spell_keys,
    text,
    whole,
)

NAN, INFINITY = float("nan"), float("inf")


@dataclass(frozen=True)
class Some(Options):
    """Some of each."""

    count: Annotated[int, whole(1), "How many, {range}."] = 2
    share: Annotated[float | None, number_in("[0, 0.5)"), "Of all, in {range}. None: any."] = None
    rate: Annotated[float, above(0), "Hz, {range}."] = 1.0
    way: Annotated[Literal["up", "down"], "Where to."] = "up"
    switch: Annotated[bool, COMMAND_ONLY, "Whether."] = False
    place: Annotated[Path | None, "Where. None: here."] = None
    name: Annotated[str, text("a name", r"\w+"), "What it is called."] = "x"
    names: Annotated[
        tuple[str, ...], Rule(lambda value: isinstance(value, tuple), "names"), "Each of them."
    ] = ()


@pytest.mark.parametrize(
    ("name", "accepted", "refused", "expected"),
    [
        (
            "count",
            [1, 2**63 - 1, np.int64(1), np.uint8(3)],
            [0, 2**63, 1.0, True, None, "1", np.float64(1), np.bool_(True)],
            "a whole number >= 1",
        ),
        (
            "share",
            [None, 0, 0.0, 0.499, np.float32(0.25)],
            [0.5, -1e-9, NAN, INFINITY, False, "0"],
            "a number in [0, 0.5)",
        ),
        ("rate", [1e-9, 1e9, 1], [0, 0.0, -1, NAN, INFINITY, None], "a number > 0"),
        ("way", ["up", "down"], ["", "Up", None, 0, ["up"]], "up, down"),
        ("switch", [True, False], [0, 1, None, "true"], "true or false"),
        ("place", [None, Path("a"), "a"], ["", " ", 3, False], "a path"),
        ("name", ["a", "a_1"], ["", "a b", None, 3], "a name"),
    ],
)
def test_a_value_is_accepted_or_named_with_what_was_expected(
    name: str, accepted: list[Any], refused: list[Any], expected: str
) -> None:
    option = Some.declared[name]
    for value in accepted:
        assert option.accepts(option.take(value)), value
    for value in refused:
        with pytest.raises(ConfigError) as caught:
            Some(**{name: value})
        assert str(caught.value).startswith(f"{name} = ")
        assert str(caught.value).endswith(f": expected {expected}")


def test_the_ends_of_a_range_are_those_that_are_written() -> None:
    spans = {"(0, 1)": [False, False], "[0, 1)": [True, False], "(0, 1]": [False, True]}
    for interval, ends in spans.items():
        assert [number_in(interval).accepts(end) for end in (0, 1)] == ends
    assert [whole(0, 10).accepts(value) for value in (-1, 0, 10, 11)] == [False, True, True, False]
    assert whole(0, 10).expected == "a whole number, 0 to 10"


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"^count = 0: .*; way = 'left': .*; switch = 1: "):
        Some(count=0, way="left", switch=1)  # type: ignore[arg-type]


def test_values_get_the_types_that_json_and_the_fields_have() -> None:
    some = Some(count=np.int32(3), rate=np.float64(2), place="a")  # type: ignore[arg-type]
    assert (type(some.count), type(some.rate), some.place) == (int, float, Path("a"))
    option = Some.declared["names"]
    assert option.take("a") == ("a",)
    assert option.take(["a", "b"]) == option.take(("a", "b")) == ("a", "b")


def test_it_is_a_dataclass_like_any_other() -> None:
    some = Some(count=3, place=Path("a"))
    assert copy.deepcopy(some) == some  # by the way that processes send it
    assert list(asdict(some)) == list(Some.declared)
    assert replace(some, count=2) == Some(place=Path("a"))
    with pytest.raises(ConfigError, match="count = 0"):
        replace(some, count=0)


def test_the_docstring_and_the_help_say_the_range() -> None:
    assert Some.declared["share"].help == "Of all, in [0, 0.5). None: any."
    assert (
        Some.__doc__
        == """Some of each.

Attributes
----------
count : int
    How many, >= 1.
share : float or None
    Of all, in [0, 0.5). None: any.
rate : float
    Hz, > 0.
way : str
    Where to.
switch : bool
    Whether.
place : Path or None
    Where. None: here.
name : str
    What it is called.
names : tuple[str, ...]
    Each of them."""
    )


def test_what_is_marked_is_for_the_command_only() -> None:
    marked = [name for name, option in Some.declared.items() if option.command_only]
    assert marked == ["switch"]


def test_keys_are_spelt_with_underscores_and_unknown_ones_told() -> None:
    spelled, problems = spell_keys({"a-b": 1, "cd": 2, "colr": 3, "zz": 4}, ["a_b", "cd", "color"])
    assert spelled == {"a_b": 1, "cd": 2}
    assert problems == [
        "colr is unknown: did you mean color?",
        "zz is unknown: known are a_b, cd, color",
    ]
