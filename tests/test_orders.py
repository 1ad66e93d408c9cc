"""Orders: what decides the numbers of a run, and what does not."""

from pathlib import Path

import numpy as np
import pytest

from ambient_curate.config import AnnotateOptions, digest
from ambient_curate.errors import ConfigError
from ambient_curate.orders import place_order


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("clean", "other"):
        (tmp_path / name).mkdir()
        for number in range(3):
            np.savez(tmp_path / name / f"{number}.npz", action=np.ones((20, 1), np.float32))
    return tmp_path


def sign(place: Path, **changes: object) -> str:
    return digest(place_order(place, None, changes).inputs)


def test_options_that_decide_no_number_leave_the_digest_alone(place: Path) -> None:
    same = {sign(place), sign(place, workers=2, out="x", strict=True), sign(place, group_by="task")}
    assert len(same) == 1
    assert sign(place, seed=1) not in same
    assert sign(place, granularity="group") != sign(
        place, granularity="group", group_by="cluster:2"
    )


def test_later_options_are_named_only_where_they_are_asked_for(place: Path) -> None:
    asked = {"locality": True, "legibility": True, "condition": "state"}
    assert not asked.keys() & place_order(place, None, {}).inputs["options"].keys()
    for name, value in asked.items():
        assert place_order(place, None, {name: value}).inputs["options"][name] == value
    with pytest.raises(ConfigError, match="a single frame has no neighbourhood"):
        place_order(place, None, {"locality": True, "horizon": 1})


def test_options_are_given_once(place: Path) -> None:
    with pytest.raises(ValueError, match="not both"):
        place_order(place, AnnotateOptions(), {"seed": 1})
    order = place_order(place, AnnotateOptions(seed=3, out=place / "run"), {})
    assert (order.options.seed, order.path) == (3, place / "run")
    assert place_order(place, None, {}).path == Path(f"{place.name}_run")
