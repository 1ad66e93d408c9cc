"""Controls cross where the exact divergence of the changed windows does; moments say nothing."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logsumexp
from scipy.stats import norm
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

from ambient_curate.data.planted_controls import (
    DIRECTIONS,
    QUIET,
    SHARE,
    SHIFT,
    SIGMA,
    SPIKES,
    Control,
    PlantedNoise,
    PlantedShift,
    PlantedSpikes,
    draw_uniform,
    find_quiet_directions,
    plant_controls,
    spikes_delta,
)
from ambient_curate.data.populations import Planted, Population
from ambient_curate.data.windows import Windows
from ambient_curate.divergence import gaussian_delta

FOLDS = 5
EPSILON = 0.05
Values = NDArray[np.float64]
WORDS = 2**64


def arm_of(windows: Values, horizon: int) -> Population:
    """Episodes of one window each."""
    n = len(windows)
    frames = torch.from_numpy(windows.astype(np.float32).reshape(n * horizon, -1))
    length = np.full(n, horizon, dtype=np.int64)
    views = Windows(frames, None, np.arange(n) * horizon, length, horizon, 1)
    return Population("clean", None, views, np.arange(n), np.arange(n) % FOLDS)


def normal_population(
    covariance: Values, episodes: int, horizon: int, *, seed: int = 0
) -> Population:
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky(covariance + 1e-12 * np.eye(len(covariance)))
    return arm_of(rng.standard_normal((episodes, len(covariance))) @ root.T, horizon)


def both(
    population: Population, epsilon: float = EPSILON, seed: int = 0
) -> tuple[Control, Control]:
    shift, spikes = plant_controls(population, FOLDS, epsilon, seed)
    return shift, spikes


def flat(population: Population) -> Values:
    return (
        population.windows.gather(population.episodes, np.zeros_like(population.episodes))
        .flatten(1)
        .double()
        .numpy()
    )


def autoregressive(horizon: int, actions: int, phi: float = 0.95) -> Values:
    """Covariance of windows of independent AR(1) dimensions of unit variance."""
    lag = np.abs(np.subtract.outer(np.arange(horizon), np.arange(horizon)))
    return np.kron(phi**lag, np.eye(actions))


def sinusoids(horizon: int, actions: int) -> Values:
    """Covariance of sums of three sinusoids of normal amplitudes: windows of rank 6."""
    angle = np.outer(np.arange(horizon), [0.05, 0.2, 0.5])
    waves = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) * [1.0, 0.5, 0.1, 1.0, 0.5, 0.1]
    return np.kron(waves @ waves.T, np.eye(actions))


def spikes_of(control: Control) -> tuple[Values, PlantedSpikes, PlantedNoise]:
    """Directions (direction, dim), and what was planted."""
    planted, opposed = control.population.planted, control.population.planted_clean
    assert isinstance(planted, PlantedSpikes)
    assert isinstance(opposed, PlantedNoise)
    return planted.directions.flatten(1).double().numpy(), planted, opposed


def exact_delta(control: Control, covariance: Values, sigma: float, rows: int = 3_000) -> float:
    """Delta of normal windows with spikes and with noise, all coordinates known, by Monte Carlo.

    What N(w, C) says of w is the generalised least squares estimate, N(w, (D C^-1 D^T)^-1).
    """
    along, planted, opposed = spikes_of(control)
    a2 = 1.0 - sigma**2
    noised = a2 * covariance + sigma**2 * np.eye(len(covariance))
    left = np.linalg.inv(along @ np.linalg.solve(noised, along.T))
    root = np.linalg.cholesky(left)
    places = np.array(list(product([-1.0, 0.0, 1.0], repeat=len(along))))
    chance = np.where(places == 0.0, 1.0 - planted.share, planted.share / 2).prod(axis=1)
    rng = np.random.default_rng(1)
    picked = rng.choice(len(places), rows, p=chance)
    y = a2**0.5 * planted.length * places[picked] + rng.standard_normal((rows, len(along))) @ root.T
    white = np.linalg.solve(root, y.T).T
    centre = np.linalg.solve(root, a2**0.5 * planted.length * places.T)
    square = np.square(white).sum(axis=1) / 2
    far = (
        np.square(centre).sum(axis=0) / 2 + part[:, None] - rows_of @ centre
        for part, rows_of in zip(np.split(square, 10), np.split(white, 10), strict=True)
    )
    log_q = np.concatenate([np.log(np.exp(-each) @ chance) for each in far])
    wide = left + a2 * opposed.spread**2 * np.eye(len(along))
    log_p = -(y * np.linalg.solve(wide, y.T).T).sum(axis=1) / 2
    log_p -= (np.linalg.slogdet(wide)[1] - np.linalg.slogdet(left)[1]) / 2
    return float(2.0 - 4.0 * expit(log_p - log_q).mean())


@pytest.mark.parametrize(("count", "share"), [(1, 0.2), (3, 0.05), (8, 0.1)])
@pytest.mark.parametrize("distance", [1.5, 2.8, 5.0, 12.0])
def test_the_divergence_of_spikes_is_that_of_the_densities(
    count: int, share: float, distance: float
) -> None:
    rng = np.random.default_rng(2)
    shape = (40_000, count)
    spike = (rng.random(shape) < share) * rng.choice([-distance, distance], shape)
    spread = float(np.sqrt(1.0 + share * distance**2))

    def ratio(x: Values) -> Values:
        tails = norm.logpdf(x, -distance), norm.logpdf(x, distance)
        parts = [np.log1p(-share) + norm.logpdf(x), *(np.log(share / 2) + t for t in tails)]
        return (logsumexp(parts, axis=0) - norm.logpdf(x, 0.0, spread)).sum(axis=1)

    squares = [
        np.square(np.tanh(ratio(x) / 2))
        for x in (spread * rng.standard_normal(shape), spike + rng.standard_normal(shape))
    ]
    error = float(np.hypot(*(s.std() / len(s) ** 0.5 for s in squares)))
    found = spikes_delta(distance, count=count, share=share)
    assert found == pytest.approx(float(squares[0].mean() + squares[1].mean()), abs=4.0 * error)


def test_the_divergence_of_spikes_rises_from_nothing_to_certainty() -> None:
    values = [spikes_delta(distance) for distance in np.linspace(0.0, 50.0, 26)]
    assert values[0] == pytest.approx(0.0, abs=1e-9)
    assert values[-1] == pytest.approx(2.0, abs=1e-3)
    assert (np.diff(values) > -1e-6).all()


@pytest.mark.parametrize("epsilon", [0.01, 0.05, 0.2, 0.49])
def test_windows_without_spread_cross_at_one_fifth(epsilon: float) -> None:
    rng = np.random.default_rng(3)
    windows = rng.standard_normal((200, 2)) @ rng.standard_normal((2, 32))
    for control in both(arm_of(windows, horizon=16), epsilon):
        assert control.sigma_min == pytest.approx(SIGMA, abs=1e-3)


@pytest.mark.parametrize(
    ("covariance", "horizon"),
    [
        (autoregressive(16, 2), 16),
        (autoregressive(16, 4), 16),  # windows for one half, 64 dimensions: directions fit luck
        (autoregressive(16, 2, phi=0.9999), 16),
        (sinusoids(16, 2), 16),
        (np.eye(12), 6),  # nothing is quiet
        (np.diag([1e-4, 0.02, 0.3, 1.0, 1.0, 2.0]), 3),
    ],
)
def test_spikes_cross_where_the_exact_divergence_does(covariance: Values, horizon: int) -> None:
    """Whatever else the windows show: between the noise with v and that without, .02 apart."""
    _, control = both(normal_population(covariance, 1_500, horizon))
    along, planted, _ = spikes_of(control)
    sigma = control.sigma_min
    spread = float(np.einsum("ij,jk,ik->i", along, covariance, along).max())
    slack = 0.02 if spread < 0.02 else 0.06
    above, below = (exact_delta(control, covariance, s) for s in (sigma + slack, sigma - slack))
    assert above < 4.0 * EPSILON < below
    # no law of the windows crosses above the one without any spread
    noise = planted.length / find_distance()
    top = float((noise**2 / (1.0 + noise**2)) ** 0.5)
    assert sigma <= top
    assert exact_delta(control, covariance, top) < 4.0 * EPSILON + 0.015


def find_distance() -> float:
    """Length of a spike, in standard deviations of the noise, at which Delta is 4 epsilon."""
    return float(brentq(lambda d: spikes_delta(d) - 4.0 * EPSILON, 1.0, 6.0, xtol=1e-4))


def noise_halves(
    control: Control, population: Population, sigma: float, *, seed: int
) -> list[Values]:
    """Windows of every episode, as one half and as the other, through the channel."""
    rng = np.random.default_rng(seed)
    number = np.zeros_like(population.episodes)
    windows = population.windows.gather(population.episodes, number)
    found = []
    for change in (control.population.planted_clean, control.population.planted):
        assert change is not None
        x = change.apply(windows, population.episodes, number).flatten(1).double().numpy()
        found.append((1.0 - sigma**2) ** 0.5 * x + sigma * rng.standard_normal(x.shape))
    return found


def test_means_and_covariances_say_nothing_of_spikes() -> None:
    """Half as much noise as at the crossing: a quadratic discriminant sees none, the ratio all."""
    population = normal_population(autoregressive(16, 2, phi=0.999), 30_000, 16)
    _, control = both(population)
    along, planted, opposed = spikes_of(control)
    sigma = control.sigma_min / 2
    train, test = (noise_halves(control, population, sigma, seed=seed) for seed in (10, 11))
    labels = np.repeat([0, 1], len(train[0]))
    judge = QuadraticDiscriminantAnalysis().fit(np.concatenate(train), labels)
    blind = 2.0 - 4.0 * judge.predict_proba(test[1])[:, 0].mean()
    a2 = 1.0 - sigma**2
    spread = a2 * np.var(flat(population) @ along.T, axis=0) + sigma**2

    def ratio(x: Values) -> Values:
        y, size = x @ along.T, a2**0.5 * planted.length
        bells = [np.exp(-np.square(y - place) / 2 / spread) for place in (-size, 0.0, size)]
        q = planted.share / 2 * (bells[0] + bells[2]) + (1.0 - planted.share) * bells[1]
        wide = spread + a2 * opposed.spread**2
        return (np.log(q) - np.log(spread / wide) / 2 + np.square(y) / 2 / wide).sum(axis=1)

    exact = 2.0 - 4.0 * expit(-ratio(test[1])).mean()
    assert abs(blind) < 0.05
    assert exact > 1.0


def test_both_halves_have_one_mean_and_one_covariance() -> None:
    """Those of clean windows, and the spikes' variance along their directions."""
    population = normal_population(autoregressive(8, 2), 200, 8)
    _, control = both(population)
    along, planted, opposed = spikes_of(control)
    n = 100_000
    episode, number = np.divmod(np.arange(n), 500)
    still = torch.zeros(n, 8, 2)
    expected = planted.length**2 * SHARE * along.T @ along
    for change in (planted, opposed):
        added = change.apply(still, episode, number).flatten(1).double().numpy()
        assert np.abs(added.mean(axis=0)).max() < 5.0 * opposed.spread / n**0.5
        np.testing.assert_allclose(added.T @ added / n, expected, atol=0.05 * opposed.spread**2)
    assert set(np.unique(np.round(added @ along.T / planted.length)).tolist()) != {0.0}


def test_spikes_are_of_one_length_and_as_frequent_as_they_should_be() -> None:
    along = torch.eye(6).reshape(6, 3, 2)
    n = 50_000
    episode, number = np.divmod(np.arange(n), 100)
    added = PlantedSpikes(along, 0.7, 0.1, 5).apply(torch.zeros(n, 3, 2), episode, number)
    values = added.flatten(1).double().numpy() / np.float32(0.7)
    assert set(np.unique(values).tolist()) == {-1.0, 0.0, 1.0}
    assert np.mean(values > 0) == pytest.approx(0.05, abs=0.002)
    assert np.mean(values < 0) == pytest.approx(0.05, abs=0.002)
    together = (values[:, 0] != 0) & (values[:, 1] != 0)
    assert together.mean() == pytest.approx(0.01, abs=0.002)  # independent


PLANTED: list[Planted] = [
    PlantedShift(torch.arange(8.0).reshape(4, 2)),
    PlantedSpikes(torch.linspace(-1, 1, 24).reshape(3, 4, 2), 0.3, 0.4, 9),
    PlantedNoise(torch.linspace(-1, 1, 24).reshape(3, 4, 2), 0.3, 9),
]


@given(st.lists(st.integers(0, 39), min_size=1, max_size=60), st.sampled_from(PLANTED))
def test_a_window_is_changed_alike_in_every_batch(rows: list[int], change: Planted) -> None:
    episode, number = np.divmod(np.arange(40), 7)
    windows = torch.randn(40, 4, 2, generator=torch.Generator().manual_seed(0))
    kept = windows.clone()
    whole = change.apply(windows, episode, number)
    part = change.apply(windows[rows], episode[rows], number[rows])
    assert torch.equal(part, whole[rows])
    assert torch.equal(windows, kept)
    assert part.dtype == torch.float32


def test_other_seeds_windows_and_episodes_are_changed_in_other_ways() -> None:
    at = np.arange(1_000)
    none = np.zeros_like(at)
    draws = [
        draw_uniform(0, none, at, 4),
        draw_uniform(1, none, at, 4),
        draw_uniform(0, at, none, 4),
        draw_uniform(0, none + 1, at, 4),
        draw_uniform(-1, none, at, 4),
    ]
    table = np.concatenate(draws, axis=1)
    table[0] = np.random.default_rng(0).random(table.shape[1])  # window 0 of episode 0 is in two
    assert np.abs(np.corrcoef(table, rowvar=False) - np.eye(table.shape[1])).max() < 0.13
    assert np.array_equal(draw_uniform(WORDS + 7, at, at, 2), draw_uniform(7, at, at, 2))


def test_draws_are_uniform_and_those_of_splitmix64() -> None:
    def mix(state: int) -> int:
        state = (state + 0x9E3779B97F4A7C15) % WORDS
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % WORDS
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % WORDS
        return state ^ (state >> 31)

    assert mix(0) == 0xE220A8397B1DCDAF  # the first output of SplitMix64 with seed 0
    episode, number = np.array([3, 0, 2**40]), np.array([11, 0, 5])
    found = draw_uniform(42, episode, number, 3)
    for row, (e, n) in enumerate(zip(episode.tolist(), number.tolist(), strict=True)):
        state = mix((mix((mix(42) + e) % WORDS) + n) % WORDS)
        bits = [mix((state + (i + 1) * 0x9E3779B97F4A7C15) % WORDS) >> 12 for i in range(3)]
        assert found[row].tolist() == [(b + 0.5) / 2**52 for b in bits]
    many = np.sort(draw_uniform(1, np.arange(50_000), np.arange(50_000), 1)[:, 0])
    assert 0.0 < many[0] < many[-1] < 1.0
    assert np.abs(many - (np.arange(50_000) + 0.5) / 50_000).max() < 1.63 / 50_000**0.5  # p = .01


def test_spikes_lie_about_one_frame_where_windows_are_smooth() -> None:
    rng = np.random.default_rng(5)
    windows = rng.multivariate_normal(np.zeros(48), sinusoids(16, 3), 3_000, method="eigh")
    along = find_quiet_directions(windows, rng)
    np.testing.assert_allclose(along @ along.T, np.eye(DIRECTIONS), atol=1e-9)
    largest = np.square(along).max(axis=1)
    assert largest.min() > 0.5
    assert len(set(np.square(along).argmax(axis=1).tolist())) == DIRECTIONS
    assert np.var(windows @ along.T, axis=0).max() <= QUIET**2


def test_the_shift_is_along_the_direction_of_least_variance() -> None:
    windows = np.random.default_rng(1).normal(size=(40, 4))
    windows[:, 3] = windows[:, 0]  # they differ by nothing, in every window
    control, _ = both(arm_of(windows, horizon=2))
    assert isinstance(control.population.planted, PlantedShift)
    assert control.population.planted_clean is None
    shift = control.population.planted.shift.flatten().abs()
    torch.testing.assert_close(shift / shift.norm(), torch.tensor([0.5, 0, 0, 0.5]).sqrt())


@pytest.mark.parametrize("epsilon", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("least", [1e-4, 0.01, 0.5])
def test_the_shift_crosses_where_the_exact_divergence_does(least: float, epsilon: float) -> None:
    rng = np.random.default_rng(4)
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    covariance = turn @ np.diag([least, 0.6, 0.8, 1.0, 2.0, 9.0]) @ turn.T
    control, _ = both(normal_population(covariance, 4_000, 3), epsilon)
    assert isinstance(control.population.planted, PlantedShift)
    shift = control.population.planted.shift.flatten().double().numpy()
    sigma, a2 = control.sigma_min, 1.0 - control.sigma_min**2
    noised = a2 * covariance + sigma**2 * np.eye(6)
    distance = float(np.sqrt(a2 * shift @ np.linalg.solve(noised, shift)))  # Mahalanobis
    assert gaussian_delta(distance) == pytest.approx(4.0 * epsilon, rel=0.08)


@pytest.mark.parametrize("episodes", [10, 11, 23])
def test_the_controls_part_the_clean_set_in_every_fold_in_the_same_way(episodes: int) -> None:
    population = normal_population(np.eye(4), episodes, horizon=2)
    controls = both(population)
    assert [control.name for control in controls] == [SHIFT, SPIKES]
    halves = [
        (control.population.episodes.tolist(), control.population.clean_episodes)
        for control in controls
    ]
    assert halves[0][0] == halves[1][0]
    for changed, others in halves:
        assert others is not None
        assert sorted([*changed, *others.tolist()]) == population.episodes.tolist()
    for fold in range(FOLDS):
        sizes = [len(controls[0].population.in_folds([fold])), int((population.fold == fold).sum())]
        assert sizes[0] >= 1
        assert 0 <= sizes[1] - 2 * sizes[0] <= 1


def test_dimensions_that_never_move_stay_where_they_are() -> None:
    windows = np.random.default_rng(2).normal(size=(40, 6))
    windows[:, [1, 4]] = 3.0
    population = arm_of(windows, horizon=3)
    number = np.zeros_like(population.episodes)
    before = population.windows.gather(population.episodes, number)
    for control in both(population):
        for change in (control.population.planted, control.population.planted_clean):
            if change is not None:
                moved = (change.apply(before, population.episodes, number) - before).flatten(1)
                assert not moved[:, [1, 4]].any()
                assert moved.any()
    assert len(spikes_of(both(population)[1])[0]) == 4  # no more than there are dimensions


def test_one_moving_dimension_is_enough() -> None:
    windows = np.zeros((40, 4))
    windows[:, 2] = np.random.default_rng(2).normal(size=40)
    shift, spikes = both(arm_of(windows, horizon=2))
    assert len(spikes_of(spikes)[0]) == 1
    assert 0.0 < shift.sigma_min < 1.0
    assert 0.0 < spikes.sigma_min < 1.0


def test_too_few_or_motionless_episodes_give_no_controls() -> None:
    few = normal_population(np.eye(4), 2 * FOLDS - 1, horizon=2)
    assert plant_controls(few, FOLDS, EPSILON, 0) == ()
    assert plant_controls(arm_of(np.ones((40, 4)), horizon=2), FOLDS, EPSILON, 0) == ()


def test_the_seed_decides_where_spikes_are_and_in_which_windows() -> None:
    population = normal_population(sinusoids(16, 2), 60, 16)
    first, again, other = (spikes_of(both(population, seed=seed)[1])[1] for seed in (0, 0, 1))
    number = np.zeros_like(population.episodes)
    windows = population.windows.gather(population.episodes, number)
    changed = [p.apply(windows, population.episodes, number) for p in (first, again, other)]
    assert torch.equal(changed[0], changed[1])
    assert not torch.equal(first.directions, other.directions)
    assert not torch.equal(changed[0], changed[2])
