"""Fit of the noisy-channel classifier: one per corrupt set and cross-fitting fold."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ambient_curate.classifier.calibration import CalibrationModel, calibrated_loss, fit_calibration
from ambient_curate.classifier.channels import Channel
from ambient_curate.classifier.networks import PairNetwork
from ambient_curate.classifier.samples import Sample, draw_sample
from ambient_curate.data.populations import Population
from ambient_curate.noise import log_snr
from ambient_curate.progress import Advance
from ambient_curate.training import StopOptions, TrainOptions, train_until_best

HELD_OUT_WINDOWS = 512  # held-out windows of a class that decide when training ends
NEEDED = 2e-4  # nats by which an estimate must lower the held-out loss to be kept


@dataclass(frozen=True)
class FitOptions:
    """Sizes of a fit; the defaults serve, tests make them small.

    Attributes
    ----------
    folds : int
        Number of folds, >= 3.
    seed : int
        With the held-out fold and the set's name it decides every draw.
    by_window : bool
        Every window counts the same, instead of every episode.
    train : TrainOptions
        Of the training loop.
    windows : int
        Training windows of a class.
    held_out : int
        Windows of a class drawn for early stopping and calibration.
    calibration_rows : int
        Noised windows of a class at each level, for the calibration.
    batch : int
        Windows in a batch, half of them clean.
    every : int
        Steps between two evaluations on the held-out windows.
    patience : int
        Evaluations without improvement after which training stops.
    """

    folds: int = 5
    seed: int = 0
    by_window: bool = False
    train: TrainOptions = field(default_factory=lambda: TrainOptions(steps=500, learning_rate=2e-3))
    windows: int = 16_384
    held_out: int = 1_024
    calibration_rows: int = 256
    batch: int = 256
    every: int = 50
    patience: int = 4


@dataclass(frozen=True, eq=False)
class PairClassifier:
    """P(clean | x_sigma, sigma) of one pair, fitted without the episodes of one fold.

    Parameters
    ----------
    channel : Channel
        What it sees windows through; its levels are those it can be evaluated at.
    members : ModuleDict
        What estimates the log-odds, by name; each gives one or two of them.
    slope, intercept : Tensor, float32, shape (estimate, level) and (level,)
        Of the calibration: weights of the estimates, and offset.
    """

    channel: Channel
    members: nn.ModuleDict
    slope: Float32[Tensor, "estimate level"]
    intercept: Float32[Tensor, " level"]

    def predict(
        self,
        windows: Float32[Tensor, "row dim"],
        noise: Float32[Tensor, "row dim"],
        levels: Int64[np.ndarray, " level"],
    ) -> Float32[Tensor, "level row"]:
        """Calibrated probabilities of flattened windows, with the same noise at every level."""
        at = torch.from_numpy(log_snr(self.channel.levels[levels])).float().to(self.slope.device)
        noised = self.channel.blur(windows[None], noise[None], at)
        logits = _estimate(self.members, noised, at)
        where = torch.from_numpy(levels).to(self.slope.device)
        weighed = torch.einsum("lre,el->lr", logits, self.slope[:, where])
        return torch.sigmoid(weighed + self.intercept[where][:, None])

    def to(self, device: torch.device) -> "PairClassifier":
        """Return the same classifier, its members moved to `device`."""
        moved = (self.members.to(device), self.slope.to(device), self.intercept.to(device))
        return PairClassifier(self.channel, *moved)


@dataclass(frozen=True, eq=False)
class FoldClassifier:
    """The pairs of one fold.

    Parameters
    ----------
    pairs : mapping of int to PairClassifier
        By corrupt set, from 0.
    sigma : ndarray, float64, shape (level,)
        The levels they are read at.
    """

    pairs: Mapping[int, PairClassifier]
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
            Standard normal draws, of flattened windows.
        heads : sequence of int
            Corrupt sets.
        levels : slice or ndarray, int64, shape (level,)
            Places among the levels.
        """
        where = np.arange(self.sigma.size)[levels]
        rows = windows.flatten(1)[:, None].expand_as(noise).flatten(0, 1)
        draws, found = noise.flatten(0, 1), []
        with torch.inference_mode():
            for head in heads:
                pair = self.pairs[head]
                on = pair.slope.device
                found.append(pair.predict(rows.to(on), draws.to(on), where).cpu())
        c = torch.stack(found, dim=-1)
        return c.reshape(len(c), *noise.shape[:2], len(found))

    @property
    def device(self) -> torch.device:
        """Where its pairs answer."""
        return next(iter(self.pairs.values())).slope.device

    def to(self, device: torch.device) -> "FoldClassifier":
        """Return the same classifier, its pairs moved to `device`."""
        return replace(self, pairs={head: pair.to(device) for head, pair in self.pairs.items()})


def fit_fold(
    clean: Population,
    corrupt: Sequence[Population],
    held_out: int,
    channel: Channel,
    options: FitOptions,
    *,
    advance: Advance | None = None,
) -> FoldClassifier:
    """Fit the classifier of every pair of fold `held_out`, one after the other; see `fit_pair`."""
    pairs = {
        head: fit_pair(clean, population, held_out, channel, options, advance=advance)
        for head, population in enumerate(corrupt)
    }
    return FoldClassifier(pairs, channel.levels)


def fit_pair(
    clean: Population,
    corrupt: Population,
    held_out: int,
    channel: Channel,
    options: FitOptions,
    *,
    advance: Advance | None = None,
) -> PairClassifier:
    """Fit the classifier that will score the episodes of fold `held_out` in one pair.

    The next fold serves for early stopping and calibration, the remaining ones for training: the
    held-out fold has no part in either. Nothing of another corrupt set enters, so that what is
    said of a set does not depend on which others there are.

    Parameters
    ----------
    clean, corrupt : Population
        p and q; both have an episode in each training and validation set.
    held_out : int
        Fold from 0.
    channel : Channel
        What the classifier sees windows through.
    options : FitOptions
        Seed, folds and sizes.
    advance : callable or None
        Told of every step, with loss and held-out loss.
    """
    rng = np.random.default_rng([options.seed, held_out, *_identify(corrupt)])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    validation = (held_out + 1) % options.folds
    training = [fold for fold in range(options.folds) if fold not in (held_out, validation)]
    seen, unseen = (
        draw_sample(clean, corrupt, folds, count, rng, by_window=options.by_window)
        for folds, count in ((training, options.windows), ([validation], options.held_out))
    )
    members = channel.build(seen, unseen, generator)
    for name, member in members.items():
        if isinstance(member, PairNetwork):
            members[name] = _train(member, seen, unseen, channel, options, generator, advance)
    members = members.requires_grad_(False).eval()
    kept, model = _calibrate(members, unseen, channel, options, generator)
    at = model.at(np.clip(log_snr(channel.levels), *channel.range))
    slope, intercept = (torch.from_numpy(x).float() for x in (at.slope, at.intercept))
    return PairClassifier(channel, kept, slope, intercept)


def _identify(population: Population) -> list[int]:
    """Give a population's name as numbers, for a seed."""
    text = f"{population.dataset}\x00{population.group}".encode()
    return np.frombuffer(hashlib.sha256(text).digest()[:16], dtype=np.uint32).tolist()


def _estimate(
    members: nn.ModuleDict, noised: Tensor, log_snr: Tensor
) -> Float32[Tensor, "level row estimate"]:
    """Log-odds by all members, side by side."""
    return torch.cat([member(noised, log_snr) for member in members.values()], dim=-1)


def _train(
    network: PairNetwork,
    seen: Sample,
    unseen: Sample,
    channel: Channel,
    options: FitOptions,
    generator: torch.Generator,
    advance: Advance | None,
) -> PairNetwork:
    """Train until the calibrated held-out loss no longer falls; return the best average."""
    held_out = _HeldOutLoss(unseen, channel, generator)
    done = 0

    def loss_at(step: int) -> Tensor:
        return _batch_loss(network, seen, channel, options.batch // 2, generator)

    def report(step: int, loss: float, held: float) -> None:
        nonlocal done
        if advance is not None:
            advance(step - done, f"loss {loss:.3f}, held out {held:.3f}")
        done = step

    stop = StopOptions(options.every, options.patience)
    trained = train_until_best(network, loss_at, held_out.loss, options.train, stop, report)
    if advance is not None:
        advance(options.train.steps - done)
    return trained


def _batch_loss(
    network: PairNetwork, sample: Sample, channel: Channel, half: int, generator: torch.Generator
) -> Tensor:
    """Balanced binary cross-entropy of a batch, half of it clean."""
    rows = [
        x[torch.randint(len(x), (half,), generator=generator)]
        for x in (sample.clean, sample.corrupt)
    ]
    noised, level = _blur(torch.cat(rows), channel, generator)
    logit = network(noised, level)[:, 0, 0]
    return 0.5 * F.softplus(-logit[:half]).mean() + 0.5 * F.softplus(logit[half:]).mean()


def _blur(rows: Tensor, channel: Channel, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise each row at its own level: uniform in log-SNR, one draw in each of n equal strata."""
    n = rows.shape[0]
    strata = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    level = channel.range[0] + (channel.range[1] - channel.range[0]) * strata
    noise = torch.randn(rows.shape, generator=generator)
    return channel.blur(rows[:, None], noise[:, None], level), level


class _HeldOutLoss:
    """Held-out windows, noised once: when a network's training ends."""

    def __init__(self, sample: Sample, channel: Channel, generator: torch.Generator) -> None:
        rows = [side[:HELD_OUT_WINDOWS] for side in (sample.clean, sample.corrupt)]
        parts = [_blur(side, channel, generator) for side in rows]
        self.noised, self.level = (torch.cat(part) for part in zip(*parts, strict=True))
        self.is_clean = np.arange(len(self.level)) < len(rows[0])
        self.anchored = channel.anchored

    def loss(self, network: PairNetwork) -> float:
        """Calibrated loss: over-confidence, which calibration mends, does not end a training."""
        with torch.no_grad():
            logits = network(self.noised, self.level)[:, 0, :1].numpy()
        scores = logits, self.level.numpy(), self.is_clean
        return calibrated_loss(fit_calibration(*scores, anchored=self.anchored), *scores)


@dataclass(frozen=True, eq=False)
class _Scores:
    """Estimates of noised held-out windows, by name of their member."""

    logits: dict[str, Float32[np.ndarray, "n estimate"]]
    log_snr: Float32[np.ndarray, " n"]
    is_clean: Bool[np.ndarray, " n"]

    def weigh(self, names: Sequence[str], *, anchored: bool) -> tuple[float, CalibrationModel]:
        """Least calibrated loss of some members, and the calibration that has it."""
        scores = np.concatenate([self.logits[n] for n in names], 1), self.log_snr, self.is_clean
        model = fit_calibration(*scores, anchored=anchored)
        return calibrated_loss(model, *scores), model


def _calibrate(
    members: nn.ModuleDict,
    unseen: Sample,
    channel: Channel,
    options: FitOptions,
    generator: torch.Generator,
) -> tuple[nn.ModuleDict, CalibrationModel]:
    """Weigh the members by their held-out loss, and leave out those that hardly lower it."""
    scores = _score(members, unseen, channel, options.calibration_rows, generator)
    names = list(members)
    loss, model = scores.weigh(names, anchored=channel.anchored)
    while len(names) > 1:
        fewer = [[n for n in names if n != left] for left in names]
        tried = [scores.weigh(some, anchored=channel.anchored) for some in fewer]
        best = int(np.argmin([each for each, _ in tried]))
        if tried[best][0] > loss + NEEDED:
            break
        names, (_, model) = fewer[best], tried[best]
    return nn.ModuleDict({name: members[name] for name in names}), model


def _score(
    members: nn.ModuleDict,
    unseen: Sample,
    channel: Channel,
    count: int,
    generator: torch.Generator,
) -> _Scores:
    """Noise held-out windows at every level, and estimate their log-odds."""
    found: dict[str, list[Tensor]] = {name: [] for name in members}
    at = torch.from_numpy(np.clip(log_snr(channel.levels), *channel.range)).float()
    for level in at:
        rows = torch.cat(
            [
                x[torch.randperm(len(x), generator=generator)[:count]]
                for x in (unseen.clean, unseen.corrupt)
            ]
        )
        noise = torch.randn(rows.shape, generator=generator)
        noised = channel.blur(rows[None], noise[None], level[None])
        with torch.no_grad():
            for name, member in members.items():
                found[name].append(member(noised, level[None])[0])
    clean = min(count, len(unseen.clean))
    each = clean + min(count, len(unseen.corrupt))
    return _Scores(
        {name: torch.cat(parts).numpy() for name, parts in found.items()},
        at.repeat_interleave(each).numpy(),
        np.tile(np.arange(each) < clean, len(at)),
    )


CPU_ROWS = 1_024  # rows of one call: what the cache of a core holds
GPU_ROWS = 32_768  # a GPU waits for its calls unless they are long


def pick_device() -> torch.device:
    """Return the first GPU, or the processor where there is none.

    ``CUDA_VISIBLE_DEVICES`` says which GPU is the first; empty, that there is none.
    """
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def rows_at_once(device: torch.device) -> int:
    """Rows that a network on `device` should be asked for in one call."""
    return CPU_ROWS if device.type == "cpu" else GPU_ROWS
