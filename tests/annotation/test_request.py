"""Orders: what decides the numbers of a run, and what does not."""

from pathlib import Path

import numpy as np
import pytest

from ambient_curate.annotation.request import make_request
from ambient_curate.errors import ConfigError
from ambient_curate.options import AnnotateOptions, digest


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("clean", "other"):
        (tmp_path / name).mkdir()
        for number in range(3):
            np.savez(tmp_path / name / f"{number}.npz", action=np.ones((20, 1), np.float32))
    return tmp_path


def sign(place: Path, **changes: object) -> str:
    return digest(make_request(place, None, changes).inputs)


def test_options_that_decide_no_number_leave_the_digest_alone(place: Path) -> None:
    same = {sign(place), sign(place, workers=2, out="x", strict=True), sign(place, group_by="task")}
    assert len(same) == 1
    assert sign(place, seed=1) not in same
    assert sign(place, granularity="group") != sign(
        place, granularity="group", group_by="cluster:2"
    )


def test_later_options_are_named_only_where_they_are_asked_for(place: Path) -> None:
    asked = {"locality": True, "legibility": True, "condition": "state"}
    assert not asked.keys() & make_request(place, None, {}).inputs["options"].keys()
    for name, value in asked.items():
        assert make_request(place, None, {name: value}).inputs["options"][name] == value
    with pytest.raises(ConfigError, match="a single frame has no neighbourhood"):
        make_request(place, None, {"locality": True, "horizon": 1})


def test_options_are_given_once(place: Path) -> None:
    with pytest.raises(ValueError, match="not both"):
        make_request(place, AnnotateOptions(), {"seed": 1})
    request = make_request(place, AnnotateOptions(seed=3, out=place / "run"), {})
    assert (request.options.seed, request.path) == (3, place / "run")
    assert make_request(place, None, {}).path == Path(f"{place.name}_run")
