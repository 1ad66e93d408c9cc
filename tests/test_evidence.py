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

from ambient_curate import classifier, evidence
from ambient_curate.arms import Arm
from ambient_curate.channels import noise_channel
from ambient_curate.classifier import FoldClassifier
from ambient_curate.evidence import (
    COMPARED,
    OTHER,
    OWN,
    SCORED,
    WHOLE,
    Evidence,
    Hearing,
    Look,
    gather_evidence,
    list_hearings,
    load_evidence,
    save_evidence,
    score_piece,
)
from ambient_curate.networks import Sizes
from ambient_curate.progress import SILENT
from ambient_curate.scoring import (
    BANDS,
    BINS,
    STATISTICS,
    EpisodeScore,
    ScoreOptions,
    noise_seed,
    score_episode,
)
from ambient_curate.study import Study

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


def make_evidence() -> Evidence:
    return gather_evidence(list(zip((1, 4, 5), make_scores(), strict=True)))


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
    save_evidence(made, path)
    found = load_evidence(path)
    for name in FIELDS:
        before, after = getattr(made, name), getattr(found, name)
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(after, before)
    first = path.read_bytes()
    save_evidence(found, path)
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def gather(
    study: Study,
    networks: Sequence[FoldClassifier],
    arm: Arm,
    head: int,
    look: Look = WHOLE,
) -> list[tuple[int, np.ndarray]]:
    """Score all episodes of a side of a pair: episode, and statistics."""
    rows = np.arange(arm.episodes.size)
    hearing = Hearing("label", arm, head, rows, look, arm.dataset == "clean")
    with SILENT.task("scoring") as task:
        found = score_piece(study, networks, hearing, 0, task)
    return list(zip(found.episodes.tolist(), found.statistics, strict=True))


def judge_of(study: Study, monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """By fold: the network that it stopped and calibrated, as the fit draws its samples."""
    drawn: list[Sequence[int]] = []

    def draw(*arguments: Any, **_: Any) -> None:
        drawn.append(arguments[2])
        if len(drawn) % 2 == 0:  # training, then validation
            raise StopAsyncIteration

    monkeypatch.setattr(classifier, "draw_sample", draw)
    for held_out in range(3):
        with pytest.raises(StopAsyncIteration):
            classifier.fit_pair(
                study.clean,
                study.corrupt[0],
                held_out,
                noise_channel(SIGMA, Sizes(HORIZON, ACTION)),
                classifier.FitOptions(folds=3),
            )
    return {validation[0]: network for network, validation in enumerate(drawn[1::2])}


@pytest.mark.parametrize("head", [0, 1])
@pytest.mark.parametrize("look", [WHOLE, OWN, OTHER])
def test_every_episode_is_scored_by_a_network_that_was_not_trained_on_it(
    studies: dict[str, Study], look: Look, head: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that its fold has no part in; to compare, the one that its fold calibrated."""
    study = studies["dataset"]
    says = [0.2, 0.5, 0.8]
    arm = study.corrupt[0]
    networks = [constant(p) for p in says]
    found = gather(study, networks, arm, head, look)
    scorer = judge_of(study, monkeypatch) if look is OTHER else {fold: fold for fold in range(3)}
    levels = 2 if look.options is COMPARED else SIGMA.size  # every fourth of eight
    assert [episode for episode, _ in found] == arm.episodes.tolist() == [0, 1, 2, 3, 4, 5, 7]
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
    for look in (WHOLE, OWN, OTHER):
        one, other = (
            gather(study, networks, study.corrupt[0], 0, look) for study in studies.values()
        )
        for (_, a), (_, b) in zip(one, other, strict=True):
            assert a.tolist() == b.tolist()


@pytest.mark.parametrize(("look", "options"), [(WHOLE, SCORED), (OWN, COMPARED), (OTHER, COMPARED)])
def test_noise_comes_from_the_identity_of_the_episode(
    studies: dict[str, Study], look: Look, options: ScoreOptions
) -> None:
    """Controls share their windows with the clean set, never their noise."""
    study = studies["dataset"]
    networks = make_networks_of(study)
    names = ["a", "planted shift", "planted spike"]
    for head, (arm, name) in enumerate(zip(study.arms, names, strict=True)):
        for episode, statistics in gather(study, networks, arm, head, look):
            alone = score_episode(
                networks[(int(arm.fold[episode]) - (look is OTHER)) % 3],
                arm,
                episode,
                [head],
                is_clean=False,
                seed=noise_seed(study.options.seed, name, f"demo_{episode}"),
                options=options,
            )
            assert alone.statistics[0].tolist() == statistics.tolist()


def make_networks_of(study: Study) -> list[FoldClassifier]:
    return [make_classifier(len(study.arms), seed=fold) for fold in range(3)]


def hear(study: Study, label: str, work: Path) -> Evidence:
    """Score every piece, the last first, and read them together."""
    hearing = list_hearings(study)[label]
    (work / "scores").mkdir(exist_ok=True)
    for piece in reversed(range(hearing.pieces)):
        with SILENT.task("scoring") as task:
            found = score_piece(study, make_networks_of(study), hearing, piece, task)
        save_evidence(found, hearing.path(work, piece))
    return hearing.read(work)


def test_both_sides_of_a_pair_are_heard_at_length_and_twice_in_short_and_of_controls_once(
    studies: dict[str, Study], tmp_path: Path
) -> None:
    study = studies["dataset"]
    looks = {"": WHOLE, "-own": OWN, "-other": OTHER}
    expected = {
        f"{head:05d}-{side}{end}": (head, side == "clean", look)
        for head in range(3)
        for side in ("clean", "corrupt")
        for end, look in looks.items()
        if head == 0 or look is WHOLE
    }
    hearings = list_hearings(study)
    found = {label: (each.head, each.is_clean, each.look) for label, each in hearings.items()}
    assert found == expected
    for label, each in hearings.items():
        assert each.label == label
        assert each.rows.tolist() == list(range(each.arm.episodes.size))
        assert each.pieces == 1
        assert each.path(tmp_path, 2) == tmp_path / "scores" / f"{label}.002.npz"
        corrupt = study.arms[each.head]
        if each.is_clean:
            facing = study.clean if corrupt.opponents is None else corrupt.opponents
            assert each.arm.dataset == "clean"
            assert each.arm.planted is corrupt.planted_clean
            assert set(each.arm.episodes) == set(getattr(facing, "episodes", facing))
        else:
            assert each.arm is corrupt


def test_a_group_is_heard_beside_its_dataset_where_it_has_an_output(tmp_path: Path) -> None:
    tasks = ["x", "x", "x", "y", "x", "x", "x", "x"]
    members = {name: make_episodes(name, LENGTHS, task=tasks) for name in ("clean", "a")}
    study = make_study(tmp_path, members, granularity="group")
    assert (study.head("a"), study.head("a", "x"), study.head("a", "y")) == (0, 1, None)
    for end in ("", "-own", "-other"):
        whole, part = (list_hearings(study)[f"0000{head}-corrupt{end}"] for head in range(2))
        assert (whole.arm.group, part.arm.group) == (None, "x")
        assert whole.arm.episodes[whole.rows].tolist() == [0, 1, 2, 3, 4, 5, 7]
        assert part.arm.episodes[part.rows].tolist() == [0, 1, 2, 4, 5, 7]
        clean = list_hearings(study)[f"00001-clean{end}"]
        assert clean.arm.episodes[clean.rows].tolist() == [0, 1, 2, 3, 4, 5, 7]


def test_a_member_without_an_output_is_not_heard(tmp_path: Path) -> None:
    members = {name: make_episodes(name, LENGTHS) for name in ("clean", "b")}
    study = make_study(tmp_path, members | {"a": make_episodes("a", (6, 6))})
    hearings = list_hearings(study)
    assert [label[:5] for label in hearings] == ["00000"] * 6 + ["00001"] * 2 + ["00002"] * 2
    assert {each.arm.dataset for each in hearings.values()} == {
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
    monkeypatch.setattr(evidence, "PIECE", size)
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
    assert (evidence.MOST, evidence.PIECE) == (8_192, 128)
    (tmp_path / "all").mkdir()
    whole = {label: hear(small, label, tmp_path / "all") for label in LABELS}
    monkeypatch.setattr(evidence, "MOST", 3)
    monkeypatch.setattr(evidence, "PIECE", 2)
    for label, every in whole.items():
        hearing = list_hearings(small)[label]
        assert (hearing.rows.tolist(), hearing.pieces) == ([1, 3, 5], 2)
        found = hear(small, label, tmp_path)
        assert found.episodes.tolist() == [2, 4, 6]
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(found, name), getattr(every, name)[[1, 3, 5]])


def test_less_is_heard_of_each_of_many_episodes(
    small: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evidence.WINDOWS == evidence.MOST * 8
    monkeypatch.setattr(evidence, "WINDOWS", 7 * 20 + 6)  # `small` has 7 clean episodes
    for end, most in (("", 20), ("-own", 16), ("-other", 16)):
        options = list_hearings(small)["00000-clean" + end].look.options
        usual = COMPARED if end else SCORED
        assert options == ScoreOptions(usual.draws, most, usual.every)


def test_the_task_is_told_of_every_episode_of_the_piece(
    small: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int | float] = []

    class Counter:
        def advance(self, steps: int | float = 1, note: str | None = None) -> None:
            told.append(steps)

    monkeypatch.setattr(evidence, "PIECE", 5)
    score_piece(small, make_networks_of(small), list_hearings(small)["00000-clean"], 1, Counter())
    assert told == [1, 1]
