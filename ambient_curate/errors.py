"""Expected failures: a message that says what is wrong, and a hint that says what to do."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

_NAMED = 5  # names in a sentence


def name_some(names: Sequence[str]) -> str:
    """Write out the first names of a list, and how many more there are."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


class CurateError(Exception):
    """An expected failure, shown to a user as two lines and exit code 1.

    Parameters
    ----------
    message : str
        What is wrong with the value we got, and what was expected.
    hint : str or None
        What to do about it: a command, an option, a line to add.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def write_count(number: int | float, noun: str) -> str:
    """Write a number with its noun, in the plural but for 1: ``1 frame``, ``2,000 frames``."""
    text = f"{round(number):,}"
    return f"{text} {noun}" if text == "1" else f"{text} {noun}s"


class Failures:
    """Failures counted by kind: those whose messages differ in path and numbers only are one."""

    def __init__(self) -> None:
        self._first = dict[str, str]()
        self._hints = dict[str, str | None]()
        self._count = Counter[str]()

    def __len__(self) -> int:
        return self._count.total()

    def add(self, path: str, message: str, hint: str | None = None) -> bool:
        """Count a failure of the file or dataset at `path`; tell whether its kind is new."""
        kind = re.sub(r"[0-9]+", "0", message.replace(path, ""))
        self._first.setdefault(kind, message)
        self._hints.setdefault(kind, hint)
        self._count[kind] += 1
        return self._count[kind] == 1

    def hint(self) -> str | None:
        """Say what to do about the most frequent kind."""
        return self._hints[self._count.most_common(1)[0][0]] if self._count else None

    def sentences(self, most: int | None = None) -> Iterator[str]:
        """Yield the first of each kind with its count, the most frequent `most` kinds first."""
        kinds = self._count.most_common()
        for kind, count in kinds[:most]:
            more = f" (and {count - 1:,} more like it)" if count > 1 else ""
            yield self._first[kind] + more
        if left := sum(count for _, count in kinds[len(kinds[:most]) :]):
            yield f"and {left:,} more"


class DatasetError(CurateError):
    """A dataset's files are missing, damaged, or not what their format promises."""


class ConfigError(CurateError):
    """An option or a line of ``ambient.toml`` is wrong."""


class NotEnoughDataError(CurateError):
    """There is too little data for a sound answer."""


class ManifestError(CurateError):
    """A manifest does not follow its schema."""


class RunError(CurateError):
    """A run directory cannot be used as asked."""


class CheckpointError(CurateError):
    """A stored network cannot be loaded."""


class TrainingError(CurateError):
    """A training cannot go on."""
