"""Answers: what the scores of a study show, and that they are the same however they were made."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_study import (
    LENGTHS,
    SIGMA,
    carry_out,
    files,
    make_episodes,
    make_jobs,
    make_networks,
    make_study,
)
from torch import Tensor

from ambient_curate.annotation import assessment, curves
from ambient_curate.annotation.assessment import Assessment, assess_study
from ambient_curate.annotation.curves import Side
from ambient_curate.annotation.reliability import Finding, examine_folds
from ambient_curate.annotation.tasks import plan_scores
from ambient_curate.classifier import out_of_fold
from ambient_curate.classifier.fit import FoldClassifier
from ambient_curate.classifier.out_of_fold import OutOfFoldScores, list_scoring_sets
from ambient_curate.data.planted_controls import SHIFT, SPIKES
from ambient_curate.data.populations import Population
from ambient_curate.data.study import Study
from ambient_curate.noise import log_snr
from ambient_curate.statistics.bootstrap import bootstrap_means
from ambient_curate.statistics.challenger import ChallengerFinding

pytestmark = pytest.mark.usefixtures("one_thread")
SOUND = Finding("overfit", True, {}, "sound")
UNTRIED = ChallengerFinding("not computed", (), None, None, "too few windows")


@pytest.fixture(autouse=True)
def believing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights are no sound classifier: only the controls are examined here."""
    monkeypatch.setattr(assessment, "examine_population", lambda *_, **__: [])
    monkeypatch.setattr(assessment, "examine_folds", lambda *_: SOUND)
    monkeypatch.setattr(assessment, "load_challenge", lambda *_: UNTRIED)


@pytest.fixture(autouse=True)
def few_redraws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "bootstrap_means", partial(bootstrap_means, repeats=20))


def score(study: Study, work: Path, networks: Sequence[FoldClassifier] | None = None) -> Assessment:
    made = make_jobs(study, work, networks or make_networks(study))
    carry_out(made, plan_scores(study, work).tasks)
    return assess_study(study, SIGMA, work)


def read_scores(study: Study, work: Path, label: str) -> OutOfFoldScores:
    return list_scoring_sets(study)[label].read(work)


def test_what_is_said_of_a_dataset_is_the_same_at_every_granularity(
    study_of: Callable[..., Study], tmp_path: Path
) -> None:
    """How rows are scored has no part in it."""
    whole, *others = (
        (score(study_of(granularity), tmp_path / granularity), files(tmp_path / granularity))
        for granularity in ("dataset", "episode", "datapoint")
    )
    for said, written in others:
        assert written == whole[1]
        for name, population in whole[0].populations.items():
            assert said.populations[name].sigma_min == population.sigma_min
            assert (
                said.populations[name].delta_interval.tolist() == population.delta_interval.tolist()
            )
        assert said.statuses == whole[0].statuses


def test_controls_are_compared_with_their_opponents_alone(
    study_of: Callable[..., Study], tmp_path: Path
) -> None:
    study = study_of()
    said = score(study, tmp_path)
    assert [found.dataset for found in said.controls] == [SHIFT, SPIKES]
    for head, (found, control) in enumerate(zip(said.controls, study.controls, strict=True), 2):
        clean_episodes, episodes = control.population.clean_episodes, control.population.episodes
        assert clean_episodes is not None
        assert (
            read_scores(study, tmp_path, f"{head:05d}-clean").episodes.tolist()
            == clean_episodes.tolist()
        )
        corrupt = read_scores(study, tmp_path, f"{head:05d}-corrupt").episodes
        assert corrupt.tolist() == episodes.tolist()
        assert (found.n_clean, found.n_corrupt) == (3, 3)
    assert said.populations["a", None].n_clean == 6


def test_a_blind_classifier_is_not_believed(study_of: Callable[..., Study], tmp_path: Path) -> None:
    study = study_of()
    said = score(study, tmp_path, make_networks(study, blind=True))
    assert [found.upper for found in said.controls] == [0.0, 0.0]
    unsound = "classifier-unreliable"
    assert said.statuses == {("a", None): unsound, ("b", None): unsound}
    found = [(finding.check, finding.passed) for finding in said.findings["a", None]]
    assert found == [("control", False), ("control", True), ("overfit", True)]  # spikes only warn
    for finding, name in zip(said.findings["a", None], (SHIFT, SPIKES), strict=False):
        assert finding.sentence.startswith(f"the {name} was expected at sigma")
    assert said.populations["a", None].sigma_min == 0.0  # kept for the curves


@pytest.mark.parametrize("fails", ["examine_population", "examine_folds"])
def test_a_member_that_fails_a_check_loses_its_status_and_no_other(
    study_of: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Of the populations a and b, in this order, the first fails."""
    asked: list[Finding] = []

    def examine(*_: Any, **__: Any) -> Any:
        asked.append(Finding("one", len(asked) > 0, {}, f"of {len(asked)}"))
        return [asked[-1]] if fails == "examine_population" else asked[-1]

    found = Finding("control", True, {}, "recovered")
    monkeypatch.setattr(assessment, "examine_control", lambda *_: found)
    monkeypatch.setattr(assessment, fails, examine)
    study = study_of()
    said = score(study, tmp_path)
    assert said.statuses == {("a", None): "classifier-unreliable", ("b", None): "ok"}
    assert list(said.populations) == [("a", None), ("b", None)]  # curves are kept
    for name, finding in zip("ab", asked, strict=True):
        expected = [finding, SOUND] if fails == "examine_population" else [finding]
        assert said.findings[name, None] == [found, found, *expected]  # of the controls first


def test_a_challenger_that_saw_more_raises_the_answer_of_its_own_arm(
    study_of: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the population a alone; that one was tried is told to the examination of each."""
    study, tried = study_of(), []
    before = score(study, tmp_path).populations
    raised = ChallengerFinding("raised", (), 0.98, 0.985, "sees more")

    def examine(*_: Any, challenged: bool, **__: Any) -> list[Finding]:
        tried.append(challenged)
        return []

    monkeypatch.setattr(assessment, "examine_population", examine)
    monkeypatch.setattr(
        assessment, "load_challenge", lambda work, head: UNTRIED if head else raised
    )
    after = assess_study(study, SIGMA, tmp_path).populations
    assert before["a", None].sigma_min < 0.98 < before["a", None].envelope.upper
    found = after["a", None]
    assert (found.sigma_min, found.challenger_sigma_min) == (0.98, 0.98)
    assert found.upper == pytest.approx(max(before["a", None].upper, 0.985), rel=1e-12)
    assert found.network_sigma_min == before["a", None].sigma_min
    assert after["b", None].sigma_min == before["b", None].sigma_min
    assert after["b", None].challenger_sigma_min is None
    assert tried == [True, False]


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


def remember(like: FoldClassifier, population: Population, fold: int) -> FoldClassifier:
    made = Remembering(like.pairs, like.sigma)
    seen = {
        window.numpy().tobytes(): 0.1
        for episode in population.in_folds([fold])
        for window in population.windows.of_episode(int(episode))
    }
    object.__setattr__(made, "sees", seen)
    return made


def test_networks_that_remember_what_they_score_are_told_from_the_others(
    study_of: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their own folds they know, the folds that they calibrated they do not; of a, not of b."""
    monkeypatch.setattr(assessment, "examine_folds", examine_folds)
    study = study_of()
    networks = [remember(n, study.corrupt[0], fold) for fold, n in enumerate(make_networks(study))]
    said = score(study, tmp_path, networks)
    for name, passed, brier in (("a", False, (0.01 + 0.25) / 2), ("b", True, 0.25)):
        *_, finding = said.findings[name, None]
        assert (finding.check, finding.passed) == ("overfit", passed)
        assert finding.numbers["held_out"] == pytest.approx(0.25)
        assert finding.numbers["in_use"] == pytest.approx(brier)


def test_without_a_control_the_answers_stand(tmp_path: Path) -> None:
    members = {"clean": make_episodes("clean", LENGTHS[:5]), "a": make_episodes("a", LENGTHS)}
    study = make_study(tmp_path / "frames", members)
    assert study.controls == ()
    said = score(study, tmp_path / "work", make_networks(study, blind=True))
    assert (said.controls, said.statuses) == ([], {("a", None): "ok"})
    assert [finding.check for finding in said.findings["a", None]] == ["overfit"]


@pytest.mark.parametrize("weighting", ["episode", "window"])
def test_curves_are_means_over_the_arms_own_episodes(
    study_of: Callable[..., Study], tmp_path: Path, weighting: str
) -> None:
    study = study_of("dataset", weighting)
    said = score(study, tmp_path)
    counts = np.array([n - 2 for n in LENGTHS])
    weights = counts if weighting == "window" else None
    for head, name in enumerate("ab"):
        population = said.populations[name, None]
        for side, mean in (("clean", population.clean), ("corrupt", population.corrupt)):
            stored = read_scores(study, tmp_path, f"{head:05d}-{side}")
            assert stored.episodes.tolist() == list(range(6))
            expected = np.average(stored.statistics, axis=0, weights=weights)
            np.testing.assert_allclose(mean, expected)


@pytest.mark.parametrize("weighting", ["episode", "window"])
def test_only_the_episodes_that_were_heard_speak_for_an_arm(
    study_of: Callable[..., Study],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weighting: str,
) -> None:
    """Each with its own weight and its own fold: those of rows 0, 2, 3 and 5."""
    monkeypatch.setattr(out_of_fold, "MOST", 4)
    study, folds = study_of("dataset", weighting), []
    monkeypatch.setattr(assessment, "examine_folds", lambda *pairs: folds.extend(pairs) or SOUND)
    said = score(study, tmp_path)
    rows = [0, 2, 3, 5]
    for head, name in enumerate("ab"):
        population = said.populations[name, None]
        assert (population.n_clean, population.n_corrupt) == (4, 4)
        weights = np.array(LENGTHS)[rows] - 2.0 if weighting == "window" else None
        for side, mean in (("clean", population.clean), ("corrupt", population.corrupt)):
            stored = read_scores(study, tmp_path, f"{head:05d}-{side}")
            assert stored.episodes.tolist() == rows
            expected = np.average(stored.statistics, axis=0, weights=weights)
            np.testing.assert_allclose(mean, expected)
    for pair, name in zip(folds, "aabb", strict=True):
        expected = [study.folds[member][rows].tolist() for member in ("clean", name)]
        assert [side.fold.tolist() for side in pair] == expected


def test_episodes_are_summarised_and_examined_with_the_folds_that_scored_them(
    study_of: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, seen, compared = study_of(), [], []
    summarize_population = assessment.summarize_population

    def summarize(*arguments: Any, **named: Any) -> Any:
        seen.append((arguments[0][0], *(side.fold.tolist() for side in arguments[2:4])))
        return summarize_population(*arguments, **named)

    def examine(*pairs: tuple[Side, Side]) -> Finding:
        compared.extend(tuple(side.fold.tolist() for side in pair) for pair in pairs)
        return SOUND

    monkeypatch.setattr(assessment, "summarize_population", summarize)
    monkeypatch.setattr(assessment, "examine_folds", examine)
    score(study, tmp_path)
    folds = {name: fold.tolist()[:6] for name, fold in study.folds.items()}
    assert [name for name, *_ in seen] == [SHIFT, SPIKES, "a", "b"]
    assert [each[1:] for each in seen[2:]] == [(folds["clean"], folds[name]) for name in "ab"]
    assert compared == [(folds["clean"], folds[name]) for name in "aabb"]


def test_a_group_is_summarised_over_its_own_episodes_against_its_own_output(
    study_of: Callable[..., Study], tmp_path: Path
) -> None:
    """Task y is one episode of a and of b: too few, and scored against its dataset alone."""
    study = study_of("group")
    said = score(study, tmp_path)
    names = [("a", None), ("b", None), ("a", "x"), ("b", "x")]
    assert list(said.populations) == list(said.statuses) == list(said.findings) == names
    whole, part = study.head("b"), study.head("b", "x")
    for end in ("", "-own", "-other"):
        assert read_scores(study, tmp_path, f"{whole:05d}-corrupt{end}").episodes.size == 6
        stored = read_scores(study, tmp_path, f"{part:05d}-corrupt{end}")
        assert stored.episodes.tolist() == [0, 1, 2, 4, 5]
    statistics = read_scores(study, tmp_path, f"{part:05d}-corrupt").statistics
    found = said.populations["b", "x"]
    assert (found.n_clean, found.n_corrupt) == (6, 5)
    np.testing.assert_allclose(found.corrupt, statistics.mean(axis=0))


def test_curves_of_a_fine_grid_are_those_of_its_sparse_levels_interpolated(
    study_of: Callable[..., Study], tmp_path: Path
) -> None:
    """Linear in log-SNR; what is certain at a level is all that is certain just below it."""
    study, grid = study_of(), np.linspace(0.03, 0.98, 65)
    made = make_jobs(study, tmp_path, make_networks(study, sigma=grid))
    carry_out(made, plan_scores(study, tmp_path).tasks)
    said = assess_study(study, grid, tmp_path).populations["a", None]
    scores = read_scores(study, tmp_path, "00000-corrupt").statistics.mean(axis=0)
    assert scores.shape[1] == 33
    np.testing.assert_allclose(said.corrupt[:, ::2], scores)
    x = log_snr(grid)
    share = (x[:-2:2] - x[1::2]) / (x[:-2:2] - x[2::2])
    between = (1.0 - share) * scores[:, :-1] + share * scores[:, 1:]
    np.testing.assert_allclose(said.corrupt[:, 1::2], between)
    for bound in (said.envelope.delta_lower, said.envelope.tv_lower):
        np.testing.assert_array_equal(bound[1::2], bound[2::2])


def test_a_dataset_that_moves_where_the_clean_set_is_constant_is_not_compared(
    tmp_path: Path,
) -> None:
    """The networks see no difference, and nothing that is looked at shows one."""
    members = {name: make_episodes(name, LENGTHS) for name in ("clean", "a", "b")}
    for name, value in (("clean", 1.0), ("b", 1.0)):
        for episode in members[name]:
            episode.action[:, 1] = value
    study = make_study(tmp_path / "frames", members)
    said = score(study, tmp_path / "work", make_networks(study, blind=True))
    assert said.populations["a", None].sigma_min == 0.0
    assert said.statuses["a", None] == "not-compared"
    checks = [finding.check for finding in said.findings["a", None]]
    assert checks == ["control", "control", "dimensions", "overfit"]
    assert said.statuses["b", None] != "not-compared"
