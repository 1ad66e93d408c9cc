"""Origins: the data of a run is found again, and refused where it is not what was annotated."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_run import HORIZON

from ambient_curate.data.study import prepare_study
from ambient_curate.errors import ManifestError, RunError
from ambient_curate.progress import silent
from ambient_curate.run.records import Run, open_run_results
from ambient_curate.run.source_data import (
    annotated_options,
    check_study,
    read_own_manifest,
    reopen_data,
)


@pytest.fixture(scope="module")
def made(place_small: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return place_small(tmp_path_factory.mktemp("origins"))


@pytest.fixture
def moved(made: Run, tmp_path: Path) -> Run:
    """Run and data together elsewhere."""
    shutil.copytree(made.path.parent, tmp_path / "there", copy_function=shutil.copy2)
    return open_run_results(tmp_path / "there" / "run")


def test_the_data_is_found_beside_a_moved_run_and_its_options_are_known(moved: Run) -> None:
    collection = reopen_data(moved)
    assert collection.path == moved.path.parent / "set"
    assert annotated_options(moved).horizon == HORIZON
    assert annotated_options(moved).represent == "relative"


def test_data_elsewhere_is_named(moved: Run, tmp_path: Path) -> None:
    (moved.path.parent / "set").rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is not there") as error:
        reopen_data(moved)
    assert error.value.hint == "give --data COLLECTION"
    assert reopen_data(moved, tmp_path / "elsewhere").path == tmp_path / "elsewhere"


def test_a_touched_file_another_member_and_a_lost_one_are_refused(moved: Run) -> None:
    file = moved.path.parent / "set" / "far" / "data.parquet"
    before = file.stat().st_mtime_ns
    os.utime(file, ns=(before, before + 1))
    with pytest.raises(RunError, match="1 file of far changed since"):
        reopen_data(moved)
    os.utime(file, ns=(before, before))
    shutil.copytree(file.parent, file.parent.with_name("more"))
    with pytest.raises(RunError, match=r"has other members than .*: more"):
        reopen_data(moved)
    shutil.rmtree(file.parent.with_name("more"))
    shutil.rmtree(file.parent)
    with pytest.raises(RunError, match=r"has other members than .*: far"):
        reopen_data(moved)


def test_a_manifest_of_another_run_is_refused(moved: Run) -> None:
    assert read_own_manifest(moved).equals(moved.manifest())
    part = next((moved.path / "manifest").glob("part-*.parquet"))
    table = pq.read_table(part)
    metadata = {**table.schema.metadata, b"run_digest": b"other"}
    pq.write_table(table.replace_schema_metadata(metadata), part)
    for rest in sorted((moved.path / "manifest").glob("part-*.parquet")):
        if rest != part:
            rest.unlink()
    with pytest.raises(ManifestError, match="was written by another run: digest other"):
        read_own_manifest(moved)


def test_another_normaliser_or_horizon_is_refused(moved: Run, tmp_path: Path) -> None:
    study = prepare_study(reopen_data(moved), annotated_options(moved), tmp_path / "f", silent)
    check_study(moved, study)
    info = json.loads(json.dumps(moved.info))
    info["normaliser"]["scale"][0] *= 2
    with pytest.raises(ManifestError, match="the normaliser of"):
        check_study(replace(moved, info=info), study)
    info = moved.info | {"options": moved.info["options"] | {"horizon": HORIZON + 1}}
    with pytest.raises(ManifestError, match="the horizon of"):
        check_study(replace(moved, info=info), study)
    assert isinstance(moved.manifest(), pa.Table)
