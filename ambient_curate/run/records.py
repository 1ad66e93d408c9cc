"""JSON records of a directory, and the results of a finished run."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ambient_curate.data.collection import Member
from ambient_curate.errors import DatasetError, RunError
from ambient_curate.files import to_json
from ambient_curate.option_fields import check_path
from ambient_curate.run.schema import READ_VERSIONS
from ambient_curate.run.schema import SCHEMA_VERSION as SCHEMA_VERSION
from ambient_curate.run.tables import read_curves, read_manifest, read_reliability

_UNSEALED = ("seal", "collection")  # where the data lies is no result, and it may be moved


@dataclass(frozen=True)
class Kind:
    """What sort of directory it is.

    Parameters
    ----------
    noun, command : str
        What it is called, and the command that writes it.
    results : tuple of str
        What is moved out of ``.work`` at the end.
    beside : tuple of str
        What else may lie there, and goes when the results go.
    """

    noun: str
    command: str
    results: tuple[str, ...]
    beside: tuple[str, ...] = ()

    @property
    def schema(self) -> str:
        """Name of its schema."""
        return f"ambient-curate/{self.noun}"

    @property
    def record(self) -> str:
        """Name of the file that is written last and makes it complete."""
        return f"{self.noun}.json"


RUN = Kind(
    "run",
    "annotate",
    ("manifest", "curves.parquet", "reliability.parquet", "classifier"),
    beside=("report.html",),
)


def read_run(path: Path | str, kind: Kind = RUN) -> dict[str, Any]:
    """Read the record, ``run.json``, of a finished run.

    Raises
    ------
    RunError
        If the directory is no run, is unfinished, or its record is damaged or of another schema
        version.
    ConfigError
        If `path` is neither a path nor text.
    """
    path, noun, command = check_path(kind.noun, path), kind.noun, kind.command
    if not (path / kind.record).is_file():
        if (path / ".work" / "options.json").is_file():
            raise RunError(
                f"{path} is an unfinished {noun}: it has no {kind.record}",
                f"give the same {command} command again: it continues where it stopped",
            )
        raise RunError(
            f"{path} is no {noun}: it has no {kind.record}",
            f"give the directory that `ambient-curate {command}` wrote",
        )
    run = read_header(path / kind.record, kind)
    if run.get("schema_version") not in READ_VERSIONS:
        raise RunError(
            f"{path} has schema version {run.get('schema_version')}; "
            f"this program reads up to {SCHEMA_VERSION}",
            f"read it with the version of ambient-curate that wrote it, or {command} again",
        )
    return run


def digest_files(root: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files, and of all files in folders, by their paths from `root`; hidden ones not.

    What is not there is left out.
    """
    digests = {}
    for name in names:
        place = root / name
        for file in sorted([place] if place.is_file() else place.rglob("*")):
            if file.is_file() and not file.name.startswith("."):
                with file.open("rb") as content:
                    digest = hashlib.file_digest(content, "sha256").hexdigest()
                digests[file.relative_to(root).as_posix()] = digest
    return digests


def seal_record(record: Mapping[str, Any]) -> str:
    """SHA-256 of what a record says, but for its seal and for where the data lies."""
    sealed = {key: value for key, value in record.items() if key not in _UNSEALED}
    text = to_json(sealed, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_header(file: Path, kind: Kind) -> dict[str, Any]:
    """Read what a directory says of itself.

    Raises
    ------
    RunError
        If the file is damaged or of another kind.
    """
    try:
        header = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(
            f"{file} is damaged: {error}",
            f"delete the {kind.noun} by hand, then {kind.command} again",
        ) from error
    if not isinstance(header, dict) or header.get("schema") != kind.schema:
        raise RunError(
            f"{file} was not written by ambient-curate: its schema is not {kind.schema!r}",
            "choose another directory",
        )
    return header


def fingerprint(member: Member) -> list[dict[str, Any]]:
    """Identify the files of a member without reading them.

    Returns
    -------
    list of dict
        ``path`` relative to the dataset, ``size`` in bytes and ``mtime_ns`` of every shard and
        metadata file, sorted by path; None and None of one that is absent.

    Raises
    ------
    DatasetError
        If the status of one of them cannot be read.
    """
    dataset = member.dataset
    root = dataset.path.parent if dataset.path.is_file() else dataset.path
    entries: list[dict[str, Any]] = []
    for file in {*dataset.shards, *dataset.metadata_files}:
        relative = Path(os.path.relpath(file, root)).as_posix()
        try:
            status = file.stat()
        except FileNotFoundError:
            entries.append({"path": relative, "size": None, "mtime_ns": None})
            continue
        except OSError as error:
            raise DatasetError(
                f"{file} cannot be read: {error.strerror}", "check the path"
            ) from error
        entries.append({"path": relative, "size": status.st_size, "mtime_ns": status.st_mtime_ns})
    return sorted(entries, key=lambda entry: str(entry["path"]))


def describe_files(member: Member) -> dict[str, str]:
    """Say what `fingerprint` finds in words, by path, as ``run.json`` keeps it."""
    return {
        entry["path"]: "absent"
        if entry["size"] is None
        else f"{entry['size']} bytes, mtime_ns {entry['mtime_ns']}"
        for entry in fingerprint(member)
    }


@dataclass(frozen=True)
class Run:
    """A finished run.

    Parameters
    ----------
    path : Path
        Its directory.
    info : dict
        Content of ``run.json``: options, sources, members, verdict, control, assumptions, ...
        Where its ``schema_version`` is 1, numbers of episodes are positions in the source, in the
        manifest as in the selection.
    already_complete : bool
        It was there before, of the same inputs; nothing was computed.
    """

    path: Path
    info: dict[str, Any]
    already_complete: bool = False

    def manifest(self) -> pa.Table:
        """Read the manifest (columns: `schema.MANIFEST_FIELDS`)."""
        return read_manifest(self.path)

    def curves(self) -> pa.Table:
        """Read the curves over noise levels."""
        return read_curves(self.path)

    def reliability(self) -> pa.Table:
        """Read the reliability of the predicted probabilities."""
        return read_reliability(self.path)


def open_run_results(path: Path | str) -> Run:
    """Open a finished run; raises as `read_run`."""
    info = read_run(path)
    return Run(Path(path), info)


def has_own_numbers(info: Mapping[str, Any]) -> bool:
    """Tell whether numbers in a run are the source's own; or positions (schema version 1)."""
    return info.get("schema_version") != 1


def name_set(dataset: str, group: str | None) -> str:
    """Name what a row is about: a dataset, or one of its groups."""
    return dataset if group is None else f"{dataset} / {group}"


def list_controls(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """List the planted controls of a run; runs of earlier versions have one at most."""
    if "controls" in info:
        return list(info["controls"])
    return [{"name": "planted control"} | info["control"]] if info.get("control") else []


def explain_missed(expected: float, found: float) -> str:
    """Say what it means that a control planted at one level was found at another; what to do."""
    if found < expected:
        return (
            "missed, too low: sigma_min of such differences is too low here; add clean episodes, "
            "or train with a larger --sigma-min"
        )
    return (
        "missed, too high: sigma_min of such differences is too high here, which costs data and "
        "not safety; more clean episodes let more data train"
    )
