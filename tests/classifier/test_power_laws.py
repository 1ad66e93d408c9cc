"""The densities of `power_laws` are those of its episodes, and its truths those of closed forms."""

from collections.abc import Callable
from itertools import pairwise, product

import numpy as np
import pytest
from power_families import (
    FAMILIES,
    OTHER_FAMILIES,
    Family,
    Reaches,
)
from power_laws import (
    HORIZON,
    Array,
    Component,
    Episodes,
    IndependentFrames,
    Marginal,
    Motion,
    NormalMixture,
    Scaling,
    WindowLaw,
    WithChain,
    clipped_value,
    cycling,
    follow,
    laplace_value,
    normal_value,
    rotating,
    steady,
    student_value,
)
from power_truths import (
    find_truth,
    read_oracle,
)
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import laplace, multivariate_normal, norm, t

from ambient_curate.divergence import gaussian_delta
from ambient_curate.noise import grid, ve_from_sigma

LEVELS = np.array([0.1, 0.7, 3.0])
GRID = grid("squaredcos_cap_v2:20")
PAIRS = (  # one law of every kind at least
    "b/jit1",
    "c/third30",
    "d/t2.5",
    "e/tau2",
    "f/held4",
    "g/open",
    "i/short8",
    "frames/clipped",
    "seven/spikes",
    "seven/pause",
    "late/lag3",
    "turn/reversed",
    "cycle/reversed",
)


def choose(name: str) -> tuple[WindowLaw, WindowLaw]:
    family, _, law = name.partition("/")
    found = (FAMILIES | OTHER_FAMILIES)[family]()
    clean, corrupt = found.clean, found.corrupt[law]
    assert isinstance(clean, WindowLaw)
    assert isinstance(corrupt, WindowLaw)
    return clean, corrupt


def one_window_each(episodes: Episodes, rng: np.random.Generator) -> Array:
    starts = [int(rng.integers(len(e) - HORIZON + 1)) for e in episodes]
    return np.stack([e[s : s + HORIZON] for e, s in zip(episodes, starts, strict=True)])


def unscaled(actions: int) -> Scaling:
    return Scaling(np.zeros(actions), np.ones(actions))


def test_a_normal_law_agrees_with_scipy() -> None:
    mixed = np.array([[1.0, 0.6], [0.6, 0.5]])
    times = np.stack([np.arange(20), np.arange(20) // 2 * 2], axis=1)
    motion = Motion(0.8, mixed, times, mean=np.array([0.3, -1.0]), constant=0.4, white=0.1)
    law = follow([motion])
    assert [one.share for one in law.components] == [3 / 5, 2 / 5]
    rng, scaling = np.random.default_rng(0), Scaling(np.array([0.5, 0.0]), np.array([2.0, 0.7]))
    x = scaling.apply(law.draw_windows(rng, 5))
    z = rng.standard_normal(x.shape)
    found = law.log_density(x, z, LEVELS, scaling)
    offset, scale = np.tile(scaling.offset, HORIZON), np.tile(scaling.scale, HORIZON)
    for level, sd in enumerate(LEVELS):
        density = sum(
            one.share
            * multivariate_normal.pdf(
                (x + sd * z).reshape(5, -1),
                (one.mean - offset) * scale,
                one.covariance * np.outer(scale, scale) + sd**2 * np.eye(2 * HORIZON),
            )
            for one in law.components
        )
        np.testing.assert_allclose(found[:, level], np.log(density), rtol=1e-8)


@pytest.mark.parametrize("name", PAIRS)
def test_the_exact_probability_is_calibrated_on_windows_of_episodes(name: str) -> None:
    """E_p c + E_q c = 1, which fails if a density is not the one its episodes follow."""
    p, q = choose(name)
    rng, count = np.random.default_rng(1), 800
    scores = []
    for law in (p, q):
        x = one_window_each(law.draw_episodes(rng, count), rng)
        z, scaling = rng.standard_normal(x.shape), unscaled(x.shape[2])
        logs = [one.log_density(x, z, LEVELS, scaling) for one in (p, q)]
        scores.append(expit(logs[0] - logs[1]))
    error = np.sqrt(np.var(scores, axis=1).sum(axis=0) / count)
    assert (np.abs(np.mean(scores, axis=1).sum(axis=0) - 1.0) < 4.0 * error + 1e-3).all()


@pytest.mark.parametrize("name", ["e/tau.4", "f/held4", "seven/spikes", "late/lag1", "turn/same"])
def test_windows_of_episodes_have_the_covariance_of_their_law(name: str) -> None:
    law = choose(name)[1]
    assert isinstance(law, NormalMixture)
    rng, count = np.random.default_rng(2), 2_000
    x = one_window_each(law.draw_episodes(rng, count), rng).reshape(count, -1)
    products = x[:, :, None] * x[:, None, :]
    exact = sum(
        one.share * (one.covariance + np.outer(one.mean, one.mean)) for one in law.components
    )
    error = products.std(axis=0) / np.sqrt(count)
    assert (np.abs(products.mean(axis=0) - exact) < 5.5 * error).all()


@pytest.mark.parametrize("name", ["c/near30", "seven/pause", "i/short8", "frames/t3", "g/fast"])
def test_drawn_windows_follow_the_law_of_those_of_episodes(name: str) -> None:
    law = choose(name)[1]
    rng, count = np.random.default_rng(3), 800
    drawn = law.draw_windows(rng, count)
    logs = [
        law.log_density(x, rng.standard_normal(x.shape), LEVELS, unscaled(x.shape[2]))
        for x in (drawn, one_window_each(law.draw_episodes(rng, count), rng))
    ]
    error = np.sqrt(np.var(logs, axis=1).sum(axis=0) / count)
    assert (np.abs(np.mean(logs[0] - logs[1], axis=0)) < 4.5 * error).all()


@pytest.mark.parametrize(
    ("value", "density"),
    [
        (normal_value(), norm.pdf),
        (student_value(4.0), lambda x: t.pdf(x / 0.5**0.5, 4) / 0.5**0.5),
        (student_value(2.5, 0.3), lambda x: t.pdf((x - 0.3) / 0.2**0.5, 2.5) / 0.2**0.5),
        (laplace_value(), lambda x: laplace.pdf(x, scale=0.5**0.5)),
    ],
)
def test_densities_of_frames_agree_with_quadrature(
    value: Marginal, density: Callable[[float], float]
) -> None:
    y = np.array([-7.0, 0.2, 3.0, 30.0])
    for sd in LEVELS[:2]:
        found = value.log_density(y, sd)
        exact = np.array([blur(density, point, sd, 60.0) for point in y])
        large = exact > 1e-9  # below, quadrature has no digits
        np.testing.assert_allclose(found[large], np.log(exact[large]), atol=2e-4)


def blur(density: Callable[[float], float], at: float, sd: float, end: float) -> float:
    """Density under noise at one point, of values between `end` and its negative."""
    breaks = [point for point in sorted({0.0, 0.3, at}) if abs(point) < end]
    return quad(lambda x: density(x) * norm.pdf(at, x, sd), -end, end, points=breaks)[0]


def test_the_density_of_clipped_values_agrees_with_quadrature() -> None:
    y = np.linspace(-2.0, 2.0, 7)
    for sd in LEVELS:
        found = clipped_value(1.0).log_density(y, sd)
        atoms = norm.cdf(-1.0) * (norm.pdf(y, -1.0, sd) + norm.pdf(y, 1.0, sd))
        inside = [blur(norm.pdf, at, sd, 1.0) for at in y]
        np.testing.assert_allclose(found, np.log(atoms + inside), atol=1e-5)


def test_the_density_of_a_chain_agrees_with_enumeration() -> None:
    frames, scaling, law = 4, Scaling(np.array([0.0, 0.1]), np.array([1.0, 1.5])), cycling(0.3, 0.1)
    rng = np.random.default_rng(4)
    x = scaling.apply(np.stack([rng.standard_normal((3, frames)), law.draw_chain(rng, 3, 4)], -1))
    z, values = rng.standard_normal(x.shape), (law.values - 0.1) * 1.5
    step = 0.9 ** np.abs(np.subtract.outer(np.arange(frames), np.arange(frames)))
    short = NormalMixture([Component(1.0, np.zeros(frames), step)], 1, law.motion.draw)
    found = WithChain(short, law.values, law.transition).log_density(x, z, LEVELS, scaling)
    for level, sd in enumerate(LEVELS):
        y, total = x + sd * z, np.zeros(3)
        for path in product(range(3), repeat=frames):
            chance = 1.0 / 3.0  # a cycle's states are equally likely
            for before, now in pairwise(path):
                chance *= law.transition[before, now]
            total += chance * norm.pdf(y[:, :, 1], values[list(path)], sd).prod(axis=1)
        motion = multivariate_normal.logpdf(
            y[:, :, 0], np.zeros(frames), step + sd**2 * np.eye(frames)
        )
        np.testing.assert_allclose(found[:, level], np.log(total) + motion, rtol=1e-8)


def test_reversed_chains_are_the_same_chains_backwards() -> None:
    forward, backward = cycling(0.12, 0.03), cycling(0.03, 0.12)
    np.testing.assert_allclose(forward.stationary, 1.0 / 3.0)
    joint = forward.stationary[:, None] * forward.transition
    np.testing.assert_allclose(backward.stationary[:, None] * backward.transition, joint.T)


def test_a_reversed_rotation_differs_in_time_only() -> None:
    laws = rotating(0.9, 0.3), rotating(0.9, 0.3, reverse=True)
    forward, backward = (one.components[0].covariance for one in laws)
    blocks = [c.reshape(HORIZON, 2, HORIZON, 2).transpose(0, 2, 1, 3) for c in (forward, backward)]
    for frame in range(HORIZON):
        np.testing.assert_allclose(blocks[0][frame, frame], np.eye(2), atol=1e-12)
        np.testing.assert_allclose(blocks[1][frame, frame], np.eye(2), atol=1e-12)
    np.testing.assert_allclose(blocks[0], blocks[1].transpose(0, 1, 3, 2), atol=1e-12)
    assert np.abs(forward - backward).max() > 0.4


def test_truth_of_a_shift_is_that_of_the_closed_form() -> None:
    clean = IndependentFrames(normal_value(), 2)
    corrupt = IndependentFrames(Marginal(np.ones(1), np.full(1, 0.4), np.ones(1)), 2)
    found = find_truth(clean, corrupt, unscaled(2), GRID, epsilon=0.05, draws=3_000)
    signal = np.sqrt(1.0 - found.sigma**2)
    exact = gaussian_delta(signal * 0.4 * np.sqrt(2 * HORIZON))
    np.testing.assert_allclose(found.delta, exact, atol=0.03)
    above = found.sigma[np.argmax(exact < 0.2)]
    assert found.lower <= found.sigma_min <= found.upper
    assert abs(found.sigma_min - above) < 0.02


def test_equal_laws_have_nothing_to_find() -> None:
    law = follow([steady(0.9, 2)])
    rng = np.random.default_rng(5)
    truth = find_truth(law, law, unscaled(2), GRID, epsilon=0.05, draws=10)
    episodes = law.draw_episodes(rng, 4)
    reading = read_oracle(law, law, episodes, episodes, unscaled(2), GRID, epsilon=0.05)
    assert truth.sigma_min == truth.upper == reading.sigma_min == 0.0
    assert (reading.clean == 0.5).all()
    assert (reading.corrupt == 0.5).all()


def test_the_oracle_reads_nearly_the_truth_from_many_episodes() -> None:
    clean, corrupt = choose("a/phi6")
    rng = np.random.default_rng(6)
    p, q = (law.draw_episodes(rng, 400) for law in (clean, corrupt))
    truth = find_truth(clean, corrupt, unscaled(2), GRID, epsilon=0.05)
    reading = read_oracle(clean, corrupt, p, q, unscaled(2), GRID, epsilon=0.05)
    assert abs(reading.sigma_min - truth.sigma_min) < 0.02
    middle = 0.5 - np.interp(GRID, truth.sigma, truth.delta) / 4.0
    low = GRID < 0.99
    np.testing.assert_allclose(reading.corrupt[low], middle[low], atol=0.04)
    np.testing.assert_allclose(reading.clean[low], 1.0 - middle[low], atol=0.04)


def test_a_members_episodes_do_not_depend_on_the_others() -> None:
    family = FAMILIES["f"]()
    whole, part = family.draw(3), family.only(["held4"]).draw(3)
    assert list(part) == ["clean", "held4"]
    for name, episodes in part.items():
        np.testing.assert_array_equal(episodes, whole[name])
    assert (np.array(whole["clean"]) != np.array(family.draw(4)["clean"])).all()
    assert {name: len(episodes) for name, episodes in whole.items()} == dict(family.counts)


@pytest.mark.parametrize("name", FAMILIES | OTHER_FAMILIES)
def test_every_family_can_be_drawn(name: str) -> None:
    family: Family = (FAMILIES | OTHER_FAMILIES)[name]()
    assert family.name == name
    for law in (family.clean, *family.corrupt.values()):
        (episode,) = law.draw_episodes(np.random.default_rng(0), 1)
        assert np.isfinite(episode).all()
        if isinstance(law, WindowLaw):
            assert law.draw_windows(np.random.default_rng(0), 2).shape[2] == episode.shape[1]


@pytest.mark.slow
def test_boosting_tells_reaches_from_their_reversal_by_motion_and_not_by_place() -> None:
    rng = np.random.default_rng(3)
    clean = Reaches().draw_episodes(rng, 30)
    corrupt = Reaches(reverse=True).draw_episodes(rng, 60)
    relative, place = (boosted_accuracy(clean, corrupt, of) for of in (describe, middle_frame))
    print(f"balanced accuracy: relative windows {relative:.3f}, a single frame {place:.3f}")
    assert 0.7 < relative < 0.8
    assert place < 0.55


def describe(windows: Array) -> Array:
    """Displacements since the first frame, and Haar steps."""
    parts = [windows[:, k] - windows[:, 0] for k in range(3, HORIZON, 3)]
    for first, half in ((0, 8), (0, 4), (8, 4)):
        later = windows[:, first + half : first + 2 * half].mean(axis=1)
        parts.append(later - windows[:, first : first + half].mean(axis=1))
    return np.concatenate(parts, axis=1)


def middle_frame(windows: Array) -> Array:
    return windows[:, HORIZON // 2]


def boosted_accuracy(clean: Episodes, corrupt: Episodes, of: Callable[[Array], Array]) -> float:
    """Balanced accuracy out of fold by episode, at the lowest level of the grid."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import GroupKFold

    rng, frames = np.random.default_rng(0), np.concatenate(clean)
    scaling = Scaling(frames.mean(axis=0), 1.0 / frames.std(axis=0))
    windows, owner = [], []
    for number, episode in enumerate([*clean, *corrupt]):
        starts = np.arange(0, len(episode) - HORIZON + 1, 2)
        windows.append(scaling.apply(episode[starts[:, None] + np.arange(HORIZON)]))
        owner.append(np.full(starts.size, number))
    x, group = np.concatenate(windows), np.concatenate(owner)
    x = x + float(ve_from_sigma(GRID[0])) * rng.standard_normal(x.shape)
    features, is_clean = of(x), group < len(clean)
    right = np.empty(len(x), dtype=bool)
    for fit, test in GroupKFold(5, shuffle=True, random_state=0).split(x, is_clean, group):
        model = HistGradientBoostingClassifier(class_weight="balanced", random_state=0)
        model.fit(features[fit], is_clean[fit])
        right[test] = model.predict(features[test]) == is_clean[test]
    return float(0.5 * (right[is_clean].mean() + right[~is_clean].mean()))
