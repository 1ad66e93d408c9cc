"""Records: JSON that is whole and readable, and refused where it is something else."""

import json
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from ambient_curate.data.collection import open_collection
from ambient_curate.errors import RunError
from ambient_curate.files import write_json_atomic
from ambient_curate.run import records
from ambient_curate.run.records import RUN, Kind

OTHER = Kind("policy", "train", ("weights",))


def write(path: Path, kind: Kind, **content: object) -> None:
    write_json_atomic(path / kind.record, {"schema": kind.schema, **content})


def test_json_is_whole_readable_and_finite(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    write_json_atomic(path, {"größe": 0.1, "b": [1, None]})
    assert path.read_text(encoding="utf-8") == (
        '{\n  "größe": 0.1,\n  "b": [\n    1,\n    null\n  ]\n}\n'
    )
    write_json_atomic(path, {"x": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"x": None}
    assert os.listdir(tmp_path) == ["data.json"]


def test_a_directory_is_read_as_what_it_is(tmp_path: Path) -> None:
    write(tmp_path, OTHER, schema_version=1, digest="d")
    assert records.read_run(tmp_path, OTHER)["digest"] == "d"
    with pytest.raises(RunError, match=r"is no run: it has no run\.json") as caught:
        records.read_run(tmp_path)
    assert "ambient-curate annotate" in str(caught.value.hint)
    (tmp_path / "policy.json").rename(tmp_path / "run.json")
    with pytest.raises(RunError, match="its schema is not 'ambient-curate/run'"):
        records.read_run(tmp_path, RUN)


def test_an_unfinished_policy_and_one_of_another_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "options.json").write_text("{}")
    with pytest.raises(RunError, match="is an unfinished policy") as caught:
        records.read_run(tmp_path, OTHER)
    assert "same train command" in str(caught.value.hint)
    write(tmp_path, OTHER, schema_version=3)
    with pytest.raises(RunError, match="has schema version 3; this program reads up to 2"):
        records.read_run(tmp_path, OTHER)


def test_files_are_digested_by_path_and_hidden_ones_are_not(tmp_path: Path) -> None:
    for name, text in {"b/2": "two", "b/.tmp": "half", "a": "one", "c": "other"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert records.digest_files(tmp_path, ["b", "a", "gone"]) == {
        "b/2": sha256(b"two").hexdigest(),
        "a": sha256(b"one").hexdigest(),
    }


def test_a_seal_is_of_all_but_itself_and_the_place_of_the_data() -> None:
    record = {"a": 1, "b": {"c": [0.1, None]}}
    seal = records.seal_record(record)
    assert seal == records.seal_record({"b": {"c": [0.1, None]}, "a": 1, "seal": "x"})
    assert seal == records.seal_record(record | {"collection": {"path": "../set"}})
    assert seal != records.seal_record(record | {"a": 2})
    assert seal != records.seal_record(record | {"more": None})


def test_a_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 4, 2)))
    (one,) = open_collection(tmp_path).members
    before = records.fingerprint(one)
    file = tmp_path / "a.npy"
    assert before == [
        {"path": "a.npy", "size": file.stat().st_size, "mtime_ns": file.stat().st_mtime_ns}
    ]
    os.utime(file, ns=(1, 2))
    assert records.fingerprint(one) == [before[0] | {"mtime_ns": 2}]
    file.unlink()
    assert records.fingerprint(one) == [{"path": "a.npy", "size": None, "mtime_ns": None}]
    assert records.describe_files(one) == {"a.npy": "absent"}
