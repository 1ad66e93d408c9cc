"""The training loop of a policy: resumable step by step, on one process or several."""

import copy
import csv
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from torch.utils.data import DataLoader

from ambient_curate.errors import ConfigError, TrainingError
from ambient_curate.files import replace_whole
from ambient_curate.policy.checkpoints import load_training, save_training
from ambient_curate.policy.denoiser import Denoiser
from ambient_curate.policy.level_sampler import BatchSampler, LevelSampler, share_of
from ambient_curate.policy.losses import Noised, find_added, noise_further, noise_windows
from ambient_curate.policy.options import Log, PolicyOptions
from ambient_curate.policy.training_data import Batch, Demonstrations, keep_batch
from ambient_curate.progress import Progress, track
from ambient_curate.training import Ranks, Training, TrainOptions, learning_rate_at

LOG, ERRORS = "log.csv", "validation.csv"
HELD_OUT = "held-out error"  # in logs elsewhere, the mean over levels
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
    tracker : Tracker or None
        Is given the same numbers, first those that are there, and closed with the journal.
    """

    def __init__(self, folder: Path, step: int, tracker: "Tracker | None" = None) -> None:
        self._tracker = tracker
        self._files = {name: _reopen(folder / name, step) for name in _HEADS}
        self._losses: list[float] = []
        self._last = (step, 0.0)
        if tracker is not None:
            for done, values in _read_back(folder):
                tracker.write(done, values)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: Any) -> None:
        for file in self._files.values():
            file.close()
        if self._tracker is not None:
            self._tracker.close(failed=any(error))

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
        if self._tracker is not None:
            self._tracker.write(step, {"loss": loss, "learning_rate": rate})

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
        if self._tracker is not None:
            self._tracker.write(step, {HELD_OUT: float(errors.mean())})

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


def _read_back(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Read what the logs hold of every step, as a `Tracker` takes it."""
    found: dict[int, dict[str, float]] = {}
    for row in _read_rows(folder / LOG):
        values = {name: float(row[name]) for name in ("loss", "learning_rate")}
        found.setdefault(int(row["step"]), {}).update(values)
    for step, rows in groupby(_read_rows(folder / ERRORS), lambda row: int(row["step"])):
        errors = np.array([float(row["error"]) for row in rows])
        found.setdefault(step, {})[HELD_OUT] = float(errors.mean())
    return sorted(found.items())


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@runtime_checkable
class Tracker(Protocol):
    """A log in another program.

    What it held when a process was killed is not known to us, so a resumed training gives it all
    numbers again; it takes those that it lacks.
    """

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add numbers of a step; steps never fall."""

    def close(self, *, failed: bool) -> None:
        """Hand over all that is written; `failed`: by an error."""


PROJECT = "ambient-curate"


def check_tracker(log: Log | None) -> None:
    """Refuse a log whose package is not installed.

    Raises
    ------
    ConfigError
        With the extra that brings it.
    """
    spec = None if log is None else find_spec(log)
    # Weights & Biases leaves folders of its name about, which Python would import as well
    if log is not None and (spec is None or spec.origin is None):
        raise ConfigError(f"{log} is not installed", f"pip install 'ambient-curate[{log}]'")


def open_tracker(log: Log, folder: Path, *, identity: str, config: Mapping[str, Any]) -> Tracker:
    """Open the log of a training, new or as the interrupted process left it.

    Parameters
    ----------
    log : {"tensorboard", "wandb", "trackio"}
        Whose package is installed.
    folder : Path
        Of the policy: there TensorBoard and Weights & Biases write a folder of their names, and
        runs have its name.
    identity : str
        Of this training, in Weights & Biases and Trackio: resumed it has the same.
    config : mapping
        The options, as JSON values.

    Raises
    ------
    ConfigError
        If Weights & Biases refuses, such as one who is not logged in.
    """
    name = folder.resolve().name
    match log:
        case "tensorboard":
            return _TensorBoard(folder / log)
        case "wandb":
            return _open_wandb(folder, name, identity, config)
        case "trackio":
            return _open_trackio(f"{name}-{identity}", config)


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # it then shows nothing of the files that earlier processes wrote
        self._writer = SummaryWriter(str(folder), purge_step=0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, *, failed: bool) -> None:
        self._writer.close()


@dataclass(frozen=True)
class _Hosted:
    """A run of Weights & Biases or of Trackio, which has steps before `first` already."""

    run: Any
    first: int
    finish: Callable[[bool], None]

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self.first:
            self.run.log(dict(values), step=step)

    def close(self, *, failed: bool) -> None:
        with redirect_stdout(sys.stderr):  # Trackio prints; stdout is for the command's table
            self.finish(failed)


def _open_wandb(folder: Path, name: str, identity: str, config: Mapping[str, Any]) -> Tracker:
    import wandb

    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=str(folder),
            id=identity,
            name=name,
            config=dict(config),
            resume="allow",
            reinit="create_new",  # a caller may have a run of their own open
            settings=wandb.Settings(console="off"),
        )
    except wandb.Error as error:
        raise ConfigError(
            f"Weights & Biases does not take the log: {error}",
            "wandb login, or set WANDB_MODE=offline and wandb sync later",
        ) from error
    return _Hosted(run, run.step, lambda failed: run.finish(exit_code=int(failed)))


def _open_trackio(name: str, config: Mapping[str, Any]) -> Tracker:
    import trackio

    with redirect_stdout(sys.stderr):
        run = trackio.init(PROJECT, name=name, config=dict(config), resume="allow")
    first = getattr(run, "_next_step", 0)  # it has no public name; without it rows come twice
    return _Hosted(run, first, lambda _: trackio.finish())


def _identify(work: Path) -> str:
    """Name of this training in logs elsewhere; begun anew, a policy has another."""
    file = work / "log_id"
    if not file.exists():
        with replace_whole(file) as temporary:
            temporary.write_text(secrets.token_hex(4), encoding="utf-8")
    return file.read_text(encoding="utf-8")


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
    out: Path | None = None,
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
    out : Path or None
        Folder of the policy, for logs of other programs. None: `work`.

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
        _open_journal(work, fit, out or work) as journal,
        track(progress, "training", options.steps) as advance,
    ):
        advance(fit.training.step)
        for loss in fit.steps():
            advance(1, f"loss {loss:.4f}" if fit.training.step % LOGGED == 0 else None)
            if journal is not None:
                _keep(fit, journal, path, loss)
    return fit.average


def _open_journal(work: Path, fit: "Fit", out: Path) -> AbstractContextManager[Journal | None]:
    if not fit.ranks.is_first:
        return nullcontext()
    step, log, tracker = fit.training.step, fit.options.log, None
    if log is not None:
        config = {name: _as_json(value) for name, value in asdict(fit.options).items()}
        tracker = open_tracker(log, out, identity=_identify(work), config=config)
    return Journal(work, step, tracker)


def _as_json(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


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
