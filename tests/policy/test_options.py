"""Options: every rule refuses what it should, with the value and what was expected."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ambient_curate.errors import ConfigError
from ambient_curate.option_fields import check_values
from ambient_curate.policy.options import PolicyOptions

NAN, INFINITY = float("nan"), float("inf")
ACCEPTED: dict[str, list[Any]] = {
    "mode": ["ambient", "weighted", "cotrain", "clean"],
    "clean_weight": [None, 0, 0.0, 0.001, 0.5, 0.999],
    "sigma_min": [None, 0, 0.074, 1.0, 1],
    "sigma_max": [None, 0, 0.333, 1.0, 1],
    "loss": ["denoise", "ambient"],
    "buffer": [1.0001, 2, 1e9],
    "prediction": ["wiener", "sample", "epsilon", "v", "flow"],
    "network": ["mlp", "unet", "unet-small"],
    "n_obs_steps": [1, 100],
    "n_action_steps": [1, 100, None],
    "condition": ["", "task", "task, goal_x"],
    "octaves": [0, 4, 10],
    "steps": [0, 1, 10**6],
    "epochs": [None, 0.5, 10],
    "batch_size": [1, 4096],
    "learning_rate": [None, 1e-6, 1],
    "weight_decay": [0, 0.0, 0.01, 1.0],
    "average_decay": [1e-9, 0.9999],
    "warm_up": [0, 1000],
    "validation": [0, 0.0, 0.1, 0.5],
    "precision": ["float32", "bfloat16"],
    "compile": [True, False],
    "seed": [0, 2**63 - 1],
    "workers": [0, 8],
    "init": [None, Path("policy")],
    "allow_unannotated": [True, False],
    "data": [None, Path("data")],
    "log": [None, "tensorboard", "wandb", "trackio"],
    "out": [None, Path("here")],
    "force": [True, False],
}
NO_COUNT = [0, -1, 1.0, 2.5, True, None, "3", NAN, 2**63]
NO_WHOLE = [-1, 0.0, True, None, "0", 2**63]
NO_FLAG = [0, 1, None, "true"]
NO_SHARE = [0, 1, 0.0, 1.0, -0.5, 1.5, NAN, INFINITY, True, "0.5"]
NO_POSITIVE = [0, 0.0, -1e-9, NAN, INFINITY, True, "1"]
NO_PATH = ["", " ", 0, True]
NO_NAME = ["", "Ambient", None, 0, "other", ("mlp",)]
REFUSED: dict[str, list[Any]] = {
    "mode": NO_NAME,
    "clean_weight": [-1e-9, 1, 1.0, NAN, INFINITY, True, "0.5"],
    "sigma_min": [-1e-9, 1.0001, NAN, INFINITY, True, "0.1"],
    "sigma_max": [-1e-9, 1.0001, NAN, INFINITY, True, "0.1"],
    "loss": NO_NAME,
    "buffer": [1, 1.0, 0.5, -4.0, NAN, INFINITY, None, True, "4"],
    "prediction": NO_NAME,
    "network": NO_NAME,
    "n_obs_steps": NO_COUNT,
    "n_action_steps": [value for value in NO_COUNT if value is not None],
    "condition": [" ", None, 3, ["task"]],
    "octaves": [*NO_WHOLE, 11],
    "steps": NO_WHOLE,
    "epochs": NO_POSITIVE,
    "batch_size": NO_COUNT,
    "learning_rate": NO_POSITIVE,
    "weight_decay": [-1e-9, 1.0001, NAN, INFINITY, None, True, "0"],
    "average_decay": [*NO_SHARE, None],
    "warm_up": NO_WHOLE,
    "validation": [-1e-9, 0.5001, NAN, INFINITY, None, True, "0.1"],
    "precision": NO_NAME,
    "compile": NO_FLAG,
    "seed": NO_WHOLE,
    "workers": NO_WHOLE,
    "init": NO_PATH,
    "allow_unannotated": NO_FLAG,
    "data": NO_PATH,
    "log": [name for name in NO_NAME if name is not None],
    "out": NO_PATH,
    "force": NO_FLAG,
}


def test_every_option_is_tested() -> None:
    names = {field.name for field in fields(PolicyOptions)}
    assert names == ACCEPTED.keys() == REFUSED.keys()


def test_defaults_are_valid_and_those_documented() -> None:
    options = PolicyOptions()
    assert (options.mode, options.loss) == ("ambient", "denoise")
    assert (options.prediction, options.network) == ("wiener", "mlp")
    assert options.count_actions(16) == 8  # as published
    assert [options.count_actions(horizon) for horizon in (8, 2, 1)] == [7, 1, 1]
    assert PolicyOptions(n_action_steps=3).count_actions(2) == 3  # said of the run later


@pytest.mark.parametrize("name", ACCEPTED)
def test_values_within_the_rule_are_accepted(name: str) -> None:
    for value in ACCEPTED[name]:
        assert check_values({name: value}, PolicyOptions.declared) == ({name: value}, [])


@pytest.mark.parametrize("name", REFUSED)
def test_values_outside_the_rule_are_refused(name: str) -> None:
    for value in REFUSED[name]:
        assert check_values({name: value}, PolicyOptions.declared)[1], value


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("buffer", 1.0, r"buffer = 1\.0: expected a number > 1"),
        ("weight_decay", 1.5, r"weight_decay = 1\.5: expected a number in \[0, 1\]"),
        ("validation", 0.6, r"validation = 0\.6: expected a number in \[0, 0\.5\]"),
        ("clean_weight", 1.0, r"clean_weight = 1\.0: expected a number in \[0, 1\)"),
        ("seed", -1, "seed = -1: expected a whole number >= 0"),
    ],
)
def test_building_options_names_value_and_expectation(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        PolicyOptions(**{name: value})


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        PolicyOptions(steps=-1, batch_size=-3, buffer=0.5)
    told = f"{error.value} {error.value.hint}"
    assert all(text in told for text in ("steps = -1", "batch_size = -3", "buffer = 0.5"))


def test_no_steps_keep_a_policy_and_nothing_else() -> None:
    assert PolicyOptions(steps=0, init=Path("policy")).steps == 0
    assert PolicyOptions(steps=0, epochs=2.0).epochs == 2.0
    with pytest.raises(ConfigError, match="steps = 0 without init"):
        PolicyOptions(steps=0)


def test_peak_rate_is_what_was_given_or_the_networks() -> None:
    assert PolicyOptions(network="mlp").peak_rate == 2e-3
    assert PolicyOptions(network="unet").peak_rate == 3e-4
    assert PolicyOptions(network="unet-small").peak_rate == 3e-4
    assert PolicyOptions(network="unet", learning_rate=0.5).peak_rate == 0.5


@pytest.mark.parametrize(
    ("condition", "columns"),
    [("", ()), ("task", ("task",)), (" goal_x ,goal_y,", ("goal_x", "goal_y"))],
)
def test_columns_are_split_at_commas(condition: str, columns: tuple[str, ...]) -> None:
    assert PolicyOptions(condition=condition).columns == columns


def test_importing_options_loads_no_torch() -> None:
    program = "import ambient_curate.policy.options, sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
