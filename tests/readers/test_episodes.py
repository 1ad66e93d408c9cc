"""The unit of loss is the episode, in every format; and what the clock of an episode says."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr_writer
from collection_writer import (
    DIM,
    SHARD,
    make_episodes,
    write_hdf5,
    write_lerobot,
    write_lerobot_v3,
    write_npy,
    write_parquet,
    write_rlds,
)
from example_writer import bytes_feature, example, float_feature, frame, int_feature
from lerobot_writer import data_file
from numpy.testing import assert_array_equal

from ambient_curate.data.collection import open_collection, read_episodes
from ambient_curate.data.inspection import inspect_collection
from ambient_curate.errors import DatasetError
from ambient_curate.readers.episodes import measure_clock

EPISODES = make_episodes(6, 20)
BAD = 2  # the number of the episode that is damaged
Damage = Callable[[Path], object]


def write_npz_files(root: Path, episodes: list[np.ndarray]) -> Path:
    root.mkdir(parents=True)
    for number, each in enumerate(episodes):
        np.savez(root / f"{number}.npz", action=each)
    return root


def write_aloha(root: Path, episodes: list[np.ndarray]) -> Path:
    root.mkdir(parents=True)
    for number, each in enumerate(episodes):
        with h5py.File(root / f"episode_{number}.hdf5", "w") as file:
            file["action"] = each
            file["observations/qpos"] = each
    return root


def write_minari(root: Path, episodes: list[np.ndarray]) -> Path:
    root.mkdir(parents=True)
    with h5py.File(root / "main_data.hdf5", "w") as file:
        for number, each in enumerate(episodes):
            file[f"episode_{number}/actions"] = each
            file[f"episode_{number}"].attrs["total_steps"] = len(each)
    return root


def write_zarr(root: Path, episodes: list[np.ndarray]) -> Path:
    ends, action = np.cumsum([len(each) for each in episodes]), np.concatenate(episodes)
    path = root.with_suffix(".zarr")
    return zarr_writer.write(path, {"action": action}, ends=ends, chunk=20)


def cut(name: str) -> Damage:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:100])


def in_hdf5(name: str, change: Callable[[h5py.File], object]) -> Damage:
    def damage(root: Path) -> None:
        with h5py.File(root / name, "a") as file:
            change(file)

    return damage


def as_array(name: str) -> Callable[[h5py.File], object]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = np.ones(3)

    return change


def in_table(number: int, change: Callable[[pa.Table], pa.Table]) -> Damage:
    """Change a data file, with lists of variable length."""

    def damage(root: Path) -> None:
        file = data_file(root, number) if (root / "data").is_dir() else root / "data.parquet"
        table = pq.read_table(file)
        kind = pa.list_(pa.float64())
        place = table.column_names.index("action")
        table = table.set_column(place, "action", table["action"].cast(kind))
        pq.write_table(change(table), file)

    return damage


def action_row(row: int, value: list[float] | None) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        rows = table["action"].to_pylist()
        rows[row] = value
        place = table.column_names.index("action")
        return table.set_column(place, "action", pa.array(rows, table["action"].type))

    return change


def drop_rows(start: int, stop: int) -> Callable[[pa.Table], pa.Table]:
    return lambda table: pa.concat_tables([table.slice(0, start), table.slice(stop)])


def move_row(row: int) -> Callable[[pa.Table], pa.Table]:
    """Put a row to the end of the table."""
    return lambda table: pa.concat_tables([drop_rows(row, row + 1)(table), table.slice(row, 1)])


def payload(action: np.ndarray | None, steps: int = 20) -> bytes:
    values = {} if action is None else {"steps/action": float_feature(action.ravel().tolist())}
    return example({"steps/is_first": int_feature([1] + [0] * (steps - 1)), **values})


def in_records(place: int, change: Callable[[bytes], bytes]) -> Damage:
    """Change a record of the first of the shards, which has three."""

    def damage(root: Path) -> None:
        file = root / SHARD.format(0)
        records = [frame(payload(each)) for each in EPISODES[:3]]
        records[place] = change(records[place])
        file.write_bytes(b"".join(records))

    return damage


NAN = [np.nan] * DIM
FORMATS = {
    "hdf5": (write_hdf5, "demo_2"),
    "minari": (write_minari, "episode_2"),
    "aloha": (write_aloha, "episode_2"),
    "npz": (write_npz_files, "2"),
    "npy": (write_npy, "2"),
    "parquet": (write_parquet, "2"),
    "lerobot2": (write_lerobot, "2"),
    "lerobot3": (write_lerobot_v3, "2"),
    "rlds": (write_rlds, f"{SHARD.format(0)}__2"),
    "zarr": (write_zarr, "episode_2"),
}
ACTIONS = "data/demo_2/actions"
CASES: list[tuple[str, str, Damage]] = [
    ("hdf5", "no action", in_hdf5("demos.hdf5", lambda f: f.pop(ACTIONS))),
    ("hdf5", "no group", in_hdf5("demos.hdf5", as_array("data/demo_2"))),
    ("hdf5", "a number of frames", in_hdf5("demos.hdf5", as_array(ACTIONS))),
    ("hdf5", "text", in_hdf5("demos.hdf5", lambda f: (f.pop(ACTIONS), f.update({ACTIONS: "a"})))),
    ("minari", "no action", in_hdf5("main_data.hdf5", lambda f: f.pop("episode_2/actions"))),
    ("minari", "no group", in_hdf5("main_data.hdf5", as_array("episode_2"))),
    ("aloha", "no action", in_hdf5("episode_2.hdf5", lambda f: f.pop("action"))),
    ("aloha", "cut short", cut("episode_2.hdf5")),
    ("aloha", "an empty file", in_hdf5("episode_2.hdf5", lambda f: f.clear())),
    ("npz", "cut short", cut("2.npz")),
    ("npz", "no action", lambda root: np.savez(root / "2.npz", other=EPISODES[2])),
    ("npy", "cut short", cut("2.npy")),
    ("npy", "text", lambda root: np.save(root / "2.npy", np.array(["a"]))),
    ("parquet", "ragged", in_table(0, action_row(47, [1.0]))),
    ("parquet", "null", in_table(0, action_row(47, None))),
    ("parquet", "NaN", in_table(0, action_row(47, NAN))),
    ("parquet", "a frame is missing", in_table(0, drop_rows(47, 48))),
    ("parquet", "rows apart", in_table(0, move_row(59))),
    ("lerobot2", "cut short", cut("data/chunk-000/episode_000002.parquet")),
    ("lerobot2", "absent", lambda root: data_file(root, 2).unlink()),
    ("lerobot2", "ragged", in_table(2, action_row(7, [1.0]))),
    ("lerobot2", "truncated", in_table(2, drop_rows(15, 20))),
    ("lerobot3", "ragged", in_table(0, action_row(47, [1.0]))),
    ("lerobot3", "null", in_table(0, action_row(47, None))),
    ("lerobot3", "truncated", in_table(0, drop_rows(55, 60))),
    ("lerobot3", "no rows", in_table(0, drop_rows(40, 60))),
    ("lerobot3", "rows apart", in_table(0, move_row(59))),
    ("rlds", "no action", in_records(2, lambda r: frame(payload(None)))),
    ("rlds", "no steps", in_records(2, lambda r: frame(example({"a": bytes_feature([])})))),
    ("rlds", "too few values", in_records(2, lambda r: frame(payload(EPISODES[2][:9])))),
    ("rlds", "a flipped bit", in_records(2, lambda r: r[:60] + bytes([r[60] ^ 1]) + r[61:])),
    ("rlds", "no message", in_records(2, lambda r: frame(b"\xff" * 30))),
    ("rlds", "truncated", in_records(2, lambda r: r[:-30])),
    ("zarr", "a chunk is damaged", lambda r: (r / "data/action/2.0").write_bytes(b"x")),
    ("zarr", "a chunk is missing", lambda r: (r / "data/action/2.0").unlink()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "damage"),
    [(kind, damage) for kind, _, damage in CASES],
    ids=[f"{kind}: {what}" for kind, what, _ in CASES],
)
def test_a_bad_episode_costs_itself(tmp_path: Path, kind: str, damage: Damage) -> None:
    write, name = FORMATS[kind]
    (tmp_path / "all").mkdir()
    root = write(tmp_path / "all" / "set", EPISODES)
    rest = [each for number, each in enumerate(EPISODES) if number != BAD]
    damage(root)
    (member,) = open_collection(tmp_path / "all").members
    with pytest.raises(DatasetError) as caught:
        list(read_episodes(member))
    assert name in str(caught.value)
    reports: list[str] = []
    kept = list(
        read_episodes(member, on_error="skip", on_skip=lambda _, error: reports.append(str(error)))
    )
    assert name in " ".join(reports)
    for excluded in (name, BAD):
        (tmp_path / "all" / "ambient.toml").write_text(
            f"[datasets.set]\nexclude = [{json.dumps(excluded)}]\n"
        )
        (member,) = open_collection(tmp_path / "all").members
        for read in (kept, list(read_episodes(member))):
            assert len(read) == len(rest)
            for episode, action in zip(read, rest, strict=True):
                assert_array_equal(episode.action, action)


def test_rows_that_the_metadata_does_not_list_cost_no_episode(tmp_path: Path) -> None:
    root = write_lerobot_v3(tmp_path / "set", EPISODES)
    table = pq.read_table(data_file(root))
    place = table.column_names.index("episode_index")
    more = table.slice(0, 5).set_column(place, "episode_index", pa.array([9] * 5))
    pq.write_table(pa.concat_tables([more, table]), data_file(root))
    (member,) = open_collection(root).members
    with pytest.raises(DatasetError, match=r"holds 5 frames of episode 9 in a row.*lists 0"):
        list(read_episodes(member))
    reports: list[str] = []
    kept = list(read_episodes(member, on_error="skip", on_skip=lambda _, e: reports.append(str(e))))
    assert [len(each.action) for each in kept] == [20] * 6
    assert len(reports) == 1 and "episode 9" in reports[0]


def test_the_first_episode_may_be_the_bad_one_where_its_file_tells_no_shapes(
    tmp_path: Path,
) -> None:
    root = write_rlds(tmp_path / "set", EPISODES)
    (root / "features.json").unlink()
    in_records(0, lambda _: frame(payload(None)))(root)
    (member,) = open_collection(root).members
    kept = list(read_episodes(member, on_error="skip", on_skip=lambda *_: None))
    assert [each.action.shape for each in kept] == [(20, DIM)] * 5


@pytest.mark.parametrize("name", ["hdf5", "npz", "parquet"])
def test_a_broken_file_beside_good_ones_costs_only_itself(tmp_path: Path, name: str) -> None:
    write = {"hdf5": write_hdf5, "npz": write_npz_files, "parquet": write_parquet}[name]
    root = write(tmp_path / "set", EPISODES)
    suffix = next(root.iterdir()).suffix
    (root / f"a{suffix}").write_bytes(b"damaged")
    (member,) = open_collection(root).members
    reports: list[str] = []
    kept = list(read_episodes(member, on_error="skip", on_skip=lambda p, _: reports.append(p.name)))
    assert [len(each.action) for each in kept] == [20] * 6
    assert reports == [f"a{suffix}"]
    with pytest.raises(DatasetError, match=rf"a\{suffix}"):
        list(read_episodes(member))


def test_a_file_without_demonstrations_is_a_problem_and_no_error(tmp_path: Path) -> None:
    root = write_hdf5(tmp_path / "set", EPISODES)
    with h5py.File(root / "cancelled.hdf5", "w") as file:
        file.create_group("data").attrs["total"] = 0
    (member,) = open_collection(root).members
    assert len(list(read_episodes(member))) == 6
    assert "cancelled.hdf5 holds no demonstration" in member.dataset.problems
    (root / "demos.hdf5").unlink()
    with pytest.raises(DatasetError, match="holds no demonstration"):
        open_collection(root)


STEADY = np.arange(20) / 10


@pytest.mark.parametrize(
    ("times", "period", "problems"),
    [
        (STEADY, 0.1, []),
        (STEADY + 1.7e9, 0.1, []),
        (STEADY[:1], None, []),
        (STEADY[:0], None, []),
        (STEADY / 3, 1 / 30, []),
        (STEADY - 1, 0.1, ["timestamp is below 0: -1 s at the least"]),
        (
            np.r_[STEADY[:10], STEADY[10:] + 29],
            0.1,
            ["timestamp jumps: by 29.1 s after frame 9, where the median step is 0.1 s"],
        ),
        (
            np.r_[STEADY[:10], STEADY[:10]],
            0.1,
            ["timestamp does not rise: 0.9 s at frame 9, 0 s after it"],
        ),
        (STEADY * 1000, None, ["timestamp is not in seconds: its median step is 100"]),
        (np.zeros(20), None, ["timestamp does not rise: 0 s at frame 0, 0 s after it"]),
        (np.full(20, np.nan), None, ["timestamp is no number: at some frames"]),
        (np.delete(STEADY, 7), 0.1, ["timestamp jumps: by 0.2 s after frame 6, where the median "
                                     "step is 0.1 s"]),
    ],
)  # fmt: skip
def test_a_clock_is_measured(times: np.ndarray, period: float | None, problems: list[str]) -> None:
    found, said = measure_clock(times)
    assert said == problems
    assert (found is None) if period is None else found == pytest.approx(period, rel=1e-6)


def test_time_stamps_are_held_against_the_rate(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    for name, write in (("two", write_lerobot), ("three", write_lerobot_v3)):
        root = write(tmp_path / "all" / name, EPISODES)
        for file in sorted((root / "data").rglob("*.parquet")):
            table = pq.read_table(file)
            place = table.column_names.index("timestamp")
            stamps = np.asarray(table["frame_index"]) / 25
            pq.write_table(table.set_column(place, "timestamp", pa.array(stamps)), file)
    write_lerobot(tmp_path / "all" / "sound", EPISODES)
    inspection = inspect_collection(open_collection(tmp_path / "all"))
    found = {each.name: each.problems for each in inspection.members}
    for name in ("two", "three"):
        assert any(
            "contradicts the rate in 6 of 6 episodes (0, 1, 2, 3, 4, ...): 10 Hz is stated, the "
            "median step is 0.04 s (25 Hz)" in problem
            for problem in found[name]
        )
    assert not any("timestamp" in problem for problem in found["sound"])
    (differ,) = [each for each in inspection.problems if "rates differ" in each]
    assert "sound 10 Hz, three 25 Hz, two 25 Hz" in differ


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns", None])
def test_the_rate_of_a_table_is_that_of_its_stamps(tmp_path: Path, unit: str | None) -> None:
    root = write_parquet(tmp_path / "set", EPISODES)
    table = pq.read_table(root / "data.parquet")
    seconds = np.asarray(table["frame_index"]) * 2.0 + 1.7e9
    stamps = pa.array(seconds)
    if unit is not None:
        factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
        stamps = pa.array(seconds.astype(np.int64) * factor, pa.timestamp(unit))
    pq.write_table(table.append_column("timestamp", stamps), root / "data.parquet")
    (member,) = inspect_collection(open_collection(root)).members
    assert member.rate_hz == pytest.approx(0.5)
