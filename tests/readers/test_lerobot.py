"""LeRobot datasets are read exactly, and their deviations are told."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_writer import (
    LENGTHS,
    cast,
    change_info,
    data_file,
    make_frames,
    make_info,
    read_all,
    values,
    write_dataset,
)

from ambient_curate.errors import DatasetError
from ambient_curate.readers import lerobot, parquet
from ambient_curate.readers.episodes import ReaderOptions


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("value", [pa.float32(), pa.float64()])
def test_what_is_written_is_read_exactly(
    tmp_path: Path, version: str, fixed: bool, value: pa.DataType
) -> None:
    tables = [cast(table, value, fixed=fixed) for table in make_frames(LENGTHS)]
    write_dataset(tmp_path / "set", version, tables)
    dataset = lerobot.open_dataset(tmp_path / "set", ReaderOptions())
    assert dataset.format == f"LeRobot {version}"
    assert dataset.problems == ()
    assert len(dataset.shards) == (1 if version == "v3.0" else 3)
    assert all(path.is_file() for path in dataset.metadata_files)
    assert len(dataset.metadata_files) == 3
    episodes = read_all(tmp_path / "set")
    assert [episode.id for episode in episodes] == ["0", "1", "2"]
    assert [episode.number for episode in episodes] == [0, 1, 2]
    assert [episode.first_frame for episode in episodes] == [0, 4, 5]
    assert [episode.task for episode in episodes] == ["pick", "place", "pick"]
    for k, (episode, table) in enumerate(zip(episodes, tables, strict=True)):
        np.testing.assert_array_equal(episode.action, values(table, "action"))
        np.testing.assert_array_equal(episode.state, values(table, "observation.state"))
        assert episode.action.dtype == np.float32
        assert episode.rate_hz == 10
        assert episode.labels == {
            "task_index": k % 2,
            "next.success": k % 2 == 1,
            "annotation.quality": f"q{k}",
        }


def test_episodes_are_read_across_files_row_groups_and_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_BATCH_ROWS", 5)
    tables = make_frames((12, 3, 1, 20, 6))
    write_dataset(tmp_path / "set", "v3.0", tables, files=[0, 0, 1, 1, 2], row_group_size=7)
    dataset = lerobot.open_dataset(tmp_path / "set", ReaderOptions())
    assert [path.name for path in dataset.shards] == [f"file-00{k}.parquet" for k in range(3)]
    episodes = read_all(tmp_path / "set")
    assert [episode.length for episode in episodes] == [12, 3, 1, 20, 6]
    for episode, table in zip(episodes, tables, strict=True):
        np.testing.assert_array_equal(episode.action, values(table, "action"))
    second = list(dataset.read_shard(dataset.shards[1]))
    assert [episode.number for episode in second] == [2, 3]
    assert {episode.source for episode in second} == {dataset.shards[1]}


def test_ids_and_numbers_are_episode_indexes(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", "v2.1", make_frames(LENGTHS))
    lines = (root / "meta/episodes.jsonl").read_text().splitlines()
    (root / "meta/episodes.jsonl").write_text("\n".join([lines[2], "", lines[0]]))
    dataset = lerobot.open_dataset(root, ReaderOptions())
    assert [(e.id, e.number) for e in read_all(root)] == [("0", 0), ("2", 2)]
    assert [text.split()[0] for text in dataset.problems] == [
        "total_episodes",
        "total_frames",
        "splits",
        "not",
    ]
    unlisted = (
        "not read, since meta/ lists no episode of them: data/chunk-000/episode_000001.parquet"
    )
    assert dataset.problems[-1] == unlisted


def test_the_names_of_openpi_are_found_and_others_offered(tmp_path: Path) -> None:
    names = {"action": "actions", "observation.state": "state"}
    tables = [
        t.rename_columns([names.get(c, c) for c in t.column_names]) for t in make_frames((5,))
    ]
    root = write_dataset(tmp_path / "set", "v2.1", tables)
    info = json.loads((root / "meta/info.json").read_text())
    features = info["features"]
    change_info(root, features={names.get(k, k): v for k, v in features.items()})
    (episode,) = read_all(root)
    np.testing.assert_array_equal(episode.action, values(tables[0], "actions"))
    np.testing.assert_array_equal(episode.state, values(tables[0], "state"))
    (named,) = read_all(root, action=["actions"])
    assert named.state is not None  # naming the action does not lose the state
    parts = ("reward", "action.joints", "action.grip", "joint_state")
    change_info(root, features=dict.fromkeys(parts, features["action"]))
    with pytest.raises(DatasetError, match="named 'action'; those it has: 'reward', 'action") as e:
        read_all(root)
    assert 'action = ["action.joints", "action.grip"]' in str(e.value.hint)
    dataset = lerobot.open_dataset(root, ReaderOptions(action=["action.joints"]))
    assert any('state = ["joint_state"]' in problem for problem in dataset.problems)


def test_a_list_of_tasks_in_other_columns_is_a_problem_only(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", "v3.0", make_frames(LENGTHS))
    other = pa.table({"task_index": [0, 1], "task_name": ["a", "b"]})
    pq.write_table(other, root / "meta/tasks.parquet")
    (problem,) = lerobot.open_dataset(root, ReaderOptions()).problems
    assert problem.endswith("tasks.parquet names no tasks; each episode's own first task is used.")
    assert [episode.task for episode in read_all(root)] == ["pick", "place", "pick"]


def test_options_name_columns_and_rate(tmp_path: Path) -> None:
    tables = [t.append_column("gripper", pa.array(np.arange(len(t)))) for t in make_frames((5,))]
    root = write_dataset(tmp_path / "set", "v3.0", tables)
    (episode,) = read_all(root, action=["gripper", "action"], state=["gripper"], rate_hz=7.5)
    assert episode.rate_hz == 7.5
    np.testing.assert_array_equal(episode.action[:, 0], np.arange(5))
    np.testing.assert_array_equal(episode.action[:, 1:], values(tables[0], "action"))
    np.testing.assert_array_equal(episode.state, np.arange(5)[:, None])
    assert "gripper" not in episode.labels


def test_a_dataset_without_state_has_none(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", "v2.1", make_frames((3,)))
    info = make_info("v2.1", (3,))
    del info["features"]["observation.state"]
    change_info(root, **info)
    assert read_all(root)[0].state is None


def test_an_episode_without_frames_is_an_episode(tmp_path: Path) -> None:
    for version in ("v2.0", "v3.0"):
        tables = [cast(table, pa.float32(), fixed=True) for table in make_frames((2, 0, 3))]
        root = write_dataset(tmp_path / version, version, tables)
        episodes = read_all(root)
        assert [episode.action.shape for episode in episodes] == [(2, 3), (0, 3), (3, 3)]
        assert episodes[1].state is not None
        assert episodes[1].state.shape == (0, 2)


def test_missing_and_infinite_values_are_passed_on(tmp_path: Path) -> None:
    (table,) = make_frames((3,))
    rows = [[1.0, None, 3.0], [float("nan"), 1e300, -1e300], [0.0, 0.0, 0.0]]
    table = table.set_column(0, "action", pa.array(rows))
    (episode,) = read_all(write_dataset(tmp_path / "set", "v2.1", [table]))
    expected = np.array([[1, np.nan, 3], [np.nan, np.inf, -np.inf], [0, 0, 0]], np.float32)
    np.testing.assert_array_equal(episode.action, expected)


def test_task_falls_back_on_the_episode_list(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", "v2.1", make_frames((2, 2)))
    (root / "meta/tasks.jsonl").unlink()
    assert [episode.task for episode in read_all(root)] == ["pick", "place"]
    (problem,) = lerobot.open_dataset(root, ReaderOptions()).problems
    assert "tasks.jsonl is missing" in problem


def test_the_index_of_a_pandas_task_table_may_have_no_name(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", "v3.0", make_frames((2, 2)))
    table = pa.table({"task_index": [1, 0], "__index_level_0__": ["b", "a"]})
    pq.write_table(table, root / "meta/tasks.parquet")
    assert [episode.task for episode in read_all(root)] == ["a", "b"]


def test_a_newer_minor_version_is_read_and_reported(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", "v3.1", make_frames(LENGTHS))
    assert len(read_all(root)) == 3
    (problem,) = lerobot.open_dataset(root, ReaderOptions()).problems
    assert "v3.1 is newer" in problem


@pytest.mark.parametrize(
    "template",
    ["data/chunk-{episode_index:03d}/episode_{episode_index:06d}.parquet", "x/{episode_index}"],
)
def test_a_path_template_that_misses_is_reported_once(tmp_path: Path, template: str) -> None:
    root = write_dataset(tmp_path / "set", "v2.0", make_frames(LENGTHS))
    change_info(root, data_path=template)
    (problem,) = lerobot.open_dataset(root, ReaderOptions()).problems
    assert f"misses {2 if 'chunk' in template else 3} of 3" in problem
    assert len(read_all(root)) == 3


def test_a_data_file_is_found_by_its_name_if_that_is_unique(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", "v2.0", make_frames(LENGTHS))
    moved = root / "data" / "elsewhere" / "episode_000001.parquet"
    moved.parent.mkdir()
    data_file(root, 1).rename(moved)
    dataset = lerobot.open_dataset(root, ReaderOptions())
    assert dataset.shards[1] == moved
    assert "misses 1 of 3" in dataset.problems[0]
    assert len(read_all(root)) == 3
    copy = root / "data" / "again" / moved.name
    copy.parent.mkdir()
    copy.write_bytes(moved.read_bytes())
    with pytest.raises(DatasetError, match="2 other files"):
        read_all(root)


def test_a_split_and_a_strange_shard_are_refused(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", "v3.0", make_frames((3,)))
    with pytest.raises(DatasetError, match="split"):
        lerobot.open_dataset(root, ReaderOptions(split="train"))
    with pytest.raises(DatasetError, match="named 'nonsense'"):
        lerobot.open_dataset(root, ReaderOptions(state=["nonsense"]))
    with pytest.raises(ValueError, match="no shard"):
        next(lerobot.open_dataset(root, ReaderOptions()).read_shard(root / "other.parquet"))


def test_images_are_never_read(tmp_path: Path) -> None:
    (table,) = make_frames((3,))
    pixels = np.random.default_rng(3).bytes(5000)
    images = pa.array([{"bytes": pixels, "path": f"{k}.png"} for k in range(3)])
    whole = table.append_column("observation.images.top", images)
    options = {"write_page_checksum": True, "compression": "none"}
    root = write_dataset(tmp_path / "set", "v2.1", [whole], **options)
    content = data_file(root).read_bytes()
    place = content.index(pixels)
    data_file(root).write_bytes(content[:place] + bytes(5000) + content[place + 5000 :])
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(data_file(root), page_checksum_verification=True).read()
    np.testing.assert_array_equal(read_all(root)[0].action, values(table, "action"))


@pytest.mark.parametrize(
    ("name", "episodes", "steps", "width", "rate_hz"),
    [
        ("g1_inspire", 100, 35_965, 26, 30),
        ("so101_tape", 50, 14_954, 6, 30),
        ("gr00t_pick_place", 5, 2_096, 44, 20),
    ],
)
def test_real_datasets_are_read_whole(
    shared_data: Path, name: str, episodes: int, steps: int, width: int, rate_hz: float
) -> None:
    dataset = lerobot.open_dataset(shared_data / name, ReaderOptions())
    read = [episode for shard in dataset.shards for episode in dataset.read_shard(shard)]
    assert [episode.number for episode in read] == list(range(episodes))
    assert sum(episode.length for episode in read) == steps
    assert {episode.action.shape[1] for episode in read} == {width}
    assert all(episode.state is not None and episode.state.shape[1] == width for episode in read)
    assert all(episode.rate_hz == rate_hz and episode.task for episode in read)
    starts = np.cumsum([0] + [episode.length for episode in read[:-1]])
    assert [episode.first_frame for episode in read] == starts.tolist()
    tables = [pq.read_table(shard, columns=["action"]) for shard in dataset.shards]
    stored = np.concatenate([values(table, "action") for table in tables])
    np.testing.assert_array_equal(np.concatenate([e.action for e in read]), stored)
    if name == "gr00t_pick_place":
        assert "misses 4 of 5 data files" in dataset.problems[0]
        assert "splits" in dataset.problems[1]
    else:
        assert dataset.problems == ()


def retasked(root: Path, indexes: list[list[int]]) -> Path:
    """Give the rows of the episodes other tasks than the metadata does."""
    for number, values_ in enumerate(indexes):
        table = pq.read_table(data_file(root, number))
        place = table.column_names.index("task_index")
        pq.write_table(
            table.set_column(place, "task_index", pa.array(values_)), data_file(root, number)
        )
    return root


def test_tasks_that_contradict_the_metadata_are_told(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", "v2.1", make_frames((4, 3, 2)))
    assert [each.problems for each in read_all(root)] == [[], [], []]
    retasked(root, [[1, 1, 1, 1], [5, 5, 5], [0, 1]])
    other, unknown, changing = read_all(root)
    assert other.task == "place"
    assert other.problems == [
        "task of the rows is not one the episode is listed with: 'place' is read, 'pick' listed"
    ]
    assert unknown.task == "place"
    assert unknown.problems == ["task_index is not in the list of tasks: 5; 'place' is taken"]
    assert changing.task == "pick"
    assert changing.problems[0] == "task_index changes inside: from 0 to 1"
