"""The verdict: every number by hand, every caveat with the number it is about."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_study import SIGMA, make_arm_curves, make_envelope, make_episodes, make_study

from ambient_curate.annotation.curves import PopulationCurves
from ambient_curate.annotation.reliability import DIMENSIONS, Finding
from ambient_curate.annotation.rows import RowSums, sum_rows
from ambient_curate.annotation.verdict import (
    TOO_FEW,
    WANTED_TV,
    build_verdict,
    describe_checks,
    describe_controls,
    describe_policy,
    list_assumptions,
    summarize_assumptions,
)
from ambient_curate.annotation.weights import Tilt
from ambient_curate.data.planted_controls import Control
from ambient_curate.data.study import Study
from ambient_curate.noise import schedule_levels
from ambient_curate.statistics.policy_bounds import bound_output, epsilon_for

LENGTHS = (6, 2, 9, 5, 4)  # 4 + 0 + 7 + 3 + 2 whole windows
TASKS = ["x", "y", "x", "x", "x"]
KEYS = [
    *("dataset", "group", "is_clean", "episodes", "windows", "sigma_min", "lower", "upper"),
    *("bracket_lower", "bracket_upper"),
    *(
        "sigma_max",
        "status",
        "reason",
        "p_value",
        "network_sigma_min",
        "challenger_sigma_min",
        "challenger",
        "tv_lower",
        "delta",
        "tv_low",
        "tv_high",
        "tv_finite",
        "tv_floor",
    ),
    *("index", "usable", "quantiles", "nulls", "tilt"),
]
SCHEDULE = "flow:4"  # levels .316, .707, .949 and 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


def study_of(folder: Path, **options: Any) -> Study:
    members = {name: make_episodes(name, LENGTHS, task=TASKS) for name in ("own", "a", "clean")}
    return make_study(
        folder / str(len(list(folder.iterdir()))), members, schedule=SCHEDULE, **options
    )


def curves(sigma_min: float, dataset: str = "a", group: str | None = None) -> PopulationCurves:
    """Without a certified upper end; its mean scores say nothing."""
    envelope = make_envelope(sigma_min / 4)
    return replace(
        make_arm_curves(dataset, group, sigma_min),
        corrupt=np.full((4, SIGMA.size), 0.5),
        upper=sigma_min,
        envelope=replace(
            envelope,
            tv_upper_empirical=np.linspace(0.9, 0.2, SIGMA.size),
            tv_lower=np.linspace(0.4, 0.0, SIGMA.size),
        ),
    )


SOUND = Finding("control", True, {"found": 0.2}, "recovered")
BLIND = Finding("blindness", False, {"p_value": 0.001}, "the network sees none")
SKEWED = Finding("balance", False, {"offset": 0.2}, "the offset is too large")


def sums(sigma_min: list[float]) -> RowSums:
    return sum_rows(
        np.array(sigma_min), np.zeros(len(sigma_min)), np.sort(schedule_levels(SCHEDULE))
    )


def line(study: Study, sigma_min: float, *found_of: Finding, **rows: list[float]) -> dict[str, Any]:
    """The verdict on member a."""
    found = build_verdict(
        study,
        {("a", None): curves(sigma_min)},
        {("a", None): found_of},
        {name: sums(values) for name, values in rows.items()},
        {},
        {},
    )
    assert [row["dataset"] for row in found] == ["clean", "a", "own"]  # the clean one first
    assert all(list(row) == KEYS for row in found)
    return found[1]


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return study_of(folder)


@pytest.mark.parametrize(
    ("sigma_min", "index", "usable"),
    [(0.0, 0, 1.0), (0.3, 0, 1.0), (0.35, 1, 0.75), (0.8, 2, 0.5), (0.97, 3, 0.25), (1.0, None, 0)],
)
def test_index_and_usable_share_are_those_of_the_trainers_own_levels(
    study: Study, sigma_min: float, index: int | None, usable: float
) -> None:
    row = line(study, sigma_min)
    assert (row["index"], row["usable"]) == (index, usable)
    assert usable == np.mean(schedule_levels(SCHEDULE) > sigma_min)


def test_the_divergence_is_that_of_the_first_admitted_level(study: Study) -> None:
    """Level .4 is the first above .31: the fourth of the grid."""
    row = line(study, 0.31)
    assert row["delta"] == pytest.approx(2.0 - 4.0 * np.linspace(0.1, 0.5, SIGMA.size)[3])
    assert (row["tv_low"], row["tv_high"]) == pytest.approx((0.1, 0.1**0.5))
    assert (row["sigma_min"], row["lower"], row["upper"]) == (0.31, 0.155, 0.31)
    assert (row["bracket_lower"], row["bracket_upper"]) == (0.0775, 1.0)
    assert (row["tv_finite"], row["tv_floor"]) == (np.linspace(0.9, 0.2, SIGMA.size)[3], 0.4)
    everywhere = line(study, 0.0)
    assert everywhere["delta"] == pytest.approx(2.0 - 4.0 * 0.1)
    assert (everywhere["tv_low"], everywhere["tv_high"]) == pytest.approx((0.0, 0.1**0.5))
    never = line(study, 1.0)
    assert [never[key] for key in ("delta", "tv_low", "tv_high", "index")] == [None] * 4


def test_members_are_counted_and_the_clean_one_is_usable_everywhere(study: Study) -> None:
    clean, a, own = build_verdict(
        study, {("a", None): curves(0.3)}, {("a", None): [SOUND]}, {}, {}, {}
    )
    assert [(r["episodes"], r["windows"]) for r in (clean, a, own)] == [(5, 16)] * 3
    assert clean["is_clean"]
    assert [clean[key] for key in ("sigma_min", "lower", "upper")] == [0.0] * 3
    assert (clean["index"], clean["usable"], clean["nulls"]) == (0, 1.0, 0)
    assert (clean["delta"], clean["tv_high"]) == (None, None)
    assert own["status"] == "too-few-episodes"
    assert own["reason"] == TOO_FEW
    assert [own[key] for key in ("sigma_min", "lower", "upper", "delta", "index")] == [None] * 5
    assert (own["usable"], own["nulls"], own["quantiles"]) == (0.0, 1, None)


def test_a_blind_classifier_gives_no_number(study: Study) -> None:
    row = line(study, 0.0, SOUND, BLIND, SKEWED)
    assert row["status"] == "classifier-unreliable"
    assert row["reason"] == "the network sees none; the offset is too large"
    assert [row[key] for key in ("sigma_min", "lower", "upper", "delta", "index")] == [None] * 5
    assert (row["usable"], row["nulls"]) == (0.0, 1)


def test_what_was_not_compared_has_no_number_and_a_status_of_its_own(study: Study) -> None:
    moves = Finding(DIMENSIONS, False, {"action 2": 0.5}, "action dimension 2 moves in half")
    for others in ([SOUND], [SOUND, BLIND]):
        row = line(study, 0.0, *others, moves)
        assert row["status"] == "not-compared"
        assert row["reason"].endswith("action dimension 2 moves in half")
        assert [row[key] for key in ("sigma_min", "delta", "index")] == [None] * 3
        assert (row["usable"], row["nulls"]) == (0.0, 1)


def test_rows_are_spread_with_nulls_as_one(study: Study) -> None:
    row = line(study, 0.3, a=[0.0, 0.5, np.nan, 0.2, np.nan], own=[np.nan], clean=[0.0])
    assert row["nulls"] == 2
    assert row["quantiles"] == [0.0, 0.5, 1.0]  # of 0, .2, .5, 1 and 1: no mean of two
    # 4, 3, 0, 4 and 0 of the four levels
    assert row["usable"] == pytest.approx((4 + 3 + 4) / 20)
    assert (row["sigma_min"], row["index"]) == (0.3, 0)  # the dataset's own are kept beside them


def test_groups_follow_their_dataset_with_their_own_counts(folder: Path) -> None:
    study = study_of(folder, granularity="group")
    populations = {("a", None): curves(0.3), ("a", "x"): curves(0.97, "a", "x")}
    found = build_verdict(study, populations, {}, {}, {}, {})
    lines = [
        tuple(r[k] for k in ("dataset", "group", "episodes", "windows", "sigma_min", "status"))
        for r in found
    ]
    assert lines == [
        ("clean", None, 5, 16, 0.0, "ok"),
        ("a", None, 5, 16, 0.3, "ok"),
        ("a", "x", 4, 16, 0.97, "ok"),
        ("a", "y", 1, 0, None, "too-few-episodes"),
        ("own", None, 5, 16, None, "too-few-episodes"),
        ("own", "x", 4, 16, None, "too-few-episodes"),
        ("own", "y", 1, 0, None, "too-few-episodes"),
    ]


def test_the_p_value_is_that_of_the_test_without_a_classifier(folder: Path) -> None:
    """Kept where the network is not believed: it does not depend on it."""
    study = study_of(folder, granularity="group")
    populations = {("a", None): curves(0.3), ("a", "x"): curves(0.3, "a", "x")}
    sees = replace(BLIND, passed=True, numbers={"p_value": 0.25})
    findings = {("a", None): [SOUND, BLIND], ("a", "x"): [SOUND, SKEWED, sees]}
    found = build_verdict(study, populations, findings, {}, {}, {})
    assert [row["tv_lower"] for row in found][:2] == [None, 0.4]  # at the lowest level
    p_values = {(row["dataset"], row["group"]): row["p_value"] for row in found}
    assert p_values["a", None] == 0.001
    assert p_values["a", "x"] == 0.25
    assert {p_values[key] for key in p_values if key not in populations} == {None}


def test_a_tilt_stands_beside_the_dataset_it_is_of(study: Study) -> None:
    tilt = Tilt(usable=0.5, mixture=0.976, clean=0.5, weighted=0.49, windows=80.5, episodes=12.0)
    populations = {("a", None): curves(0.3)}
    found = build_verdict(study, populations, {}, {"a": sums([0.0, 1.0])}, {"a": tilt}, {})
    assert [row["tilt"] for row in found] == [None, asdict(tilt), None]
    assert json.loads(json.dumps(found[1]["tilt"])) == found[1]["tilt"]


@pytest.mark.parametrize(
    ("sigma_min", "lower", "upper", "recovered"),
    [
        (0.35, 0.3, 0.41, True),
        (0.35, 0.3, 0.39, False),
        (0.395, 0.391, 0.398, True),  # nearer than the level of a control is known
        (0.25, 0.1, 0.9, False),  # no interval is wide enough
    ],
)
def test_a_control_is_recovered_near_its_level_and_within_its_interval(
    study: Study, sigma_min: float, lower: float, upper: float, recovered: bool
) -> None:
    found = replace(curves(sigma_min), lower=lower, upper=upper)
    planted = Control(replace(study.clean, dataset="planted shift"), 0.4)
    missed = Control(replace(study.clean, dataset="planted spike"), 0.6)
    first, second = describe_controls([found, found], [planted, missed])
    assert first == {
        "name": "planted shift",
        "expected": 0.4,
        "found": sigma_min,
        "lower": lower,
        "upper": upper,
        "recovered": recovered,
    }
    assert second == first | {"name": "planted spike", "expected": 0.6, "recovered": False}


def test_without_controls_there_is_nothing_to_describe() -> None:
    assert describe_controls([], []) == []


def test_checks_are_kept_with_the_arm_they_are_of() -> None:
    assert describe_checks({("a", None): [SOUND], ("a", "x"): [BLIND]}) == [
        {
            **{"dataset": "a", "group": None, "check": "control", "passed": True},
            **{"numbers": {"found": 0.2}, "sentence": "recovered"},
        },
        {
            **{"dataset": "a", "group": "x", "check": "blindness", "passed": False},
            **{"numbers": {"p_value": 0.001}, "sentence": "the network sees none"},
        },
    ]


def test_assumptions_name_the_rule_and_what_the_windows_are(folder: Path, study: Study) -> None:
    first, *_, last = list_assumptions(study)
    assert "E_q c > 1/2 - 0.05: Delta < 0.2 and TV <= 0.316" in first
    assert last == "windows: absolute, 3 frames, normalised by the clean set (minmax)"
    assert any("certified holds with 95 %" in text for text in list_assumptions(study))
    other = study_of(folder, represent="relative", normalize="gaussian", epsilon=0.02)
    weighted = replace(other, options=replace(other.options, weighting="window"))
    assert any("nothing is certified" in text for text in list_assumptions(weighted))
    first, *_, last = list_assumptions(other)
    assert "1/2 - 0.02: Delta < 0.08 and TV <= 0.200" in first
    assert last == (
        "windows: relative, from the first action, 3 frames, normalised by the clean set (gaussian)"
    )


def test_assumptions_are_summed_up_in_a_sentence(folder: Path, study: Study) -> None:
    assert summarize_assumptions(study) == (
        "the classifier is close to the best possible one and episodes are independent draws; "
        "another task mix counts as a difference: p(A), not p(A|O); windows are absolute, 3 "
        "frames, normalised by the clean set (minmax); up to 18 % of a set may be arbitrary and "
        "its sigma_min is still 0"
    )
    other = study_of(folder, represent="relative", weighting="window", granularity="datapoint")
    assert summarize_assumptions(other) == (
        "the classifier is close to the best possible one; nothing is certified, since episodes "
        "have unequal weight; another task mix counts as a difference: p(A), not p(A|O); windows "
        "are relative, 3 frames, normalised by the clean set (minmax)"
    )
    told = replace(study, options=replace(study.options, condition="state"))
    assert "; other places count as a difference: p(A, O); " in summarize_assumptions(told)


@pytest.mark.parametrize("granularity", ["dataset", "group", "episode", "datapoint"])
def test_what_the_rule_admits_is_told_where_rows_are_whole_sets(
    folder: Path, granularity: str
) -> None:
    told = [
        text
        for text in list_assumptions(study_of(folder, granularity=granularity))
        if "up to 18 % of a corrupt set may be arbitrary and its sigma_min is still 0" in text
    ]
    assert len(told) == (granularity in ("dataset", "group"))
    assert all("at epsilon 0.05 " in text and "--granularity episode" in text for text in told)


def policy_text(study: Study, status: str = "ok", **sigma_min: float) -> str:
    populations = {(name, None): curves(value, name) for name, value in sigma_min.items()}
    found = describe_policy(study, populations, dict.fromkeys(populations, status))
    assert len(found) <= 1
    return "".join(found)


def test_the_policy_is_bounded_with_shares_and_assumptions(study: Study) -> None:
    """Sets of 16 windows each; one that is never admitted has no part in the draw."""
    for text in (policy_text(study, a=0.3), policy_text(study, a=0.3, own=1.0)):
        assert text == (
            "what a policy samples differs from the clean law at the lowest noise by a TV of at "
            f"most {0.5 * 0.1**0.5:.3f}, if a window is drawn uniformly (clean 50.0%, a 50.0%), "
            "denoisers are ideal for what is admitted at each level, the reverse process is exact, "
            "and the classifier is the best possible one; a TV of at most 0.1 takes epsilon 0.02"
        )
        assert epsilon_for(WANTED_TV, 0.5) == pytest.approx(0.02)
    both = policy_text(study, a=0.3, own=0.6)
    value = bound_output([0.3, 0.6], [16.0, 16.0], 16.0, 0.05)
    assert value == pytest.approx(0.1**0.5 * (1.5 / 3 + 1 / 2))
    assert f"at most {value:.3f}, " in both
    assert "(clean 33.3%, a 33.3%, own 33.3%)" in both
    assert "takes epsilon" not in both
    legibility = replace(study, options=replace(study.options, legibility=True))
    assert "is exact, sigma_max is 0, and the" in policy_text(legibility, a=0.3)


def test_the_policy_is_not_bounded_where_the_bound_does_not_hold(
    folder: Path, study: Study
) -> None:
    assert policy_text(study) == policy_text(study, a=1.0) == ""
    assert policy_text(study, status="classifier-unreliable", a=0.3) == ""
    for granularity in ("group", "episode", "datapoint"):
        assert policy_text(study_of(folder, granularity=granularity), a=0.3) == ""
    told = replace(study, options=replace(study.options, condition="state"))
    assert policy_text(told, a=0.3) == ""


def test_of_many_sets_the_largest_shares_are_named(tmp_path: Path) -> None:
    lengths = {"clean": LENGTHS} | {f"q{i}": (4,) * (4 + i) for i in range(7)}
    members = {name: make_episodes(name, each) for name, each in lengths.items()}
    sigma_min = {f"q{i}": 0.1 * i for i in range(7)}
    study = make_study(tmp_path, members)
    text = policy_text(study, **sigma_min)
    assert "(clean 14.0%, q6 17.5%, q5 15.8%, q4 14.0%, q3 12.3% and 3 more)" in text
    wide = replace(study, options=replace(study.options, epsilon=0.49))
    assert "by any TV: no bound below 1 is known, if a" in policy_text(wide, **sigma_min)
