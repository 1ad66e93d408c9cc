"""The two long stages: the same bytes by any number of workers, interrupted or not."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_study import (
    LENGTHS,
    SIGMA,
    TASKS,
    files,
    make_classifier,
    make_episodes,
    make_study,
    times,
)

from ambient_curate import curves, evidence, stages
from ambient_curate.arms import CONTROL
from ambient_curate.checks import Finding
from ambient_curate.classifier import FoldClassifier
from ambient_curate.crossing import bootstrap_means
from ambient_curate.evidence import load_evidence
from ambient_curate.manifest import read_manifest
from ambient_curate.progress import SILENT
from ambient_curate.rows import manifest_metadata
from ambient_curate.stages import Answers, score_study
from ambient_curate.study import Study

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def believing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights are no sound classifier: only the control is examined here."""
    monkeypatch.setattr(stages, "examine_arm", lambda *_, **__: [])


@pytest.fixture(autouse=True)
def few_redraws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "bootstrap_means", partial(bootstrap_means, repeats=20))


def networks(study: Study, *, blind: bool = False) -> list[FoldClassifier]:
    """Untrained networks that see a difference only at low noise, or none at all."""
    rise = torch.linspace(-2.0, 1.0, SIGMA.size).repeat(len(study.arms), 1)
    made = [make_classifier(len(study.arms), seed=fold) for fold in range(3)]
    if blind:
        return [replace(c, slope=0.0 * c.slope, intercept=0.0 * rise) for c in made]
    return [replace(c, intercept=rise) for c in made]


def score(study: Study, work: Path, workers: int = 1, *, blind: bool = False) -> Answers:
    metadata = manifest_metadata(study, SIGMA, "digest")
    work.mkdir(exist_ok=True)
    return score_study(
        study, networks(study, blind=blind), work, metadata, workers=workers, progress=SILENT
    )


@pytest.mark.parametrize("granularity", ["dataset", "group", "episode", "datapoint"])
def test_scores_are_the_same_bytes_by_any_number_of_workers(
    study_of: Callable[..., Study], tmp_path: Path, granularity: str
) -> None:
    for workers in (1, 2):
        score(study_of(granularity), tmp_path / str(workers), workers)
    first, second = files(tmp_path / "1"), files(tmp_path / "2")
    assert first == second
    parts = [name for name in first if name.startswith("manifest")]
    by_row = granularity in ("episode", "datapoint")
    assert parts == [f"manifest/part-{i:05d}.parquet" for i in range(4 if by_row else 1)]
    scored = ["00000", "00001", "clean", "control"]  # a, b; c has too few episodes
    assert [name for name in first if name.startswith("scores")] == [
        f"scores/{name}.npz" for name in scored
    ]


def test_the_parts_hold_every_member_and_the_answers_their_rows(
    study_of: Callable[..., Study], tmp_path: Path
) -> None:
    study = study_of("datapoint")
    answers = score(study, tmp_path)
    assert answers.statuses == {("a", None): "ok", ("b", None): "ok"}  # c has too few episodes
    assert list(answers.arms) == [("a", None), ("b", None)]
    windows = {"a": 22, "b": 23, "c": 8, "clean": 22}  # b's last row is that of a stub
    statuses = {"a": {"ok"}, "b": {"ok", "too-short"}, "c": {"too-few-episodes"}, "clean": {"ok"}}
    for number, name in enumerate(sorted(study.frames)):
        table = read_manifest(tmp_path / "manifest" / f"part-{number:05d}.parquet")
        assert set(table["dataset"].to_pylist()) == {name}
        assert table.num_rows == windows[name] == answers.sigma_min[name].size
        assert set(table["status"].to_pylist()) == statuses[name]
        column = [np.nan if v is None else v for v in table["sigma_min"].to_pylist()]
        np.testing.assert_array_equal(answers.sigma_min[name], column)
    assert (answers.sigma_min["clean"] == 0.0).all()
    assert np.isnan(answers.sigma_min["c"]).all()
    assert np.unique(answers.sigma_min["a"]).size > 5  # every window has its own


def test_finished_members_are_not_scored_again(
    study_of: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of("datapoint")
    first = score(study, tmp_path)
    before = times(tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr(evidence, "score_episode", fail)
    again = score(study, tmp_path)
    assert times(tmp_path) == before
    assert again.statuses == first.statuses
    for key, arm in first.arms.items():
        assert again.arms[key].delta_interval.tolist() == arm.delta_interval.tolist()
        assert (again.arms[key].sigma_min, again.arms[key].lower) == (arm.sigma_min, arm.lower)
    for name, rows in first.sigma_min.items():
        np.testing.assert_array_equal(again.sigma_min[name], rows)


@pytest.mark.parametrize(
    "lost",
    [
        ["scores/00001.npz"],  # killed between the part and the scores
        ["scores/00001.npz", "manifest/part-00001.parquet"],
        ["manifest/part-00002.parquet", "manifest/part-00003.parquet"],  # unscored c, and clean
        ["scores/clean.npz", "scores/control.npz"],
    ],
)
def test_a_killed_member_is_scored_again_to_the_same_bytes_and_no_other(
    study_of: Callable[..., Study], tmp_path: Path, lost: list[str]
) -> None:
    study = study_of("datapoint")
    score(study, tmp_path)
    whole, before = files(tmp_path), times(tmp_path)
    for name in lost:
        (tmp_path / name).unlink()
    (tmp_path / "manifest" / ".part-00001.parquet.tmp").write_bytes(b"half")
    score(study, tmp_path, workers=2)
    (tmp_path / "manifest" / ".part-00001.parquet.tmp").unlink(missing_ok=True)
    assert files(tmp_path) == whole
    touched = {name for name, time in times(tmp_path).items() if time != before[name]}
    rewritten = ["manifest/part-00001.parquet"] if "scores/00001.npz" in lost else []
    assert touched == {*lost, *rewritten}


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
    answers = score(study_of("datapoint"), tmp_path, blind=True)
    assert answers.control is not None
    assert answers.control.upper == 0.0
    unsound = "classifier-unreliable"
    assert answers.statuses == {("a", None): unsound, ("b", None): unsound}
    (control,) = answers.findings["a", None]
    assert (control.check, control.passed) == ("control", False)
    assert np.isnan(np.concatenate([answers.sigma_min[name] for name in "abc"])).all()
    assert answers.arms["a", None].sigma_min == 0.0  # kept for the curves


@pytest.mark.parametrize("granularity", ["dataset", "datapoint"])
def test_a_member_that_fails_a_check_loses_its_rows_and_no_other(
    study_of: Callable[..., Study],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    granularity: str,
) -> None:
    def examine(arm: Any, *_: Any, **__: Any) -> list[Finding]:
        return [Finding("balance", arm.dataset != "a", {}, f"of {arm.dataset}")]

    monkeypatch.setattr(stages, "examine_arm", examine)
    answers = score(study_of(granularity), tmp_path)
    assert answers.statuses == {("a", None): "classifier-unreliable", ("b", None): "ok"}
    rows = pa.concat_tables(map(read_manifest, sorted((tmp_path / "manifest").iterdir())))
    for row in rows.select(["dataset", "sigma_min", "status"]).to_pylist():
        if row["dataset"] == "a":
            assert (row["sigma_min"], row["status"]) == (None, "classifier-unreliable")
        elif row["dataset"] == "b":
            assert row["status"] in ("ok", "too-short")
    first = files(tmp_path)
    score(study_of(granularity), tmp_path)
    assert files(tmp_path) == first


def test_without_a_control_the_answers_stand(tmp_path: Path) -> None:
    members = {"clean": make_episodes("clean", LENGTHS[:5]), "a": make_episodes("a", LENGTHS)}
    study = make_study(tmp_path / "frames", members)
    assert study.control is None
    answers = score(study, tmp_path / "work", blind=True)
    assert (answers.control, answers.statuses) == (None, {("a", None): "ok"})
    table = pq.read_table(tmp_path / "work" / "manifest" / "part-00000.parquet")
    assert table["sigma_min"].to_pylist() == [0.0, 0.0]
    assert answers.sigma_min == {}


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


def test_episodes_are_summarised_with_the_folds_that_scored_them(
    study_of: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, seen = study_of(), []
    summarize_arm = stages.summarize_arm

    def summarize(*arguments: Any, **named: Any) -> Any:
        seen.append((arguments[0][0], *(side.fold.tolist() for side in arguments[2:4])))
        return summarize_arm(*arguments, **named)

    monkeypatch.setattr(stages, "summarize_arm", summarize)
    score(study, tmp_path)
    folds = {name: fold.tolist()[:6] for name, fold in study.folds.items()}
    assert [name for name, *_ in seen] == [CONTROL, "a", "b"]
    assert [each[1:] for each in seen[1:]] == [(folds["clean"], folds[name]) for name in "ab"]


def test_a_group_is_summarised_over_its_own_episodes_against_its_own_output(
    study_of: Callable[..., Study], tmp_path: Path
) -> None:
    """Task y is one episode of a and of b: too few, and scored against its dataset alone."""
    study = study_of("group")
    answers = score(study, tmp_path)
    assert list(answers.arms) == [("a", None), ("a", "x"), ("b", None), ("b", "x")]
    stored = load_evidence(tmp_path / "scores" / "00001.npz")
    whole, part = study.head("b"), study.head("b", "x")
    assert stored.heads.tolist() == [[whole, part if task == "x" else -1] for task in TASKS]
    episodes, statistics, _ = stored.of_head(part)
    assert episodes.tolist() == [0, 1, 2, 4, 5]
    found = answers.arms["b", "x"]
    assert (found.n_clean, found.n_corrupt) == (6, 5)
    np.testing.assert_allclose(found.corrupt, statistics.mean(axis=0))
    table = read_manifest(tmp_path / "manifest" / "part-00000.parquet")
    rows = table.select(["dataset", "group", "status"]).to_pylist()
    assert [(r["dataset"], r["group"], r["status"]) for r in rows] == [
        ("a", "x", "ok"),
        ("a", "y", "too-few-episodes"),
        ("b", "x", "ok"),
        ("b", "y", "too-few-episodes"),
        ("c", "x", "too-few-episodes"),
        ("clean", "x", "ok"),
        ("clean", "y", "ok"),
    ]
