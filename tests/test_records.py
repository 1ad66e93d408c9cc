"""Records: JSON that is whole and readable, and refused where it is something else."""

import os
from pathlib import Path

import pytest

from ambient_curate import records
from ambient_curate.errors import RunError
from ambient_curate.records import RUN, Kind

OTHER = Kind("policy", "train", ("weights",))


def write(path: Path, kind: Kind, **content: object) -> None:
    records.write_json_atomic(path / kind.record, {"schema": kind.schema, **content})


def test_json_is_whole_readable_and_finite(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    records.write_json_atomic(path, {"größe": 0.1, "b": [1, None]})
    assert path.read_text(encoding="utf-8") == (
        '{\n  "größe": 0.1,\n  "b": [\n    1,\n    null\n  ]\n}\n'
    )
    with pytest.raises(ValueError, match="JSON"):
        records.write_json_atomic(path, {"x": float("nan")})
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
    with pytest.raises(RunError, match="has schema version 3; this program reads 1"):
        records.read_run(tmp_path, OTHER)
