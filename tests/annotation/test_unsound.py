"""Networks that may not be believed are found out by a run itself, where p and q differ.

Clean episodes stand at a point of a ring, corrupt ones at a point of a Gaussian of the same
moments: what differs is a shape, which has to be learnt.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_worker import leave_network

from ambient_curate.annotation import tasks
from ambient_curate.annotation.annotate import annotate
from ambient_curate.classifier import fit
from ambient_curate.classifier.fit import FitOptions
from ambient_curate.classifier.samples import Sample, draw_sample
from ambient_curate.data.populations import Population
from ambient_curate.run.records import Run
from ambient_curate.statistics.challenger import ChallengerFinding
from ambient_curate.training import TrainOptions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
CLEAN, CORRUPT = 50, 150  # episodes
FRAMES, HORIZON, FOLDS = 20, 4, 5


def save(path: Path, radius: np.ndarray, rng: np.random.Generator) -> None:
    """Episodes that tremble about a point at a distance `radius` from the origin."""
    angle = rng.uniform(0.0, 2.0 * np.pi, radius.size)
    point = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    action = point[:, None] + 0.05 * rng.normal(size=(radius.size, FRAMES, 2))
    ends = FRAMES * np.arange(1, radius.size + 1)
    np.savez(path, action=action.reshape(-1, 2).astype(np.float32), episode_ends=ends)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ring") / "set"
    root.mkdir()
    rng = np.random.default_rng(0)
    save(root / "clean.npz", np.ones(CLEAN), rng)
    save(root / "corrupt.npz", np.sqrt(rng.chisquare(2, CORRUPT) / 2.0), rng)
    return root


def run(collection: Path, out: Path) -> tuple[str, dict[str, bool]]:
    """Status of the corrupt set, and which checks passed."""
    found: Run = annotate(collection, out=out, horizon=HORIZON, folds=FOLDS, workers=1)
    row = found.info["verdict"][1]
    print(row["status"], row["sigma_min"], [row["lower"], row["upper"]])
    for check in found.info["checks"]:
        print("ok  " if check["passed"] else "FAIL", f"{check['check']}: {check['sentence']}")
    passed: dict[str, bool] = {}
    for check in found.info["checks"]:  # two of them are of controls
        passed[check["check"]] = passed.get(check["check"], True) and check["passed"]
    return row["status"], passed


def test_a_sound_classifier_is_believed(collection: Path, tmp_path: Path) -> None:
    status, checks = run(collection, tmp_path / "run")
    assert status == "ok"
    assert checks == dict.fromkeys(("control", "blindness", "balance", "overfit"), True)


def test_a_network_of_ten_steps_is_not(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts from normal laws, which agree: it sees nothing where a plain test is sure.

    Nothing else is in the classifier here, and no challenger is tried.
    """
    hardly = partial(FitOptions, train=TrainOptions(steps=10, warm_up=1), every=10)
    untried = ChallengerFinding("not computed", (), None, None, "not tried")
    monkeypatch.setattr(tasks, "FitOptions", hardly)
    monkeypatch.setattr(tasks, "noise_channel", leave_network)
    monkeypatch.setattr(tasks, "challenge_pair", lambda *_: untried)
    status, checks = run(collection, tmp_path / "run")
    assert status == "classifier-unreliable"
    assert not checks["blindness"]


def test_a_network_that_is_trained_on_what_it_scores_is_not(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fold but the one that stops and calibrates takes part in its training."""

    def draw_too_much(
        clean: Population, corrupt: Population, folds: Sequence[int], *arguments: Any, **named: Any
    ) -> Sample:
        if len(folds) > 1:  # for training: all but the held-out fold and the next
            (held_out,) = {f for f in range(FOLDS) if {f, (f + 1) % FOLDS}.isdisjoint(folds)}
            folds = [*folds, held_out]
        return draw_sample(clean, corrupt, folds, *arguments, **named)

    monkeypatch.setattr(fit, "draw_sample", draw_too_much)
    status, checks = run(collection, tmp_path / "run")
    assert status == "classifier-unreliable"
    assert not checks["overfit"]
