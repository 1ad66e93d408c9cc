"""Trainers: what may be chosen of an export."""

from pathlib import Path
from typing import Any

import pytest

from ambient_curate.errors import ConfigError
from ambient_curate.export.trainers import TRAINERS, ExportOptions
from ambient_curate.option_fields import check_values

ACCEPTED: dict[str, list[Any]] = {
    "to": list(TRAINERS),
    "schedule": [None, "flow", "linear:1000"],
    "n_obs_steps": [None, 1, 4],
    "n_action_steps": [None, 1, 16],
    "normalizer": [None, Path("stats.json")],
    "normalize": [None, "gaussian"],
    "as_": ["tables"],
    "merged": [None],
    "data": [None, Path("data")],
    "out": [None, Path("here")],
    "force": [True, False],
}
REFUSED: dict[str, list[Any]] = {
    "to": ["", "list", None, 3],
    "schedule": [5, True],
    "n_obs_steps": [0, -1, 1.5, True, "2"],
    "n_action_steps": [0, -1, 1.5, True, "2"],
    "normalizer": ["", 3],
    "normalize": ["none", "std", 3],
    "as_": ["", "feature", None, 3],
    "merged": ["", 3],
    "data": [" ", 3],
    "out": ["", 3],
    "force": [0, None, "yes"],
}


def test_every_option_is_tried() -> None:
    assert set(ACCEPTED) == set(REFUSED) == set(ExportOptions.declared)


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in ACCEPTED.items() for v in vs])
def test_what_is_documented_is_accepted(name: str, value: Any) -> None:
    options = ExportOptions(**{name: value})
    assert getattr(options, name) == value
    assert options.clock.schedule == (options.schedule or options.trainer.schedule)


@pytest.mark.parametrize("name", REFUSED)
def test_values_outside_the_rule_are_refused(name: str) -> None:
    for value in REFUSED[name]:
        assert check_values({name: value}, ExportOptions.declared)[1], value


def test_problems_are_told() -> None:
    with pytest.raises(ConfigError, match="to = 'list': expected one of lerobot"):
        ExportOptions(to="list")
    with pytest.raises(ConfigError, match="'cosine:9' is not known"):
        ExportOptions(schedule="cosine:9")


@pytest.mark.parametrize("given", [{"as_": "features"}, {"merged": Path("merged")}])
def test_what_is_for_lerobot_alone_is_refused_for_others(given: dict[str, Any]) -> None:
    assert ExportOptions("lerobot", **given).to == "lerobot"
    with pytest.raises(ConfigError, match=r"(as|merged) is given, and to = 'openpi'"):
        ExportOptions("openpi", **given)
