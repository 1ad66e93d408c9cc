"""Schema of a run's tables, version 2: columns with unit and source, and rules for rows.

In version 1 ``episode_index`` was the position of the episode in its source; nothing else differs.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SCHEMA_VERSION = 2
READ_VERSIONS = (1, SCHEMA_VERSION)
GRANULARITIES = ("dataset", "group", "episode", "datapoint")
STATUSES = (
    "ok",
    "too-short",
    "too-few-episodes",
    "classifier-unreliable",
    "not-compared",
    "non-finite",
    "unreadable",
)
METADATA_KEYS = (
    "schema_version",
    "granularity",
    "epsilon",
    "grid",  # JSON list of noise levels (VP), ascending
    "representation",
    "normaliser",  # JSON
    "weighting",
    "run_digest",
)
SORT_KEYS = ("dataset", "episode_index", "start", "group", "episode_id")

_LABEL = pa.dictionary(pa.int32(), pa.string())
_CURVE = pa.list_(pa.field("element", pa.float32()))  # the name that Parquet gives back
SIGMA = "noise level (VP), 0 to 1"
PROBABILITY = "probability, 0 to 1"

_ROWS_AT_ONCE = 131_072


def _required(name: str, kind: pa.DataType, unit: str, source: str) -> pa.Field:
    return pa.field(name, kind, nullable=False, metadata={"unit": unit, "source": source})


def _nullable(name: str, kind: pa.DataType, unit: str, source: str) -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit, "source": source})


MANIFEST_FIELDS = (
    _required("dataset", _LABEL, "name", "member of the collection"),
    _nullable("episode_id", pa.string(), "name", "reader; null: the whole dataset or group"),
    _nullable("episode_index", pa.int64(), "number", "source: its own; else position"),
    _nullable("start", pa.int32(), "frames", "window: its first frame; null: the whole episode"),
    _required("horizon", pa.int32(), "frames", "option horizon: frames in a window"),
    _nullable(
        "index",
        pa.int64(),
        "frames",
        "source: its global index of frames, if unique",
    ),
    _nullable("group", _LABEL, "name", "option group_by"),
    _required("is_clean", pa.bool_(), "flag", "collection: member of the clean set"),
    _nullable("sigma_min", pa.float64(), SIGMA, "classifier: usable above; null: not annotated"),
    _nullable("sigma_min_lower", pa.float64(), SIGMA, "bracket or Monte-Carlo interval"),
    _nullable("sigma_min_upper", pa.float64(), SIGMA, "bracket or Monte-Carlo interval"),
    _nullable("sigma_max", pa.float64(), SIGMA, "usable at or below (method.md 11); null: none"),
    _nullable("weight", pa.float32(), "ratio", "classifier: unbiased weight of the window"),
    _nullable("p_clean", _CURVE, PROBABILITY, "classifier: a value a grid level"),
    _required("status", _LABEL, "name", "annotation: ok, or why sigma_min is null"),
    _nullable("fold", pa.int16(), "fold", "classifier: the held-out fold that scored it"),
)

CURVE_FIELDS = (
    _required("dataset", _LABEL, "name", "member of the collection"),
    _nullable("group", _LABEL, "name", "option group_by; null: the whole dataset"),
    _required("sigma", pa.float64(), SIGMA, "grid"),
    _required("log_snr", pa.float64(), "nats", "ln((1 - sigma^2) / sigma^2)"),
    _required("n_clean", pa.int32(), "episodes", "clean episodes scored"),
    _required("n_corrupt", pa.int32(), "episodes", "corrupt episodes scored"),
    _required("accuracy", pa.float64(), PROBABILITY, "balanced, out of fold"),
    _required("mean_c_clean", pa.float64(), PROBABILITY, "E_p c"),
    _required("mean_c_corrupt", pa.float64(), PROBABILITY, "E_q c"),
    _required("mean_c_corrupt_isotonic", pa.float64(), PROBABILITY, "E_q c, isotonic along sigma"),
    _required("brier", pa.float64(), "squared probability", "balanced, out of fold"),
    _required("bce", pa.float64(), "nats", "balanced, out of fold"),
    _required("delta", pa.float64(), "Delta, 0 to 2", "2 - 4 E_q c, isotonic along sigma"),
    _required("delta_ratio", pa.float64(), "Delta, 0 to 2", "best rescaling of c, plug-in"),
    _nullable("delta_lower_approx", pa.float64(), "Delta, 0 to 2", "approximate interval"),
    _nullable("delta_upper_approx", pa.float64(), "Delta, 0 to 2", "approximate interval"),
    _required("tv", pa.float64(), "total variation, 0 to 1", "2 accuracy - 1"),
    _nullable("tv_lower_approx", pa.float64(), "total variation, 0 to 1", "approximate interval"),
    _nullable("tv_upper_approx", pa.float64(), "total variation, 0 to 1", "approximate interval"),
    _nullable("delta_lower", pa.float64(), "Delta, 0 to 2", "certified, 95 %"),
    _nullable("delta_upper_empirical", pa.float64(), "Delta, 0 to 2", "of the two finite sets"),
    _nullable("delta_upper", pa.float64(), "Delta, 0 to 2", "certified, 95 %; null: vacuous"),
    _nullable("tv_lower", pa.float64(), "total variation, 0 to 1", "certified, 95 %"),
    _nullable("tv_upper_empirical", pa.float64(), "total variation, 0 to 1", "of the finite sets"),
    _nullable("tv_upper", pa.float64(), "total variation, 0 to 1", "certified, 95 %"),
    _nullable("jsd_lower", pa.float64(), "nats", "certified, 95 %"),
)

RELIABILITY_FIELDS = (
    _required("dataset", _LABEL, "name", "member of the collection"),
    _nullable("group", _LABEL, "name", "option group_by; null: the whole dataset"),
    _required("sigma_low", pa.float64(), SIGMA, "band of noise levels"),
    _required("sigma_high", pa.float64(), SIGMA, "band of noise levels"),
    _required("p_low", pa.float64(), PROBABILITY, "bin of the predicted c"),
    _required("p_high", pa.float64(), PROBABILITY, "bin of the predicted c"),
    _required("weight", pa.float64(), PROBABILITY, "share of the predictions in this bin"),
    _required("mean_c", pa.float64(), PROBABILITY, "mean predicted c in the bin"),
    _required("fraction_clean", pa.float64(), PROBABILITY, "clean share in the bin"),
)

# What an offending row does; the columns that show it; a mask of offending rows. Numbers come as
# float64 with NaN for null, so that a comparison with a null offends nobody.
Rule = tuple[str, tuple[str, ...], Callable[..., np.ndarray]]

_MANIFEST_RULES: tuple[Rule, ...] = (
    (
        "status is not one of " + ", ".join(STATUSES),
        ("status",),
        lambda status: ~np.isin(status, STATUSES),
    ),
    (
        "clean with sigma_min and sigma_max not both 0",
        ("is_clean", "status", "sigma_min", "sigma_max"),
        lambda clean, status, low, high: clean & (status == "ok") & ~((low == 0) & (high == 0)),
    ),
    (
        "status ok without sigma_min",
        ("status", "sigma_min"),
        lambda status, low: (status == "ok") & np.isnan(low),
    ),
    (
        "status other than ok with sigma_min",
        ("status", "sigma_min"),
        lambda status, low: (status != "ok") & ~np.isnan(low),
    ),
    (
        "sigma_min_lower above sigma_min",
        ("sigma_min_lower", "sigma_min"),
        lambda lower, value: lower > value,
    ),
    (
        "sigma_min_upper below sigma_min",
        ("sigma_min_upper", "sigma_min"),
        lambda upper, value: upper < value,
    ),
    (
        "sigma_max reaches sigma_min, which is written as (0, 0)",
        ("sigma_min", "sigma_max"),
        lambda low, high: (high >= low) & ((low != 0) | (high != 0)),
    ),
    ("horizon below 1", ("horizon",), lambda horizon: horizon < 1),
    *(
        (f"{name} below 0", (name,), lambda value: value < 0)
        for name in ("episode_index", "start", "index", "weight", "fold")
    ),
)

CURVE_RULES: tuple[Rule, ...] = tuple(
    (
        f"{bound}_lower_approx above {bound}_upper_approx",
        (f"{bound}_lower_approx", f"{bound}_upper_approx"),
        lambda lower, upper: lower > upper,
    )
    for bound in ("delta", "tv")
)


def manifest_schema(metadata: Mapping[str, str]) -> pa.Schema:
    """Return the schema of a manifest part, version `SCHEMA_VERSION`.

    Parameters
    ----------
    metadata : mapping of str to str
        A value for each of `METADATA_KEYS`; ``schema_version`` may be left out.

    Returns
    -------
    pyarrow.Schema
        Fields with type, nullability, unit and source, and the file metadata.

    Raises
    ------
    ValueError
        If a key is missing or unknown.
    """
    complete = {"schema_version": str(SCHEMA_VERSION), **metadata}
    if set(complete) != set(METADATA_KEYS):
        raise ValueError(f"metadata keys are {sorted(complete)}, not {sorted(METADATA_KEYS)}")
    return pa.schema(MANIFEST_FIELDS, {key: complete[key] for key in METADATA_KEYS})


def curves_schema() -> pa.Schema:
    """Return the schema of ``curves.parquet``: a row per dataset (and group) and noise level."""
    return pa.schema(CURVE_FIELDS, {"schema_version": str(SCHEMA_VERSION)})


def reliability_schema() -> pa.Schema:
    """Return the schema of ``reliability.parquet``: a row per dataset, band and bin of c."""
    return pa.schema(RELIABILITY_FIELDS, {"schema_version": str(SCHEMA_VERSION)})


def manifest_problems(table: pa.Table) -> list[str]:
    """List every rule that a manifest, or a part of one, breaks: a sentence each."""
    problems = _metadata_problems(table.schema)
    rules = _MANIFEST_RULES
    if not problems:
        levels = len(json.loads(text_metadata(table.schema)["grid"]))
        text = f"p_clean without one value for each of the {levels} grid levels"
        rules += ((text, ("p_clean",), lambda n: (n < levels) | (n > levels)),)  # NaN: no curve
    problems += table_problems(table, MANIFEST_FIELDS, rules)
    typed = _well_typed(table, MANIFEST_FIELDS).issuperset(SORT_KEYS)
    return problems + (order_problems(table) if typed else [])


def _metadata_problems(schema: pa.Schema) -> list[str]:
    metadata = text_metadata(schema)
    if set(metadata) != set(METADATA_KEYS):
        return [f"file metadata has the keys {sorted(metadata)}, not {sorted(METADATA_KEYS)}"]
    problems = []
    if metadata["schema_version"] not in map(str, READ_VERSIONS):
        problems.append(f"schema_version is {metadata['schema_version']}, not {SCHEMA_VERSION}")
    if metadata["granularity"] not in GRANULARITIES:
        problems.append(f"granularity is {metadata['granularity']!r}, not one of {GRANULARITIES}")
    try:
        grid = np.array(json.loads(metadata["grid"]), dtype=np.float64)
    except (ValueError, TypeError):
        grid = np.empty(0)
    if grid.ndim != 1 or not grid.size or not (np.diff(grid) > 0).all():
        problems.append(f"grid is {metadata['grid']!r}, not an ascending JSON list of numbers")
    return problems


def text_metadata(schema: pa.Schema) -> dict[str, str]:
    """Return the metadata of a table, empty where there is none."""
    metadata = schema.metadata or {}
    return {key.decode(): value.decode(errors="replace") for key, value in metadata.items()}


def table_problems(
    table: pa.Table, fields: Sequence[pa.Field], rules: Sequence[Rule] = ()
) -> list[str]:
    """List every deviation of a table from its fields, and every rule that its rows break."""
    problems = []
    names = [field.name for field in fields]
    if table.column_names != names:
        problems.append(f"columns are {table.column_names}, not {names}")
    typed = _well_typed(table, fields)
    for field in fields:
        if field.name in typed:
            for text, mask in _column_masks(table[field.name], field):
                problems += _describe(table, f"{field.name} {text}", (field.name,), mask)
        elif table.column_names.count(field.name) == 1:
            found = table.schema.field(field.name).type
            problems.append(f"{field.name} is {found}, not {field.type}")
    for text, columns, offends in rules:
        if typed.issuperset(columns):
            problems += _describe(table, text, columns, _rule_mask(table, columns, offends))
    return problems


def _well_typed(table: pa.Table, fields: Sequence[pa.Field]) -> set[str]:
    names = [field.name for field in fields if table.column_names.count(field.name) == 1]
    types = {name: table.schema.field(name).type for name in names}
    return {field.name for field in fields if types.get(field.name) == field.type}


def _column_masks(column: pa.ChunkedArray, field: pa.Field) -> Iterator[tuple[str, np.ndarray]]:
    if pa.types.is_dictionary(field.type):
        column = column.cast(pa.string())  # a null may hide in the dictionary
    if not field.nullable:
        yield "null", column.is_null().to_numpy()
    if pa.types.is_list(field.type):
        yield "with a value outside [0, 1]", _lists_outside(column)
    elif field.metadata[b"unit"].decode() in (SIGMA, PROBABILITY):
        inside = pc.and_(pc.greater_equal(column, 0.0), pc.less_equal(column, 1.0))
        yield "outside [0, 1]", pc.invert(inside.fill_null(True)).to_numpy()
    elif pa.types.is_floating(field.type):
        yield "not finite", pc.invert(pc.is_finite(column).fill_null(True)).to_numpy()


def _lists_outside(column: pa.ChunkedArray) -> np.ndarray:
    offending = [np.zeros(0, dtype=bool)]
    for chunk in column.chunks:
        values = chunk.flatten().to_numpy(zero_copy_only=False)  # null becomes NaN
        lengths = chunk.value_lengths().fill_null(0).to_numpy()
        rows = np.repeat(np.arange(len(chunk)), lengths)
        mask = np.zeros(len(chunk), dtype=bool)
        mask[rows[~((values >= 0) & (values <= 1))]] = True
        offending.append(mask)
    return np.concatenate(offending)


def _rule_mask(
    table: pa.Table, columns: Sequence[str], offends: Callable[..., np.ndarray]
) -> np.ndarray:
    offending = [np.zeros(0, dtype=bool)]
    for start in range(0, len(table), _ROWS_AT_ONCE):  # labels as objects take memory
        rows = table.slice(start, _ROWS_AT_ONCE)
        offending.append(offends(*(_to_numpy(rows[name]) for name in columns)))
    return np.concatenate(offending)


def _to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_list(column.type):
        column = pc.list_value_length(column)
    elif pa.types.is_boolean(column.type):
        return column.fill_null(False).to_numpy()
    if pa.types.is_dictionary(column.type):
        return np.array(column.cast(pa.string()).to_pylist(), dtype=object)
    # Beyond 2^53 an integer is rounded, which no rule can see.
    return column.cast(pa.float64(), safe=False).to_numpy()


def tabulate(columns: Mapping[str, Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Make a table of `schema` from plain values; columns that are not given are null."""
    n = max(map(len, columns.values()), default=0)
    arrays = []
    for field in schema:
        labelled = pa.types.is_dictionary(field.type)
        plain = field.type.value_type if labelled else field.type
        arrays.append(pa.array(columns.get(field.name, [None] * n), plain).cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def sort_rows(table: pa.Table) -> pa.Table:
    """Return a manifest's rows in the order that `validate` demands: `SORT_KEYS`, nulls last."""
    keys = pa.table([_sortable(table[name]) for name in SORT_KEYS], SORT_KEYS)
    return table.take(pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in SORT_KEYS]))


def _sortable(column: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Replace labels by their ranks, since Arrow does not sort dictionary columns."""
    if not pa.types.is_dictionary(column.type):
        return column
    encoded = column.cast(pa.string()).dictionary_encode().combine_chunks()
    labels = np.array(encoded.dictionary.to_pylist(), dtype=object)
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[np.argsort(labels)] = np.arange(len(labels))
    return pa.array(ranks).take(encoded.indices)


def order_problems(table: pa.Table) -> list[str]:
    """List what is wrong with the order of a manifest whose columns have their types."""
    if len(table) < 2:
        return []
    backwards = np.zeros(len(table) - 1, dtype=bool)
    tied = np.ones(len(table) - 1, dtype=bool)
    for name in SORT_KEYS:
        key = _sortable(table[name])
        last = chr(0x10FFFF) if pa.types.is_string(key.type) else np.iinfo(np.int64).max
        key = key.cast(pa.string() if isinstance(last, str) else pa.int64()).fill_null(last)
        before, after = key.slice(0, len(table) - 1), key.slice(1)
        backwards |= tied & pc.less(after, before).to_numpy(zero_copy_only=False)
        tied &= pc.equal(after, before).to_numpy(zero_copy_only=False)
    first = [False]
    return [
        *_describe(table, "not in the order of the keys", SORT_KEYS, np.append(first, backwards)),
        *_describe(table, "twice", SORT_KEYS, np.append(first, tied)),
    ]


def _describe(table: pa.Table, text: str, columns: Sequence[str], mask: np.ndarray) -> list[str]:
    count = int(np.count_nonzero(mask))
    if not count:
        return []
    row = int(np.argmax(mask))
    values = ", ".join(f"{name} {table[name][row].as_py()!r}" for name in columns)
    return [f"{text} in {count} row{'s' * (count > 1)}, first in row {row} ({values})"]
