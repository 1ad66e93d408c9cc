"""The scores as a stage: the same bytes by any number of workers, resumed, and what they show."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_study import LENGTHS, TASKS, files, make_episodes, make_networks, make_study, times
from torch import Tensor

from ambient_curate import curves, evidence, stages
from ambient_curate.arms import CONTROL, Arm
from ambient_curate.checks import Finding
from ambient_curate.classifier import FoldClassifier
from ambient_curate.crossing import bootstrap_means
from ambient_curate.curves import Side
from ambient_curate.evidence import load_evidence
from ambient_curate.examinations import examine_folds
from ambient_curate.progress import SILENT
from ambient_curate.stages import Answers, score_study
from ambient_curate.study import Study

pytestmark = pytest.mark.usefixtures("one_thread")
SCORED = [
    f"0000{i}{end}" for i in range(2) for end in ("-other", "-own", "")
]  # a, b; c has too few episodes
NAMES = [*SCORED, "clean-other", "clean-own", "clean", "control"]
SOUND = Finding("overfit", True, {}, "sound")


@pytest.fixture(autouse=True)
def believing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights are no sound classifier: only the control is examined here."""
    monkeypatch.setattr(stages, "examine_arm", lambda *_, **__: [])
    monkeypatch.setattr(stages, "examine_folds", lambda *_: SOUND)


@pytest.fixture(autouse=True)
def few_redraws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "bootstrap_means", partial(bootstrap_means, repeats=20))


def score(study: Study, work: Path, workers: int = 1, *, blind: bool = False) -> Answers:
    work.mkdir(exist_ok=True)
    networks = make_networks(study, blind=blind)
    return score_study(study, networks, work, workers=workers, progress=SILENT)


@pytest.mark.parametrize("granularity", ["dataset", "group"])
def test_scores_are_the_same_bytes_by_any_number_of_workers(
    study_of: Callable[..., Study], tmp_path: Path, granularity: str
) -> None:
    for workers in (1, 2):
        score(study_of(granularity), tmp_path / str(workers), workers)
    first, second = files(tmp_path / "1"), files(tmp_path / "2")
    assert first == second
    assert list(first) == [f"scores/{name}.npz" for name in NAMES]


def test_what_is_said_of_a_dataset_is_the_same_at_every_granularity(
    study_of: Callable[..., Study], tmp_path: Path
) -> None:
    """How rows are scored has no part in it."""
    whole, *others = (
        (score(study_of(granularity), tmp_path / granularity), files(tmp_path / granularity))
        for granularity in ("dataset", "episode", "datapoint")
    )
    for answers, written in others:
        assert written == whole[1]
        for name, arm in whole[0].arms.items():
            assert answers.arms[name].sigma_min == arm.sigma_min
            assert answers.arms[name].delta_interval.tolist() == arm.delta_interval.tolist()
        assert answers.statuses == whole[0].statuses


def test_finished_members_are_not_scored_again(
    study_of: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of()
    first = score(study, tmp_path)
    before = times(tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr(evidence, "score_episode", fail)
    again = score(study, tmp_path)
    assert times(tmp_path) == before
    assert (again.statuses, again.findings) == (first.statuses, first.findings)
    for key, arm in first.arms.items():
        assert again.arms[key].delta_interval.tolist() == arm.delta_interval.tolist()
        assert (again.arms[key].sigma_min, again.arms[key].lower) == (arm.sigma_min, arm.lower)


@pytest.mark.parametrize("lost", [["00001"], ["00001-own", "00001-other"], ["clean", "control"]])
def test_a_killed_member_is_scored_again_to_the_same_bytes_and_no_other(
    study_of: Callable[..., Study], tmp_path: Path, lost: list[str]
) -> None:
    study = study_of()
    first = score(study, tmp_path)
    whole, before = files(tmp_path), times(tmp_path)
    names = {f"scores/{name}.npz" for name in lost}
    for name in names:
        (tmp_path / name).unlink()
    half = tmp_path / "scores" / ".00001.npz.tmp"
    half.write_bytes(b"half")
    again = score(study, tmp_path, workers=2)
    half.unlink(missing_ok=True)
    assert files(tmp_path) == whole
    assert {name for name, time in times(tmp_path).items() if time != before[name]} == names
    assert again.findings == first.findings


def test_the_control_is_compared_with_its_opponents_alone(
    study_of: Callable[..., Study], tmp_path: Path
) -> None:
    study = study_of()
    answers = score(study, tmp_path)
    assert study.control is not None
    assert study.control.arm.opponents is not None
    clean = load_evidence(tmp_path / "scores" / "clean.npz")
    assert clean.heads[:, :2].tolist() == [[0, 1]] * 6
    opponents = study.control.arm.opponents.tolist()
    assert clean.of_head(2)[0].tolist() == opponents
    assert answers.control is not None
    assert (answers.control.n_clean, answers.control.n_corrupt) == (3, 3)
    assert answers.arms["a", None].n_clean == 6


def test_a_blind_classifier_is_not_believed(study_of: Callable[..., Study], tmp_path: Path) -> None:
    answers = score(study_of(), tmp_path, blind=True)
    assert answers.control is not None
    assert answers.control.upper == 0.0
    unsound = "classifier-unreliable"
    assert answers.statuses == {("a", None): unsound, ("b", None): unsound}
    found = [(finding.check, finding.passed) for finding in answers.findings["a", None]]
    assert found == [("control", False), ("overfit", True)]
    assert answers.arms["a", None].sigma_min == 0.0  # kept for the curves


@pytest.mark.parametrize("fails", ["examine_arm", "examine_folds"])
def test_a_member_that_fails_a_check_loses_its_status_and_no_other(
    study_of: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Of the arms a and b, in this order, the first fails."""
    asked: list[Finding] = []

    def examine(*_: Any, **__: Any) -> Any:
        asked.append(Finding("one", len(asked) > 0, {}, f"of {len(asked)}"))
        return [asked[-1]] if fails == "examine_arm" else asked[-1]

    found = Finding("control", True, {}, "recovered")
    monkeypatch.setattr(stages, "examine_control", lambda *_: [found])
    monkeypatch.setattr(stages, fails, examine)
    study = study_of()
    answers = score(study, tmp_path)
    assert answers.statuses == {("a", None): "classifier-unreliable", ("b", None): "ok"}
    assert list(answers.arms) == [("a", None), ("b", None)]  # curves are kept
    for name, finding in zip("ab", asked, strict=True):
        expected = [found, finding, SOUND] if fails == "examine_arm" else [found, finding]
        assert answers.findings[name, None] == expected  # those of the control first


class Remembering(FoldClassifier):
    """Knows the answer for all windows of its own held-out fold, which it should never have met."""

    def predict(
        self, windows: Tensor, noise: Tensor, heads: Sequence[int], levels: slice
    ) -> Tensor:
        c = torch.full((1, *noise.shape[:2], 1), 0.5)
        for row, window in enumerate(windows):
            c[:, row] = self.sees.get(window.numpy().tobytes(), 0.5)
        return c.repeat(len(range(*levels.indices(self.sigma.size))), 1, 1, len(heads))

    sees: dict[bytes, float]


def remember(like: FoldClassifier, arm: Arm, fold: int) -> FoldClassifier:
    made = Remembering(like.network, like.slope, like.intercept, like.sigma)
    seen = {
        window.numpy().tobytes(): 0.1
        for episode in arm.in_folds([fold])
        for window in arm.windows.of_episode(int(episode))
    }
    object.__setattr__(made, "sees", seen)
    return made


def test_networks_that_remember_what_they_score_are_told_from_the_others(
    study_of: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their own folds they know, the folds that they calibrated they do not; of a, not of b."""
    monkeypatch.setattr(stages, "examine_folds", examine_folds)
    study = study_of()
    networks = [remember(n, study.corrupt[0], fold) for fold, n in enumerate(make_networks(study))]
    answers = score_study(study, networks, tmp_path, workers=1, progress=SILENT)
    for name, passed, brier in (("a", False, (0.01 + 0.25) / 2), ("b", True, 0.25)):
        *_, finding = answers.findings[name, None]
        assert (finding.check, finding.passed) == ("overfit", passed)
        assert finding.numbers["held_out"] == pytest.approx(0.25)
        assert finding.numbers["in_use"] == pytest.approx(brier)


def test_without_a_control_the_answers_stand(tmp_path: Path) -> None:
    members = {"clean": make_episodes("clean", LENGTHS[:5]), "a": make_episodes("a", LENGTHS)}
    study = make_study(tmp_path / "frames", members)
    assert study.control is None
    answers = score(study, tmp_path / "work", blind=True)
    assert (answers.control, answers.statuses) == (None, {("a", None): "ok"})
    assert [finding.check for finding in answers.findings["a", None]] == ["overfit"]


@pytest.mark.parametrize("weighting", ["episode", "window"])
def test_curves_are_means_over_the_arms_own_episodes(
    study_of: Callable[..., Study], tmp_path: Path, weighting: str
) -> None:
    study = study_of("dataset", weighting)
    answers = score(study, tmp_path)
    heads = {"a": 0, "b": 1}
    for number, name in enumerate(heads):
        stored = load_evidence(tmp_path / "scores" / f"{number:05d}.npz")
        episodes, statistics, _ = stored.of_head(heads[name])
        assert episodes.tolist() == list(range(6))
        counts = np.array([n - 2 for n in LENGTHS])
        weights = counts if weighting == "window" else None
        expected = np.average(statistics, axis=0, weights=weights)
        np.testing.assert_allclose(answers.arms[name, None].corrupt, expected)
        clean = load_evidence(tmp_path / "scores" / "clean.npz").of_head(heads[name])[1]
        expected = np.average(clean, axis=0, weights=weights)
        np.testing.assert_allclose(answers.arms[name, None].clean, expected)


def test_episodes_are_summarised_and_examined_with_the_folds_that_scored_them(
    study_of: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, seen, compared = study_of(), [], []
    summarize_arm = stages.summarize_arm

    def summarize(*arguments: Any, **named: Any) -> Any:
        seen.append((arguments[0][0], *(side.fold.tolist() for side in arguments[2:4])))
        return summarize_arm(*arguments, **named)

    def examine(*pairs: tuple[Side, Side]) -> Finding:
        compared.extend(tuple(side.fold.tolist() for side in pair) for pair in pairs)
        return SOUND

    monkeypatch.setattr(stages, "summarize_arm", summarize)
    monkeypatch.setattr(stages, "examine_folds", examine)
    score(study, tmp_path)
    folds = {name: fold.tolist()[:6] for name, fold in study.folds.items()}
    assert [name for name, *_ in seen] == [CONTROL, "a", "b"]
    assert [each[1:] for each in seen[1:]] == [(folds["clean"], folds[name]) for name in "ab"]
    assert compared == [(folds["clean"], folds[name]) for name in "aabb"]


def test_a_group_is_summarised_over_its_own_episodes_against_its_own_output(
    study_of: Callable[..., Study], tmp_path: Path
) -> None:
    """Task y is one episode of a and of b: too few, and scored against its dataset alone."""
    study = study_of("group")
    answers = score(study, tmp_path)
    names = [("a", None), ("a", "x"), ("b", None), ("b", "x")]
    assert list(answers.arms) == list(answers.statuses) == list(answers.findings) == names
    for label in ("00001", "00001-own", "00001-other"):
        stored = load_evidence(tmp_path / "scores" / f"{label}.npz")
        whole, part = study.head("b"), study.head("b", "x")
        assert stored.heads.tolist() == [[whole, part if task == "x" else -1] for task in TASKS]
        assert stored.of_head(part)[0].tolist() == [0, 1, 2, 4, 5]
    statistics = load_evidence(tmp_path / "scores" / "00001.npz").of_head(part)[1]
    found = answers.arms["b", "x"]
    assert (found.n_clean, found.n_corrupt) == (6, 5)
    np.testing.assert_allclose(found.corrupt, statistics.mean(axis=0))
