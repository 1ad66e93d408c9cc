"""The mixture that trains: shares, weights and tallies by plain loops over its windows."""

from collections.abc import Callable
from dataclasses import fields
from functools import cache, reduce
from operator import add
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_study import LENGTHS, TASKS, make_episodes, make_study

from ambient_curate.annotation.weights import BINS, REACH, Mixture, Tally
from ambient_curate.data.populations import Population
from ambient_curate.data.study import Study

COUNTS = {"clean": 22, "a": 27, "b": 37}  # whole windows; c has too few episodes
EPISODES = {
    "clean": (4, 1, 7, 3, 2, 5),
    "a": (4, 1, 7, 3, 2, 10),
    "b": (4, 1, 7, 3, 2, 10, 10),
}
MIXED = ["ab", "a", "b", ""]


@pytest.fixture(scope="module")
def study_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Study]:
    lengths = {
        "clean": LENGTHS,
        "a": (*LENGTHS[:-1], 12, 2),  # with a stub
        "b": (*LENGTHS[:-1], 12, 12),
        "c": (6, 6),
    }

    @cache
    def make(granularity: str = "datapoint", weighting: str = "episode") -> Study:
        members = {
            name: make_episodes(name, n, task=[*TASKS, "x"][: len(n)])
            for name, n in lengths.items()
        }
        folder = tmp_path_factory.mktemp("frames")
        return make_study(folder, members, granularity=granularity, weighting=weighting)

    return make


def mix(study: Study, names: str) -> Mixture:
    others = {name: "classifier-unreliable" for name in "ab" if name not in names}
    return Mixture(study, dict.fromkeys(names, "ok") | others)


def arm_of(mixture: Mixture, name: str) -> Population:
    if name == "clean":
        return mixture.study.clean
    return next(population for population in mixture.heads.values() if population.dataset == name)


@pytest.mark.parametrize("granularity", ["datapoint", "group"])
@pytest.mark.parametrize("names", MIXED)
def test_shares_are_those_of_the_windows_of_sets_that_have_an_answer(
    study_of: Callable[..., Study], names: str, granularity: str
) -> None:
    study = study_of(granularity)
    mixture = mix(study, names)
    total = sum(COUNTS[name] for name in ("clean", *names))
    assert mixture.shares == {name: COUNTS[name] / total for name in ("clean", *names)}
    assert next(iter(mixture.shares)) == "clean"
    assert [(population.dataset, population.group) for population in mixture.heads.values()] == [
        (name, None) for name in names
    ]
    for name in ("clean", "a", "b", "c"):
        expected = study.head(name) if name in names else None
        assert mixture.head_of(name) == expected
    for head, population in mixture.heads.items():
        assert study.corrupt[head] is population
        both = COUNTS[population.dataset] + COUNTS["clean"]
        assert mixture.share_of(population) == COUNTS[population.dataset] / both


def test_a_set_of_which_nothing_was_said_has_no_part(study_of: Callable[..., Study]) -> None:
    assert list(Mixture(study_of(), {"b": "ok"}).shares) == ["clean", "b"]
    assert Mixture(study_of(), {"c": "ok", "clean": "ok"}).shares == {"clean": 1.0}


@pytest.mark.parametrize("names", MIXED)
def test_weights_are_p_over_the_density_of_what_trains(
    study_of: Callable[..., Study], names: str
) -> None:
    mixture = mix(study_of(), names)
    c = np.random.default_rng(0).random((50, len(names))).astype(np.float32)
    weights = mixture.weigh(c)
    total = sum(COUNTS[name] for name in ("clean", *names))
    for row, weight in zip(c, weights, strict=True):
        density = COUNTS["clean"] / total  # over that of p
        for name, probability in zip(names, row.tolist(), strict=True):
            density += COUNTS[name] / total * (1.0 - probability) / probability
        assert weight == pytest.approx(1.0 / density, rel=1e-12)
    assert weights.dtype == np.float64
    assert (np.ptp(weights) > 0.1) == bool(names)


def make_windows(counts: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = sum(counts)
    return rng.beta(0.5, 0.5, n).astype(np.float32), rng.random(n) < 0.6


def loop_tally(
    mixture: Mixture, name: str, corrupt: str, windows: Any, *, by_window: bool
) -> SimpleNamespace:
    """Window by window: its mass in the mixture of the two, and its weight."""
    pair = COUNTS["clean"] + COUNTS[corrupt]
    share = COUNTS[corrupt] / pair
    own = share if name == corrupt else 1.0 - share
    c, usable = (each.tolist() for each in windows)
    found = SimpleNamespace(
        mass=np.zeros(BINS), usable=np.zeros(BINS), weighted=np.zeros(BINS), sums=np.zeros(3)
    )
    place = 0
    for count in EPISODES[name]:
        whole = 0.0
        for _ in range(count):
            probability = c[place]
            mass = own / (COUNTS[name] if by_window else len(EPISODES[name]) * count)
            logit = np.log(probability / (1.0 - probability)).clip(-REACH, REACH)
            tenth = min(int(np.floor((logit + REACH) / (2.0 * REACH / BINS))), BINS - 1)
            ratio = (1.0 - probability) / probability  # of q to p
            weight = mass / (1.0 - share + share * ratio)
            found.mass[tenth] += mass
            found.usable[tenth] += mass * usable[place]
            found.weighted[tenth] += weight
            found.sums += [weight, weight**2, 0.0]
            whole += weight
            place += 1
        found.sums[2] += whole**2
    return found


@pytest.mark.parametrize("weighting", ["episode", "window"])
@pytest.mark.parametrize(("name", "corrupt"), [("clean", "a"), ("clean", "b"), ("a", "a")])
def test_tallies_are_those_of_a_plain_loop_in_the_mixture_of_a_pair(
    study_of: Callable[..., Study], weighting: str, name: str, corrupt: str
) -> None:
    mixture = mix(study_of("datapoint", weighting), "ab")
    windows = make_windows(EPISODES[name], 0)
    found = mixture.tally(
        *(arm_of(mixture, name), arm_of(mixture, corrupt), *windows), np.array(EPISODES[name])
    )
    expected = loop_tally(mixture, name, corrupt, windows, by_window=weighting == "window")
    for field in fields(Tally):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-15)
    share = COUNTS[corrupt] / (COUNTS[corrupt] + COUNTS["clean"])
    assert found.mass.sum() == pytest.approx(share if name == corrupt else 1.0 - share)


@pytest.mark.parametrize("weighting", ["episode", "window"])
def test_tallies_of_shards_add_up_to_that_of_all_episodes(
    study_of: Callable[..., Study], weighting: str
) -> None:
    """The mass of a window is its own, whatever else its shard holds."""
    mixture = mix(study_of("datapoint", weighting), "ab")
    population, counts = arm_of(mixture, "b"), np.array(EPISODES["b"])
    c, usable = make_windows(EPISODES["b"], 1)
    parts = []
    for episodes in (slice(0, 2), slice(2, 3), slice(3, None)):
        ends = np.cumsum(counts)[episodes]
        rows = slice(int(ends[0] - counts[episodes][0]), int(ends[-1]))
        parts.append(mixture.tally(population, population, c[rows], usable[rows], counts[episodes]))
    whole, merged = mixture.tally(population, population, c, usable, counts), reduce(add, parts)
    for field in fields(Tally):
        one, other = getattr(merged, field.name), getattr(whole, field.name)
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15)
