"""Options of an annotation, where they may be given, and what a wrong one says."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from ambient_curate.option_fields import (
    COMMAND_ONLY,
    Option,
    Options,
    check_values,
    number_in,
    raise_problems,
    spell_keys,
    text,
    whole,
)

Granularity = Literal["dataset", "group", "episode", "datapoint"]
Representation = Literal["absolute", "relative", "delta"]
Normalization = Literal["minmax", "quantile", "gaussian", "none"]
FittedOn = Literal["clean", "all"]
Weighting = Literal["episode", "window"]
Engine = Literal["local", "ray"]
OnError = Literal["fail", "skip"]
Condition = Literal["none", "state"]
Chosen = TypeVar("Chosen", bound=Options)

_GROUP = text(
    "task, cluster:K with K >= 2, or the name of an episode column",
    r"(?!cluster:).+|cluster:([2-9]|[1-9]\d+)",
)
_SCHEDULE = text("NAME:STEPS, as in squaredcos_cap_v2:100", r"[\w-]+:[1-9]\d{0,5}")


@dataclass(frozen=True)
class AnnotateOptions(Options):
    """Everything a user may choose about an annotation; building one checks every value."""

    clean: Annotated[
        str | None,
        text("the name of a member or the path of a dataset"),
        "The clean set: a member's name, or the path of a dataset elsewhere. None: `clean` of "
        'ambient.toml, else the member named "clean".',
    ] = None
    granularity: Annotated[
        Granularity,
        "What gets one sigma_min of its own: dataset, group, episode or datapoint (a window).",
    ] = "dataset"
    group_by: Annotated[
        str,
        _GROUP,
        "What makes a group: task, cluster:K (K >= 2 clusters of windows) or an episode column.",
    ] = "task"
    epsilon: Annotated[
        float,
        number_in("(0, 0.5)"),
        "Margin in {range}: a noise level is usable where the mean predicted probability of "
        '"clean" on corrupt data is above 1/2 - epsilon.',
    ] = 0.05
    horizon: Annotated[int, whole(1), "Frames in a window, {range}."] = 16
    stride: Annotated[int, whole(1), "Frames between the starts of two windows, {range}."] = 1
    represent: Annotated[
        Representation,
        "Windows as stored (absolute), minus the current state or first action (relative), or "
        "as differences of successive actions (delta).",
    ] = "absolute"
    normalize: Annotated[
        Normalization,
        "Scaling: minmax, quantile, gaussian or none.",
    ] = "minmax"
    normalize_on: Annotated[
        FittedOn,
        "What the scaling is fitted on: the clean set (clean), or all datasets together (all), as "
        "a trainer does that scales by statistics of the merged data.",
    ] = "clean"
    normalizer: Annotated[
        Path | None,
        COMMAND_ONLY,
        "A trainer's file of statistics, to scale actions as it does: LeRobot's meta/stats.json or "
        "meta/episodes_stats.jsonl, openpi's norm_stats.json, dataset_statistics.json of Octo or "
        "OpenVLA, GR00T's, robomimic's, or a run.json. --normalize says which statistics it uses. "
        "None: fitted.",
    ] = None
    weighting: Annotated[
        Weighting,
        "What counts as one: every episode (episode) or every window (window).",
    ] = "episode"
    folds: Annotated[int, whole(3), "Folds of the cross-fitted classifier, {range}."] = 5
    schedule: Annotated[
        str,
        _SCHEDULE,
        "Noise schedule of the trainer, NAME:STEPS; its levels are part of the grid.",
    ] = "squaredcos_cap_v2:100"
    seed: Annotated[int, whole(0), "Seed of every random draw, 0 to 2^63 - 1."] = 0
    limit: Annotated[
        int | None,
        whole(1),
        "Read at most this many episodes of each member, {range}. None: all.",
    ] = None
    out: Annotated[Path | None, COMMAND_ONLY, "Directory of the run. None: ./<name>_run."] = None
    force: Annotated[bool, COMMAND_ONLY, "Replace a run that is already there."] = False
    on_error: Annotated[
        OnError,
        "What damage does: fail, or skip (the damaged episodes, or of a file that cannot be read "
        "on the rest, are named and left out).",
    ] = "fail"
    checksums: Annotated[bool, "Verify payload checksums where the format has them."] = True
    workers: Annotated[
        int | None,
        whole(1),
        COMMAND_ONLY,
        "Processes, {range}. None: one for each core.",
    ] = None
    engine: Annotated[
        Engine,
        "Who computes: local processes, or ray, which needs the extra of that name.",
    ] = "local"
    shard_index: Annotated[
        int | None,
        whole(0),
        "Write a share of the manifest only, as one of several jobs on the same run: from 0.",
    ] = None
    num_shards: Annotated[
        int | None,
        whole(1),
        "Number of such jobs; `merge` finishes the run.",
    ] = None
    condition: Annotated[
        Condition,
        "What the classifier sees of a window beside its noised actions: none, or state, the "
        "state at its first frame. With state, data that is right elsewhere and wrong here "
        "differs.",
    ] = "none"
    locality: Annotated[
        bool,
        "Also find sigma_max, at or below which corrupt data may train too since a denoiser "
        "depends on its neighbourhood only; needs a horizon >= 2, and condition none.",
    ] = False
    legibility: Annotated[
        bool,
        "Also find sigma_max, at or below which corrupt data may train too since noise does not "
        "hide what tells it from clean data. With locality: the larger of the two.",
    ] = False
    strict: Annotated[
        bool,
        COMMAND_ONLY,
        "Exit with 3 where a dataset has no trustworthy annotation.",
    ] = False
    store_curves: Annotated[bool, "Keep the whole curve of every row in the manifest."] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        raise_problems(_find_conflicts(vars(self)))


class EpsilonAliases(Options):
    """Other ways to say `epsilon`, see `epsilon_from`."""

    tv: Annotated[
        float | None,
        number_in("(0, 1)"),
        "In place of epsilon, the largest total variation distance, in {range}: epsilon is "
        "TV^2 / 2.",
    ] = None
    delta: Annotated[
        float | None,
        number_in("(0, 2)"),
        "In place of epsilon, the largest divergence Delta, in {range}: epsilon is Delta / 4.",
    ] = None


ALIASES = EpsilonAliases.declared


def _list_options() -> Iterator[tuple[str, Option]]:
    for name, option in AnnotateOptions.declared.items():
        yield name, option
        if name == "epsilon":
            yield from ALIASES.items()


# what may be given of an annotation, and what of it in ambient.toml
ANNOTATE_OPTIONS = dict(_list_options())
FILE_OPTIONS = {name: each for name, each in ANNOTATE_OPTIONS.items() if not each.command_only}


def resolve_options(file_options: Mapping[str, Any], given: Mapping[str, Any]) -> AnnotateOptions:
    """Merge options: what is given (command line, keyword), then the file's, then the defaults.

    Parameters
    ----------
    file_options : mapping
        `CollectionSettings.options`.
    given : mapping
        Options by name, also ``tv`` or ``delta`` in place of ``epsilon``; None is "not given".

    Raises
    ------
    ConfigError
        Listing every unknown name and every wrong value.

    Examples
    --------
    >>> resolve_options({"horizon": 8, "folds": 3}, {"horizon": 32, "folds": None}).horizon
    32
    """
    merged: dict[str, Any] = {}
    problems: list[str] = []
    for source in (file_options, given):
        present = {name: value for name, value in source.items() if value is not None}
        values, wrong = check_given(present, ANNOTATE_OPTIONS)
        problems += wrong
        merged |= values
    raise_problems(problems)
    return AnnotateOptions(**merged)


def check_given(
    values: Mapping[str, Any], known: Mapping[str, Option]
) -> tuple[dict[str, Any], list[str]]:
    """Check options that one source gives.

    Parameters
    ----------
    values : mapping
        Options by name, spelt with dashes or underscores.
    known : mapping
        `ANNOTATE_OPTIONS`, or `FILE_OPTIONS` of ``ambient.toml``.

    Returns
    -------
    dict, list of str
        Values of fields of `AnnotateOptions`, none if anything is wrong; and a sentence for each
        name or value that is.
    """
    spelled, problems = spell_keys(values, known)
    taken, wrong = check_values(spelled, known)
    problems += wrong
    margins = [name for name in ("epsilon", *ALIASES) if name in taken]
    if len(margins) > 1:
        problems.append(f"{' and '.join(margins)} say the same thing: give one of them")
    problems = problems or _find_conflicts(taken)
    if problems:
        return {}, problems
    for name in ALIASES.keys() & taken.keys():
        taken["epsilon"] = epsilon_from(**{name: float(taken.pop(name))})
    return taken, []


def _find_conflicts(values: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each pair of values that are right one by one, but not together."""
    problems = []
    if values.get("locality") and values.get("horizon") == 1:
        problems.append("locality with horizon = 1: a single frame has no neighbourhood")
    if values.get("locality") and values.get("condition") == "state":
        problems.append("locality with condition = state: crops are not conditioned on the state")
    if values.get("normalizer") is not None:
        if values.get("normalize") == "none":
            problems.append("normalizer with normalize = none: choose which statistics are used")
        if values.get("normalize_on") == "all":
            problems.append("normalizer with normalize_on = all: the file says what it was made on")
    index, number = values.get("shard_index"), values.get("num_shards")
    if index is not None and number is None:
        problems.append(f"shard_index = {index} without num_shards: give both")
    elif index is None and number is not None:
        problems.append(f"num_shards = {number} without shard_index: give both")
    elif index is not None and number is not None and index >= number:
        problems.append(f"shard_index = {index}: expected less than num_shards = {number}")
    return problems


def digest(mapping: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of a JSON-able mapping; the order of its keys does not matter."""
    canonical = json.dumps(mapping, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def epsilon_from(*, tv: float | None = None, delta: float | None = None) -> float:
    """Translate a bound on one divergence into the margin `epsilon` that implies it.

    ``E_q c > 1/2 - epsilon`` is ``Delta < 4 epsilon`` and implies ``TV <= sqrt(2 epsilon)``
    (method.md, "The annotation rule").

    Parameters
    ----------
    tv : float
        Largest total variation distance, in (0, 1).
    delta : float
        Largest triangular discrimination, in (0, 2). Give exactly one of the two.

    Raises
    ------
    ConfigError
        If the value is out of range.

    Examples
    --------
    >>> epsilon_from(tv=0.5), epsilon_from(delta=0.25)
    (0.125, 0.0625)
    """
    if tv is not None and delta is None:
        raise_problems(check_values({"tv": tv}, ALIASES)[1])
        return tv**2 / 2
    if delta is not None and tv is None:
        raise_problems(check_values({"delta": delta}, ALIASES)[1])
        return delta / 4
    raise TypeError("epsilon_from takes exactly one of tv and delta")


def options_or_changes(
    kind: type[Chosen], options: Chosen | None, changes: Mapping[str, Any]
) -> Chosen:
    """Give options as they are, or made of single ones by name, those that are None left out.

    Raises
    ------
    ConfigError
        Listing every unknown name and every wrong value.
    TypeError, ValueError
        As `check_options`.
    """
    check_options(kind, options, changes)
    given = {key: value for key, value in changes.items() if value is not None}
    spelled, problems = spell_keys(given, kind.declared)
    raise_problems([*problems, *check_values(spelled, kind.declared)[1]])
    return options or kind(**spelled)


def check_options(kind: type, options: object, changes: Mapping[str, Any]) -> None:
    """Refuse what is no options of this kind, and options beside single options by name.

    Raises
    ------
    TypeError
        If `options` is something else, such as a mapping.
    ValueError
        If both are given.
    """
    if not isinstance(options, kind | None):
        raise TypeError(
            f"options = {options!r}: expected {kind.__name__}; give single options by name"
        )
    if options is not None and changes:
        raise ValueError("give options, or single options by name, not both")
