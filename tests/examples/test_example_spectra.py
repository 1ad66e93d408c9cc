"""The example of spectra, in little, and what its page says about real data."""

from pathlib import Path

import numpy as np
import pytest
from collection_writer import write_npz

from ambient_curate.analysis.sources import read_recordings
from ambient_curate.analysis.spectra import estimate_spectrum, fit_decay
from ambient_curate.analysis.survey import survey_spectra
from examples.spectra import __main__ as example


def test_the_example_draws_and_says_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], closed_figures: None
) -> None:
    rng = np.random.default_rng(0)
    for name, shake in (("clean", 0.0), ("shaken", 4.0)):
        walks = rng.normal(size=(6, 120, 2)).cumsum(axis=1)
        noisy = (walks + shake * rng.normal(size=walks.shape)).astype(np.float32)
        write_npz(tmp_path / "set" / name, list(noisy))
    example.main([str(tmp_path / "set"), "--out", str(tmp_path / "out"), "--probe", "set=task"])
    said = capsys.readouterr().out
    assert "shaken against the clean set" in said
    assert "| clean | 6 | 117 | 2" in said or "| clean | 6 | 117 | 1.9" in said  # a random walk
    assert "set: task of shaken has 0 classes" in said
    drawn = {file.name for file in (tmp_path / "out").iterdir()}
    assert drawn == {"set_spectrum.png", "set_field.png"}


@pytest.mark.parametrize(
    ("name", "low", "high"), [("g1_inspire", 2.9, 3.2), ("so101_tape", 3.8, 4.0)]
)
def test_recorded_joint_targets_decay_as_the_page_says(
    shared_data: Path, name: str, low: float, high: float
) -> None:
    with read_recordings(shared_data / name) as recordings:
        found = fit_decay(estimate_spectrum(recordings.members[0].actions), pooled=True)
    assert low < found.lower[0] < found.upper[0] < high


def test_generated_velocities_end_in_white_noise(shared_data: Path) -> None:
    """Mimic adds noise to every action: the spectrum stops to fall, as the page says."""
    with read_recordings(shared_data / "open_x") as recordings:
        soundings = {s.name: s for s in survey_spectra(recordings)}
    tails = {
        name: fit_decay(soundings[f"franka_stack_{name}"].spectrum, low=0.25, pooled=True)
        for name in ("human", "generated")
    }
    assert tails["generated"].upper[0] < 0.7 < tails["human"].lower[0]
    contrast = soundings["franka_stack_generated"].contrast
    assert contrast is not None and contrast.ratio.lower[-1] > 5.0
