"""The request of an annotation: data, options, output, and a digest of its inputs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ambient_curate import noise
from ambient_curate.data.collection import (
    Collection,
    change_collection,
    open_collection,
    require_clean,
)
from ambient_curate.data.normalizer import Scaling
from ambient_curate.data.trainer_scales import read_trainer_scales
from ambient_curate.options import AnnotateOptions, check_options, resolve_options
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
