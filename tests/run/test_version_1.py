"""Runs of schema version 1, whose numbers of episodes were positions, are read as they were."""

import json
from collections.abc import Iterator
from pathlib import Path

import numbered_writer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import run_command
from small_run import annotate_small
from small_worker import make_small

from ambient_curate.data.collection import (
    list_positions,
    open_collection,
    read_episodes,
    select_by_position,
)
from ambient_curate.export.export import export_run
from ambient_curate.files import write_json_atomic
from ambient_curate.options import digest
from ambient_curate.run.compare import compare_runs
from ambient_curate.run.directory import INPUTS
from ambient_curate.run.records import RUN, Run, digest_files, open_run_results, seal_record
from ambient_curate.run.source_data import look_up
from ambient_curate.run.verify import verify

NUMBERS = (0, 1, 3, 4, 6, 7, 9)
EXCLUDED = 4  # at position 3


def make_actions(numbers: tuple[int, ...], seed: int) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        number: rng.normal(size=(9, numbered_writer.DIM)).cumsum(axis=0).astype(np.float32)
        for number in numbers
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Run]]:
    """A run, and what schema version 1 would have made of the same episodes."""
    folder = tmp_path_factory.mktemp("version")
    numbered_writer.write_robomimic(folder / "set" / "clean", make_actions(tuple(range(8)), 0))
    numbered_writer.write_lerobot2(folder / "set" / "gaps", make_actions(NUMBERS, 1))
    settings = folder / "set" / "ambient.toml"
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch.setattr)
        settings.write_text(f'[datasets.gaps]\nexclude = ["{EXCLUDED}"]\n')
        options = {"granularity": "episode", "represent": "absolute"}
        new = annotate_small(folder / "set", folder / "new", **options)
        old = annotate_small(folder / "set", folder / "old", **options)
        settings.write_text("[datasets.gaps]\nexclude = [3]\n")
        rewrite(old.path)
        yield new, open_run_results(old.path)


def rewrite(run: Path) -> None:
    """Put version 1 in place of the present one: positions, and no version in the digest."""
    info = json.loads((run / "run.json").read_text())
    info["schema_version"] = 1
    del info["versions"]["schema"]
    info["sources"]["gaps"]["selection"] = {"exclude": [3]}
    info["digest"] = digest({key: info[key] for key in INPUTS if key in info})
    changed = {b"schema_version": b"1"}
    for file in (run / "curves.parquet", run / "reliability.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.replace_schema_metadata({**table.schema.metadata, **changed}), file)
    changed[b"run_digest"] = info["digest"].encode()
    for part in (run / "manifest").glob("part-*.parquet"):
        table = pq.read_table(part)
        rows = table.to_pylist()
        for row in rows:
            if row["dataset"] == "gaps":
                row["episode_index"] = NUMBERS.index(row["episode_index"])
        schema = table.schema.with_metadata({**table.schema.metadata, **changed})
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), part)
    info["files"] = digest_files(run, RUN.results)
    write_json_atomic(run / "run.json", info | {"seal": seal_record(info)})


def test_they_are_verified_against_positions(runs: tuple[Run, Run]) -> None:
    found = verify(runs[1])
    assert found.findings == () and found.unchecked == ()


def test_their_rows_are_compared_by_id(runs: tuple[Run, Run]) -> None:
    found = compare_runs(*runs)
    assert {(rows.dataset, rows.only_a, rows.only_b) for rows in found.rows} == {
        ("clean", 0, 0),
        ("gaps", 0, 0),
    }
    assert not any(rows.largest for rows in found.rows)


@pytest.mark.parametrize("to", ["lerobot", "gr00t"])
def test_an_export_of_them_has_the_numbers_of_the_source(
    runs: tuple[Run, Run], tmp_path: Path, to: str
) -> None:
    out = export_run(runs[1], to=to, out=tmp_path / to)
    table = pq.read_table(out.path / "data" / "gaps" / "ambient.parquet")
    expected = [number for number in NUMBERS if number != EXCLUDED]
    assert table["episode_index"].unique().to_pylist() == expected
    assert any("schema version 1" in note for note in out.info["notes"])
    rows = runs[1].manifest().to_pylist()
    known = {row["episode_id"]: row["sigma_min"] for row in rows if row["dataset"] == "gaps"}
    for row in table.to_pylist():
        assert row["sigma_min"] == known[str(row["episode_index"])]


def test_an_episode_of_them_is_found_by_its_id(runs: tuple[Run, Run]) -> None:
    found = look_up(runs[1], "gaps", "9").episode
    assert found is not None
    np.testing.assert_array_equal(found.action, make_actions(NUMBERS, 1)[9])


def test_show_says_what_their_numbers_are(runs: tuple[Run, Run]) -> None:
    shown = ["".join(map(str, run_command("show", str(run.path)))) for run in runs]
    said = ["schema version 1" in text for text in shown]
    assert said == [False, True]


def test_files_and_options_have_the_order_of_that_time(tmp_path: Path) -> None:
    numbered_writer.write_npy(tmp_path / "set", make_actions(tuple(range(12)), 2))
    (tmp_path / "ambient.toml").write_text('[datasets.set]\nepisodes = "1:4"\nexclude = [2]\n')
    (member,) = (m for m in open_collection(tmp_path).members if m.name == "set")
    order = sorted(range(12), key=str)
    assert list_positions(member) == {number: place for place, number in enumerate(order)}
    assert [each.number for each in read_episodes(member)] == [1, 3]
    before = select_by_position(member)
    assert [each.number for each in read_episodes(before)] == [order[1], order[3]]
