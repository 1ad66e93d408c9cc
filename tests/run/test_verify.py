"""Verification: silent on what was not touched, and it finds every kind of damage and edit."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import collection_writer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import check_failure, run_command
from small_run import annotate_small
from small_worker import make_small

from ambient_curate.errors import RunError
from ambient_curate.files import write_json_atomic
from ambient_curate.run.records import Run, seal_record
from ambient_curate.run.verify import CHECKS, Verification, verify

GRANULARITIES = ("dataset", "group", "episode", "datapoint")


@pytest.fixture(scope="module")
def made(place_small: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection, and a run of it at every granularity."""
    folder = tmp_path_factory.mktemp("verification")
    for granularity in GRANULARITIES:
        place_small(folder, granularity, granularity=granularity)
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """The run of windows and its data, to be damaged."""
    for name in ("set", "datapoint"):
        shutil.copytree(made / name, tmp_path / name, copy_function=shutil.copy2)
    return tmp_path / "datapoint"


@pytest.fixture(scope="module")
def made_of_numpy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numpy")
    for name, noise in (("clean", 0.0), ("noisy", 1.0)):
        episodes = collection_writer.make_episodes(6, 12, noise=noise)
        collection_writer.write_npy(folder / "set" / name, episodes)
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch.setattr)
        annotate_small(folder / "set", folder / "run")
    return folder


@pytest.fixture
def numpy_run(made_of_numpy: Path, tmp_path: Path) -> Path:
    """A run of one file an episode, to be damaged."""
    shutil.copytree(made_of_numpy, tmp_path / "of", copy_function=shutil.copy2)
    return tmp_path / "of" / "run"


def failed(found: Verification) -> set[str]:
    return {check.name for check in found.checks if not check.holds}


def parts(run: Path) -> list[Path]:
    return sorted((run / "manifest").glob("part-*.parquet"))


def rewrite(part: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Write a part again with other rows, of the same schema and metadata."""
    table = pq.read_table(part)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), part, compression="zstd")


def part_of(run: Path, dataset: str) -> Path:
    return next(p for p in parts(run) if pq.read_table(p)["dataset"][0].as_py() == dataset)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_an_untouched_run_holds(made: Path, granularity: str) -> None:
    found = verify(made / granularity)
    assert found.findings == ()
    assert found.unchecked == (() if granularity in ("episode", "datapoint") else ("rows",))
    alone = verify(made / granularity, sources=False)
    assert alone.holds and alone.unchecked == ("sources", "rows")
    assert alone.explain("sources") == "left out"
    whole = granularity not in ("episode", "datapoint")
    assert whole == ("none for an episode" in alone.explain("rows"))
    assert found.explain("files") == CHECKS["files"]


def test_a_run_and_its_data_may_be_moved(copied: Path, tmp_path: Path) -> None:
    assert verify(copied).holds
    (tmp_path / "set").rename(tmp_path / "elsewhere")
    found = verify(copied)
    assert failed(found) == {"sources"} and "is not there" in found.findings[0]
    assert found.unchecked == ("rows",)
    assert found.explain("rows") == "the data cannot be read"
    assert verify(copied, data=tmp_path / "elsewhere").findings == ()


@pytest.mark.parametrize("format", ["rlds", "hdf5"])
def test_an_untouched_run_of_any_format_holds_and_a_new_episode_is_found(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch.setattr)
    write = collection_writer.WRITERS[format]
    for name, noise in (("clean", 0.0), ("noisy", 1.0)):
        write(tmp_path / "set" / name, collection_writer.make_episodes(6, 12, noise=noise))
    run = annotate_small(tmp_path / "set", tmp_path / "run", granularity="datapoint").path
    assert verify(run).findings == ()
    shutil.rmtree(tmp_path / "set" / "noisy")
    write(tmp_path / "set" / "noisy", collection_writer.make_episodes(7, 12, noise=1.0))
    found = verify(run)
    assert failed(found) == {"sources", "rows"}
    assert "noisy: 7 episodes, expected 6" in found.findings


def test_a_changed_byte_of_a_source_is_found(copied: Path, tmp_path: Path) -> None:
    file = tmp_path / "set" / "far" / "data.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    found = verify(copied)
    assert "sources" in failed(found)
    assert any("far: the file data.parquet has" in text for text in found.findings)


def test_other_actions_are_found_behind_the_same_size_and_time(numpy_run: Path) -> None:
    file = numpy_run.parent / "set" / "noisy" / "3.npy"
    before = file.stat()
    values = np.load(file)
    values[5, 1] += 1
    np.save(file, values)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    (text,) = verify(numpy_run).findings
    assert text.startswith("noisy: the actions have the SHA-256 ")


def test_added_and_lost_sources_are_found(copied: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(root / "far", root / "more", copy_function=shutil.copy2)
    shutil.rmtree(root / "jitter")
    found = verify(copied)
    assert found.findings == (
        f"jitter is missing: {root}",
        f"more was not annotated: {root}",
    )
    shutil.copy2(root / "far" / "data.parquet", root / "far" / "extra.parquet")
    assert verify(copied).findings[0] == (
        "far cannot be read, so its rows are not checked: "
        f"{root / 'far'} holds two episodes named '0'"
    )


def test_an_added_file_of_episodes_is_found(numpy_run: Path) -> None:
    folder = numpy_run.parent / "set" / "noisy"
    np.save(folder / "6.npy", np.zeros((12, 3), np.float32))
    found = verify(numpy_run).findings
    assert any(text.startswith("noisy: the file 6.npy (") for text in found)
    assert "noisy: 7 episodes, expected 6" in found


def test_an_edited_sigma_is_found(copied: Path) -> None:
    part = part_of(copied, "jitter")

    def edit(rows: list[dict[str, Any]]) -> None:
        row = next(row for row in rows if row["sigma_min"] is not None)
        row["sigma_min"] = float(np.nextafter(row["sigma_min"], 0.5))
        row["sigma_min_lower"] = row["sigma_min_upper"] = None

    rewrite(part, edit)
    found = verify(copied)
    assert failed(found) == {"files"}  # all else about it is in order
    (text,) = found.findings
    assert text.startswith(f"manifest/{part.name} has the SHA-256 ") and "changed after" in text


def test_a_missing_a_truncated_and_a_foreign_part_are_found(copied: Path, made: Path) -> None:
    first, second, *_ = parts(copied)
    first.unlink()
    second.write_bytes(second.read_bytes()[:-7])
    shutil.copy(parts(made / "episode")[0], copied / "manifest" / "part-00099.parquet")
    found = verify(copied)
    assert failed(found) == {"files", "manifest", "counts", "rows"}
    texts = "\n".join(found.findings)
    assert f"manifest/{first.name} is missing" in texts
    assert f"{second.name} cannot be read as Parquet" in texts
    assert "manifest/part-00099.parquet is no file of this run" in texts
    assert "manifest/part-00099.parquet: run_digest is " in texts


@pytest.mark.parametrize("granularity", ["episode", "datapoint"])
def test_a_removed_row_is_found(made: Path, tmp_path: Path, granularity: str) -> None:
    for name in ("set", granularity):
        shutil.copytree(made / name, tmp_path / name, copy_function=shutil.copy2)
    run = tmp_path / granularity
    part = part_of(run, "far")
    rewrite(part, lambda rows: rows.pop(3))
    found = verify(run)
    assert failed(found) == {"files", "counts", "rows"}
    count = {"episode": (5, 6), "datapoint": (35, 36)}[granularity]
    assert f"far: {count[0]} rows, expected {count[1]}" in found.findings
    what = {"episode": "'3'", "datapoint": "frame 3 of episode '0'"}[granularity]
    assert found.findings[-1] == f"far: 1 of {count[1]} rows are missing, first that of {what}"


def test_a_row_that_is_there_twice_is_found(copied: Path) -> None:
    rewrite(part_of(copied, "far"), lambda rows: rows.insert(3, dict(rows[3])))
    found = verify(copied)
    assert {"files", "manifest"} <= failed(found)
    assert any("twice in 1 row" in text for text in found.findings)


def test_removed_tables_and_weights_are_found(copied: Path) -> None:
    weights = next((copied / "classifier").rglob("*.safetensors"))
    weights.unlink()
    (copied / "curves.parquet").unlink()
    shutil.copy(copied / "reliability.parquet", copied / "curves.parquet")
    found = verify(copied, sources=False)
    assert failed(found) == {"files", "tables"}
    assert f"{weights.relative_to(copied)} is missing" in found.findings
    assert any("curves.parquet breaks the schema" in text for text in found.findings)


def test_a_run_json_that_is_not_as_written_ends_the_verification(copied: Path) -> None:
    file = copied / "run.json"
    record = json.loads(file.read_text())
    verdict = [row | {"sigma_min": 0.5} for row in record["verdict"]]
    for content, expected in (
        (record | {"verdict": verdict}, "changed after it was written"),
        ({k: v for k, v in record.items() if k != "files"}, "holds no digests"),
        (record | {"schema_version": 3}, "schema version 3"),
    ):
        write_json_atomic(file, content)
        found = verify(copied)
        assert failed(found) == {"record"} and expected in found.findings[0]
        assert found.unchecked == tuple(CHECKS)[1:]
    edited = record | {"options": record["options"] | {"seed": 5}}
    write_json_atomic(file, edited | {"seal": seal_record(edited)})
    assert "inputs of the digest" in verify(copied).findings[0]
    file.write_text(json.dumps(record)[:-9])
    assert "run.json is damaged" in verify(copied).findings[0]
    file.unlink()
    with pytest.raises(RunError, match="is no run"):
        verify(copied)


def test_the_command_lists_all_findings(made: Path, copied: Path) -> None:
    code, stdout, _ = run_command("verify", str(made / "datapoint"))
    assert code == 0
    states = [line.split()[1] for line in stdout.splitlines()]
    assert states == ["state", *["holds"] * len(CHECKS)]
    for part in parts(copied)[:2]:
        part.unlink()
    code, stdout, stderr = run_command("verify", str(copied), "--no-sources")
    assert stdout.count(" is missing\n") == 2 and stdout.count("not checked") == 2
    check_failure((code, "", stderr), r"does not hold \(files, counts\): \d+ findings", "annotate")
    code, stdout, _ = run_command("verify", str(copied), "--no-sources", "--format", "json")
    found = json.loads(stdout)
    assert code == 1 and not found["holds"] and found["unchecked"] == ["sources", "rows"]
    assert [c["name"] for c in found["checks"] if not c["holds"]] == ["files", "counts"]
