"""Evidence: every episode by the network that never saw it, kept and found again exactly."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_study import SIGMA, make_classifier, make_episodes, make_score, make_study

from ambient_curate import classifier
from ambient_curate.arms import Arm
from ambient_curate.classifier import FoldClassifier
from ambient_curate.engines import Interrupted
from ambient_curate.evidence import (
    COMPARED,
    OTHER,
    OWN,
    SCORED,
    WHOLE,
    Evidence,
    Look,
    gather_evidence,
    load_evidence,
    save_evidence,
    score_member,
)
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
HEADS = np.array([[0, 2], [0, -1], [0, 1]])


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Study]:
    folder = tmp_path_factory.mktemp("frames")
    members = {name: make_episodes(name, LENGTHS) for name in ("clean", "a")}
    return {
        name: make_study(folder / name, members, granularity=name)
        for name in ("dataset", "datapoint")
    }


def constant(probability: float, heads: int = 2) -> FoldClassifier:
    """Says `probability` to the first head and its square to the second, whatever it sees."""
    like = make_classifier(heads)
    odds = torch.tensor([probability, probability**2][:heads]).logit()
    return FoldClassifier(
        like.network, 0.0 * like.slope, odds[:, None].repeat(1, SIGMA.size), like.sigma
    )


def make_scores() -> list[EpisodeScore]:
    return [make_score(width, seed=seed) for seed, width in enumerate((2, 1, 2))]


def make_evidence() -> Evidence:
    return gather_evidence(list(zip((1, 4, 5), make_scores(), strict=True)), HEADS)


def test_a_head_finds_its_episodes_with_their_statistics() -> None:
    evidence, scores = make_evidence(), make_scores()
    expected = {
        0: ([1, 4, 5], [(0, 0), (1, 0), (2, 0)]),
        1: ([5], [(2, 1)]),
        2: ([1], [(0, 1)]),
        3: ([], []),
    }
    for head, (episodes, places) in expected.items():
        found, statistics, histogram = evidence.of_head(head)
        assert found.tolist() == episodes
        assert statistics.tolist() == [scores[i].statistics[j].tolist() for i, j in places]
        assert histogram.tolist() == [scores[i].histogram[j].tolist() for i, j in places]


def test_an_absent_head_is_in_no_answer() -> None:
    evidence = make_evidence()
    assert evidence.heads.tolist() == HEADS.tolist()
    assert evidence.statistics.shape == (3, 2, len(STATISTICS), SIGMA.size)
    assert evidence.histogram.shape == (3, 2, BANDS, BINS, 2)
    assert (evidence.statistics[1, 1] == 0.0).all()


def test_evidence_comes_back_exactly_and_as_the_same_bytes(tmp_path: Path) -> None:
    evidence, path = make_evidence(), tmp_path / "00003.npz"
    save_evidence(evidence, path)
    found = load_evidence(path)
    for name in ("episodes", "heads", "statistics", "histogram"):
        before, after = getattr(evidence, name), getattr(found, name)
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
    heads: np.ndarray,
    *,
    look: Look = WHOLE,
    workers: int = 1,
) -> list[tuple[int, EpisodeScore]]:
    scores = score_member(study, networks, arm, heads, look=look, workers=workers, progress=SILENT)
    return list(scores)


def judge_of(study: Study, monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """By fold: the network that it stopped and calibrated, as the fit draws its samples."""
    drawn: list[Sequence[int]] = []

    def draw(*arguments: Any, **_: Any) -> None:
        drawn.append(arguments[2])
        if len(drawn) % 2 == 0:  # training, then validation
            raise Interrupted

    monkeypatch.setattr(classifier, "draw_sample", draw)
    for held_out in range(3):
        with pytest.raises(Interrupted):
            classifier.fit_fold(
                study.clean, study.arms, held_out, SIGMA, classifier.FitOptions(folds=3)
            )
    return {validation[0]: network for network, validation in enumerate(drawn[1::2])}


@pytest.mark.parametrize(
    ("workers", "look"), [(1, WHOLE), (3, WHOLE), (1, OWN), (1, OTHER), (3, OTHER)]
)
def test_every_episode_is_scored_by_a_network_that_was_not_trained_on_it(
    studies: dict[str, Study], workers: int, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that its fold has no part in; to compare, the one that its fold calibrated."""
    study = studies["dataset"]
    says = [0.2, 0.5, 0.8]
    heads = np.array([[0, 1] if row % 2 else [0, -1] for row in range(7)])
    arm = study.corrupt[0]
    networks = [constant(p) for p in says]
    found = gather(study, networks, arm, heads, look=look, workers=workers)
    scorer = judge_of(study, monkeypatch) if look is OTHER else {fold: fold for fold in range(3)}
    levels = 1 if look.options is COMPARED else SIGMA.size  # every sixteenth of eight
    assert [episode for episode, _ in found] == arm.episodes.tolist() == [0, 1, 2, 3, 4, 5, 7]
    for (episode, score), present in zip(found, heads, strict=True):
        p = says[scorer[int(study.folds["a"][episode])]]
        c = np.array([p, p**2])[present >= 0]
        right = (c < 0.5) + 0.5 * (c == 0.5)
        expected = np.stack([c, c**2, -np.log(1 - c), right], axis=1)
        expected = expected[..., None].repeat(levels, 2)
        np.testing.assert_allclose(score.statistics, expected, rtol=1e-4)


def test_a_clean_episode_is_right_where_it_is_called_clean(studies: dict[str, Study]) -> None:
    study = studies["dataset"]
    heads = np.zeros((7, 1), dtype=np.int64)
    for _, score in gather(study, [constant(0.8, 1)] * 3, study.clean, heads):
        np.testing.assert_allclose(score.statistics[0, 1], 0.04, rtol=1e-4)
        np.testing.assert_allclose(score.statistics[0, 3], 1.0)


def test_as_much_of_an_episode_is_scored_at_every_granularity(studies: dict[str, Study]) -> None:
    """The one of 80 frames has 78 windows, of which 64 are scored, and 16 compared."""
    assert ScoreOptions(2, 64, 1) == SCORED
    assert ScoreOptions(2, 16, 16) == COMPARED
    heads = np.zeros((7, 1), dtype=np.int64)
    networks = [make_classifier(2, seed=seed) for seed in range(3)]
    for look in (WHOLE, OWN, OTHER):
        one, other = (
            gather(study, networks, study.corrupt[0], heads, look=look)
            for study in studies.values()
        )
        for (_, a), (_, b) in zip(one, other, strict=True):
            assert a.statistics.tolist() == b.statistics.tolist()


@pytest.mark.parametrize(("look", "options"), [(WHOLE, SCORED), (OWN, COMPARED), (OTHER, COMPARED)])
def test_noise_comes_from_the_identity_of_the_episode(
    studies: dict[str, Study], look: Look, options: ScoreOptions
) -> None:
    """The control shares its windows with the clean set, never its noise."""
    study = studies["dataset"]
    assert study.control is not None
    networks = [make_classifier(2, seed=seed) for seed in range(3)]
    for arm, name in ((study.corrupt[0], "a"), (study.control.arm, study.control.arm.dataset)):
        heads = np.ones((arm.episodes.size, 1), dtype=np.int64)
        for episode, score in gather(study, networks, arm, heads, look=look):
            alone = score_episode(
                networks[(int(arm.fold[episode]) - (look is OTHER)) % 3],
                arm,
                episode,
                [1],
                is_clean=False,
                seed=noise_seed(study.options.seed, name, f"demo_{episode}"),
                options=options,
            )
            assert alone.statistics.tolist() == score.statistics.tolist()
