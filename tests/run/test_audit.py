"""The audit of rows: against every window counted one by one, and each kind of wrong row."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient_curate.run.audit import Ledger, Roll


def roll_of(lengths: list[int]) -> Roll:
    number = {str(i): i for i in range(len(lengths))}
    return Roll(number, np.arange(len(lengths)), np.array(lengths, dtype=np.int64), "")


def ledger_of(lengths: list[int], horizon: int = 4, stride: int = 2) -> Ledger:
    options = {"horizon": horizon, "stride": stride, "granularity": "datapoint"}
    return Ledger("far", roll_of(lengths), options)


def windows(lengths: list[int], horizon: int = 4, stride: int = 2) -> Iterator[dict[str, Any]]:
    """A row for every window that lies in its episode, counted; one for an episode too short."""
    for episode, length in enumerate(lengths):
        short = length < horizon
        for start in range(0, 1 if short else length - horizon + 1, stride):
            yield {
                "episode_id": str(episode),
                "episode_index": episode,
                "start": start,
                "horizon": horizon,
                "status": "too-short" if short else "ok",
            }


def table(rows: list[dict[str, Any]]) -> pa.Table:
    schema = {"episode_id": pa.string(), "episode_index": pa.int64(), "start": pa.int32()}
    schema |= {"horizon": pa.int32(), "status": pa.string()}
    return pa.Table.from_pylist(rows, schema=pa.schema(schema))


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    horizon=st.integers(1, 6),
    stride=st.integers(1, 4),
    cut=st.integers(0, 20),
)
def test_all_windows_in_any_two_parts_are_what_there_must_be(
    lengths: list[int], horizon: int, stride: int, cut: int
) -> None:
    ledger = ledger_of(lengths, horizon, stride)
    rows = list(windows(lengths, horizon, stride))
    for part in (rows[:cut], rows[cut:]):
        assert list(ledger.tick(table(part), "part")) == []
    assert list(ledger.missing()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"episode_id": "9"}, "speak of episodes that far does not have"),
        ({"episode_index": 7}, "have not the number of their episode"),
        ({"status": "too-short"}, "are wrong about an episode's being too short"),
        ({"start": 1}, "are not whole windows"),
        ({"start": -2}, "are not whole windows"),
        ({"start": 6}, "are not whole windows"),  # ends behind the ninth frame
        ({"horizon": 5}, "are not whole windows"),
        ({"start": 0}, "speak of what another row speaks of"),
    ],
)
def test_a_wrong_row_is_told_with_its_part(change: dict[str, Any], said: str) -> None:
    lengths = [9, 3, 8]
    rows = list(windows(lengths))
    assert [row["start"] for row in rows] == [0, 2, 4, 0, 0, 2, 4]
    rows[1] |= change
    ledger = ledger_of(lengths)
    (text,) = ledger.tick(table(rows), "part-7")
    assert text.startswith("part-7: rows ") and "(1), first" in text and said in text
    lost = [] if "status" in change or "episode_index" in change else ["frame 2 of episode '0'"]
    assert [each.rsplit("that of ")[1] for each in ledger.missing()] == lost


def test_a_row_of_another_part_is_not_said_twice() -> None:
    ledger = ledger_of([9])
    rows = list(windows([9]))
    assert list(ledger.tick(table(rows), "first")) == []
    (text,) = ledger.tick(table(rows[:1]), "second")
    assert text == (
        "second: rows speak of what another row speaks of (1), first episode '0', start 0"
    )


def test_a_row_of_an_episode_has_no_start() -> None:
    options = {"horizon": 4, "stride": 1, "granularity": "episode"}
    ledger = Ledger("far", roll_of([9, 3]), options)
    rows = [
        {"episode_id": str(i), "episode_index": i, "start": None, "horizon": 4, "status": status}
        for i, status in enumerate(("ok", "too-short"))
    ]
    (text,) = ledger.tick(table([rows[0], rows[1] | {"start": 0}]), "part")
    assert "are not whole windows" in text
    assert list(ledger.missing()) == [
        "far: 1 of 2 rows are missing, first that of '1'",
    ]
