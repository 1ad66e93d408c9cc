"""The verdict in words: every sentence by hand, and no warning on the unsafe side is left out."""

from typing import Any

import pytest

from ambient_curate.report.sentences import (
    list_run_warnings,
    summarize_controls,
    summarize_sets,
    write_bracket,
    write_range,
    write_sigma,
)
from ambient_curate.run.records import explain_missed


def make_row(**changes: Any) -> dict[str, Any]:
    """A dataset that differs up to .074, certified up to .02."""
    row = {
        **{"dataset": "sim", "group": None, "is_clean": False, "status": "ok", "reason": ""},
        **{"sigma_min": 0.0737, "lower": 0.05, "upper": 1.0, "index": 4, "usable": 0.957},
        **{"bracket_lower": 0.02, "bracket_upper": 1.0, "tv_floor": 0.1962, "tv_lower": 0.3},
        **{"quantiles": None, "nulls": 0, "tilt": None, "p_value": 0.001, "sigma_max": 0.0},
        **{"network_sigma_min": 0.0737, "challenger_sigma_min": None},
    }
    return row | changes


CLEAN = make_row(dataset="own", is_clean=True, sigma_min=0.0)
CONTROL = {"name": "planted shift", "expected": 0.2, "found": 0.181, "recovered": True}


def make_info(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    info = {"verdict": [CLEAN, *rows], "schedule": "flow:10", "granularity": "dataset"}
    return info | {"controls": [], "warnings": [], "cautions": []} | changes


def say(row: dict[str, Any], **changes: Any) -> str:
    ((name, sentence),) = summarize_sets(make_info(row, **changes))
    assert name == "sim" and "\n" not in sentence
    return sentence


def test_a_sentence_says_what_to_do_what_gave_it_away_and_how_sure() -> None:
    assert say(make_row()) == (
        "train on it from step 4 of flow:10 on, 96 % of the noise levels: above sigma 0.074 "
        "[0.050, 1]; below, the classifier tells it from clean data; that it differs is certified "
        "up to sigma 0.020"
    )
    group = make_row(group="pour")
    assert list(summarize_sets(make_info(group))) == [("sim / pour", say(make_row()))]


def test_a_set_without_a_difference_is_not_said_to_be_proven_equal() -> None:
    equal = {"sigma_min": 0.0, "lower": 0.0, "upper": 0.07, "index": 0, "usable": 1.0}
    equal |= {"bracket_lower": 0.0, "tv_lower": 0.0, "p_value": 0.43}
    assert say(make_row(**equal)) == (
        "train on it at every noise level: no difference beyond the margin was found; sigma_min "
        "may still be up to 0.070; that it differs is not certified, and a test without the "
        "classifier finds no difference (p = 0.430); with so few episodes a total variation of "
        "0.196 cannot be ruled out"
    )
    assert "may still be" not in say(make_row(**equal | {"upper": 0.0}))
    assert say(make_row(**equal | {"bracket_upper": 0.5})).endswith(
        "; that what is left is within the margin is certified from sigma 0.500 on"
    )


def test_a_difference_that_a_test_finds_and_no_bound_certifies_is_explained() -> None:
    """Both hold: so small a p-value, and a lower bound of 0 on the size of the difference."""
    found = {"bracket_lower": 0.0, "tv_lower": 0.0}
    assert say(make_row(**found, p_value=0.001)).endswith(
        "; a test without the classifier finds a difference (p = 0.001), but how large it is at "
        "least is not certified"
    )
    assert say(make_row(**found, p_value=0.05)).endswith("finds no difference (p = 0.050)")
    assert say(make_row(**found, p_value=None)).endswith("; that it differs is not certified")


def test_a_bracket_that_says_nothing_is_not_written() -> None:
    assert write_bracket(make_row()) == "[0.020, 1]"
    assert write_bracket(make_row(bracket_lower=0.0, bracket_upper=0.9)) == "[0, 0.900]"
    assert write_bracket(make_row(bracket_lower=0.0)) == "-"
    assert write_bracket(make_row(bracket_lower=None, bracket_upper=None)) == "-"
    assert write_bracket(CLEAN) == "-"


def test_what_is_never_usable_is_left_out() -> None:
    never = {"sigma_min": 1.0, "index": None, "usable": 0.0}
    assert say(make_row(**never)).startswith(
        "leave it out: usable at no noise level; the classifier tells it from clean data at every "
        "noise level; that it differs"
    )
    last = say(make_row(sigma_min=0.99, index=None, usable=0.0))
    assert last.startswith("leave it out: usable above sigma 0.990 [0.050, 1] only: flow:10 has no")
    low = say(make_row(**never, sigma_max=0.25))
    assert low.startswith("train on it at no noise level, and up to sigma 0.250 too; ") is False
    assert low.startswith("train on it up to sigma 0.250 only; ")


@pytest.mark.parametrize("status", ["classifier-unreliable", "not-compared", "too-few-episodes"])
@pytest.mark.parametrize("is_clean", [False, True])
def test_a_set_without_an_answer_is_refused_with_its_reason(status: str, is_clean: bool) -> None:
    row = make_row(
        **{"is_clean": is_clean, "status": status, "reason": "the reason", "sigma_min": None},
        **{"lower": None, "upper": None, "index": None, "usable": 0.0},
    )
    assert say(row) == f"do not train on it, {status}: the reason"


def test_a_challenger_that_raised_sigma_min_is_named() -> None:
    text = say(make_row(network_sigma_min=0.012, challenger_sigma_min=0.0737))
    assert (
        "; gradient boosting distinguished it from clean data where the network did not, "
        "which raised sigma_min from 0.012; " in text
    )


def test_what_is_certified_at_the_lowest_noise_only_is_said_to_be_so() -> None:
    text = say(make_row(bracket_lower=0.0))
    assert text.endswith("; that it differs is certified at the lowest noise only (TV >= 0.300)")


def test_cautions_end_the_sentence_of_their_own_set() -> None:
    low = {
        "dataset": "sim",
        "group": None,
        "text": "sim: long",
        "short": "sigma_min may be too low",
    }
    others = [low | {"group": "pour", "short": "no"}, low | {"dataset": "far", "short": "no"}]
    assert say(make_row(), cautions=[low]) == say(make_row()) + "; sigma_min may be too low"
    assert say(make_row(), cautions=others) == say(make_row())


def test_rows_are_chosen_one_by_one() -> None:
    tilt = {"mixture": 0.9719, "clean": 0.4997}
    spread = {"quantiles": [0.0, 0.25, 1.0], "nulls": 1200, "usable": 0.61}
    text = say(make_row(**spread, tilt=tilt), granularity="datapoint")
    assert text == (
        "choose by window: 61 % of the noise levels are usable on average, with sigma_min 0 to 1 "
        "for the middle 80 % of its windows (1,200 have none); as a whole it is usable above sigma "
        "0.074 [0.050, 1]; below, the classifier tells it from clean data; that it differs is "
        "certified up to sigma 0.020; choosing by window puts 97% of the training windows where "
        "the clean set has 50%: draw them by column weight"
    )
    even = say(make_row(**spread, tilt=tilt | {"mixture": 0.52}), granularity="datapoint")
    assert "column weight" not in even
    assert say(make_row(**spread), granularity="episode").startswith("choose by episode: ")


def test_low_noise_may_train_too_or_is_refused() -> None:
    assert "[0.050, 1], and up to sigma 0.050 too; " in say(make_row(sigma_max=0.05))
    refused = {"dataset": "sim", "group": None, "status": "not-compared"}
    sound = refused | {"status": "ok"}
    text = say(make_row(), locality=[refused], legibility=[sound])
    assert text == say(make_row()) + "; no sigma_max by locality, not-compared"


def test_controls_are_told_once_with_what_a_missed_one_means() -> None:
    spike = CONTROL | {"name": "planted spike", "recovered": False}
    high = spike | {"found": 0.4}
    low_side, _, low_advice = explain_missed(0.2, 0.181).partition(": ")
    high_side, _, high_advice = explain_missed(0.2, 0.4).partition(": ")
    assert "add clean episodes" in low_advice and (low_side, high_side) == (
        *("missed, too low", "missed, too high"),
    )
    assert summarize_controls(make_info(controls=[CONTROL, spike, spike, high])) == (
        "planted shift found at 0.181, expected at 0.200; "
        + 2 * f"planted spike found at 0.181, expected at 0.200 ({low_side}); "
        + f"planted spike found at 0.400, expected at 0.200 ({high_side}); {low_advice}; "
        + high_advice
    )
    assert summarize_controls(make_info()) == ""


def test_every_warning_is_told_in_a_sentence_or_of_the_whole_run() -> None:
    """One whose set has no sentence is told of the run, and so is everything of an old run."""
    of_set = {"dataset": "sim", "group": None, "text": "sim: 5 Hz", "short": "5 Hz"}
    of_clean = of_set | {"dataset": "own", "text": "own: odd"}
    control = {"dataset": None, "group": None, "text": "missed", "short": "too low"}
    warnings = ["few clean episodes", "missed", "sim: 5 Hz", "own: odd"]
    info = make_info(make_row(), warnings=warnings, cautions=[of_set, of_clean, control])
    assert list_run_warnings(info) == ["few clean episodes", "own: odd"]
    del info["cautions"]
    assert list_run_warnings(info) == warnings
    assert list(summarize_sets(info)) == [("sim", say(make_row()))]


def test_the_exact_ends_of_the_scale_are_written_as_such() -> None:
    assert [write_sigma(value) for value in (0.0, 1.0, 0.12345, None)] == ["0", "1", "0.123", "-"]
    assert (write_range(0.0, 0.5), write_range(None, 0.5)) == ("[0, 0.500]", "-")
