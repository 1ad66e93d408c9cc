"""Command-line options, made from a class of options and its docstring."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Annotated, get_type_hints

import typer

from ambient_curate.options import AnnotateOptions, option_help

_SWITCHES = ("force", "strict", "compile", "allow_unannotated", "tensorboard")


def take_options(options: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command that takes ``**values`` an option for every field of a class of options.

    None stands for what is not given: ambient.toml and then the default decide.
    """

    def take(command: Callable[..., None]) -> Callable[..., None]:
        kept = [
            parameter
            for parameter in inspect.signature(command).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        signature = inspect.Signature([*kept, *_option_parameters(options)])
        command.__signature__ = signature  # type: ignore[attr-defined]
        return command

    return take


def _option_parameters(options: type) -> Iterator[inspect.Parameter]:
    types = get_type_hints(options)
    for name, text in option_texts(options).items():
        # what ambient.toml cannot switch on needs no switching off
        names = [f"--{name.replace('_', '-')}"] if name in _SWITCHES else []
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[types.get(name, float) | None, typer.Option(*names, help=text)],
        )


def option_texts(options: type = AnnotateOptions) -> dict[str, str]:
    """Return the help of every option, ``tv`` and ``delta`` after ``epsilon``."""
    meanings, texts = option_help(options), {}
    for field in fields(options):
        text = meanings[field.name].replace("None:", "Default:")
        if field.default is True:
            text += f"  [default: --{field.name}]"
        elif not isinstance(field.default, bool | None) and field.default != "":
            text += f"  [default: {field.default}]"
        texts[field.name] = text
        if field.name == "epsilon":
            what = "In place of epsilon, the largest"
            texts["tv"] = f"{what} total variation distance, in (0, 1): epsilon is TV^2 / 2."
            texts["delta"] = f"{what} divergence Delta, in (0, 2): epsilon is Delta / 4."
    return texts
