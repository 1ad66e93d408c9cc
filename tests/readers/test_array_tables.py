"""Parquet tables of frames are read by the contract of plain arrays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_writer import frames, read_all

from ambient_curate import readers
from ambient_curate.errors import DatasetError


def test_a_table_is_cut_into_its_episodes(tmp_path: Path) -> None:
    extra = {
        "state": np.arange(7),
        "task": ["pick"] * 4 + ["place"] * 3,
        "operator": ["ann"] * 4 + ["bob"] * 3,
        "grip": np.arange(7),
        "success": [False] * 6 + [True],
        "score": [0.5] * 4 + [float("nan")] * 3,
    }
    pq.write_table(frames(**extra), tmp_path / "x.parquet")
    first, second = read_all(tmp_path / "x.parquet")
    assert (first.id, second.id) == ("0", "1")
    assert (first.task, second.task) == ("pick", "place")
    assert first.labels == {"operator": "ann", "success": False, "score": 0.5}
    assert second.labels == {"operator": "bob", "success": True}
    np.testing.assert_array_equal(first.action, np.arange(8).reshape(4, 2))
    np.testing.assert_array_equal(second.action, np.arange(8, 14).reshape(3, 2))
    np.testing.assert_array_equal(second.state, [[4], [5], [6]])


def test_columns_may_be_numbered(tmp_path: Path) -> None:
    numbered = {f"action_{k}": np.full(7, k) for k in (10, *range(10))}
    table = frames(state_1=np.zeros(7), state_0=np.ones(7), **numbered).drop_columns("action")
    pq.write_table(table, tmp_path / "x.parquet")
    episodes = read_all(tmp_path / "x.parquet")
    np.testing.assert_array_equal(episodes[0].action, np.tile(np.arange(11), (4, 1)))
    np.testing.assert_array_equal(episodes[1].state, [[1, 0]] * 3)
    pq.write_table(table.drop_columns("action_4"), tmp_path / "x.parquet")
    with pytest.raises(DatasetError, match="no 'action_4'"):
        read_all(tmp_path / "x.parquet")


def test_a_folder_of_tables_is_one_dataset(tmp_path: Path) -> None:
    pq.write_table(frames(first=0), tmp_path / "a.parquet")
    pq.write_table(frames(first=7), tmp_path / "b.parquet")
    episodes = read_all(tmp_path)
    assert [(e.id, e.number) for e in episodes] == [("0", 0), ("1", 1), ("7", 7), ("8", 8)]
    pq.write_table(frames(first=1), tmp_path / "b.parquet")
    with pytest.raises(DatasetError, match="named '1'"):
        read_all(tmp_path)


def with_column(name: str, values: Any) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, pa.array(values))


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda table: table.drop_columns("action"), "no 'action'"),
        (lambda table: table.drop_columns("episode_index"), "episode_index"),
        (lambda table: table.slice(0, 0), "holds no rows"),
        (lambda table: table.slice(1), "row 0 has frame_index 1"),
        (lambda table: table.take([0, 2, 1, 3, 4, 5, 6]), "out of order"),
        (
            lambda table: table.take([0, 4, 1, 2, 3, 5, 6]),
            "do not lie together",
        ),
        (with_column("action", [[1.0]] * 6 + [[1.0, 2.0]]), "one length"),
        (with_column("action", [[1.0]] * 4 + [[1.0, 2.0]] * 3), "as in the rest"),
        (with_column("action", ["x"] * 7), "expected numbers"),
        (lambda table: table.append_column("task", pa.array([5] * 7)), "task"),
    ],
)
def test_wrong_tables_are_refused(
    tmp_path: Path, damage: Callable[[pa.Table], pa.Table], match: str
) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(damage(frames()), path)
    with pytest.raises(DatasetError, match=match) as caught:
        read_all(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint


def test_a_table_that_ends_early_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(frames(), tmp_path / "x.parquet")
    batches = frames().slice(0, 4).to_batches()
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: iter(batches))
    with pytest.raises(DatasetError, match="holds 7 rows, and only 4 can be read"):
        read_all(tmp_path / "x.parquet")


@pytest.mark.parametrize("index", [None, [10, 11, 12, 13, 3, 4, 5]])
def test_without_a_frame_index_the_rows_are_in_order(
    tmp_path: Path, index: list[int] | None
) -> None:
    """The columns of LeRobot without its metadata."""
    table = frames().drop_columns("frame_index")
    columns = {"timestamp": [0.0, 0.1, 0.2, 0.3, 0.0, 0.1, 0.2], "next.done": [False] * 7}
    columns |= {} if index is None else {"index": index}
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, tmp_path / "x.parquet")
    dataset = readers.open_dataset(tmp_path)
    first, second = read_all(tmp_path)
    np.testing.assert_array_equal(first.action, np.arange(8.0).reshape(4, 2))
    np.testing.assert_array_equal(second.action, np.arange(8.0, 14).reshape(3, 2))
    assert (first.period_s, first.problems) == (pytest.approx(0.1), [])
    assert dataset.problems == [
        "1 file of 1 without frame_index: the rows of an episode are read in their order"
    ]


def test_rows_out_of_order_by_index_are_refused(tmp_path: Path) -> None:
    table = (
        frames().drop_columns("frame_index").append_column("index", pa.array([0, 1, 3, 2] * 2)[:7])
    )
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DatasetError, match="index does not rise by 1 from 0") as caught:
        read_all(tmp_path)
    assert "sort the rows by index" in str(caught.value.hint)


def test_what_a_table_lacks_is_a_hint_that_can_be_followed(tmp_path: Path) -> None:
    pq.write_table(frames().drop_columns("episode_index"), tmp_path / "x.parquet")
    with pytest.raises(DatasetError, match="0 columns 'episode_index'") as caught:
        read_all(tmp_path)
    assert "add a column episode_index" in str(caught.value.hint)


def test_a_task_that_changes_in_an_episode_is_told(tmp_path: Path) -> None:
    pq.write_table(frames(task=["a", "a", "b", "b", "c", "c", "c"]), tmp_path / "x.parquet")
    first, second = read_all(tmp_path)
    assert (first.task, second.task) == ("a", "c")
    assert first.problems == ["task changes inside: 'a' is read, then 'b'"]
    assert second.problems == []
