"""Fitting: the loss is what a plain loop computes, and a stop changes nothing."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_demonstrations import make, make_part

from ambient_curate.errors import TrainingError
from ambient_curate.policy import fitting
from ambient_curate.policy.denoiser import Denoiser, Shape, build_denoiser
from ambient_curate.policy.fitting import Lesson, fit_policy, measure_errors
from ambient_curate.policy.level_sampler import Admission, LevelSampler
from ambient_curate.policy.losses import noise_further
from ambient_curate.policy.options import PolicyOptions
from ambient_curate.policy.training_data import Demonstrations
from ambient_curate.progress import silent
from ambient_curate.training import Ranks, TrainOptions, train

SIGMA = np.array([0.05, 0.2, 0.5, 0.8, 0.99])
ALONE = Ranks(0, 1, torch.device("cpu"))
OPTIONS: dict[str, Any] = {
    "prediction": "sample",
    "steps": 30,
    "batch_size": 8,
    "warm_up": 3,
    "seed": 4,
    "n_action_steps": 3,
}


def make_lesson() -> Lesson:
    data = make([make_part("a", [9, 5, 8], 0), make_part("b", [8, 7], 1)])
    sigma_min = np.concatenate([np.zeros(data.size[0]), np.full(data.size[1], 0.3)])
    admission = Admission(("a", "b"), data.size, sigma_min, np.zeros(len(data)))
    held_out: Demonstrations = make([make_part("a", [9], 5)])
    return Lesson(data, LevelSampler(admission, SIGMA, seed=4), held_out)


def make_denoiser(lesson: Lesson) -> Denoiser:
    batch = lesson.data.read(np.zeros(1, dtype=np.int64))
    shape = Shape("mlp", "sample", 4, 2, batch["condition"].shape[1], SIGMA.size, 0, 0, 0)
    generator = torch.Generator().manual_seed(0)
    return build_denoiser(shape, torch.from_numpy(SIGMA).float(), None, generator=generator)


def fit(work: Path, **changes: Any) -> Denoiser:
    work.mkdir(exist_ok=True)
    lesson = make_lesson()
    options = PolicyOptions(**OPTIONS | changes)
    return fit_policy(make_denoiser(lesson), lesson, options, work, ALONE, silent)


def read_losses(work: Path) -> list[tuple[int, float]]:
    with (work / "log.csv").open() as file:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]


@pytest.mark.parametrize("loss", ["denoise", "ambient"])
def test_the_losses_are_those_of_a_plain_loop(tmp_path: Path, loss: str) -> None:
    lesson = make_lesson()
    network, average = make_denoiser(lesson), make_denoiser(lesson)
    sigma_min = lesson.sampler.admission.sigma_min

    def loss_at(step: int) -> torch.Tensor:
        datum, level = lesson.sampler.draw(step, 8)
        batch, places = lesson.data.read(datum), torch.from_numpy(level)
        x0, sigma = batch["action"], torch.from_numpy(SIGMA[level]).float()
        rng = np.random.default_rng([4, step, 1])
        z, first = (
            torch.from_numpy(rng.standard_normal(tuple(x0.shape), dtype=np.float32))
            for _ in range(2)
        )
        a = torch.sqrt(1 - sigma**2)[:, None, None]
        x_t, target = a * x0 + sigma[:, None, None] * z, x0
        if loss == "ambient":
            low = torch.from_numpy(sigma_min[datum]).float()
            noised = noise_further(x0, low, sigma, first, z, buffer=4.0)
            x_t, target = noised.x_t, noised.x0
        return (network(x_t, places, batch["condition"]) - target).square().mean()

    options = PolicyOptions(**OPTIONS)
    sizes = TrainOptions(30, options.peak_rate, options.weight_decay, 0.999, 3)
    losses = [value for _, value in train(network, average, loss_at, sizes)]
    trained = fit(tmp_path / "w", loss=loss)
    found = read_losses(tmp_path / "w")
    assert [step for step, _ in found] == [10, 20, 30]
    means = np.array(losses).reshape(3, 10).mean(axis=1)
    np.testing.assert_allclose([value for _, value in found], means, rtol=1e-5)
    for ours, theirs in zip(trained.parameters(), average.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert means[2] < means[0]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop", [3, 10, 14, 29])
def test_a_stop_at_any_step_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(fitting, "KEPT", 10)
    monkeypatch.setattr(fitting, "EVALUATED_EVERY", 20)
    whole = fit(tmp_path / "whole")
    keep = fitting._keep

    def stopping(state: Any, *rest: Any) -> None:
        keep(state, *rest)
        if state.training.step == stop:
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(fitting, "_keep", stopping)
        fit(tmp_path / "stopped")
    resumed = fit(tmp_path / "stopped")
    for name in ("log.csv", "validation.csv"):
        assert (tmp_path / "stopped" / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes()
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_held_out_error_is_that_of_the_average(tmp_path: Path) -> None:
    trained = fit(tmp_path / "w")
    held_out = make_lesson().held_out
    assert held_out is not None
    errors = measure_errors(trained, held_out, np.array([0, 4]), windows=100)
    batch = held_out.read(np.arange(len(held_out)))
    x0 = batch["action"]
    z = np.random.default_rng(0).standard_normal(tuple(x0.shape), dtype=np.float32)
    for level, error in zip((0, 4), errors, strict=True):
        sigma = float(torch.tensor(SIGMA[level]).float())
        x_t = (1 - sigma**2) ** 0.5 * x0 + sigma * torch.from_numpy(z)
        places = torch.full((len(x0),), level)
        with torch.inference_mode():
            predicted = trained(x_t, places, batch["condition"])
        assert error == pytest.approx((predicted - x0).square().mean().item(), rel=1e-4)
    rows = (tmp_path / "w" / "validation.csv").read_text().splitlines()
    assert rows[0] == "step,level,sigma,error"
    assert {row.split(",")[0] for row in rows[1:]} == {"30"}


def test_a_loss_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss of step \d+ is") as caught:
        fit(tmp_path / "w", learning_rate=1e30, warm_up=0)
    assert "learning_rate" in str(caught.value.hint)


def test_bfloat16_and_workers_train_alike(tmp_path: Path) -> None:
    fit(tmp_path / "plain")
    fit(tmp_path / "workers", workers=2)
    assert read_losses(tmp_path / "workers") == read_losses(tmp_path / "plain")
    fit(tmp_path / "half", precision="bfloat16")
    half, plain = read_losses(tmp_path / "half"), read_losses(tmp_path / "plain")
    assert half != plain
    np.testing.assert_allclose([v for _, v in half], [v for _, v in plain], rtol=0.05)
