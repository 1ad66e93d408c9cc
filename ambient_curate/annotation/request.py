"""The request of an annotation: data, options, output, and a digest of its inputs."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ambient_curate import noise
from ambient_curate.data.collection import (
    Collection,
    check_opening,
    open_collection,
    reopen_member,
    require_clean,
)
from ambient_curate.data.normalizer import Scaling
from ambient_curate.data.trainer_scales import read_trainer_scales
from ambient_curate.errors import ConfigError
from ambient_curate.options import AnnotateOptions, OnError, check_options, resolve_options
from ambient_curate.run.directory import package_versions
from ambient_curate.run.records import describe_files
from ambient_curate.run.schema import SCHEMA_VERSION

NOT_IN_DIGEST = (
    "out",
    "force",
    "workers",
    "engine",
    "shard_index",
    "num_shards",
    "strict",
    "checksums",
    "normalizer",  # what is in the file decides, not where it lies
)
DEFAULTS = {"condition": "none", "locality": False, "legibility": False, "normalize_on": "clean"}


@dataclass(frozen=True, eq=False)
class AnnotationRequest:
    """What is asked for.

    Parameters
    ----------
    collection : Collection
        Opened.
    options : AnnotateOptions
        With those of ``ambient.toml``.
    path : Path
        Of the run.
    inputs : dict
        Everything that decides the numbers, and so the digest.
    scalings : dict of str to Scaling, or None
        A trainer's scaling of every member, where its statistics were given.
    """

    collection: Collection
    options: AnnotateOptions
    path: Path
    inputs: dict[str, Any]
    scalings: dict[str, Scaling] | None = None


def make_request(
    collection: Collection | Path | str,
    options: AnnotateOptions | None,
    changes: Mapping[str, Any],
) -> AnnotationRequest:
    """Open the collection and settle the options.

    Parameters
    ----------
    collection : Collection, Path or str
        An opened collection, or the path of one. What an opened one was opened with stays, unless
        `options` or `changes` say otherwise.
    options : AnnotateOptions or None
        None: those of ``ambient.toml``, the defaults and `changes`.
    changes : mapping
        Options by name; not with `options`.

    Raises
    ------
    CurateError
        If the collection cannot be opened or an option is wrong.
    TypeError, ValueError
        As `check_options`.
    """
    check_options(AnnotateOptions, options, changes)
    given = asdict(options) if options is not None else changes
    picked = {key: given.get(key) for key in ("clean", "checksums", "on_error")}
    if isinstance(collection, Collection):
        collection = change_collection(collection, **picked)
    else:
        collection = open_collection(collection, **picked)
    if options is None:
        opened = {"checksums": collection.checksums, "on_error": collection.on_error}
        options = resolve_options(collection.settings.options | opened, changes)
    clean = require_clean(collection)
    noise.schedule_levels(options.schedule)  # an unknown one is refused before any work
    path = options.out or Path(f"{collection.name}_run")
    inputs, scalings = _inputs(collection, options, clean), None
    if options.normalizer is not None:
        scales = read_trainer_scales(options.normalizer, options.normalize)
        scalings = {member.name: scales.of(member.name) for member in collection.members}
        source = scalings[clean].source
        inputs["statistics"] = {key: source[key] for key in ("format", "sha256")}
    return AnnotationRequest(collection, options, path, inputs, scalings)


def change_collection(
    collection: Collection,
    *,
    clean: Path | str | None = None,
    checksums: bool | None = None,
    on_error: OnError | None = None,
) -> Collection:
    """Give an opened collection as `open_collection` would with these; None: as it was opened.

    Raises
    ------
    DatasetError
        If ``on_error="fail"`` comes after a member was left out as broken.
    ConfigError
        If an argument is wrong, or `clean` is neither the name nor the path of a member.
    """
    given = check_opening(clean=clean, checksums=checksums, on_error=on_error)
    if "clean" in given:
        given["clean"] = _find_member(collection, given["clean"])
    changed = replace(collection, **given)
    if changed.on_error == "fail" and collection.broken:
        raise collection.broken[0][1]
    if changed.checksums != collection.checksums:
        members = tuple(reopen_member(member, changed.checksums) for member in collection.members)
        changed = replace(changed, members=members)
    return changed


def _find_member(collection: Collection, clean: str) -> str:
    """Find the member of an opened collection that is called so, or lies there."""
    names = [member.name for member in collection.members]
    place = os.path.realpath(os.path.expanduser(clean))
    found = [clean] if clean in names else []
    found += [m.name for m in collection.members if os.path.realpath(m.dataset.path) == place]
    if not found or (collection.clean_elsewhere and found[0] != collection.clean):
        raise ConfigError(
            f"clean = {clean!r}: expected a member of the opened collection {collection.path}: "
            f"{', '.join(names)}",
            "a clean set elsewhere is a member only of a collection that is opened with it: "
            f"open_collection(path, clean={clean!r})",
        )
    return found[0]


def _inputs(collection: Collection, options: AnnotateOptions, clean: str) -> dict[str, Any]:
    """Everything that decides the numbers, and so the digest."""
    chosen = {key: value for key, value in asdict(options).items() if key not in NOT_IN_DIGEST}
    if options.granularity != "group":
        del chosen["group_by"]
    for name, default in DEFAULTS.items():  # runs from before stay what they are
        if chosen[name] == default:
            del chosen[name]
    sources = {
        member.name: {
            "format": member.dataset.format,
            "selection": {key: value for key, value in asdict(member.options).items() if value},
            "files": describe_files(member),
        }
        for member in collection.members
    }
    return {
        "options": chosen | {"clean": clean},
        "sources": sources,
        "versions": package_versions() | {"schema": str(SCHEMA_VERSION)},
        "threads": 1,
    }
