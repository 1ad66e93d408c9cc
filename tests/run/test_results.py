"""A finished run is read back without what computed it."""

import subprocess
import sys
from pathlib import Path

import pytest

from ambient_curate.errors import RunError
from ambient_curate.run.records import open_run_results


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run"):
        open_run_results(tmp_path)


def test_reading_results_loads_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys, ambient_curate.run.records, ambient_curate.cli.tables;"
        "print([n for n in ('torch', 'sklearn', 'pandas') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
