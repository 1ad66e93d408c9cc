"""Flags: a command gets an option for every field, with its meaning and its default."""

import inspect
from dataclasses import dataclass, fields
from typing import Any

import pytest

from ambient_curate.cli.options import option_texts, take_options
from ambient_curate.export.trainers import ExportOptions
from ambient_curate.options import AnnotateOptions
from ambient_curate.policy.options import PolicyOptions


@dataclass(frozen=True)
class Some:
    """Two options.

    Attributes
    ----------
    size : int
        How large.
    force : bool
        Do it. None: do not.
    """

    size: int = 3
    force: bool = False


def test_a_command_keeps_its_own_words_and_gets_the_options() -> None:
    @take_options(Some)
    def command(path: str, **values: Any) -> None: ...

    parameters = inspect.signature(command).parameters
    assert list(parameters) == ["path", "size", "force"]
    assert parameters["size"].default is None
    assert parameters["force"].annotation.__metadata__[0].default == "--force"  # and no --no-force
    assert parameters["size"].annotation.__metadata__[0].default is ...
    assert parameters["size"].annotation.__metadata__[0].help == "How large.  [default: 3]"


@pytest.mark.parametrize("options", [AnnotateOptions, PolicyOptions, ExportOptions])
def test_every_field_has_a_help_text(options: type) -> None:
    texts = option_texts(options)
    assert {field.name for field in fields(options)} <= set(texts)
    assert all(len(text) > 10 for text in texts.values())
    assert "None:" not in "".join(texts.values())
