from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ambient_curate.errors import ManifestError
from ambient_curate.run import schema, tables

LABEL = "dictionary<values=string, indices=int32, ordered=0>"

# The contract with whoever reads a manifest: a change here is a new schema version.
COLUMNS = """
dataset          LABEL                 no
episode_id       string                null
episode_index    int64                 null
start            int32                 null
horizon          int32                 no
index            int64                 null
group            LABEL                 null
is_clean         bool                  no
sigma_min        double                null
sigma_min_lower  double                null
sigma_min_upper  double                null
sigma_max        double                null
weight           float                 null
p_clean          list<element: float>  null
status           LABEL                 no
fold             int16                 null
"""


def test_the_manifest_has_the_columns_of_schema_version_2() -> None:
    lines = [line.split() for line in COLUMNS.replace("LABEL", LABEL).strip().splitlines()]
    expected = [(line[0], " ".join(line[1:-1]), line[-1] == "null") for line in lines]
    found = [(field.name, str(field.type), field.nullable) for field in schema.MANIFEST_FIELDS]
    assert found == expected
    assert schema.SCHEMA_VERSION == 2


def test_only_groups_and_bounds_of_curves_may_be_null() -> None:
    fields = (*schema.CURVE_FIELDS, *schema.RELIABILITY_FIELDS)
    nullable = {field.name for field in fields if field.nullable}
    bounds = {f"{name}_{end}_approx" for name in ("delta", "tv") for end in ("lower", "upper")}
    bounds |= {"delta_lower", "delta_upper", "tv_lower", "tv_upper", "jsd_lower"}
    bounds |= {"delta_upper_empirical", "tv_upper_empirical"}
    assert nullable == bounds | {"group"}


@pytest.mark.parametrize(
    "fields", [schema.MANIFEST_FIELDS, schema.CURVE_FIELDS, schema.RELIABILITY_FIELDS]
)
def test_every_column_says_its_unit_and_its_source(fields: tuple[pa.Field, ...]) -> None:
    for field in fields:
        assert field.metadata[b"unit"] and field.metadata[b"source"], field.name


CURVE: dict[str, Any] = dict.fromkeys(tables.curves_schema().names, 0.5) | {
    "dataset": "sim",
    "group": None,
    "n_clean": 5,
    "n_corrupt": 7,
    "delta_lower_approx": None,
    "delta": -0.25,
}
BIN: dict[str, Any] = dict.fromkeys(tables.reliability_schema().names, 0.5) | {
    "dataset": "sim",
    "group": "pick",
}


def test_curves_and_reliability_come_back_as_written(tmp_path: Path) -> None:
    run = tmp_path
    (run / "run.json").write_text("{}")
    table = pa.Table.from_pylist([CURVE], tables.curves_schema())
    tables.write_curves(table, run / "curves.parquet")
    assert tables.read_curves(run).equals(table, check_metadata=True)
    assert tables.read_curves(run / "curves.parquet").equals(table)
    table = pa.Table.from_pylist([BIN], tables.reliability_schema())
    tables.write_reliability(table, run / "reliability.parquet")
    assert tables.read_reliability(str(run)).equals(table, check_metadata=True)
    (run / "curves.parquet").unlink()
    with pytest.raises(ManifestError, match=r"curves\.parquet"):
        tables.read_curves(run)
    with pytest.raises(ManifestError, match=r"columns are .*'p_low'.*, not .*'log_snr'"):
        tables.read_curves(run / "reliability.parquet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": 1.01}, "accuracy outside"),
        ({"bce": np.inf}, "bce not finite"),
        ({"delta": np.nan}, "delta not finite"),
        ({"tv": None}, "tv null"),
        ({"tv_upper_approx": np.nan}, "tv_upper_approx not finite"),
        ({"tv_lower_approx": 0.6}, "tv_lower_approx above tv_upper_approx"),
        ({"sigma": -0.1}, "sigma outside"),
    ],
)
def test_broken_curves_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    table = pa.Table.from_pylist([CURVE | change], tables.curves_schema())
    with pytest.raises(ManifestError, match=message):
        tables.write_curves(table, tmp_path / "curves.parquet")
    pq.write_table(
        pa.Table.from_pylist([CURVE | change], _nullable(tables.curves_schema())),
        tmp_path / "curves.parquet",
    )
    with pytest.raises(ManifestError, match=message):
        tables.read_curves(tmp_path / "curves.parquet")


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in schema], schema.metadata)
