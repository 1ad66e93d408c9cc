"""Damage to a LeRobot dataset is named, and never read as data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_writer import (
    LENGTHS,
    change_info,
    data_file,
    make_frames,
    mutate,
    read_all,
    values,
    write_dataset,
)

from ambient_curate import readers
from ambient_curate.errors import DatasetError
from ambient_curate.readers import lerobot
from ambient_curate.readers.episodes import ReaderOptions


@pytest.mark.parametrize(
    "template",
    [
        "../../secret/{episode_index}.parquet",
        "data/../../{episode_index}.parquet",
        "/etc/passwd",
        "data/{episode_index.__class__}.parquet",
        "data/{episode_index:>999999999}.parquet",
        "data/{episode_index:0999999999d}.parquet",
        "data/{unknown}.parquet",
        "data/{0}.parquet",
        "data/{",
        "data/\0",
        "",
        ".",
        7,
        None,
    ],
)
def test_a_hostile_path_template_is_refused(tmp_path: Path, template: object) -> None:
    root = write_dataset(tmp_path / "set", "v2.1", make_frames((2,)))
    change_info(root, data_path=template)
    with pytest.raises(DatasetError, match="data_path"):
        lerobot.open_dataset(root, ReaderOptions())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"codebase_version": "v9"}, "codebase_version"),
        ({"codebase_version": "v9.0"}, "codebase_version"),
        ({"codebase_version": "v1.6"}, "codebase_version"),
        ({"codebase_version": None}, "codebase_version"),
        ({"chunks_size": 0}, "chunks_size"),
        ({"chunks_size": -1000}, "chunks_size"),
        ({"chunks_size": "1000"}, "chunks_size"),
        ({"chunks_size": True}, "chunks_size"),
        ({"chunks_size": 10**40}, "chunks_size"),
        ({"fps": 0}, "fps"),
        ({"fps": -30}, "fps"),
        ({"fps": float("nan")}, "fps"),
        ({"fps": "30"}, "fps"),
        ({"features": None}, "features"),
        ({"features": {}}, "no one-dimensional feature of numbers named 'action'"),
        ({"features": {"action": {"dtype": "string", "shape": [1]}}}, "'action'"),
        ({"features": {"action": {"dtype": "float32", "shape": [2, 3]}}}, "'action'"),
        ({"features": {"action": {"dtype": "float32", "shape": [0]}}}, "'action'"),
        ({"features": {"action": {"dtype": "float32", "shape": [10**30]}}}, "'action'"),
        ({"features": {"action": {"dtype": "float32", "shape": [5]}}}, "says 5"),
    ],
)
def test_wrong_metadata_is_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    root = write_dataset(tmp_path / "set", "v2.1", make_frames((2,)))
    change_info(root, **changes)
    with pytest.raises(DatasetError, match=match) as caught:
        read_all(root)
    assert caught.value.hint


@pytest.mark.parametrize("total", [10**30, -1, "many", None, 10**12])
def test_totals_are_reported_and_not_believed(tmp_path: Path, total: object) -> None:
    root = write_dataset(tmp_path / "set", "v3.0", make_frames(LENGTHS))
    change_info(root, total_episodes=total, total_frames=total)
    assert len(lerobot.open_dataset(root, ReaderOptions()).problems) == 2
    assert len(read_all(root)) == 3


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "\ud800", "[" * 10**6, '{"a": 1e', "\ufeff{}", "1" * 5000]
)
def test_a_broken_info_file_is_still_lerobot(tmp_path: Path, text: str) -> None:
    root = write_dataset(tmp_path / "set", "v2.1", make_frames((2,)))
    (root / "meta/info.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert lerobot.recognizes(root)
    with pytest.raises(DatasetError, match=r"info\.json"):
        readers.open_dataset(root)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_missing_info_file_is_told(tmp_path: Path, version: str) -> None:
    root = write_dataset(tmp_path / "set", version, make_frames((2,)))
    (root / "meta/info.json").unlink()
    with pytest.raises(DatasetError, match=r"info\.json is missing"):
        readers.open_dataset(root)
    (root / "meta/info.json").mkdir()
    with pytest.raises(DatasetError, match=r"info\.json is missing"):
        readers.open_dataset(root)


def test_other_directories_are_not_lerobot(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "file").touch()
    assert not lerobot.recognizes(tmp_path)
    assert not lerobot.recognizes(tmp_path / "file")
    assert not lerobot.recognizes(tmp_path / "absent")


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ([], "lists no episodes"),
        (["{"], "line 1"),
        (['{"episode_index": 0}'], "length"),
        (['{"episode_index": -1, "length": 2}'], "episode_index"),
        (['{"episode_index": 0, "length": 2}'] * 2, "more than once"),
        (['{"episode_index": 0, "length": 3}'], "holds 2 frames"),
        (['{"episode_index": 0, "length": 2}', '{"episode_index": 5, "length": 2}'], "lacks"),
        (['{"episode_index": 1, "length": 2}'], "lacks the data file"),
    ],
)
def test_a_wrong_episode_list_is_refused(tmp_path: Path, lines: list[str], match: str) -> None:
    root = write_dataset(tmp_path / "set", "v2.1", make_frames((2,)))
    (root / "meta/episodes.jsonl").write_text("\n".join(lines))
    with pytest.raises(DatasetError, match=match):
        read_all(root)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_absent_files_are_named(tmp_path: Path, version: str) -> None:
    root = write_dataset(tmp_path / "set", version, make_frames((2,)))
    data_file(root).rename(tmp_path / "kept")
    with pytest.raises(DatasetError, match="lacks the data file 'data/chunk-000/"):
        lerobot.open_dataset(root, ReaderOptions())
    (tmp_path / "kept").rename(root / "data" / "chunk-000" / "late.parquet")
    listing = next((root / "meta").rglob("episodes*/**/*.parquet"), root / "meta/episodes.jsonl")
    listing.unlink()
    with pytest.raises(DatasetError, match=r"episodes(\.jsonl is missing| lists no episodes)"):
        lerobot.open_dataset(root, ReaderOptions())


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_file_cut_short_is_named(tmp_path: Path, version: str, share: float) -> None:
    root = write_dataset(tmp_path / "set", version, make_frames(LENGTHS))
    path = data_file(root)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DatasetError, match=path.name):
        read_all(root)


def test_a_cut_listing_is_named(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", "v3.0", make_frames(LENGTHS))
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"meta/episodes/chunk-000/file-000\.parquet"):
        read_all(root)


def replaced(name: str, column: Any) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, pa.array(column))


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda table: table.drop_columns(["action"]), "0 columns 'action'"),
        (lambda table: table.append_column("action", table["action"]), "2 columns 'action'"),
        (lambda table: table.drop_columns(["episode_index"]), "episode_index"),
        (replaced("action", ["left"] * 4), "expected numbers"),
        (replaced("action", [["left"]] * 4), "expected numbers"),
        (replaced("action", [[[1.0]]] * 4), "expected numbers"),
        (replaced("action", [{"x": 1.0}] * 4), "expected numbers"),
        (replaced("action", [[1.0, 2.0, 3.0]] * 3 + [[1.0, 2.0]]), "expected one length"),
        (replaced("action", [[1.0, 2.0, 3.0]] * 3 + [None]), "expected one length"),
        (replaced("action", [[1.0, 2.0]] * 4), "says 3"),
        (replaced("observation.state", [0.0] * 4), "says 2"),
        (replaced("frame_index", [0, 2, 1, 3]), "row 1 has frame_index 2, expected 1"),
        (replaced("frame_index", [1, 2, 3, 4]), "row 0 has frame_index 1"),
        (replaced("frame_index", [0.0, 1.0, 2.0, 3.0]), "whole numbers"),
        (replaced("frame_index", [0, 1, None, 3]), "1 nulls"),
        (
            lambda table: replaced("index", [0, 1, 3, 4])(table.drop_columns(["frame_index"])),
            "index does not rise by 1",
        ),
        (replaced("index", np.array([0, 1, 2, 2**64 - 1], np.uint64)), "whole numbers"),
        (replaced("episode_index", [0, 0, 0, 1]), "holds 3 frames of episode 0 in a row"),
        (replaced("episode_index", [1, 1, 1, 1]), "frames of episode 1"),
        (lambda table: table.slice(1), "holds 3 frames"),
        (lambda table: pa.concat_tables([table, table]), "holds 8 frames"),
    ],
)
def test_wrong_frames_are_refused(
    tmp_path: Path, damage: Callable[[pa.Table], pa.Table], match: str
) -> None:
    (table,) = make_frames((4,))
    root = write_dataset(tmp_path / "set", "v2.1", [table])
    pq.write_table(damage(table), data_file(root))
    with pytest.raises(DatasetError, match=match) as caught:
        read_all(root)
    assert str(data_file(root)) in str(caught.value)
    assert caught.value.hint


def test_a_global_index_is_read_from_the_rows_where_the_list_contradicts_it(
    tmp_path: Path,
) -> None:
    root = write_dataset(tmp_path / "set", "v3.0", make_frames(LENGTHS, first=3))
    episodes = read_all(root)
    assert [e.first_frame for e in episodes] == [3, 7, 8]
    assert episodes[1].problems == [
        "dataset_from_index contradicts index, which is read: 4 is listed, 7 is the index of the "
        "first row"
    ]


@pytest.mark.parametrize("index", [[0, 1, 3, 4], [2, 2, 2, 2], [-1, 0, 1, 2]])
def test_frames_are_counted_by_frame_index_where_index_does_not_count(
    tmp_path: Path, index: list[int]
) -> None:
    (table,) = make_frames((4,))
    root = write_dataset(tmp_path / "set", "v2.1", [replaced("index", index)(table)])
    (episode,) = read_all(root)
    assert (episode.length, episode.first_frame) == (4, None)
    assert episode.problems == [
        f"index does not count the frames, frame_index is read: index does not rise by 1 from "
        f"{index[0]}"
    ]


def test_episodes_of_a_file_may_be_in_any_order(tmp_path: Path) -> None:
    tables = make_frames((3, 4, 2))
    root = write_dataset(tmp_path / "set", "v3.0", tables)
    pq.write_table(pa.concat_tables([tables[k] for k in (1, 2, 0)]), data_file(root))
    episodes = read_all(root)
    assert [e.number for e in episodes] == [1, 2, 0]
    for episode in episodes:
        np.testing.assert_array_equal(episode.action, values(tables[episode.number], "action"))
    again = [tables[0], tables[0], tables[1].slice(1)]
    pq.write_table(pa.concat_tables(again), data_file(root))
    with pytest.raises(DatasetError, match="holds 6 frames of episode 0 in a row"):
        read_all(root)


def test_page_checksums_are_verified_unless_told_not_to(tmp_path: Path) -> None:
    tables = make_frames((50,))
    options = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
    root = write_dataset(tmp_path / "set", "v2.1", tables, **options)
    content = bytearray(data_file(root).read_bytes())
    place = content.index(np.float64(tables[0]["action"][20].as_py()[1]).tobytes())
    content[place + 3] ^= 1
    data_file(root).write_bytes(content)
    with pytest.raises(DatasetError, match=r"(?i)crc|checksum"):
        read_all(root)
    assert read_all(root, checksums=False)[0].length == 50


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_mutated_bytes_give_an_error_or_the_right_answer(tmp_path: Path, version: str) -> None:
    tables = make_frames(LENGTHS)
    root = write_dataset(tmp_path / "set", version, tables, write_page_checksum=True)
    rng = np.random.default_rng(1)
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    outcomes = {"error": 0, "right": 0}
    for path in files:
        content = path.read_bytes()
        for _ in range(30):
            path.write_bytes(mutate(content, rng))
            try:
                episodes = read_all(root)
            except DatasetError:
                outcomes["error"] += 1
                continue
            for episode in episodes:
                expected = values(tables[int(episode.id)], "action")
                np.testing.assert_array_equal(episode.action, expected)
            outcomes["right"] += 1
        path.write_bytes(content)
    assert min(outcomes.values()) > 10, outcomes
