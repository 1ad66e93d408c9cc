"""Manifest and curves as Parquet: checked, written whole, checked again when read."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ambient_curate.errors import ManifestError
from ambient_curate.files import replace_whole
from ambient_curate.option_fields import check_path
from ambient_curate.run.schema import (
    CURVE_FIELDS,
    CURVE_RULES,
    READ_VERSIONS,
    RELIABILITY_FIELDS,
    manifest_problems,
    order_problems,
    table_problems,
    text_metadata,
)
from ambient_curate.run.schema import GRANULARITIES as GRANULARITIES
from ambient_curate.run.schema import SCHEMA_VERSION as SCHEMA_VERSION
from ambient_curate.run.schema import STATUSES as STATUSES
from ambient_curate.run.schema import curves_schema as curves_schema
from ambient_curate.run.schema import manifest_schema as manifest_schema
from ambient_curate.run.schema import reliability_schema as reliability_schema
from ambient_curate.run.schema import sort_rows as sort_rows
from ambient_curate.run.schema import tabulate as tabulate

_ROWS_PER_GROUP = 131_072  # bounds what a streaming reader holds at once
_DAMAGED = "it was changed after it was written: annotate again with --force"


def validate(table: pa.Table) -> None:
    """Check a manifest, or a part of one, against schema version `SCHEMA_VERSION`.

    Checked are the columns' names, order and types; nulls; finite numbers and their ranges; the
    closed list `STATUSES`; ``sigma_min_lower <= sigma_min <= sigma_min_upper``; a null
    ``sigma_min`` exactly where the status is not ``ok``; (0, 0) for clean rows and for rows usable
    everywhere; one value of ``p_clean`` a grid level; rows ascending in `SORT_KEYS`, none twice.

    Raises
    ------
    ManifestError
        If anything is wrong, naming every broken rule with its count and first row.
    """
    _raise_any("the manifest", manifest_problems(table))


def write_part(table: pa.Table, path: Path) -> None:
    """Write one part of a manifest whole or not at all; equal tables give equal bytes.

    Raises
    ------
    ManifestError
        If the table breaks a rule of `validate`; nothing is written.
    OSError
        If the file system refuses; no part is left.
    """
    validate(table)
    _write(table, manifest_schema(text_metadata(table.schema)), path)


def write_curves(table: pa.Table, path: Path) -> None:
    """Write ``curves.parquet`` whole or not at all; raises as `write_part`."""
    _raise_any("the table of curves", table_problems(table, CURVE_FIELDS, CURVE_RULES))
    _write(table, curves_schema(), path)


def write_reliability(table: pa.Table, path: Path) -> None:
    """Write ``reliability.parquet`` whole or not at all; raises as `write_part`."""
    _raise_any("the table of reliability", table_problems(table, RELIABILITY_FIELDS))
    _write(table, reliability_schema(), path)


def read_manifest(path: Path | str) -> pa.Table:
    """Read and check an annotation.

    Parameters
    ----------
    path : Path or str
        A finished run, its ``manifest/`` directory, or a single ``.parquet`` part.

    Returns
    -------
    pyarrow.Table
        All rows in the order of `SORT_KEYS`, with the file metadata in ``schema.metadata``.

    Raises
    ------
    ManifestError
        If there is no manifest, the run is unfinished, the schema version is another, parts come
        from different runs, or a rule of `validate` is broken.
    ConfigError
        If `path` is neither a path nor text.
    """
    parts = find_parts(check_path("path", path))
    tables = []
    for part in parts:
        tables.append(_read(part))
        _raise_any(str(part), manifest_problems(tables[-1]), _DAMAGED)
        if tables[-1].schema.metadata != tables[0].schema.metadata:
            raise ManifestError(f"{part} and {parts[0]} are of different runs", _DAMAGED)
    table = pa.concat_tables(tables).unify_dictionaries()
    _raise_any(str(path), order_problems(table), _DAMAGED)
    return table


def read_curves(path: Path | str) -> pa.Table:
    """Read and check the curves of a finished run, or one ``.parquet`` file of curves.

    Raises
    ------
    ManifestError
        As `read_manifest`.
    """
    file = _find_file(Path(path), "curves.parquet")
    table = _read(file)
    _raise_any(str(file), table_problems(table, CURVE_FIELDS, CURVE_RULES), _DAMAGED)
    return table


def read_reliability(path: Path | str) -> pa.Table:
    """Read and check the reliability table of a finished run, or one ``.parquet`` file of it.

    Raises
    ------
    ManifestError
        As `read_manifest`.
    """
    file = _find_file(Path(path), "reliability.parquet")
    table = _read(file)
    _raise_any(str(file), table_problems(table, RELIABILITY_FIELDS), _DAMAGED)
    return table


def find_parts(path: Path) -> Sequence[Path]:
    """Find the parts of the manifest of a finished run; `ManifestError` where there are none."""
    if path.is_file():
        return [path]
    run = path.parent if path.name == "manifest" else path
    _require_finished(run)
    parts = sorted((run / "manifest").glob("part-*.parquet"))
    if not parts:
        raise ManifestError(f"{run / 'manifest'} holds no part-*.parquet", _DAMAGED)
    return parts


def _find_file(path: Path, name: str) -> Path:
    if path.is_file():
        return path
    _require_finished(path)
    return path / name


def _require_finished(run: Path) -> None:
    if (run / "run.json").is_file():
        return
    if (run / ".work").is_dir():
        raise ManifestError(
            f"{run} is an unfinished run: it has no run.json",
            "give the same annotate command again; it continues where it stopped",
        )
    raise ManifestError(
        f"{run} is no run: it has no run.json",
        "give the directory that `ambient-curate annotate` wrote, or one .parquet file of it",
    )


def _read(path: Path) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path} cannot be read as Parquet: {error}", _DAMAGED) from error
    version = text_metadata(table.schema).get("schema_version")
    if version not in {str(known) for known in READ_VERSIONS}:
        raise ManifestError(
            f"{path} has schema version {version}; this program reads up to {SCHEMA_VERSION}",
            "read it with the version of ambient-curate that wrote it, or annotate again",
        )
    return table


def _write(table: pa.Table, schema: pa.Schema, path: Path) -> None:
    # Chunks and dictionaries depend on how a table was put together; the bytes must not.
    columns = [_combine(table[field.name], field.type) for field in schema]
    with replace_whole(path) as temporary:
        pq.write_table(
            pa.table(columns, schema=schema),
            temporary,
            compression="zstd",
            row_group_size=_ROWS_PER_GROUP,
        )


def _combine(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if pa.types.is_dictionary(kind):
        column = column.cast(pa.string()).dictionary_encode()
    return column.combine_chunks()


def _raise_any(what: str, problems: Sequence[str], hint: str | None = None) -> None:
    if problems:
        raise ManifestError(f"{what} breaks the schema: " + "; ".join(problems), hint)
