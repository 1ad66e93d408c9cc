"""What holds for the project as a whole."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ambient_curate"
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]
TORCH_FREE = next(
    c["source_modules"] for c in CONTRACTS if "torch" in c.get("forbidden_modules", [])
)

FORBIDDEN_MODULES = {
    "aiohttp",
    "cloudpickle",
    "dill",
    "ftplib",
    "http",
    "httpx",
    "joblib",
    "lerobot",
    "marshal",
    "pickle",
    "requests",
    "shelve",
    "socket",
    "tensorflow",
    "urllib",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in memory after `statement` ran in a new interpreter."""
    program = f"{statement}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_no_file_is_over_500_lines() -> None:
    files = [*modules(), *sorted((ROOT / "tests").rglob("*.py"))]
    lengths = {str(f.relative_to(ROOT)): len(f.read_text().splitlines()) for f in files}
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_the_table_of_places_names_files_that_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text[text.index("### Where is") : text.index("## Code")]
    named = re.findall(r"`([a-z_/]+\.py)`", table)
    assert len(named) >= 30
    assert [name for name in named if not (PACKAGE / name).is_file()] == []


def test_the_package_is_small_enough_to_be_looked_through() -> None:
    assert len([path for path in modules() if path.stem != "__init__"]) < 135
    assert len([*PACKAGE.glob("*.py")]) <= 12


def test_no_module_of_the_contract_loads_torch() -> None:
    loaded_by(
        "import importlib, sys\n"
        f"for name in {TORCH_FREE}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name"
    )


def test_the_package_loads_next_to_nothing() -> None:
    heavy = {"torch", "sklearn", "pandas", "scipy", "matplotlib", "pyarrow", "h5py"}
    assert loaded_by("import ambient_curate").isdisjoint(heavy)


@pytest.mark.parametrize("arguments", [["--help"], ["annotate", "--help"]])
def test_help_loads_neither_torch_nor_scikit_learn_nor_pandas(arguments: list[str]) -> None:
    loaded = loaded_by(
        "import sys\n"
        f"sys.argv = ['ambient-curate', *{arguments!r}]\n"
        "from ambient_curate.cli.app import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code"
    )
    assert "typer" in loaded
    assert loaded.isdisjoint({"torch", "tensordict", "sklearn", "pandas"})


def uses(tree: ast.AST) -> Iterator[str]:
    """Top-level modules that a file imports, and dotted names that it calls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call):
            yield ast.unparse(node.func)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_module_uses_no_pickle_no_network_and_no_eval(path: Path) -> None:
    found = set(uses(ast.parse(path.read_text())))
    assert found.isdisjoint(FORBIDDEN_MODULES | FORBIDDEN_CALLS)
    assert "allow_pickle=True" not in path.read_text()


def test_the_scan_finds_what_it_forbids() -> None:
    program = "import urllib.request\nfrom torch import load\ndef f():\n    exec(torch.load(x))"
    assert {"urllib", "torch.load", "exec"} <= set(uses(ast.parse(program)))


def test_every_module_has_its_tests() -> None:
    tests = {file.name for file in (ROOT / "tests").rglob("test_*.py")}
    names = [f.stem for f in PACKAGE.glob("*.py") if not f.stem.startswith("__")]
    tested_through = {"errors", "episodes", "progress", "files"}  # types; test_runs.py
    assert [n for n in names if f"test_{n}.py" not in tests and n not in tested_through] == []


def test_contributing_names_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE))
    known = {"demo", "maze", "sorting", "test", "test-all", "lint", "docs", "bench"}
    assert named == targets == known
    for name in set(re.findall(r"make ([a-z-]+)`", text)):
        assert name in targets


def test_the_changelog_keeps_changed_numbers_apart() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    unreleased = re.split(r"^## ", text, flags=re.MULTILINE)[1]
    assert unreleased.startswith("[Unreleased]")
    assert re.findall(r"^### (.*)$", unreleased, re.MULTILINE)[-1] == "Numbers"


def test_constraints_pin_every_dependency_to_one_version() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {}
    for line in lines:
        name, equals, version = line.partition("==")
        assert equals and re.fullmatch(r"[\w.]+", version), line  # no hosts, no local versions
        pins[re.sub(r"[-_.]+", "-", name).lower()] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=\[; ]", text)[0].lower() for text in wanted}
    assert names <= pins.keys()
    assert f"torch=={pins['torch']}\n" in (ROOT / "Makefile").read_text()
