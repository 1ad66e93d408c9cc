"""Flags: a command gets an option for every field, with its meaning and its default."""

import inspect
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from ambient_curate.cli.options import help_text, take_options
from ambient_curate.export.trainers import ExportOptions
from ambient_curate.option_fields import Options, whole
from ambient_curate.options import AnnotateOptions
from ambient_curate.policy.options import PolicyOptions


@dataclass(frozen=True)
class Some(Options):
    """Options."""

    size: Annotated[int | None, whole(1), "How large, {range}. None: as it comes."] = None
    depth: Annotated[int, whole(1), "How deep."] = 3
    force: Annotated[bool, "Do it."] = False
    check: Annotated[bool, "Look twice."] = True


def test_a_command_keeps_its_own_words_and_gets_the_options() -> None:
    @take_options(Some.declared, in_file=["check"])
    def command(path: str, **values: Any) -> None: ...

    parameters = inspect.signature(command).parameters
    assert list(parameters) == ["path", "size", "depth", "force", "check"]
    made = [parameters[name] for name in Some.declared]
    assert [parameter.default for parameter in made] == [None] * 4
    assert [parameter.annotation.__origin__ for parameter in made] == [
        *(int | None, int | None, bool | None, bool | None)
    ]
    options = [parameter.annotation.__metadata__[0] for parameter in made]
    assert [option.default for option in options] == [..., ..., "--force", ...]  # no --no-force
    assert [option.help for option in options] == [
        "How large, >= 1. Default: as it comes.",
        "How deep.  [default: 3]",
        "Do it.",
        "Look twice.  [default: --check]",
    ]


@pytest.mark.parametrize("options", [AnnotateOptions, PolicyOptions, ExportOptions])
def test_every_field_has_a_help_text(options: type[Options]) -> None:
    texts = [help_text("--it", option) for option in options.declared.values()]
    assert all(len(text) > 10 for text in texts)
    assert "None:" not in "".join(texts)
