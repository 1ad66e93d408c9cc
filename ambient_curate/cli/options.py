"""Command-line options, made from the fields of a class of options."""

import inspect
from collections.abc import Callable, Container, Mapping
from typing import Annotated, Any

import typer

from ambient_curate.option_fields import Option


def take_options(
    options: Mapping[str, Option], in_file: Container[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command that takes ``**values`` an option for every field of a class of options.

    None stands for what is not given: ``ambient.toml`` and then the default decide.

    Parameters
    ----------
    options : mapping of str to Option
        Fields by name.
    in_file : container of str
        Those that ``ambient.toml`` may hold: what it can switch on needs a way to switch it off.
    """

    def take(command: Callable[..., None]) -> Callable[..., None]:
        kept = [
            parameter
            for parameter in inspect.signature(command).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        made = [_parameter(name, option, name in in_file) for name, option in options.items()]
        command.__signature__ = inspect.Signature([*kept, *made])  # type: ignore[attr-defined]
        return command

    return take


def _parameter(name: str, option: Option, in_file: bool) -> inspect.Parameter:
    (kind,) = option.types
    flag = f"--{name.rstrip('_').replace('_', '-')}"  # as_, since "as" is a word of Python
    # by itself typer adds a --no- to what can be switched on, and keeps the _ of as_
    names = [flag] if name.endswith("_") or (kind is bool and not in_file) else []
    shown: Any = typer.Option(*names, help=help_text(flag, option))
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, shown],
    )


def help_text(flag: str, option: Option) -> str:
    """Return the help of an option of a command, with its default."""
    text = option.help.replace("None:", "Default:")
    if option.default is None or option.default is False or option.default == "":
        return text
    return f"{text}  [default: {flag if option.default is True else option.default}]"
