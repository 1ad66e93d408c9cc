"""Checkpoints: the same bits come back, and nothing else is taken for one."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_study import ACTION, HORIZON, SIGMA
from test_crop_network import ACTION as CROP_ACTION
from test_crop_network import HORIZON as FRAMES
from test_crop_network import SIGMA as LOWEST
from test_crop_network import make as make_crops
from torch import nn

from ambient_curate.classifier.channels import CROP, LOCAL, NETWORK, crop_channel, noise_channel
from ambient_curate.classifier.checkpoints import load_pair, load_student, save_pair, save_student
from ambient_curate.classifier.distillation import SCALES, CurveNetwork, Student, predict_curves
from ambient_curate.classifier.fit import PairClassifier
from ambient_curate.classifier.networks import Sizes
from ambient_curate.classifier.samples import Sample
from ambient_curate.errors import CheckpointError

DIM = HORIZON * ACTION
CHANNEL = noise_channel(SIGMA, Sizes(HORIZON, ACTION))
EVERY = np.arange(SIGMA.size)
pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def make_pair(*names: str) -> PairClassifier:
    """All members of a channel, or some of them, fitted to noise and frozen."""
    generator = torch.Generator().manual_seed(0)
    rows, number = torch.randn(2, 60, DIM, generator=generator), torch.arange(60) % 6
    sample = Sample(rows[0], 1.5 * rows[1] + 0.3, number, number)
    members = CHANNEL.build(sample, sample, generator).requires_grad_(False).eval()
    for parameter in members.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    kept = nn.ModuleDict({name: members[name] for name in names or CHANNEL.names})
    estimates = sum(CHANNEL.names[name] for name in kept)
    slope = 0.1 + 0.3 * torch.rand(estimates, SIGMA.size, generator=generator)
    return PairClassifier(CHANNEL, kept, slope, torch.randn(SIGMA.size, generator=generator) / 3.0)


def predict(classifier: PairClassifier) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    windows, noise = torch.randn(2, 12, DIM, generator=generator)
    return classifier.predict(windows, noise, EVERY)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "fold-0.safetensors"
    save_pair(make_pair(), path)
    return path


@pytest.mark.parametrize("names", [(), (NETWORK,), (LOCAL,), (NETWORK, LOCAL)])
def test_what_is_read_predicts_the_same_bits(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Whichever members were kept."""
    classifier, path = make_pair(*names), tmp_path / "fold-0.safetensors"
    save_pair(classifier, path)
    found = load_pair(path, CHANNEL)
    assert list(found.members) == list(names or CHANNEL.names)
    before, after = predict(classifier), predict(found)
    assert torch.equal(before, after)
    assert before.std() > 0.01  # it is not the same number everywhere


def test_what_is_read_holds_the_same_tensors_and_learns_no_more(stored: Path) -> None:
    expected, found = make_pair(), load_pair(stored, CHANNEL)
    for name, tensor in expected.members.state_dict().items():
        assert torch.equal(found.members.state_dict()[name], tensor), name
    assert torch.equal(found.slope, expected.slope)
    assert torch.equal(found.intercept, expected.intercept)
    assert found.channel is CHANNEL
    assert not found.members.training
    assert not any(p.requires_grad for p in found.members.parameters())


def test_a_classifier_is_written_as_the_same_bytes_every_time(stored: Path) -> None:
    first = stored.read_bytes()
    save_pair(load_pair(stored, CHANNEL), stored)
    assert stored.read_bytes() == first
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]


def test_a_classifier_of_other_levels_or_windows_is_refused(stored: Path) -> None:
    for sigma, sizes in (
        (SIGMA[:-1], Sizes(HORIZON, ACTION)),
        (SIGMA**2, Sizes(HORIZON, ACTION)),
        (SIGMA, Sizes(HORIZON + 1, ACTION)),
        (SIGMA, Sizes(HORIZON, ACTION, condition_dim=1)),
    ):
        with pytest.raises(CheckpointError, match="holds no classifier of this version"):
            load_pair(stored, noise_channel(sigma, sizes))
    with pytest.raises(CheckpointError, match="holds no classifier of this version"):
        load_pair(stored, crop_channel(HORIZON, LOWEST, dim=DIM))


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.01, 0.5, 0.999999])
def test_a_cut_file_is_refused(stored: Path, share: float) -> None:
    whole = stored.read_bytes()
    stored.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"fold-0\.safetensors holds no classifier") as error:
        load_pair(stored, CHANNEL)
    assert "--force" in str(error.value.hint)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "fold-9.safetensors", tmp_path):
        with pytest.raises(CheckpointError):
            load_pair(path, CHANNEL)


FOREIGN = {
    "another network": lambda t: {"weight": torch.ones(3)},
    "no grid": lambda t: {k: v for k, v in t.items() if k != "sigma"},
    "another grid": lambda t: t | {"sigma": t["sigma"] * 0.99},
    "no weights": lambda t: {k: v for k, v in t.items() if k != "network.network.weights"},
    "no member": lambda t: {k: v for k, v in t.items() if not k.startswith("network.")},
    "a member less": lambda t: {k: v for k, v in t.items() if not k.startswith("network.mixture")},
    "a member more": lambda t: t | {"network.other.weight": torch.ones(3)},
    "one level less": lambda t: t | {"sigma": t["sigma"][:-1].clone()},
    "one estimate more": lambda t: t | {"slope": torch.ones(len(t["slope"]) + 1, SIGMA.size)},
    "tables of two sizes": lambda t: t | {"intercept": torch.ones(SIGMA.size + 1)},
    "a table of one row": lambda t: t | {"slope": torch.ones(SIGMA.size)},
    "a flat basis": lambda t: t | {"network.network.basis": torch.ones(DIM)},
    "a wider mean": lambda t: t | {"network.network.mean": torch.ones(DIM + 1)},
    "no mean": lambda t: t | {"network.network.mean": torch.tensor(1.0)},
}


@pytest.mark.parametrize("change", FOREIGN)
def test_tensors_that_make_no_classifier_are_refused(stored: Path, change: str) -> None:
    save_file(FOREIGN[change](load_file(stored)), stored)
    with pytest.raises(CheckpointError, match="holds no classifier of this version"):
        load_pair(stored, CHANNEL)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    path, told = tmp_path / "fold-0.safetensors", tmp_path / "told"
    path.write_bytes(b"cpathlib\nPath.touch\n(cpathlib\nPath\n(S'%b'\ntRtR." % bytes(told))
    with pytest.raises(CheckpointError):
        load_pair(path, CHANNEL)
    assert not told.exists()


def make_student(width: int = 7) -> Student:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))
    mean, variance = torch.rand(2, DIM, generator=generator)
    network = CurveNetwork(
        *(mean, basis.contiguous(), variance, SIGMA.size), width=width, generator=generator
    )
    network.standardize(torch.randn(50, len(SCALES) * HORIZON * ACTION, generator=generator))
    margins = np.random.default_rng(0).random((2, SIGMA.size)) / 3.0
    return Student(network.requires_grad_(False).eval(), margins, 1.0 / 3.0)


@pytest.fixture
def student_file(tmp_path: Path) -> Path:
    path = tmp_path / "a-0.safetensors"
    save_student(make_student(), path)
    return path


def test_a_student_that_is_read_says_the_same_bits(student_file: Path) -> None:
    expected, found = make_student(), load_student(student_file)
    windows = torch.randn(9, HORIZON, ACTION, generator=torch.Generator().manual_seed(1))
    said = predict_curves(found.network, windows)
    assert said.tolist() == predict_curves(expected.network, windows).tolist()
    assert said.std() > 0.01
    state = found.network.state_dict()
    for name, tensor in expected.network.state_dict().items():
        assert torch.equal(state[name], tensor), name
    assert (found.margins.dtype, found.margins.shape) == (np.float64, (2, SIGMA.size))
    assert found.margins.tolist() == expected.margins.tolist()
    assert found.error == expected.error == 1.0 / 3.0
    assert not found.network.training
    assert not any(parameter.requires_grad for parameter in found.network.parameters())


def test_a_student_is_written_as_the_same_bytes_every_time(student_file: Path) -> None:
    first = student_file.read_bytes()
    save_student(load_student(student_file), student_file)
    assert student_file.read_bytes() == first
    assert [path.name for path in student_file.parent.iterdir()] == [student_file.name]


def test_margins_that_know_nothing_come_back(student_file: Path) -> None:
    student = make_student()
    save_student(Student(student.network, np.full((2, SIGMA.size), np.inf), 0.0), student_file)
    assert np.isinf(load_student(student_file).margins).all()


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.01, 0.5, 0.999999])
def test_a_cut_student_is_refused(student_file: Path, share: float) -> None:
    whole = student_file.read_bytes()
    student_file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"a-0\.safetensors holds no student") as error:
        load_student(student_file)
    assert "--force" in str(error.value.hint)


def test_a_classifier_is_no_student_and_a_student_no_classifier(
    stored: Path, student_file: Path
) -> None:
    with pytest.raises(CheckpointError, match="holds no student of this version"):
        load_student(stored)
    with pytest.raises(CheckpointError, match="holds no classifier of this version"):
        load_pair(student_file, CHANNEL)
    for path in (student_file.with_name("none"), student_file.parent):
        with pytest.raises(CheckpointError):
            load_student(path)


FOREIGN_STUDENTS = {
    "no margins": lambda t: {k: v for k, v in t.items() if k != "margins"},
    "margins of one side": lambda t: t | {"margins": t["margins"][:1].clone()},
    "margins of one row": lambda t: t | {"margins": t["margins"][0].clone()},
    "one level less": lambda t: t | {"margins": t["margins"][:, 1:].clone()},
    "no error": lambda t: {k: v for k, v in t.items() if k != "error"},
    "two errors": lambda t: t | {"error": torch.zeros(2, dtype=torch.float64)},
    "a wider layer": lambda t: t | {"network.layers.0.bias": torch.ones(8)},
    "a layer less": lambda t: {k: v for k, v in t.items() if ".layers.2." not in k},
    "a wider mean": lambda t: t | {"network.mean": torch.ones(HORIZON * ACTION + 1)},
    "margins of three sides": lambda t: t | {"margins": t["margins"][[0, 1, 1]].clone()},
}


@pytest.mark.parametrize("change", FOREIGN_STUDENTS)
def test_tensors_that_make_no_student_are_refused(student_file: Path, change: str) -> None:
    save_file(FOREIGN_STUDENTS[change](load_file(student_file)), student_file)
    with pytest.raises(CheckpointError, match="holds no student of this version"):
        load_student(student_file)


def test_a_classifier_of_crops_comes_back_as_it_was(tmp_path: Path) -> None:
    dim = FRAMES * CROP_ACTION
    channel, path = crop_channel(FRAMES, LOWEST, dim=dim), tmp_path / "crops.safetensors"
    members = nn.ModuleDict({CROP: make_crops().requires_grad_(False)})
    made = PairClassifier(channel, members, torch.full((2, FRAMES), 0.4), torch.zeros(FRAMES))
    save_pair(made, path)
    found = load_pair(path, channel)
    windows, noise = torch.randn(2, 9, dim, generator=torch.Generator().manual_seed(1))
    said = [c.predict(windows, noise, np.arange(FRAMES)) for c in (made, found)]
    assert torch.equal(*said)
    assert said[0].std() > 0.01
