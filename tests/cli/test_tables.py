"""What a terminal shows of a run and of a collection, word for word."""

from pathlib import Path
from typing import Any

from ambient_curate.cli.tables import (
    all_caveats,
    caveats,
    comparison_lines,
    comparison_tables,
    inspection_lines,
    inspection_table,
    verdict_details,
    verdict_lines,
    verdict_table,
    verification_lines,
    verification_table,
)
from ambient_curate.data.inspection import Inspection, MemberInspection
from ambient_curate.run.compare import Comparison, Difference, MovedRow, Rows, VerdictPair
from ambient_curate.run.records import explain_missed
from ambient_curate.run.verify import CHECKS, Check, Verification

HEADINGS = [
    *("dataset", "episodes", "windows", "sigma_min", "interval", "bracket", "Delta", "step"),
    *("usable", "status"),
]


def make_row(dataset: str, **changes: Any) -> dict[str, Any]:
    blank = dict.fromkeys(
        [
            *("group", "sigma_min", "lower", "upper", "delta", "tv_low", "tv_high", "index"),
            *("usable", "bracket_lower", "bracket_upper", "tv_finite", "tv_floor", "tilt"),
            *("p_value", "tv_lower"),
        ]
    )
    row = {"dataset": dataset, "is_clean": False, "episodes": 50, "windows": 12345, "reason": ""}
    return {**row, **blank, "status": "ok", "quantiles": None, "nulls": 0, **changes}


CLEAN = make_row(
    "own", is_clean=True, episodes=9, sigma_min=0.0, lower=0.0, upper=0.0, index=0, usable=1.0
)
SIM = make_row(
    "sim",
    **{"sigma_min": 0.0737, "lower": 0.05, "upper": 1.0, "delta": 0.19, "index": 4},
    **{"tv_low": 0.1, "tv_high": 0.31623, "usable": 0.957, "tv_finite": 0.411},
    **{"bracket_lower": 0.02, "bracket_upper": 1.0, "tv_floor": 0.1962},
)
FEW = make_row("few", status="too-few-episodes", reason="fewer than the folds")


def test_a_verdict_of_datasets() -> None:
    columns, rows = verdict_table([CLEAN, SIM, FEW])
    assert columns == HEADINGS
    interval, bracket = "[0.050, 1]", "[0.020, 1]"
    assert rows == [
        ["own", "9", "12,345", "0", "-", "-", "-", "0", "100 %", "clean"],
        ["sim", "50", "12,345", "0.074", interval, bracket, "0.190", "4", "96 %", "ok"],
        ["few", "50", "12,345", *"------", "too-few-episodes"],
    ]


def test_columns_of_groups_and_quantiles_come_when_a_row_has_them() -> None:
    grouped = make_row("sim", group="pour")
    spread = make_row("sim", quantiles=[0.0, 0.25, 1.0], nulls=1200)
    columns, rows = verdict_table([SIM, grouped])
    assert columns == ["dataset", "group", *HEADINGS[1:]]
    assert [row[1] for row in rows] == ["-", "pour"]
    columns, rows = verdict_table([SIM, spread])
    assert columns == [*HEADINGS[:6], "10 %", "50 %", "90 %", "null", *HEADINGS[6:]]
    assert [row[6:10] for row in rows] == [["-"] * 4, ["0", "0.250", "1", "1,200"]]


def test_below_a_verdict_stand_reasons_and_the_controls() -> None:
    levels = {"expected": 0.2, "found": 0.181, "lower": 0.15, "upper": 0.21}
    shift, spike = (
        {"name": name, **levels, "recovered": recovered}
        for name, recovered in (("planted shift", True), ("planted spike", False))
    )
    info = {"verdict": [CLEAN, FEW, {**FEW, "group": "pour"}], "controls": [shift, spike]}
    found = "expected 0.200, found 0.181 [0.150, 0.210]"
    assert list(verdict_details(info)) == [
        "few: fewer than the folds",
        "few / pour: fewer than the folds",
        f"planted shift: {found}",
        f"planted spike: {found}: {explain_missed(0.2, 0.181)}",
    ]
    assert list(verdict_details({"verdict": [CLEAN], "controls": []})) == []


def test_runs_of_earlier_versions_have_one_control_at_most() -> None:
    control = {"expected": 0.2, "found": 0.181, "lower": 0.15, "upper": 0.21, "recovered": False}
    found = "planted control: expected 0.200, found 0.181 [0.150, 0.210]: missed, too low: "
    (text,) = verdict_details({"verdict": [CLEAN], "control": control})
    assert text.startswith(found)
    assert list(verdict_details({"verdict": [CLEAN], "control": None})) == []


def lines_of(row: dict[str, Any]) -> list[str]:
    info = {"verdict": [row], "controls": [], "epsilon": 0.05, "schedule": "flow:10"}
    first, *others = verdict_details(info)
    assert all(line.startswith("    ") for line in others)
    return [first.removeprefix("sim: "), *(line.strip() for line in others)]


def test_a_number_is_told_with_what_is_believed_certified_and_unknown() -> None:
    assert lines_of(SIM) == [
        "usable above sigma 0.074: step 4 of flow:10, EDM noise 0.074, flow time 0.069",
        "if the classifier is near-optimal: then TV is at most 0.316 there",
        "the sampled windows differ there by a TV of at most 0.411",
        "certified, whatever the classifier: up to sigma 0.020 TV is at least 0.100",
        "no upper bound on the populations' TV below 0.196 can come from so few episodes",
    ]


def test_what_is_not_certified_is_said_to_be_unknown() -> None:
    nothing = SIM | {"bracket_lower": 0.0, "tv_floor": None, "tv_finite": None}
    assert lines_of(nothing)[2:] == [
        "that it differs is not certified: no bound above 0 holds whatever the classifier"
    ]
    (some,) = lines_of(nothing | {"tv_lower": 0.39})[2:]
    assert some.startswith("certified, whatever the classifier: at the lowest noise TV is at least")
    assert "0.390" in some
    assert some.endswith("too little for a bracket")
    both = lines_of(SIM | {"bracket_upper": 0.5})
    assert both[-1] == "certified: from sigma 0.500 on Delta is below the rule's"
    never = lines_of(SIM | {"sigma_min": 1.0, "index": None, "tv_high": None, "tv_finite": None})
    assert never[0] == "not usable at any noise level"
    last = lines_of(SIM | {"sigma_min": 0.99, "index": None})
    assert "no step of flow:10" in last[0]


def test_what_choosing_by_window_tilts_and_what_the_weights_cost_is_told() -> None:
    tilt = {
        **{"usable": 0.4613, "mixture": 0.9719, "clean": 0.4997, "weighted": 0.4944},
        **{"windows": 1912.6, "episodes": 343.5},
    }
    lines = lines_of(SIM | {"tilt": tilt})
    assert lines[3:5] == [
        "46.1 % of its windows are usable at the lowest noise; with them 0.972 of the training "
        "windows lie where the clean set has 0.500; by column weight, 0.494",
        "all its windows and the clean set's by column weight are worth 1,913 equal windows of "
        "344 episodes",
    ]
    none = lines_of(SIM | {"tilt": tilt | {"usable": 0.0}})
    assert none[3] == "none of its windows is usable at the lowest noise"
    assert none[4:] == lines[4:]
    assert lines[:3] + lines[5:] == lines_of(SIM)


def test_the_test_without_a_classifier_is_told_with_its_p_value() -> None:
    lines = lines_of(SIM | {"p_value": 0.0121})
    assert lines[3] == (
        "without a classifier: so large a difference at the lowest noise has p = 0.012 if both "
        "follow one law"
    )
    assert lines[:3] + lines[4:] == lines_of(SIM)


def test_below_a_verdict_stand_a_sentence_a_set_and_one_of_the_controls() -> None:
    control = {"name": "planted spike", "expected": 0.2, "found": 0.181, "recovered": False}
    caution = {"dataset": "sim", "group": None, "text": "sim: 5 Hz, slow", "short": "5 Hz"}
    info = {"verdict": [CLEAN, SIM, FEW], "controls": [control], "schedule": "flow:10"}
    sim, few, controls = verdict_lines(info | {"cautions": [caution]})
    assert sim.startswith("sim: train on it from step 4 of flow:10 on, 96 % of the noise levels")
    assert sim.endswith("; 5 Hz")
    assert few == "few: do not train on it, too-few-episodes: fewer than the folds"
    assert controls == (
        "controls: planted spike found at 0.181, expected at 0.200 (missed, too low); "
        + explain_missed(0.2, 0.181).partition(": ")[2]
    )
    assert list(verdict_lines({"verdict": [CLEAN], "controls": []})) == []


def test_caveats_of_a_run_are_told_once_and_in_short() -> None:
    skipped = [{"file": f"{name}.npz", "error": "empty"} for name in "abcde"]
    cautions = [{"dataset": "sim", "group": None, "text": "sim: 5 Hz", "short": "5 Hz"}]
    info = {"verdict": [CLEAN, SIM], "assumptions": ["p(A)", "minmax"], "skipped": skipped}
    info |= {"warnings": ["few", "sim: 5 Hz"], "cautions": cautions, "assumed": "p(A); minmax"}
    info |= {"epsilon": 0.03}
    legend = (
        "legend: Delta says how far apart noised data and noised clean data are, 0 (alike) to 2; "
        "sigma_min is the noise level above which it stays below 4 epsilon = 0.12"
    )
    assert list(caveats(info)) == [
        legend,
        "warning: few",
        "skipped: a.npz: empty (and 4 more like it)",
        "assumed: p(A); minmax",
    ]
    del info["assumed"], info["cautions"]
    assert list(caveats(info | {"skipped": []})) == [
        legend,
        *("warning: few", "warning: sim: 5 Hz", "assumption: p(A)", "assumption: minmax"),
    ]


def test_all_caveats_hold_everything_a_reader_must_know() -> None:
    skipped = [{"file": "a.npz", "error": "empty"}]
    students = [
        {"dataset": "a", "error": 0.0123, "trusted": True},
        {"dataset": "b", "error": 0.0456, "trusted": False},
    ]
    info = {"assumptions": ["p(A)"], "warnings": ["few"], "skipped": skipped, "students": students}
    assert list(all_caveats(info)) == [
        "assumption: p(A)",
        "a: its windows are annotated by students (mean error of sigma_min 0.012)",
        "b: its windows are annotated by noise draws, since its students err too much (mean error "
        "of sigma_min 0.046)",
        "warning: few",
        "skipped: a.npz: empty",
    ]


def make_member(name: str, **changes: Any) -> MemberInspection:
    values: dict[str, Any] = {
        **{"name": name, "format": "npz", "path": Path(name), "is_clean": False},
        **{"episodes": 0, "steps": 0, "shortest": 0, "longest": 0, "action_dim": None},
        **{"state_dim": None, "rate_hz": None, "tasks": 0, "duplicates": 0},
        **{"duplicates_elsewhere": 0, "problems": (), "notes": ()},
    }
    return MemberInspection(**{**values, **changes})


def test_an_inspection() -> None:
    full = make_member(
        "own",
        **{"is_clean": True, "episodes": 1200, "steps": 34567, "shortest": 8, "longest": 99},
        **{"action_dim": 7, "state_dim": 8, "rate_hz": 5.0, "tasks": 2, "duplicates": 3},
        **{"duplicates_elsewhere": 4, "problems": ("constant: 3",), "notes": ("absolute",)},
    )
    members = (full, make_member("none", problems=("nothing is left",)))
    inspection = Inspection(Path("all"), "own", members, (("bad", "no info.json"),), ("rates",))
    columns, rows = inspection_table(inspection)
    assert dict(zip(columns, rows[0], strict=True)) == {
        **{"dataset": "own (clean)", "format": "npz", "episodes": "1,200", "steps": "34,567"},
        **{"lengths": "8 to 99", "action": "7", "state": "8", "Hz": "5", "tasks": "2"},
        **{"repeated": "3", "elsewhere": "4"},
    }
    assert rows[1] == ["none", "npz", "0", "0", "0 to 0", "-", "-", "-", "0", "0", "0"]
    assert list(inspection_lines(inspection)) == [
        "own: constant: 3",
        "own: note: absolute",
        "none: nothing is left",
        "bad: cannot be opened: no info.json",
        "rates",
    ]


def test_a_verification_names_what_was_not_checked() -> None:
    found = Verification(Path("run"), (Check("record"), Check("files", ("a is missing", "b is"))))
    columns, rows = verification_table(found)
    assert columns == ["check", "state", "what it says"]
    states = {row[0]: row[1] for row in rows}
    assert list(states) == list(CHECKS)
    assert (states["record"], states["files"]) == ("holds", "2 wrong")
    assert set(list(states.values())[2:]) == {"not checked"}
    assert list(verification_lines(found)) == ["files: a is missing", "files: b is"]


def compared(**changes: Any) -> Comparison:
    same: dict[str, Any] = {
        **{"paths": (Path("a"), Path("b")), "granularity": ("dataset", "dataset")},
        **{"differences": (), "verdict": (), "rows": (), "most_moved": (), "other_files": ()},
    }
    return Comparison(**same | changes)


def test_identical_runs_have_one_line_and_no_table() -> None:
    pair = VerdictPair("far", None, (0.3, 0.3), (0.7, 0.7), True)
    found = compared(verdict=(pair,))
    assert list(comparison_lines(found)) == ["identical: the same inputs and the same results"]
    assert list(comparison_tables(found)) == []


def test_a_comparison_says_what_went_in_and_what_came_out() -> None:
    differences = [Difference("options.horizon", "4", "8")]
    differences += [Difference(f"sources.far.files.{n}", "1", "2") for n in range(21)]
    pairs = (
        VerdictPair("far", None, (0.3, 0.25), (0.7, 0.75), False),
        VerdictPair("away", None, (None, 0.5), (None, 0.5), None),
    )
    rows = (Rows("far", 1200, 3, 0, 1, 2, 0.25, 0.004, 0.5),)
    moved = (MovedRow("far", None, "7", None, 0.25, 0.75),)
    found = compared(differences=tuple(differences), verdict=pairs, rows=rows, most_moved=moved)
    lines = list(comparison_lines(found))
    assert lines[0] == "options.horizon: 4 -> 8"
    assert lines[20:] == [
        "and 2 more differences of the inputs",
        "windows of other lengths are compared by where they start",
    ]
    (_, (columns, cells)), (_, counts), (_, most) = comparison_tables(found)
    assert "group" not in columns
    assert cells == [
        ["far", "0.300", "0.250", "-0.050", "70 %", "75 %", "others"],
        ["away", "-", "0.500", "-", "-", "50 %", "-"],
    ]
    assert counts[1] == [["far", "1,200", "3", "0", "1", "2", "25 %", "0.004", "0.500"]]
    assert most == (
        ["dataset", "episode", "A", "B", "moved"],
        [["far", "7", "0.250", "0.750", "+0.500"]],
    )


def test_locality_is_told_with_its_radius() -> None:
    def say(radius: int, certified: int, status: str = "ok") -> list[str]:
        located = {
            **{"dataset": "a", "group": None, "status": status, "radius": radius},
            **{"radius_bracket": certified, "delta": [0.1] * 16, "sigma_max": 0.25},
            **{"sigma_max_lower": 0.1, "sigma_max_upper": 0.3},
        }
        info = {"verdict": [], "controls": [], "locality": [located]}
        return list(verdict_details(info))

    assert say(4, 15) == [
        "a: usable up to sigma 0.250 [0.100, 0.300] too: a denoiser depends there on no more than "
        "4 frames to either side, and so far all is alike"
    ]
    assert say(15, 15) == ["a: usable at every noise: even whole windows are alike"]
    assert say(-1, -1) == [
        "a: no sigma_max: single frames differ already",
        "    certified, whatever the classifier: crops of radius 0 differ",
    ]
    assert say(4, 15, "classifier-unreliable") == [
        "a: no sigma_max: classifier-unreliable, of crops"
    ]
