"""The training loop of a policy: resumable step by step, on one process or several."""

import copy
import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader

from ambient_curate.errors import ConfigError, TrainingError
from ambient_curate.files import replace_whole
from ambient_curate.policy.checkpoints import load_training, save_training
from ambient_curate.policy.denoiser import Denoiser
from ambient_curate.policy.level_sampler import BatchSampler, LevelSampler, share_of
from ambient_curate.policy.losses import Noised, find_added, noise_further, noise_windows
from ambient_curate.policy.options import PolicyOptions
from ambient_curate.policy.training_data import Batch, Demonstrations, keep_batch
from ambient_curate.progress import Progress, track
from ambient_curate.training import Training, TrainOptions, learning_rate_at

LOG, ERRORS = "log.csv", "validation.csv"
_HEADS = {
    LOG: ("step", "loss", "learning_rate"),
    ERRORS: ("step", "level", "sigma", "error"),
}


class Journal:
    """Appends to the logs of a training; rows after the step it resumes from are dropped.

    Parameters
    ----------
    folder : Path
        Where ``log.csv`` and ``validation.csv`` lie.
    step : int
        Steps that are done.
    tensorboard : bool
        Also write events for TensorBoard.

    Raises
    ------
    ConfigError
        If TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool = False) -> None:
        self._events = _open_events(folder, step) if tensorboard else None
        self._files = {name: _reopen(folder / name, step) for name in _HEADS}
        self._losses: list[float] = []
        self._last = (step, 0.0)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: Any) -> None:
        for file in self._files.values():
            file.close()
        if self._events is not None:
            self._events.close()

    def add_loss(self, step: int, loss: float, learning_rate: float) -> None:
        """Remember the loss of a step."""
        self._losses.append(loss)
        self._last = step, learning_rate

    def write_losses(self) -> None:
        """Write the mean of the losses since the last row."""
        step, rate = self._last
        loss = float(np.mean(self._losses))
        self._losses = []
        self._write(LOG, [(step, repr(loss), repr(rate))])
        if self._events is not None:
            self._events.add_scalar("loss", loss, step)
            self._events.add_scalar("learning_rate", rate, step)

    def write_errors(
        self,
        step: int,
        levels: Int64[np.ndarray, " probe"],
        sigma: Float64[np.ndarray, " level"],
        errors: Float64[np.ndarray, " probe"],
    ) -> None:
        """Write held-out errors at some levels."""
        places = levels.tolist()
        triples = zip(places, sigma[levels].tolist(), errors.tolist(), strict=True)
        self._write(ERRORS, [(step, level, repr(s), repr(error)) for level, s, error in triples])
        if self._events is not None:
            self._events.add_scalar("held-out error", float(errors.mean()), step)

    def flush(self) -> None:
        """Hand all rows to the operating system."""
        for file in self._files.values():
            file.flush()

    def _write(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        csv.writer(self._files[name], lineterminator="\n").writerows(rows)


def _reopen(path: Path, step: int) -> Any:
    """Open a log for appending, after the rows of steps that will be done again are gone."""
    rows = []
    if path.exists():
        whole = path.read_text(encoding="utf-8").splitlines(keepends=True)
        lines = [line for line in whole if line.endswith("\n")]  # a crash cuts the last one
        rows = [row for row in csv.reader(lines) if len(row) == len(_HEADS[path.name])]
    kept = [row for row in rows if row[0].isdecimal() and int(row[0]) <= step]
    with (
        replace_whole(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows([_HEADS[path.name], *kept])
    return path.open("a", newline="", encoding="utf-8")


def _open_events(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "tensorboard is not installed", "pip install 'ambient-curate[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder / "events"), purge_step=step + 1)


@dataclass(frozen=True)
class Ranks:
    """One process among those that train together.

    Parameters
    ----------
    rank, count : int
        Its number, from 0, and how many there are.
    device : torch.device
        Where it computes: a GPU where there is one.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait for the others."""
        if self.count > 1:
            distributed.barrier()

    def mean(self, value: Tensor) -> float:
        """Average a scalar over all processes."""
        whole = value.detach().clone()
        if self.count > 1:
            distributed.all_reduce(whole)
        return whole.item() / self.count

    def share(self, network: nn.Module) -> nn.Module:
        """Wrap a network so that its gradients are averaged over all processes."""
        if self.count == 1:
            return network
        return nn.parallel.DistributedDataParallel(network)


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started, or be the only one."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if count == 1:
        yield Ranks(0, 1, device)
        return
    distributed.init_process_group("gloo" if device.type == "cpu" else "nccl")
    try:
        yield Ranks(rank, count, device)
    finally:
        distributed.destroy_process_group()


LOGGED = 10  # steps whose mean loss is a row of the log
KEPT = 500  # steps between two checkpoints, a multiple of LOGGED
EVALUATED_EVERY = 1000  # steps between two measurements of the held-out error
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
        track(progress, "training", options.steps) as advance,
    ):
        advance(fit.training.step)
        for loss in fit.steps():
            advance(1, f"loss {loss:.4f}" if fit.training.step % LOGGED == 0 else None)
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
    if fit.lesson.held_out is not None and (step % EVALUATED_EVERY == 0 or last):
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
