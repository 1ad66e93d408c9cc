"""The README says what the program does: its commands, options, files, numbers and output."""

import re
from itertools import starmap, zip_longest
from pathlib import Path

import numpy as np
import pytest
import typer.main
from spectra import FAULTS, spectral_sigma_min, tremor_limits
from typer.testing import CliRunner

from ambient_curate.annotation.annotate import annotate
from ambient_curate.cli.app import app
from ambient_curate.cli.demo import make_demo
from ambient_curate.data.settings import find_sources, read_collection_file
from ambient_curate.options import AnnotateOptions
from ambient_curate.report.figures import ALL_FIGURES, FIGURES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def blocks(language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]


def demo_table() -> str:
    return next(block for block in blocks() if block.startswith("dataset "))


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 300


def test_its_commands_are_the_commands() -> None:
    named = re.findall(r"ambient-curate (\w+)", README)
    assert set(named) == set(COMMANDS)
    listed = next(block for block in blocks() if "ambient-curate inspect" in block)
    assert re.findall(r"^ambient-curate (\w+)", listed, re.MULTILINE) == list(COMMANDS)
    assert all(figure in listed for figure in ALL_FIGURES)


def test_its_options_exist() -> None:
    known = {name for command in COMMANDS.values() for p in command.params for name in p.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README))
    assert named - known == {"--version", "--help"}
    assert CliRunner().invoke(app, ["--version"]).exit_code == 0


def test_its_exit_codes_are_all_there_are() -> None:
    section = README.partition("## Exit codes")[2]
    assert re.findall(r"^\| (\d+) \|", section, re.MULTILINE) == ["0", "1", "2", "3", "130"]


def test_its_ambient_toml_is_understood(tmp_path: Path) -> None:
    (block,) = blocks("toml")
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


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_its_install_lines_are_those_of_the_project() -> None:
    torch = re.search(r"^pip install (torch==\S+)$", README, re.MULTILINE)
    assert torch and torch[1] in (ROOT / "Makefile").read_text()
    named = re.findall(r"^make ([\w-]+)", README, re.MULTILINE)
    assert named == ["demo", "test"]


def test_its_predictions_of_the_demo_are_computed(tmp_path: Path) -> None:
    data = make_demo(tmp_path / "data")
    limits = re.search(r"at least (\.\d+) and at most (\.\d+)", " ".join(README.split()))
    assert limits and tremor_limits(data) == pytest.approx([*map(float, limits.groups())], abs=5e-3)
    told = re.search(r"predict (\.\d+), (\.\d+), (\.\d+) and (\.\d+) for", README)
    assert told
    for name, number in zip(FAULTS, told.groups(), strict=True):
        assert spectral_sigma_min(data, name) == pytest.approx(float(number), abs=5e-3)


@pytest.mark.slow
def test_its_table_is_what_the_demo_prints(finished_demo: tuple[Path, str]) -> None:
    directory, stdout = finished_demo
    for told, printed in zip_longest(demo_table().splitlines(), stdout.splitlines(), fillvalue=""):
        words = zip_longest(told.split(), printed.split(), fillvalue="")
        assert all(starmap(agree, words)), stdout
    assert all((directory / f"{figure}.png").exists() for figure in FIGURES[:6])


@pytest.mark.slow
def test_its_figure_is_what_its_command_draws(
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


@pytest.mark.slow
def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_demo(tmp_path / "ambient_demo" / "data")
    (program,) = blocks("python")
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
