"""Tilts: enumeration of atoms, quadrature of Gaussians, plain loops over windows."""

from collections.abc import Sequence
from dataclasses import fields
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from ambient_curate.annotation.weights import (
    Tally,
    Tilt,
    describe_tilt,
    tally_windows,
    unbiased_weights,
)

SHARE = 40.0 / 41.0  # forty corrupt windows for one clean
ATOMS = np.array([-1.0, 0.0, 1.0])
P, Q = np.array([0.0, 0.5, 0.5]), np.array([0.5, 0.5, 0.0])
EXACT = P / (P + Q)
MIXTURE = (1.0 - SHARE) * P + SHARE * Q


def tally_episode(c: np.ndarray, usable: np.ndarray, mass: float, share: float) -> Tally:
    """One episode whose windows have equal mass."""
    return tally_windows(c, usable, np.full(c.size, mass), share, np.array([0]))


def tally_law(law: np.ndarray, usable: Sequence[bool], own: float) -> Tally:
    """One episode that visits the atoms of a law, each as often."""
    atoms = np.flatnonzero(law)
    return tally_episode(EXACT[atoms], np.array(usable), own / atoms.size, SHARE)


def test_choosing_by_window_leaves_mostly_the_atom_that_both_laws_share() -> None:
    """Of q only atom 0 looks clean enough: among what trains at low noise it has .976, not .5."""
    clean = tally_law(P, [True, True], 1.0 - SHARE)
    corrupt = tally_law(Q, [False, True], SHARE)
    found = describe_tilt(clean, corrupt, SHARE)
    used = P / 41.0 + Q * [0, 1, 0] * 40.0 / 41.0
    assert found.mixture == pytest.approx(used[1] / used.sum(), abs=1e-12)
    assert found.mixture == pytest.approx(0.976, abs=5e-4)
    assert (found.usable, found.clean) == pytest.approx((0.5, 0.5), abs=1e-12)
    assert found.weighted == pytest.approx(0.5, abs=1e-12)
    # two atoms: the region in which one is crowded tells the whole total variation
    assert found.tv == pytest.approx(0.5 * np.abs(used / used.sum() - P).sum(), abs=1e-12)


def test_luck_in_the_noise_is_no_difference_of_laws() -> None:
    """Seven of ten windows at atom 0 are found usable: less of q trains, where p is as before."""
    clean = tally_law(P, [True, True], 1.0 - SHARE)
    c = np.repeat([0.0, 0.5], 10)
    lucky = np.arange(20) >= 13
    found = describe_tilt(clean, tally_episode(c, lucky, SHARE / 20, SHARE), SHARE)
    used = P / 41.0 + 0.7 * Q * [0, 1, 0] * 40.0 / 41.0
    assert (found.usable, found.clean) == pytest.approx((0.35, 0.5), abs=1e-12)
    assert found.mixture == pytest.approx(used[1] / used.sum(), abs=1e-12)
    assert found.weighted == pytest.approx(0.5, abs=1e-12)


def test_unbiased_weights_give_every_atom_its_mass_under_p() -> None:
    weight = unbiased_weights(EXACT[:, None], np.array([SHARE]))
    np.testing.assert_allclose(weight * MIXTURE, P, atol=1e-15)
    assert weight.tolist() == pytest.approx([0.0, 1.0, 41.0])


def test_odds_as_weights_of_the_corrupt_windows_leave_the_tilt() -> None:
    """c / (1 - c) counts atom 0 of q as often as before, and q has no atom 1 to count."""
    odds = np.array([0.0, 1.0, np.inf])
    mass = (1.0 - SHARE) * P + SHARE * Q * np.where(Q > 0, odds, 0.0)
    assert mass[1] / mass.sum() == pytest.approx(0.976, abs=5e-4)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.6])
def test_weights_that_are_functions_of_the_noised_window_change_no_denoisers_target(
    sigma: float,
) -> None:
    """At noise level sigma the posterior of the atoms is what a denoiser learns.

    With c / (1 - c) at the current level each source keeps its own posterior, whose average has
    the sources' plain shares: near atom 1 nearly all says 0. A weight of the window itself gives
    the posterior of p.
    """
    x = np.linspace(-1.5, 1.5, 61)[:, None]
    noised = norm.pdf(x, np.sqrt(1.0 - sigma**2) * ATOMS, sigma)  # (x, atom)
    joint_p, joint_q = P * noised, Q * noised
    p, q = (joint.sum(axis=1, keepdims=True) for joint in (joint_p, joint_q))
    posterior = joint_p / p
    by_level = (1.0 - SHARE) * joint_p + SHARE * (p / q) * joint_q  # c / (1 - c) = p / q
    found = by_level / by_level.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, (1.0 - SHARE) * posterior + SHARE * joint_q / q)
    near = np.argmin(np.abs(x[:, 0] - np.sqrt(1.0 - sigma**2)))
    assert found[near, 1] > posterior[near, 1] + 0.5
    weight = unbiased_weights(EXACT[:, None], np.array([SHARE]))
    own = weight * ((1.0 - SHARE) * joint_p + SHARE * joint_q)
    np.testing.assert_allclose(own / own.sum(axis=1, keepdims=True), posterior, atol=1e-12)


def test_weights_are_p_over_the_mixture_of_several_laws() -> None:
    """Gaussians, by quadrature: E_mixture[w g] = E_p[g]."""
    x = np.linspace(-9.0, 9.0, 20_001)
    p = norm.pdf(x)
    q = np.stack([norm.pdf(x, m, s) for m, s in ((1.0, 1.0), (-0.5, 0.6), (0.0, 1.7))])
    shares = np.array([0.5, 0.3, 0.15])
    weight = unbiased_weights((p / (p + q)).T, shares)
    mixture = 0.05 * p + shares @ q
    np.testing.assert_allclose(weight, p / mixture, rtol=1e-9)
    for g in (np.ones_like(x), x, x**2, np.sin(3.0 * x), (x > 1.0).astype(float)):
        reweighted = np.trapezoid(mixture * weight * g, x)
        assert reweighted == pytest.approx(np.trapezoid(p * g, x), abs=1e-9)


probabilities = st.floats(0.0, 1.0)


@given(
    st.lists(st.tuples(probabilities, st.floats(0.0, 1.0)), min_size=1, max_size=4),
    st.floats(0.01, 1.0),
    st.sampled_from([np.float32, np.float64]),
)
def test_a_weight_lies_between_nothing_and_the_clean_share_and_rises_with_c(
    heads: list[tuple[float, float]], own: float, kind: type
) -> None:
    c, raw = (np.array(each) for each in zip(*heads, strict=True))
    shares = (1.0 - own) * raw / max(raw.sum(), 1e-300)
    rows = np.stack([c, np.minimum(c + 0.1, 1.0)]).astype(kind)
    low, high = unbiased_weights(rows, shares)
    limit = 1.0 / (1.0 - shares.sum()) * (1.0 + 1e-12)
    assert 0.0 <= low <= high <= limit


def test_weights_at_the_ends_and_for_laws_without_a_share() -> None:
    rows = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.5]], dtype=np.float32)
    assert unbiased_weights(rows, np.array([0.5, 0.25])).tolist() == [4.0, 0.0, 0.0, 1.0]
    assert unbiased_weights(rows, np.array([0.75, 0.0])).tolist() == [4.0, 0.0, 4.0, 1.0]
    assert unbiased_weights(rows, np.zeros(2)).tolist() == [1.0] * 4
    assert unbiased_weights(rows[:, :0], np.zeros(0)).tolist() == [1.0] * 4  # nothing else trains


@pytest.mark.parametrize("c", [0.0, 1.0])
def test_a_certain_window_is_tallied(c: float) -> None:
    tally = tally_episode(np.array([c, 0.5]), np.array([True, False]), 0.1, 0.75)
    end = 0 if c == 0.0 else -1
    assert tally.usable[end] == tally.usable.sum() == tally.mass[end] == 0.1
    weights = np.array([0.0 if c == 0.0 else 4.0, 1.0]) * 0.1
    assert tally.weighted[end] == pytest.approx(weights[0])
    assert tally.weighted.sum() == pytest.approx(weights.sum())
    expected = [weights.sum(), (weights**2).sum(), weights.sum() ** 2]
    np.testing.assert_allclose(tally.sums, expected)


COUNTS = (30, 1, 80, 50, 20)
PAIR = 0.7  # share of q


def make_episodes(seed: int) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Probabilities, usable or not, and mass, of episodes of unequal length; masses sum to 1."""
    rng = np.random.default_rng(seed)
    return [
        (rng.random(n).astype(np.float32), rng.random(n) < 0.6, 1.0 / (len(COUNTS) * n))
        for n in COUNTS
    ]


def tally_all(episodes: Sequence[tuple[np.ndarray, np.ndarray, float]], own: float) -> Tally:
    c, usable = (np.concatenate([each[i] for each in episodes]) for i in (0, 1))
    counts = np.array([each[0].size for each in episodes])
    mass = np.repeat([own * each[2] for each in episodes], counts)
    return tally_windows(c, usable, mass, PAIR, np.cumsum(counts) - counts)


def assert_close(found: Tally, expected: Tally) -> None:
    for field in fields(Tally):
        one, other = (getattr(each, field.name) for each in (found, expected))
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15)


def test_episodes_at_once_are_tallied_as_each_alone() -> None:
    episodes = make_episodes(3)
    alone = [tally_episode(c, usable, 0.4 * m, PAIR) for c, usable, m in episodes]
    assert_close(tally_all(episodes, 0.4), reduce(add, alone))


def test_every_window_brings_its_own_mass() -> None:
    (c, usable, _), *_ = make_episodes(4)
    mass = np.random.default_rng(4).random(c.size)
    alone = [
        tally_episode(c[i : i + 1], usable[i : i + 1], float(mass[i]), PAIR) for i in range(c.size)
    ]
    assert_close(tally_windows(c, usable, mass, PAIR, np.arange(c.size)), reduce(add, alone))


def test_parts_of_a_tally_sum_to_the_whole_in_any_order() -> None:
    episodes = make_episodes(0)
    whole = tally_all(episodes, PAIR)
    for split in (1, 3):
        assert_close(tally_all(episodes[split:], PAIR) + tally_all(episodes[:split], PAIR), whole)
    c, usable, mass = episodes[2]
    first, last = ([(c[part], usable[part], mass)] for part in (slice(40), slice(40, None)))
    halves = tally_all(first, 1.0) + tally_all(last, 1.0)
    one = tally_all([episodes[2]], 1.0)
    np.testing.assert_allclose(halves.usable, one.usable)
    np.testing.assert_allclose(halves.sums[:2], one.sums[:2])
    assert halves.sums[2] < one.sums[2]  # an episode is one unit: it may not be split


def bin_of(c: float) -> int:
    return int(np.floor(10.0 * np.log(c / (1.0 - c))))


def test_a_tilt_is_that_of_a_plain_loop_over_unequal_episodes() -> None:
    """A tenth of a logit at a time: is q, as far as usable there, more than all usable of p?"""
    clean, corrupt = (
        [(c, is_usable | (seed == 1), m) for c, is_usable, m in make_episodes(seed)]
        for seed in (1, 2)
    )
    found = describe_tilt(tally_all(clean, 1.0 - PAIR), tally_all(corrupt, PAIR), PAIR)
    used = sum(m * usable.sum() for _, usable, m in corrupt)
    there: dict[int, list[float]] = {}
    for c, usable, m in corrupt:
        for p, is_usable in zip(c.astype(float), usable, strict=True):
            masses = there.setdefault(bin_of(p), [0.0, 0.0])
            masses[0] += m
            masses[1] += m * is_usable
    crowded = [b for b, (m, ok) in there.items() if np.exp(-0.1 * (b + 0.5)) * ok / m > used]
    crowd, own, weighted = 0.0, 0.0, 0.0
    each, by_episode = [], []
    for side, share in ((clean, 1.0 - PAIR), (corrupt, PAIR)):
        for c, usable, m in side:
            weights = []
            for p, is_usable in zip(c.astype(float), usable, strict=True):
                weights.append(share * m * p / ((1.0 - PAIR) * p + PAIR * (1.0 - p)))
                if bin_of(p) in crowded:
                    crowd += share * m * is_usable
                    own += m if side is clean else 0.0
                    weighted += weights[-1]
            each += weights
            by_episode.append(sum(weights))
    assert own > 0.0
    total = sum(each)
    expected = Tilt(
        usable=used,
        mixture=crowd / (1.0 - PAIR + used * PAIR),
        clean=own,
        weighted=weighted / total,
        windows=total**2 / sum(w**2 for w in each),
        episodes=total**2 / sum(w**2 for w in by_episode),
    )
    for field in fields(Tilt):
        assert getattr(found, field.name) == pytest.approx(getattr(expected, field.name), rel=1e-6)
    assert 1.0 < found.episodes < 2 * len(COUNTS)
    assert found.episodes < found.windows < 2 * sum(COUNTS)


def test_windows_of_equal_weight_are_worth_their_number() -> None:
    sides = [
        tally_episode(np.full(10, 0.5), np.full(10, True), own / 10, PAIR)
        for own in (1.0 - PAIR, PAIR)
    ]
    found = describe_tilt(*sides, PAIR)
    # ten windows of mass .03 and ten of mass .07
    assert found.windows == pytest.approx(1.0 / (10 * (0.03**2 + 0.07**2)))
    assert found.episodes == pytest.approx(1.0 / (0.3**2 + 0.7**2))


def test_equal_laws_and_laws_that_never_train_tilt_nothing() -> None:
    half, all_of_them = np.full(4, 0.5), np.full(4, True)
    sides = [tally_episode(half, all_of_them, own / 4, PAIR) for own in (1.0 - PAIR, PAIR)]
    assert describe_tilt(*sides, PAIR).tv == 0.0
    never = tally_episode(np.full(4, 0.01), ~all_of_them, PAIR / 4, PAIR)
    banned = describe_tilt(sides[0], never, PAIR)
    assert (banned.usable, banned.tv) == (0.0, 0.0)
