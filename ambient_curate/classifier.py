"""The cross-fitted noisy-channel classifier: one network with K + 1 outputs for every fold."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from ambient_curate.arms import Arm
from ambient_curate.calibration import CalibrationModel, calibrated_loss, fit_calibration
from ambient_curate.channels import Channel
from ambient_curate.networks import RatioNetwork
from ambient_curate.noise import log_snr
from ambient_curate.progress import Task
from ambient_curate.samples import Sample, draw_sample
from ambient_curate.training import TrainOptions, train

RELIANCES = (0.0, 0.5, 1.0)  # shares of the logit that the normal laws may be given


@dataclass(frozen=True)
class FitOptions:
    """Sizes of a fit; the defaults serve, tests make them small.

    Attributes
    ----------
    folds : int
        Number of folds, >= 3.
    seed : int
        With the held-out fold it decides every draw.
    by_window : bool
        Every window counts the same, instead of every episode.
    train : TrainOptions
        Of the training loop.
    windows : int
        Largest sample of corrupt windows; the clean sample has half as many.
    held_out : int
        Corrupt windows drawn for early stopping and calibration; half as many are clean.
    calibration_draws : int
        Noise draws of each of them, at as many levels, for the final calibration.
    batch : int
        Fewest windows in a batch, half of them clean.
    each : int
        Fewest windows of every arm in a batch, on average: many arms make it larger.
    dropout : float
        Share of the coordinates hidden from the network in training.
    every : int
        Steps between two looks at the held-out windows.
    patience : int
        Looks without improvement after which training stops.
    """

    folds: int = 5
    seed: int = 0
    by_window: bool = False
    train: TrainOptions = field(default_factory=TrainOptions)
    windows: int = 32_768
    held_out: int = 4_096
    calibration_draws: int = 16
    batch: int = 256
    each: int = 32
    dropout: float = 0.1
    every: int = 50
    patience: int = 6


@dataclass(frozen=True, eq=False)
class FoldClassifier:
    """A network and its calibration, fitted without the episodes of one fold.

    Parameters
    ----------
    network : RatioNetwork
        In evaluation mode.
    slope, intercept : Tensor, float32, shape (head, level)
        Calibration of ``l_0 - l_i`` at every level of the grid.
    sigma : ndarray, float64, shape (level,)
        The levels it is read at.
    """

    network: RatioNetwork
    slope: Float32[Tensor, "head level"]
    intercept: Float32[Tensor, "head level"]
    sigma: Float64[np.ndarray, " level"]

    def predict(
        self,
        windows: Float32[Tensor, "n horizon action"],
        noise: Float32[Tensor, "n draw dim"],
        heads: Sequence[int],
        levels: slice | Int64[np.ndarray, " level"],
    ) -> Float32[Tensor, "level n draw head"]:
        """Calibrated P(clean | x_sigma) of pair i, with the same noise at every level.

        Parameters
        ----------
        windows : Tensor, float32, shape (n, horizon, action)
            Normalised windows.
        noise : Tensor, float32, shape (n, draw, dim)
            Standard normal draws in the network's coordinates.
        heads : sequence of int
            Corrupt arms, from 0.
        levels : slice or ndarray, int64, shape (level,)
            Part of the grid.
        """
        snr = torch.from_numpy(log_snr(self.sigma[levels])).float()
        with torch.inference_mode():
            windows, noise, snr = (x.to(self.device) for x in (windows, noise, snr))
            return self._answer(windows, noise, snr, list(heads), levels).cpu()

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.slope.device

    def to(self, device: torch.device) -> "FoldClassifier":
        """Return the same classifier where its network is on `device`, which it is moved to."""
        return replace(
            self,
            network=self.network.to(device),
            slope=self.slope.to(device),
            intercept=self.intercept.to(device),
        )

    def _answer(
        self,
        windows: Tensor,
        noise: Tensor,
        snr: Tensor,
        heads: list[int],
        levels: slice | Int64[np.ndarray, " level"],
    ) -> Tensor:
        start = self.network.project(windows.flatten(1))[:, None].expand_as(noise)
        noised = self.network.blur(start.flatten(0, 1)[None], noise.flatten(0, 1)[None], snr)
        logits = self.network(noised, snr).unflatten(1, noise.shape[:2])
        pairs = logits[..., :1] - logits[..., [head + 1 for head in heads]]
        slope = self.slope[heads][:, levels].T[:, None, None]
        intercept = self.intercept[heads][:, levels].T[:, None, None]
        return torch.sigmoid(slope * pairs + intercept)


def fit_fold(
    clean: Arm,
    corrupt: Sequence[Arm],
    held_out: int,
    channel: Channel,
    options: FitOptions,
    *,
    task: Task | None = None,
) -> FoldClassifier:
    """Fit the network that will score the episodes of fold `held_out`.

    The next fold serves for early stopping and calibration, the remaining ones for training: the
    held-out fold has no part in either. The loss is the mean over the arms of the balanced
    pairwise cross-entropy of ``l_0 - l_i``: half of each batch is clean and enters every head, a
    corrupt window enters its own.

    Parameters
    ----------
    clean, corrupt : Arm and sequence of Arm
        p and q_1 .. q_K, K >= 1; every arm has an episode in each training and validation set.
    held_out : int
        Fold from 0.
    channel : Channel
        What the network looks through.
    options : FitOptions
        Seed, folds and sizes.
    task : Task or None
        Told of every step, with loss and held-out accuracy.
    """
    rng = np.random.default_rng([options.seed, held_out])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    validation = (held_out + 1) % options.folds
    training = [fold for fold in range(options.folds) if fold not in (held_out, validation)]
    seen, unseen = (
        draw_sample(clean, corrupt, folds, count, rng, by_window=options.by_window)
        for folds, count in ((training, options.windows), ([validation], options.held_out))
    )
    network = channel.build(seen, unseen, generator)
    seen, unseen = (sample.map(network.project) for sample in (seen, unseen))
    average, calibrations = _train(network, seen, unseen, channel, options, generator, task)
    x = np.clip(log_snr(channel.levels), *channel.range)
    tables = [model.at(x) for model in calibrations]
    slope, intercept = (
        torch.from_numpy(np.stack([getattr(table, name) for table in tables])).float()
        for name in ("slope", "intercept")
    )
    return FoldClassifier(average.eval(), slope, intercept, channel.levels)


def _train(
    network: RatioNetwork,
    seen: Sample,
    unseen: Sample,
    channel: Channel,
    options: FitOptions,
    generator: torch.Generator,
    task: Task | None,
) -> tuple[RatioNetwork, list[CalibrationModel]]:
    """Train until the calibrated held-out loss no longer falls; return the best average."""
    average = copy.deepcopy(network).requires_grad_(False)
    judge = _Judge(unseen, channel, network, generator)
    best, kept, waited = np.inf, copy.deepcopy(average.state_dict()), 0

    def loss_at(step: int) -> Tensor:
        return _batch_loss(network, seen, channel.range, options, generator)

    for step, loss in train(network, average, loss_at, options.train):
        if step % options.every and step != options.train.steps:
            continue
        held_out, accuracy = judge.look(average)
        if held_out < best:
            best, kept, waited = held_out, copy.deepcopy(average.state_dict()), 0
        else:
            waited += 1
        if task is not None:
            task.advance(options.every, f"loss {loss:.3f}, held-out accuracy {accuracy:.3f}")
        if waited >= options.patience:
            break
    average.load_state_dict(kept)
    many = [_Judge(unseen, channel, network, generator) for _ in range(options.calibration_draws)]
    return average, _calibrate(average, many)


def _batch_loss(
    network: RatioNetwork,
    sample: Sample,
    snr: tuple[float, float],
    options: FitOptions,
    generator: torch.Generator,
) -> Tensor:
    half = max(options.batch // 2, options.each * sample.weight.shape[1])
    clean = torch.randint(len(sample.clean), (half,), generator=generator)
    corrupt = torch.randint(len(sample.corrupt), (half,), generator=generator)
    start = torch.cat([sample.clean[clean], sample.corrupt[corrupt]])
    noised, level = _blur(network, start, snr, generator)
    keep = torch.rand(start.shape, generator=generator) >= options.dropout
    keep = keep / (1.0 - options.dropout)
    pairs = _pairs(network(noised, level, keep[:, None]))
    return _pair_loss(pairs[:half], sample.weight[clean], pairs[half:], sample.head[corrupt])


def _pair_loss(clean: Tensor, weight: Tensor, corrupt: Tensor, head: Tensor) -> Tensor:
    """Mean over the heads of the balanced binary cross-entropy of ``l_0 - l_i``."""
    own = corrupt.gather(1, head[:, None])
    return 0.5 * (F.softplus(-clean) * weight).mean() + 0.5 * F.softplus(own).mean()


def _blur(
    network: RatioNetwork, start: Tensor, snr: tuple[float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Blur each row at its own level: uniform in log-SNR, one draw in each of n equal strata."""
    n = start.shape[0]
    strata = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    level = snr[0] + (snr[1] - snr[0]) * strata
    noise = torch.randn(start.shape, generator=generator)
    return network.blur(start[:, None], noise[:, None], level), level


class _Scores(NamedTuple):
    """What one head says of held-out windows."""

    logits: Float32[np.ndarray, " n"]
    log_snr: Float32[np.ndarray, " n"]
    is_clean: Bool[np.ndarray, " n"]

    @property
    def accuracy(self) -> float:
        right = (self.logits > 0) == self.is_clean
        return float(0.5 * (right[self.is_clean].mean() + right[~self.is_clean].mean()))


def _calibrate(network: RatioNetwork, judges: Sequence["_Judge"]) -> list[CalibrationModel]:
    """Calibrate every head, at the reliance on normal laws that gives the least held-out loss.

    Where the laws differ by little more than their moments, what a network adds to them is mostly
    learnt by heart (stacking; Wolpert 1992).
    """
    best = [np.inf] * network.reliance.numel()
    chosen = network.reliance.clone()
    models: dict[int, CalibrationModel] = {}
    for reliance in RELIANCES:
        network.reliance.fill_(reliance)
        heads = zip(*(judge.score(network) for judge in judges), strict=True)
        for head, parts in enumerate(heads):
            scores = [np.concatenate(part) for part in zip(*parts, strict=True)]
            model = fit_calibration(*scores, anchored=judges[0].anchored)
            loss = calibrated_loss(model, *scores)
            if loss < best[head]:
                best[head], chosen[head], models[head] = loss, reliance, model
    network.reliance.copy_(chosen)
    return [models[head] for head in range(len(best))]


class _Judge:
    """Held-out windows, blurred once."""

    def __init__(
        self, sample: Sample, channel: Channel, network: RatioNetwork, generator: torch.Generator
    ) -> None:
        self.sample, self.anchored = sample, channel.anchored
        self.clean, self.clean_level = _blur(network, sample.clean, channel.range, generator)
        self.corrupt, self.corrupt_level = _blur(network, sample.corrupt, channel.range, generator)

    def score(self, network: RatioNetwork) -> list[_Scores]:
        """Scores of every head."""
        with torch.no_grad():
            clean = _pairs(network(self.clean, self.clean_level))
            corrupt = _pairs(network(self.corrupt, self.corrupt_level))
        result = []
        for head in range(clean.shape[1]):
            mine = self.sample.head == head
            admitted = self.sample.weight[:, head] > 0
            result.append(
                _Scores(
                    torch.cat([clean[admitted, head], corrupt[mine, head]]).numpy(),
                    torch.cat([self.clean_level[admitted], self.corrupt_level[mine]]).numpy(),
                    np.arange(int(admitted.sum() + mine.sum())) < int(admitted.sum()),
                )
            )
        return result

    def look(self, network: RatioNetwork) -> tuple[float, float]:
        """Mean over the heads of the calibrated loss and of the balanced accuracy."""
        scores = self.score(network)
        models = [fit_calibration(*s, anchored=self.anchored) for s in scores]
        losses = [calibrated_loss(model, *s) for model, s in zip(models, scores, strict=True)]
        return float(np.mean(losses)), float(np.mean([s.accuracy for s in scores]))


def _pairs(logits: Tensor) -> Tensor:
    """Logits of the pairs, of one row a level."""
    return logits[:, 0, :1] - logits[:, 0, 1:]
