"""The fit as a stage: every fold once, resumed to the same bytes, told of what is wrong."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_study import SIGMA, files, times

from ambient_curate import stages
from ambient_curate.arms import CONTROL
from ambient_curate.classifier import FitOptions, FoldClassifier
from ambient_curate.engines import Interrupted
from ambient_curate.errors import CheckpointError
from ambient_curate.progress import SILENT
from ambient_curate.stages import fit_classifiers
from ambient_curate.study import Study
from ambient_curate.training import TrainOptions

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = partial(
    FitOptions,
    train=TrainOptions(steps=4, warm_up=1),
    windows=256,
    held_out=256,
    batch=32,
    every=2,
)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, FitOptions]]:
    """Fold and sizes of every fit, which takes four steps."""
    asked: list[tuple[int, FitOptions]] = []
    fit_fold = stages.fit_fold

    def fit(*arguments: Any, **named: Any) -> FoldClassifier:
        asked.append((arguments[2], arguments[4]))
        return fit_fold(*arguments, **named)

    monkeypatch.setattr(stages, "FitOptions", TINY)
    monkeypatch.setattr(stages, "fit_fold", fit)
    return asked


def fit(study: Study, folder: Path, workers: int = 1) -> list[FoldClassifier]:
    return fit_classifiers(study, SIGMA, folder, workers=workers, progress=SILENT)


def test_every_fold_is_fitted_once_and_found_again(
    study_of: Callable[..., Study], fits: list[Any], tmp_path: Path
) -> None:
    study = study_of()
    found = fit(study, tmp_path)
    assert [fold for fold, _ in fits] == [0, 1, 2]
    before = times(tmp_path)
    again = fit(study, tmp_path)
    assert len(fits) == 3
    assert {k: t for k, t in times(tmp_path).items() if k != "config.json"} == {
        k: t for k, t in before.items() if k != "config.json"
    }
    for one, other in zip(found, again, strict=True):
        assert torch.equal(one.slope, other.slope)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "outputs": [{"dataset": name, "group": None} for name in ("a", "b", CONTROL)],
        "folds": 3,
        "clean": "clean",
    }


def test_a_lost_fold_is_fitted_again_to_the_same_bytes_by_any_number_of_workers(
    study_of: Callable[..., Study], fits: list[tuple[int, FitOptions]], tmp_path: Path
) -> None:
    study = study_of()
    fit(study, tmp_path / "one")
    whole = files(tmp_path / "one")
    assert len({whole[f"fold-{fold}.safetensors"] for fold in range(3)}) == 3
    (tmp_path / "one" / "fold-1.safetensors").unlink()
    before = times(tmp_path / "one")["fold-0.safetensors"]
    del fits[:]
    fit(study, tmp_path / "one", workers=2)
    assert [fold for fold, _ in fits] == [1]
    assert times(tmp_path / "one")["fold-0.safetensors"] == before
    assert files(tmp_path / "one") == whole
    fit(study, tmp_path / "two", workers=2)
    assert files(tmp_path / "two") == whole


@pytest.mark.parametrize("weighting", ["episode", "window"])
def test_a_fit_counts_as_the_scores_do(
    study_of: Callable[..., Study],
    fits: list[tuple[int, FitOptions]],
    tmp_path: Path,
    weighting: str,
) -> None:
    study = study_of("dataset", weighting)
    fit(study, tmp_path)
    assert {sizes.by_window for _, sizes in fits} == {weighting == "window"}
    assert {(sizes.folds, sizes.seed) for _, sizes in fits} == {(3, study.options.seed)}


def test_a_damaged_checkpoint_is_told_not_fitted_over(
    study_of: Callable[..., Study], tmp_path: Path
) -> None:
    for fold in range(3):
        (tmp_path / f"fold-{fold}.safetensors").write_bytes(b"not whole")
    with pytest.raises(CheckpointError, match=r"fold-0\.safetensors"):
        fit(study_of(), tmp_path)


def test_a_fit_that_is_told_to_stop_leaves_no_checkpoint(
    study_of: Callable[..., Study], fits: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(save: Any, path: Path) -> None:
        raise OSError("full")

    monkeypatch.setattr(stages, "save_fold", stop)
    with pytest.raises(OSError, match="full"):
        fit(study_of(), tmp_path, workers=2)
    assert list(tmp_path.iterdir()) == []
    seen: list[float] = []

    class Task:
        def advance(self, steps: int | float = 1, note: str | None = None) -> None:
            seen.append(steps)

    stages._Stoppable(Task(), lambda: False).advance(7)
    with pytest.raises(Interrupted):
        stages._Stoppable(Task(), lambda: True).advance(7)
    assert seen == [7]
