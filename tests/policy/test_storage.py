"""Storage: the same bits come back, and a training goes on as if it had never stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_policy import ACTION, HORIZON, draw, make_denoiser, make_shape
from torch import Tensor, nn

from ambient_curate.errors import CheckpointError
from ambient_curate.policy.checkpoints import (
    load_training,
    load_weights,
    save_training,
    save_weights,
)
from ambient_curate.policy.denoiser import Denoiser
from ambient_curate.policy.losses import noise_windows
from ambient_curate.training import Training, TrainOptions

pytestmark = pytest.mark.usefixtures("one_thread")  # small tensors on a busy machine

STEPS, STOPPED = 9, 4


def begin(seed: int = 0, **changes: Any) -> Training:
    network, average = (make_denoiser(make_shape(**changes), seed=seed) for _ in range(2))
    return Training(network, average, TrainOptions(STEPS, 1e-2, warm_up=2))


def go_on(training: Training, until: int) -> None:
    """Take steps whose data depends on the step alone."""
    network = training.network
    assert isinstance(network, Denoiser)
    while training.step < until:
        level = torch.randint(10, (16,), generator=torch.Generator().manual_seed(training.step))
        x0, z, condition = (
            draw(16, *shape, seed=number + training.step)
            for number, shape in ((100, (HORIZON, ACTION)), (200, (HORIZON, ACTION)), (300, (4,)))
        )
        noised = noise_windows(x0, network.sigma[level], z)
        output = network(noised.x_t, level, condition)
        training.advance(network.errors(output, noised, level, condition).mean())


def content(training: Training) -> dict[str, Tensor]:
    found = {f"network {k}": v for k, v in training.network.state_dict().items()}
    found |= {f"average {k}": v for k, v in training.average.state_dict().items()}
    for number, parameter in enumerate(training.network.parameters()):
        for name, value in training.optimizer.state[parameter].items():
            found[f"{name} {number}"] = torch.as_tensor(value)
    return found


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert value.dtype == second[name].dtype, name


@pytest.mark.parametrize("prediction", ["wiener", "v"])
@pytest.mark.parametrize("network", ["mlp", "unet-small"])
def test_weights_and_buffers_come_back_bit_by_bit(
    tmp_path: Path, network: str, prediction: str
) -> None:
    shape = make_shape(network=network, prediction=prediction)
    stored, other = make_denoiser(shape), make_denoiser(shape, seed=5)
    if other.modes is not None:
        other.modes.mean.zero_()
        other.modes.band.zero_()
    save_weights(stored, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert_same(stored.state_dict(), other.state_dict())
    inputs = draw(3, HORIZON, ACTION), torch.tensor([0, 4, 9]), draw(3, 4)
    assert torch.equal(stored.estimate_x0(*inputs), other.estimate_x0(*inputs))


def test_a_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = begin()
    go_on(whole, STEPS)
    stopped = begin()
    go_on(stopped, STOPPED)
    save_training(stopped, tmp_path / "c.safetensors")
    at_stop = {name: value.clone() for name, value in content(stopped).items()}
    resumed = begin(seed=7)  # other weights, which must leave no trace
    load_training(resumed, tmp_path / "c.safetensors")
    assert resumed.step == STOPPED
    assert_same(content(resumed), at_stop)
    go_on(resumed, STEPS)
    assert_same(content(resumed), content(whole))
    weight = "backbone.outlet.weight"
    assert not torch.equal(whole.network.state_dict()[weight], at_stop[f"network {weight}"])
    assert not torch.equal(whole.network.state_dict()[weight], whole.average.state_dict()[weight])


def test_a_training_that_forgets_its_moments_would_be_noticed(tmp_path: Path) -> None:
    """The test above can fail: without AdamW's moments the weights are others."""
    whole, forgetful = begin(), begin()
    go_on(whole, STEPS)
    go_on(forgetful, STOPPED)
    forgetful.optimizer.state.clear()
    go_on(forgetful, STEPS)
    weight = "backbone.outlet.weight"
    assert not torch.equal(
        whole.network.state_dict()[weight], forgetful.network.state_dict()[weight]
    )


def test_saving_changes_nothing_and_gives_the_same_bytes(tmp_path: Path) -> None:
    training, path = begin(), tmp_path / "c.safetensors"
    go_on(training, 2)
    before = {name: value.clone() for name, value in content(training).items()}
    save_training(training, path)
    first = path.read_bytes()
    save_training(training, path)
    assert path.read_bytes() == first
    assert_same(content(training), before)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


Load = Callable[[Path], None]


def load_policy_weights(path: Path) -> None:
    load_weights(make_denoiser(make_shape()), path)


def load_checkpoint(path: Path) -> None:
    load_training(begin(), path)


@pytest.fixture(params=["weights", "training"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Load]:
    path = tmp_path / "stored.safetensors"
    if request.param == "weights":
        save_weights(make_denoiser(make_shape()), path)
        return path, load_policy_weights
    training = begin()
    go_on(training, 1)
    save_training(training, path)
    return path, load_checkpoint


def refuse(load: Load, path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"stored\.safetensors holds no weights") as error:
        load(path)
    assert error.value.hint == "train again with --force"


@pytest.mark.parametrize("share", [0.0, 1e-5, 0.001, 0.5, 0.999999])
def test_a_cut_file_is_refused(stored: tuple[Path, Load], share: float) -> None:
    path, load = stored
    load(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refuse(load, path)


def test_a_missing_file_and_other_content_are_refused(stored: tuple[Path, Load]) -> None:
    path, load = stored
    path.write_bytes(b"\xff" * 4096)
    refuse(load, path)
    path.write_text("no safetensors at all")
    refuse(load, path)
    path.unlink()
    refuse(load, path)
    path.mkdir()
    refuse(load, path)


def test_a_file_that_lacks_a_tensor_is_refused(stored: tuple[Path, Load]) -> None:
    path, load = stored
    tensors = load_file(path)
    names = [name for name in tensors if "outlet" in name or "sigma" in name or "." not in name]
    names += [name for name in tensors if name in ("exp_avg.0", "exp_avg_sq.3")]
    assert len(names) >= 3
    for name in names:
        save_file({key: value for key, value in tensors.items() if key != name}, path)
        refuse(load, path)


@pytest.mark.parametrize(
    "changes",
    [
        {"condition_dim": 5},
        {"horizon": 4},
        {"action_dim": 3},
        {"bands": 2},
        {"prediction": "v"},
        {"network": "unet-small"},
    ],
)
def test_what_is_of_other_sizes_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "stored.safetensors"
    save_weights(make_denoiser(make_shape(**changes)), path)
    refuse(load_policy_weights, path)
    if changes.keys() & {"prediction", "network", "bands"}:
        training = begin(**changes)
        go_on(training, 1)
        save_training(training, path)
        refuse(load_checkpoint, path)


def test_moments_of_other_sizes_are_refused(tmp_path: Path) -> None:
    path, training = tmp_path / "stored.safetensors", begin()
    go_on(training, 1)
    save_training(training, path)
    tensors = load_file(path)
    save_file(tensors | {"exp_avg.0": torch.zeros(2)}, path)
    refuse(load_checkpoint, path)


def test_after_a_failed_write_the_old_file_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(nn.Linear(2, 2), path)
    before = path.read_bytes()

    def write_half(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    for target in (path, tmp_path / "new.safetensors"):
        with pytest.raises(OSError, match="no space left"):
            save_weights(nn.Linear(2, 2), target)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
