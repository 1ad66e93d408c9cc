"""Fixtures shared by the whole suite."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real robot data beside the checkout; tests that need it are skipped without it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real robot data is not beside this checkout (../shared/data)")
    return folder


@pytest.fixture(scope="session")
def finished_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Directory and stdout of `ambient-curate demo`: minutes, for slow tests only."""
    from typer.testing import CliRunner

    from ambient_curate.cli import app

    directory = tmp_path_factory.mktemp("finished") / "ambient_demo"
    done = CliRunner(env={"TERM": "dumb"}).invoke(app, ["demo", "--out", str(directory)])
    assert done.exit_code == 0, done.stderr
    return directory, done.stdout
