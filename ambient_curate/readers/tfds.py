"""Directories written by TensorFlow Datasets: versions, splits, shards and features.

``dataset_info.json`` names the splits, their shards and the number of examples in each;
``features.json`` gives names, types and shapes.
"""

import json
import os.path
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ambient_curate.errors import DatasetError, name_some
from ambient_curate.files import find_stand_in

INFO, FEATURES = "dataset_info.json", "features.json"
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)", re.ASCII)
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_DEFAULT_SPLIT = "train"
_NUMERIC_DTYPES = ("float", "bfloat", "int", "uint", "bool")
_COPY_AGAIN = "copy it again from the dataset's source"


@dataclass(frozen=True)
class Tensor:
    """A numeric feature: its shape (at one step, for those of steps) and type.

    `shape` is None where it is not fixed or not known; one with an `encoding` is not read.
    """

    shape: tuple[int, ...] | None
    dtype: str
    encoding: str = "none"


@dataclass(frozen=True)
class Layout:
    """One split of a dataset on disk.

    Parameters
    ----------
    directory : Path
        Holds the metadata and the shards.
    splits : tuple of str
        All splits there are.
    shards : tuple of Path
        Files of the chosen split, in order; each exists.
    lengths : tuple of int
        Examples in each shard.
    metadata_files : tuple of Path
        ``dataset_info.json`` and, where there is one, ``features.json``.
    tensors : mapping of str to Tensor
        Numeric features by their full name; empty without a usable ``features.json``.
    problems : tuple of str
        What was unusual, one sentence each.
    encoded : mapping of str to str
        Encoding of the numeric features that cannot be read for it.
    """

    directory: Path
    splits: tuple[str, ...]
    shards: tuple[Path, ...]
    lengths: tuple[int, ...]
    metadata_files: tuple[Path, ...]
    tensors: Mapping[str, Tensor]
    problems: tuple[str, ...]
    encoded: Mapping[str, str]


@dataclass(frozen=True)
class _Split:
    name: str
    template: str
    lengths: tuple[int, ...]


def recognizes(path: Path) -> bool:
    """Tell whether `path`, or a version directory in it, holds such files, even broken ones."""
    return _holds_files(path) or bool(_versions(path))


def read_layout(path: Path, split: str | None) -> Layout:
    """Read the metadata of a dataset and find the files of one split.

    Parameters
    ----------
    path : Path
        Directory of the dataset, or the one above that holds its versions.
    split : str or None
        Name of a split; None: ``train``, or the only one there is.

    Raises
    ------
    DatasetError
        If the metadata is missing or damaged, the split does not exist or a shard is absent.
    """
    directory, several_versions = _find_directory(path)
    info, features = directory / INFO, directory / FEATURES
    dataset, splits = _parse_info(info)
    chosen, other_split = _choose_split(directory, splits, split)
    tensors = _parse_features(features) if features.is_file() else {}
    unread = _describe_unread(directory, dataset, splits, chosen)
    return Layout(
        directory=directory,
        splits=tuple(splits),
        shards=_find_shards(directory, dataset, chosen),
        lengths=chosen.lengths,
        metadata_files=tuple(file for file in (info, features) if file.is_file()),
        tensors={name: each for name, each in tensors.items() if each.encoding == "none"},
        problems=(*(text for text in (several_versions, other_split) if text), *unread),
        encoded={name: t.encoding for name, t in tensors.items() if t.encoding != "none"},
    )


def _holds_files(directory: Path) -> bool:
    return directory.is_dir() and (
        (directory / INFO).is_file()
        or (directory / FEATURES).is_file()
        or any(directory.glob("*.tfrecord*"))
    )


def _versions(path: Path) -> list[Path]:
    """Version directories of a dataset, the lowest first."""
    if not path.is_dir():
        return []
    found = [
        (tuple(map(int, match.groups())), child)
        for child in path.iterdir()
        if (match := _VERSION.fullmatch(child.name)) and _holds_files(child)
    ]
    return [child for _, child in sorted(found)]


def _find_directory(path: Path) -> tuple[Path, str | None]:
    if _holds_files(path):
        return path, None
    versions = _versions(path)
    if not versions:
        raise DatasetError(f"{path} holds no RLDS dataset", f"it should hold {INFO} and shards")
    if len(versions) == 1:
        return versions[0], None
    names = ", ".join(version.name for version in versions)
    return versions[-1], f"there are the versions {names}: {versions[-1].name} is read"


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DatasetError(f"{path} is missing", "copy it from the dataset's source")
    try:
        text = path.read_bytes()
        if not text.strip():
            raise DatasetError(f"{path} is empty", _COPY_AGAIN)
        content = json.loads(text)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}", "check the file") from error
    except (ValueError, RecursionError) as error:
        raise find_stand_in(path) or DatasetError(
            f"{path} is not JSON: {error}", _COPY_AGAIN
        ) from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path} holds no JSON object", _COPY_AGAIN)
    return content


def _parse_info(path: Path) -> tuple[str, dict[str, _Split]]:
    """Read the dataset's name and its splits from ``dataset_info.json``."""
    info = _read_json(path)
    file_format = info.get("fileFormat", "tfrecord")
    if file_format != "tfrecord":
        raise DatasetError(
            f"{path}: the shards are {file_format!r} files, only 'tfrecord' can be read",
            "write the dataset again with file_format='tfrecord'",
        )
    name, splits = info.get("name"), info.get("splits")
    if not isinstance(name, str) or not isinstance(splits, list) or not splits:
        raise DatasetError(f"{path} lacks the dataset's name or its splits", _COPY_AGAIN)
    parsed = [_parse_split(path, split) for split in splits]
    return name, {split.name: split for split in parsed}


def _parse_split(path: Path, split: Any) -> _Split:
    if not isinstance(split, dict) or not isinstance(split.get("name"), str):
        raise DatasetError(f"{path} has a split without a name", _COPY_AGAIN)
    name, template = split["name"], split.get("filepathTemplate") or _TEMPLATE
    lengths = split.get("shardLengths")
    if not isinstance(template, str) or not isinstance(lengths, list) or not lengths:
        raise DatasetError(f"{path}: split {name!r} has no list of shards", _COPY_AGAIN)
    for length in lengths:
        if not re.fullmatch("[0-9]{1,18}", str(length)):
            raise DatasetError(f"{path}: split {name!r}: shard length {length!r}", _COPY_AGAIN)
    return _Split(name, template, tuple(int(length) for length in lengths))


def _choose_split(
    directory: Path, splits: Mapping[str, _Split], wanted: str | None
) -> tuple[_Split, str | None]:
    name = wanted or _DEFAULT_SPLIT
    if name in splits:
        return splits[name], None
    if wanted is None and len(splits) == 1:
        (only,) = splits.values()
        return only, f"there is no split {name!r}: the only split {only.name!r} is read"
    raise DatasetError(
        f"{directory} has no split {name!r}; there are {', '.join(map(repr, splits))}",
        'name one of them, as in `split = "val"`; `episodes = "0:30"` takes a part of it',
    )


def _find_shards(directory: Path, dataset: str, split: _Split) -> tuple[Path, ...]:
    """Make the names of a split's files from their template and check that they are there."""
    names = _shard_names(dataset, split)
    outside = [name for name in names if "/" in name or "\\" in name]
    if outside or len(set(names)) < len(names):
        raise DatasetError(
            f"{directory}: split {split.name!r} names its shards {(outside or names)[0]!r}, "
            "expected distinct files in this directory",
            _COPY_AGAIN,
        )
    # Not Path.is_file, which raises for a name that the system cannot hold.
    absent = [name for name in names if not os.path.isfile(directory / name)]
    if absent:
        raise DatasetError(
            f"{directory} lacks {len(absent)} of the {len(names)} shards of split "
            f"{split.name!r}, the first of them {absent[0]!r}",
            "copy them from the dataset's source",
        )
    return tuple(directory / name for name in names)


def _describe_unread(
    directory: Path, dataset: str, splits: Mapping[str, _Split], chosen: _Split
) -> Iterator[str]:
    """Say which splits and which files are not read."""
    if len(splits) > 1:
        total = sum(sum(split.lengths) for split in splits.values())
        yield (
            f"of the splits {', '.join(splits)}, {chosen.name} is read: {sum(chosen.lengths)} of "
            f"{total} episodes"
        )
    listed = {name for split in splits.values() for name in _shard_names(dataset, split)}
    there = {file.name for file in directory.glob("*.tfrecord*")}
    if unlisted := sorted(there - listed):
        yield f"not read, since {INFO} does not list them: {name_some(unlisted)}"


def _shard_names(dataset: str, split: _Split) -> list[str]:
    count = len(split.lengths)
    return [_shard_name(dataset, split, index, count) for index in range(count)]


def _shard_name(dataset: str, split: _Split, index: int, count: int) -> str:
    values = {
        "DATASET": dataset,
        "SPLIT": split.name,
        "FILEFORMAT": "tfrecord",
        "SHARD_INDEX": f"{index:05d}",
        "NUM_SHARDS": f"{count:05d}",
        "SHARD_X_OF_Y": f"{index:05d}-of-{count:05d}",
    }
    # Not str.format, whose fields can reach into objects.
    return re.sub(r"\{(\w+)\}", lambda field: values.get(field[1], field[0]), split.template)


def _parse_features(path: Path) -> dict[str, Tensor]:
    try:
        return dict(_flatten(_read_json(path), ""))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DatasetError(f"{path} does not describe features: {error!r}", _COPY_AGAIN) from error


def _flatten(node: dict[str, Any], name: str) -> Iterator[tuple[str, Tensor]]:
    """Walk down to the numeric features of fixed type, the only ones a reader can use."""
    if "featuresDict" in node:
        for key, child in node["featuresDict"]["features"].items():
            yield from _flatten(child, f"{name}/{key}" if name else key)
    elif "sequence" in node and name == "steps":  # a sequence further down is ragged
        yield from _flatten(node["sequence"]["feature"], name)
    elif "classLabel" in node:
        yield name, Tensor((), "int64")
    elif "tensor" in node:
        tensor = node["tensor"]
        if tensor["dtype"].startswith(_NUMERIC_DTYPES):
            shape = tuple(int(size) for size in tensor["shape"].get("dimensions", ()))
            fixed = shape if min(shape, default=1) >= 0 else None
            yield name, Tensor(fixed, tensor["dtype"], str(tensor.get("encoding", "none")).lower())
