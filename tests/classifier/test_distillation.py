"""Students: taught by the exact classifier of two normal laws, whose curves quadrature knows."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from small_study import ACTION, HORIZON, make_classifier, make_population
from torch import Tensor, nn

from ambient_curate import training
from ambient_curate.classifier import distillation
from ambient_curate.classifier.distillation import (
    MISSED,
    SCALES,
    SMALLEST,
    CurveNetwork,
    Student,
    StudentOptions,
    compress,
    predict_curves,
    sample_curves,
    teach_student,
)
from ambient_curate.classifier.fit import FoldClassifier
from ambient_curate.classifier.window_curves import cross_curves
from ambient_curate.data.populations import Population
from ambient_curate.noise import grid, signal_scale
from ambient_curate.progress import Update
from ambient_curate.statistics.sigma_min import find_shifts, last_crossing, sparse_levels
from ambient_curate.training import TrainOptions

pytestmark = pytest.mark.usefixtures("one_thread")
SIGMA = grid("squaredcos_cap_v2:100")
PLACES = sparse_levels(SIGMA.size)  # 33 of 129
DIM, FOLDS, VARIANCE, THRESHOLD = HORIZON * ACTION, 3, 0.1, 0.45
MEANS = np.stack([np.tile([0.4, -0.3], HORIZON), np.tile([0.4, 0.2], HORIZON)])  # by head
OPTIONS = StudentOptions()


class ExactClassifier(FoldClassifier):
    """N(0, VARIANCE I) against N(MEANS[head], VARIANCE I), after noise."""

    def predict(self, windows: Tensor, noise: Tensor, heads: Any, levels: Any) -> Tensor:
        x0, z = windows.flatten(1).double().numpy(), noise.double().numpy()
        sigma = self.sigma[levels][:, None, None, None]
        a = signal_scale(sigma)
        mean = MEANS[list(heads)]  # (head, dim)
        x = a * (x0 @ mean.T)[:, None] + sigma * (z @ mean.T)  # (level, n, draw, head)
        logit = a * (0.5 * a * np.square(mean).sum(axis=1) - x) / (a**2 * VARIANCE + sigma**2)
        return torch.from_numpy(expit(logit)).float()


def exact_crossings(windows: Tensor, head: int = 0) -> np.ndarray:
    """On the whole grid, by quadrature along the line that joins the means."""
    mean = MEANS[head]
    distance, a = np.linalg.norm(mean), signal_scale(SIGMA)[:, None]
    along = (windows.flatten(1).double().numpy() @ mean / distance)[:, None, None]
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    x = a * along + SIGMA[:, None] * nodes  # (n, level, node)
    logit = a * distance * (0.5 * a * distance - x) / (a**2 * VARIANCE + SIGMA[:, None] ** 2)
    return last_crossing(expit(logit) @ (weights / weights.sum()), SIGMA, THRESHOLD)


@cache
def make_exact() -> ExactClassifier:
    made = make_classifier(len(MEANS), sigma=SIGMA)
    return ExactClassifier(made.pairs, made.sigma)


def draw_windows(count: int, seed: int) -> Tensor:
    rng = np.random.default_rng([7, seed])
    windows = MEANS[0] + VARIANCE**0.5 * rng.standard_normal((count, DIM))
    return torch.from_numpy(windows.reshape(count, HORIZON, ACTION).astype(np.float32))


@cache
def make_corrupt() -> Population:
    """Each fold has 60 episodes of 1 to 119 windows, all of the law of head 0."""
    rng = np.random.default_rng(7)
    lengths = np.repeat(np.arange(1, 120, 2), FOLDS) + HORIZON - 1
    episodes = [
        MEANS[0, :ACTION] + VARIANCE**0.5 * rng.standard_normal((length, ACTION))
        for length in lengths
    ]
    return make_population("q", episodes, np.arange(lengths.size) % FOLDS)


@cache
def taught(fold: int = 1, head: int = 0, **options: Any) -> Student:
    return teach_student(make_exact(), make_corrupt(), fold, head, replace(OPTIONS, **options))


def cross_student(student: Student, windows: Tensor) -> np.ndarray:
    up, down = student.margins[:, None]
    return cross_curves(predict_curves(student.network, windows), up, down, SIGMA, THRESHOLD)


def test_a_student_errs_less_than_the_draws_that_taught_it_and_knows_how_far() -> None:
    """It never claims to err less than it does; few test draws make it too modest."""
    fresh = draw_windows(2_000, 0)
    exact = exact_crossings(fresh)
    assert np.ptp(np.quantile(exact, [0.1, 0.9])) > 0.2
    few = sample_curves(make_exact(), fresh, 0, np.random.default_rng(0), draws=OPTIONS.draws)
    still = np.zeros((1, PLACES.size))
    drawn = cross_curves(few.double().numpy(), still, still, SIGMA, THRESHOLD)[0]
    distillation = [taught(test_windows=1_000, test_draws=draws) for draws in (16, 512)]
    by_draws, *by_students = (
        np.abs(found - exact).mean()
        for found in (drawn, *(cross_student(student, fresh)[0] for student in distillation))
    )
    errors = [student.error for student in distillation]
    print(f"mean error: {OPTIONS.draws} draws {by_draws:.4f}, students {np.round(by_students, 4)}")
    print(f"as they are judged: {np.round(errors, 4)}")
    assert max(by_students) < 0.8 * by_draws
    assert by_students[0] < errors[0] < 2.0 * by_students[0]
    assert by_students[1] < errors[1] < 1.4 * by_students[1]


@pytest.mark.parametrize(("test_draws", "most", "width"), [(16, 0.995, 0.1), (512, 0.97, 0.05)])
def test_its_interval_covers_fresh_windows(test_draws: int, most: float, width: float) -> None:
    """Nominal 95 % over draws of the test windows too, which are many here.

    It contains the noise of the test draws: with few it is wider than need be.
    """
    fresh = draw_windows(4_000, 1)
    exact = exact_crossings(fresh)
    _, lower, upper = cross_student(taught(test_windows=1_000, test_draws=test_draws), fresh)
    covered, wide = np.mean((lower <= exact) & (exact <= upper)), np.mean(upper - lower)
    missed = np.mean(lower > exact), np.mean(upper < exact)
    print(f"{test_draws} draws of a test window: covered {covered:.4f}, mean width {wide:.3f}")
    print(f"missed below and above: {missed}")
    assert 0.93 <= covered <= most
    assert wide < width
    assert max(missed) <= 0.045


def weights_of(student: Student) -> list[Any]:
    state = student.network.state_dict()
    return [*(tensor.numpy().tobytes() for tensor in state.values()), student.margins.tolist()]


SHORT = {"train": TrainOptions(steps=20), "windows": 128, "test_windows": 64}


def test_the_same_seed_fold_and_head_give_the_same_bits_and_others_do_not() -> None:
    first = taught(**SHORT)
    taught.cache_clear()
    assert weights_of(taught(**SHORT)) == weights_of(first)
    assert taught(**SHORT).error == first.error
    for other in ({"fold": 2}, {"head": 1}, {"seed": 1}):
        changed = weights_of(taught(**SHORT, **other))
        assert changed[-3] != weights_of(first)[-3], other
        assert changed[-1] != weights_of(first)[-1], other


class RecordedAnswers:
    """What was asked of the classifier, and what it said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, trusted: float = np.inf) -> None:
        monkeypatch.setattr(distillation, "TRUSTED", trusted)
        self.batches: list[tuple[Tensor, Tensor, int]] = []
        self.states: list[str] = []
        monkeypatch.setattr(distillation, "sample_curves", self.sample_curves)

    def sample_curves(
        self, classifier: Any, windows: Tensor, head: int, rng: Any, *, draws: int, advance: Any
    ) -> Tensor:
        self.states.append(str(rng.bit_generator.state))
        answers = sample_curves(classifier, windows, head, rng, draws=draws, advance=advance)
        self.batches.append((windows, answers, draws))
        return answers


def test_every_fold_head_and_seed_has_noise_and_windows_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = RecordedAnswers(monkeypatch)
    for fold, head, seed in ((1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)):
        options = replace(OPTIONS, **SHORT, seed=seed)
        teach_student(make_exact(), make_corrupt(), fold, head, options)
    assert (
        len(set(recorded.states)) == len(recorded.states) == 12
    )  # of training windows, and of test windows twice
    samples = [windows.numpy().tobytes() for windows, _, _ in recorded.batches]
    assert samples[1::3] == samples[2::3]  # test windows are answered twice
    assert len(set(samples)) == 8


class Counter:
    """What was announced and what was done, a pair for each piece of work."""

    def __init__(self) -> None:
        self.works: dict[str, list[float]] = {}

    def __call__(self, update: Update) -> None:
        if update.state == "started":
            self.works[update.work] = [update.total or 0, 0]
        self.works[update.work][1] += update.steps


def test_the_test_windows_are_other_windows_of_the_fold_and_say_how_far_it_errs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded, counter, fold = RecordedAnswers(monkeypatch), Counter(), 2
    options = replace(OPTIONS, windows=512, test_windows=100, train=TrainOptions(steps=50))
    student = teach_student(make_exact(), make_corrupt(), fold, 0, options, progress=counter)
    (training_windows, answers, draws), (test_windows, *half), (again, *other) = recorded.batches
    assert (len(training_windows), len(test_windows)) == (512, 100)
    assert (again == test_windows).all()
    assert (draws, half[1], other[1]) == (options.draws, *[options.test_draws // 2] * 2)
    assert counter.works == {"teaching q": [512 * 16 + 100 * 64] * 2}
    population = make_corrupt()
    own = torch.cat([population.windows.of_episode(int(e)) for e in population.in_folds([fold])])
    places = {window.numpy().tobytes(): i for i, window in enumerate(own)}
    assert len(places) == len(own) == 60 * 60
    chosen = [places[window.numpy().tobytes()] for window in (*test_windows, *training_windows)]
    assert len(set(chosen)) == len(chosen)  # so none is both training and test window
    assert abs(np.corrcoef(chosen, np.arange(len(chosen)))[0, 1]) < 0.15  # in no order
    assert max(np.diff(sorted(chosen))) < 80  # from everywhere

    levels = SIGMA[PLACES]
    said = predict_curves(student.network, test_windows)
    halves = [batch[0].double().numpy() for batch in (half, other)]
    exact = last_crossing(0.5 * (halves[0] + halves[1]), levels, THRESHOLD)
    apart = np.abs(last_crossing(said, levels, THRESHOLD) - exact).mean()
    crossings = [last_crossing(each, levels, THRESHOLD) for each in halves]
    noise = np.abs(crossings[0] - crossings[1]).mean() / 2.0
    assert apart > noise > 0.0
    assert student.error == pytest.approx((apart**2 - noise**2) ** 0.5, rel=1e-12)
    scale = np.sqrt(
        np.mean(
            (predict_curves(student.network, training_windows) - answers.double().numpy()) ** 2, 0
        )
    )
    scale = np.maximum(scale, SMALLEST)
    shifts = find_shifts(said - THRESHOLD, scale, levels, exact, missed=MISSED)
    np.testing.assert_allclose(student.margins, np.outer(shifts, scale), rtol=1e-12)
    for sign, beyond in ((1.0, np.greater), (-1.0, np.less)):
        margin = student.margins[0 if sign > 0 else 1] + 1e-9
        ends = last_crossing(said + sign * margin, levels, THRESHOLD)
        assert np.count_nonzero(beyond(ends, exact)) <= 2  # of 100, and the next one: 2.5 %


def test_one_that_errs_too_much_gives_way_to_one_taught_on_more_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded, counter = RecordedAnswers(monkeypatch, trusted=0.0), Counter()
    options = replace(OPTIONS, windows=64, test_windows=400)
    student = teach_student(make_exact(), make_corrupt(), 1, 0, options, progress=counter)
    assert [len(windows) for windows, _, _ in recorded.batches] == [64, 400, 400, 3_200, 400, 400]
    assert [draws for _, _, draws in recorded.batches] == [16, 32, 32, 8, 32, 32]  # 60 x 60 windows
    assert counter.works == {
        "teaching q": [64 * 16 + 400 * 64] * 2,
        "teaching q on more windows": [3_200 * 8 + 400 * 64] * 2,
    }
    first, second = (
        {window.numpy().tobytes() for window in recorded.batches[i][0]} for i in (1, 4)
    )
    assert len(first & second) < 100  # other test windows
    monkeypatch.setattr(distillation, "TRUSTED", np.inf)
    short = teach_student(make_exact(), make_corrupt(), 1, 0, options)
    print(f"errors: {short.error:.4f} on 64 windows, {student.error:.4f} on 3,200")
    assert student.error < 0.5 * short.error


def test_one_that_errs_too_much_stays_where_there_are_no_more_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = RecordedAnswers(monkeypatch, trusted=0.0)
    options = replace(OPTIONS, windows=3_400, test_windows=200, train=TrainOptions(steps=50))
    teach_student(make_exact(), make_corrupt(), 1, 0, options)
    assert len(recorded.batches) == 3


def test_answers_are_means_over_fresh_noise_that_serves_all_levels() -> None:
    """By quadrature; and the draws of one window are common to its levels: neighbours agree."""
    windows = draw_windows(1, 3).repeat(3_000, 1, 1)
    answers = (
        sample_curves(make_exact(), windows, 0, np.random.default_rng(0), draws=2).double().numpy()
    )
    assert answers.shape == (3_000, PLACES.size)
    assert np.unique(answers[:, 10]).size > 2_900  # a fresh draw every time
    mean, distance = MEANS[0], np.linalg.norm(MEANS[0])
    along = float(windows[0].flatten().double().numpy() @ mean / distance)
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    sigma = SIGMA[PLACES][:, None]
    a = signal_scale(sigma)
    x = a * along + sigma * nodes
    logit = a * distance * (0.5 * a * distance - x) / (a**2 * VARIANCE + sigma**2)
    expected = expit(logit) @ (weights / weights.sum())
    error = answers.std(axis=0) / 3_000**0.5
    assert (np.abs(answers.mean(axis=0) - expected) < 4.5 * error + 1e-6).all()
    middle = np.searchsorted(SIGMA[PLACES], 0.5)
    assert np.corrcoef(answers[:, middle], answers[:, middle + 1])[0, 1] > 0.99


@pytest.mark.parametrize("steps", [200, 37])
def test_the_average_that_met_held_out_windows_best_is_kept(
    monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Looks every 10 steps and after the last; two in a row without gain end it."""
    trained: list[tuple[int, CurveNetwork]] = []
    plain_train, fit = training.train, distillation._train
    given: list[tuple[Tensor, Tensor]] = []

    def train(network: nn.Module, average: CurveNetwork, *rest: Any) -> Iterator[Any]:
        for step, loss in plain_train(network, average, *rest):
            trained.append((step, deepcopy(average)))
            yield step, loss

    def spy(network: CurveNetwork, features: Tensor, answers: Tensor, *rest: Any) -> CurveNetwork:
        given.append((features, answers))
        return fit(network, features, answers, *rest)

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(distillation, "_train", spy)
    monkeypatch.setattr(distillation, "TRUSTED", np.inf)
    options = replace(
        *(OPTIONS,),
        **{"windows": 64, "test_windows": 40, "held_out": 0.25, "every": 10, "patience": 2},
        train=TrainOptions(steps=steps, learning_rate=0.3, warm_up=1, average_decay=0.5),
    )
    student = teach_student(make_exact(), make_corrupt(), 0, 0, options)
    ((features, answers),) = given
    looks = []
    for step, average in trained:
        if step % 10 == 0 or step == steps:
            said = torch.sigmoid(average(features[:16]))
            looks.append(float((said - answers[:16]).square().mean()))
    best = int(np.argmin(looks))
    said = torch.sigmoid(student.network(features[:16]))
    assert float((said - answers[:16]).square().mean()) == looks[best]
    assert trained[-1][0] == steps or len(looks) == best + 3
    assert steps == 37 or trained[-1][0] < steps
    assert not student.network.training
    assert not any(parameter.requires_grad for parameter in student.network.parameters())


def test_values_are_compressed_as_by_asinh() -> None:
    size = np.concatenate([[0.0], np.geomspace(1e-12, 1e9, 400), [1e15, np.inf]])
    values = np.concatenate([-size, size]).astype(np.float32)
    exact = np.arcsinh(np.clip(values, -1e9, 1e9).astype(np.float64))
    found = compress(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(found, exact, rtol=4e-7)
    assert np.signbit(found).tolist() == np.signbit(values).tolist()


def test_windows_are_described_along_the_axes_of_those_it_learns_from_at_two_scales(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = RecordedAnswers(monkeypatch)
    network = teach_student(make_exact(), make_corrupt(), 1, 0, replace(OPTIONS, **SHORT)).network
    training_windows = recorded.batches[0][0].flatten(1).double().numpy()
    mean, basis = network.mean.numpy(), network.basis.numpy()
    np.testing.assert_allclose(mean, training_windows.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(basis.T @ basis, np.eye(DIM), atol=1e-6)
    np.testing.assert_allclose(
        basis.T @ np.cov(training_windows.T) @ basis, np.diag(network.variance.numpy()), atol=1e-6
    )
    windows = draw_windows(4, 5)
    described = network.describe(windows).numpy()
    u = (windows.flatten(1).numpy() - mean) @ basis
    columns = [
        np.arcsinh(u[:, i] / (network.variance[i].item() + scale**2) ** 0.5)
        for scale in SCALES
        for i in range(DIM)
    ]
    np.testing.assert_allclose(described, np.stack(columns, axis=1), rtol=2e-5, atol=1e-6)
    assert predict_curves(network, windows).shape == (4, PLACES.size)
    sample = torch.randn(500, DIM * len(SCALES), generator=torch.Generator().manual_seed(0))
    network = deepcopy(network)
    network.standardize(sample)
    x = (sample - network.centre) / network.spread
    np.testing.assert_allclose(x.mean(dim=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(x.std(dim=0), 1.0, rtol=1e-5)
    network.standardize(torch.ones_like(sample))  # a coordinate that never moves
    assert torch.isfinite(network(sample)).all()
