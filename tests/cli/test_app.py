"""The command line: what is called with what, what is said where, and how it ends."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import typer.main
from typer.testing import CliRunner

import ambient_curate
from ambient_curate.annotation import annotate as annotation_annotate
from ambient_curate.cli import demo
from ambient_curate.cli.app import app
from ambient_curate.data import collection, inspection
from ambient_curate.errors import CurateError
from ambient_curate.files import write_json_atomic
from ambient_curate.options import ALIASES, AnnotateOptions
from ambient_curate.report import plots
from ambient_curate.report.figures import list_figures
from ambient_curate.run.records import RUN, SCHEMA_VERSION, Run, open_run_results
from ambient_curate.run.schema import (
    METADATA_KEYS,
    curves_schema,
    manifest_schema,
    reliability_schema,
)
from ambient_curate.run.tables import write_curves, write_part, write_reliability

PLAIN = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
VERDICT = {
    **{"group": None, "episodes": 50, "windows": 700, "reason": "", "quantiles": None},
    **{"nulls": 0, "usable": 1.0, "delta": None, "tv_low": None, "tv_high": None, "index": 0},
    **{"bracket_lower": 0.0, "bracket_upper": 1.0, "tv_finite": None, "tv_floor": None},
    **{"tilt": None, "p_value": None, "tv_lower": None},
}
CLEAN = {"dataset": "own", "is_clean": True, "status": "ok", **VERDICT}
CLEAN |= {"sigma_min": 0.0, "lower": 0.0, "upper": 0.0}
SIM = {"dataset": "sim", "is_clean": False, "status": "ok", **VERDICT, "sigma_min": 0.2}
SIM |= {"lower": 0.1, "upper": 0.3, "tv_high": 0.316, "usable": 0.8, "index": 11}
UNSOUND = {**SIM, "status": "classifier-unreliable", "sigma_min": None, "reason": "missed"}
CONTROL = {"expected": 0.2, "found": 0.19, "lower": 0.1, "upper": 0.3, "recovered": True}
CONTROL |= {"name": "planted shift"}
INFO = {
    **{"verdict": [CLEAN, SIM], "controls": [CONTROL], "epsilon": 0.05, "skipped": []},
    **{"students": []},
    **{"schedule": "flow:10"},
    **{"assumptions": ["p(A)"], "warnings": ["few clean episodes", "sim: 5 Hz, not 10"]},
    **{"assumed": "p(A), not p(A|O)"},
    "cautions": [{"dataset": "sim", "group": None, "text": "sim: 5 Hz, not 10", "short": "5 Hz"}],
}


def call(*arguments: str | Path) -> Any:
    return CliRunner(env=PLAIN).invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def a_collection_that_is_not_there_is_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """`annotate` is replaced where a test says "set": it needs nothing opened."""
    real, checked = collection.open_collection, collection.require_clean

    def open_any(path: Path, **options: Any) -> Any:
        return real(path, **options) if path.exists() else path

    def require(opened: Any) -> str:
        return "own" if isinstance(opened, Path) else checked(opened)

    monkeypatch.setattr(collection, "open_collection", open_any)
    monkeypatch.setattr(collection, "require_clean", require)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, dict[str, Any]]]:
    """Calls of `annotate`, which answers with a finished run."""
    made: list[tuple[Path, dict[str, Any]]] = []

    def annotate(collection: Path, *, progress: object, **changes: Any) -> Run:
        given = {name: value for name, value in changes.items() if value is not None}
        made.append((collection, given))
        return Run(Path("set_run"), INFO, already_complete="seed" in given)

    monkeypatch.setattr(annotation_annotate, "annotate", annotate)
    return made


def fail(error: BaseException) -> Callable[..., Any]:
    def raise_it(*_: object, **__: object) -> Any:
        raise error

    return raise_it


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The directory of a finished run of one corrupt dataset."""

    def table(schema: pa.Schema, *rows: dict[str, Any]) -> pa.Table:
        blank = {f.name: None if f.nullable else 0 for f in schema}
        return pa.Table.from_pylist([{**blank, **row} for row in rows], schema=schema)

    path = tmp_path / "sim_run"
    (path / "manifest").mkdir(parents=True)
    metadata = dict.fromkeys(set(METADATA_KEYS) - {"schema_version"}, "")
    schema = manifest_schema(metadata | {"granularity": "dataset", "grid": "[0.1, 0.5]"})
    row = {"dataset": "sim", "horizon": 16, "is_clean": False, "sigma_min": 0.2, "status": "ok"}
    write_part(table(schema, row), path / "manifest" / "part-00000.parquet")
    levels = [
        {"dataset": "sim", "sigma": sigma, "delta": delta, "accuracy": 0.5}
        | {"delta_lower_approx": delta, "delta_upper_approx": delta}
        | {"tv_lower_approx": 0.0, "tv_upper_approx": 0.1}
        for sigma, delta in ((0.1, 1.0), (0.5, 0.0))
    ]
    write_curves(table(curves_schema(), *levels), path / "curves.parquet")
    cell = {"dataset": "sim", "sigma_low": 0.1, "sigma_high": 0.5, "weight": 1.0, "mean_c": 0.5}
    write_reliability(table(reliability_schema(), cell), path / "reliability.parquet")
    write_json_atomic(
        path / "run.json", {"schema": RUN.schema, "schema_version": SCHEMA_VERSION, **INFO}
    )
    return path


TABLE = """\
dataset  episodes  windows  sigma_min  interval        bracket  Delta  step  usable  status
own            50      700          0  -                     -      -     0   100 %  clean
sim            50      700      0.200  [0.100, 0.300]        -      -    11    80 %  ok

sim: train on it from step 11 of flow:10 on, 80 % of the noise levels: above sigma 0.200 \
[0.100, 0.300]; below, the classifier tells it from clean data; that it differs is \
not certified; 5 Hz
controls: planted shift found at 0.190, expected at 0.200
"""
DETAILS = """\
sim: usable above sigma 0.200: step 11 of flow:10, EDM noise 0.204, flow time 0.170
    if the classifier is near-optimal: then TV is at most 0.316 there
    that it differs is not certified: no bound above 0 holds whatever the classifier
planted shift: expected 0.200, found 0.190 [0.100, 0.300]
"""
LEGEND = (
    "legend: Delta says how far apart noised data and noised clean data are, 0 (alike) to 2; "
    "sigma_min is the noise level above which it stays below 4 epsilon = 0.2\n"
)
ALL_CAVEATS = """\
assumption: p(A)
warning: few clean episodes
warning: sim: 5 Hz, not 10
"""


def caveats_of(path: Path | str) -> str:
    told = "warning: few clean episodes\nassumed: p(A), not p(A|O)\n"
    return f"{LEGEND}{told}details: ambient-curate show {path} --details\n"


def test_annotate_prints_the_verdict_and_tells_the_rest(calls: list[Any]) -> None:
    done = call("annotate", "set")
    assert (done.exit_code, done.stdout) == (0, TABLE)
    after = (
        "run: set_run\nnext: ambient-curate train set_run\nor, for another trainer: "
        "ambient-curate export set_run --to NAME (list shows all)\n"
    )
    assert done.stderr == caveats_of("set_run") + after
    assert calls == [(Path("set"), {})]  # ambient.toml and the defaults decide


def test_annotate_gives_on_what_is_given(calls: list[Any]) -> None:
    call(
        *("annotate", "set", "--granularity", "group", "--group-by", "task", "--tv", ".3"),
        *("--no-checksums", "--store-curves", "--force", "--out", "here", "--limit", "5"),
    )
    assert calls == [
        (
            Path("set"),
            {
                **{"granularity": "group", "group_by": "task", "tv": 0.3, "checksums": False},
                **{"store_curves": True, "force": True, "out": Path("here"), "limit": 5},
            },
        )
    ]


def test_a_default_that_is_given_overrules_the_file(calls: list[Any]) -> None:
    call("annotate", "set", "--horizon", "16", "--checksums")
    assert calls == [(Path("set"), {"horizon": 16, "checksums": True})]


def test_a_complete_run_is_said_to_be_complete(calls: list[Any]) -> None:
    done = call("annotate", "set", "--seed", "1")
    assert (done.exit_code, done.stdout) == (0, TABLE)
    assert done.stderr.startswith("already complete\n")


def test_strict_ends_with_3_where_a_dataset_has_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    infos = {"sound": INFO, "unsound": {**INFO, "verdict": [CLEAN, UNSOUND]}}
    monkeypatch.setattr(
        annotation_annotate, "annotate", lambda path, **_: Run(Path("run"), infos[path.name])
    )
    assert call("annotate", "sound", "--strict").exit_code == 0
    assert call("annotate", "unsound").exit_code == 0
    assert call("annotate", "unsound", "--strict").exit_code == 3


def test_json_is_json(calls: list[Any], run: Path) -> None:
    left_out = ("epsilon", "schedule", "assumed", "cautions")
    expected = {name: INFO[name] for name in INFO if name not in left_out}
    assert json.loads(call("annotate", "set", "--format", "json").stdout) == expected
    assert json.loads(call("show", run, "--format", "json").stdout) == expected


def test_show_says_the_same_again(run: Path) -> None:
    done = call("show", run)
    assert (done.exit_code, done.stdout, done.stderr) == (0, TABLE, caveats_of(run))


def test_show_says_all_when_asked(run: Path) -> None:
    done = call("show", run, "--details")
    table = TABLE.partition("\n\n")[0]
    assert (done.exit_code, done.stdout) == (0, f"{table}\n\n{DETAILS}")
    assert done.stderr == ALL_CAVEATS


@pytest.mark.parametrize(
    "figure", ["accuracy", "delta", "tv", "bracket", "sigma-min", "reliability"]
)
def test_plot_draws_beside_the_run(figure: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    name = f"plot_{figure.replace('-', '_')}"
    draw = getattr(plots, name)
    monkeypatch.setattr(plots, name, lambda *a, **k: drawn.append(figure) or draw(*a, **k))
    monkeypatch.chdir(run.parent)
    before = sorted(run.rglob("*"))
    done = call("plot", run.name, figure)
    assert (done.exit_code, done.stdout) == (0, f"sim_run_{figure}.png\n")
    assert drawn == [figure]
    assert (run.parent / f"sim_run_{figure}.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(run.rglob("*")) == before


def test_plot_writes_where_it_is_told(run: Path, tmp_path: Path) -> None:
    done = call("plot", run, "delta", "--out", tmp_path / "d.svg")
    assert done.stdout == f"{tmp_path / 'd.svg'}\n"
    assert "<svg" in (tmp_path / "d.svg").read_text()
    refused = call("plot", run, "delta", "--out", tmp_path / "d.bmp")
    assert refused.exit_code == 1
    assert ".bmp" in refused.stderr


def save(path: Path, *episodes: int) -> None:
    ends = np.cumsum(episodes)
    action = np.random.default_rng(ends[-1]).normal(size=(ends[-1], 2)).astype(np.float32)
    np.savez(path, action=action, episode_ends=ends)


def test_inspect_shows_members_problems_and_what_is_broken(tmp_path: Path) -> None:
    save(tmp_path / "clean.npz", 20, 30)
    save(tmp_path / "sim.npz", 40)
    done = call("inspect", tmp_path)
    assert done.exit_code == 0
    assert re.search(r"^clean \(clean\) +npz +2 +50 +20 to 30 +2 ", done.stdout, re.MULTILINE)
    assert re.search(r"^sim +npz +1 +40 ", done.stdout, re.MULTILINE)
    content = json.loads(call("inspect", tmp_path, "--format", "json").stdout)
    assert [member["episodes"] for member in content["members"]] == [2, 1]
    named = json.loads(call("inspect", tmp_path, "--clean", "sim", "--format", "json").stdout)
    assert [m["name"] for m in named["members"] if m["is_clean"]] == ["sim"]
    (tmp_path / "bad" / "meta").mkdir(parents=True)
    (tmp_path / "bad" / "meta" / "info.json").write_text("no")
    done = call("inspect", tmp_path)
    assert done.exit_code == 1
    assert "\nbad: cannot be opened: " in done.stdout
    assert "\nerror: nothing can be read of bad\nhint: " in done.stderr


def test_an_inspection_that_reads_nothing_of_a_set_fails_with_the_reason_once(
    tmp_path: Path,
) -> None:
    (tmp_path / "clean").mkdir()
    (tmp_path / "sim").mkdir()
    save(tmp_path / "clean" / "a.npz", 20)
    for number in range(200):
        np.save(tmp_path / "sim" / f"{number}.npy", np.full((3, 2), np.nan))
    done = call("inspect", tmp_path)
    assert done.exit_code == 1
    reasons = [line for line in done.stdout.splitlines() if "not finite" in line]
    assert len(reasons) == 1 and reasons[0].endswith("(and 199 more like it)")
    assert "\nerror: nothing can be read of sim\nhint: exclude = [" in done.stderr


def test_annotate_says_that_no_clean_set_is_named_before_it_loads_torch(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", 20)
    program = "import sys; from ambient_curate.cli.app import app; "
    program += "app(['annotate', sys.argv[1]], standalone_mode=False)"
    program = f"try:\n    {program}\nfinally:\n    print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "False\n"
    assert "error: no clean set is named" in done.stderr
    assert 'episodes = ":30"' in done.stderr and "split it in ambient.toml" in done.stderr


def test_a_path_with_a_space_is_quoted_in_what_comes_next(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_annotate, "annotate", lambda *_, **__: Run(Path("a run"), INFO))
    said = call("annotate", "set").stderr
    assert "train 'a run'\n" in said and "export 'a run' " in said and "show 'a run' " in said


def test_the_demo_draws_every_figure(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def run_demo(out: Path, *, force: bool, progress: object) -> Run:
        asked.update(out=out, force=force)
        return open_run_results(run)

    monkeypatch.setattr(demo, "run_demo", run_demo)
    done = call("demo", "--out", run.parent, "--force")
    assert (done.exit_code, done.stdout) == (0, TABLE)
    assert asked == {"out": run.parent, "force": True}
    for figure in list_figures(open_run_results(run)):
        assert f"figure: {run.parent / figure}.png\n" in done.stderr
        assert (run.parent / f"{figure}.png").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (CurateError("a is [1]", "use b"), ["error: a is [1]", "hint: use b"]),
        (CurateError("a is 1"), ["error: a is 1"]),
        (
            PermissionError(errno.EACCES, "Permission denied", "set/a.npz"),
            ["error: set/a.npz: Permission denied", "hint: check the path and its permissions"],
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            [
                "error: the disk is full: [Errno 28] No space left on device",
                "hint: make room and give the same command again",
            ],
        ),
    ],
)
def test_an_expected_failure_is_a_message_and_a_hint(
    error: Exception, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_annotate, "annotate", fail(error))
    done = call("annotate", "set")
    assert (done.exit_code, done.stdout, done.stderr.splitlines()) == (1, "", said)


@pytest.mark.parametrize("bug", [KeyError("a"), ValueError("b"), OSError("no file is named")])
def test_a_bug_stays_a_traceback(bug: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_annotate, "annotate", fail(bug))
    assert call("annotate", "set").exception is bug


def test_an_interruption_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_annotate, "annotate", fail(KeyboardInterrupt()))
    done = call("annotate", "set")
    assert (done.exit_code, done.stderr) == (130, "interrupted: the same command continues\n")


def test_what_cannot_continue_does_not_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "clean.npz", 20)
    monkeypatch.setattr(inspection, "inspect_collection", fail(KeyboardInterrupt()))
    done = call("inspect", tmp_path)
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize(
    "arguments",
    [
        *(["annotate"], ["annotate", "set", "--horizon", "x"], ["annotate", "set", "--epsilom=1"]),
        *(["annotate", "set", "--represent", "both"], ["plot", "run", "colours"], ["unknown"]),
        ["show", "run", "--format", "xml"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    done = call(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Usage: " in done.stderr


def test_epsilon_has_one_value(tmp_path: Path) -> None:
    save(tmp_path / "clean.npz", 20)
    done = call("annotate", tmp_path, "--epsilon", "0.1", "--tv", "0.2")
    assert done.exit_code == 1
    assert "epsilon and tv say the same thing" in done.stderr


def parameters(command: str) -> dict[str, Any]:
    group = typer.main.get_command(app)
    return {each.name: each for each in group.commands[command].params}  # type: ignore[attr-defined]


def test_annotate_has_an_option_for_everything_that_may_be_chosen() -> None:
    found = parameters("annotate")
    names = [field.name for field in fields(AnnotateOptions)]
    assert set(found) - {"collection", "format", "help"} == {*names, *ALIASES}
    for field in fields(AnnotateOptions):
        option = found[field.name]
        assert option.default is None  # else ambient.toml would be overruled
        assert option.opts == [f"--{field.name.rstrip('_').replace('_', '-')}"]
        text, _, default = option.help.partition("  [default: ")
        assert text == AnnotateOptions.declared[field.name].help.replace("None:", "Default:")
        silent = field.default is None or field.default is False
        value = f"--{field.name}" if field.default is True else str(field.default)
        assert default == ("" if silent else f"{value}]")


def test_what_the_file_may_switch_on_can_be_switched_off() -> None:
    found = parameters("annotate")
    switches = {
        name: option.secondary_opts
        for name, option in found.items()
        if getattr(option, "is_flag", False)
    }
    assert switches.pop("checksums") == ["--no-checksums"]
    assert switches.pop("store_curves") == ["--no-store-curves"]
    ways = {name: [f"--no-{name}"] for name in ("locality", "legibility")}
    assert switches == {"force": [], "strict": [], **ways}


def test_the_version() -> None:
    done = call("--version")
    assert (done.exit_code, done.stdout) == (0, f"ambient-curate {ambient_curate.__version__}\n")


def test_every_command_has_help_in_a_line() -> None:
    text = call("--help").stdout
    for name in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert re.search(rf"^  {name} +[A-Z].*[a-z]\.$", text, re.MULTILINE), name
        assert call(name, "--help").exit_code == 0


def test_the_module_is_the_command_and_its_help_loads_little() -> None:
    program = (
        "import runpy, sys\n"
        "sys.argv = ['ambient-curate', '--help']\n"
        "try:\n"
        "    runpy.run_module('ambient_curate', run_name='__main__')\n"
        "finally:\n"
        "    print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | PLAIN, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: ambient-curate [OPTIONS] COMMAND")
    loaded = set(done.stderr.split())
    assert "ambient_curate.cli.app" in loaded
    assert not loaded & {"torch", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib", "plotly"}


def test_completion_knows_the_commands() -> None:
    completing = {"_AMBIENT_CURATE_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "ambient_curate"],
        env=os.environ | PLAIN | completing | {"COMP_WORDS": "ambient-curate an"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["annotate"]
