"""Fitting a policy: draw, noise, predict, step; resumed to the very same losses after a stop."""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torch.utils.data import DataLoader

from ambient_curate.errors import TrainingError
from ambient_curate.policy.demonstrations import Batch, Demonstrations, keep_batch
from ambient_curate.policy.denoiser import Denoiser
from ambient_curate.policy.journal import Journal
from ambient_curate.policy.losses import Noised, find_added, noise_further, noise_windows
from ambient_curate.policy.options import PolicyOptions
from ambient_curate.policy.ranks import Ranks
from ambient_curate.policy.sampler import BatchSampler, LevelSampler, share_of
from ambient_curate.policy.storage import load_training, save_training
from ambient_curate.progress import Progress
from ambient_curate.training import Training, TrainOptions, learning_rate_at

LOGGED = 10  # steps whose mean loss is a row of the log
KEPT = 500  # steps between two checkpoints, a multiple of LOGGED
JUDGED = 1000  # steps between two measurements of the held-out error
PROBED = 10  # levels at which it is measured meanwhile
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a policy is fitted to.

    Parameters
    ----------
    data : Demonstrations
        All windows.
    sampler : LevelSampler
        Which of them at which noise.
    held_out : Demonstrations or None
        Clean windows of episodes that are not in `data`.
    """

    data: Demonstrations
    sampler: LevelSampler
    held_out: Demonstrations | None


def fit_policy(
    denoiser: Denoiser,
    lesson: Lesson,
    options: PolicyOptions,
    work: Path,
    ranks: Ranks,
    progress: Progress,
) -> Denoiser:
    """Train a denoiser, or go on where an interrupted process stopped.

    Parameters
    ----------
    denoiser : Denoiser
        With its first weights; trained in place.
    lesson : Lesson
        The data.
    options : PolicyOptions
        How.
    work : Path
        Where the checkpoint and the logs lie.
    ranks : Ranks
        The processes that train together; each has the same arguments.
    progress : Progress
        Told of every step.

    Returns
    -------
    Denoiser
        With the moving average of the weights.
    """
    fit = Fit(denoiser, lesson, options, ranks)
    path = work / CHECKPOINT
    if path.exists():
        load_training(fit.training, path)
    ranks.wait()  # nobody writes a checkpoint before all have read it
    with (
        _open_journal(work, fit, ranks) as journal,
        progress.task("training", options.steps) as task,
    ):
        task.advance(fit.training.step)
        for loss in fit.steps():
            task.advance(1, f"loss {loss:.4f}" if fit.training.step % LOGGED == 0 else None)
            if journal is not None:
                _keep(fit, journal, path, loss)
    return fit.average


def _open_journal(work: Path, fit: "Fit", ranks: Ranks) -> AbstractContextManager[Journal | None]:
    if not ranks.is_first:
        return nullcontext()
    return Journal(work, fit.training.step, tensorboard=fit.options.tensorboard)


def _keep(fit: "Fit", log: Journal, path: Path, loss: float) -> None:
    """Write down a step, and now and then all there is to resume from."""
    step, last = fit.training.step, fit.training.step == fit.options.steps
    log.add_loss(step, loss, learning_rate_at(step - 1, fit.training.options))
    if step % LOGGED == 0 or last:
        log.write_losses()
    if fit.lesson.held_out is not None and (step % JUDGED == 0 or last):
        levels = np.linspace(0, fit.average.sigma.shape[0] - 1, PROBED).round().astype(int)
        errors = measure_errors(fit.average, fit.lesson.held_out, levels, windows=128)
        log.write_errors(step, levels, fit.lesson.sampler.sigma, errors)
    if step % KEPT == 0 or last:
        log.flush()
        save_training(fit.training, path)


class Fit:
    """What the steps of one fit share."""

    def __init__(
        self, denoiser: Denoiser, lesson: Lesson, options: PolicyOptions, ranks: Ranks
    ) -> None:
        self.lesson, self.options, self.ranks = lesson, options, ranks
        self.network = denoiser.to(ranks.device)
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()
        sizes = TrainOptions(
            options.steps,
            options.peak_rate,
            options.weight_decay,
            options.average_decay,
            options.warm_up,
        )
        self.training = Training(self.network, self.average, sizes)
        self.forward = ranks.share(self.network)
        if options.compile:
            self.forward = torch.compile(self.forward)  # type: ignore[assignment]
        self.sigma_min = np.nan_to_num(lesson.sampler.admission.sigma_min, nan=1.0)
        self.added: Tensor | None = None
        if options.loss == "ambient":
            lowest = torch.from_numpy(self.sigma_min).float().to(ranks.device)
            self.added = find_added(lowest, self.network.sigma, buffer=options.buffer)

    def steps(self) -> Iterator[float]:
        """Take the steps that are left; yield the loss of each."""
        left = range(self.training.step, self.options.steps)
        batches = BatchSampler(
            self.lesson.sampler,
            self.options.batch_size,
            left,
            rank=self.ranks.rank,
            ranks=self.ranks.count,
        )
        loader: DataLoader[Batch] = DataLoader(
            self.lesson.data,
            batch_sampler=batches,
            num_workers=self.options.workers,
            collate_fn=keep_batch,
            pin_memory=self.ranks.device.type == "cuda",
        )
        for step, batch in zip(left, loader, strict=True):
            loss = self._loss(step, batch)
            self.training.advance(loss)
            mean = self.ranks.mean(loss)
            if not np.isfinite(mean):
                raise TrainingError(
                    f"the loss of step {step} is {mean}", "use a smaller learning_rate"
                )
            yield mean

    def _loss(self, step: int, batch: Batch) -> Tensor:
        device = self.ranks.device
        level, condition = batch["level"].to(device), batch["condition"].to(device)
        noised = self._noise(step, batch)
        with torch.autocast(
            device.type, torch.bfloat16, enabled=self.options.precision == "bfloat16"
        ):
            output = self.forward(noised.x_t, level, condition)
        added = None if self.added is None else self.added[level]
        return self.network.errors(output.float(), noised, level, condition, added).mean()

    def _noise(self, step: int, batch: Batch) -> Noised:
        """Noise the rows of this process: those of the whole batch are drawn by seed and step."""
        x0 = batch["action"].to(self.ranks.device)
        sigma = self.network.sigma[batch["level"].to(self.ranks.device)]
        rng = np.random.default_rng([self.options.seed, step, 1])
        z = self._draw(rng, x0)
        if self.options.loss == "denoise":
            return noise_windows(x0, sigma, z)
        lowest = torch.from_numpy(self.sigma_min[batch["datum"].numpy()]).float()
        first = self._draw(rng, x0)
        return noise_further(x0, lowest.to(x0.device), sigma, first, z, buffer=self.options.buffer)

    def _draw(self, rng: np.random.Generator, like: Tensor) -> Tensor:
        whole = (self.options.batch_size, *like.shape[1:])
        share = share_of(self.options.batch_size, self.ranks.rank, self.ranks.count)
        return torch.from_numpy(rng.standard_normal(whole, dtype=np.float32)[share]).to(like.device)


def measure_errors(
    denoiser: Denoiser, data: Demonstrations, levels: np.ndarray, *, windows: int
) -> Float64[np.ndarray, " level"]:
    """Measure the mean squared error of predicted windows, in scaled actions, at some levels.

    Parameters
    ----------
    denoiser : Denoiser
        Any.
    data : Demonstrations
        Windows that it was not trained on.
    levels : ndarray, int64, shape (level,)
        Places of the noise levels.
    windows : int
        At most so many, evenly spaced, all with the same noise at every level.
    """
    device = denoiser.sigma.device
    picked = np.unique(np.linspace(0, len(data) - 1, min(windows, len(data))).astype(np.int64))
    batch = data.read(picked)
    x0, condition = batch["action"].to(device), batch["condition"].to(device)
    noise = np.random.default_rng(0).standard_normal(tuple(x0.shape), dtype=np.float32)
    z = torch.from_numpy(noise).to(device)
    found = np.empty(len(levels))
    with torch.inference_mode():
        for number, level in enumerate(np.asarray(levels).tolist()):
            places = torch.full((len(picked),), level, device=device)
            noised = noise_windows(x0, denoiser.sigma[places], z)
            predicted = denoiser.estimate_x0(noised.x_t, places, condition)
            found[number] = (predicted - x0).square().mean().item()
    return found
