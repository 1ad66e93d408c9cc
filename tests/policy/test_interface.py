"""The interface: the same after JSON, and what is told of an episode as numbers."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_policy import make_interface, scale_between

from ambient_curate.policy.interface import Interface

COLUMNS = {"task": ["push", "turn"], "mass": [1.0, 5.0], "shade": ["dark", "light", "none"]}


def same_scale(first: Any, second: Any) -> bool:
    if first is None or second is None:
        return first is second
    arrays = ("offset", "scale", "low", "high")
    return first.kind == second.kind and all(
        np.array_equal(getattr(first, name), getattr(second, name)) for name in arrays
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scale_state": None, "control_hz": None},
        {"represent": "relative", "reference": "state", "columns": COLUMNS, "n_obs_steps": 5},
        {"scale_action": scale_between([0.1, 3.0], [0.7, 3.0])},  # the second never varies
    ],
)
def test_interface_is_the_same_after_json(changes: dict[str, Any]) -> None:
    interface = make_interface(**changes)
    found = Interface.from_dict(json.loads(json.dumps(interface.as_dict())))
    assert same_scale(found.scale_action, interface.scale_action)
    assert same_scale(found.scale_state, interface.scale_state)
    plain = vars(interface).keys() - {"scale_action", "scale_state"}
    assert {n: vars(found)[n] for n in plain} == {n: vars(interface)[n] for n in plain}
    assert found.as_dict() == interface.as_dict()


def test_condition_has_a_place_for_every_text_and_every_number() -> None:
    assert make_interface().condition_dim == 0
    assert make_interface(columns=COLUMNS).condition_dim == 2 + 1 + 3
    assert make_interface(columns={"task": []}).condition_dim == 0


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"task": "push", "mass": 1.0, "shade": "none"}, [1, 0, -1, 0, 0, 1]),
        ({"task": "turn", "mass": 5, "shade": "dark"}, [0, 1, 1, 1, 0, 0]),
        ({"task": np.str_("turn"), "mass": np.float32(3), "shade": "light"}, [0, 1, 0, 0, 1, 0]),
        ({"task": "fly", "mass": 7.0, "shade": ""}, [0, 0, 2, 0, 0, 0]),  # unknown, and outside
        ({"task": "push", "mass": 2.0, "shade": "dark", "more": 3}, [1, 0, -0.5, 1, 0, 0]),
    ],
)
def test_told_columns_are_encoded(told: dict[str, Any], expected: list[float]) -> None:
    encoded = make_interface(columns=COLUMNS).encode(told)
    assert encoded.dtype == np.float32
    assert encoded.tolist() == expected


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.floats(0.0, 1.0))
def test_numbers_of_the_data_lie_in_minus_one_to_one(low: float, span: float, at: float) -> None:
    interface = make_interface(columns={"goal": [low, low + span]})
    (found,) = interface.encode({"goal": low + at * span}).tolist()
    assert found == pytest.approx(2.0 * at - 1.0, abs=1e-5)


@pytest.mark.parametrize("told", [0.1, float(np.float32(0.1)), 7.0])
def test_a_number_that_never_varied_tells_nothing(told: float) -> None:
    stored = float(np.float32(0.1))  # as a file in float32 says it: told 0.1 it is not quite that
    interface = make_interface(columns={"goal": [stored, stored]})
    assert interface.encode({"goal": told}).tolist() == [0.0]


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match=r"lacks mass: expected \['task', 'mass', 'shade'\]"):
        make_interface(columns=COLUMNS).encode({"task": "push", "shade": "dark"})


def test_order_is_that_of_the_columns_not_of_the_telling() -> None:
    told = {"shade": "none", "mass": 1.0, "task": "push"}
    found = make_interface(columns=COLUMNS).encode(told)
    assert found.tolist() == [1, 0, -1, 0, 0, 1]
