"""Origins: the data that a run annotated, opened again, and its manifest beside it."""

import os
from dataclasses import fields
from pathlib import Path

import pyarrow as pa

from ambient_curate.collection import Collection, describe_files, open_collection
from ambient_curate.config import AnnotateOptions
from ambient_curate.errors import ManifestError, RunError
from ambient_curate.results import Run
from ambient_curate.study import Study


def reopen_data(run: Run, data: Path | None = None) -> Collection:
    """Open the collection that a run annotated.

    Parameters
    ----------
    run : Run
        A finished run.
    data : Path or None
        Where the collection lies now; None: where the run found it.

    Raises
    ------
    RunError
        If it is not there, or is not what was annotated.
    """
    opened = run.info["collection"]
    path = data or (run.path / opened["path"]).resolve()
    if not path.exists():
        raise RunError(f"the data of {run.path}, {path}, is not there", "give --data COLLECTION")
    outside = (run.path / opened["clean"]).resolve()
    clean = str(outside) if os.sep in opened["clean"] else opened["clean"]
    collection = open_collection(path, clean=clean, on_error=run.info["options"]["on_error"])
    _check_data(run, collection)
    return collection


def annotated_options(run: Run) -> AnnotateOptions:
    """Give the options that the run was annotated with."""
    known = {field.name for field in fields(AnnotateOptions)}
    return AnnotateOptions(**{k: v for k, v in run.info["options"].items() if k in known})


def _check_data(run: Run, collection: Collection) -> None:
    """Refuse data that is not what was annotated: other members, or other files."""
    expected = run.info["sources"]
    found = {member.name: member for member in collection.members}
    if found.keys() != expected.keys():
        differing = ", ".join(sorted(found.keys() ^ expected.keys()))
        raise RunError(
            f"{collection.path} has other members than {run.path} was annotated with: {differing}",
            "give the annotated collection with --data, or annotate this one",
        )
    for name, member in found.items():
        files = describe_files(member)
        annotated = expected[name]["files"]
        other = sorted(f for f in files.keys() | annotated if files.get(f) != annotated.get(f))
        if other:
            raise RunError(
                f"{len(other)} files of {name} are not those that {run.path} was annotated "
                f"with, the first is {other[0]} ({annotated.get(other[0], 'absent')} -> "
                f"{files.get(other[0], 'absent')})",
                "annotate again; a copy of the data keeps its times with cp -p or rsync -t",
            )


def check_study(run: Run, study: Study) -> None:
    """Refuse a manifest of another normaliser, horizon or run than the data gives."""
    annotated = {"normaliser": run.info["normaliser"], "horizon": run.info["options"]["horizon"]}
    found = {"normaliser": study.normalizer.as_dict(), "horizon": study.options.horizon}
    for name, value in annotated.items():
        if value != found[name]:
            raise ManifestError(
                f"the {name} of {run.path} is not that of the data: {value} -> {found[name]}",
                "annotate again with --force",
            )


def read_own_manifest(run: Run) -> pa.Table:
    """Read the manifest; refuse one that another run wrote."""
    manifest = run.manifest()
    found = (manifest.schema.metadata or {}).get(b"run_digest", b"").decode()
    horizons = manifest["horizon"].unique().to_pylist()
    if found != run.info["digest"] or horizons != [run.info["options"]["horizon"]]:
        raise ManifestError(
            f"the manifest of {run.path} was written by another run: digest {found}, horizon "
            f"{horizons}; expected {run.info['digest']}, {run.info['options']['horizon']}",
            "annotate again with --force",
        )
    return manifest
