"""Rows: one for everything a trainer may ask about, null with a reason where there is no answer."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small_study import HORIZON, SIGMA, make_arm_curves, make_episodes, make_study

from ambient_curate.annotation.rows import (
    Columns,
    Found,
    manifest_metadata,
    tabulate_rows,
    tabulate_shard,
    whole_rows,
)
from ambient_curate.annotation.shards import Shard
from ambient_curate.data.study import Study
from ambient_curate.run.schema import METADATA_KEYS
from ambient_curate.run.tables import read_manifest, write_part

LENGTHS = (6, 2, 9, 5, 4)
FIRST = (100, 110, 120, 130, 140)
STRIDE = 2
STARTS = {0: [0, 2], 1: [0], 2: [0, 2, 4, 6], 3: [0, 2], 4: [0]}
ANSWER = ("sigma_min", "sigma_min_lower", "sigma_min_upper", "sigma_max")
SCORED = {"episode": 4, "datapoint": 9}  # rows of b that have a whole window


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


def written(table: pa.Table, folder: Path) -> list[dict[str, Any]]:
    """Rows as a reader finds them: every test passes the schema's rules."""
    write_part(table, folder / "part-00000.parquet")
    return read_manifest(folder / "part-00000.parquet").to_pylist()


def write(study: Study, columns: Columns, folder: Path) -> list[dict[str, Any]]:
    return written(tabulate_rows(columns, manifest_metadata(study, SIGMA, "digest")), folder)


def rows_of(
    study: Study,
    found: Found,
    folder: Path,
    name: str = "b",
    status: str = "ok",
    episodes: Sequence[int] = range(len(LENGTHS)),
) -> list[dict[str, Any]]:
    shard = Shard(0, name, np.array(episodes))
    metadata = manifest_metadata(study, SIGMA, "digest")
    return written(tabulate_shard(study, shard, status, found, metadata), folder)


def answers(rows: int, *, curves: bool = True) -> Found:
    """Every row's own: its number decides."""
    number = np.arange(rows)
    sigma_min = 0.5 + number / 100.0 + np.array([[0.0], [-0.3], [0.2]])
    p_clean = np.linspace(0.1, 0.5, SIGMA.size) + number[:, None] / 100.0
    return Found(sigma_min, p_clean=p_clean.astype(np.float32) if curves else None)


def test_every_window_has_a_row_with_its_place_in_the_source(
    studies: dict[str, Study], tmp_path: Path
) -> None:
    study = studies["datapoint"]
    rows = rows_of(study, answers(9), tmp_path)
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


@pytest.mark.parametrize("granularity", ["episode", "datapoint"])
def test_what_was_found_stands_in_the_scored_rows_in_their_order(
    studies: dict[str, Study], tmp_path: Path, granularity: str
) -> None:
    found = answers(SCORED[granularity])
    assert found.sigma_min is not None
    assert found.p_clean is not None
    rows = rows_of(studies[granularity], found, tmp_path)
    scored = iter(range(SCORED[granularity]))
    for row in rows:
        if row["episode_index"] == 1:
            assert [row[name] for name in (*ANSWER, "p_clean")] == [None] * 5
            continue
        number = next(scored)
        assert [row[name] for name in ANSWER] == [*found.sigma_min[:, number], 0.0]
        assert row["p_clean"] == found.p_clean[number].tolist()
    assert list(scored) == []


def test_an_episode_has_one_row_that_speaks_for_its_windows(
    studies: dict[str, Study], tmp_path: Path
) -> None:
    rows = rows_of(studies["episode"], answers(4), tmp_path)
    assert [row["episode_index"] for row in rows] == [0, 1, 2, 3, 4]
    assert {row["start"] for row in rows} == {None}
    assert [row["index"] for row in rows] == list(FIRST)
    assert [row["status"] for row in rows] == ["ok", "too-short", "ok", "ok", "ok"]


@pytest.mark.parametrize("granularity", ["episode", "datapoint"])
def test_a_shard_has_the_rows_of_its_own_episodes(
    studies: dict[str, Study], tmp_path: Path, granularity: str
) -> None:
    """Those of 2, of 1 and of 4: given in another order, sorted in the part."""
    study, found = studies[granularity], answers(2 if granularity == "episode" else 5)
    assert found.sigma_min is not None
    rows = rows_of(study, found, tmp_path, episodes=[4, 1, 2])
    every = [(1, 0), *((2, start) for start in STARTS[2]), (4, 0)]
    expected = [(1, None), (2, None), (4, None)] if granularity == "episode" else every
    assert [(row["episode_index"], row["start"]) for row in rows] == expected
    folds = {e: None if e == 1 else int(study.folds["b"][e]) for e in (1, 2, 4)}
    assert len(set(folds.values())) > 1
    for row in rows:
        episode = row["episode_index"]
        assert (row["episode_id"], row["fold"]) == (f"demo_{episode}", folds[episode])
        assert row["index"] == FIRST[episode] + (row["start"] or 0)
    order = [None, *found.sigma_min[0, 1:], found.sigma_min[0, 0]]
    assert [row["sigma_min"] for row in rows] == order


def test_a_shard_of_stubs_alone_is_a_part_too(studies: dict[str, Study], tmp_path: Path) -> None:
    for granularity in ("episode", "datapoint"):
        (row,) = rows_of(studies[granularity], answers(0), tmp_path, episodes=[1])
        assert (row["episode_index"], row["status"], row["sigma_min"]) == (1, "too-short", None)


@pytest.mark.parametrize("granularity", ["episode", "datapoint"])
@pytest.mark.parametrize("more", [-1, 1])
@pytest.mark.parametrize("kept", ["sigma_min", "weight", "p_clean"])
def test_answers_for_more_or_fewer_rows_than_are_scored_are_refused(
    studies: dict[str, Study], tmp_path: Path, granularity: str, more: int, kept: str
) -> None:
    rows = SCORED[granularity]
    every = replace(answers(rows + more), weight=np.ones(rows + more))
    found = Found(**{kept: getattr(every, kept)})
    with pytest.raises(ValueError, match=f"^{rows + more} values for {rows} scored rows$"):
        rows_of(studies[granularity], found, tmp_path)


@pytest.mark.parametrize("granularity", ["episode", "datapoint"])
def test_clean_rows_are_usable_everywhere(
    studies: dict[str, Study], tmp_path: Path, granularity: str
) -> None:
    study = studies[granularity]
    found = Found(np.zeros((3, SCORED[granularity])))
    rows = rows_of(study, found, tmp_path, "clean")
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
    rows = rows_of(studies["datapoint"], Found(), tmp_path, status=status)
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
    weights = {e: 10.0 * e + np.arange(len(s)) for e, s in STARTS.items() if e != 1}
    every = np.concatenate([*weights.values()])
    found = Found(np.full((3, 9), 0.25 * (name == "b")), weight=every)
    for row in rows_of(studies["datapoint"], found, tmp_path, name):
        episode = row["episode_index"]
        if episode == 1:  # no whole window
            assert row["weight"] is None
        else:
            assert row["weight"] == weights[episode][row["start"] // STRIDE]
            assert row["sigma_min"] is not None


def test_what_may_be_used_from_both_sides_of_one_level_is_usable_everywhere(
    studies: dict[str, Study], tmp_path: Path
) -> None:
    """sigma_max below sigma_min leaves a gap; where they meet, both are 0 and so is the lower."""
    ends = np.array([[0.5] * 4, [0.4] * 4, [0.9] * 4])
    found = Found(ends, sigma_max=np.array([0.2, 0.5, 0.4999, 0.7]))
    rows = rows_of(studies["episode"], found, tmp_path)
    answered = [[row[name] for name in ANSWER] for row in rows if row["status"] == "ok"]
    apart, meet = [[0.5, 0.4, 0.9, level] for level in (0.2, 0.4999)], [0.0, 0.0, 0.9, 0.0]
    assert answered == [apart[0], meet, apart[1], meet]


def test_curves_are_stored_only_where_they_are_given(
    studies: dict[str, Study], tmp_path: Path
) -> None:
    rows = rows_of(studies["datapoint"], answers(9, curves=False), tmp_path)
    assert {row["p_clean"] for row in rows} == {None}
    assert any(row["sigma_min"] is not None for row in rows)


def test_rows_of_a_source_out_of_order_are_sorted(tmp_path: Path) -> None:
    """A reader may yield episode 10 before 9: positions decide, not the reading order."""
    members = {"clean": make_episodes("clean", LENGTHS), "b": make_episodes("b", LENGTHS)[::-1]}
    study = make_study(tmp_path / "frames", members, granularity="datapoint")
    rows = rows_of(study, Found(), tmp_path, status="too-few-episodes")
    found = [(row["episode_index"], row["start"]) for row in rows]
    assert found == sorted(found)
    assert {episode for episode, _ in found} == set(range(5))


def test_episodes_of_one_position_are_sorted_by_their_windows(tmp_path: Path) -> None:
    """Two files of a folder may both begin with episode 0."""
    both = make_episodes("b", LENGTHS)
    both = [replace(e, id=f"{i} of two", number=e.number // 2) for i, e in enumerate(both)]
    members = {"clean": make_episodes("clean", LENGTHS), "b": both}
    study = make_study(tmp_path / "frames", members, granularity="datapoint")
    rows = rows_of(study, answers(16), tmp_path)
    found = [(row["episode_index"], row["start"], row["episode_id"]) for row in rows]
    assert found == sorted(found)
    own = {i: [r["sigma_min"] for r in rows if r["episode_id"][0] == str(i)] for i in range(5)}
    assert [len(values) for values in own.values()] == [4, 1, 7, 3, 2]
    values = [value for each in own.values() for value in each if value is not None]
    assert values == sorted(values)  # as they were found, episode by episode


def test_a_dataset_has_one_row_that_speaks_for_it(
    studies: dict[str, Study], tmp_path: Path
) -> None:
    study = studies["dataset"]
    b, clean = write(
        study,
        whole_rows(study, {("b", None): make_arm_curves("b")}, {("b", None): "ok"}, {}),
        tmp_path,
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
    ("statuses", "populations", "expected"),
    [
        ({("b", None): "classifier-unreliable"}, [None], "classifier-unreliable"),
        ({}, [], "too-few-episodes"),
    ],
)
def test_a_dataset_without_an_answer_is_null_with_its_reason(
    studies: dict[str, Study],
    tmp_path: Path,
    statuses: dict[tuple[str, str | None], str],
    populations: list[None],
    expected: str,
) -> None:
    curves = {("b", group): make_arm_curves("b") for group in populations}
    row = write(studies["dataset"], whole_rows(studies["dataset"], curves, statuses, {}), tmp_path)[
        0
    ]
    assert row["status"] == expected
    assert [row[name] for name in ANSWER] == [None] * 4


def test_every_group_has_a_row_and_one_that_is_too_small_says_so(
    studies: dict[str, Study], tmp_path: Path
) -> None:
    study = studies["group"]
    populations = {("b", None): make_arm_curves("b"), ("b", "x"): make_arm_curves("b", "x")}
    rows = write(
        study, whole_rows(study, populations, dict.fromkeys(populations, "ok"), {}), tmp_path
    )
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
