"""Devices: a classifier answers where it is, and all that it multiplies is there.

Without a GPU the device `meta` stands for one: its tensors have no values, and no other device's.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_study import ACTION, HORIZON, SIGMA, make_classifier
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ambient_curate.annotation import tasks
from ambient_curate.classifier.channels import CROP, NETWORK
from ambient_curate.classifier.checkpoints import save_pair
from ambient_curate.classifier.fit import (
    CPU_ROWS,
    GPU_ROWS,
    PairClassifier,
    pick_device,
    rows_at_once,
)
from ambient_curate.data.study import Study
from ambient_curate.noise import grid

ELSEWHERE = torch.device("meta")


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of two devices, but for places in an index."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = set[str]()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = args[:1] if "index" in str(func) else args
        devices = {
            leaf.device.type
            for leaf in tree_leaves((given, kwargs))
            if isinstance(leaf, torch.Tensor) and leaf.dim()
        }
        if len(devices) > 1:
            raise AssertionError(f"{func} was given tensors of {devices}")
        self.seen |= devices
        return func(*args, **(kwargs or {}))


def make_inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    windows = torch.randn(3, HORIZON, ACTION, generator=generator)
    return windows, torch.randn(3, 4, HORIZON * ACTION, generator=generator)


def answer_elsewhere(pair: PairClassifier, levels: np.ndarray) -> tuple[torch.Tensor, set[str]]:
    """Shape and device of an answer there, and the devices of all that went into it."""
    moved = pair.to(ELSEWHERE)
    windows, noise = make_inputs()
    inputs = windows.flatten(1).to(ELSEWHERE), noise[:, 0].to(ELSEWHERE)
    with OneDevice() as watched, torch.inference_mode():
        return moved.predict(*inputs, levels), watched.seen - {"cpu"}


def test_an_answer_is_made_on_one_device() -> None:
    found, seen = answer_elsewhere(make_classifier(1).pairs[0], np.arange(3))
    assert seen == {"meta"}
    assert (found.device, found.shape) == (ELSEWHERE, (3, 3))


def test_two_devices_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_classifier(1).pairs[0]
    network = pair.members[NETWORK]
    forgotten = network.get_buffer("basis").clone()
    monkeypatch.setattr(type(network), "describe", lambda self, noised, snr: noised @ forgotten)
    with pytest.raises(AssertionError, match="tensors of"):
        answer_elsewhere(pair, np.arange(3))


def test_answers_come_back_to_the_processor_and_moving_there_changes_nothing() -> None:
    classifier, inputs = make_classifier(2), make_inputs()
    before = classifier.predict(*inputs, [0, 1], slice(0, SIGMA.size))
    moved = classifier.to(torch.device("cpu"))
    assert torch.equal(moved.predict(*inputs, [0, 1], slice(0, SIGMA.size)), before)
    assert before.device.type == moved.device.type == "cpu"
    with pytest.raises(NotImplementedError, match="meta"):  # nothing comes back from there
        classifier.to(ELSEWHERE).predict(*inputs, [0], slice(0, 1))


def test_a_gpu_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, device in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert pick_device() == torch.device(device)
    assert rows_at_once(torch.device("cpu")) == CPU_ROWS < GPU_ROWS
    assert rows_at_once(torch.device("cuda")) == GPU_ROWS


def test_networks_are_read_to_the_fastest_device_and_those_of_crops_to_the_processor(
    study_of: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of()
    (tmp_path / tasks.CLASSIFIER).mkdir()
    monkeypatch.setattr(tasks, "pick_device", lambda: ELSEWHERE)
    made = make_classifier(1, sigma=grid(study.options.schedule))
    for fold in range(3):
        save_pair(made.pairs[0], tasks._pair_path(tmp_path, fold, 0))
    found = tasks.load_classifiers(study, tmp_path)
    assert [each.device for each in found] == [ELSEWHERE] * 3
    for each in found:
        state = each.pairs[0].members.state_dict()
        assert {tensor.device for tensor in state.values()} == {ELSEWHERE}
        np.testing.assert_array_equal(each.sigma, made.sigma)
    channel = tasks.channel_of(study, crops=True)
    members = nn.ModuleDict({CROP: channel.empty(CROP)})
    size = channel.levels.size
    crops = PairClassifier(channel, members, torch.ones(2, size), torch.zeros(size))
    for fold in range(3):
        save_pair(crops, tasks._pair_path(tmp_path, fold, 0))
    assert tasks.load_classifiers(study, tmp_path, crops=True)[0].device.type == "cpu"
