"""Fields of options, each declared once: its type, default, range and help.

A field reads ``name: Annotated[type, rule, "help"] = default``. Switches, paths and names to choose
from need no rule: their type says it. What a value must be, the messages, the command line,
``ambient.toml`` and the docstring derive from it.
"""

import difflib
import inspect
import math
import os
import re
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Final, Literal, Union, get_args, get_origin

from ambient_curate.errors import ConfigError

COMMAND_ONLY: Final = object()  # marks a field that ambient.toml may not hold


@dataclass(frozen=True)
class Rule:
    """What a value must satisfy, and the same in words: "expected ...".

    Parameters
    ----------
    accepts : callable
        Predicate over any value, of any type; None is not asked about where it is allowed.
    expected : str
        What it accepts.
    range : str
        Replaces ``{range}`` in the help of a field.
    """

    accepts: Callable[[Any], bool]
    expected: str
    range: str = ""


SWITCH: Final = Rule(lambda value: isinstance(value, bool), "true or false")
_PATH: Final = Rule(lambda value: isinstance(value, Path), "a path")


def one_of(kind: Any) -> Rule:
    """Accept the names of a `Literal`."""
    names = get_args(kind)
    return Rule(lambda value: isinstance(value, str) and value in names, ", ".join(names))


def whole(low: int, high: int | None = None) -> Rule:
    """Accept an int from `low`, to `high` or below 2^63."""
    span = f">= {low}" if high is None else f"{low} to {high}"
    words = f"a whole number{' ' if high is None else ', '}{span}"
    end = 2**63 - 1 if high is None else high
    return Rule(lambda value: is_whole(value) and low <= value <= end, words, span)


def number_in(interval: str) -> Rule:
    """Accept a number in an interval such as ``[0, 0.5)``."""
    low, high = map(float, interval[1:-1].split(","))
    ends = {low} if interval[0] == "[" else set()
    ends |= {high} if interval[-1] == "]" else set()
    return Rule(
        lambda value: is_number(value) and (low < value < high or value in ends),
        f"a number in {interval}",
        interval,
    )


def above(low: int) -> Rule:
    """Accept a finite number above `low`."""
    return Rule(
        lambda value: is_number(value) and low < value < math.inf, f"a number > {low}", f"> {low}"
    )


def text(expected: str, pattern: str = "") -> Rule:
    """Accept a str with more than spaces in it that the whole `pattern`, if any, matches."""
    return Rule(
        lambda value: is_text(value) and (not pattern or re.fullmatch(pattern, value) is not None),
        expected,
    )


def is_number(value: Any) -> bool:
    """Tell whether `value` is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Tell whether `value` is an int in [0, 2^63)."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_text(value: Any) -> bool:
    """Tell whether `value` is a str with more than spaces in it."""
    return isinstance(value, str) and value.strip() != ""


@dataclass(frozen=True)
class Option:
    """One field, as its declaration says.

    Parameters
    ----------
    types : tuple of type
        Those that a value may have, None left out.
    optional : bool
        Whether it may be None.
    rule : Rule
        What a value other than None must satisfy.
    help : str
        Its meaning.
    default : object
        The value of who gives none.
    command_only : bool
        Whether ``ambient.toml`` may not hold it.
    """

    types: tuple[Any, ...]
    optional: bool
    rule: Rule
    help: str
    default: Any
    command_only: bool

    def take(self, value: Any) -> Any:
        """Give the value in the field's own types, from text for a path or NumPy's numbers, say."""
        if isinstance(value, str) and tuple[str, ...] in self.types:
            return (value,)
        if Path in self.types:
            return _plain_path(value)
        if isinstance(value, os.PathLike) and str in self.types:
            return os.fspath(value)
        if isinstance(value, list | tuple) and any(get_origin(t) is tuple for t in self.types):
            return tuple(map(_plain, value))
        return _plain(value)

    def accepts(self, value: Any) -> bool:
        """Tell whether a value from `take` is one for this field."""
        return self.optional if value is None else self.rule.accepts(value)


def _plain(value: Any) -> Any:
    """Give Python's number or truth value for one of NumPy's, anything else as it is."""
    if hasattr(value, "dtype") and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _plain_path(value: Any) -> Any:
    """Give the path that text names, anything else as it is."""
    named = isinstance(value, os.PathLike) or (isinstance(value, str) and value.strip())
    return Path(value) if named else value


def _read_option(hint: Any, default: Any) -> Option:
    """Read the annotation of a field."""
    kind, *marks = get_args(hint)
    united = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    types = tuple(each for each in united if each is not NoneType)
    rules = [mark for mark in marks if isinstance(mark, Rule)]
    rule = rules[0] if rules else _rule_of_type(*types)
    (meaning,) = (mark for mark in marks if isinstance(mark, str))
    return Option(
        types=types,
        optional=NoneType in united,
        rule=rule,
        help=meaning.replace("{range}", rule.range),
        default=default,
        command_only=COMMAND_ONLY in marks,
    )


def _rule_of_type(kind: Any) -> Rule:
    if get_origin(kind) is Literal:
        return one_of(kind)
    return {bool: SWITCH, Path: _PATH}[kind]


class Options:
    """Base of frozen dataclasses of such fields: building one checks every name and value."""

    declared: ClassVar[Mapping[str, Option]]

    def __new__(cls, *values: Any, **given: Any) -> Any:
        """Refuse names that are no option's."""
        raise_problems(spell_keys(given, cls.declared)[1])
        return super().__new__(cls)

    def __init_subclass__(cls) -> None:
        hints = inspect.get_annotations(cls)
        cls.declared = {
            name: _read_option(hint, getattr(cls, name)) for name, hint in hints.items()
        }
        cls.__doc__ = f"{cls.__doc__ or ''}\n\n{_describe_fields(cls.declared)}"

    def __post_init__(self) -> None:
        values, problems = check_values(vars(self), self.declared)
        raise_problems(problems)
        vars(self).update(values)  # a frozen dataclass refuses setattr


def _describe_fields(options: Mapping[str, Option]) -> str:
    lines = ["Attributes", "----------"]
    for name, option in options.items():
        types = " or ".join(_name_type(each) for each in option.types)
        lines.append(f"{name} : {types}{' or None' if option.optional else ''}")
        lines.append(textwrap.indent(textwrap.fill(option.help, 92), "    "))
    return "\n".join(lines)


def _name_type(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "str"
    return str(kind) if get_args(kind) else kind.__name__


def check_values(
    values: Mapping[str, Any], options: Mapping[str, Option]
) -> tuple[dict[str, Any], list[str]]:
    """Return values in Python's own types, and a sentence for each that breaks its rule."""
    taken = {name: options[name].take(value) for name, value in values.items()}
    problems = [
        f"{name} = {_shown(value)}: expected {options[name].rule.expected}"
        for name, value in taken.items()
        if not options[name].accepts(value)
    ]
    return taken, problems


def check_argument(name: str, value: Any, rule: Rule) -> Any:
    """Give an argument of a function in Python's own types.

    Parameters
    ----------
    name : str
        Of the argument.
    value : object
        What was given.
    rule : Rule
        What it must satisfy.

    Raises
    ------
    ConfigError
        If it does not.
    """
    taken = _plain(value)
    if not rule.accepts(taken):
        raise_problems([f"{name} = {_shown(taken)}: expected {rule.expected}"])
    return taken


def check_path(name: str, value: Any) -> Path:
    """Give an argument, text or a path, as a path; raises as `check_argument`."""
    path: Path = check_argument(name, _plain_path(value), _PATH)
    return path


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


def raise_problems(problems: Iterable[str], prefix: str = "") -> None:
    """Raise one `ConfigError` that lists all `problems`, if there are any."""
    if listed := "; ".join(problems):
        raise ConfigError(prefix + listed, "correct the values named above")
