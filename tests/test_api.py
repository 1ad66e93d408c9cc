"""The public names: listed in one place, documented, and loaded when first asked for."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import argument_program
import pytest

import ambient_curate
from ambient_curate.run.records import Run

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ambient_curate.__all__)
def test_the_name_resolves_to_what_says_what_it_is(name: str) -> None:
    value = getattr(ambient_curate, name)
    assert name in dir(ambient_curate)
    assert isinstance(value, str) or value.__doc__
    assert getattr(value, "__name__", name) == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'anotate'"):
        ambient_curate.anotate  # noqa: B018


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ambient_curate.__version__ == project["version"]


def test_names_load_no_more_than_they_need() -> None:
    program = (
        "import sys, ambient_curate\n"
        "ambient_curate.__version__, ambient_curate.AnnotateOptions, ambient_curate.CurateError\n"
        "assert not {'numpy', 'torch', 'pyarrow'} & set(sys.modules)\n"
        "ambient_curate.open_collection, ambient_curate.read_manifest, ambient_curate.plot_delta\n"
        "assert not {'torch', 'sklearn', 'pandas'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


Outcomes = dict[str, tuple[str, str, str]]


@pytest.fixture(scope="module")
def outcomes(place_small: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What each call of `argument_program` raised, in a program that checks no types."""
    folder = tmp_path_factory.mktemp("arguments")
    place_small(folder, granularity="datapoint", store_curves=True)
    here = Path(__file__).parent
    paths = [str(ROOT), str(here), str(here / "policy"), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, argument_program.__file__, str(folder)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['found.json', 'policy', 'run', 'set']\n"  # nothing half-written
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("name", argument_program.RIGHT)
def test_paths_may_be_text_and_numbers_numpys(outcomes: Outcomes, name: str) -> None:
    assert tuple(outcomes[name]) == ("", "", "")


@pytest.mark.parametrize("name", argument_program.WRONG)
def test_a_wrong_argument_is_refused_in_words(outcomes: Outcomes, name: str) -> None:
    _, kind, expected = argument_program.WRONG[name]
    raised, message, hint = outcomes[name]
    assert raised == kind, message
    assert re.search(expected, message), message
    assert (hint != "None") == (raised not in ("ValueError", "TypeError"))


def test_every_public_function_is_called_with_both() -> None:
    called = {name.split(" ")[0] for name in argument_program.WRONG}
    no_arguments = {"CurateError", "__version__"}
    assert set(ambient_curate.__all__) - no_arguments <= called
