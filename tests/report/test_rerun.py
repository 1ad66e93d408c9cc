"""Viewing: what a recording holds, read back by Rerun itself."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import rerun as rr
from test_looking import run as run

from ambient_curate.errors import ConfigError
from ambient_curate.report.rerun import view_episode
from ambient_curate.run.records import Run
from ambient_curate.run.source_data import look_up


def read_series(path: Path, entity: str) -> np.ndarray:
    """Values of a series of a recording, by frame."""
    with rr.server.Server(datasets={"one": [path]}) as server:
        client = server.client()  # kept: the frame borrows from it
        table = client.get_dataset("one").reader(index="frame").to_arrow_table()
    column = next(name for name in table.column_names if name.startswith(f"/{entity}:Scalars"))
    values = table.select(["frame", column]).sort_by("frame")[column].drop_null().to_pylist()
    return np.array([float(np.ravel(value)[0]) for value in values])


def test_a_recording_has_the_actions_and_the_annotation(run: Run, tmp_path: Path) -> None:
    path = view_episode(run, "jitter", save=tmp_path / "e.rrd")
    assert path == tmp_path / "e.rrd"
    found = look_up(run, "jitter", "")
    assert found.episode is not None
    expected = np.nan_to_num(found.rows["sigma_min"].to_numpy(), nan=1.0)
    np.testing.assert_allclose(read_series(path, "sigma/min"), expected)
    np.testing.assert_allclose(read_series(path, "action/1"), found.episode.action[:, 1])
    upper = np.nan_to_num(found.rows["sigma_min_upper"].to_numpy(), nan=1.0)
    np.testing.assert_allclose(read_series(path, "sigma/min_upper"), upper)
    grid = run.info["grid"]
    curves = np.array(found.rows["p_clean"].to_pylist())
    lowest, highest = (f"p_clean/at_sigma_{grid[place]:.3f}" for place in (0, -1))
    np.testing.assert_allclose(read_series(path, lowest), curves[:, 0])
    np.testing.assert_allclose(read_series(path, highest), curves[:, -1])


def test_where_it_cannot_be_written_nothing_is_left(run: Run, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        view_episode(run, save=tmp_path / "nowhere" / "e.rrd")
    (tmp_path / "e.rrd").mkdir()
    with pytest.raises(IsADirectoryError):
        view_episode(run, save=tmp_path / "e.rrd")
    assert [path.name for path in tmp_path.iterdir()] == ["e.rrd"]


def test_without_the_extra_it_says_what_to_install(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ConfigError, match="needs rerun"):
        view_episode(run, save=tmp_path / "e.rrd")
    assert list(tmp_path.iterdir()) == []


VIEWER = "#!/bin/sh\nexit 3\n"


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Folder of a Python whose environment is not activated."""
    folder = tmp_path / "env" / "bin"
    folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    return folder


def place_viewer(folder: Path) -> None:
    (folder / "rerun").write_text(VIEWER)
    (folder / "rerun").chmod(0o755)


def test_a_viewer_is_found_beside_python(
    run: Run, away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_viewer(away)
    found = []

    def spawn(stream: rr.RecordingStream) -> None:
        found.append(shutil.which("rerun"))

    monkeypatch.setattr(rr.RecordingStream, "spawn", spawn)
    before = dict(os.environ)
    assert view_episode(run, "jitter") is None
    assert found == [str(away / "rerun")]
    assert dict(os.environ) == before


def test_without_a_viewer_it_says_what_to_do(run: Run, away: Path) -> None:
    with pytest.raises(ConfigError, match=r"no 'rerun' on PATH or beside .*python") as caught:
        view_episode(run, "jitter")
    assert "--save FILE.rrd" in (caught.value.hint or "")


def test_a_viewer_that_ends_at_once_is_an_error(
    run: Run, away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_viewer(away)

    def flush(stream: rr.RecordingStream) -> None:
        raise RuntimeError("gRPC has been unable to connect")

    monkeypatch.setattr(rr.RecordingStream, "spawn", lambda stream: None)
    monkeypatch.setattr(rr.RecordingStream, "flush", flush)
    with pytest.raises(ConfigError, match=r"is there a display\? gRPC") as caught:
        view_episode(run, "jitter")
    assert "--save FILE.rrd" in (caught.value.hint or "")


def test_a_viewer_that_does_not_start_is_an_error_of_two_lines(
    run: Run, away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_viewer(away)

    def spawn(stream: rr.RecordingStream) -> None:
        raise RuntimeError("Failed to find Rerun Viewer executable in PATH.")

    monkeypatch.setattr(rr.RecordingStream, "spawn", spawn)
    with pytest.raises(ConfigError, match="does not start: Failed to find"):
        view_episode(run, "jitter")
