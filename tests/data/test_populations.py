"""Populations: folds that never part copies, and what is planted in windows that are read."""

import hashlib
from collections import Counter
from random import Random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_study import ACTION, HORIZON, make_population

from ambient_curate.data.folds import assign_folds
from ambient_curate.data.populations import Numbers, Population, Windowed

FOLDS = 5
Ids = dict[str, list[str]]


@st.composite
def datasets(draw: st.DrawFn) -> tuple[Ids, Ids]:
    """Ids and digests of up to three datasets; few digests, so that copies are common."""
    names = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
    ids, digests = {}, {}
    for name in names:
        ids[name] = draw(st.lists(st.text(max_size=3), max_size=14, unique=True))
        size = len(ids[name])
        digest = st.integers(0, 12).map(str)
        digests[name] = draw(st.lists(digest, min_size=size, max_size=size))
    return ids, digests


@given(datasets(), st.integers(3, 6))
def test_copies_share_a_fold_within_and_across_datasets(drawn: tuple[Ids, Ids], folds: int) -> None:
    ids, digests = drawn
    found = assign_folds(ids, digests, folds)
    fold_of: dict[str, set[int]] = {}
    for name in ids:
        for digest, fold in zip(digests[name], found[name].tolist(), strict=True):
            fold_of.setdefault(digest, set()).add(fold)
    assert all(len(folds_of_one) == 1 for folds_of_one in fold_of.values())


@given(datasets(), st.integers(3, 6))
def test_what_a_dataset_adds_is_spread_evenly(drawn: tuple[Ids, Ids], folds: int) -> None:
    ids, digests = drawn
    found = assign_folds(ids, digests, folds)
    known: set[str] = set()
    for name in ids:
        new = {d: f for d, f in zip(digests[name], found[name], strict=True) if d not in known}
        known |= new.keys()
        sizes = np.bincount(list(new.values()), minlength=folds) if new else np.zeros(folds)
        assert sizes.size == folds
        assert np.ptp(sizes) <= 1


@given(datasets(), st.randoms(use_true_random=False))
def test_folds_do_not_depend_on_the_order_of_the_episodes(
    drawn: tuple[Ids, Ids], random: Random
) -> None:
    ids, digests = drawn
    orders = {name: random.sample(range(len(ids[name])), len(ids[name])) for name in ids}
    moved = assign_folds(
        {name: [ids[name][i] for i in order] for name, order in orders.items()},
        {name: [digests[name][i] for i in order] for name, order in orders.items()},
        FOLDS,
    )
    found = assign_folds(ids, digests, FOLDS)
    for name, order in orders.items():
        assert moved[name].tolist() == found[name][order].tolist()


def test_the_fold_is_the_rank_of_the_hashed_id() -> None:
    ids = [f"demo_{i}" for i in range(23)]
    found = assign_folds({"a": ids}, {"a": ids}, FOLDS)["a"]
    ranked = sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest())
    assert found.tolist() == [ranked.index(name) % FOLDS for name in ids]
    assert sorted(Counter(found.tolist()).values()) == [4, 4, 5, 5, 5]


class PlantedNumber:
    """Adds so many times the number of the window, and hundreds for its episode."""

    def __init__(self, by: float) -> None:
        self.by = by

    def apply(self, windows: Windowed, episode: Numbers, number: Numbers) -> Windowed:
        return windows + self.by * torch.from_numpy(100 * episode + number)[:, None, None]


def make_walks(**fields: object) -> Population:
    rng = np.random.default_rng(0)
    walks = [rng.normal(size=(length, ACTION)) for length in (6, 4, 5, 9)]
    return make_population("a", walks, [0, 1, 2, 0], **fields)


def test_windows_are_read_with_what_is_planted_in_them() -> None:
    episode, number = np.array([3, 0, 3]), np.array([5, 1, 0])
    plain = make_walks().windows.gather(episode, number)
    assert torch.equal(make_walks().gather(episode, number), plain)
    planted = make_walks(planted=PlantedNumber(2.0)).gather(episode, number)
    assert planted.shape == (3, HORIZON, ACTION)
    added = (planted - plain)[:, 0, 0]
    torch.testing.assert_close(added, torch.tensor([610.0, 2.0, 600.0]), atol=1e-3, rtol=0.0)


def test_the_clean_set_shows_a_corrupt_one_its_opponents_and_what_is_planted_in_them() -> None:
    clean, theirs = make_walks(), PlantedNumber(1.0)
    clean_side = clean.compared_with(make_walks())
    assert clean_side.episodes.tolist() == [0, 1, 2, 3]
    assert clean_side.planted is None
    corrupt = make_walks(
        planted=PlantedNumber(2.0), clean_episodes=np.array([1, 3]), planted_clean=theirs
    )
    clean_side = clean.compared_with(corrupt)
    assert clean_side.episodes.tolist() == [1, 3]
    assert clean_side.in_folds([0, 2]).tolist() == [3]
    assert clean_side.planted is theirs
    assert clean_side.dataset == clean.dataset
    assert clean.planted is None
