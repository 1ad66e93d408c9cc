"""README and docs/ say what the program does: commands, options, files, numbers and output."""

import re
import tomllib
from collections.abc import Sequence
from importlib import import_module
from itertools import starmap, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from spectra import FAULTS, spectral_sigma_min, tremor_limits
from typer.testing import CliRunner

import ambient_curate
from ambient_curate import integrations
from ambient_curate.annotation.annotate import annotate
from ambient_curate.cli.app import app
from ambient_curate.cli.console import CONTINUED
from ambient_curate.cli.demo import make_demo
from ambient_curate.data.selection import MemberOptions
from ambient_curate.data.settings import FILE_OPTIONS, find_sources, read_collection_file
from ambient_curate.export.trainers import TRAINERS, ExportOptions
from ambient_curate.options import AnnotateOptions
from ambient_curate.policy.options import PolicyOptions
from ambient_curate.report.figures import ALL_FIGURES, FIGURES
from ambient_curate.run.schema import CURVE_FIELDS, MANIFEST_FIELDS, RELIABILITY_FIELDS, STATUSES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
DOCS = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
OURS = [page for page in PAGES if page.parent.parent.name != "examples"]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
HEADINGS = re.findall(r"^## (.*)$", DOCS["commands"], re.MULTILINE)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str, language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]


def section(text: str, heading: str) -> str:
    """Text under a heading of the second level."""
    assert f"\n## {heading}\n" in text, heading
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """Cells of all rows of the tables of a text, headings among them."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def quoted(cell: str) -> list[str]:
    """Names in backticks."""
    return re.findall(r"`([\w-]+)`", cell)


def quoted_first(text: str) -> list[str]:
    """Names in backticks of the first column of the tables of a text."""
    return [name for row in rows(text) for name in quoted(row[0])]


def verdict() -> str:
    return next(block for block in blocks(README) if block.startswith("dataset "))


def options_of(*commands: str) -> set[str]:
    """Options of commands, without what switches another one off."""
    return {
        name
        for command in commands
        for parameter in COMMANDS[command].params
        for name in parameter.opts
        if name.startswith("--")
    }


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def test_every_command_has_a_section() -> None:
    listed = re.findall(r"^ambient-curate (\w+)", blocks(DOCS["commands"])[0], re.MULTILINE)
    assert listed == list(COMMANDS)
    assert sorted(" and ".join(HEADINGS).split(" and ")) == sorted(COMMANDS)


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_command_has_the_documented_options_and_no_others(heading: str) -> None:
    told = options_in(section(DOCS["commands"], heading)) - {"--no-checksums"}
    known = options_of(*heading.split(" and "))
    assert (told - known, known - told - {"--help"}) == (set(), set())


@pytest.mark.parametrize(
    ("command", "options"),
    [("annotate", AnnotateOptions()), ("train", PolicyOptions()), ("export", ExportOptions())],
)
def test_an_option_has_the_documented_default(command: str, options: Any) -> None:
    shown = {"True": "on", "False": "off", "None": ""}
    told = {
        row[0].strip("`-").replace("-", "_"): row[1]
        for row in rows(section(DOCS["commands"], command))
    }
    for name in told.keys() & type(options).__annotations__.keys():
        default = str(getattr(options, name))
        assert told[name] == shown.get(default, default), name


def test_every_figure_is_documented() -> None:
    told = quoted_first(section(DOCS["commands"], "plot"))
    assert sorted(told) == sorted(ALL_FIGURES)


@pytest.mark.parametrize("page", OURS, ids=named)
def test_the_commands_and_options_of_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"ambient-curate (\w+)", text)) <= {*COMMANDS, "COMMAND"}
    assert options_in(text) <= {*options_of(*COMMANDS), "--help", "--version", "--no-checksums"}


def test_the_version_is_shown() -> None:
    assert CliRunner().invoke(app, ["--version"]).exit_code == 0


def test_the_exit_codes_are_all_there_are() -> None:
    told = {row[0]: row[1] for row in rows(DOCS["exit-codes"])[1:]}
    assert list(told) == ["0", "1", "2", "3", "130"]
    assert sorted(quoted(told["130"])) == sorted(CONTINUED)


def test_the_ambient_toml_is_understood(tmp_path: Path) -> None:
    (block,) = blocks(DOCS["ambient-toml"], "toml")
    own, sim = tmp_path / "set" / "own", tmp_path / "sim"
    for folder in (own, sim):
        folder.mkdir(parents=True)
        np.save(folder / "0.npy", np.zeros((40, 7), dtype=np.float32))
    path = tmp_path / "set" / "ambient.toml"
    path.write_text(block)
    settings = read_collection_file(path)
    assert AnnotateOptions(**settings.options) == AnnotateOptions(clean="own", horizon=32)
    assert list(settings.members) == ["own", "rest", "sim"]
    sources = find_sources(path.parent)
    places = {name: place.resolve() for name, (place, _) in sources.members.items()}
    assert (places, sources.clean) == ({"own": own, "rest": own, "sim": sim}, "own")


def test_the_keys_of_ambient_toml_are_all_there_are() -> None:
    told = quoted_first(section(DOCS["ambient-toml"], "Tables of members"))
    assert told == list(MemberOptions.__annotations__)
    text = " ".join(section(DOCS["ambient-toml"], "Options of annotate").split())
    text = text.partition("not among them")[2]
    never = set(AnnotateOptions.__annotations__) - set(FILE_OPTIONS)
    assert set(quoted(text)) == never


@pytest.mark.parametrize(
    ("heading", "columns"),
    [("The manifest", MANIFEST_FIELDS), ("Curves", CURVE_FIELDS)],
)
def test_the_columns_of_a_table_are_all_there_are(heading: str, columns: Sequence[Any]) -> None:
    text = section(DOCS["run"], heading).partition("`status` is one of")[0]
    assert sorted(quoted_first(text)) == sorted(column.name for column in columns)


def test_the_columns_of_reliability_are_all_there_are() -> None:
    told = quoted(section(DOCS["run"], "Reliability"))
    assert told == [column.name for column in RELIABILITY_FIELDS]


def test_the_statuses_are_all_there_are() -> None:
    text = section(DOCS["run"], "The manifest").partition("`status` is one of")[2]
    assert quoted_first(text) == list(STATUSES)


def test_the_trainers_are_those_of_export() -> None:
    table = rows(section(DOCS["trainers"], "Export"))[1:]
    told = {name: row[-1] for row in table for name in quoted(row[0])}
    assert told == {name: trainer.schedule for name, trainer in TRAINERS.items()}


def test_the_public_names_are_listed_and_have_their_docstrings_shown() -> None:
    listed = re.findall(r"^\| `(\w+)", DOCS["api"].partition("## Integrations")[0], re.MULTILINE)
    assert listed == ambient_curate.__all__
    listed = re.findall(r"^\| `(\w+)", section(DOCS["api"], "Integrations"), re.MULTILINE)
    assert sorted(listed) == sorted(integrations.__all__)
    shown = re.findall(r"^::: ambient_curate\.(.*)$", DOCS["api"], re.MULTILINE)
    assert shown == [*ambient_curate.__all__, *(f"integrations.{name}" for name in listed)]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_and_figures_lead_somewhere(page: Path) -> None:  # the site does not check figures
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / target).is_file(), target


def test_the_navigation_of_the_site_has_every_page() -> None:
    def targets(entries: list[dict[str, Any]]) -> list[str]:
        values = [value for entry in entries for value in entry.values()]
        return [
            target
            for value in values
            for target in (targets(value) if isinstance(value, list) else [value])
        ]

    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    assert sorted(targets(site["nav"])) == sorted(map(named, PAGES))


def test_the_sections_of_the_method_that_are_cited_exist() -> None:
    numbers = re.findall(r"^## (\d+)\. ", DOCS["method"], re.MULTILINE)
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    citing = 0
    for path in [*(ROOT / "ambient_curate").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *OURS]:
        text = re.sub(r"\n[ #]*", " ", path.read_text(encoding="utf-8"))
        for cited in re.findall(r"method(?:\.md)?,? sections? (\d[\d, and]*)", text):
            citing += 1
            assert set(re.findall(r"\d+", cited)) <= set(numbers), path
    assert citing > 20


def test_the_functions_of_the_method_exist() -> None:
    table = rows(section(DOCS["method"], "At a glance"))[1:]
    named = [name for row in table for name in re.findall(r"`([\w.]+)`", row[-1])]
    assert len(named) >= len(table)
    for name in named:
        module, _, function = name.rpartition(".")
        assert callable(getattr(import_module(f"ambient_curate.{module}"), function))


def test_the_install_lines_are_those_of_the_project() -> None:
    torch = re.search(r"^pip install (torch==\S+)$", README, re.MULTILINE)
    assert torch and torch[1] in MAKEFILE
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    told = re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)`", pages, re.MULTILINE)
    told = [either or other for either, other in told]
    assert "demo" in told
    assert [name for name in told if f"\n{name}: " not in MAKEFILE] == []


def test_the_predictions_of_the_demo_are_computed(tmp_path: Path) -> None:
    data = make_demo(tmp_path / "data")
    text = section(DOCS["experiments"], "The demo")
    limits = re.search(r"at least (\.\d+) and at most (\.\d+)", " ".join(text.split()))
    assert limits and tremor_limits(data) == pytest.approx([*map(float, limits.groups())], abs=5e-3)
    told = {row[0]: float(row[-1]) for row in rows(text)[1:]}
    assert list(told) == list(FAULTS)
    for name, number in told.items():
        assert spectral_sigma_min(data, name) == pytest.approx(number, abs=5e-3)


def test_numbers_that_are_told_twice_are_equal() -> None:
    found = {line.split()[0]: float(line.split()[3]) for line in verdict().splitlines()[1:6]}
    demo = {row[0]: float(row[2]) for row in rows(section(DOCS["experiments"], "The demo"))[1:]}
    assert demo == {name: found[name] for name in FAULTS}
    maze = rows(section(README, "Does it help? A maze"))[1:]
    told = rows(section(DOCS["experiments"], "Maze"))
    assert len(maze) == 4
    assert [row for row in maze if row not in told] == []


@pytest.mark.slow
def test_the_verdict_is_what_the_demo_prints(finished_demo: tuple[Path, str]) -> None:
    directory, stdout = finished_demo
    told = verdict().strip().split("\n\n")
    printed = stdout.strip().split("\n\n")[: len(told)]  # the README may end before the sentences
    lines = ["\n\n".join(text).splitlines() for text in (told, printed)]
    for pair in zip_longest(*lines, fillvalue=""):
        words = zip_longest(*(line.split() for line in pair), fillvalue="")
        assert all(starmap(agree, words)), stdout
    assert all((directory / f"{figure}.png").exists() for figure in FIGURES[:6])


@pytest.mark.slow
def test_the_figure_is_what_its_command_draws(
    finished_demo: tuple[Path, str], tmp_path: Path, closed_figures: None
) -> None:
    from matplotlib.image import imread

    (words,) = re.findall(r"`ambient-curate (plot [^`]* accuracy)`:\n!\[", README)
    command, run, figure = words.split()
    directory, _ = finished_demo
    path = tmp_path / "figure.png"
    place = str(directory.parent / run)
    assert CliRunner().invoke(app, [command, place, figure, "--out", str(path)]).exit_code == 0
    drawn, stored = imread(path), imread(ROOT / "examples" / "demo_accuracy.png")
    assert drawn.shape == stored.shape
    moved = np.abs(drawn - stored).max(axis=2) > 0.1
    assert moved.mean() < 0.09  # as when all values are .01 off; of other data .14


def test_the_loop_of_the_trainers_page_runs() -> None:
    (program,) = blocks(section(DOCS["trainers"], "Into your own training loop"), "python")
    exec(compile(program, "trainers.md", "exec"), {})


def test_the_lines_for_every_trainer_are_python() -> None:
    programs = blocks(section(DOCS["trainers"], "Export"), "python")
    assert len(programs) == 5
    for program in programs:
        compile(program, "trainers.md", "exec")


@pytest.mark.slow
def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_demo(tmp_path / "ambient_demo" / "data")
    (program,) = blocks(README, "python")
    assert len(program.split("\n\n")[1].splitlines()) <= 8
    shorter = program.replace("granularity=", "limit=12, folds=3, granularity=")
    exec(compile(shorter, "README.md", "exec"), {})
    options = {"out": "episodes_run", "granularity": "episode", "limit": 12, "folds": 3}
    assert annotate("ambient_demo/data", **options).already_complete
    assert (tmp_path / "delta.png").exists()


def agree(told: str, printed: str) -> bool:
    """Whether two words are equal, numbers to what another processor may change."""
    numbers = [re.sub(r"[^\d.]", "", word) for word in (told, printed)]
    if not all(re.fullmatch(r"\d*\.\d+|\d+", number) for number in numbers):
        return told == printed
    tolerance = 0.01 if "." in numbers[0] else 1.0  # of a level; of a step or a per cent
    return abs(float(numbers[0]) - float(numbers[1])) <= tolerance
