"""Checks at their thresholds, in closed form; then how often a sound classifier fails them."""

import json
from dataclasses import asdict, dataclass

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from ambient_curate.annotation.reliability import (
    CLEAR_ERRORS,
    HEIGHTENING,
    WIDENING,
    Finding,
    check_balance,
    check_blindness,
    check_control,
    check_overfit,
    is_recovered,
)
from ambient_curate.divergence import gaussian_delta
from ambient_curate.noise import grid, log_snr, sigma_from_log_snr, signal_scale
from ambient_curate.run.records import explain_missed
from ambient_curate.statistics.bootstrap import bootstrap_means, few_folds, stretch
from ambient_curate.statistics.energy_test import compare_episodes
from ambient_curate.statistics.sigma_min import last_crossing, rising_fit

EPSILON = 0.05
AT_CHANCE = np.linspace(0.4, 0.6, 1001)
ABOVE = np.linspace(0.51, 0.6, 1001)


@pytest.mark.parametrize(
    ("p_value", "accuracy", "sigma_min", "passed"),
    [
        (0.001, AT_CHANCE, 0.0, False),
        (0.001, np.full(10, 0.5), 0.0, False),  # a network that says 1/2 everywhere
        (0.001, 1.0 - ABOVE, 0.0, False),
        (0.002, AT_CHANCE, 0.0, True),
        (0.001, ABOVE, 0.0, True),  # a small difference that it sees
        (0.001, AT_CHANCE, 0.03, True),
    ],
)
def test_a_blind_network_misses_a_certain_difference(
    p_value: float, accuracy: np.ndarray, sigma_min: float, passed: bool
) -> None:
    finding = check_blindness(p_value, accuracy, sigma_min)
    assert finding.passed == passed
    assert ("sees none" in finding.sentence) == (not passed or p_value > 0.001)
    assert f"p = {p_value:.3f}" in finding.sentence
    lower, upper = np.quantile(accuracy, [0.025, 0.975])
    assert (finding.numbers["lower"], finding.numbers["upper"]) == (lower, upper)


def test_the_control_fails_only_beyond_its_stretched_interval() -> None:
    """Further on the high side: what is found too high errs on the safe side."""
    found, error = 0.5, 0.35  # standard error in log-SNR, where noise falls as it rises
    lower, upper = (
        float(sigma_from_log_snr(log_snr(found) + side * 1.96 * error)) for side in (1, -1)
    )
    for limit, side, fault in (
        (1.96 * WIDENING, -1, "too weak"),
        (1.96 * HEIGHTENING, 1, "scored what they were trained on"),
    ):
        for errors, passed in ((limit - 0.001, True), (limit + 0.001, False)):
            expected = float(sigma_from_log_snr(log_snr(found) + side * errors * error))
            finding = check_control(expected, found, lower, upper)
            assert finding.passed == passed
            assert (fault in finding.sentence) == (not passed)
    between = 1.96 * (WIDENING + HEIGHTENING) / 2 * error
    too_high = check_control(
        float(sigma_from_log_snr(log_snr(found) + between)), found, lower, upper
    )
    assert too_high.passed
    assert "missed, too high" in too_high.sentence
    assert "recovered" in check_control(found, found, lower, upper).sentence


@pytest.mark.parametrize(
    ("found", "lower", "upper", "passed"),
    [
        (0.0, 0.0, 0.0, False),
        (0.0, 0.0, 0.19, False),  # nothing to stretch from
        (0.0, 0.0, 0.21, True),
        (0.09, 0.0, 0.11, False),
        (0.11, 0.0, 0.12, True),  # not by far enough
        (0.1, 0.0, 1.0, True),
        (1.0, 1.0, 1.0, False),
        (1.0, 0.19, 1.0, True),
        (1.0, 0.21, 1.0, False),
    ],
)
def test_ends_of_the_axis_are_not_stretched(
    found: float, lower: float, upper: float, passed: bool
) -> None:
    assert check_control(0.2, found, lower, upper).passed == passed


@pytest.mark.parametrize(
    ("expected", "found", "lower", "upper", "recovered"),
    [
        (0.2, 0.2, 0.2, 0.2, True),
        (0.2, 0.15, 0.12, 0.19, False),  # further off than its interval allows
        (0.2, 0.15, 0.12, 0.21, True),
        (0.2, 0.195, 0.194, 0.196, True),  # by less than it is known to
        (0.2, 0.27, 0.21, 0.3, False),
        (0.2, 0.27, 0.19, 0.3, True),
        (0.2, 0.299, 0.0, 1.0, True),
        (0.2, 0.301, 0.0, 1.0, False),  # an interval that allows everything
        (0.2, 0.099, 0.0, 1.0, False),
        (0.23, 0.954, 0.1, 0.99, False),
        (0.438, 0.379, 0.338, 0.419, False),
        (0.2, 0.0, 0.0, 0.3, False),
    ],
)
def test_a_recovered_control_is_near_and_inside_its_interval(
    expected: float, found: float, lower: float, upper: float, recovered: bool
) -> None:
    assert is_recovered(expected, found, lower, upper) == recovered
    finding = check_control(expected, found, lower, upper, name="planted spike")
    assert finding.numbers["recovered"] == recovered
    assert finding.passed >= recovered
    assert finding.sentence.startswith("the planted spike was expected")
    assert finding.sentence.endswith(": recovered") == recovered
    if finding.passed and not recovered:
        assert finding.sentence.endswith(f": {explain_missed(expected, found)}")


def test_the_balance_interval_holds_at_all_levels_at_once() -> None:
    """Independent normal levels: the largest of L deviations has a quantile in closed form."""
    levels, spread = 40, 0.01
    redraws = spread * np.random.default_rng(0).normal(size=(40_000, levels))
    sigma = np.linspace(0.1, 0.9, levels)
    width = spread * norm.ppf((1.0 + 0.99 ** (1.0 / levels)) / 2.0)
    for sign in (1, -1):
        for excess, passed in ((0.95, True), (1.05, False)):
            offset = np.zeros(levels)
            offset[7] = sign * (EPSILON + excess * width)
            finding = check_balance(offset, redraws + offset, sigma, EPSILON)
            assert finding.passed == passed
            assert finding.numbers["sigma"] == sigma[7]
            near = finding.numbers["lower" if sign > 0 else "upper"]
            assert near == pytest.approx(offset[7] - sign * width, abs=0.05 * width)


@pytest.mark.parametrize(("offset", "passed"), [(0.0, True), (0.05, True), (-0.06, False)])
def test_a_balance_that_never_varies_is_taken_at_its_word(offset: float, passed: bool) -> None:
    offsets = np.full(3, offset)
    redraws = np.tile(offsets, (50, 1))
    sigma = np.array([0.1, 0.2, 0.3])
    assert check_balance(offsets, redraws, sigma, EPSILON).passed == passed


def test_brier_gaps_are_balanced_and_their_errors_pooled_over_folds() -> None:
    gap = np.array([0.1, 0.3, 0.2, 0.4, 0.5, 0.9, 0.1])
    is_clean = np.array([True, True, False, True, True, False, False])
    fold = np.array([0, 0, 0, 1, 1, 1, 1])
    in_use = np.linspace(0.1, 0.2, 7)
    numbers = check_overfit(in_use, in_use + gap, is_clean, fold).numbers
    assert numbers["gap"] == pytest.approx(((0.2 + 0.2) / 2 + (0.45 + 0.5) / 2) / 2)
    clean = (0.02 + 0.005) / 2  # four episodes about two means
    corrupt = 0.32 / 1
    squares = [clean / 2 + corrupt / 1, clean / 2 + corrupt / 2]
    assert numbers["error"] == pytest.approx(np.sqrt(sum(squares) / 4) / 2)
    assert numbers["held_out"] - numbers["in_use"] == pytest.approx(numbers["gap"])


@pytest.mark.parametrize("clean", [3, 6])
def test_scores_cannot_be_compared_where_a_class_has_one_episode_a_fold(clean: int) -> None:
    """Nothing tells how much its episodes differ: no error, and none that JSON cannot write."""
    is_clean = np.arange(clean + 3) < clean
    fold = np.arange(clean + 3) % 3
    finding = check_overfit(np.zeros(clean + 3), np.ones(clean + 3), is_clean, fold)
    assert finding.passed
    assert finding.numbers == {"in_use": 0.0, "held_out": 1.0, "gap": 1.0}
    assert "cannot be compared: a class has only one episode in every fold" in finding.sentence
    json.dumps(asdict(finding), allow_nan=False)
    with pytest.raises(ValueError, match="both classes"):
        check_overfit(np.zeros(2), np.ones(2), np.array([True, False]), np.array([0, 1]))


@pytest.mark.parametrize(("errors", "passed"), [(-9.0, True), (-0.05, True), (0.05, False)])
def test_scores_clearly_better_than_held_out_ones_are_not_out_of_fold(
    errors: float, passed: bool
) -> None:
    """By the differences of episodes: their own spread, three times as large, is no excuse."""
    rng = np.random.default_rng(0)
    in_use, differences = rng.normal(0.2, 0.03, 40), rng.normal(0.0, 0.01, 40)
    labels, fold = np.arange(40) % 2 == 0, np.arange(40) // 2 % 2
    level = check_overfit(in_use, in_use + differences, labels, fold).numbers
    moved = differences - level["gap"] + (CLEAR_ERRORS + errors) * level["error"]
    finding = check_overfit(in_use, in_use + moved, labels, fold)
    assert finding.passed == passed
    assert level["error"] < 0.01 / np.sqrt(30)


LEVELS = grid("squaredcos_cap_v2:20", base_levels=12)
FOLDS, WINDOWS, DIM, REDRAWS = 5, 4, 4, 200


@dataclass(frozen=True)
class World:
    """Laws of episodes, and networks that score them; each fold's network errs in its own way.

    A window is its episode's mean plus noise of its own; corrupt ones are moved by `shift` along
    the first axis. Fold k's logit of "clean" is ``fade * (g_k . x + b_k)``, `fade` falling to 0
    at full noise, with g_k about ``gain`` times the best direction, b_k about `tilt`.
    """

    clean: int = 20
    corrupt: int = 60
    shift: float = 0.0
    gain: float = 1.0
    wobble: float = 0.2
    tilt: float = 0.0
    leak: float = 0.0  # added to the logit of the right answer in the scores in use
    control: float = 1.0  # share of the control's shift that the network sees


@dataclass(frozen=True)
class Scores:
    """Scores of one class: c and Brier (episode, level)."""

    windows: list[np.ndarray]
    c: np.ndarray
    brier: np.ndarray
    accuracy: np.ndarray
    fold: np.ndarray


def draw_windows(rng: np.random.Generator, world: World, *, is_clean: bool) -> np.ndarray:
    n = world.clean if is_clean else world.corrupt
    x = rng.normal(size=(n, 1, DIM)) + 0.5 * rng.normal(size=(n, WINDOWS, DIM))
    x[..., 0] += 0.0 if is_clean else world.shift
    return x


def score_class(x: np.ndarray, networks: np.ndarray, *, is_clean: bool, leak: float) -> Scores:
    fold = np.arange(len(x)) % FOLDS
    side = 1.0 if is_clean else -1.0
    fade = signal_scale(LEVELS) ** 2
    drift = np.einsum("nwd,nd->nw", x, networks[fold, :DIM]) + networks[fold, None, DIM]
    c = expit(fade * (drift + side * leak)[..., None])
    right = c if is_clean else 1.0 - c
    return Scores(
        list(x),
        c.mean(axis=1),
        np.square(1.0 - right).mean(axis=1),
        (right > 0.5).mean(axis=1),
        fold,
    )


def redraw(values: np.ndarray, fold: np.ndarray, rng: np.random.Generator, seed: int) -> np.ndarray:
    return bootstrap_means(
        values,
        np.ones(len(values)),
        rng,
        fold=fold,
        fold_rng=np.random.default_rng(seed),
        repeats=REDRAWS,
    )


def cross(curves: np.ndarray) -> np.ndarray:
    return last_crossing(np.array([rising_fit(curve) for curve in curves]), LEVELS, 0.5 - EPSILON)


def control_of(rng: np.random.Generator, world: World) -> Finding:
    """Curves of half of the clean episodes about a known mean, with errors of episode and fold."""
    a = signal_scale(LEVELS)
    distance = a * 0.25 / np.sqrt(a**2 * 1e-3 + LEVELS**2)
    expected = float(cross((0.5 - gaussian_delta(distance) / 4.0)[None])[0])
    seen = 0.5 - gaussian_delta(world.control * distance) / 4.0
    n = world.clean // 2
    fold = np.arange(n) % FOLDS
    own = rng.normal(0.0, 0.05, (FOLDS, 1))[fold] + rng.uniform(-0.3, 0.3, (n, 1))
    curves = seen + own * np.sqrt(0.5 - seen) + rng.uniform(-0.05, 0.05, (n, LEVELS.size))
    found = float(cross(curves.mean(axis=0)[None])[0])
    drawn = np.quantile(cross(redraw(curves, fold, rng, 0)), [0.025, 0.975])
    ends = [stretch(found, float(end), few_folds(FOLDS)) for end in drawn]
    return check_control(expected, found, min(*ends, found), max(*ends, found))


def run_checks(rng: np.random.Generator, world: World) -> list[Finding]:
    best = np.zeros(DIM + 1)
    best[0] = -world.shift / 1.25
    best[DIM] = world.shift**2 / 2.5
    networks = world.gain * best + world.wobble * rng.normal(size=(FOLDS, DIM + 1))
    networks[:, DIM] += world.tilt
    windows = {side: draw_windows(rng, world, is_clean=side) for side in (True, False)}
    p, q = (score_class(x, networks, is_clean=side, leak=world.leak) for side, x in windows.items())
    seed = int(rng.integers(2**32))
    offset = p.c.mean(axis=0) + q.c.mean(axis=0) - 1.0
    both = redraw(p.c, p.fold, rng, seed) + redraw(q.c, q.fold, rng, seed) - 1.0
    hits = sum(redraw(side.accuracy[:, :1], side.fold, rng, seed) for side in (p, q)) / 2
    energy = compare_episodes(p.windows, q.windows, sigma=float(LEVELS[0]), rng=rng)
    judges = np.roll(networks, 1, axis=0)  # of a fold, the network before its own
    other = [score_class(x, judges, is_clean=side, leak=0.0) for side, x in windows.items()]
    return [
        check_blindness(energy.p_value, hits[:, 0], float(cross(q.c.mean(axis=0)[None])[0])),
        control_of(rng, world),
        check_balance(offset, both, LEVELS, EPSILON),
        check_overfit(
            brier_of([p, q]),
            brier_of(other),
            np.repeat([True, False], [world.clean, world.corrupt]),
            np.concatenate([p.fold, q.fold]),
        ),
    ]


def brier_of(sides: list[Scores]) -> np.ndarray:
    return np.concatenate([side.brier.mean(axis=1) for side in sides])


def share_failed(world: World, repetitions: int) -> tuple[dict[str, float], float]:
    rng = np.random.default_rng(20261122)
    runs = [run_checks(rng, world) for _ in range(repetitions)]
    failed = np.array([[not finding.passed for finding in run] for run in runs])
    names = [finding.check for finding in runs[0]]
    return dict(zip(names, failed.mean(axis=0).tolist(), strict=True)), float(
        failed.any(axis=1).mean()
    )


@pytest.mark.validity
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "world",
    [
        World(),  # p = q
        World(clean=10, corrupt=10),
        World(clean=60, corrupt=150, shift=1.0),
    ],
    ids=["equal", "equal, few episodes", "different"],
)
def test_a_sound_classifier_fails_fewer_than_one_run_in_twenty(world: World) -> None:
    repetitions = 1_000
    shares, any_of_them = share_failed(world, repetitions)
    print(f"{world}: {shares}, any {any_of_them:.3f}")
    assert any_of_them <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / repetitions)


@pytest.mark.validity
def test_a_difference_below_the_margin_may_be_missed_and_found_all_the_same() -> None:
    """Delta is .035, sigma_min 0 is right, and the network cannot be told from chance in every run.

    The energy test still can tell at times (1 % of 200 runs). No other check may mind.
    """
    assert gaussian_delta(0.3 / 1.25**0.5) < 4 * EPSILON
    shares, _ = share_failed(World(clean=60, corrupt=150, shift=0.3), 200)
    print(f"hardly different: {shares}")
    assert shares.pop("blindness") <= 0.05
    assert sum(shares.values()) <= 0.05


@pytest.mark.validity
@pytest.mark.parametrize(
    ("check", "world"),
    [
        ("blindness", World(shift=1.7, gain=0.0)),
        ("control", World(clean=60, control=0.4)),
        ("balance", World(clean=40, tilt=0.6)),
        ("overfit", World(clean=40, leak=0.5)),
    ],
    ids=["blindness", "control", "balance", "overfit"],
)
def test_each_check_finds_the_fault_it_is_for(check: str, world: World) -> None:
    """Faults of a size that is found in at least eight runs of ten.

    A mean shift of 1.5 is found in .77, a control seen at half of its distance in .68.
    """
    shares, _ = share_failed(world, 100)
    print(f"{check}: {shares}")
    assert shares[check] >= 0.8


@pytest.mark.validity
@pytest.mark.parametrize(("spread", "folds_differ"), [(0.1, 0.0), (0.1, 0.03)])
def test_an_offset_of_the_very_margin_at_all_levels_is_seldom_a_finding(
    spread: float, folds_differ: float
) -> None:
    """The least favourable offset that is none: epsilon everywhere; 20 and 60 episodes."""
    rng = np.random.default_rng(20261122)
    repetitions, levels = 1_000, LEVELS.size
    failed = 0
    for _ in range(repetitions):
        shared = folds_differ * rng.normal(size=(FOLDS, 1))
        sums, redraws = np.zeros(levels), np.zeros((REDRAWS, levels))
        seed = int(rng.integers(2**32))
        for n in (20, 60):
            fold = np.arange(n) % FOLDS
            c = 0.5 + EPSILON / 2 + shared[fold] + spread * rng.normal(size=(n, 1))
            c = c + 0.02 * rng.normal(size=(n, levels))
            sums += c.mean(axis=0)
            redraws += redraw(c, fold, rng, seed)
        failed += not check_balance(sums - 1.0, redraws - 1.0, LEVELS, EPSILON).passed
    print(f"offset {EPSILON} everywhere, folds {folds_differ}: {failed / repetitions:.3f} fail")
    assert failed / repetitions <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / repetitions)
