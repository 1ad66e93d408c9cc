"""Scores against a plain loop; common random numbers; independence of everything else."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_study import ACTION, HORIZON, recalibrate
from small_study import make_classifier as make_small_classifier
from torch import Tensor

from ambient_curate.classifier import out_of_fold
from ambient_curate.classifier.channels import NETWORK
from ambient_curate.classifier.fit import FoldClassifier
from ambient_curate.classifier.out_of_fold import (
    BANDS,
    BINS,
    ScoreOptions,
    band_of,
    noise_seed,
    score_episode,
)
from ambient_curate.data.planted_controls import PlantedShift
from ambient_curate.data.populations import Planted, Population
from ambient_curate.data.windows import Windows
from ambient_curate.noise import log_snr
from ambient_curate.statistics.bootstrap import draw_evenly, pick_evenly

DIM, HEADS = HORIZON * ACTION, 3
SIGMA = np.array([0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999, 1.0 - 1e-9])
SEED = noise_seed(0, "clean", "demo_0")


def make_classifier() -> FoldClassifier:
    return make_small_classifier(HEADS, sigma=SIGMA)


def make_population(
    lengths: Sequence[int] = (9, 4, 12), planted: Planted | None = None
) -> Population:
    length = np.array(lengths, dtype=np.int64)
    offset = np.cumsum(length) - length
    frames = np.random.default_rng(1).normal(size=(length.sum(), ACTION)).astype(np.float32)
    windows = Windows(torch.from_numpy(frames), None, offset, length, HORIZON, 1)
    episodes = np.arange(length.size)
    return Population(
        "clean", None, windows, episodes, np.zeros(length.size, dtype=np.int64), planted
    )


def score(
    classifier: FoldClassifier,
    population: Population,
    episode: int,
    heads: Sequence[int],
    *,
    is_clean: bool,
    options: ScoreOptions,
) -> out_of_fold.EpisodeScore:
    return score_episode(
        classifier, population, episode, heads, is_clean=is_clean, seed=SEED, options=options
    )


class LevelBlind(FoldClassifier):
    """Its answer is a function of the noise alone, so that other noise is another answer."""

    def predict(
        self, windows: Tensor, noise: Tensor, heads: Sequence[int], levels: slice
    ) -> Tensor:
        n = len(range(*levels.indices(self.sigma.size)))
        return torch.sigmoid(noise.sum(dim=-1))[None, ..., None].repeat(n, 1, 1, len(heads))


class NoiseBlind(FoldClassifier):
    """Its answer is a function of the window alone, so that another window is another answer."""

    def predict(
        self, windows: Tensor, noise: Tensor, heads: Sequence[int], levels: slice
    ) -> Tensor:
        n = len(range(*levels.indices(self.sigma.size)))
        answer = torch.sigmoid(windows.flatten(1).sum(dim=1))[None, :, None, None]
        return answer.repeat(n, 1, noise.shape[1], len(heads))


def alike(kind: type[FoldClassifier]) -> FoldClassifier:
    like = make_classifier()
    return kind(like.pairs, like.sigma)


def naive_probabilities(
    classifier: FoldClassifier, population: Population, episode: int, head: int, draws: int
) -> np.ndarray:
    """P(clean), shape (window, draw, level), one row at a time from the definition."""
    pair, windows = classifier.pairs[head], population.windows.of_episode(episode).flatten(1)
    shape = (len(windows), draws, DIM)
    noise = np.random.default_rng(SEED).standard_normal(shape, dtype=np.float32)
    result = np.empty((len(windows), draws, SIGMA.size))
    for (w, d, s), _ in np.ndenumerate(result):
        a = float(np.sqrt((1.0 - SIGMA[s]) * (1.0 + SIGMA[s])))
        x = a * windows[w] + float(SIGMA[s]) * torch.from_numpy(noise[w, d])
        snr = torch.tensor([float(log_snr(SIGMA[s]))])
        logits = pair.members[NETWORK](x[None, None], snr)[0, 0].double()
        logit = (pair.slope[:, s] * logits).sum() + pair.intercept[s]
        result[w, d, s] = torch.sigmoid(logit)
    return result


@pytest.mark.parametrize("is_clean", [True, False])
def test_statistics_are_those_of_a_plain_loop(is_clean: bool) -> None:
    classifier, population = make_classifier(), make_population()
    found = score(
        classifier,
        population,
        0,
        [2, 0],
        is_clean=is_clean,
        options=ScoreOptions(3),
    )
    for row, head in enumerate((2, 0)):
        c = naive_probabilities(classifier, population, 0, head, 3)
        right = c if is_clean else 1.0 - c
        expected = [c, (1.0 - right) ** 2, -np.log(right.clip(0.01, 0.99)), right > 0.5]
        means = np.array([value.mean(axis=(0, 1)) for value in expected])
        np.testing.assert_allclose(found.statistics[row], means, rtol=5e-3, atol=2e-5)
        assert means[0].std() > 0.01  # the classifier is not blind


def test_all_levels_of_a_window_share_their_noise() -> None:
    found = score(
        alike(LevelBlind), make_population(), 2, [0], is_clean=True, options=ScoreOptions(4)
    )
    assert (found.statistics == found.statistics[..., :1]).all()


@pytest.mark.parametrize("rows", [40, 8192])
def test_every_so_manyth_level_is_scored_from_the_lowest(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, population = make_classifier(), make_population()
    every = score(classifier, population, 0, [1, 0], is_clean=False, options=ScoreOptions(2))
    monkeypatch.setattr(out_of_fold, "rows_at_once", lambda device: rows)
    for step in (3, 8):
        options = ScoreOptions(2, None, step)
        some = score(classifier, population, 0, [1, 0], is_clean=False, options=options)
        np.testing.assert_allclose(
            some.statistics, every.statistics[..., ::step], rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize(("rows", "block"), [(8, 256), (8192, 3), (1, 4)])
def test_the_size_of_a_batch_changes_nothing(
    rows: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score_once() -> tuple[np.ndarray, ...]:
        classifier, population = make_classifier(), make_population()
        whole = score(classifier, population, 2, [1], is_clean=True, options=ScoreOptions(2))
        return whole.statistics, whole.histogram

    expected = score_once()
    monkeypatch.setattr(out_of_fold, "rows_at_once", lambda device: rows)
    monkeypatch.setattr(out_of_fold, "BLOCK", block)
    for one, other in zip(score_once(), expected, strict=True):
        # float32 sums in another order; other noise would show in the second digit
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_an_episode_is_scored_the_same_whatever_else_is_scored() -> None:
    classifier, both, alone = make_classifier(), make_population((9, 4, 12)), make_population((9,))
    one = score(classifier, both, 0, [1, 2], is_clean=True, options=ScoreOptions(2))
    score(classifier, both, 2, [0], is_clean=False, options=ScoreOptions(5))
    again = score(classifier, both, 0, [1, 2], is_clean=True, options=ScoreOptions(2))
    other = score(classifier, alone, 0, [2], is_clean=True, options=ScoreOptions(2))
    assert one.statistics.tolist() == again.statistics.tolist()
    np.testing.assert_allclose(one.statistics[1], other.statistics[0], atol=1e-7)
    np.testing.assert_allclose(one.histogram[1], other.histogram[0], atol=1e-7)


def test_the_class_decides_which_answer_is_right() -> None:
    classifier, population = make_classifier(), make_population()
    clean, corrupt = (
        score(classifier, population, 0, [0], is_clean=c, options=ScoreOptions(2))
        for c in (True, False)
    )
    c, _, _, hits = clean.statistics[0]
    np.testing.assert_allclose(corrupt.statistics[0, 0], c)
    np.testing.assert_allclose(corrupt.statistics[0, 3], 1.0 - hits)
    # E (1 - c)^2 - E c^2 = 1 - 2 E c
    np.testing.assert_allclose(
        clean.statistics[0, 1] - corrupt.statistics[0, 1], 1.0 - 2.0 * c, atol=1e-6
    )


def test_the_histogram_sums_to_the_levels_of_a_band_and_to_their_mean_scores() -> None:
    found = score(
        make_classifier(), make_population(), 2, [0, 1], is_clean=True, options=ScoreOptions(3)
    )
    band = band_of(SIGMA.size)
    for head in range(2):
        share, total = found.histogram[head, :, :, 0], found.histogram[head, :, :, 1]
        np.testing.assert_allclose(share.sum(axis=1), np.bincount(band, minlength=BANDS))
        means = np.bincount(band, found.statistics[head, 0], minlength=BANDS)
        np.testing.assert_allclose(total.sum(axis=1), means, rtol=1e-6)
        occupied = share > 0
        mean = total[occupied] / share[occupied]
        low = np.broadcast_to(np.arange(BINS) / BINS, share.shape)[occupied]
        assert (mean >= low - 1e-6).all()
        assert (mean <= low + 1.0 / BINS + 1e-6).all()


def test_a_certain_score_lies_in_the_last_bin_and_costs_a_bounded_loss() -> None:
    certain = recalibrate(make_classifier(), 0.0, 200.0)
    wrong = score(certain, make_population(), 0, [0], is_clean=False, options=ScoreOptions(2))
    assert wrong.histogram[0, :, -1, 0].sum() == pytest.approx(SIGMA.size)
    np.testing.assert_allclose(wrong.statistics[0, 2], -np.log(0.01), rtol=1e-3)
    right = score(certain, make_population(), 0, [0], is_clean=True, options=ScoreOptions(2))
    expected = np.array([[1.0], [0.0], [-np.log(0.99)], [1.0]]) * np.ones(SIGMA.size)
    np.testing.assert_allclose(right.statistics[0], expected, rtol=1e-4)


def test_a_silent_classifier_is_right_half_of_the_time() -> None:
    silent = recalibrate(make_classifier(), 0.0, 0.0)
    for is_clean in (True, False):
        found = score(silent, make_population(), 0, [0], is_clean=is_clean, options=ScoreOptions(2))
        expected = np.array([[0.5], [0.25], [np.log(2.0)], [0.5]]) * np.ones(SIGMA.size)
        np.testing.assert_allclose(found.statistics[0], expected, rtol=1e-6)


def test_what_is_planted_in_an_arm_is_in_every_window() -> None:
    shift = torch.tensor([[0.5, -1.0]] * HORIZON)
    population = make_population()
    moved = Windows(
        population.windows.action + shift[0],
        None,
        population.windows.offset,
        population.windows.length,
        HORIZON,
        1,
    )
    shifted, naive = (
        score(make_classifier(), a, 0, [1], is_clean=False, options=ScoreOptions(2))
        for a in (
            make_population(planted=PlantedShift(shift)),
            Population("q", None, moved, population.episodes, population.fold),
        )
    )
    np.testing.assert_allclose(shifted.statistics, naive.statistics, atol=1e-5)


@given(st.integers(1, 300), st.one_of(st.none(), st.integers(1, 80)))
def test_picked_windows_are_distinct_and_evenly_spread(count: int, most: int | None) -> None:
    picked = pick_evenly(count, most)
    assert picked.size == (count if most is None else min(count, most))
    assert picked[0] >= 0
    assert picked[-1] < count
    if picked.size > 1:
        gaps = np.diff(picked)
        assert gaps.min() >= 1
        assert np.ptp(gaps) <= 1
    assert abs(picked.mean() - (count - 1) / 2) <= 1.0  # neither end is favoured


@pytest.mark.parametrize(("count", "most"), [(10, 4), (65, 64), (7, 1), (150, 8)])
def test_every_window_is_as_likely_to_be_drawn_as_any_other(count: int, most: int) -> None:
    rng, repeats = np.random.default_rng(0), 4_000
    drawn = np.stack([draw_evenly(count, most, rng) for _ in range(repeats)])
    stretch = (np.arange(most + 1)) * count / most
    assert (drawn >= np.floor(stretch[:-1])).all()
    assert (drawn <= np.ceil(stretch[1:]) - 1).all()
    times = np.bincount(drawn.ravel(), minlength=count)
    expected = repeats * most / count
    assert times.size == count
    assert np.abs(times - expected).max() < 5.0 * np.sqrt(expected)


def test_all_windows_are_drawn_where_there_are_few() -> None:
    for most in (None, 4, 9):
        assert draw_evenly(4, most, np.random.default_rng(0)).tolist() == [0, 1, 2, 3]


def test_a_limited_episode_is_scored_at_the_drawn_windows_only() -> None:
    population, options = make_population(), ScoreOptions(2, 4)
    drawn = draw_evenly(10, 4, np.random.default_rng(SEED))
    picked = population.windows.of_episode(2)[drawn].flatten(1).sum(dim=1)
    found = score(alike(NoiseBlind), population, 2, [0], is_clean=True, options=options)
    expected = torch.sigmoid(picked).double().numpy().mean()
    np.testing.assert_allclose(found.statistics[0, 0], expected, rtol=1e-6)


def test_seeds_tell_every_identity_apart() -> None:
    identities = [(0, "a", "bc"), (0, "ab", "c"), (1, "a", "bc"), (0, "a", "b"), (10, "", "a")]
    seeds = {tuple(noise_seed(*identity)) for identity in identities}
    assert len(seeds) == len(identities)
    assert noise_seed(0, "a", "bc") == noise_seed(0, "a", "bc")
    assert all(0 <= word < 2**32 for seed in seeds for word in seed)


@pytest.mark.parametrize("levels", [1, 5, 6, 7, 133])
def test_bands_are_runs_of_nearly_equal_size(levels: int) -> None:
    band = band_of(levels)
    assert (np.diff(band) >= 0).all()
    sizes = np.bincount(band, minlength=BANDS)
    assert sizes.sum() == levels
    assert np.ptp(sizes) <= 1
