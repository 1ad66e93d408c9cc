"""Certified lower bounds: enumeration of every outcome, the inequality behind them, invariances."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from episode_oracle import in_fold
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.optimize import brentq

from ambient_curate.divergence import gaussian_delta
from ambient_curate.statistics.lower_bounds import (
    Losses,
    _bet,
    _merge,
    certify_delta,
    certify_jsd,
    certify_tv,
    delta_ratio,
    log_evidence,
)

Array = NDArray[np.float64]
LEVELS = 3


def every_outcome(episodes: int) -> Array:
    """All binary losses of some episodes, shape (episode, outcome)."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=episodes))).T


def random_losses(seed: int, clean: int, corrupt: int, folds: int) -> Losses:
    """Losses of an informative classifier, below 1/4 on average."""
    rng = np.random.default_rng(seed)
    return Losses(
        rng.beta(1.0, 6.0, (clean, LEVELS)),
        rng.beta(1.0, 9.0, (corrupt, LEVELS)),
        np.arange(clean) % folds,
        np.arange(corrupt) % folds,
    )


def errors_of(brier: Losses) -> Losses:
    """Errors that go with squared errors: no more than their roots."""
    return replace(brier, clean=brier.clean**0.75, corrupt=brier.corrupt**0.75)


def delta_of(brier: Losses, alpha: float = 0.05) -> Array:
    return certify_delta(brier, errors_of(brier), alpha=alpha)


@pytest.mark.parametrize(("clean", "corrupt"), [(1, 1), (2, 6), (4, 4), (5, 3), (1, 7)])
def test_capital_against_a_true_hypothesis_is_worth_at_most_one(clean: int, corrupt: int) -> None:
    outcomes = every_outcome(clean + corrupt)
    bets = _bet(outcomes[:clean], outcomes[clean:], 0.05)
    worst = 0.0
    for p, q in itertools.product(np.linspace(0.0, 1.0, 21), repeat=2):
        law = np.array([p] * clean + [q] * corrupt)[:, None]
        chance = np.where(outcomes == 1.0, law, 1.0 - law).prod(axis=0)
        mean = chance @ np.exp(bets.log_capital(np.full(chance.size, (p + q) / 2.0)))
        assert mean <= 1.0 + 1e-12, (p, q)
        worst = max(worst, mean)
    assert worst > 0.95  # little is given away


@pytest.mark.parametrize(("clean", "corrupt"), [(4, 4), (3, 6)])
@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_certified_total_variation_exceeds_the_truth_of_any_binary_outcome_rarely(
    clean: int, corrupt: int, alpha: float
) -> None:
    outcomes = every_outcome(clean + corrupt)
    folds = np.arange(clean) % 2, np.arange(corrupt) % 2
    bound = certify_tv(Losses(outcomes[:clean], outcomes[clean:], *folds), alpha=alpha)
    for p, q in itertools.product(np.linspace(0.0, 1.0, 21), repeat=2):
        law = np.array([p] * clean + [q] * corrupt)[:, None]
        chance = np.where(outcomes == 1.0, law, 1.0 - law).prod(axis=0)
        assert chance @ (bound > max(0.0, 1.0 - p - q)) <= alpha + 1e-12
    assert (bound > 0.0).any() or alpha == 0.1


def test_capital_is_the_quotient_at_the_split_that_favours_the_hypothesis_most() -> None:
    rng = np.random.default_rng(0)
    clean, corrupt = rng.uniform(size=(3, 1)), rng.uniform(size=(8, 1))
    bets, mean = _bet(clean, corrupt, 0.05), np.array([0.45])
    alone = [  # the same bets, each block as a fold of its own: sizes (1, 3), (1, 3), (1, 2)
        (bets.reach[i, 0], n) for i, n in enumerate((3.0, 3.0, 2.0))
    ]
    worst = 0.0
    for reach, n in alone:
        share = np.linspace(0.0, 1.0, 200_001)[1:-1] * (
            reach - 0.9
        )  # a - E X; the rest is a' - E Y
        worst += np.max(np.log(share) + n * np.log(reach - 0.9 - share) - n * math.log(n))
    assert bets.log_capital(mean)[0] == pytest.approx(bets.gained[0] - worst, abs=1e-8)


def test_the_bets_of_a_block_are_made_before_it_is_seen() -> None:
    rng = np.random.default_rng(3)
    clean, corrupt = rng.uniform(size=(5, 2)), rng.uniform(size=(11, 2))
    before = _bet(clean, corrupt, 0.05).reach
    for block in range(5):
        other = clean.copy(), corrupt.copy()
        other[0][block:] = 1.0 - other[0][block:]
        later = np.arange(11) % 5 >= block
        other[1][later] = 1.0 - other[1][later]
        after = _bet(*other, 0.05).reach
        assert before[: block + 1].tolist() == after[: block + 1].tolist()
        assert (before[block + 1 :] != after[block + 1 :]).all()


def test_evidence_is_the_greatest_mean_capital_of_the_first_folds_brier_and_errors() -> None:
    brier = random_losses(1, 40, 90, 3)
    each = []
    for fold, blocks in enumerate((14, 13, 13)):
        share = 1.0 / (1.0 + (blocks / 20) ** 2)
        capital = np.zeros(LEVELS)
        for losses, mean, part in (
            (brier, 1.5 / 8.0, 1.0 - share),
            (errors_of(brier), 0.25, share),
        ):
            alone = in_fold(losses, fold)
            bets = _bet(alone.clean, alone.corrupt, 0.05)
            capital += part * np.exp(bets.log_capital(np.full(LEVELS, mean)))
        each.append(capital)
    first, second, third = each
    means = [first, (first + second) / 2.0, (first + second + third) / 3.0]
    # Delta <= 1/2 says that TV <= 1/2
    found = log_evidence(brier, errors_of(brier), 0.5)
    np.testing.assert_allclose(found, np.log(np.max(means, axis=0)), rtol=1e-10)
    assert (np.std(each, axis=0) > 0.1).all()


def test_with_many_episodes_a_share_is_kept_for_errors() -> None:
    timid = np.full((2_000, 1), 0.45**2)  # c of .55 for clean windows, of .45 for corrupt ones
    right, fold = np.zeros((2_000, 1)), np.zeros(2_000, dtype=np.int64)
    brier, errors = Losses(timid, timid, fold, fold), Losses(right, right, fold, fold)
    assert certify_delta(brier, errors) > 1.9  # by the Brier score alone 2 - 8 * .45^2 = .38
    blind = replace(errors, clean=right + 0.5, corrupt=right + 0.5)
    assert 0.3 < certify_delta(brier, blind) < 0.38


FOLDS = 4
CAPITAL = st.lists(st.floats(0.0, 60.0), min_size=FOLDS, max_size=FOLDS)


@settings(max_examples=100)
@given(st.lists(CAPITAL, min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_in_random_order_capitals_of_any_joint_law_suffice_with_probability_alpha(
    outcomes: list[list[float]], seed: int
) -> None:
    """Laws of as many outcomes, scaled until every fold's capital has a mean of one; all orders."""
    chance = np.random.default_rng(seed).dirichlet(np.ones(len(outcomes)))
    capital = np.array(outcomes).T
    mean = capital @ chance
    capital = capital / np.where(mean > 0.0, mean, 1.0)[:, None]
    with np.errstate(divide="ignore"):
        logs = np.log(capital)
    orders = list(itertools.permutations(range(FOLDS)))
    greatest = np.array([_merge(logs[list(order)]) for order in orders])
    for alpha in (0.05, 0.3, 0.8):
        suffices = (greatest >= math.log(1.0 / alpha) + 1e-9) @ chance
        assert suffices.mean() <= alpha + 1e-12


def test_in_an_order_chosen_beforehand_they_may_suffice_more_often() -> None:
    # 20 in the first fold with probability .05; else, with .025, 40 in the second
    chance = np.array([0.05, 0.025, 0.925])
    capital = np.array([[20.0, 0.0, 0.0], [0.0, 40.0, 0.0]])
    assert (capital @ chance).tolist() == [1.0, 1.0]
    with np.errstate(divide="ignore"):
        logs = np.log(capital)
    enough = [
        chance[_merge(logs[order]) >= math.log(20.0) - 1e-9].sum() for order in ([0, 1], [1, 0])
    ]
    assert enough == pytest.approx([0.075, 0.025])
    assert np.mean(enough) == pytest.approx(0.05)


@settings(max_examples=15)  # 200 bisections each
@given(st.integers(0, 30), st.floats(0.0, 2.0), st.sampled_from([0.01, 0.05, 0.3]))
def test_a_certified_delta_is_one_whose_evidence_suffices(
    seed: int, delta: float, alpha: float
) -> None:
    losses = random_losses(seed, 60, 80, 2)
    surplus = log_evidence(losses, errors_of(losses), delta, alpha=alpha) - math.log(1.0 / alpha)
    certified = delta_of(losses, alpha)
    clear = np.abs(surplus) > 1e-9
    assert ((certified >= delta) == (surplus >= 0.0))[clear].all()


def test_bounds_approach_the_truth_with_more_episodes_and_never_exceed_what_is_possible() -> None:
    for certify, top in ((delta_of, 2.0), (certify_tv, 1.0)):
        bounds = []
        for n in (2, 20, 200, 2000, 20_000):
            fold = np.zeros(n, dtype=np.int64)
            bounds.append(certify(Losses(np.zeros((n, 1)), np.zeros((n, 1)), fold, fold))[0])
        assert bounds == sorted(bounds)
        assert bounds[0] == 0.0
        assert 0.998 * top < bounds[-1] < top


def test_a_classifier_that_says_one_half_certifies_nothing() -> None:
    fold = np.arange(500) % 5
    half = np.full((500, 2), 0.25)
    brier, errors = Losses(half, half, fold, fold), Losses(2 * half, 2 * half, fold, fold)
    assert certify_delta(brier, errors).tolist() == [0.0, 0.0]
    assert certify_tv(errors).tolist() == [0.0, 0.0]
    bce = np.full((500, 2), math.log(2.0))
    assert certify_jsd(Losses(bce, bce, fold, fold), smallest=0.1).tolist() == [0.0, 0.0]


@settings(max_examples=15)  # 200 bisections each
@given(st.integers(0, 30))
def test_of_folds_the_order_alone_matters_and_of_classes_nothing(seed: int) -> None:
    losses = random_losses(seed, 60, 140, 3)
    expected = delta_of(losses).tolist()
    assert max(expected) > 0.0
    renamed = replace(
        losses, clean_fold=7 * losses.clean_fold - 2, corrupt_fold=7 * losses.corrupt_fold - 2
    )
    assert delta_of(renamed) == pytest.approx(expected, abs=1e-12)
    swapped = Losses(losses.corrupt, losses.clean, losses.corrupt_fold, losses.clean_fold)
    assert delta_of(swapped) == pytest.approx(expected, abs=1e-12)
    for level in range(LEVELS):
        one = replace(losses, clean=losses.clean[:, [level]], corrupt=losses.corrupt[:, [level]])
        assert delta_of(one) == pytest.approx([expected[level]], abs=1e-12)


def test_a_fold_without_one_of_the_classes_has_no_say() -> None:
    losses = random_losses(5, 50, 60, 2)
    odd = replace(losses, clean_fold=np.where(losses.clean_fold == 1, 9, losses.clean_fold))
    expected = delta_of(in_fold(losses, 0)).tolist()
    assert delta_of(odd).tolist() == expected
    apart = replace(losses, clean_fold=losses.clean_fold + 2)
    assert delta_of(apart).tolist() == [0.0] * LEVELS
    assert log_evidence(apart, errors_of(apart), 0.0) == pytest.approx([0.0] * LEVELS)


def test_certified_tv_and_jsd_are_rejected_at_the_very_capital() -> None:
    losses = random_losses(2, 200, 200, 1)
    tv = certify_tv(losses)
    assert (tv > 0.5).all()
    bets = _bet(losses.clean, losses.corrupt, 0.05)
    np.testing.assert_allclose(bets.log_capital((1.0 - tv) / 2.0), math.log(20.0), atol=1e-9)
    scale = -math.log(1e-2)
    nats = replace(losses, clean=losses.clean * scale, corrupt=losses.corrupt * scale)
    np.testing.assert_allclose(
        certify_jsd(nats, smallest=1e-2),
        np.maximum(math.log(2.0) - scale * (1.0 - tv) / 2.0, 0.0),
        atol=1e-5,  # the range is widened by `ROUNDING`
    )
    assert (certify_jsd(nats, smallest=1e-2) > 0.05).all()


def test_with_few_episodes_the_error_rate_certifies_more_of_delta_than_the_brier_score() -> None:
    fold = np.arange(50) % 5
    brier = Losses(np.full((50, 1), 0.12), np.full((50, 1), 0.12), fold, fold)
    right, half = (
        replace(brier, clean=0 * brier.clean + x, corrupt=0 * brier.corrupt + x)
        for x in (0.16, 0.5)
    )
    assert certify_delta(brier, right) > 0.2
    assert certify_delta(brier, half) == 0.0


def test_the_largest_cross_entropy_of_float32_is_in_range() -> None:
    largest = float(-np.log(np.float32(1e-6)))
    fold = np.zeros(4, dtype=np.int64)
    losses = Losses(np.full((4, 1), largest), np.zeros((4, 1)), fold, fold)
    assert largest > -math.log(1e-6)
    assert certify_jsd(losses, smallest=1e-6).tolist() == [0.0]
    with pytest.raises(ValueError, match="expected numbers in"):
        certify_jsd(replace(losses, clean=losses.clean + 1e-4), smallest=1e-6)


@pytest.mark.parametrize("side", ["clean", "corrupt"])
def test_what_is_no_loss_is_refused(side: str) -> None:
    losses = random_losses(0, 4, 6, 2)
    for wrong in (np.nan, -0.01, 1.01):
        values = getattr(losses, side).copy()
        values[-1, -1] = wrong
        with pytest.raises(ValueError, match="a value is"):
            certify_delta(replace(losses, **{side: values}), losses)
    none = {side: np.empty((0, LEVELS)), f"{side}_fold": np.empty(0, dtype=np.int64)}
    with pytest.raises(ValueError, match="n >= 1"):
        certify_delta(losses, replace(losses, **none))


def test_impossible_levels_and_hypotheses_are_refused() -> None:
    losses = random_losses(0, 4, 6, 2)
    with pytest.raises(ValueError, match="alpha is"):
        certify_delta(losses, losses, alpha=0.0)
    with pytest.raises(ValueError, match="delta is"):
        log_evidence(losses, losses, 2.1)
    for smallest in (0.0, 0.5, math.nan):
        with pytest.raises(ValueError, match="smallest is"):
            certify_jsd(losses, smallest=smallest)


def moments(p: Array, q: Array, c: Array) -> tuple[float, float, float, float]:
    return float(p @ c), float(q @ c), float(p @ (1.0 - c) ** 2), float(q @ c**2)


@given(arrays(np.float64, (3, 6), elements=st.floats(0.01, 1.0)))
def test_the_ratio_lies_between_the_brier_bound_and_delta(drawn: Array) -> None:
    p, q = drawn[0] / drawn[0].sum(), drawn[1] / drawn[1].sum()
    delta = float(((p - q) ** 2 / (p + q)).sum())
    four = moments(p, q, drawn[2])
    assert 2.0 - 4.0 * (four[2] + four[3]) - 1e-9 <= delta_ratio(*four) <= delta + 1e-9
    assert delta_ratio(*moments(p, q, p / (p + q))) == pytest.approx(delta, abs=1e-9)


@given(
    arrays(np.float64, (3, 6), elements=st.floats(0.01, 1.0)),
    st.floats(0.1, 1.0),
    st.floats(0.0, 1.0),
)
def test_the_ratio_is_the_same_for_every_rescaling(
    drawn: Array, scale: float, shift: float
) -> None:
    p, q = drawn[0] / drawn[0].sum(), drawn[1] / drawn[1].sum()
    scaled = scale * drawn[2] + shift * (1.0 - scale)
    assume(np.ptp(drawn[2]) > 1e-3)  # a constant c has no ratio
    assert delta_ratio(*moments(p, q, scaled)) == pytest.approx(
        delta_ratio(*moments(p, q, drawn[2])), rel=1e-6, abs=1e-9
    )


def test_the_ratio_is_immune_to_over_confidence() -> None:
    distance = brentq(lambda d: float(gaussian_delta(d)) - 0.297, 0.01, 5.0)
    x = np.linspace(-10.0, 10.0 + distance, 20_001)
    p, q = np.exp(-(x**2) / 2.0), np.exp(-((x - distance) ** 2) / 2.0)
    c = 1.0 / (1.0 + np.exp(-3.0 * (distance**2 / 2.0 - distance * x)))
    four = moments(p / p.sum(), q / q.sum(), c)
    assert 2.0 - 4.0 * (four[2] + four[3]) == pytest.approx(0.056, abs=1e-3)
    assert delta_ratio(*four) == pytest.approx(0.281, abs=1e-3)
