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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ambient_curate import jobs
from ambient_curate.checkpoints import save_fold
from ambient_curate.classifier import FoldClassifier
from ambient_curate.devices import CPU_ROWS, GPU_ROWS, pick_device, rows_at_once
from ambient_curate.noise import log_snr

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


def answer_elsewhere(classifier: FoldClassifier, levels: slice) -> tuple[torch.Tensor, set[str]]:
    """Shape and device of an answer there, and the devices of all that went into it."""
    moved = classifier.to(ELSEWHERE)
    snr = torch.from_numpy(log_snr(SIGMA[levels])).float()
    inputs = [x.to(ELSEWHERE) for x in (*make_inputs(), snr)]
    with OneDevice() as watched, torch.inference_mode():
        return moved._answer(*inputs, [1, 0], levels), watched.seen


def test_an_answer_is_made_on_one_device() -> None:
    found, seen = answer_elsewhere(make_classifier(2), slice(0, 3))
    assert seen == {"meta"}
    assert (found.device, found.shape) == (ELSEWHERE, (3, 3, 4, 2))


def test_two_devices_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = make_classifier(2)
    forgotten = classifier.network.basis.clone()
    monkeypatch.setattr(
        type(classifier.network), "project", lambda self, x: (x - self.mean) @ forgotten
    )
    with pytest.raises(AssertionError, match="tensors of"):
        answer_elsewhere(classifier, slice(0, 3))


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


def test_networks_are_read_to_the_fastest_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / jobs.CLASSIFIER).mkdir()
    for fold in range(2):
        save_fold(make_classifier(1), jobs._fold_path(tmp_path, fold))
    monkeypatch.setattr(jobs, "pick_device", lambda: ELSEWHERE)
    found = jobs.load_classifiers(2, tmp_path)
    assert [each.device for each in found] == [ELSEWHERE] * 2
    assert all(p.device == ELSEWHERE for each in found for p in each.network.state_dict().values())
    np.testing.assert_array_equal(found[0].sigma, SIGMA)
