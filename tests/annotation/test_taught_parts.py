"""Parts by students: a dataset is annotated by those it may trust, and the others by many draws."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from small_study import (
    carry_out,
    files,
    make_episodes,
    make_jobs,
    make_plan,
    make_study,
    make_tepid,
    read_rows,
    write_parts,
)

from ambient_curate.annotation import tasks as annotation_tasks
from ambient_curate.annotation.part_writer import part_path
from ambient_curate.annotation.tasks import describe_students, load_students, plan_students
from ambient_curate.classifier.checkpoints import save_student
from ambient_curate.classifier.distillation import (
    CurveNetwork,
    Student,
    StudentOptions,
    predict_curves,
)
from ambient_curate.classifier.out_of_fold import noise_seed
from ambient_curate.data.study import Study
from ambient_curate.noise import log_snr
from ambient_curate.statistics.sigma_min import EDGE, avoid_levels, last_crossing, sparse_levels
from ambient_curate.training import TrainOptions

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTHS = (30, 18, 42, 25, 2, 33, 28, 21)
GRID = np.linspace(0.03, 0.98, 65)  # of which every second level is known of a single window
SPARSE = GRID[sparse_levels(GRID.size)]
STUDENTS = partial(
    StudentOptions,
    least=1,
    windows=32,
    test_windows=12,
    draws=2,
    test_draws=8,
    width=8,
    train=TrainOptions(steps=20, warm_up=5),
    batch=8,
    every=10,
)
ANSWER = ("sigma_min", "sigma_min_lower", "sigma_min_upper")


@pytest.fixture(autouse=True)
def small_students(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_tasks, "StudentOptions", STUDENTS)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    members = {name: make_episodes(name, LENGTHS) for name in ("clean", "a", "b")}
    folder = tmp_path_factory.mktemp("frames")
    return make_study(folder, members, granularity="datapoint", store_curves=True)


def write(study: Study, work: Path, taught: list[str], unreliable: str = "") -> None:
    plan = make_plan(study, unreliable, taught, sigma=GRID)
    write_parts(study, work, plan, make_tepid(study, sigma=GRID))


def teach(study: Study, work: Path, unreliable: str = "") -> None:
    taught = make_jobs(study, work, make_tepid(study, sigma=GRID))
    carry_out(taught, plan_students(study, make_plan(study, unreliable).statuses, work).tasks)


def keep(students: Sequence[Student], work: Path) -> None:
    """Put them in the place of those of a."""
    for fold, student in enumerate(students):
        save_student(student, work / "students" / f"00000-{fold}.safetensors")


def say(network: CurveNetwork, curve: np.ndarray) -> CurveNetwork:
    """Let it say the same of every window."""
    with torch.no_grad():
        network.layers[-1].weight.zero_()
        network.layers[-1].bias.copy_(torch.from_numpy(curve).logit())
    return network


def test_a_taught_dataset_has_the_crossings_of_its_students_and_others_those_of_draws(
    study: Study, tmp_path: Path
) -> None:
    write(study, tmp_path / "drawn", [])
    teach(study, tmp_path / "taught")
    margins = np.linspace(0.002, 0.02, SPARSE.size) * [[1.0], [2.0]]
    students = [replace(s, margins=margins) for s in load_students(study, tmp_path / "taught")["a"]]
    keep(students, tmp_path / "taught")
    write(study, tmp_path / "taught", ["a"])
    networks = make_tepid(study, sigma=GRID)
    rows = iter(read_rows(tmp_path / "taught", "a"))
    for episode, count in enumerate(study.windows["a"].counts.tolist()):
        if count == 0:
            assert next(rows)["status"] == "too-short"
            continue
        fold = study.folds["a"][episode]
        windows = study.windows["a"].of_episode(episode)
        said = predict_curves(students[fold].network, windows)
        expected = [
            avoid_levels(last_crossing(curves, SPARSE, 0.45), GRID)
            for curves in (said, said + margins[0], said - margins[1])
        ]
        seed = noise_seed(study.options.seed, "a", f"demo_{episode}")
        half = np.random.default_rng([*seed, 0]).standard_normal((count, 1, 6), dtype=np.float32)
        noise = np.concatenate([half, -half], axis=1)
        c = networks[fold].predict(windows, torch.from_numpy(noise), [0, 1], slice(0, 1))[0]
        odds = 1.0 / c.double().mean(dim=1).numpy() - 1.0
        for number in range(count):
            row = next(rows)
            found = [row[name] for name in ANSWER]
            np.testing.assert_allclose(found, [each[number] for each in expected], atol=1e-4)
            assert not np.isin(found, GRID).any()
            np.testing.assert_allclose(row["p_clean"][::2], said[number], rtol=1e-5)
            assert row["weight"] == pytest.approx(3.0 / (1.0 + odds[number].sum()), rel=1e-5)
    drawn, taught = files(tmp_path / "drawn"), files(tmp_path / "taught")
    assert {name for name in drawn if drawn[name] == taught[name]} == {
        name
        for number in (1, 2)  # b, and clean
        for name in (f"manifest/part-{number:05d}.parquet", f"sums/{number:05d}.npz")
    }


def test_a_crossing_that_falls_on_a_level_of_the_grid_is_moved_off_it(
    study: Study, tmp_path: Path
) -> None:
    """It is between two known levels, where a trainer's own level may lie."""
    x = log_snr(GRID)
    share = (x[20] - x[21]) / (x[20] - x[22])
    curve = np.full(SPARSE.size, 0.44)
    curve[10:12] = 0.45 - 0.1 * share, 0.45 + 0.1 * (1.0 - share)
    curve[12:] = 0.57
    assert last_crossing(curve, SPARSE, 0.45) == pytest.approx(GRID[21], abs=1e-9)
    margins = np.zeros((2, SPARSE.size))
    teach(study, tmp_path)
    students = [
        Student(say(each.network, curve), margins, 0.0)
        for each in load_students(study, tmp_path)["a"]
    ]
    keep(students, tmp_path)
    write(study, tmp_path, ["a"])
    found = {row["sigma_min"] for row in read_rows(tmp_path, "a")} - {None}
    for value in found:
        gap = np.abs(log_snr(value) - x) / (x[20] - x[22])
        assert gap.argmin() == 21
        assert 0.4 * EDGE < gap.min() < 0.7 * EDGE  # of an interval of half that length
    assert found


def test_students_that_err_too_much_do_not_annotate(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(study, tmp_path / "taught")
    errors = {
        name: float(np.mean([student.error for student in students]))
        for name, students in load_students(study, tmp_path / "taught").items()
    }
    assert errors["a"] != errors["b"]
    monkeypatch.setattr(annotation_tasks, "TRUSTED", sum(errors.values()) / 2)
    described = describe_students(study, tmp_path / "taught")
    assert described == [
        {"dataset": name, "error": errors[name], "trusted": errors[name] == min(errors.values())}
        for name in "ab"
    ]
    assert isinstance(described[0]["trusted"], bool)
    trusted = [each["dataset"] for each in described if each["trusted"]]
    write(study, tmp_path / "taught", trusted)
    write(study, tmp_path / "drawn", [])
    for number, name in enumerate("ab"):
        one, other = (
            part_path(tmp_path / work, number).read_bytes() for work in ("taught", "drawn")
        )
        assert (one == other) == (name not in trusted)


def test_few_judges_say_nothing_and_the_interval_is_everything(
    study: Study, tmp_path: Path
) -> None:
    """Twelve of them cannot vouch for 97.5 in a hundred."""
    teach(study, tmp_path, unreliable="b")
    assert list(load_students(study, tmp_path)) == ["a"]  # the other has no answer
    write(study, tmp_path, ["a"], unreliable="b")
    rows = [row for row in read_rows(tmp_path, "a") if row["status"] == "ok"]
    assert {row["sigma_min_lower"] for row in rows} == {0.0}
    assert {row["sigma_min_upper"] for row in rows} == {1.0}


@pytest.mark.parametrize("more", [0, 1])
def test_only_a_dataset_with_enough_windows_in_every_fold_is_taught(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    fold, counts = study.folds["a"], study.windows["a"].counts
    fewest = min(int(counts[fold == f].sum()) for f in range(3))
    sizes = partial(STUDENTS, least=fewest + more)
    monkeypatch.setattr(annotation_tasks, "StudentOptions", sizes)
    stage = plan_students(study, {"a": "ok", "b": "ok"}, tmp_path)
    taught = [] if more else [0, 1]
    assert stage.tasks == [f"teach {member} {f}" for member in taught for f in range(3)]
    answers = 32 * 2 + 12 * 8  # of every fold
    assert stage.totals == {f"teaching {'ab'[member]}": 3 * answers for member in taught}


def test_where_a_row_is_an_episode_nobody_is_taught(study: Study, tmp_path: Path) -> None:
    by_episode = replace(study, options=replace(study.options, granularity="episode"))
    assert plan_students(by_episode, {"a": "ok", "b": "ok"}, tmp_path).tasks == []
    assert describe_students(by_episode, tmp_path) == []


def test_students_are_taught_once_and_again_to_the_same_bytes(study: Study, tmp_path: Path) -> None:
    teach(study, tmp_path)
    whole = files(tmp_path)
    assert len(set(whole.values())) == 6
    statuses = make_plan(study).statuses
    assert plan_students(study, statuses, tmp_path).tasks == []
    (tmp_path / "students" / "00001-2.safetensors").unlink()
    assert list(load_students(study, tmp_path)) == ["a"]  # one that lacks a fold is none
    stage = plan_students(study, statuses, tmp_path)
    assert stage.tasks == ["teach 1 2"]
    assert stage.totals == {"teaching a": 0, "teaching b": 160}
    teach(study, tmp_path)
    assert files(tmp_path) == whole
