"""Checkpoints: the same bits come back, and nothing else is taken for one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_study import ACTION, HORIZON, SIGMA, make_classifier

from ambient_curate.checkpoints import load_fold, save_fold
from ambient_curate.errors import CheckpointError

HEADS = 2


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "fold-0.safetensors"
    save_fold(make_classifier(HEADS), path)
    return path


def test_what_is_read_predicts_the_same_bits(stored: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    windows = torch.randn(4, HORIZON, ACTION, generator=generator)
    noise = torch.randn(4, 3, HORIZON * ACTION, generator=generator)
    before, after = (
        c.predict(windows, noise, [1, 0], slice(0, SIGMA.size))
        for c in (make_classifier(HEADS), load_fold(stored))
    )
    assert torch.equal(before, after)
    assert before.std() > 0.01  # it is not the same number everywhere


def test_what_is_read_holds_the_same_tensors_and_learns_no_more(stored: Path) -> None:
    expected, found = make_classifier(HEADS), load_fold(stored)
    for name, tensor in expected.network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], tensor), name
    assert torch.equal(found.slope, expected.slope)
    assert torch.equal(found.intercept, expected.intercept)
    assert found.sigma.dtype == np.float64
    assert found.sigma.tolist() == SIGMA.tolist()
    assert not found.network.training
    assert not any(p.requires_grad for p in found.network.parameters())


def test_a_classifier_is_written_as_the_same_bytes_every_time(stored: Path) -> None:
    first = stored.read_bytes()
    save_fold(load_fold(stored), stored)
    assert stored.read_bytes() == first
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.01, 0.5, 0.999999])
def test_a_cut_file_is_refused(stored: Path, share: float) -> None:
    whole = stored.read_bytes()
    stored.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"fold-0\.safetensors holds no classifier") as error:
        load_fold(stored)
    assert "--force" in str(error.value.hint)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "fold-9.safetensors", tmp_path):
        with pytest.raises(CheckpointError):
            load_fold(path)


FOREIGN = {
    "another network": lambda t: {"weight": torch.ones(3)},
    "no grid": lambda t: {k: v for k, v in t.items() if k != "sigma"},
    "no outlet": lambda t: {k: v for k, v in t.items() if k != "network.outlet.bias"},
    "one level less": lambda t: t | {"sigma": t["sigma"][:-1].clone()},
    "one head more": lambda t: t | {k: torch.ones(HEADS + 1, SIGMA.size) for k in TABLES},
    "tables of two sizes": lambda t: t | {"intercept": torch.ones(HEADS, SIGMA.size + 1)},
    "a table of one row": lambda t: t | {"slope": torch.ones(SIGMA.size)},
    "a flat basis": lambda t: t | {"network.basis": torch.ones(HORIZON * ACTION)},
    "a wider mean": lambda t: t | {"network.mean": torch.ones(HORIZON * ACTION + 1)},
    "no mean": lambda t: t | {"network.mean": torch.tensor(1.0)},
}
TABLES = ("slope", "intercept")


@pytest.mark.parametrize("change", FOREIGN)
def test_tensors_that_make_no_classifier_are_refused(stored: Path, change: str) -> None:
    save_file(FOREIGN[change](load_file(stored)), stored)
    with pytest.raises(CheckpointError, match="holds no classifier of this version"):
        load_fold(stored)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    path, told = tmp_path / "fold-0.safetensors", tmp_path / "told"
    path.write_bytes(b"cpathlib\nPath.touch\n(cpathlib\nPath\n(S'%b'\ntRtR." % bytes(told))
    with pytest.raises(CheckpointError):
        load_fold(path)
    assert not told.exists()
