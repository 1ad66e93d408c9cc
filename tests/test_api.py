"""The public names: listed in one place, documented, and loaded when first asked for."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ambient_curate

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
