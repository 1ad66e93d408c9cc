"""Runs the command line in this process, and says what every failure of it must look like."""

import os
import re
from pathlib import Path

from typer.testing import CliRunner

from ambient_curate.cli.app import app


def snapshot(folder: Path) -> dict[str, object]:
    """Bytes and times of everything below a folder."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        readable = path.is_file() and os.access(path, os.R_OK)
        entries[str(path)] = (path.lstat().st_mtime_ns, path.read_bytes() if readable else None)
    return entries


def run_command(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception  # what a user would see as a traceback
    return result.exit_code, result.stdout, result.stderr


def check_failure(outcome: tuple[int, str, str], error: str, hint: str = "") -> None:
    code, stdout, stderr = outcome
    assert (code, stdout) == (1, ""), outcome
    lines = stderr.splitlines()
    starts = [line.split(" ")[0] for line in lines]
    assert starts[-2:] == ["error:", "hint:"], stderr
    assert starts.count("error:") == starts.count("hint:") == 1
    assert "Traceback" not in stderr
    assert re.search(error, lines[-2]), lines[-2]
    assert re.search(hint, lines[-1], re.IGNORECASE), lines[-1]
