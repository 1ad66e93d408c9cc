"""The classifier against distributions whose best answer is known, and against its own leaks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from oracle_study import (
    SIGMA,
    channel_of,
    cross,
    gaussian_episodes,
    gaussian_sigma_min,
    make_population,
)
from torch import Tensor, nn

from ambient_curate.classifier import fit
from ambient_curate.classifier.channels import NETWORK, Channel, noise_channel
from ambient_curate.classifier.fit import FitOptions, PairClassifier, fit_fold, fit_pair
from ambient_curate.classifier.networks import Sizes
from ambient_curate.classifier.samples import Sample
from ambient_curate.data.populations import Population
from ambient_curate.noise import log_snr
from ambient_curate.statistics.sigma_min import sparse_levels
from ambient_curate.training import TrainOptions

QUICK = FitOptions(
    folds=3,
    windows=1024,
    held_out=512,
    calibration_rows=200,
    batch=128,
    train=TrainOptions(steps=100, warm_up=10, learning_rate=2e-3),
)
BRIEF = replace(
    QUICK, windows=400, held_out=200, calibration_rows=100, train=TrainOptions(steps=20, warm_up=5)
)
COARSE = SIGMA[::16]
pytestmark = pytest.mark.usefixtures("one_thread")


def direction(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    vector = rng.normal(size=shape)
    return vector / np.linalg.norm(vector)


def test_gaussians_cross_where_the_closed_form_says() -> None:
    rng = np.random.default_rng(0)
    mean = direction(rng, (2, 2))
    clean = gaussian_episodes(rng, 120, np.zeros((2, 2)), 0.04)
    corrupt = gaussian_episodes(rng, 160, mean, 0.04)
    (found,) = cross(clean, [corrupt], horizon=2, options=QUICK)
    assert found.sigma_min == pytest.approx(gaussian_sigma_min(1.0, 0.04), abs=0.06)
    assert found.lower <= found.sigma_min <= found.upper


def test_equal_distributions_give_zero() -> None:
    rng = np.random.default_rng(1)
    sets = [gaussian_episodes(rng, count, np.zeros((2, 2)), 1.0) for count in (45, 60)]
    (found,) = cross(sets[0], sets[1:], horizon=2, options=QUICK, sigma=COARSE)
    assert found.sigma_min == 0.0


def walks(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Episodes that a classifier can learn by heart: each stays near a place of its own."""
    return [rng.normal(size=2) + 0.02 * rng.normal(size=(12, 2)) for _ in range(count)]


def test_an_episode_is_never_scored_by_a_network_that_saw_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(2)
    clean, corrupt = walks(rng, 24), walks(rng, 24)
    p, q = make_population("p", clean, 2, 3), make_population("q", corrupt, 2, 3)
    trained: dict[str, nn.Module] = {}
    calibrate = fit._calibrate

    def spy(members: nn.ModuleDict, *rest: object) -> object:
        trained.update(members.items())
        return calibrate(members, *rest)

    monkeypatch.setattr(fit, "_calibrate", spy)
    patient = replace(QUICK, patience=99, every=100, train=TrainOptions(steps=200, warm_up=20))
    monkeypatch.setattr(fit._HeldOutLoss, "loss", falling())  # it never stops early
    fit_pair(p, q, 0, channel_of(p, COARSE), patient)
    monkeypatch.undo()

    def accuracy(folds: list[int]) -> float:
        """Balanced accuracy at low noise, uncalibrated: which side of zero the logit is."""
        hits = []
        for population, sign in ((p, 1.0), (q, -1.0)):
            for episode in population.in_folds(folds):
                windows = population.windows.of_episode(int(episode)).flatten(1)
                with torch.inference_mode():
                    logits = trained[NETWORK](windows[None], torch.tensor([7.0]))[..., 0]
                hits.append(float((logits * sign > 0).float().mean()))
        return float(np.mean(hits))

    assert accuracy([2]) > 0.8  # by heart
    (found,) = cross(clean, [corrupt], horizon=2, options=QUICK, sigma=COARSE)
    assert found.sigma_min == 0.0  # and yet no difference is claimed
    assert abs(0.5 * (found.clean[3] + found.corrupt[3])[0] - 0.5) < 0.15


def falling() -> object:
    """Held-out losses of a training that gets better and better."""
    losses = iter(range(0, -(10**6), -1))
    return lambda *_: float(next(losses))


def test_three_atoms_learn_the_exact_posterior() -> None:
    """p uniform on {0, 1}, q on {-1, 0}: c* is known at every point and level."""
    rng = np.random.default_rng(3)
    clean = [np.array([[float(atom)]]) for atom in rng.integers(0, 2, 150)]
    corrupt = [np.array([[float(atom)]]) for atom in rng.integers(-1, 1, 150)]
    p, q = make_population("p", clean, 1, 3), make_population("q", corrupt, 1, 3)
    fitted = fit_fold(p, [q], 0, channel_of(p), QUICK)
    noise = torch.randn(3, 500, 1, generator=torch.Generator().manual_seed(0))
    windows = torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1)
    for level in (5, 11, 18):
        c = fitted.predict(windows, noise, [0], slice(level, level + 1))[0, ..., 0].numpy()
        sigma = fitted.sigma[level]
        a = np.sqrt(1 - sigma**2)
        x = a * windows[:, :, 0].numpy() + sigma * noise[..., 0].numpy()
        p0, p1, pm = (np.exp(-((x - a * m) ** 2) / (2 * sigma**2)) for m in (0, 1, -1))
        exact = (p0 + p1) / (p0 + p1 + p0 + pm)
        assert np.abs(c.mean(axis=1) - exact.mean(axis=1)).max() < 0.06


def test_a_network_that_spoils_what_the_moments_say_is_not_relied_on() -> None:
    """Normal laws, a step so large that the network's part is noise: the others are kept."""
    rng = np.random.default_rng(7)
    mean = direction(rng, (2, 2))
    clean = gaussian_episodes(rng, 90, np.zeros((2, 2)), 0.04)
    corrupt = gaussian_episodes(rng, 90, mean, 0.04)
    p, q = make_population("p", clean, 2, 3), make_population("q", corrupt, 2, 3)
    good = fit_pair(p, q, 0, channel_of(p), QUICK)
    wild = replace(QUICK, train=TrainOptions(steps=50, warm_up=0, learning_rate=3.0))
    spoilt = fit_pair(p, q, 0, channel_of(p), wild)
    noise = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    windows = torch.from_numpy(mean).float().flatten() + 0.2 * noise.flip(0)
    levels = np.array([8, 15, 20])
    found, expected = (each.predict(windows, noise, levels) for each in (spoilt, good))
    assert float((found - expected).abs().mean()) < 0.05
    assert expected.std() > 0.1


def small_populations() -> tuple[Population, list[Population]]:
    rng = np.random.default_rng(8)
    clean = make_population("p", gaussian_episodes(rng, 30, np.zeros((4, 2)), 0.04), 4, 3)
    return clean, [
        make_population(name, gaussian_episodes(rng, 30, np.full((4, 2), by), 0.04), 4, 3)
        for name, by in (("a", 0.3), ("b", 0.1))
    ]


def test_what_is_said_of_a_set_does_not_depend_on_the_others() -> None:
    """Bit by bit: not on whether they are there, nor on their order."""
    clean, (a, b) = small_populations()
    channel = channel_of(clean, COARSE)
    both, turned = (
        fit_fold(clean, populations, 1, channel, BRIEF) for populations in ([a, b], [b, a])
    )
    alone = fit_pair(clean, b, 1, channel, BRIEF)
    for pair in (both.pairs[1], turned.pairs[0]):
        assert list(pair.members) == list(alone.members)
        assert torch.equal(pair.slope, alone.slope)
        assert torch.equal(pair.intercept, alone.intercept)
        state = alone.members.state_dict()
        assert all(torch.equal(state[k], v) for k, v in pair.members.state_dict().items())
    assert not torch.equal(both.pairs[0].intercept, alone.intercept)


def test_predictions_are_those_of_the_pairs_asked_for_at_the_levels_asked_for() -> None:
    clean, populations = small_populations()
    fitted = fit_fold(clean, populations, 0, channel_of(clean), BRIEF)
    assert fitted.sigma.tolist() == SIGMA[sparse_levels(SIGMA.size)].tolist()
    generator = torch.Generator().manual_seed(1)
    windows = 0.2 * torch.randn(3, 4, 2, generator=generator)
    noise = torch.randn(3, 5, 8, generator=generator)
    c = fitted.predict(windows, noise, [1, 0], slice(None))
    assert c.shape == (33, 3, 5, 2)
    assert ((c >= 0.0) & (c <= 1.0)).all() and c.std() > 0.01
    swapped = fitted.predict(windows, noise, [0, 1], slice(None))
    assert torch.equal(c, swapped.flip(-1))
    places = np.array([30, 4, 17])
    torch.testing.assert_close(
        fitted.predict(windows, noise, [1, 0], places), c[places], atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        fitted.predict(windows, noise, [1], slice(2, 30, 7)), c[2:30:7, ..., :1], atol=1e-5, rtol=0
    )
    one = fitted.predict(windows[1:2], noise[1:2, 3:4], [1], slice(None))
    torch.testing.assert_close(one[:, 0, 0], c[:, 1, 3, :1], atol=1e-5, rtol=1e-4)


def test_a_prediction_is_the_weighed_sum_of_the_estimates() -> None:
    clean, (a, _) = small_populations()
    pair = fit_pair(clean, a, 0, channel_of(clean), BRIEF)
    rows, noise = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(2))
    levels = np.array([3, 20])
    snr = torch.from_numpy(log_snr(pair.channel.levels[levels])).float()
    noised = pair.channel.blur(rows[None], noise[None], snr)
    total = pair.intercept[levels][:, None].expand(2, 6).clone()
    row = 0
    for member in pair.members.values():
        for estimate in member(noised, snr).unbind(-1):
            total += pair.slope[row, levels][:, None] * estimate
            row += 1
    assert row == len(pair.slope)
    assert (pair.slope >= 0.0).all()
    torch.testing.assert_close(pair.predict(rows, noise, levels), torch.sigmoid(total))


@pytest.mark.parametrize("patience", [1, 99])
def test_every_step_is_reported_also_of_those_that_are_left_out(patience: int) -> None:
    clean, (a, _) = small_populations()
    reported, options = list[tuple[int, str]](), replace(BRIEF, every=6, patience=patience)

    def advance(steps: int, note: str = "") -> None:
        reported.append((steps, note))

    fit_pair(clean, a, 0, channel_of(clean, COARSE), options, advance=advance)
    assert sum(steps for steps, _ in reported) == 20  # of the network: the only one that is trained
    assert "held out" in reported[0][1]


class Told(nn.Module):
    """An estimate: the first coordinate times a factor, with noise of its own."""

    def __init__(self, factor: float, noise: float) -> None:
        super().__init__()
        self.factor, self.noise = factor, noise
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, noised: Tensor, log_snr: Tensor) -> Tensor:
        own = torch.randn(noised.shape[:2], generator=self.generator)
        return (self.factor * noised[..., 0] + self.noise * own)[..., None]


def test_members_that_do_not_lower_the_held_out_loss_are_left_out() -> None:
    """Normal laws a unit apart, looked at through no noise: the log-odds are x - 1/2."""
    generator, number = torch.Generator().manual_seed(0), torch.arange(2_000)
    clean, corrupt = (by + torch.randn(2_000, 1, generator=generator) for by in (0.5, -0.5))
    sample = Sample(clean, corrupt, number, number)
    levels = SIGMA[sparse_levels(SIGMA.size)]
    plain = replace(noise_channel(SIGMA, Sizes(1, 1)), blur=lambda x, _, s: x.repeat(len(s), 1, 1))
    members = nn.ModuleDict(
        {"noise": Told(0.0, 1.0), "right": Told(0.5, 0.0), "wrong": Told(-1.0, 0.0)}
    )
    options = replace(QUICK, calibration_rows=2_000)
    free = replace(plain, anchored=False)
    kept, model = fit._calibrate(members, sample, free, options, generator)
    assert list(kept) == ["right"]
    at = model.at(np.clip(log_snr(levels), *free.range))
    np.testing.assert_allclose(at.slope, 2.0, rtol=0.2)
    apart = nn.ModuleDict({"one": Told(1.0, 0.6), "other": Told(1.0, 0.6)})
    apart["other"].generator.manual_seed(1)
    kept, _ = fit._calibrate(apart, sample, free, options, generator)
    assert list(kept) == ["one", "other"]  # each knows what the other does not


def test_a_value_that_no_noise_hides_is_relied_on_at_every_level() -> None:
    """The state tells clean from corrupt; the actions do not."""
    generator, channel = (
        torch.Generator().manual_seed(0),
        noise_channel(SIGMA, Sizes(2, 1, condition_dim=1)),
    )
    rows = torch.randn(2, 600, 3, generator=generator)
    rows[1, :, 2] += 1.0
    number = torch.arange(600)
    sample = Sample(rows[0], rows[1], number % 30, number % 30)
    pair = fit_sample(sample, channel)
    c = pair.predict(rows[0], torch.randn(600, 3, generator=generator), np.arange(33))
    exact = torch.sigmoid(0.5 - rows[0, :, 2])
    assert float((c[[0, 10, 20, 30, 32]] - exact).abs().mean(dim=1).max()) < 0.06


def fit_sample(sample: Sample, channel: Channel) -> PairClassifier:
    """Fit to given windows: `fit_pair` without populations."""
    members = channel.build(sample, sample, torch.Generator().manual_seed(1))
    members = members.requires_grad_(False).eval()
    kept, model = fit._calibrate(members, sample, channel, BRIEF, torch.Generator().manual_seed(2))
    at = model.at(np.clip(log_snr(channel.levels), *channel.range))
    return PairClassifier(
        channel, kept, *(torch.from_numpy(x).float() for x in (at.slope, at.intercept))
    )


@pytest.mark.slow
def test_two_corrupt_sets_cross_where_the_closed_form_says() -> None:
    rng = np.random.default_rng(4)
    mean = direction(rng, (4, 2))
    clean = gaussian_episodes(rng, 300, np.zeros((4, 2)), 0.04)
    near = gaussian_episodes(rng, 600, 0.4 * mean, 0.04)
    far = gaussian_episodes(rng, 600, 2.0 * mean, 0.04)
    both = cross(clean, [near, far], horizon=4, options=FitOptions())
    for found, distance in zip(both, (0.4, 2.0), strict=True):
        print(distance, gaussian_sigma_min(distance, 0.04), found.sigma_min)
        assert found.sigma_min == pytest.approx(gaussian_sigma_min(distance, 0.04), abs=0.06)


@pytest.mark.slow
def test_fifty_against_five_thousand_equals_balanced() -> None:
    rng = np.random.default_rng(5)
    mean = direction(rng, (2, 2))
    clean = gaussian_episodes(rng, 50, np.zeros((2, 2)), 0.04)
    corrupt = gaussian_episodes(rng, 5000, mean, 0.04)
    exact = gaussian_sigma_min(1.0, 0.04)
    (unbalanced,) = cross(clean, [corrupt], horizon=2, options=FitOptions())
    (balanced,) = cross(clean, [corrupt[:50]], horizon=2, options=FitOptions())
    print(exact, unbalanced.sigma_min, balanced.sigma_min, (balanced.lower, balanced.upper))
    assert unbalanced.sigma_min == pytest.approx(exact, abs=0.06)
    assert balanced.sigma_min == pytest.approx(unbalanced.sigma_min, abs=0.08)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("distance", "variance"), [(1.0, 0.04), (2.0, 1.0)])
def test_gaussian_oracle_at_full_size(distance: float, variance: float) -> None:
    """500 clean and 5,000 corrupt episodes, 10 seeds: mean error <= .03, none over .06."""
    exact = gaussian_sigma_min(distance, variance)
    errors = []
    for seed in range(10):
        rng = np.random.default_rng([seed, 6])
        mean = distance * direction(rng, (4, 2))
        clean = gaussian_episodes(rng, 500, np.zeros((4, 2)), variance)
        corrupt = gaussian_episodes(rng, 5000, mean, variance)
        (found,) = cross(clean, [corrupt], horizon=4, options=FitOptions(seed=seed))
        errors.append(abs(found.sigma_min - exact))
        print(f"seed {seed}: {found.sigma_min:.3f} against {exact:.3f}", flush=True)
    print(f"mean error {np.mean(errors):.4f}, worst {np.max(errors):.4f}")
    assert np.mean(errors) <= 0.03
    assert np.max(errors) <= 0.06
