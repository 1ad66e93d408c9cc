"""Jobs: each task leaves its own file, once, the same whoever does it, and is told of in full."""

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_study import (
    LENGTHS,
    carry_out,
    files,
    make_classifier,
    make_episodes,
    make_jobs,
    make_networks,
    make_plan,
    make_study,
    make_tepid,
    times,
)
from small_worker import leave_network

from ambient_curate.annotation import shards
from ambient_curate.annotation import tasks as annotation_tasks
from ambient_curate.annotation.tasks import (
    FRAMES,
    PLAN,
    STEPS,
    Jobs,
    Stage,
    describe_classifier,
    load_classifiers,
    plan_challenges,
    plan_fits,
    plan_parts,
    plan_scores,
    plan_students,
)
from ambient_curate.classifier import distillation, out_of_fold
from ambient_curate.classifier.channels import Channel
from ambient_curate.classifier.checkpoints import save_pair
from ambient_curate.classifier.distillation import StudentOptions
from ambient_curate.classifier.fit import FitOptions, PairClassifier
from ambient_curate.data.planted_controls import SHIFT, SPIKES
from ambient_curate.data.study import Study
from ambient_curate.errors import CheckpointError
from ambient_curate.noise import grid
from ambient_curate.progress import Update, silent
from ambient_curate.statistics.sigma_min import sparse_levels
from ambient_curate.training import TrainOptions

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = partial(
    FitOptions,
    train=TrainOptions(steps=4, warm_up=1),
    windows=64,
    held_out=64,
    calibration_rows=16,
    batch=32,
    every=4,
)
STUDENTS = partial(
    StudentOptions,
    least=1,
    windows=3,
    test_windows=1,
    draws=2,
    test_draws=4,
    width=4,
    held_out=0.4,
    train=TrainOptions(steps=2, warm_up=1),
    batch=2,
    every=1,
)


Fit = tuple[str, int, Channel, FitOptions]


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[Fit]:
    """Corrupt set, fold, channel and sizes of every fit: four steps of a network alone."""
    asked: list[Fit] = []
    fit_pair = annotation_tasks.fit_pair

    def fit(*arguments: Any, **named: Any) -> PairClassifier:
        _, corrupt, *rest = arguments
        asked.append((corrupt.dataset, *rest))
        return fit_pair(*arguments, **named)

    monkeypatch.setattr(annotation_tasks, "FitOptions", TINY)
    monkeypatch.setattr(annotation_tasks, "noise_channel", leave_network)
    monkeypatch.setattr(annotation_tasks, "fit_pair", fit)
    return asked


SETS = ("a", "b", SHIFT, SPIKES)


def fit(study: Study, work: Path) -> None:
    carry_out(Jobs(work, study), plan_fits(study, work).tasks)


def test_every_pair_of_every_fold_is_fitted_once_and_found_again(
    study_of: Callable[..., Study], fits: list[Fit], tmp_path: Path
) -> None:
    study = study_of()
    pairs = [(fold, head) for head in range(4) for fold in range(3)]
    expected = Stage([f"fit {fold} {head}" for fold, head in pairs], {"fitting": 12 * STEPS})
    assert plan_fits(study, tmp_path) == expected
    fit(study, tmp_path)
    assert [(name, fold) for name, fold, *_ in fits] == [(SETS[head], f) for f, head in pairs]
    before = times(tmp_path)
    assert plan_fits(study, tmp_path) == Stage([], {})
    fit(study, tmp_path)
    assert len(fits) == 12
    assert times(tmp_path) == before
    levels = grid(study.options.schedule)
    found = load_classifiers(study, tmp_path)
    assert len(found) == 3
    for classifier in found:
        np.testing.assert_array_equal(classifier.sigma, levels[sparse_levels(levels.size)])
        assert list(classifier.pairs) == [0, 1, 2, 3]
    slopes = {pair.slope.numpy().tobytes() for each in found for pair in each.pairs.values()}
    assert len(slopes) == 12
    describe_classifier(study, tmp_path)
    assert json.loads((tmp_path / "classifier" / "config.json").read_text()) == {
        "outputs": [{"dataset": name, "group": None} for name in SETS],
        "folds": 3,
        "clean": "clean",
    }


def test_a_pair_is_read_when_it_is_asked_for_and_few_stay_in_memory(
    study_of: Callable[..., Study], fits: list[Fit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of()
    fit(study, tmp_path)
    read: list[str] = []
    load_pair = annotation_tasks.load_pair
    monkeypatch.setattr(annotation_tasks, "PAIRS_HELD", 2)
    monkeypatch.setattr(
        annotation_tasks,
        "load_pair",
        lambda path, channel: read.append(path.name) or load_pair(path, channel),
    )
    first, *_ = load_classifiers(study, tmp_path)
    read.clear()  # a checker of types reads the first of each fold
    for head in (1, 2, 1, 2, 0, 1):
        _ = first.pairs[head]
    assert read == [f"fold-0-0000{head}.safetensors" for head in (1, 2, 0, 1)]


def test_a_lost_pair_is_fitted_again_to_the_same_bytes_by_whoever_comes(
    study_of: Callable[..., Study], fits: list[Fit], tmp_path: Path
) -> None:
    study = study_of()
    (tmp_path / "one").mkdir()
    fit(study, tmp_path / "one")
    whole, before = files(tmp_path / "one"), times(tmp_path / "one")
    lost = "classifier/fold-1-00002.safetensors"
    (tmp_path / "one" / lost).unlink()
    del fits[:]
    assert plan_fits(study, tmp_path / "one") == Stage(["fit 1 2"], {"fitting": STEPS})
    fit(study, tmp_path / "one")
    assert [(name, fold) for name, fold, *_ in fits] == [(SHIFT, 1)]
    assert files(tmp_path / "one") == whole
    after = times(tmp_path / "one")
    assert {name for name in after if after[name] != before[name]} == {lost}
    (tmp_path / "two").mkdir()
    for task in reversed(plan_fits(study, tmp_path / "two").tasks):
        carry_out(Jobs(tmp_path / "two", study), [task])
    assert files(tmp_path / "two") == whole


@pytest.mark.parametrize("weighting", ["episode", "window"])
def test_a_fit_counts_as_the_scores_do_on_the_grid_of_the_schedule(
    study_of: Callable[..., Study], fits: list[Fit], tmp_path: Path, weighting: str
) -> None:
    study = study_of("dataset", weighting)
    plan_fits(study, tmp_path)
    carry_out(Jobs(tmp_path, study), ["fit 0 0", "fit 2 1"])
    levels = grid(study.options.schedule)
    for *_, channel, sizes in fits:
        assert sizes.by_window == (weighting == "window")
        assert (sizes.folds, sizes.seed) == (3, study.options.seed)
        np.testing.assert_array_equal(channel.levels, levels[sparse_levels(levels.size)])


def test_a_damaged_checkpoint_is_told_not_fitted_over(
    study_of: Callable[..., Study], tmp_path: Path
) -> None:
    study = study_of()
    plan_fits(study, tmp_path)
    pair = make_classifier(1, sigma=grid(study.options.schedule)).pairs[0]
    for head in range(4):
        for fold in range(3):
            save_pair(pair, tmp_path / "classifier" / f"fold-{fold}-{head:05d}.safetensors")
    (tmp_path / "classifier" / "fold-1-00002.safetensors").write_bytes(b"not whole")
    assert plan_fits(study, tmp_path).tasks == []
    found = Jobs(tmp_path, study).classifiers
    assert torch.equal(found[1].pairs[1].slope, pair.slope)
    with pytest.raises(CheckpointError, match=r"fold-1-00002\.safetensors"):
        _ = found[1].pairs[2]


def test_a_fit_that_cannot_be_saved_leaves_no_checkpoint(
    study_of: Callable[..., Study], fits: list[Fit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("full")

    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="full"):
        fit(study_of(), tmp_path)
    assert files(tmp_path) == {}
    assert len(fits) == 1


LABELS = [
    f"{head:05d}-{side}{end}"
    for head in range(4)
    for side in ("clean", "corrupt")
    for end in ("", "-own", "-other")[: 3 if head < 2 else 1]
]


def score(study: Study, work: Path) -> None:
    carry_out(make_jobs(study, work, make_networks(study)), plan_scores(study, work).tasks)


@pytest.mark.parametrize("granularity", ["dataset", "group"])
def test_scores_are_the_same_bytes_for_any_split_of_the_work(
    study_of: Callable[..., Study],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    granularity: str,
) -> None:
    monkeypatch.setattr(out_of_fold, "PIECE", 4)
    study = study_of(granularity)
    score(study, tmp_path / "one")
    whole = files(tmp_path / "one")
    if granularity == "dataset":  # of six episodes each, and of controls three
        pieces = {label: 1 if label.startswith(("00002", "00003")) else 2 for label in LABELS}
        assert set(whole) == {
            f"scores/{label}.{piece:03d}.npz" for label in LABELS for piece in range(pieces[label])
        }
    (tmp_path / "two").mkdir()
    networks = make_networks(study)
    for task in reversed(plan_scores(study, tmp_path / "two").tasks):
        carry_out(make_jobs(study, tmp_path / "two", networks), [task])
    assert files(tmp_path / "two") == whole


def test_a_lost_piece_is_scored_again_to_the_same_bytes_and_no_other(
    study_of: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out_of_fold, "PIECE", 2)
    study = study_of()
    score(study, tmp_path)
    whole, before = files(tmp_path), times(tmp_path)
    assert plan_scores(study, tmp_path).tasks == []
    names = ("00000-clean.002", "00001-corrupt.000", "00001-corrupt-own.001")
    lost = {f"scores/{name}.npz" for name in names}
    for name in lost:
        (tmp_path / name).unlink()
    half = tmp_path / "scores" / ".00001-corrupt.000.npz.tmp"
    half.write_bytes(b"half")
    assert plan_scores(study, tmp_path).tasks == [
        *("score 00000-clean 2", "score 00001-corrupt 0", "score 00001-corrupt-own 1"),
    ]
    score(study, tmp_path)
    half.unlink(missing_ok=True)
    assert files(tmp_path) == whole
    assert {name for name, time in times(tmp_path).items() if time != before[name]} == lost


class Listener:
    """A `Progress` that adds up what it is told."""

    def __init__(self) -> None:
        self.told: Counter[str] = Counter()

    def __call__(self, update: Update) -> None:
        assert update.state != "warning"
        self.told[update.work] += int(update.steps)


@pytest.mark.parametrize("granularity", ["episode", "datapoint"])
@pytest.mark.parametrize("unreliable", ["", "ab"])
def test_what_the_tasks_of_a_stage_report_is_its_total(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, granularity: str, unreliable: str
) -> None:
    """Also of a stage of which a part is done already, and of members without an answer."""
    monkeypatch.setattr(shards, "MOST_WINDOWS", 60)
    monkeypatch.setattr(out_of_fold, "PIECE", 4)
    monkeypatch.setattr(annotation_tasks, "PIECE", 4)
    monkeypatch.setattr(annotation_tasks, "StudentOptions", STUDENTS)
    monkeypatch.setattr(distillation, "TRUSTED", np.inf)  # a second lesson is no part of the plan
    members = {name: make_episodes(name, (*LENGTHS, 90)) for name in ("clean", "a", "b")}
    study = make_study(
        tmp_path / FRAMES, members | {"c": make_episodes("c", (6, 6))}, granularity=granularity
    )
    made, plan = make_jobs(study, tmp_path, make_tepid(study)), make_plan(study, unreliable)
    plan.save(tmp_path / PLAN)
    by_window = granularity == "datapoint"
    taught = 30 * (by_window and not unreliable)
    for stage_of, name, expected in (
        (lambda: plan_scores(study, tmp_path), "scoring b", 3 * 7),
        (lambda: plan_students(study, plan.statuses, tmp_path), "teaching b", taught),
        (lambda: plan_parts(study, tmp_path), "annotating b", 22 + (88 if by_window else 64)),
    ):
        whole, listener = stage_of(), Listener()
        assert whole.totals.get(name, 0) == expected
        if not whole.tasks:
            continue
        made.perform(whole.tasks[0], silent)
        rest = stage_of()
        assert rest.tasks == whole.tasks[1:]
        for task in rest.tasks:
            made.perform(task, listener)
        assert {k: n for k, n in rest.totals.items() if n} == dict(listener.told)
        done = stage_of()
        assert (done.tasks, sum(done.totals.values())) == ([], 0)


def test_jobs_share_the_parts_by_their_number(
    study_of: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "MOST_WINDOWS", 8)
    study = study_of("datapoint")
    every = plan_parts(study, tmp_path)
    assert len(every.tasks) > 10
    shares = [plan_parts(study, tmp_path, index, 3) for index in range(3)]
    for index, share in enumerate(shares):
        assert share.tasks == every.tasks[index::3]
    totals = sum((Counter(share.totals) for share in shares), Counter())
    assert totals == {name: n for name, n in every.totals.items() if n}


def test_a_process_of_its_own_finds_all_it_needs_in_the_run(
    tmp_path: Path, fits: list[Fit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each task by jobs that know the folder alone."""
    monkeypatch.setattr(annotation_tasks, "StudentOptions", STUDENTS)
    members = {name: make_episodes(name, LENGTHS) for name in ("clean", "a")}
    written = []
    for name in ("one", "other"):
        work = tmp_path / name
        study = make_study(work / FRAMES, members, granularity="datapoint")
        together = Jobs(work, study)
        metadata = make_plan(study, sigma=grid(study.options.schedule)).metadata
        annotation_tasks.RowPlan({"a": "ok"}, ["a"], metadata).save(work / PLAN)
        for stage_of in (
            plan_fits,
            plan_scores,
            plan_challenges,
            lambda study, work: plan_students(study, {"a": "ok"}, work),
            plan_parts,
        ):
            for task in stage_of(study, work).tasks:
                carry_out(together if name == "one" else Jobs(work), [task])
        written.append(files(work))
    assert written[0] == written[1]
    assert len([path for path in written[0] if path.startswith("students")]) == 3


@pytest.mark.parametrize("task", ["", "fit", "fit 0", "fit 0 1 2", "rest 3", "write 0 now"])
def test_what_is_no_task_is_refused(
    study_of: Callable[..., Study], tmp_path: Path, task: str
) -> None:
    with pytest.raises((TypeError, ValueError)):
        Jobs(tmp_path, study_of()).perform(task, silent)


def test_a_member_without_an_output_has_no_student(
    study_of: Callable[..., Study], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="clean has no output"):
        Jobs(tmp_path, study_of("datapoint")).perform("teach 3 0", silent)
