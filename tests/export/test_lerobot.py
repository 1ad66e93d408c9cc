"""LeRobot: what is written into datasets, and rows of datasets that were merged since."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lerobot_writer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import snapshot
from known_run import (
    LENGTHS,
    Known,
    annotate_known,
    expected,
    read_json,
    walk,
    write_lerobot,
    write_sets,
)
from small_run import annotate_small
from small_worker import make_small

from ambient_curate.errors import ConfigError, CurateError
from ambient_curate.export.export import Export, export_run
from ambient_curate.noise import schedule_levels
from ambient_curate.run.records import Run

Origin = tuple[str, int]
FEATURES = ["ambient.sigma_min", "ambient.sigma_max", "ambient.weight"]
BEFORE = 1  # the default is two observed frames
LEVELS = schedule_levels("squaredcos_cap_v2:100")
ALL = [(name, episode) for name in LENGTHS for episode in range(len(LENGTHS[name]))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Known]]:
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch.setattr)
        yield annotate_known(tmp_path_factory.mktemp("lerobot"), write_sets)


def export(run: Run, out: Path, **options: Any) -> Export:
    return export_run(run, to="lerobot", out=out, **options)


def merge(root: Path, origins: Sequence[Origin | None]) -> Path:
    """Episodes of the members, in some order; None: one that no member has."""
    rng = np.random.default_rng(9)
    actions = {name: walk(name) for name in LENGTHS}
    episodes = [
        rng.normal(size=(6, 2)).astype(np.float32) if each is None else actions[each[0]][each[1]]
        for each in origins
    ]
    return write_lerobot(root, episodes)


def frames(origins: Sequence[Origin | None]) -> list[tuple[int, Origin | None, int]]:
    """Episode, where it is from, and frame, of every frame."""
    return [
        (number, origin, frame)
        for number, origin in enumerate(origins)
        for frame in range(6 if origin is None else LENGTHS[origin[0]][origin[1]])
    ]


def value(known: Known, origin: Origin | None, frame: int) -> tuple[float, float]:
    return (1.0, 0.0) if origin is None else expected(known, *origin, frame - BEFORE)


def read_data(root: Path) -> pa.Table:
    return pa.concat_tables(
        [pq.read_table(file) for file in sorted(root.rglob("data/**/*.parquet"))]
    )


def check_features(table: pa.Table, known: Known, origins: Sequence[Origin | None]) -> None:
    """Every frame has the values of its window, as float32 that admits nothing more."""
    found = zip(*(table[name].to_pylist() for name in FEATURES), strict=True)
    for (_, origin, frame), (low, high, weight) in zip(frames(origins), found, strict=True):
        exact = value(known, origin, frame)
        assert exact[0] <= low <= exact[0] + 1e-7
        assert exact[1] - 1e-7 <= high <= exact[1]
        assert weight >= 0.0 and (origin is not None or weight == 0.0)


def test_features_are_written_into_copies_that_are_otherwise_as_they_were(
    made: tuple[Run, Known], tmp_path: Path
) -> None:
    run, known = made
    before = snapshot(run.path.parent / "set")
    done = export(run, tmp_path / "e", as_="features")
    assert snapshot(run.path.parent / "set") == before
    for name in LENGTHS:
        source, copy = run.path.parent / "set" / name, done.path / "data" / name / "dataset"
        table, original = read_data(copy), read_data(source)
        assert table.drop_columns(FEATURES).equals(original)
        check_features(table, known, [(name, number) for number in range(len(LENGTHS[name]))])
        one, other = lerobot_writer.read_all(copy), lerobot_writer.read_all(source)
        assert [each.digest for each in one] == [each.digest for each in other]
        assert (copy / "videos").resolve() == (source / "videos").resolve()
        assert [f.relative_to(copy) for f in sorted(copy.rglob("*.parquet"))] == [
            f.relative_to(source) for f in sorted(source.rglob("*.parquet"))
        ]
        features = read_json(copy / "meta/info.json")["features"]
        declared = {"dtype": "float32", "shape": [1], "names": None}
        original_features = read_json(source / "meta/info.json")["features"]
        assert features == original_features | dict.fromkeys(FEATURES, declared)
        stats = read_json(copy / "meta/stats.json")
        assert stats["action"] == {"min": [0.0, 0.0]}
        for feature in FEATURES:
            numbers = np.array(table[feature].to_pylist())
            assert stats[feature]["mean"] == [pytest.approx(numbers.mean())]
            assert stats[feature]["std"] == [pytest.approx(numbers.std(), abs=1e-9)]
            assert stats[feature]["max"] == [numbers.max()]
            assert stats[feature]["count"] == [len(numbers)]


def test_what_the_datasets_library_notes_in_a_file_names_the_features(
    made: tuple[Run, Known], tmp_path: Path
) -> None:
    """It reads a column that its note lacks as none, or refuses the file."""
    run, _ = made
    merged = merge(tmp_path / "m", ALL)
    noted = {"info": {"features": {"action": {"_type": "Sequence"}}, "other": 1}}
    for file in merged.rglob("data/**/*.parquet"):
        table = pq.read_table(file)
        text = json.dumps(noted).encode()
        pq.write_table(table.replace_schema_metadata({b"huggingface": text, b"kept": b"1"}), file)
    done = export(run, tmp_path / "e", as_="features", merged=merged)
    for file in (done.path / "data/dataset").rglob("data/**/*.parquet"):
        metadata = pq.read_schema(file).metadata
        assert metadata[b"kept"] == b"1"
        content = json.loads(metadata[b"huggingface"])["info"]
        assert content["other"] == 1
        value = {"dtype": "float32", "_type": "Value"}
        features = dict.fromkeys(FEATURES, value)
        assert content["features"] == {"action": {"_type": "Sequence"}} | features


def orders() -> dict[str, list[Origin | None]]:
    """Ways to put episodes together."""
    shuffled = [ALL[number] for number in np.random.default_rng(0).permutation(len(ALL)).tolist()]
    members: dict[str, list[Origin]] = {
        name: [origin for origin in ALL if origin[0] == name] for name in LENGTHS
    }
    return {
        "one after the other": list(ALL),
        "in another order": [*members["far"], *members["clean"], *members["jitter"]],
        "shuffled": list(shuffled),
        "parts, and what no member has": [
            None,
            *members["jitter"][2:],
            None,
            *members["clean"][:4],
        ],
        "an episode twice": [*members["clean"], *members["clean"][:2], *members["jitter"]],
    }


@pytest.mark.parametrize("way", orders())
def test_rows_of_a_merged_dataset_are_those_of_the_episodes_in_it(
    made: tuple[Run, Known], tmp_path: Path, way: str
) -> None:
    run, known = made
    origins = orders()[way]
    merged = merge(tmp_path / "merged", origins)
    done = export(run, tmp_path / "e", merged=merged, as_="features")
    data = done.path / "data"
    rows = pq.read_table(data / "ambient.parquet").to_pylist()
    there = [(index, *each) for index, each in enumerate(frames(origins)) if each[1] is not None]
    assert [row["index"] for row in rows] == [index for index, *_ in there]
    for row, (_, number, origin, frame) in zip(rows, there, strict=True):
        assert (row["episode_index"], row["frame_index"]) == (number, frame)
        assert row["episode_id"] == str(number)
        low, high = value(known, origin, frame)
        assert (row["sigma_min"], row["sigma_max"]) == (low, high)
        assert row["t_min"] == (low >= LEVELS).sum()
    check_features(read_data(data / "dataset"), known, origins)
    kept = read_json(data / "episodes.json")
    usable = [
        number
        for number, each in enumerate(origins)
        if each is not None and any(v[0] < 1 or v[1] > 0 for v in known.get(each, {}).values())
    ]
    assert kept == usable
    assert read_json(data / "exclude_episodes.json") == sorted({*range(len(origins))} - {*kept})
    counted = {name: member["rows"] for name, member in done.info["members"].items()}
    assert counted == {name: sum(o[0] == name for _, _, o, _ in there) for name in LENGTHS}
    assert any("not annotated by this run" in note for note in done.info["notes"]) == (
        None in origins
    )


def test_a_merged_dataset_of_other_episodes_is_refused(
    made: tuple[Run, Known], tmp_path: Path
) -> None:
    run, _ = made
    other = merge(tmp_path / "other", [None, None])
    with pytest.raises(ConfigError, match="has no episode of the run: the actions of all 2"):
        export(run, tmp_path / "e", merged=other)
    with pytest.raises(CurateError, match="nowhere"):
        export(run, tmp_path / "e", merged=tmp_path / "nowhere")
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    np.save(arrays / "a.npy", np.zeros((9, 2), np.float32))
    with pytest.raises(ConfigError, match="not a LeRobot dataset"):
        export(run, tmp_path / "e", merged=arrays)
    assert not (tmp_path / "e").exists()


def test_an_export_of_another_merged_dataset_is_another(
    made: tuple[Run, Known], tmp_path: Path
) -> None:
    run, _ = made
    merged = merge(tmp_path / "m", ALL)
    assert not export(run, tmp_path / "e", merged=merged).already_complete
    assert export(run, tmp_path / "e", merged=merged).already_complete
    shutil.rmtree(merged)
    merge(merged, ALL[::-1])
    with pytest.raises(CurateError, match="export of other inputs"):
        export(run, tmp_path / "e", merged=merged)


def test_members_of_one_dataset_have_one_list_of_episodes_one_file_of_weights_and_one_copy(
    made: tuple[Run, Known], tmp_path: Path
) -> None:
    """Clean and corrupt episodes in one dataset, as LeRobot trains; some that no member has."""
    _, _ = made
    origins: list[Origin] = [o for o in ALL if o[0] == "clean"] + [o for o in ALL if o[0] == "far"]
    root = merge(tmp_path / "set/data", origins)
    (tmp_path / "set/ambient.toml").write_text(
        'clean = "good"\n[datasets.good]\npath = "../set/data"\nepisodes = "0:10"\n'
        '[datasets.bad]\npath = "../set/data"\nepisodes = "11:16"\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch.setattr)
        run = annotate_small(
            tmp_path / "set", tmp_path / "run", granularity="episode", represent="absolute"
        )
    done = export(run, tmp_path / "e", as_="features")
    folder = done.path / "data" / "bad+good".replace("+", "%2b")
    assert sorted(os.listdir(done.path / "data")) == sorted(
        ["bad", "good", folder.name, "README.md"]
    )
    kept = read_json(folder / "episodes.json")
    assert set(range(10)) <= set(kept) and 10 not in kept
    assert sorted(kept + read_json(folder / "exclude_episodes.json")) == list(range(16))
    weights = pq.read_table(folder / "weights.parquet")
    table = read_data(folder / "dataset")
    assert weights.column_names == ["index", "weight"]
    assert weights["index"].to_pylist() == table["index"].to_pylist() == list(range(len(table)))
    assert weights["weight"].to_pylist() == table["ambient.weight"].to_pylist()
    assert weights.schema.field("weight").type == pa.float32() and not weights["weight"].null_count
    number = np.array(table["episode_index"])
    low, weight = (np.array(table[name]) for name in ("ambient.sigma_min", "ambient.weight"))
    assert (low[number == 10] == 1.0).all() and (weight[number == 10] == 0.0).all()
    assert (low[number < 10] == 0.0).all() and (weight[number < 10] == 1.0).all()
    shares = [(one < LEVELS).mean() for one in low[number > 10]]
    assert weight[number > 10].tolist() == pytest.approx(shares)  # the run has no weights
    assert root.is_dir()


def test_what_cannot_be_copied_is_refused_before_it_is_read(
    made: tuple[Run, Known], tmp_path: Path
) -> None:
    run, _ = made
    merged = merge(tmp_path / "m", ALL)
    info = read_json(merged / "meta/info.json")
    for change, message in (
        ({"codebase_version": "v3.0", "features": info["features"] | {FEATURES[1]: {}}}, "already"),
        ({"codebase_version": "v4.0"}, "codebase_version"),
    ):
        lerobot_writer.change_info(merged, **info | change)
        with pytest.raises(CurateError, match=message):
            export(run, tmp_path / "e", as_="features", merged=merged)
    old = write_lerobot(tmp_path / "old", walk("clean"), "v2.1")
    with pytest.raises(
        ConfigError, match=r"LeRobot v2\.1: features are written into LeRobot v3\.0"
    ):
        export(run, tmp_path / "e", as_="features", merged=old)
    assert not (tmp_path / "e").exists()
    assert export(run, tmp_path / "e", merged=old).info["members"]["clean"]["rows"] > 0


def test_an_episode_that_may_be_one_of_several_is_refused_unless_they_say_the_same(
    made: tuple[Run, Known], tmp_path: Path
) -> None:
    """Two members with the same actions and other levels, put together without their neighbours."""
    twice = walk("clean")[:4]
    write_lerobot(tmp_path / "set/clean", walk("clean"))
    write_lerobot(tmp_path / "set/copy", [*walk("far"), *twice])
    alone = write_lerobot(tmp_path / "alone", twice)
    whole = write_lerobot(tmp_path / "whole", [*walk("far"), *twice, *walk("clean")])
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch.setattr)
        run = annotate_small(
            tmp_path / "set", tmp_path / "run", granularity="datapoint", represent="absolute"
        )
    give_levels(run, 0.4)
    with pytest.raises(ConfigError, match=r"episode 0 of .* several annotated ones \(clean 0, "):
        export(run, tmp_path / "e", merged=alone)
    done = export(run, tmp_path / "e", merged=whole)
    found = pq.read_table(done.path / "data/ambient.parquet").to_pandas()
    assert (found[found.episode_index < 10].sigma_min == 0.4).all()
    assert (found[found.episode_index >= 10].sigma_min == 0.0).all()
    give_levels(run, 0.0)
    assert not export(run, tmp_path / "same", merged=alone).info["members"]["copy"]["rows"]


def give_levels(run: Run, level: float) -> None:
    """Give all rows of the copy one sigma_min, and take all weights away."""
    for part in run.path.glob("manifest/*.parquet"):
        table = pq.read_table(part)
        rows = table.to_pylist()
        for row in rows:
            row["weight"] = None
            if row["dataset"] == "copy":
                row |= {"sigma_min": level, "sigma_max": None}
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), part)
