"""Rows: one for everything a trainer may ask about, null with a reason where there is no answer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student
from small_study import (
    HORIZON,
    SIGMA,
    make_arm_curves,
    make_curves,
    make_episodes,
    make_study,
)

from ambient_curate.crossing import last_crossing
from ambient_curate.manifest import read_manifest, write_part
from ambient_curate.rows import (
    Columns,
    MemberRows,
    curve_interval,
    manifest_metadata,
    tabulate_rows,
    whole_rows,
)
from ambient_curate.schema import METADATA_KEYS
from ambient_curate.study import Study

LENGTHS = (6, 2, 9, 5, 4)
FIRST = (100, 110, 120, 130, 140)
STRIDE = 2
STARTS = {0: [0, 2], 1: [0], 2: [0, 2, 4, 6], 3: [0, 2], 4: [0]}
ANSWER = ("sigma_min", "sigma_min_lower", "sigma_min_upper", "sigma_max")
EPSILON = 0.05


def study_of(folder: Path, granularity: str, **options: Any) -> Study:
    members = {
        "clean": make_episodes("clean", LENGTHS, task=["x", "y", "x", "x", "x"]),
        "b": make_episodes("b", LENGTHS, first_frame=FIRST, task=["x", "y", "x", "x", "z"]),
    }
    return make_study(folder, members, granularity=granularity, stride=STRIDE, **options)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Study]:
    return {
        name: study_of(tmp_path_factory.mktemp("study"), name, store_curves=True)
        for name in ("dataset", "group", "episode", "datapoint")
    }


def write(study: Study, columns: Columns, folder: Path) -> list[dict[str, Any]]:
    """Rows as a reader finds them: every test passes the schema's rules."""
    table = tabulate_rows(columns, manifest_metadata(study, SIGMA, "digest"))
    write_part(table, folder / "part-00000.parquet")
    return read_manifest(folder / "part-00000.parquet").to_pylist()


Scored = dict[int, tuple[np.ndarray, np.ndarray]]


def rows_of(
    study: Study, scored: Scored, folder: Path, name: str = "b", status: str = "ok"
) -> list[dict[str, Any]]:
    member = MemberRows(study, name, SIGMA, status, draws=4)
    for episode, curves in scored.items():
        member.add(episode, curves, None)
    return write(study, member.finish(), folder)


def scores(c: float = 0.3) -> Scored:
    return {e: make_curves(len(s), c=c) for e, s in STARTS.items() if e != 1}


def test_every_window_has_a_row_with_its_place_in_the_source(
    studies: dict[str, Study], tmp_path: Path
) -> None:
    study = studies["datapoint"]
    rows = rows_of(study, scores(), tmp_path)
    places = [(e, start) for e, starts in STARTS.items() for start in starts]
    assert [(r["episode_index"], r["start"]) for r in rows] == places
    for row in rows:
        episode = row["episode_index"]
        assert row["dataset"] == "b"
        assert row["episode_id"] == f"demo_{episode}"
        assert row["index"] == FIRST[episode] + row["start"]
        assert row["horizon"] == HORIZON
        assert row["group"] is row["weight"] is None
        assert row["fold"] == (None if episode == 1 else study.folds["b"][episode])
        assert row["status"] == ("too-short" if episode == 1 else "ok")
        assert (row["sigma_min"] is None) == (episode == 1)


def test_the_answers_are_those_of_the_windows_own_curves(
    studies: dict[str, Study], tmp_path: Path
) -> None:
    found = scores()
    for curves, _ in found.values():
        curves[:] = np.sort(np.random.default_rng(0).random(curves.shape, dtype=np.float32) / 2)
    rows = iter(rows_of(studies["datapoint"], found, tmp_path))
    for episode, starts in STARTS.items():
        for number, _ in enumerate(starts):
            row = next(rows)
            if episode == 1:
                assert [row[name] for name in (*ANSWER, "p_clean")] == [None] * 5
                continue
            curve = found[episode][0][number]
            expected = float(last_crossing(curve, SIGMA, 0.5 - EPSILON))
            assert row["sigma_min"] == pytest.approx(expected, abs=1e-6)
            assert row["sigma_min_lower"] <= row["sigma_min"] <= row["sigma_min_upper"]
            assert row["sigma_max"] == 0.0
            assert row["p_clean"] == curve.tolist()


def test_an_episode_has_one_row_that_speaks_for_its_windows(
    studies: dict[str, Study], tmp_path: Path
) -> None:
    found = scores()
    curves = np.linspace(0.2, 0.5, SIGMA.size) + np.array([[0.1], [0.0], [-0.1], [-0.08]])
    found[2] = curves.astype(np.float32), np.full_like(curves, 0.03, np.float32)
    rows = rows_of(studies["episode"], found, tmp_path)
    assert [row["episode_index"] for row in rows] == [0, 1, 2, 3, 4]
    assert {row["start"] for row in rows} == {None}
    assert [row["index"] for row in rows] == list(FIRST)
    assert [row["status"] for row in rows] == ["ok", "too-short", "ok", "ok", "ok"]
    mean = curves.mean(axis=0)
    error = student.ppf(0.975, 4 * 3) * 0.03 / 4**0.5  # four windows of four draws
    for name, curve in zip(ANSWER, (mean, mean + error, mean - error), strict=False):
        expected = float(last_crossing(curve, SIGMA, 0.5 - EPSILON))
        assert rows[2][name] == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(rows[2]["p_clean"], mean, atol=1e-6)


@pytest.mark.parametrize("granularity", ["episode", "datapoint"])
def test_clean_rows_are_usable_everywhere(
    studies: dict[str, Study], tmp_path: Path, granularity: str
) -> None:
    study = studies[granularity]
    rows = rows_of(study, {}, tmp_path, "clean")
    assert len(rows) == (5 if granularity == "episode" else sum(map(len, STARTS.values())))
    for row in rows:
        assert row["is_clean"]
        assert row["index"] is None  # the source has none
        assert row["p_clean"] is None
        short = row["episode_index"] == 1
        assert row["status"] == ("too-short" if short else "ok")
        assert [row[name] for name in ANSWER] == [None if short else 0.0] * 4
        assert row["fold"] == (None if short else study.folds["clean"][row["episode_index"]])


@pytest.mark.parametrize("status", ["too-few-episodes", "classifier-unreliable"])
def test_a_member_without_an_answer_has_null_rows_that_say_why(
    studies: dict[str, Study], tmp_path: Path, status: str
) -> None:
    rows = rows_of(studies["datapoint"], {}, tmp_path, status=status)
    assert len(rows) == sum(map(len, STARTS.values()))
    for row in rows:
        short = row["episode_index"] == 1
        assert row["status"] == ("too-short" if short else status)
        assert [row[name] for name in (*ANSWER, "p_clean", "weight")] == [None] * 6
        scored = status == "classifier-unreliable"  # and was not believed
        assert (row["fold"] is not None) == (scored and not short)


@pytest.mark.parametrize("name", ["b", "clean"])
def test_every_window_carries_its_own_weight_whether_clean_or_not(
    studies: dict[str, Study], tmp_path: Path, name: str
) -> None:
    member = MemberRows(studies["datapoint"], name, SIGMA, "ok", draws=4)
    weights = {e: 10.0 * e + np.arange(len(s)) for e, s in STARTS.items() if e != 1}
    for episode, weight in weights.items():
        member.add(episode, make_curves(weight.size) if name == "b" else None, weight)
    for row in write(studies["datapoint"], member.finish(), tmp_path):
        episode = row["episode_index"]
        if episode == 1:  # no whole window
            assert row["weight"] is None
        else:
            assert row["weight"] == weights[episode][row["start"] // STRIDE]
            assert row["sigma_min"] is not None


def test_curves_are_stored_only_where_asked_for(tmp_path: Path) -> None:
    rows = rows_of(study_of(tmp_path / "frames", "datapoint"), scores(), tmp_path)
    assert {row["p_clean"] for row in rows} == {None}
    assert any(row["sigma_min"] is not None for row in rows)


def test_rows_of_a_source_out_of_order_are_sorted(tmp_path: Path) -> None:
    """A reader may yield episode 10 before 9: positions decide, not the reading order."""
    members = {"clean": make_episodes("clean", LENGTHS), "b": make_episodes("b", LENGTHS)[::-1]}
    study = make_study(tmp_path / "frames", members, granularity="datapoint")
    rows = rows_of(study, {}, tmp_path, status="too-few-episodes")
    found = [(row["episode_index"], row["start"]) for row in rows]
    assert found == sorted(found)
    assert {episode for episode, _ in found} == set(range(5))


def test_a_dataset_has_one_row_that_speaks_for_it(
    studies: dict[str, Study], tmp_path: Path
) -> None:
    study = studies["dataset"]
    b, clean = write(
        study, whole_rows(study, {("b", None): make_arm_curves("b")}, {("b", None): "ok"}), tmp_path
    )
    absent = ("episode_id", "episode_index", "start", "index", "group", "weight", "fold")
    for row in (b, clean):
        assert [row[name] for name in absent] == [None] * len(absent)
        assert (row["horizon"], row["status"]) == (HORIZON, "ok")
    assert [b[name] for name in ANSWER] == [0.31, 0.0775, 0.8275, 0.0]  # the bracket
    np.testing.assert_allclose(b["p_clean"], np.linspace(0.1, 0.5, SIGMA.size), atol=1e-7)
    assert [clean[name] for name in ANSWER] == [0.0] * 4
    assert (b["is_clean"], clean["is_clean"], clean["p_clean"]) == (False, True, None)


@pytest.mark.parametrize(
    ("statuses", "arms", "expected"),
    [
        ({("b", None): "classifier-unreliable"}, [None], "classifier-unreliable"),
        ({}, [], "too-few-episodes"),
    ],
)
def test_a_dataset_without_an_answer_is_null_with_its_reason(
    studies: dict[str, Study],
    tmp_path: Path,
    statuses: dict[tuple[str, str | None], str],
    arms: list[None],
    expected: str,
) -> None:
    curves = {("b", group): make_arm_curves("b") for group in arms}
    row = write(studies["dataset"], whole_rows(studies["dataset"], curves, statuses), tmp_path)[0]
    assert row["status"] == expected
    assert [row[name] for name in ANSWER] == [None] * 4


def test_every_group_has_a_row_and_one_that_is_too_small_says_so(
    studies: dict[str, Study], tmp_path: Path
) -> None:
    study = studies["group"]
    arms = {("b", None): make_arm_curves("b"), ("b", "x"): make_arm_curves("b", "x")}
    rows = write(study, whole_rows(study, arms, dict.fromkeys(arms, "ok")), tmp_path)
    assert [(r["dataset"], r["group"], r["status"], r["sigma_min"]) for r in rows] == [
        ("b", "x", "ok", 0.31),
        ("b", "y", "too-few-episodes", None),
        ("b", "z", "too-few-episodes", None),
        ("clean", "x", "ok", 0.0),
        ("clean", "y", "ok", 0.0),
    ]


def test_the_metadata_are_those_of_the_study(studies: dict[str, Study]) -> None:
    study = studies["datapoint"]
    found = manifest_metadata(study, SIGMA, "abc")
    assert set(found) == set(METADATA_KEYS) - {"schema_version"}
    assert json.loads(found["grid"]) == SIGMA.tolist()
    assert json.loads(found["normaliser"]) == study.normalizer.as_dict()
    assert float(found["epsilon"]) == study.options.epsilon
    plain = ("granularity", "representation", "weighting", "run_digest")
    assert [found[key] for key in plain] == ["datapoint", "absolute", "episode", "abc"]


@given(
    st.lists(st.lists(st.floats(0.0, 1.0), min_size=8, max_size=8), min_size=1, max_size=4),
    st.floats(0.0, 0.3),
    st.integers(2, 30),
)
def test_an_interval_holds_its_crossing_and_is_a_point_without_errors(
    curves: list[list[float]], error: float, draws: int
) -> None:
    rows = np.array(curves)
    middle, lower, upper = curve_interval(
        rows, np.full_like(rows, error), SIGMA, epsilon=EPSILON, draws=draws
    )
    assert (lower <= middle).all()
    assert (middle <= upper).all()
    assert middle.tolist() == last_crossing(rows, SIGMA, 0.5 - EPSILON).tolist()
    if error == 0.0:
        assert lower.tolist() == middle.tolist() == upper.tolist()


def test_the_ends_of_an_interval_are_crossings_of_the_curve_plus_and_minus_t_errors() -> None:
    curve, errors = np.linspace(0.1, 0.5, SIGMA.size)[None], np.full((1, SIGMA.size), 0.02)
    found = curve_interval(curve, errors, SIGMA, epsilon=EPSILON, draws=8)
    reach = student.ppf(0.975, 7) * 0.02
    shifted = [curve, curve + reach, curve - reach]
    expected = [last_crossing(each, SIGMA, 0.5 - EPSILON)[0] for each in shifted]
    np.testing.assert_allclose(found[:, 0], expected)
    assert found[1, 0] < found[0, 0] < found[2, 0]
