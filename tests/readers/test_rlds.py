"""RLDS datasets: real ones, ones built byte by byte, and broken ones."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_writer import bytes_feature, example, float_feature, int_feature, record_file

from ambient_curate.errors import DatasetError
from ambient_curate.readers import rlds
from ambient_curate.readers.episodes import Episode, ReaderOptions

SHARD = "toy-train.tfrecord-00000-of-00001"
RNG = np.random.default_rng(0)
ACTIONS = [RNG.standard_normal((steps, 3)).astype(np.float32) for steps in (4, 1, 6)]
STATES = [RNG.standard_normal((len(action), 2)).astype(np.float32) for action in ACTIONS]


def tensor(*shape: int, dtype: str = "float32") -> dict[str, Any]:
    dimensions = {"dimensions": [str(size) for size in shape]} if shape else {}
    return {"tensor": {"shape": dimensions, "dtype": dtype, "encoding": "none"}}


def features_dict(features: dict[str, Any]) -> dict[str, Any]:
    return {"featuresDict": {"features": features}}


def features_json(**steps: Any) -> dict[str, Any]:
    metadata = {"success": tensor(dtype="bool"), "seed": tensor(dtype="int32"), "by": {"text": {}}}
    sequence = {"sequence": {"feature": features_dict(steps), "length": "-1"}}
    return features_dict({"steps": sequence, "episode_metadata": features_dict(metadata)})


FEATURES = features_json(
    action=tensor(3),
    observation=features_dict({"state": tensor(2), "image": {"image": {"encodingFormat": "png"}}}),
    is_first=tensor(dtype="bool"),
    language_instruction={"text": {}},
)


def episode_features(number: int) -> dict[str, bytes]:
    steps = len(ACTIONS[number])
    return {
        "steps/observation/image": bytes_feature([bytes(50)] * steps),
        "steps/is_first": int_feature([1] + [0] * (steps - 1)),
        "steps/action": float_feature(ACTIONS[number].ravel().tolist()),
        "steps/observation/state": float_feature(STATES[number].ravel().tolist()),
        "steps/language_instruction": bytes_feature([f"task {number}".encode()] * steps),
        "episode_metadata/success": int_feature([number % 2]),
        "episode_metadata/seed": int_feature([-number]),
        "episode_metadata/by": bytes_feature([b"anna \xff"]),
        "episode_metadata/essay": bytes_feature([b"x" * 1000]),
        "episode_metadata/pair": int_feature([1, 2]),
    }


def write_dataset(
    folder: Path,
    *,
    features: dict[str, Any] | None = FEATURES,
    episodes: Sequence[dict[str, bytes]] | None = None,
    splits: dict[str, list[str]] | None = None,
    **info: Any,
) -> Path:
    """Write a dataset whose every shard holds the same episodes."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [episode_features(n) for n in range(3)] if episodes is None else episodes
    splits = splits or {"train": [str(len(records))]}
    listed = []
    for name, lengths in splits.items():
        listed.append({"name": name, "shardLengths": lengths})
        for shard in range(len(lengths)):
            path = folder / f"toy-{name}.tfrecord-{shard:05d}-of-{len(lengths):05d}"
            path.write_bytes(record_file(map(example, records)))
    content = {"name": "toy", "fileFormat": "tfrecord", "splits": listed} | info
    (folder / "dataset_info.json").write_text(json.dumps(content))
    if features is not None:
        (folder / "features.json").write_text(json.dumps(features))
    return folder


def read(folder: Path, **options: Any) -> list[Episode]:
    dataset = rlds.open_dataset(folder, ReaderOptions(**options))
    return [episode for shard in dataset.shards for episode in dataset.read_shard(shard)]


def test_an_episode_has_everything_that_its_record_tells(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path)
    episodes = read(folder, rate_hz=5.0)
    assert [e.id for e in episodes] == [f"{SHARD}__{n}" for n in range(3)]
    assert [e.number for e in episodes] == [0, 1, 2]
    assert [e.task for e in episodes] == ["task 0", "task 1", "task 2"]
    for number, episode in enumerate(episodes):
        np.testing.assert_array_equal(episode.action, ACTIONS[number])
        np.testing.assert_array_equal(episode.state, STATES[number])
        assert episode.labels == {"success": number % 2 == 1, "seed": -number, "by": "anna \ufffd"}
        assert type(episode.labels["success"]) is bool
        assert episode.source == folder / SHARD
        assert episode.rate_hz == 5.0


def test_a_dataset_tells_its_files_and_splits(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, splits={"train": ["3", "3"], "val": ["3"]})
    dataset = rlds.open_dataset(folder, ReaderOptions())
    assert dataset.format == "RLDS"
    assert dataset.path == folder
    assert [shard.name[-14:] for shard in dataset.shards] == ["00000-of-00002", "00001-of-00002"]
    assert [file.name for file in dataset.metadata_files] == ["dataset_info.json", "features.json"]
    assert dataset.splits == ("train", "val")
    assert dataset.problems == ("of the splits train, val, train is read: 6 of 9 episodes",)
    (folder / "toy-val.tfrecord-00001-of-00001").touch()
    unlisted = (
        "not read, since dataset_info.json does not list them: toy-val.tfrecord-00001-of-00001"
    )
    assert rlds.open_dataset(folder, ReaderOptions()).problems[1:] == (unlisted,)
    assert [e.number for e in dataset.read_shard(dataset.shards[1])] == [3, 4, 5]


def test_a_dictionary_of_actions_is_joined_in_the_order_asked_for(tmp_path: Path) -> None:
    parts = {
        "steps/action/world_vector": float_feature(range(6)),
        "steps/action/gripper": float_feature([10, 11]),
        "steps/action/terminate": int_feature([0, -7]),
        "steps/is_first": int_feature([1, 0]),
    }
    action = {"world_vector": tensor(3), "gripper": tensor(), "terminate": tensor(dtype="int32")}
    features = features_json(action=features_dict(action), is_first=tensor(dtype="bool"))
    folder = write_dataset(tmp_path, features=features, episodes=[parts])
    names = ["action/gripper", "steps/action/world_vector", "action/terminate"]
    (episode,) = read(folder, action=names, state=["action/gripper"])
    assert episode.action.tolist() == [[10, 0, 1, 2, 0], [11, 3, 4, 5, -7]]
    assert episode.action.dtype == np.float32
    assert episode.state is not None and episode.state.tolist() == [[10], [11]]
    with pytest.raises(DatasetError, match=r"no numeric feature steps/action for the action") as e:
        rlds.open_dataset(folder, ReaderOptions())
    assert "it has action/world_vector, action/gripper, action/terminate, is_first" in str(e.value)
    assert e.value.hint is not None  # as stored, without the flag of an episode's end
    assert e.value.hint.endswith('action = ["action/world_vector", "action/gripper"]')


def test_a_feature_stored_in_an_encoding_is_named(tmp_path: Path) -> None:
    encoded = {"tensor": tensor(3)["tensor"] | {"encoding": "zlib"}}
    features = features_json(action=encoded, is_first=tensor(dtype="bool"))
    folder = write_dataset(tmp_path, features=features)
    with pytest.raises(DatasetError, match="stores steps/action as zlib, which is not read"):
        rlds.open_dataset(folder, ReaderOptions())


@pytest.mark.parametrize("flag", ["is_first", "is_last", "is_terminal", "reward", None])
def test_the_number_of_steps_comes_from_what_is_there(tmp_path: Path, flag: str | None) -> None:
    record = {"steps/action": float_feature(range(8))}
    if flag:
        record[f"steps/{flag}"] = float_feature([0, 0]) if flag == "reward" else int_feature([0, 1])
    folder = write_dataset(tmp_path, features=features_json(action=tensor(2, 2)), episodes=[record])
    (episode,) = read(folder)
    assert episode.action.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert episode.state is None and episode.task is None


@pytest.mark.parametrize("features", [None, {"proto_cls": "an old version's"}])
def test_without_feature_shapes_the_values_tell_them(
    tmp_path: Path, features: dict[str, Any] | None
) -> None:
    folder = write_dataset(tmp_path, features=features)
    for number, episode in enumerate(read(folder)):
        np.testing.assert_array_equal(episode.action, ACTIONS[number])
        np.testing.assert_array_equal(episode.state, STATES[number])
    (problem,) = rlds.open_dataset(folder, ReaderOptions()).problems
    assert "features.json describes no steps" in problem


def test_without_shapes_and_flags_the_number_of_steps_is_unknown(tmp_path: Path) -> None:
    record = {"steps/action": float_feature(range(8))}
    folder = write_dataset(tmp_path, features=None, episodes=[record])
    with pytest.raises(DatasetError, match="record 0 does not tell its number of steps"):
        read(folder)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"steps/action": float_feature(range(11))}, "steps/action holds 11 values, expected 4"),
        ({"steps/is_first": int_feature([1])}, "steps/action holds 12 values, expected 1 steps"),
        ({"steps/action": bytes_feature([b"a"])}, "steps/action is bytes, expected numbers"),
        ({"steps/action": b""}, "steps/action is absent, expected numbers"),
        ({"steps/observation/state": float_feature([])}, "state holds 0 values, expected 4"),
    ],
)
def test_an_episode_that_contradicts_its_features_is_an_error(
    tmp_path: Path, changed: dict[str, bytes], reason: str
) -> None:
    folder = write_dataset(tmp_path, episodes=[episode_features(0) | changed])
    with pytest.raises(DatasetError, match=f"{SHARD}: record 0, byte 12: .*{reason}"):
        read(folder)


@pytest.mark.parametrize("promised", ["2", "4"])
def test_another_number_of_episodes_than_promised_is_an_error(
    tmp_path: Path, promised: str
) -> None:
    folder = write_dataset(tmp_path, splits={"train": [promised]})
    with pytest.raises(DatasetError, match=f"holds 3 episodes, dataset_info.json says {promised}"):
        read(folder)


def test_the_highest_version_is_read_and_the_others_are_told(tmp_path: Path) -> None:
    for version in ("1.9.0", "1.10.0", "not.a.version"):
        write_dataset(tmp_path / version)
    (tmp_path / "2.0.0").mkdir()
    assert rlds.recognizes(tmp_path)
    dataset = rlds.open_dataset(tmp_path, ReaderOptions())
    assert dataset.path == tmp_path / "1.10.0"
    assert dataset.problems == ("there are the versions 1.9.0, 1.10.0: 1.10.0 is read",)


def test_splits_are_chosen_by_name(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "two", splits={"train": ["3"], "val": ["3"]})
    assert read(folder, split="val")[0].id.startswith("toy-val.tfrecord")
    with pytest.raises(DatasetError, match="no split 'test'; there are 'train', 'val'"):
        rlds.open_dataset(folder, ReaderOptions(split="test"))
    folder = write_dataset(tmp_path / "one", splits={"val": ["3"]})
    dataset = rlds.open_dataset(folder, ReaderOptions())
    assert dataset.shards[0].name.startswith("toy-val")
    assert dataset.problems == ("there is no split 'train': the only split 'val' is read",)
    folder = write_dataset(tmp_path / "none", splits={"a": ["3"], "b": ["3"]})
    with pytest.raises(DatasetError, match="no split 'train'; there are 'a', 'b'"):
        rlds.open_dataset(folder, ReaderOptions())


@pytest.mark.parametrize(
    "template",
    ["{SPLIT}/{SHARD_X_OF_Y}", "../{DATASET}", "..\\{DATASET}", "{DATASET}", "{X.__class__}", "..",
     "\0", "a" * 300, "\ud800"],
)  # fmt: skip
def test_hostile_or_useless_names_of_shards_are_errors(tmp_path: Path, template: str) -> None:
    splits = [{"name": "train", "shardLengths": ["3", "3"], "filepathTemplate": template}]
    folder = write_dataset(tmp_path, splits={"train": ["3", "3"]})
    info = {"name": "toy", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(DatasetError):
        rlds.open_dataset(folder, ReaderOptions())


def test_shards_follow_the_template(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path)
    (folder / SHARD).rename(folder / "00000_of_00001.train.tfrecord.toy")
    template = "{SHARD_INDEX}_of_{NUM_SHARDS}.{SPLIT}.{FILEFORMAT}.{DATASET}"
    splits = [{"name": "train", "shardLengths": [3], "filepathTemplate": template}]
    (folder / "dataset_info.json").write_text(json.dumps({"name": "toy", "splits": splits}))
    assert len(read(folder)) == 3


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[]", "holds no JSON object"),
        (b"{}", "lacks the dataset's name or its splits"),
        (b'{"name": "toy", "splits": []}', "lacks the dataset's name or its splits"),
        (b'{"name": "toy", "splits": [1]}', "a split without a name"),
        (b'{"name": "toy", "splits": [{"name": "train"}]}', "'train' has no list of shards"),
        (b'{"name": "toy", "splits": [{"name": "train", "shardLengths": ["-1"]}]}', "length '-1'"),
        (b'{"name": "toy", "splits": [{"name": "train", "shardLengths": [null]}]}', "length None"),
        (b'{"name": "toy", "splits": [{"name": "train", "shardLengths": ["3", "3"]}]}', "lacks 2"),
        (b'{"name": "toy", "fileFormat": "riegeli"}', "'riegeli' files, only 'tfrecord'"),
    ],
)
def test_broken_dataset_info_is_recognized_and_refused(
    tmp_path: Path, info: bytes, reason: str
) -> None:
    folder = write_dataset(tmp_path)
    (folder / "dataset_info.json").write_bytes(info)
    assert rlds.recognizes(folder)
    with pytest.raises(DatasetError, match=reason):
        rlds.open_dataset(folder, ReaderOptions())


@pytest.mark.parametrize("name", ["features.json", SHARD])
def test_a_dataset_without_dataset_info_is_recognized_and_refused(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"")
    assert rlds.recognizes(tmp_path)
    with pytest.raises(DatasetError, match=r"dataset_info\.json is missing"):
        rlds.open_dataset(tmp_path, ReaderOptions())


@pytest.mark.parametrize(
    "content",
    [b"nonsense", b"[]", b'{"featuresDict": 3}', b'{"featuresDict": {"features": {"a": 4}}}',
     b'{"featuresDict": {"features": {"steps": {"tensor": {"dtype": 3, "shape": {}}}}}}'],
)  # fmt: skip
def test_broken_features_are_refused(tmp_path: Path, content: bytes) -> None:
    folder = write_dataset(tmp_path)
    (folder / "features.json").write_bytes(content)
    with pytest.raises(DatasetError, match=r"features\.json"):
        rlds.open_dataset(folder, ReaderOptions())


def test_other_paths_are_not_recognized(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("")
    assert not rlds.recognizes(tmp_path)
    assert not rlds.recognizes(tmp_path / "note.txt")
    assert not rlds.recognizes(tmp_path / "absent")
    with pytest.raises(DatasetError, match="holds no RLDS dataset"):
        rlds.open_dataset(tmp_path, ReaderOptions())


@pytest.mark.parametrize("mutations", [300, pytest.param(30_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", SHARD])
def test_mutated_files_are_errors_or_the_right_answer(
    tmp_path: Path, name: str, mutations: int
) -> None:
    folder = write_dataset(tmp_path)
    original = (folder / name).read_bytes()
    rng = np.random.default_rng(0)
    errors = 0
    for _ in range(mutations):
        mutated = bytearray(original)
        mutated[rng.integers(0, len(mutated))] = rng.integers(0, 256)
        if rng.random() < 0.1:
            del mutated[rng.integers(0, len(mutated)) :]
        (folder / name).write_bytes(mutated)
        try:
            episodes = read(folder)
        except DatasetError:
            errors += 1
            continue
        for number, episode in enumerate(episodes):
            np.testing.assert_array_equal(episode.action, ACTIONS[number])
    assert errors > mutations / 10


def test_bridge_is_read_as_the_tfrecord_package_reads_it(shared_data: Path) -> None:
    reader = pytest.importorskip("tfrecord.reader")
    folder = shared_data / "open_x" / "bridge_dataset"
    dataset = rlds.open_dataset(folder, ReaderOptions())
    (shard,) = dataset.shards
    episodes = list(dataset.read_shard(shard))
    assert dataset.splits == ("train", "val")
    assert (len(episodes), sum(e.length for e in episodes)) == (25, 250)
    for episode, expected in zip(episodes, reader.tfrecord_loader(str(shard), None), strict=True):
        np.testing.assert_array_equal(episode.action.ravel(), expected["steps/action"])
        np.testing.assert_array_equal(np.ravel(episode.state), expected["steps/observation/state"])
        assert episode.action.shape == (10, 7)
        assert episode.labels["episode_id"] == expected["episode_metadata/episode_id"][0]
        assert episode.labels["has_language"] is bool(expected["episode_metadata/has_language"][0])
        assert episode.task == (expected["steps/language_instruction"][0].decode() or None)


def test_a_flipped_byte_inside_of_an_image_is_an_error(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "open_x" / "bridge_dataset" / "1.0.0"
    for file in folder.iterdir():
        shutil.copy(file, tmp_path)
    (shard,) = rlds.open_dataset(tmp_path, ReaderOptions()).shards
    content = bytearray(shard.read_bytes())
    content[content.find(b"\xff\xd8\xff", 100_000) + 200] ^= 1  # after the start of a JPEG
    shard.write_bytes(content)
    assert len(read(tmp_path, checksums=False)) == 25
    with pytest.raises(DatasetError, match=r"record \d+, byte \d+: checksum of the record"):
        read(tmp_path)
