"""Options of an annotation, their defaults and their checks."""

import difflib
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from ambient_curate.errors import ConfigError

Granularity = Literal["dataset", "group", "episode", "datapoint"]
Representation = Literal["absolute", "relative", "delta"]
Normalization = Literal["minmax", "quantile", "gaussian", "none"]
Weighting = Literal["episode", "window"]
Engine = Literal["local", "ray"]
OnError = Literal["fail", "skip"]
Condition = Literal["none", "state"]
Chosen = TypeVar("Chosen")


@dataclass(frozen=True)
class AnnotateOptions:
    """Everything a user may choose about an annotation; building one checks every value.

    Attributes
    ----------
    clean : str or None
        The clean set: a member's name, or the path of a dataset elsewhere. None: `clean` of
        ambient.toml, else the member named "clean".
    granularity : str
        What gets one sigma_min of its own: dataset, group, episode or datapoint (a window).
    group_by : str
        What makes a group: task, cluster:K (K >= 2 clusters of windows) or an episode column.
    epsilon : float
        Margin in (0, 0.5): a noise level is usable where the mean predicted probability of
        "clean" on corrupt data is above 1/2 - epsilon.
    horizon : int
        Frames in a window, >= 1.
    stride : int
        Frames between the starts of two windows, >= 1.
    represent : str
        Windows as stored (absolute), minus the current state or first action (relative), or as
        differences of successive actions (delta).
    normalize : str
        Scaling fitted on the clean set: minmax, quantile, gaussian or none.
    weighting : str
        What counts as one: every episode (episode) or every window (window).
    folds : int
        Folds of the cross-fitted classifier, >= 3.
    schedule : str
        Noise schedule of the trainer, NAME:STEPS; its levels are part of the grid.
    seed : int
        Seed of every random draw, 0 to 2^63 - 1.
    limit : int or None
        Read at most this many episodes of each member, >= 1. None: all.
    out : Path or None
        Directory of the run. None: ./<name>_run.
    force : bool
        Replace a run that is already there.
    on_error : str
        What a damaged file does: fail, or skip (reported, and left out whole).
    checksums : bool
        Verify payload checksums where the format has them.
    workers : int or None
        Processes, >= 1. None: one for each core.
    engine : str
        Who computes: local processes, or ray, which needs the extra of that name.
    shard_index : int or None
        Write a share of the manifest only, as one of several jobs on the same run: from 0.
    num_shards : int or None
        Number of such jobs; `merge` finishes the run.
    condition : str
        What the classifier sees of a window beside its noised actions: none, or state, the state
        at its first frame. With state, data that is right elsewhere and wrong here differs.
    locality : bool
        Also find sigma_max, at or below which corrupt data may train too since a denoiser depends
        on its neighbourhood only; needs a horizon >= 2, and condition none.
    legibility : bool
        Also find sigma_max, at or below which corrupt data may train too since noise does not hide
        what tells it from clean data. With locality: the larger of the two.
    strict : bool
        Exit with 3 where a dataset has no trustworthy annotation.
    store_curves : bool
        Keep the whole curve of every row in the manifest.
    """

    clean: str | None = None
    granularity: Granularity = "dataset"
    group_by: str = "task"
    epsilon: float = 0.05
    horizon: int = 16
    stride: int = 1
    represent: Representation = "absolute"
    normalize: Normalization = "minmax"
    weighting: Weighting = "episode"
    folds: int = 5
    schedule: str = "squaredcos_cap_v2:100"
    seed: int = 0
    limit: int | None = None
    out: Path | None = None
    force: bool = False
    on_error: OnError = "fail"
    checksums: bool = True
    workers: int | None = None
    engine: Engine = "local"
    shard_index: int | None = None
    num_shards: int | None = None
    condition: Condition = "none"
    locality: bool = False
    legibility: bool = False
    strict: bool = False
    store_curves: bool = False

    def __post_init__(self) -> None:
        raise_problems(find_problems(field_values(self), OPTIONS))


def resolve_options(file_options: Mapping[str, Any], given: Mapping[str, Any]) -> AnnotateOptions:
    """Merge options: what is given (command line, keyword), then the file's, then the defaults.

    Parameters
    ----------
    file_options : mapping
        `CollectionSettings.options`.
    given : mapping
        Options by name, also ``tv`` or ``delta`` in place of ``epsilon``; None is "not given".
        ``out`` may be text.

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
        if is_text(present.get("out")):
            present["out"] = Path(present["out"])
        values, wrong = spell_keys(present, OPTIONS | ALIASES)
        wrong += find_problems(values, OPTIONS | ALIASES)
        problems += wrong
        merged |= {} if wrong else without_aliases(values)
    raise_problems(problems)
    return AnnotateOptions(**merged)


def option_help(options: type = AnnotateOptions) -> dict[str, str]:
    """Meaning of every field of a class of options, from its docstring, for ``--help``."""
    text = inspect.getdoc(options) or ""
    entries = re.findall(r"^(\w+) : .*\n((?:    .*\n?)+)", text, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in entries}


def digest(mapping: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of a JSON-able mapping; the order of its keys does not matter."""
    text = json.dumps(mapping, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


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
        raise_problems(find_problems({"tv": tv}, ALIASES))
        return tv**2 / 2
    if delta is not None and tv is None:
        raise_problems(find_problems({"delta": delta}, ALIASES))
        return delta / 4
    raise TypeError("epsilon_from takes exactly one of tv and delta")


@dataclass(frozen=True)
class Rule:
    """What a value must satisfy, and the same in words: "expected ...".

    Parameters
    ----------
    accepts : callable
        Predicate over any value, of any type.
    expected : str
        What it accepts.
    """

    accepts: Callable[[Any], bool]
    expected: str


def is_number(value: Any) -> bool:
    """Tell whether `value` is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any, low: int = 0) -> bool:
    """Tell whether `value` is an int in [low, 2^63)."""
    return is_number(value) and isinstance(value, int) and low <= value < 2**63


def is_text(value: Any) -> bool:
    """Tell whether `value` is a str with more than spaces in it."""
    return isinstance(value, str) and value.strip() != ""


def matches(pattern: str, value: Any) -> bool:
    """Tell whether `value` is a str that the whole `pattern` matches."""
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def field_values(options: Any) -> dict[str, Any]:
    """Return the fields of a dataclass instance by name, nothing copied."""
    return {option.name: getattr(options, option.name) for option in fields(options)}


def find_problems(values: Mapping[str, Any], rules: Mapping[str, Rule]) -> list[str]:
    """Return one sentence for each value that breaks its rule."""
    problems = [
        f"{name} = {_shown(value)}: expected {rules[name].expected}"
        for name, value in values.items()
        if not rules[name].accepts(value)
    ]
    margins = [name for name in ("epsilon", *ALIASES) if name in values]
    if len(margins) > 1:
        problems.append(f"{' and '.join(margins)} say the same thing: give one of them")
    if not problems and values.get("locality") and values.get("horizon") == 1:
        problems.append("locality with horizon = 1: a single frame has no neighbourhood")
    if not problems and values.get("locality") and values.get("condition") == "state":
        problems.append("locality with condition = state: crops are not conditioned on the state")
    index, number = values.get("shard_index"), values.get("num_shards")
    if problems or index is number is None:
        return problems
    if number is None:
        return [f"shard_index = {index} without num_shards: give both"]
    if index is None:
        return [f"num_shards = {number} without shard_index: give both"]
    if index >= number:
        return [f"shard_index = {index}: expected less than num_shards = {number}"]
    return problems


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(list(value)) if isinstance(value, tuple) else repr(value)


def spell_keys(
    values: Mapping[str, Any], known: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """Spell keys with underscores; also return a sentence for each that is unknown or doubled."""
    spelled: dict[str, Any] = {}
    problems = []
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            guess = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            problems.append(f"{key} is unknown: {guess}")
        elif name in spelled:
            problems.append(f"{name} is given twice, with a dash and with an underscore")
        else:
            spelled[name] = value
    return spelled, problems


def without_aliases(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace ``tv`` or ``delta`` by the ``epsilon`` it stands for."""
    options = {name: value for name, value in values.items() if name not in ALIASES}
    for name in ALIASES.keys() & values.keys():
        options["epsilon"] = epsilon_from(**{name: float(values[name])})
    return options


def raise_problems(problems: Iterable[str], prefix: str = "") -> None:
    """Raise one `ConfigError` that lists all `problems`, if there are any."""
    if text := "; ".join(problems):
        raise ConfigError(prefix + text, "correct the values named above")


def one_of(choices: Any) -> Rule:
    """Accept one of the texts of a Literal."""
    names = get_args(choices)
    return Rule(lambda value: isinstance(value, str) and value in names, ", ".join(names))


def _whole(low: int) -> Rule:
    return Rule(lambda value: is_whole(value, low), f"a whole number >= {low}")


def _between(low: float, high: float) -> Rule:
    return Rule(
        lambda value: is_number(value) and low < value < high, f"a number in ({low:g}, {high:g})"
    )


def _optional(rule: Rule) -> Rule:
    return Rule(lambda value: value is None or rule.accepts(value), rule.expected)


_FLAG = Rule(lambda value: isinstance(value, bool), "true or false")
OPTIONS: dict[str, Rule] = {
    "clean": _optional(Rule(is_text, "the name of a member or the path of a dataset")),
    "granularity": one_of(Granularity),
    "group_by": Rule(
        lambda value: is_text(value) and matches(r"(?!cluster:).+|cluster:([2-9]|[1-9]\d+)", value),
        "task, cluster:K with K >= 2, or the name of an episode column",
    ),
    "epsilon": _between(0.0, 0.5),
    "horizon": _whole(1),
    "stride": _whole(1),
    "represent": one_of(Representation),
    "normalize": one_of(Normalization),
    "weighting": one_of(Weighting),
    "folds": _whole(3),
    "schedule": Rule(
        lambda value: matches(r"[\w-]+:[1-9]\d{0,5}", value),
        "NAME:STEPS, as in squaredcos_cap_v2:100",
    ),
    "seed": _whole(0),
    "limit": _optional(_whole(1)),
    "out": _optional(Rule(lambda value: isinstance(value, Path), "a path")),
    "force": _FLAG,
    "on_error": one_of(OnError),
    "checksums": _FLAG,
    "workers": _optional(_whole(1)),
    "engine": one_of(Engine),
    "shard_index": _optional(_whole(0)),
    "num_shards": _optional(_whole(1)),
    "condition": one_of(Condition),
    "locality": _FLAG,
    "legibility": _FLAG,
    "strict": _FLAG,
    "store_curves": _FLAG,
}
ALIASES = {"tv": _between(0.0, 1.0), "delta": _between(0.0, 2.0)}  # other ways to say epsilon


def options_or_changes(
    kind: type[Chosen], options: Chosen | None, changes: Mapping[str, Any]
) -> Chosen:
    """Give options as they are, or made of single ones by name, those that are None left out.

    Raises
    ------
    ValueError
        If both are given.
    """
    refuse_both(options, changes)
    return options or kind(**{key: value for key, value in changes.items() if value is not None})


def refuse_both(options: object, changes: Mapping[str, Any]) -> None:
    """Refuse options beside single options by name.

    Raises
    ------
    ValueError
        If both are given.
    """
    if options is not None and changes:
        raise ValueError("give options, or single options by name, not both")
