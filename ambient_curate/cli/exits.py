"""Exit codes, and how an expected failure is printed."""

import errno
import json
from collections.abc import Iterable
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from ambient_curate.errors import CurateError

CONTINUED = ("annotate", "demo", "export", "merge", "train")  # go on where they were interrupted
GATE_NOT_MET = 3
INTERRUPTED = 130


class CurateGroup(TyperGroup):
    """Turn an expected failure into a message, a hint and exit code 1; a bug stays a traceback."""

    def invoke(self, ctx: Any) -> Any:  # a click.Context of the click inside typer
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except CurateError as error:
            _fail(str(error), error.hint)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                _fail(f"the disk is full: {error}", "make room and give the same command again")
            if error.filename is None:
                raise
            _fail(f"{error.filename}: {error.strerror}", "check the path and its permissions")
        except KeyboardInterrupt:
            continues = ctx.invoked_subcommand in CONTINUED
            tell("interrupted" + ": the same command continues" * continues)
            raise typer.Exit(INTERRUPTED) from None


def tell(*lines: str) -> None:
    """Print lines to stderr."""
    for line in lines:
        typer.echo(line, err=True)


def print_below(lines: Iterable[str]) -> None:
    """Print lines to stdout after an empty one; nothing if there are none."""
    if text := "\n".join(lines):
        typer.echo(f"\n{text}")


def echo_json(content: Any) -> None:
    """Print JSON to stdout."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))


def _fail(message: str, hint: str | None) -> NoReturn:
    tell(f"error: {message}", *([f"hint: {hint}"] if hint else []))
    raise typer.Exit(1) from None
