"""Expected failures: a message that says what is wrong, and a hint that says what to do."""


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
