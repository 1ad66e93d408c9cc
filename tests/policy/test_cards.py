"""Cards: every policy is built anew from what its card says, and no other card builds one."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from small_policy import (
    ACTION,
    HORIZON,
    SCHEDULE,
    draw,
    make_denoiser,
    make_interface,
    make_shape,
    make_sigma,
)

from ambient_curate.errors import CheckpointError
from ambient_curate.policy import denoiser as denoisers
from ambient_curate.policy.checkpoints import (
    POLICY,
    build_from_card,
    describe_policy,
    find_levels,
    load_weights,
    save_weights,
)
from ambient_curate.policy.options import Network, Prediction

pytestmark = pytest.mark.usefixtures("one_thread")  # small tensors on a busy machine

SCHEDULES = ["squaredcos_cap_v2:100", "linear:10", "flow:10", "flow-reversed:10", "edm:18"]


def make_card(**changes: Any) -> dict[str, Any]:
    """A card as it is read from a file."""
    described = describe_policy(make_shape(**changes), make_interface(), SCHEDULE)
    return json.loads(json.dumps(described, allow_nan=False))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_levels_rise_within_zero_and_one(schedule: str) -> None:
    levels = find_levels(schedule)
    assert (levels[1:] > levels[:-1]).all()
    assert levels[0] > 0.0 and levels[-1] <= 1.0


@pytest.mark.parametrize("prediction", get_args(Prediction))
@pytest.mark.parametrize("network", get_args(Network))
def test_every_policy_is_built_anew_and_takes_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: Network, prediction: Prediction
) -> None:
    monkeypatch.setattr(denoisers, "PUBLISHED", (16, 32, 64))  # else 65 M parameters
    monkeypatch.setattr(denoisers, "SMALL", (8, 16))
    shape = make_shape(network=network, prediction=prediction, condition_dim=7)
    stored = make_denoiser(shape, seed=3)
    save_weights(stored, tmp_path / POLICY.results[0])
    found, interface = build_from_card(
        make_card(network=network, prediction=prediction, condition_dim=7)
    )
    inputs = draw(4, HORIZON, ACTION), torch.tensor([0, 3, 6, 9]), draw(4, 7, seed=1)
    if prediction != "wiener":  # that one has no modes yet
        assert not torch.allclose(found.estimate_x0(*inputs), stored.estimate_x0(*inputs))
    load_weights(found, tmp_path / POLICY.results[0])
    assert torch.equal(found.estimate_x0(*inputs), stored.estimate_x0(*inputs))
    assert found.prediction == prediction
    assert interface.as_dict() == make_interface().as_dict()


def test_levels_are_those_of_the_schedule_before_weights_are_read() -> None:
    denoiser, _ = build_from_card(make_card())
    assert torch.equal(denoiser.sigma, make_sigma())
    assert denoiser.sigma.dtype == torch.float32


def damage(path: tuple[str, ...], value: Any = None, *, drop: bool = False) -> dict[str, Any]:
    card = copy.deepcopy(make_card())
    *above, last = path
    place = card
    for key in above:
        place = place[key]
    if drop:
        del place[last]
    else:
        place[last] = value
    return card


PARTS = [("shape",), ("schedule",), ("interface",)]
PARTS += [("shape", key) for key in make_card()["shape"]]
PARTS += [("interface", key) for key in make_card()["interface"]]
PARTS += [("interface", "scale_action", key) for key in ("kind", "offset", "scale", "low", "high")]


@pytest.mark.parametrize("path", PARTS, ids=".".join)
def test_a_card_that_lacks_something_is_refused(path: tuple[str, ...]) -> None:
    with pytest.raises(CheckpointError, match=r"policy\.json is damaged") as error:
        build_from_card(damage(path, drop=True))
    assert error.value.hint == "train again"


WRONG: list[tuple[tuple[str, ...], Any]] = [
    (("shape",), 3),
    (("shape",), [1, 2]),
    (("shape", "more"), 1),
    (("shape", "network"), "resnet"),
    (("shape", "prediction"), "score"),
    (("shape", "prediction"), "v"),  # which has no modes
    (("shape", "bands"), 0),  # which wiener needs
    (("shape", "horizon"), "8"),
    (("shape", "horizon"), None),
    (("shape", "action_dim"), -2),
    (("schedule",), "cosine:100"),
    (("schedule",), 5),
    (("schedule",), None),
    (("interface",), "none"),
    (("interface", "more"), 1),
    (("interface", "scale_action"), 4),
    (("interface", "scale_action", "offset"), ["a", "b"]),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_a_card_with_wrong_values_is_refused(number: int) -> None:
    with pytest.raises(CheckpointError, match=r"policy\.json is damaged"):
        build_from_card(damage(*WRONG[number]))


def test_wrong_values_are_refused_without_the_tests_type_checks(tmp_path: Path) -> None:
    """Users run without them."""
    program = """
import json, sys
from ambient_curate.errors import CheckpointError
from ambient_curate.policy.checkpoints import build_from_card
for number, card in enumerate(json.load(open(sys.argv[1]))):
    try:
        build_from_card(card)
    except CheckpointError:
        continue
    print(number)
"""
    file = tmp_path / "cards.json"
    file.write_text(json.dumps([damage(path, value) for path, value in WRONG]))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
