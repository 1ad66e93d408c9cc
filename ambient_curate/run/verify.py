"""Verification: whether a run is as written, and its sources as annotated."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ambient_curate.data.collection import (
    Collection,
    Member,
    list_positions,
    open_collection,
    read_episodes,
    select_by_position,
)
from ambient_curate.errors import CurateError, ManifestError, RunError
from ambient_curate.option_fields import SWITCH, check_argument, check_path
from ambient_curate.options import digest
from ambient_curate.progress import Progress, silent
from ambient_curate.run.audit import BY_ROW, Roll, audit_manifest
from ambient_curate.run.directory import INPUTS, list_differences
from ambient_curate.run.records import (
    RUN,
    Run,
    describe_files,
    digest_files,
    has_own_numbers,
    read_run,
    seal_record,
)
from ambient_curate.run.tables import read_curves, read_reliability

CHECKS = {
    "record": "run.json can be read and is as it was written",
    "files": "every result is there and as it was written, and nothing else is",
    "manifest": "every part follows the schema, belongs to this run, and is in its place",
    "tables": "curves, reliability and classifier can be read",
    "counts": "there are as many rows as run.json says",
    "sources": "the data is what was annotated: files, selection, actions",
    "rows": "every episode or window of the data has one row, inside its episode",
}
_SHOWN = 12  # hex digits of a digest in a sentence


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Parameters
    ----------
    name : str
        One of `CHECKS`.
    findings : tuple of str
        What is wrong, where, and what was expected: a sentence each. Empty: it holds.
    """

    name: str
    findings: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Parameters
    ----------
    path : Path
        Directory of the run.
    checks : tuple of Check
        In the order of `CHECKS`; those that could not be made, or were not wanted, are left out.
    whole : bool
        Whether the run has a row a dataset or group, so that there is no episode to look for.
    """

    path: Path
    checks: tuple[Check, ...]
    whole: bool = False

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong with what was checked."""
        return all(check.holds for check in self.checks)

    @property
    def findings(self) -> tuple[str, ...]:
        """What is wrong, of all checks."""
        return tuple(text for check in self.checks for text in check.findings)

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Names of the checks that were not made."""
        made = {check.name for check in self.checks}
        return tuple(name for name in CHECKS if name not in made)

    def explain(self, name: str) -> str:
        """Say what a check says, or why it was not made."""
        if name not in self.unchecked:
            return CHECKS[name]
        if "files" in self.unchecked:
            return "without run.json as it was written there is nothing to compare with"
        if name == "rows" and self.whole:
            return "the run has a row for each dataset or group, and none for an episode"
        return "left out" if "sources" in self.unchecked else "the data cannot be read"

    def raise_findings(self) -> None:
        """Raise `RunError` if anything is wrong."""
        if not self.holds:
            failed = ", ".join(check.name for check in self.checks if not check.holds)
            count = len(self.findings)
            raise RunError(
                f"{self.path} does not hold ({failed}): {count} finding{'s' * (count > 1)}",
                "put back what was there, or annotate again; --data COLLECTION names data that "
                "was moved (cp -p keeps its times), --no-sources leaves it out",
            )

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        checks = [asdict(check) | {"holds": check.holds} for check in self.checks]
        return {"holds": self.holds, "checks": checks, "unchecked": list(self.unchecked)}


def verify(
    run: Run | Path | str,
    *,
    data: Path | str | None = None,
    sources: bool = True,
    progress: Progress = silent,
) -> Verification:
    """Check that a finished run is as it was written, and its sources are what it annotated.

    Reads every file of the run, and every episode of the sources. It finds damage, edits and
    mixed-up files. It is no protection against who rewrites ``run.json`` and its digests too.

    Parameters
    ----------
    run : Run, Path or str
        A finished run, or its directory.
    data : Path, str or None
        Where the collection lies now. None: where the run found it.
    sources : bool
        False: the run alone, where the data is no longer there.
    progress : Progress
        Told of the reading.

    Returns
    -------
    Verification
        Every check with what is wrong. Where ``run.json`` is not as it was written, nothing else
        can be checked against it.

    Raises
    ------
    RunError
        If the directory is no finished run.
    ConfigError
        If an argument is wrong.
    """
    path = run.path if isinstance(run, Run) else check_path("run", run)
    data = None if data is None else check_path("data", data)
    sources = check_argument("sources", sources, SWITCH)
    try:
        info = read_run(path)
        record = tuple(_check_record(info))
    except RunError as error:
        if not (path / RUN.record).is_file():
            raise
        record = (str(error),)
    if record:
        return Verification(path, (Check("record", record),))
    rolls, findings = _check_sources(path, info, data, progress) if sources else ({}, [])
    audit = audit_manifest(path, info, rolls)
    found = {
        "record": record,
        "files": tuple(_check_files(path, info)),
        "manifest": audit.manifest,
        "tables": tuple(_check_tables(path, info)),
        "counts": audit.counts,
        "sources": tuple(findings),
        "rows": audit.rows,
    }
    if not sources:
        del found["sources"]
    if not rolls or info["granularity"] not in BY_ROW:
        del found["rows"]
    checks = tuple(Check(name, texts) for name, texts in found.items())
    return Verification(path, checks, info["granularity"] not in BY_ROW)


def _check_record(info: Mapping[str, Any]) -> Iterator[str]:
    if not {"seal", "files"} <= info.keys():
        yield "run.json holds no digests of the results: an earlier version of the program wrote it"
    elif (found := seal_record(info)) != info["seal"]:
        yield (
            f"run.json has the SHA-256 {found[:_SHOWN]}, expected {info['seal'][:_SHOWN]}: it was "
            "changed after it was written"
        )
    elif (found := digest({key: info[key] for key in INPUTS if key in info})) != info["digest"]:
        yield f"run.json has inputs of the digest {found[:_SHOWN]}, expected {info['digest']}"


def _check_files(path: Path, info: Mapping[str, Any]) -> Iterator[str]:
    expected, found = info["files"], digest_files(path, RUN.results)
    for name in sorted({*expected, *found}):
        if name not in found:
            yield f"{name} is missing"
        elif name not in expected:
            yield f"{name} is no file of this run"
        elif found[name] != expected[name]:
            yield (
                f"{name} has the SHA-256 {found[name][:_SHOWN]}, expected "
                f"{expected[name][:_SHOWN]}: it was changed after it was written"
            )


def _check_tables(path: Path, info: Mapping[str, Any]) -> Iterator[str]:
    from safetensors import SafetensorError, safe_open

    for read in (read_curves, read_reliability):
        try:
            read(path)
        except ManifestError as error:
            yield str(error)
    for file in (path / name for name in info["files"] if name.endswith(".safetensors")):
        try:
            with safe_open(file, framework="numpy") as tensors:
                tensors.keys()
        except (OSError, SafetensorError) as error:
            yield f"{file} cannot be read as safetensors: {error}"


def _check_sources(
    path: Path, info: Mapping[str, Any], data: Path | None, progress: Progress
) -> tuple[dict[str, Roll], list[str]]:
    """Read the sources: the episodes of every member, and what is wrong."""
    try:
        collection = _open_sources(path, info, data)
    except CurateError as error:
        return {}, [str(error)]
    expected, members = info["sources"], {member.name: member for member in collection.members}
    broken = {name: error for name, error in collection.broken if name in expected}
    findings = [_unread(name, error) for name, error in broken.items()]
    for name in sorted(expected.keys() ^ members.keys() ^ broken.keys()):
        state = "is missing" if name in expected else "was not annotated"
        findings.append(f"{name} {state}: {collection.path}")
    rolls = {}
    for name in sorted(expected.keys() & members.keys()):
        try:
            findings += _compare_source(members[name], expected[name])
            rolls[name] = _call_roll(members[name], info, progress)
            findings += _compare_content(name, rolls[name], info["members"][name])
        except CurateError as error:
            findings.append(_unread(name, error))
    return rolls, findings


def _unread(name: str, error: CurateError) -> str:
    return f"{name} cannot be read, so its rows are not checked: {error}"


def _open_sources(path: Path, info: Mapping[str, Any], data: Path | None) -> Collection:
    opened = info["collection"]
    place = data or (path / opened["path"]).resolve()
    if not place.exists():
        raise RunError(f"the data, {place}, is not there")
    clean = opened["clean"]
    if clean.startswith(os.pardir + os.sep):  # a dataset elsewhere
        clean = str((path / clean).resolve())
    return open_collection(place, clean=clean, on_error="skip")  # a broken member is a finding


def _compare_source(member: Member, expected: Mapping[str, Any]) -> Iterator[str]:
    selection = {key: value for key, value in asdict(member.options).items() if value}
    found = {
        "format": member.dataset.format,
        "selection": json.loads(json.dumps(selection)),  # as JSON gives it back
    }
    for name, before, now in list_differences({key: expected[key] for key in found}, found):
        yield f"{member.name}: {name} is {now}, expected {before}"
    files, annotated = describe_files(member), expected["files"]
    for name in sorted({*files, *annotated}):
        if name not in files:
            yield f"{member.name}: the file {name} is missing ({annotated[name]})"
        elif name not in annotated:
            yield f"{member.name}: the file {name} ({files[name]}) was not there"
        elif files[name] != annotated[name]:
            yield f"{member.name}: the file {name} has {files[name]}, expected {annotated[name]}"


def _call_roll(member: Member, info: Mapping[str, Any], progress: Progress) -> Roll:
    options, position = info["options"], None
    if not has_own_numbers(info):
        position, member = list_positions(member), select_by_position(member)
    place: dict[str, int] = {}
    number: list[int] = []
    length: list[int] = []
    actions = hashlib.sha256()
    for episode in read_episodes(
        member,
        limit=options["limit"],
        on_error=options["on_error"],
        progress=progress,
        on_skip=lambda *_: None,
    ):
        place[episode.id] = len(number)
        number.append(episode.number if position is None else position[episode.number])
        length.append(episode.length)
        actions.update(episode.digest)
    return Roll(place, np.array(number), np.array(length), actions.hexdigest())


def _compare_content(name: str, roll: Roll, expected: Mapping[str, Any]) -> Iterator[str]:
    found = {"episodes": len(roll.number), "frames": int(roll.length.sum())}
    for what, count in found.items():
        if count != expected[what]:
            yield f"{name}: {count:,} {what}, expected {expected[what]:,}"
    if roll.actions_sha256 != expected["actions_sha256"]:
        yield (
            f"{name}: the actions have the SHA-256 {roll.actions_sha256[:_SHOWN]}, expected "
            f"{expected['actions_sha256'][:_SHOWN]}"
        )
