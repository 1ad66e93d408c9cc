"""Selection of episodes: what ``[datasets.NAME]`` of ``ambient.toml`` keeps."""

import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int64

from ambient_curate.errors import ConfigError, DatasetError, Failures, name_some, write_count
from ambient_curate.option_fields import Options, Rule, above, is_text, is_whole, text
from ambient_curate.options import OnError
from ambient_curate.progress import Progress, warn
from ambient_curate.readers.episodes import (
    Dataset,
    Episode,
    EpisodeError,
    EpisodeName,
    Label,
    ReadRequest,
)

_NAMED = 5  # lost episodes that a line of `exclude` names
LARGEST = 1e15  # no robot's unit needs more, and the squares of float32 overflow at 2e19

SkipReport = Callable[[Path, DatasetError], None]


def _parses(parse: Callable[[str], object], value: Any) -> bool:
    try:
        return isinstance(value, str) and parse(value) is not None
    except ConfigError:
        return False


def _distinct(accepts: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, tuple) and all(map(accepts, value)) and len(set(value)) == len(value)


_EPISODES = Rule(
    lambda value: _parses(parse_slice, value) or (value != () and _distinct(is_whole, value)),
    'a slice such as "0:30", or a list of distinct numbers >= 0',
)
_WHERE = Rule(
    lambda value: _parses(parse_where, value),
    'comparisons such as "success == true and speed >= 0.5"',
)
_NAMES = Rule(lambda value: _distinct(is_text, value), "a name or a list of distinct names")
_DIMS = Rule(lambda value: _distinct(is_whole, value), "a list of distinct action dimensions >= 0")
_RATE = replace(above(0), expected="a number of Hz > 0")
_EXCLUDE = Rule(
    lambda value: _distinct(lambda item: is_text(item) or is_whole(item), value),
    "a list of distinct episode ids (text) or numbers",
)


@dataclass(frozen=True)
class MemberOptions(Options):
    """What ``[datasets.NAME]`` says about one member; building one checks every value."""

    path: Annotated[
        str | None,
        text("a path relative to ambient.toml"),
        "Where the dataset lies, relative to ambient.toml. None: the directory or file NAME.",
    ] = None
    episodes: Annotated[
        str | tuple[int, ...] | None,
        _EPISODES,
        "Numbers of the episodes to keep, the source's own where it has them, else positions: a "
        'slice such as "0:30", or a list. None: all.',
    ] = None
    where: Annotated[
        str | None,
        _WHERE,
        "Episodes to keep by their labels: \"success == true and operator != 'ann'\".",
    ] = None
    split: Annotated[
        str | None, text("the name of a split"), "Split to read where the format has splits."
    ] = None
    action: Annotated[
        tuple[str, ...],
        _NAMES,
        "Names of the action's columns or features, concatenated; empty: the format's own.",
    ] = ()
    state: Annotated[tuple[str, ...], _NAMES, "The same of the state."] = ()
    dims: Annotated[
        tuple[int, ...], _DIMS, "Action dimensions to keep, in this order; empty: all."
    ] = ()
    rate_hz: Annotated[
        float | None, _RATE, "Control rate in Hz, {range}, overriding the files'."
    ] = None
    transpose: Annotated[
        bool | None,
        "Whether .npy and .npz arrays are stored (value, frame). None: (frame, value), and arrays "
        "of which that is unlikely are refused.",
    ] = None
    exclude: Annotated[
        tuple[str | int, ...],
        _EXCLUDE,
        "Episodes left out, by id (text) or number.",
    ] = ()


class Selection:
    """Picks the episodes of one member as they are read, and remembers what left out the others.

    Parameters
    ----------
    options : MemberOptions
        What the user wants.
    numbers : ndarray, int64, shape (episode,)
        Of all episodes of the source, in any order.
    """

    def __init__(self, options: MemberOptions, numbers: Int64[np.ndarray, " episode"]) -> None:
        self._options = options
        self._where = parse_where(options.where) if options.where else ()
        self._kept = _keep_numbers(options.episodes, numbers)
        self._excluded = frozenset(options.exclude)
        self.left_out: Counter[str] = Counter()
        left = 0 if options.episodes is None else sum(n not in self._kept for n in numbers.tolist())
        if left:
            self.left_out[f"episodes = {options.episodes!r}"] = left

    def keeps_number(self, number: int) -> bool:
        """Tell whether `episodes` keeps a number."""
        return number in self._kept

    def keeps(self, name: EpisodeName) -> bool:
        """Tell whether `episodes` and `exclude` keep an episode, before anything of it is read."""
        return name.number in self._kept and not self._excludes(name)

    def choose(self, names: Sequence[EpisodeName]) -> list[EpisodeName]:
        """Return those that `keeps` keeps, and count what `exclude` leaves out."""
        excluded = sum(name.number in self._kept and self._excludes(name) for name in names)
        if excluded:
            self.left_out[f"exclude = {list(self._options.exclude)}"] += excluded
        return list(filter(self.keeps, names))

    def _excludes(self, name: EpisodeName) -> bool:
        return name.id in self._excluded or name.number in self._excluded

    def pick(self, episode: Episode) -> Episode | None:
        """Return an episode that `keeps` keeps with the wanted dimensions, or None by `where`.

        Raises
        ------
        ConfigError
            If `where` names no label of the episode, or `dims` no dimension of its action.
        """
        options = self._options
        if not all(term.holds(_label(episode, term.column)) for term in self._where):
            self.left_out[f"where = {options.where!r}"] += 1
        else:
            return _keep_dims(episode, options.dims)
        return None


def read_chosen(
    dataset: Dataset,
    shard: Path,
    selection: Selection,
    on_error: OnError,
    report: SkipReport,
) -> Iterator[Episode]:
    """Yield the chosen episodes of a shard; under "skip" those of them that can be read.

    Parameters
    ----------
    dataset : Dataset
        The dataset.
    shard : Path
        One of its shards.
    selection : Selection
        What is chosen.
    on_error : {"fail", "skip"}
        Raise at damage, or report it.
    report : callable
        Called with the file and an error that names what is lost.

    Raises
    ------
    DatasetError
        At damage to a chosen episode or to the file before the last of them.
    """
    names = dataset.list_episodes(shard)
    left = {name.id: name for name in selection.choose(names)}
    if names and not left:
        return
    is_partial = len(left) < len(names)  # else read to the end, where damage may be found

    def lose(name: EpisodeName, error: DatasetError) -> None:
        left.pop(name.id, None)
        report(shard, error)

    request = ReadRequest(selection.keeps, lose if on_error == "skip" else None)
    try:
        for episode in dataset.read_shard(shard, request):
            left.pop(episode.id, None)
            yield episode
            if is_partial and not left:
                return
    except EpisodeError:
        raise
    except DatasetError as error:
        damage = _name_lost(error, list(left))
        if on_error == "fail":
            raise damage from error
        report(shard, damage)


def _name_lost(error: DatasetError, ids: Sequence[str]) -> DatasetError:
    """Say which episodes are lost to the damage of their file, and how they are left out."""
    if not ids:
        return error
    hint = error.hint
    if len(ids) <= _NAMED:
        hint = f"{hint}; exclude = {json.dumps(ids, ensure_ascii=False)} leaves it out"
    return DatasetError(f"{error}; not read: {name_some(ids)}", hint)


def check_episode(episode: Episode) -> None:
    """Raise `DatasetError` at an episode without frames or with values that cannot be used."""
    place = f"episode {episode.id} of {episode.source}"
    if episode.action.size == 0:
        raise DatasetError(
            f"{place} is empty: action of shape {episode.action.shape}",
            f"exclude = [{episode.id!r}] leaves it out",
        )
    for name, values in (("action", episode.action), ("state", episode.state)):
        if values is None:
            continue
        bad = np.flatnonzero(~(np.abs(values) <= LARGEST).all(axis=1))
        if bad.size:
            what = "not finite" if not np.isfinite(values).all() else f"beyond {LARGEST:g}"
            raise DatasetError(
                f"{place}: {name} is {what} in {write_count(bad.size, 'frame')}, the first is "
                f"{bad[0]}",
                f"exclude = [{episode.id!r}] leaves it out",
            )


def _keep_numbers(
    episodes: str | tuple[int, ...] | None, numbers: Int64[np.ndarray, " episode"]
) -> range | frozenset[int]:
    """Find the numbers that are kept; an end below 0 counts episodes from the last number."""
    if isinstance(episodes, tuple):
        return frozenset(episodes)
    wanted, ordered = parse_slice(episodes or ":"), np.sort(numbers)
    start, stop = wanted.start or 0, 2**63 if wanted.stop is None else wanted.stop
    if len(ordered):
        start, stop = (
            int(ordered[max(end, -len(ordered))]) if end < 0 else end for end in (start, stop)
        )
    return range(start, stop, wanted.step or 1)


def _label(episode: Episode, column: str) -> Label:
    labels = episode.labels
    if episode.task is not None:
        labels = {"task": episode.task} | dict(labels)
    if column not in labels:
        raise ConfigError(
            f"where names {column!r}, which episode {episode.id} of {episode.source} does not have",
            f"its labels: {', '.join(sorted(labels)) or 'none'}",
        )
    return labels[column]


def _keep_dims(episode: Episode, dims: tuple[int, ...]) -> Episode:
    if not dims:
        return episode
    size = episode.action.shape[1]
    if max(dims) >= size:
        raise ConfigError(
            f"dims = {list(dims)}: episode {episode.id} of {episode.source} has {size} action "
            "dimensions",
            f"use numbers from 0 to {size - 1}",
        )
    return replace(episode, action=episode.action[:, list(dims)])


def count_skips(selection: Selection, failures: Failures, on_skip: SkipReport) -> SkipReport:
    """Give what counts every skip among what is left out, and passes it on."""

    def report(path: Path, error: DatasetError) -> None:
        selection.left_out["damage"] += 1
        failures.add(str(path), str(error), error.hint)
        on_skip(path, error)

    return report


def warn_of_kinds(progress: Progress) -> SkipReport:
    """Warn of the first of each kind of failures: there may be thousands."""
    seen = Failures()

    def report(path: Path, error: DatasetError) -> None:
        if seen.add(str(path), str(error)):
            warn(progress, f"left out {path}: {error}")

    return report


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Comparison:
    """One ``COLUMN OP VALUE`` of a `where`."""

    column: str
    operation: str
    value: Label

    def holds(self, label: Label) -> bool:
        """Compare an episode's label with the value.

        Raises
        ------
        ConfigError
            If one is text and the other is not: no such comparison can be meant.
        """
        if isinstance(label, str) != isinstance(self.value, str):
            raise ConfigError(
                f"where compares text with a number: {self.column} is {label!r}, "
                f"the value is {self.value!r}",
                f"write {self.column} {self.operation} '{self.value}' to compare text"
                if isinstance(label, str)
                else f"write a number after {self.column} {self.operation}",
            )
        return _COMPARE[self.operation](label, self.value)


_TERM = re.compile(
    r"""\s*(?P<column>[^\s=!<>"']+)\s*(?P<operation>==|!=|<=|>=|<|>)"""
    r"""\s*(?P<value>"[^"]*"|'[^']*'|[^\s=!<>"']+)(?P<joined>\s+and(?=\s)|\s*$)"""
)
_SLICE = re.compile(r"\s*(-?\d{1,18})?\s*:\s*(-?\d{1,18})?\s*(?::\s*(\d{1,18})?\s*)?")


def parse_where(text: str) -> tuple[Comparison, ...]:
    """Parse comparisons joined by ``and``.

    A value is quoted or bare text, a number, ``true`` or ``false``.

    Raises
    ------
    ConfigError
        If the text is anything else.

    Examples
    --------
    >>> parse_where("success == true and speed > 10")[1]
    Comparison(column='speed', operation='>', value=10)
    """
    comparisons, position = [], 0
    while term := _TERM.match(text, position):
        comparisons.append(
            Comparison(term["column"], term["operation"], _parse_value(term["value"]))
        )
        if term["joined"].strip() == "":
            return tuple(comparisons)
        position = term.end()
    raise ConfigError(
        f"where = {text!r} is not COLUMN OP VALUE, joined by 'and'",
        "for example: success == true and speed >= 0.5",
    )


def _parse_value(text: str) -> Label:
    if text[0] in "\"'":
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"[+-]?\d{1,18}", text):
        return int(text)
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
        return float(text)
    return text


def parse_slice(text: str) -> slice:
    """Parse ``"START:STOP"`` or ``"START:STOP:STEP"`` with Python's meaning and a step >= 1.

    Raises
    ------
    ConfigError
        If the text is anything else.

    Examples
    --------
    >>> parse_slice("0:30"), parse_slice("-5:")
    (slice(0, 30, None), slice(-5, None, None))
    """
    match = _SLICE.fullmatch(text)
    start, stop, step = (int(x) if x else None for x in match.groups()) if match else (0, 0, 0)
    if step == 0:
        raise ConfigError(f"episodes = {text!r} is not a slice", 'for example: episodes = "0:30"')
    return slice(start, stop, step)
