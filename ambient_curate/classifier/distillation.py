"""Distillation: a student network that predicts a window's whole curve in one evaluation.

One curve sigma -> E_z c(x_sigma, sigma) takes many draws of noise. Windows are alike, and a network
regressed on few draws of many windows averages over the noise of all of them: one evaluation of it
says what hundreds of the classifier's do, and better (method.md section 5).
"""

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor, nn
from torch.nn import functional as F

from ambient_curate.classifier.fit import FoldClassifier, rows_at_once
from ambient_curate.classifier.networks import FARTHEST
from ambient_curate.classifier.samples import covariance
from ambient_curate.data.populations import Population
from ambient_curate.noise import draw_pairs
from ambient_curate.progress import Advance, Progress, silent, track
from ambient_curate.statistics.sigma_min import find_shifts, last_crossing, sparse_levels
from ambient_curate.training import StopOptions, TrainOptions, train_until_best

SCALES = (0.03, 0.3)  # of noise: a coordinate is seen finely, and more coarsely
TRUSTED = 0.03  # largest mean error of sigma_min with which students annotate
LONGER = 32_768  # windows at most from which one learns that erred by more
SMALLEST = 1e-4  # of the scale of margins: the curve is 1/2 at full noise, and known
MISSED = 0.025  # share of windows beyond either end of their interval


@dataclass(frozen=True)
class StudentOptions:
    """Sizes of a student's fit; the defaults serve, tests make them small.

    Attributes
    ----------
    seed : int
        With fold and head it decides every draw.
    epsilon : float
        Margin of the rule.
    least : int
        Windows a fold must have: fewer are annotated faster without a student.
    windows : int
        Sample of a fold's windows that it learns from.
    draws : int
        Noise draws of each, at all its levels.
    test_windows : int
        Further windows, which tell how far it errs.
    test_draws : int
        Noise draws of each of them.
    width : int
        Units of a layer.
    held_out : float
        Share of the sample that decides when to stop.
    train : TrainOptions
        Of the training loop.
    batch : int
        Windows in a batch.
    every : int
        Steps between two evaluations on the held-out windows.
    patience : int
        Looks without improvement after which training stops.
    """

    seed: int = 0
    epsilon: float = 0.05
    least: int = 4_096
    windows: int = 2_048
    draws: int = 16
    test_windows: int = 192
    test_draws: int = 64
    width: int = 128
    held_out: float = 0.125
    train: TrainOptions = field(
        default_factory=lambda: TrainOptions(steps=3_000, learning_rate=2e-3, warm_up=100)
    )
    batch: int = 64
    every: int = 50
    patience: int = 6

    @property
    def answers(self) -> int:
        """Noise draws for which the classifier is asked, at all levels of a student each."""
        return self.windows * self.draws + self.test_windows * self.test_draws


class CurveNetwork(nn.Module):
    """Curves of windows at some levels of the grid.

    Parameters
    ----------
    mean, basis, variance : Tensor
        Of the windows that it learns from: the coordinates in which they are seen.
    levels : int
        Outputs.
    width : int
        Units of a layer.
    generator : torch.Generator
        Source of the initial weights.
    """

    mean: Tensor
    basis: Tensor
    variance: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        mean: Float32[Tensor, " dim"],
        basis: Float32[Tensor, "dim dim"],
        variance: Float32[Tensor, " dim"],
        levels: int,
        *,
        width: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        features = len(SCALES) * mean.numel()
        for name, value in (("mean", mean), ("basis", basis), ("variance", variance)):
            self.register_buffer(name, value.clone())
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        sizes = (features, width, width, levels)
        self.layers = nn.ModuleList(
            nn.utils.skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
            for inputs, outputs in pairwise(sizes)
        )
        for layer, inputs in zip(self.layers, sizes, strict=False):
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=generator)

    def describe(
        self, windows: Float32[Tensor, "n horizon action"]
    ) -> Float32[Tensor, "n feature"]:
        """Coordinates at several scales, as yet unscaled."""
        u = (windows.flatten(1) - self.mean) @ self.basis
        seen = [compress(u * torch.rsqrt(self.variance + scale**2)) for scale in SCALES]
        return torch.cat(seen, dim=1)

    def standardize(self, features: Float32[Tensor, "n feature"]) -> None:
        """Scale features by those of a sample from now on."""
        self.centre.copy_(features.mean(dim=0))
        self.spread.copy_(features.std(dim=0).clamp_min(1e-6))

    def forward(self, features: Float32[Tensor, "n feature"]) -> Float32[Tensor, "n level"]:
        """Logits of the curves."""
        x = (features - self.centre) / self.spread
        for layer in self.layers[:-1]:
            x = F.silu(layer(x))
        logits: Tensor = self.layers[-1](x)
        return logits


def compress(values: Tensor) -> Tensor:
    """``asinh`` of values, which PyTorch takes one by one: here in half of the time."""
    size = values.abs().clamp_max(FARTHEST)
    root = torch.sqrt(size.square() + 1.0)
    return torch.copysign(torch.log1p(size + size.square() / (root + 1.0)), values)


@dataclass(frozen=True, eq=False)
class Student:
    """A student of one fold's windows of one population, and how far it can be trusted.

    Parameters
    ----------
    network : CurveNetwork
        In evaluation mode.
    margins : ndarray, float64, shape (2, level)
        How far a curve is moved up for the lower end of sigma_min's interval, and down for the
        upper one: so far that it holds the sigma_min of further windows as often as it should.
    error : float
        Mean distance, over held-out windows, of its sigma_min from that of many noise draws, less
        what is due to the noise of these.
    """

    network: CurveNetwork
    margins: Float64[np.ndarray, "2 level"]
    error: float


def teach_student(
    classifier: FoldClassifier,
    population: Population,
    fold: int,
    head: int,
    options: StudentOptions,
    *,
    progress: Progress = silent,
) -> Student:
    """Teach a student the curves of one fold's windows, and examine it on others of them.

    The classifier's answers are out of fold and hold no labels, so that a student may learn from
    windows of the fold that it speaks of later. One that errs by more than `TRUSTED` gives way to
    another, who is taught on as many of them as there are, up to `LONGER`, and judged by others:
    that costs half of what drawing for all of them would, or less.

    Parameters
    ----------
    classifier : FoldClassifier
        Of `fold`.
    population : Population
        A corrupt one with at least ``windows + test_windows`` windows in the fold.
    fold, head : int
        The held-out fold, and the population's output.
    options : StudentOptions
        Seed, rule and sizes.
    progress : Progress
        Told of the noise draws that are answered, in one piece of work for each lesson.
    """
    rng = np.random.default_rng([options.seed, fold, head])
    name = f"teaching {population.dataset}"
    with track(progress, name, options.answers) as advance:
        student = _teach(classifier, population, fold, head, options, rng, advance)
    available = (
        int(population.windows.counts[population.in_folds([fold])].sum()) - options.test_windows
    )
    windows = min(LONGER, available)
    if student.error <= TRUSTED or windows <= options.windows:
        return student
    # more windows teach more than more draws of each do
    draws = 2 * max(options.draws // 4, 1)
    longer = replace(options, windows=windows, draws=draws, batch=4 * options.batch)
    with track(progress, f"{name} on more windows", longer.answers) as advance:
        return _teach(classifier, population, fold, head, longer, rng, advance)


def _teach(
    classifier: FoldClassifier,
    population: Population,
    fold: int,
    head: int,
    options: StudentOptions,
    rng: np.random.Generator,
    advance: Advance,
) -> Student:
    """Teach and examine one student."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    sample = _sample_windows(population, fold, options.windows + options.test_windows, rng)
    test_windows, training_windows = sample[: options.test_windows], sample[options.test_windows :]
    answers = sample_curves(
        classifier, training_windows, head, rng, draws=options.draws, advance=advance
    )
    levels = sparse_levels(classifier.sigma.size)
    network = CurveNetwork(
        *find_axes(training_windows), levels.size, width=options.width, generator=generator
    )
    features = network.describe(training_windows)
    network.standardize(features)
    network = _train(network, features, answers, generator, options)
    halves = [
        sample_curves(
            classifier, test_windows, head, rng, draws=options.test_draws // 2, advance=advance
        )
        for _ in range(2)
    ]
    residual = predict_curves(network, training_windows) - answers.double().numpy()
    return _examine(
        network,
        np.sqrt(np.square(residual).mean(axis=0)),
        predict_curves(network, test_windows),
        torch.stack(halves).double().numpy(),
        classifier.sigma[levels],
        0.5 - options.epsilon,
    )


def _examine(
    network: CurveNetwork,
    scale: np.ndarray,
    predicted: np.ndarray,
    halves: np.ndarray,
    sigma: np.ndarray,
    threshold: float,
) -> Student:
    """Compare predicted curves of the test windows with many draws; `scale` shapes the margins.

    The draws err too: by half of what separates the crossings of their halves.
    """
    scale = np.maximum(scale, SMALLEST)
    exact = last_crossing(halves.mean(axis=0), sigma, threshold)
    apart = np.abs(last_crossing(predicted, sigma, threshold) - exact).mean()
    noise = 0.5 * np.abs(np.subtract(*last_crossing(halves, sigma, threshold))).mean()
    error = float(np.sqrt(max(apart**2 - noise**2, 0.0)))
    up, down = find_shifts(predicted - threshold, scale, sigma, exact, missed=MISSED)
    margins = np.minimum(np.stack([up * scale, down * scale]), 1.0)  # 1: nothing is known
    return Student(network, margins, error)


def find_axes(windows: Float32[Tensor, "n horizon action"]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, eigenvectors and variances of flattened windows."""
    rows = windows.flatten(1).double()
    variance, basis = torch.linalg.eigh(covariance(rows))
    return rows.mean(dim=0).float(), basis.float(), variance.clamp_min(0.0).float()


def predict_curves(
    network: CurveNetwork, windows: Float32[Tensor, "n horizon action"]
) -> Float64[np.ndarray, "n level"]:
    """Mean probability of "clean" at each of the `sigma_min.sparse_levels`, as learnt."""
    with torch.inference_mode():
        return torch.sigmoid(network(network.describe(windows))).double().numpy()


def sample_curves(
    classifier: FoldClassifier,
    windows: Float32[Tensor, "n horizon action"],
    head: int,
    rng: np.random.Generator,
    *,
    draws: int,
    advance: Advance | None = None,
) -> Float32[Tensor, "n level"]:
    """Mean probability of "clean" over pairs of draws, each at all `sigma_min.sparse_levels`."""
    levels = sparse_levels(classifier.sigma.size)
    at_once = max(1, rows_at_once(classifier.device) // (draws * levels.size))
    parts = []
    for chunk in torch.split(windows, at_once):
        noise = torch.from_numpy(draw_pairs(rng, len(chunk), draws, chunk[0].numel()))
        parts.append(classifier.predict(chunk, noise, [head], levels)[..., 0].mean(dim=2).T)
        if advance is not None:
            advance(len(chunk) * draws)
    return torch.cat(parts)


def _sample_windows(
    population: Population, fold: int, count: int, rng: np.random.Generator
) -> Float32[Tensor, "n horizon action"]:
    """Different windows of a fold, in random order."""
    episodes = population.in_folds([fold])
    ends = np.cumsum(population.windows.counts[episodes])
    picked = rng.choice(int(ends[-1]), size=count, replace=False)
    row = np.searchsorted(ends, picked, side="right")
    number = picked - np.concatenate([[0], ends])[row]
    return population.windows.gather(episodes[row], number)


def _train(
    network: CurveNetwork,
    features: Tensor,
    answers: Tensor,
    generator: torch.Generator,
    options: StudentOptions,
) -> CurveNetwork:
    """Regress on the answers until those held out are met no better; return the best average."""
    held = int(options.held_out * len(features))
    seen, unseen = features[held:], features[:held]

    def loss_at(step: int) -> Tensor:
        rows = torch.randint(len(seen), (options.batch,), generator=generator)
        return F.binary_cross_entropy_with_logits(network(seen[rows]), answers[held:][rows])

    def missed(average: CurveNetwork) -> float:
        return float((torch.sigmoid(average(unseen)) - answers[:held]).square().mean())

    stop = StopOptions(options.every, options.patience)
    return train_until_best(network, loss_at, missed, options.train, stop).eval()
