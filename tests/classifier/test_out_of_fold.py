"""Evidence: every episode by the network that never saw it, kept and found again exactly."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_study import (
    ACTION,
    HORIZON,
    SIGMA,
    make_classifier,
    make_episodes,
    make_score,
    make_study,
)

from ambient_curate.classifier import fit, out_of_fold
from ambient_curate.classifier.channels import noise_channel
from ambient_curate.classifier.fit import FoldClassifier
from ambient_curate.classifier.networks import Sizes
from ambient_curate.classifier.out_of_fold import (
    BANDS,
    BINS,
    COMPARED,
    OTHER,
    OWN,
    SCORED,
    STATISTICS,
    WHOLE,
    EpisodeScore,
    OutOfFoldScores,
    ScoreOptions,
    ScoringMode,
    ScoringSet,
    gather_scores,
    list_scoring_sets,
    load_scores,
    noise_seed,
    save_scores,
    score_episode,
    score_piece,
)
from ambient_curate.data.populations import Population
from ambient_curate.data.study import Study

LENGTHS = (6, 3, 9, 5, 4, 7, 2, 80)
FIELDS = ("episodes", "statistics", "histogram")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Study]:
    folder = tmp_path_factory.mktemp("frames")
    members = {name: make_episodes(name, LENGTHS) for name in ("clean", "a")}
    return {
        name: make_study(folder / name, members, granularity=name)
        for name in ("dataset", "datapoint")
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Of seven episodes that can be scored, the second of the source cannot."""
    lengths = (6, 2, 3, 9, 5, 4, 7, 8)
    members = {name: make_episodes(name, lengths) for name in ("clean", "a")}
    return make_study(tmp_path_factory.mktemp("frames"), members)


def constant(probability: float) -> FoldClassifier:
    """In the first pair it says `probability` and in the second its square, whatever it sees."""
    like = make_classifier(2)
    pairs = {
        head: replace(
            pair,
            slope=0.0 * pair.slope,
            intercept=torch.full_like(pair.intercept, probability ** (head + 1)).logit(),
        )
        for head, pair in like.pairs.items()
    }
    return replace(like, pairs=pairs)


def make_scores() -> list[EpisodeScore]:
    return [make_score(1, seed=seed) for seed in range(3)]


def make_evidence() -> OutOfFoldScores:
    return gather_scores(list(zip((1, 4, 5), make_scores(), strict=True)))


def test_every_episode_of_a_side_has_its_own_statistics() -> None:
    made, scores = make_evidence(), make_scores()
    assert made.episodes.tolist() == [1, 4, 5]
    assert made.statistics.shape == (3, len(STATISTICS), SIGMA.size)
    assert made.histogram.shape == (3, BANDS, BINS, 2)
    for row, score in enumerate(scores):
        assert made.statistics[row].tolist() == score.statistics[0].tolist()
        assert made.histogram[row].tolist() == score.histogram[0].tolist()


def test_evidence_comes_back_exactly_and_as_the_same_bytes(tmp_path: Path) -> None:
    made, path = make_evidence(), tmp_path / "00003.npz"
    save_scores(made, path)
    found = load_scores(path)
    for name in FIELDS:
        before, after = getattr(made, name), getattr(found, name)
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(after, before)
    first = path.read_bytes()
    save_scores(found, path)
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def gather(
    study: Study,
    networks: Sequence[FoldClassifier],
    population: Population,
    head: int,
    mode: ScoringMode = WHOLE,
) -> list[tuple[int, np.ndarray]]:
    """Score all episodes of a side of a pair: episode, and statistics."""
    rows = np.arange(population.episodes.size)
    scoring_set = ScoringSet("label", population, head, rows, mode, population.dataset == "clean")
    found = score_piece(study, networks, scoring_set, 0, lambda steps: None)
    return list(zip(found.episodes.tolist(), found.statistics, strict=True))


def judge_of(study: Study, monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """By fold: the network that it stopped and calibrated, as the fit draws its samples."""
    drawn: list[Sequence[int]] = []

    def draw(*arguments: Any, **_: Any) -> None:
        drawn.append(arguments[2])
        if len(drawn) % 2 == 0:  # training, then validation
            raise StopAsyncIteration

    monkeypatch.setattr(fit, "draw_sample", draw)
    for held_out in range(3):
        with pytest.raises(StopAsyncIteration):
            fit.fit_pair(
                study.clean,
                study.corrupt[0],
                held_out,
                noise_channel(SIGMA, Sizes(HORIZON, ACTION)),
                fit.FitOptions(folds=3),
            )
    return {validation[0]: network for network, validation in enumerate(drawn[1::2])}


@pytest.mark.parametrize("head", [0, 1])
@pytest.mark.parametrize("mode", [WHOLE, OWN, OTHER])
def test_every_episode_is_scored_by_a_network_that_was_not_trained_on_it(
    studies: dict[str, Study], mode: ScoringMode, head: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that its fold has no part in; to compare, the one that its fold calibrated."""
    study = studies["dataset"]
    says = [0.2, 0.5, 0.8]
    population = study.corrupt[0]
    networks = [constant(p) for p in says]
    found = gather(study, networks, population, head, mode)
    scorer = judge_of(study, monkeypatch) if mode is OTHER else {fold: fold for fold in range(3)}
    levels = 2 if mode.options is COMPARED else SIGMA.size  # every fourth of eight
    assert (
        [episode for episode, _ in found] == population.episodes.tolist() == [0, 1, 2, 3, 4, 5, 7]
    )
    for episode, statistics in found:
        c = says[scorer[int(study.folds["a"][episode])]] ** (head + 1)
        right = (c < 0.5) + 0.5 * (c == 0.5)
        expected = np.array([c, c**2, -np.log(1 - c), right])[:, None].repeat(levels, 1)
        np.testing.assert_allclose(statistics, expected, rtol=1e-4)


def test_a_clean_episode_is_right_where_it_is_called_clean(studies: dict[str, Study]) -> None:
    study = studies["dataset"]
    for _, statistics in gather(study, [constant(0.8)] * 3, study.clean, 0):
        np.testing.assert_allclose(statistics[1], 0.04, rtol=1e-4)
        np.testing.assert_allclose(statistics[3], 1.0)


def test_as_much_of_an_episode_is_scored_at_every_granularity(studies: dict[str, Study]) -> None:
    """The one of 80 frames has 78 windows, of which 64 are scored, and 16 compared."""
    assert ScoreOptions(2, 64, 1) == SCORED
    assert ScoreOptions(2, 16, 4) == COMPARED
    networks = [make_classifier(1, seed=seed) for seed in range(3)]
    for mode in (WHOLE, OWN, OTHER):
        one, other = (
            gather(study, networks, study.corrupt[0], 0, mode) for study in studies.values()
        )
        for (_, a), (_, b) in zip(one, other, strict=True):
            assert a.tolist() == b.tolist()


@pytest.mark.parametrize(("mode", "options"), [(WHOLE, SCORED), (OWN, COMPARED), (OTHER, COMPARED)])
def test_noise_comes_from_the_identity_of_the_episode(
    studies: dict[str, Study], mode: ScoringMode, options: ScoreOptions
) -> None:
    """Controls share their windows with the clean set, never their noise."""
    study = studies["dataset"]
    networks = make_networks_of(study)
    names = ["a", "planted shift", "planted spike"]
    for head, (population, name) in enumerate(zip(study.populations, names, strict=True)):
        for episode, statistics in gather(study, networks, population, head, mode):
            alone = score_episode(
                networks[(int(population.fold[episode]) - (mode is OTHER)) % 3],
                population,
                episode,
                [head],
                is_clean=False,
                seed=noise_seed(study.options.seed, name, f"demo_{episode}"),
                options=options,
            )
            assert alone.statistics[0].tolist() == statistics.tolist()


def make_networks_of(study: Study) -> list[FoldClassifier]:
    return [make_classifier(len(study.populations), seed=fold) for fold in range(3)]


def hear(study: Study, label: str, work: Path) -> OutOfFoldScores:
    """Score every piece, the last first, and read them together."""
    scoring_set = list_scoring_sets(study)[label]
    (work / "scores").mkdir(exist_ok=True)
    for piece in reversed(range(scoring_set.pieces)):
        networks = make_networks_of(study)
        found = score_piece(study, networks, scoring_set, piece, lambda steps: None)
        save_scores(found, scoring_set.path(work, piece))
    return scoring_set.read(work)


def test_both_sides_of_a_pair_are_heard_at_length_and_twice_in_short_and_of_controls_once(
    studies: dict[str, Study], tmp_path: Path
) -> None:
    study = studies["dataset"]
    modes = {"": WHOLE, "-own": OWN, "-other": OTHER}
    expected = {
        f"{head:05d}-{side}{end}": (head, side == "clean", mode)
        for head in range(3)
        for side in ("clean", "corrupt")
        for end, mode in modes.items()
        if head == 0 or mode is WHOLE
    }
    scoring_sets = list_scoring_sets(study)
    found = {label: (each.head, each.is_clean, each.mode) for label, each in scoring_sets.items()}
    assert found == expected
    for label, each in scoring_sets.items():
        assert each.label == label
        assert each.rows.tolist() == list(range(each.population.episodes.size))
        assert each.pieces == 1
        assert each.path(tmp_path, 2) == tmp_path / "scores" / f"{label}.002.npz"
        corrupt = study.populations[each.head]
        if each.is_clean:
            clean_side = study.clean if corrupt.clean_episodes is None else corrupt.clean_episodes
            assert each.population.dataset == "clean"
            assert each.population.planted is corrupt.planted_clean
            assert set(each.population.episodes) == set(getattr(clean_side, "episodes", clean_side))
        else:
            assert each.population is corrupt


def test_a_group_is_heard_beside_its_dataset_where_it_has_an_output(tmp_path: Path) -> None:
    tasks = ["x", "x", "x", "y", "x", "x", "x", "x"]
    members = {name: make_episodes(name, LENGTHS, task=tasks) for name in ("clean", "a")}
    study = make_study(tmp_path, members, granularity="group")
    assert (study.head("a"), study.head("a", "x"), study.head("a", "y")) == (0, 1, None)
    for end in ("", "-own", "-other"):
        whole, part = (list_scoring_sets(study)[f"0000{head}-corrupt{end}"] for head in range(2))
        assert (whole.population.group, part.population.group) == (None, "x")
        assert whole.population.episodes[whole.rows].tolist() == [0, 1, 2, 3, 4, 5, 7]
        assert part.population.episodes[part.rows].tolist() == [0, 1, 2, 4, 5, 7]
        clean = list_scoring_sets(study)[f"00001-clean{end}"]
        assert clean.population.episodes[clean.rows].tolist() == [0, 1, 2, 3, 4, 5, 7]


def test_a_member_without_an_output_is_not_heard(tmp_path: Path) -> None:
    members = {name: make_episodes(name, LENGTHS) for name in ("clean", "b")}
    study = make_study(tmp_path, members | {"a": make_episodes("a", (6, 6))})
    scoring_sets = list_scoring_sets(study)
    assert [label[:5] for label in scoring_sets] == ["00000"] * 6 + ["00001"] * 2 + ["00002"] * 2
    assert {each.population.dataset for each in scoring_sets.values()} == {
        *("clean", "b", "planted shift", "planted spike")
    }


@pytest.mark.parametrize(
    ("label", "size"), [("00000-clean", 3), ("00002-corrupt", 1), ("00000-corrupt-other", 2)]
)
def test_pieces_are_together_what_one_piece_is(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str, size: int
) -> None:
    (tmp_path / "one").mkdir()
    whole = hear(small, label, tmp_path / "one")
    monkeypatch.setattr(out_of_fold, "PIECE", size)
    found = hear(small, label, tmp_path)
    count = -(-whole.episodes.size // size)
    assert len(list((tmp_path / "scores").iterdir())) == count
    for name in FIELDS:
        before, after = getattr(whole, name), getattr(found, name)
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(after, before)


LABELS = ("00000-clean", "00000-corrupt-own")


def test_no_more_than_so_many_episodes_of_a_member_are_heard_evenly_spaced(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each says what it says among all."""
    assert (out_of_fold.MOST, out_of_fold.PIECE) == (8_192, 128)
    (tmp_path / "all").mkdir()
    whole = {label: hear(small, label, tmp_path / "all") for label in LABELS}
    monkeypatch.setattr(out_of_fold, "MOST", 3)
    monkeypatch.setattr(out_of_fold, "PIECE", 2)
    for label, every in whole.items():
        scoring_set = list_scoring_sets(small)[label]
        assert (scoring_set.rows.tolist(), scoring_set.pieces) == ([1, 3, 5], 2)
        found = hear(small, label, tmp_path)
        assert found.episodes.tolist() == [2, 4, 6]
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(found, name), getattr(every, name)[[1, 3, 5]])


def test_less_is_heard_of_each_of_many_episodes(
    small: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert out_of_fold.WINDOWS == out_of_fold.MOST * 8
    monkeypatch.setattr(out_of_fold, "WINDOWS", 7 * 20 + 6)  # `small` has 7 clean episodes
    for end, most in (("", 20), ("-own", 16), ("-other", 16)):
        options = list_scoring_sets(small)["00000-clean" + end].mode.options
        usual = COMPARED if end else SCORED
        assert options == ScoreOptions(usual.draws, most, usual.every)


def test_every_episode_of_the_piece_is_reported(
    small: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int | float] = []

    monkeypatch.setattr(out_of_fold, "PIECE", 5)
    piece = list_scoring_sets(small)["00000-clean"]
    score_piece(small, make_networks_of(small), piece, 1, told.append)
    assert told == [1, 1]
