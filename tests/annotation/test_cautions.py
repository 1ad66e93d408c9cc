"""Cautions: each with the number it is about, and in few words where sigma_min may be too low."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_study import ACTION, SIGMA, make_arm_curves, make_episodes, make_study

from ambient_curate.annotation.cautions import Caution, list_cautions, list_offsets
from ambient_curate.data.normalizer import Scaling
from ambient_curate.data.study import Study, find_outside
from ambient_curate.run.records import explain_missed

LENGTHS = (6, 2, 9, 5, 4)  # 4 + 0 + 7 + 3 + 2 whole windows


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    members = {name: make_episodes(name, LENGTHS) for name in ("a", "clean")}
    return make_study(tmp_path_factory.mktemp("study"), members)


def texts(study: Study, controls: Sequence[Mapping[str, Any]]) -> list[str]:
    return [caution.text for caution in list_cautions(study, controls, [], measure(study))]


def measure(study: Study) -> dict[str, float | None]:
    return {name: find_outside(study, name) for name in study.frames}


def test_warnings_name_what_is_weak_with_its_number(tmp_path: Path) -> None:
    still = np.array([0.0, 1.0], dtype=np.float32)
    members = {name: make_episodes(name, LENGTHS) for name in ("clean", "a")}
    members["clean"] = [replace(e, action=e.action * still) for e in members["clean"]]
    study = make_study(tmp_path, members)
    low, high = (float(x[1]) for x in (study.normalizer.low, study.normalizer.high))
    values = np.concatenate([e.action for e in members["a"]])
    outside = (values[:, 0] != 0).sum() + ((values[:, 1] < low) | (values[:, 1] > high)).sum()
    assert values.shape[1] == ACTION
    few = (
        "the clean set has 4 episodes: below 20 sigma_min is rough, often too high and sometimes "
        "too low; record more before you rely on it"
    )
    share = f"{outside / values.size:.1%}"
    *whole, last = list_cautions(study, [], [], measure(study))
    assert whole == [
        Caution(None, None, text)
        for text in (
            "no planted control: it needs two clean episodes a fold, and clean actions that vary",
            few,
            "constant in the clean set, so not compared: action dimension 0; a dataset that moves "
            "there has no sigma_min",
        )
    ]
    assert last == Caution(
        *("a", None, f"{share} of a's action values lie outside the clean set's range"),
        f"{share} of its action values lie outside the clean set's range",
    )


def test_missed_controls_are_told_with_their_levels_and_recovered_ones_are_not(
    study: Study,
) -> None:
    shift = {"name": "planted shift", "expected": 0.2, "found": 0.0123, "lower": 0.0}
    shift |= {"upper": 0.05, "recovered": False}
    spike = shift | {"name": "planted spike", "found": 0.9, "upper": 0.95}
    _, low, high, *_ = list_cautions(study, [shift, spike], [], {})
    unsafe = explain_missed(0.2, 0.0123)
    assert low == Caution(
        None,
        None,
        "the planted shift was expected at sigma 0.200 and found at 0.012 [0.000, 0.050]: "
        + unsafe,
        unsafe,
    )
    assert high.text == (
        "the planted spike was expected at sigma 0.200 and found at 0.900 [0.000, 0.950]: "
        + explain_missed(0.2, 0.9)
    )
    recovered = {"recovered": True}
    one = texts(study, [shift | recovered, spike])
    assert high.text in one and low.text not in one
    none = texts(study, [shift | recovered, spike | recovered])
    assert not any("planted" in text for text in none)


def test_an_offset_beyond_the_margin_is_told_at_its_worst_level() -> None:
    """At most .08 and .04 off, in either direction; the margin is .05."""
    offsets = {"a": [0, 0, 0.02, -0.08, 0.06, 0, 0, 0], "b": [0.04, -0.04, 0, 0, 0, 0, 0, 0]}
    populations = [
        replace(
            make_arm_curves(name, group),
            clean=np.full((4, SIGMA.size), 0.5) + np.array(values),
            corrupt=np.full((4, SIGMA.size), 0.5),
        )
        for (name, values), group in zip(offsets.items(), ("x", None), strict=True)
    ]
    assert list_offsets(populations, 0.05) == [
        Caution(
            *("a", "x"),
            "a / x: E_p c + E_q c - 1 reaches -0.080 at sigma 0.400, beyond the margin of 0.05: "
            "too few clean episodes to calibrate on",
            "sigma_min may be too low, since calibration is off by -0.080 at sigma 0.400",
        )
    ]
    assert [found.dataset for found in list_offsets(populations, 0.03)] == ["a", "b"]
    assert list_offsets(populations, 0.1) == []


@pytest.mark.parametrize(("offset", "side"), [(0.08, "low"), (-0.08, "high")])
def test_too_much_probability_of_clean_is_the_unsafe_side(offset: float, side: str) -> None:
    """Noise levels are admitted where E_q c is large."""
    half = np.full((4, SIGMA.size), 0.5)
    found = list_offsets([replace(make_arm_curves("a"), clean=half, corrupt=half + offset)], 0.05)
    assert [caution.short.partition(",")[0] for caution in found] == [
        f"sigma_min may be too {side}"
    ]


def test_rates_are_compared_set_by_set(tmp_path: Path) -> None:
    rates = {"clean": 10.0, "a": 20.0, "b": None, "c": 10.0}
    members = {
        name: [replace(e, rate_hz=rate) for e in make_episodes(name, LENGTHS)]
        for name, rate in rates.items()
    }
    found = list_cautions(make_study(tmp_path, members), [], [], {})
    short = {caution.dataset: caution.short for caution in found if "Hz" in caution.text}
    assert short == {
        "a": "20 Hz against 10 Hz of clean",
        "b": "its rate is unknown, and that of clean is 10 Hz",
    }


def test_rates_that_differ_are_told_where_the_clean_rate_is_unknown(tmp_path: Path) -> None:
    rates = {"clean": None, "a": 20.0, "b": 10.0}
    members = {
        name: [replace(e, rate_hz=rate) for e in make_episodes(name, LENGTHS)]
        for name, rate in rates.items()
    }
    found = list_cautions(make_study(tmp_path, members), [], [], {})
    assert [each.text for each in found if "Hz" in each.text] == [
        "rates differ: a 20 Hz, b 10 Hz; a window spans another time in each"
    ]


def test_contradictions_of_episodes_are_told_of_their_set(tmp_path: Path) -> None:
    clean, other = make_episodes("clean", LENGTHS), make_episodes("a", LENGTHS)
    other = [replace(e, rate_hz=10.0, period_s=1 / 30, problems=["odd: 3"]) for e in other]
    study = make_study(tmp_path, {"clean": clean, "a": other})
    found = [each for each in list_cautions(study, [], [], {}) if each.dataset == "a"]
    assert [each.text for each in found][-2:] == [
        "a: odd in 5 of 5 episodes (demo_0, demo_1, demo_2, demo_3, demo_4): 3",
        "a: timestamp contradicts the rate in 5 of 5 episodes (demo_0, demo_1, demo_2, demo_3, "
        "demo_4): 10 Hz is stated, the median step is 0.03333 s (30 Hz); rate_hz = 30 in "
        "ambient.toml states the latter",
    ]
    assert study.noted["a"]["clock_hz"] == pytest.approx(30)
    assert study.sources["a"]["problems"] == study.noted["a"]["contradictions"]


def test_nothing_is_said_of_a_set_that_is_large_and_inside_the_clean_range(tmp_path: Path) -> None:
    lengths = [4] * 20
    clean = make_episodes("clean", lengths)
    inside = [replace(e, action=e.action / 2) for e in clean]
    study = make_study(tmp_path, {"clean": clean, "a": inside})
    assert texts(study, [{"recovered": True}]) == []


@pytest.mark.parametrize(("factor", "is_odd"), [(1.0, False), (1e3, True), (1e-3, True)])
def test_statistics_in_other_units_are_warned_of(study: Study, factor: float, is_odd: bool) -> None:
    """Millimetres read as metres: every number is well formed, and every sigma_min wrong."""
    zero, own = np.zeros(ACTION), study.normalizer
    source = {"file": "stats.json", "format": "lerobot", "sha256": ""}
    trainer = Scaling(zero, own.scale * factor, zero, np.zeros(ACTION, bool), source)
    made = replace(study, normalizer=replace(own, scale=trainer.scale, trainer=trainer))
    found = [text for text in texts(made, []) if text.startswith("scaled by stats.json")]
    assert len(found) == is_odd
    assert all("spans 2e" in text or "spans 0.002" in text for text in found)
