"""Surveys of sources, runs and policies, through the command line and back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_worker
from click.testing import Result
from collection_writer import write_npz
from small_run import annotate_small
from small_worker import leave_network
from typer.testing import CliRunner

from ambient_curate.analysis import probes, survey
from ambient_curate.analysis.probes import Probe, ProbeOptions
from ambient_curate.analysis.sources import read_recordings
from ambient_curate.analysis.survey import (
    read_probes,
    sense_policy,
    survey_fields,
    survey_probes,
    survey_spectra,
    write_probes,
)
from ambient_curate.classifier.fit import FitOptions
from ambient_curate.cli.app import app
from ambient_curate.errors import ManifestError, NotEnoughDataError
from ambient_curate.policy.train import train_policy
from ambient_curate.run.records import Run
from ambient_curate.training import TrainOptions

FAST = ProbeOptions(
    levels=4,
    fit=FitOptions(train=TrainOptions(steps=60), windows=512, held_out=256),
)


def write_walks(root: Path, scale: float, count: int = 10) -> Path:
    rng = np.random.default_rng(int(10 * scale))
    walk = rng.normal(size=(count, 90, 2)).cumsum(axis=1)
    tremor = scale * rng.normal(size=walk.shape)
    return write_npz(root, [e.astype(np.float32) for e in walk + tremor])


def call(*arguments: object) -> Result:
    return CliRunner(env={"TERM": "dumb"}).invoke(app, [str(a) for a in arguments])


@pytest.fixture(autouse=True)
def quick_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit a network alone: these tests are about the path."""
    monkeypatch.setattr(probes, "noise_channel", leave_network)


@pytest.fixture
def walks(tmp_path: Path) -> Path:
    write_walks(tmp_path / "set" / "clean", 0.0)
    write_walks(tmp_path / "set" / "shaken", 3.0)
    return tmp_path / "set"


def test_a_tremor_shows_in_the_contrast_and_shortens_the_field(walks: Path) -> None:
    with read_recordings(walks) as recordings:
        clean, shaken = survey_spectra(recordings)
        fields = survey_fields(recordings, frames=16)
    assert clean.contrast is None and shaken.contrast is not None
    assert shaken.contrast.ratio.lower[-1] > 5 > shaken.contrast.ratio.value[0]
    steady, trembling = (field.sensitivity for field in fields)
    assert steady.offset.tolist() == list(range(-8, 8))
    middle = np.abs(steady.sigma - 0.1).argmin()
    assert trembling.radius[middle] < steady.radius[middle]


def test_datasets_too_short_for_a_spectrum_are_left_out(walks: Path) -> None:
    short = [np.ones((5, 2), np.float32) * i for i in range(3)]
    write_npz(walks / "short", short)
    with read_recordings(walks) as recordings:
        assert [s.name for s in survey_spectra(recordings)] == ["clean", "shaken"]
    with (
        read_recordings(walks / "short") as recordings,
        pytest.raises(NotEnoughDataError, match="too short for a spectrum"),
    ):
        survey_spectra(recordings)


def test_the_dataset_of_a_window_can_be_asked_for(walks: Path, one_thread: None) -> None:
    (probe,) = survey_probes(walks, "dataset", FAST)
    assert probe.classes == ("clean", "shaken") and probe.episodes == (10, 10)
    assert probe.accuracy[0] > 0.8 and probe.sigma.size == 4
    with pytest.raises(NotEnoughDataError, match="task of shaken has 0 classes"):
        survey_probes(walks, "task", FAST)
    write_npz(walks / "wide", [np.zeros((20, 3), np.float32)])
    (probe,) = survey_probes(walks, "dataset", FAST)  # one dataset is no question
    assert probe.dataset == "set, 2 dimensions"


def test_probes_are_read_back_and_other_files_refused(tmp_path: Path) -> None:
    levels = np.array([0.1, 0.9])
    probe = Probe("d", "task", ("x", "y"), (3, 4), {}, levels, levels, levels, levels)
    write_probes([probe], tmp_path / "p.json")
    (back,) = read_probes(tmp_path / "p.json")
    assert back.as_dict() == probe.as_dict()
    (tmp_path / "q.json").write_text('{"schema": "other"}')
    for name in ("q.json", "absent.json"):
        with pytest.raises(ManifestError, match="holds no probes"):
            read_probes(tmp_path / name)


def test_the_commands_measure_draw_and_say_what_next(
    walks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_figures: None
) -> None:
    monkeypatch.chdir(tmp_path)
    real = survey.probe_dataset

    def fast(name: str, frames: Any, windows: Any, options: ProbeOptions, **rest: Any) -> Probe:
        fit = FAST.fit
        return real(name, frames, windows, ProbeOptions(of=options.of, levels=4, fit=fit), **rest)

    monkeypatch.setattr(survey, "probe_dataset", fast)
    done = call("probe", walks, "--of", "dataset")
    assert done.exit_code == 0, done.stderr
    assert "set" in done.stdout and "next: ambient-curate plot set_probe.json probe" in done.stderr
    for source, figure in ((walks, "spectrum"), (walks, "field"), ("set_probe.json", "probe")):
        done = call("plot", source, figure, "--out", f"{figure}.svg")
        assert done.exit_code == 0, done.stderr
        assert done.stdout == f"{figure}.svg\n"
        assert Path(f"{figure}.svg").read_text().startswith("<?xml")


def test_a_policy_is_sensed_at_windows_of_its_run(
    place_small: Callable[..., Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    closed_figures: None,
) -> None:
    small_worker.make_small(monkeypatch.setattr)
    place_small(tmp_path)
    options: dict[str, Any] = {"steps": 30, "batch_size": 32, "n_action_steps": 2}
    options |= {"allow_unannotated": True, "mode": "cotrain"}
    train_policy(tmp_path / "run", out=tmp_path / "policy", **options)
    name, way, found = sense_policy(tmp_path / "run", tmp_path / "policy", levels=5)
    assert (name, way) == ("policy", "Jacobian")
    assert found.offset.tolist() == [-2, -1, 0, 1] and found.square.shape == (5, 4)
    assert (found.square >= 0).all() and np.isfinite(found.square).all()
    out = tmp_path / "j.png"
    done = call("plot", tmp_path / "run", "jacobian", "--policy", tmp_path / "policy", "--out", out)
    # the episodes of this run have 9 to 12 frames: just enough for a spectrum
    assert done.exit_code == 0, done.stderr
    assert out.stat().st_size > 10_000
    annotate_small(tmp_path / "set", tmp_path / "other", seed=5)
    with pytest.raises(ManifestError, match="another run"):
        sense_policy(tmp_path / "other", tmp_path / "policy")
