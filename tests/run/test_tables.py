import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ambient_curate.errors import ManifestError
from ambient_curate.run import tables as run_tables

GRID = [0.1, 0.5, 0.9]
METADATA = {
    "granularity": "datapoint",
    "epsilon": "0.05",
    "grid": json.dumps(GRID),
    "representation": "absolute",
    "normaliser": json.dumps({"method": "minmax"}),
    "weighting": "episode",
    "run_digest": "d1",
}
ROW: dict[str, Any] = {
    "dataset": "sim",
    "episode_id": "0",
    "episode_index": 0,
    "start": 0,
    "horizon": 16,
    "index": 0,
    "group": None,
    "is_clean": False,
    "sigma_min": 0.5,
    "sigma_min_lower": 0.25,
    "sigma_min_upper": 0.75,
    "sigma_max": 0.0,
    "weight": 1.5,
    "p_clean": None,
    "status": "ok",
    "fold": 2,
}
CLEAN = {"is_clean": True, "sigma_min": 0.0, "sigma_min_lower": None, "sigma_min_upper": None}
SKIPPED = {"status": "too-short", "sigma_min": None, "sigma_max": None}


def build(*changes: dict[str, Any], **metadata: str) -> pa.Table:
    rows = [{**ROW, "start": 16 * i, **change} for i, change in enumerate(changes)]
    return pa.Table.from_pylist(rows, run_tables.manifest_schema({**METADATA, **metadata}))


def finish(run: Path, *parts: pa.Table) -> Path:
    (run / "manifest").mkdir(parents=True)
    for i, part in enumerate(parts):
        run_tables.write_part(part, run / "manifest" / f"part-{i:05}.parquet")
    (run / "run.json").write_text("{}")
    return run


sigmas = st.floats(0.0, 1.0)
interval = st.tuples(sigmas, sigmas, sigmas).map(sorted)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)
curves = st.lists(st.floats(0, 1, width=32), min_size=len(GRID), max_size=len(GRID))


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    keys = draw(st.sets(st.tuples(names, st.integers(0, 3), st.integers(0, 3)), max_size=8))
    rows = []
    for dataset, episode, start in keys:
        lower, value, upper = draw(interval)
        change: dict[str, Any] = draw(st.sampled_from([{}, CLEAN, SKIPPED]))
        row = {
            **ROW,
            "dataset": dataset,
            "episode_id": draw(st.none() | names),
            "episode_index": draw(st.sampled_from([episode, 2**62 + episode])),
            "start": start,
            "index": draw(st.none() | st.integers(0, 2**63 - 1)),
            "group": draw(st.none() | names),
            "sigma_min_lower": lower,
            "sigma_min": value,
            "sigma_min_upper": upper,
            "weight": draw(st.none() | st.floats(0, 100, width=32)),
            "p_clean": draw(st.none() | curves),
            "fold": draw(st.none() | st.integers(0, 4)),
            "sigma_max": draw(st.none() | st.just(0.0)),
            **change,
        }
        if row["is_clean"]:
            row["sigma_max"] = 0.0
        rows.append(row)
    table = pa.Table.from_pylist(rows, run_tables.manifest_schema(METADATA))
    return run_tables.sort_rows(table)


@settings(max_examples=60)
@given(table=tables())
def test_what_is_written_is_what_is_read(
    table: pa.Table, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("part") / "part-00000.parquet"
    run_tables.write_part(table, path)
    back = run_tables.read_manifest(path)
    assert back.to_pylist() == table.to_pylist()
    assert back.schema.equals(run_tables.manifest_schema(METADATA), check_metadata=True)


@settings(max_examples=40)
@given(data=st.data(), table=tables())
def test_bytes_do_not_depend_on_row_order_chunks_or_dictionaries(
    data: st.DataObject, table: pa.Table, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    order = data.draw(st.permutations(range(len(table))))
    rows = [table.slice(i, 1).to_pylist() for i in order]
    chunks = [pa.Table.from_pylist(row, table.schema) for row in rows]  # a dictionary a chunk
    shuffled = pa.concat_tables(chunks) if chunks else table
    run_tables.write_part(table, folder / "a.parquet")
    run_tables.write_part(run_tables.sort_rows(shuffled), folder / "b.parquet")
    assert (folder / "a.parquet").read_bytes() == (folder / "b.parquet").read_bytes()


@settings(max_examples=60)
@given(data=st.data(), table=tables())
def test_only_the_sorted_order_is_valid(data: st.DataObject, table: pa.Table) -> None:
    order = data.draw(st.permutations(range(len(table))))
    keys = table.select(["dataset", "episode_index", "start"]).to_pylist()
    shuffled = [tuple(keys[i].values()) for i in order]
    if shuffled == sorted(shuffled):  # the keys of `tables` are unique
        run_tables.validate(table.take(pa.array(order, pa.int64())))
    else:
        with pytest.raises(ManifestError, match="not in the order"):
            run_tables.validate(table.take(pa.array(order, pa.int64())))


BROKEN = {
    "dataset null in 1 row, first in row 1": {"dataset": None},
    "horizon null": {"horizon": None},
    "is_clean null": {"is_clean": None},
    "status null": {"status": None},
    "status is not one of ok, .* in 1 row, first in row 1 .status 'bad'": {"status": "bad"},
    "sigma_min outside .0, 1. in 1 row, first in row 1 .sigma_min nan": {"sigma_min": np.nan},
    "sigma_min outside": {"sigma_min": 1.0000001, "sigma_min_upper": None},
    "sigma_min_lower outside": {"sigma_min_lower": -0.1},
    "sigma_min_upper outside": {"sigma_min_upper": np.inf},
    "sigma_max outside": {"sigma_max": np.nan},
    "sigma_min_lower above sigma_min": {"sigma_min_lower": 0.5000001},
    "sigma_min_upper below sigma_min": {"sigma_min_upper": 0.4999999},
    "clean with sigma_min and sigma_max not both 0": {"is_clean": True},
    "clean with sigma_min and .*sigma_max None": {**CLEAN, "sigma_max": None},
    "status ok without sigma_min": {"sigma_min": None},
    "status other than ok with sigma_min": {"status": "non-finite"},
    "sigma_max reaches sigma_min, which is written as .0, 0.": {"sigma_max": 0.5},
    "sigma_max reaches .*sigma_min 0.0, sigma_max 0.1": {
        "sigma_min": 0.0,
        "sigma_min_lower": 0.0,
        "sigma_max": 0.1,
    },
    "horizon below 1": {"horizon": 0},
    "episode_index below 0": {"dataset": "sun", "episode_index": -1},
    "index below 0": {"index": -1},
    "weight below 0": {"weight": -0.5},
    "weight not finite": {"weight": np.nan},
    "fold below 0": {"fold": -1},
    "p_clean with a value outside": {"p_clean": [0.1, np.nan, 0.2]},
    "p_clean with a value outside .*1.5": {"p_clean": [0.1, 1.5, 0.2]},
    "p_clean with a value outside .*None": {"p_clean": [0.1, None, 0.2]},
    "p_clean without one value for each of the 3": {"p_clean": [0.1, 0.2]},
    "not in the order of the keys": {"episode_index": 0, "start": -5},
    "twice": {"start": 0},
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_row_is_refused_and_named(message: str, tmp_path: Path) -> None:
    table = build({}, BROKEN[message])
    with pytest.raises(ManifestError, match=message):
        run_tables.write_part(table, tmp_path / "part-00000.parquet")
    assert os.listdir(tmp_path) == []


def test_every_problem_is_reported_with_count_and_first_row() -> None:
    table = build({}, {"sigma_max": 0.6}, {"sigma_max": 0.7, "weight": np.inf}, {"horizon": -1})
    with pytest.raises(ManifestError) as caught:
        run_tables.validate(table)
    assert str(caught.value) == (
        "the manifest breaks the schema: "
        "weight not finite in 1 row, first in row 2 (weight inf); "
        "sigma_max reaches sigma_min, which is written as (0, 0) in 2 rows, first in row 1 "
        "(sigma_min 0.5, sigma_max 0.6); "
        "horizon below 1 in 1 row, first in row 3 (horizon -1)"
    )


def test_wrong_columns_and_types_are_named_beside_the_other_problems() -> None:
    table = build({"weight": -1.0})
    start = table.column_names.index("start")
    wide = table.set_column(start, "start", table["start"].cast(pa.int64()))
    with pytest.raises(ManifestError, match="start is int64, not int32; weight below 0"):
        run_tables.validate(wide)
    with pytest.raises(ManifestError, match=r"columns are .*; weight below 0"):
        run_tables.validate(table.drop_columns(["fold"]))
    with pytest.raises(ManifestError, match="columns are"):
        run_tables.validate(table.append_column("fold", table["fold"]))
    with pytest.raises(ManifestError, match="columns are"):
        run_tables.validate(table.select(table.column_names[::-1]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"granularity": "frame"}, "granularity is 'frame', not one of"),
        ({"grid": "[0.5, 0.1]"}, "not an ascending JSON list"),
        ({"grid": "0.5"}, "not an ascending JSON list"),
        ({"grid": "nonsense"}, "not an ascending JSON list"),
        ({"schema_version": "3"}, "schema_version is 3, not 2"),
    ],
)
def test_broken_file_metadata_is_refused(changed: dict[str, str], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        run_tables.validate(build({}, **changed))


def test_missing_file_metadata_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"has the keys \[\], not"):
        run_tables.validate(build({}).replace_schema_metadata(None))
    with pytest.raises(ValueError, match="epsilon"):
        run_tables.manifest_schema({key: METADATA[key] for key in METADATA if key != "epsilon"})


def test_rows_of_whole_datasets_and_groups_are_distinct_by_group() -> None:
    whole = {"episode_id": None, "episode_index": None, "start": None, "index": None}
    run_tables.validate(build({**whole, "group": "a"}, {**whole, "group": "b"}, whole))
    with pytest.raises(ManifestError, match="twice in 1 row, first in row 1"):
        run_tables.validate(build(whole, whole))


def test_order_and_duplicates_are_also_checked_across_parts(tmp_path: Path) -> None:
    first, second = build({"dataset": "a"}), build({"dataset": "b"})
    rows = run_tables.read_manifest(finish(tmp_path / "good", first, second))
    assert rows["dataset"].to_pylist() == ["a", "b"]
    with pytest.raises(ManifestError, match="not in the order"):
        run_tables.read_manifest(finish(tmp_path / "swapped", second, first))
    with pytest.raises(ManifestError, match="twice"):
        run_tables.read_manifest(finish(tmp_path / "twice", first, first))


def test_parts_of_different_runs_are_refused(tmp_path: Path) -> None:
    run = finish(tmp_path / "run", build({}), build({"dataset": "z"}, run_digest="d2"))
    with pytest.raises(ManifestError, match=r"part-00001.parquet and .* are of different runs"):
        run_tables.read_manifest(run)


def test_a_run_its_manifest_folder_and_a_part_can_be_read(tmp_path: Path) -> None:
    run = finish(tmp_path / "sim_run", build({}, CLEAN, SKIPPED))
    part = run / "manifest" / "part-00000.parquet"
    tables = [run_tables.read_manifest(p) for p in (run, run / "manifest", part, str(run))]
    assert all(table.equals(tables[0], check_metadata=True) for table in tables)


def test_what_is_no_finished_manifest_is_refused_with_a_hint(tmp_path: Path) -> None:
    run = finish(tmp_path / "run", build({}))
    (run / "run.json").unlink()
    with pytest.raises(ManifestError, match="is no run") as caught:
        run_tables.read_manifest(run)
    (run / ".work").mkdir()
    for path in (run, run / "manifest"):
        with pytest.raises(ManifestError, match="unfinished") as caught:
            run_tables.read_manifest(path)
        assert "continues" in (caught.value.hint or "")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(ManifestError, match=r"text\.parquet cannot be read as Parquet"):
        run_tables.read_manifest(tmp_path / "text.parquet")
    with pytest.raises(ManifestError, match="holds no part"):
        run_tables.read_manifest(finish(tmp_path / "empty"))


def test_a_part_of_another_schema_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    pq.write_table(build({}, schema_version="3"), path)
    with pytest.raises(ManifestError, match="schema version 3; this program reads up to 2"):
        run_tables.read_manifest(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(ManifestError, match="schema version None"):
        run_tables.read_manifest(path)


@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.99])
def test_a_truncated_part_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "part.parquet"
    run_tables.write_part(build({}), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    with pytest.raises(ManifestError, match="cannot be read"):
        run_tables.read_manifest(path)


def test_a_failed_write_leaves_the_old_part_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "part.parquet"
    run_tables.write_part(build({}), path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        run_tables.write_part(build({}, {}), path)
    assert os.listdir(tmp_path) == ["part.parquet"]
    assert path.read_bytes() == before


def test_other_programs_read_the_parts_as_they_are(tmp_path: Path) -> None:
    run = finish(tmp_path / "run", build({"dataset": "a"}, CLEAN | {"dataset": "b"}))
    frame = pd.read_parquet(run / "manifest")
    assert frame["sigma_min"].tolist() == [0.5, 0.0]
    assert frame["dataset"].astype(str).tolist() == ["a", "b"]
    table = pyarrow.dataset.dataset(run / "manifest").to_table(
        filter=pyarrow.dataset.field("is_clean")
    )
    assert table["dataset"].to_pylist() == ["b"]
    assert table.schema.field("sigma_min").metadata[b"unit"] == b"noise level (VP), 0 to 1"


def test_duckdb_reads_the_parts_as_they_are(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    run = finish(tmp_path / "run", build({}, CLEAN))
    query = f"select sum(sigma_min) from '{run}/manifest/*.parquet'"
    assert duckdb.sql(query).fetchone() == (0.5,)


def test_values_hidden_behind_nulls_and_slices_are_read_as_arrow_means_them() -> None:
    curves = pa.ListArray.from_arrays(
        pa.array([0, 3, 6, 9], pa.int32()),
        pa.array([0.1, 0.2, 0.3, 7.0, 7.0, 7.0, 0.1, 0.2, 7.0], pa.float32()),
        mask=pa.array([False, True, False]),
    )
    table = build({}, {}, {})
    table = table.set_column(table.column_names.index("p_clean"), "p_clean", curves)
    run_tables.validate(table.slice(0, 2))
    for start in range(3):
        with pytest.raises(ManifestError, match=f"in 1 row, first in row {2 - start} .p_clean"):
            run_tables.validate(table.slice(start))
    hidden = pa.DictionaryArray.from_arrays(
        pa.array([0], pa.int32()), pa.array([None], pa.string())
    )
    table = build({}).set_column(0, "dataset", hidden)
    with pytest.raises(ManifestError, match="dataset null in 1 row"):
        run_tables.validate(table)


def test_the_name_of_list_elements_does_not_reach_the_bytes(tmp_path: Path) -> None:
    table = build({"p_clean": [0.25, 0.5, 0.75]})
    column = table["p_clean"].cast(pa.list_(pa.field("item", pa.float32())))
    renamed = table.set_column(table.column_names.index("p_clean"), "p_clean", column)
    run_tables.write_part(table, tmp_path / "a.parquet")
    run_tables.write_part(renamed, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_row_groups_are_bounded(tmp_path: Path) -> None:
    count = 300_000
    repeated = build({}).take(pa.array(np.zeros(count, dtype=np.int64)))
    start = repeated.column_names.index("start")
    table = repeated.set_column(start, "start", pa.array(np.arange(count, dtype=np.int32)))
    run_tables.write_part(table, tmp_path / "part.parquet")
    file = pq.ParquetFile(tmp_path / "part.parquet").metadata
    groups = [file.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sum(groups) == count and max(groups) <= 131_072
