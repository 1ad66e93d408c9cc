"""Outcomes: lines go to stderr, and expected failures become messages."""

import errno

import pytest
import typer
from typer.testing import CliRunner

from ambient_curate.cli.console import INTERRUPTED, CurateGroup, tell
from ambient_curate.errors import ConfigError


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("it is wrong", "do this"), 1, "error: it is wrong\nhint: do this\n"),
        (OSError(errno.ENOSPC, "full", "a"), 1, "the disk is full"),
        (PermissionError(errno.EACCES, "denied", "a"), 1, "error: a: denied\nhint: check"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted\n"),
    ],
)
def test_a_failure_is_a_message(error: BaseException, code: int, said: str) -> None:
    app = typer.Typer(cls=CurateGroup)

    @app.command()
    def one() -> None:
        tell("begins")
        raise error

    @app.command()
    def two() -> None:
        pass

    done = CliRunner().invoke(app, ["one"])
    assert done.exit_code == code
    assert done.stdout == "" and done.stderr.startswith("begins\n") and said in done.stderr
