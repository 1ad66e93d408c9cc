"""The directory of a run: resumed by the same command, finished whole, one writer."""

import errno
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from ambient_curate.errors import CurateError, RunError
from ambient_curate.files import sync, write_json_atomic
from ambient_curate.run.lock import Lock
from ambient_curate.run.records import (
    RUN,
    SCHEMA_VERSION,
    Kind,
    digest_files,
    read_header,
    seal_record,
)

INPUTS = ("options", "sources", "versions", "threads")  # what a digest covers
NUMERIC_STACK = (
    "ambient-curate",
    "h5py",
    "numpy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "scipy",
    "tensordict",
    "torch",
)

_LOCK = ".lock"
_READY = "ready.json"  # in .work: what several jobs have in common is there
_DISCARDED = ".work-discarded"
_SHOWN = 8  # differences in an error message


class RunDirectory:
    """A run that this process may write; made by `open_run`.

    Parameters
    ----------
    path : Path
        Directory of the run.
    digest : str
        Digest of `inputs`.
    inputs : mapping
        What the digest covers, as JSON values: options, sources, versions.
    kind : Kind
        Of the directory.

    Attributes
    ----------
    work : Path
        ``path/.work``, where everything is written until `commit`.
    """

    def __init__(
        self, path: Path, digest: str, inputs: Mapping[str, Any], kind: Kind = RUN
    ) -> None:
        self.path, self.digest, self.kind = path, digest, kind
        self.work = path / ".work"
        self._inputs = dict(inputs)
        self._abandoned = False
        self._lock: Lock | None = None
        self._header = {"schema": kind.schema, "schema_version": SCHEMA_VERSION, "digest": digest}

    @property
    def ready(self) -> bool:
        """Whether `share` was called, by this process or another."""
        return (self.work / _READY).is_file()

    def share(self) -> None:
        """Let other jobs write to ``.work`` as well: what they have in common is there."""
        write_json_atomic(self.work / _READY, self._header)
        if self._lock is not None:
            self._lock.share()

    @property
    def complete(self) -> bool:
        """Whether its record is there; `open_run` has compared its digest."""
        return (self.path / self.kind.record).is_file()

    def commit(self, run: Mapping[str, Any]) -> None:
        """Move the results out of ``.work`` into the run, then write its record, ``run.json``.

        The record holds the SHA-256 of every result file, and of itself. A crash at any moment, of
        the machine too, leaves either a complete run or one that `open_run` continues with
        everything back in ``.work``.

        Parameters
        ----------
        run : mapping
            What ``run.json`` says besides digest and inputs, as JSON values.

        Raises
        ------
        ValueError
            If a result is missing.
        """
        missing = [name for name in self.kind.results if not (self.work / name).exists()]
        if missing:
            raise ValueError(f".work holds no {', '.join(missing)}")
        for file in self.work.rglob("*"):
            sync(file)
        files = digest_files(self.work, self.kind.results)
        for name in self.kind.results:
            (self.work / name).rename(self.path / name)
        sync(self.path)
        record = {**self._header, **self._inputs, **run, "files": files}
        record["seal"] = seal_record(record)
        write_json_atomic(self.path / self.kind.record, record)
        shutil.rmtree(self.work)

    def abandon(self) -> None:
        """Delete what was begun, and the directory as soon as the lock goes, if it is empty."""
        _remove(self.work)
        self._abandoned = True

    def _has_results(self) -> bool:
        places = [folder / name for name in self.kind.results for folder in (self.path, self.work)]
        return any(place.exists() for place in places)

    def _prepare(self, force: bool) -> None:
        header = _find_header(self.path, self.kind)
        if header is not None and (force or self._gives_way(header)):
            self._discard()
        elif header is not None:
            self._compare(header)
        if self.complete:
            _remove(self.work)
        else:
            self._start()
        _remove(self.path / _DISCARDED)  # until now it marked the directory as ours

    def _gives_way(self, header: Mapping[str, Any]) -> bool:
        """Tell whether a run of other inputs ended before its first result.

        So a command that failed on its input can be corrected and given again.
        """
        begun = self.complete or self._has_results()
        return header.get("digest") != self._header["digest"] and not begun

    def _compare(self, header: Mapping[str, Any]) -> None:
        if header.get("digest") == self._header["digest"]:
            return
        old = {key: header[key] for key in self._inputs if key in header}
        texts = [f"{name}: {a} -> {b}" for name, a, b in list_differences(old, self._inputs)] or [
            f"their digests differ: {header.get('digest')} -> {self._header['digest']}"
        ]
        shown = "; ".join(texts[:_SHOWN])
        if len(texts) > _SHOWN:
            shown += f"; and {len(texts) - _SHOWN} more"
        raise RunError(
            f"{self.path} is the {self.kind.noun} of other inputs ({shown})",
            "choose another directory with --out, or replace this one with --force",
        )

    def _start(self) -> None:
        """Make ``.work`` ready: new, or as the interrupted process left it."""
        self.work.mkdir(exist_ok=True)
        write_json_atomic(self.work / "options.json", {**self._header, **self._inputs})
        for name in self.kind.results:  # moved by a commit that did not reach run.json
            if (self.path / name).exists():
                (self.path / name).rename(self.work / name)
        for leftover in self.work.rglob(".*.tmp"):  # of a process that was killed
            leftover.unlink(missing_ok=True)

    def _discard(self) -> None:
        """Set aside what a run wrote, and nothing else, to be deleted once the next has begun.

        Every step is a rename: an interruption leaves an unfinished run of the old digest, or
        none.
        """
        _remove(self.path / _DISCARDED)
        self.work.mkdir(exist_ok=True)
        if self.complete:
            (self.path / self.kind.record).rename(self.work / "options.json")
        for name in (*self.kind.results, *self.kind.beside):
            if (self.path / name).exists():
                (self.path / name).rename(self.work / name)
        self.work.rename(self.path / _DISCARDED)


@contextmanager
def open_run(
    path: Path,
    inputs: Mapping[str, Any],
    digest: str,
    *,
    force: bool = False,
    kind: Kind = RUN,
) -> Iterator[RunDirectory]:
    """Open a run for writing: new, continued, or complete; one process at a time.

    Parameters
    ----------
    path : Path
        Directory of the run; made if missing.
    inputs : mapping
        What the digest covers, as JSON values: options, sources, versions. Shown where they
        differ from those of an earlier run.
    digest : str
        Digest of `inputs`, equal if and only if the numbers of the run would be.
    force : bool, default False
        Delete the run that is there, of any digest. Files that no run writes are left.
    kind : Kind
        Of the directory.

    Yields
    ------
    RunDirectory
        Check ``complete`` first; if it is not, write the results under ``work``, skipping what
        an interrupted process finished, and ``commit``.

    Raises
    ------
    RunError
        If the directory cannot be made, is no run and not empty, holds a run of another digest
        that has results, is being written by another process, or, at any time inside the context,
        if the disk is full.
    """
    run = RunDirectory(path, digest, inputs, kind)
    try:
        _make_directory(path)
        header = _find_header(
            path, kind
        )  # before the lock: nothing is written beside others' files
        if header is not None and run.complete and not force and not run.work.exists():
            run._compare(header)
            yield run
        else:
            with Lock(path / _LOCK) as run._lock:
                run._lock.take()
                run._prepare(force)
                try:
                    yield run
                except CurateError:
                    if not (run.complete or run._has_results()):
                        run.abandon()
                    raise
    except OSError as error:
        _advise(path, error)
    finally:
        if run._abandoned:
            with suppress(OSError):  # others' files are there
                path.rmdir()


@contextmanager
def join_run(
    path: Path, inputs: Mapping[str, Any], digest: str, *, tell: Callable[[str], None]
) -> Iterator[RunDirectory]:
    """Open a run for one of several jobs that write it together; they see the same files.

    The first to come has the run for itself until it calls `RunDirectory.share`; the others wait,
    and say so by `tell`. The rest is as in `open_run`; `commit` is not for a job.
    """
    run = RunDirectory(path, digest, inputs)
    try:
        _make_directory(path)
        _find_header(path, RUN)
        with Lock(path / _LOCK) as run._lock:
            run._lock.join(lambda: run.ready or run.complete, tell)
            if run.ready:
                run._lock.share()
                run._compare(read_header(run.work / _READY, RUN))
            elif not run.complete:
                run._prepare(force=False)
            yield run
    except OSError as error:
        _advise(path, error)


@contextmanager
def reopen_run(path: Path) -> Iterator[RunDirectory]:
    """Open for writing the run that is there, with the inputs it was begun with.

    Raises
    ------
    RunError
        As `open_run`, and if there is no run.
    """
    file = path / ("run.json" if (path / "run.json").is_file() else ".work/options.json")
    if not file.is_file():
        raise RunError(
            f"{path} is no run: it has no run.json and no .work",
            "give the directory that the jobs write to: their --out",
        )
    header = read_header(file, RUN)
    inputs = {key: header[key] for key in INPUTS if key in header}
    with open_run(path, inputs, str(header.get("digest"))) as run:
        yield run


def _advise(path: Path, error: OSError) -> NoReturn:
    """Turn a full disk into an expected failure."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    free = shutil.disk_usage(path).free / 1e6
    raise RunError(
        f"the disk of {path} is full ({free:.0f} MB free)",
        "make room and give the same command again: it continues where it stopped",
    ) from error


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    versions = {"python": platform.python_version()}
    for name in NUMERIC_STACK:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a checkout that is on the path only
            versions[name] = "not installed"
    return versions


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunError(
            f"{path} cannot be a directory: {error.strerror}", "choose another with --out"
        ) from error


def _find_header(path: Path, kind: Kind) -> dict[str, Any] | None:
    """Read what a run says of itself; None where one may start."""
    for file in (path / kind.record, path / ".work" / "options.json"):
        if file.is_file():
            return read_header(file, kind)
    if (path / _DISCARDED).exists():
        return None
    work = path / ".work"
    begun = set(os.listdir(work)) if work.is_dir() else set()
    if set(os.listdir(path)) <= {_LOCK, ".work"} and begun <= {".options.json.tmp"}:
        return None
    raise RunError(
        f"{path} is not empty and no {kind.noun} of ambient-curate",
        "choose a new directory with --out; --force does not delete what it did not write",
    )


def list_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """List the leaves of nested JSON values that differ: dotted key, old and new value as JSON.

    A value that is not there is ``absent``.
    """
    before, after = dict(_flatten(old)), dict(_flatten(new))
    return [
        (name, before.get(name, "absent"), after.get(name, "absent"))
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    ]


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every leaf of nested JSON values with its dotted key."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, json.dumps(value, ensure_ascii=False)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
