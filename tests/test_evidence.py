"""Evidence: every episode by the network that never saw it, kept and found again exactly."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_study import SIGMA, make_classifier, make_episodes, make_score, make_study

from ambient_curate.classifier import FoldClassifier
from ambient_curate.evidence import (
    DRAWS,
    MOST_WINDOWS,
    Evidence,
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


@pytest.mark.parametrize("workers", [1, 3])
def test_every_episode_is_scored_by_the_network_of_its_own_fold(
    studies: dict[str, Study], workers: int
) -> None:
    study = studies["dataset"]
    says = [0.2, 0.5, 0.8]
    heads = np.array([[0, 1] if row % 2 else [0, -1] for row in range(7)])
    arm = study.corrupt[0]
    found = list(
        score_member(
            study, [constant(p) for p in says], arm, heads, workers=workers, progress=SILENT
        )
    )
    assert [episode for episode, _ in found] == arm.episodes.tolist() == [0, 1, 2, 3, 4, 5, 7]
    for (episode, score), present in zip(found, heads, strict=True):
        p = says[study.folds["a"][episode]]
        c = np.array([p, p**2])[present >= 0]
        right = (c < 0.5) + 0.5 * (c == 0.5)
        expected = np.stack([c, c**2, -np.log(1 - c), right], axis=1)
        np.testing.assert_allclose(score.statistics, expected[..., None].repeat(8, 2), rtol=1e-4)
        assert score.curves is None


def test_a_clean_episode_is_right_where_it_is_called_clean(studies: dict[str, Study]) -> None:
    study = studies["dataset"]
    heads = np.zeros((7, 1), dtype=np.int64)
    networks = [constant(0.8, 1)] * 3
    for _, score in score_member(study, networks, study.clean, heads, workers=1, progress=SILENT):
        np.testing.assert_allclose(score.statistics[0, 1], 0.04, rtol=1e-4)
        np.testing.assert_allclose(score.statistics[0, 3], 1.0)


def test_curves_are_kept_of_every_corrupt_window_at_granularity_datapoint_only(
    studies: dict[str, Study],
) -> None:
    assert (DRAWS["datapoint"], MOST_WINDOWS["datapoint"]) == (8, None)
    study = studies["datapoint"]
    heads = np.zeros((7, 1), dtype=np.int64)
    networks = [make_classifier(2, seed=seed) for seed in range(3)]

    def curves(arm_name: str) -> list[int | None]:
        assert study.control is not None
        arms = {"a": study.corrupt[0], "clean": study.clean, "control": study.control.arm}
        arm = arms[arm_name]
        scores = score_member(
            study, networks, arm, heads[: arm.episodes.size], workers=1, progress=SILENT
        )
        return [None if s.curves is None else len(s.curves) for _, s in scores]

    assert curves("a") == [n - 2 for n in LENGTHS if n != 2]
    assert set(curves("clean")) == set(curves("control")) == {None}


def test_noise_comes_from_the_identity_of_the_episode(studies: dict[str, Study]) -> None:
    """The control shares its windows with the clean set, never its noise."""
    study = studies["dataset"]
    assert study.control is not None
    networks = [make_classifier(2, seed=seed) for seed in range(3)]
    for arm, name in ((study.corrupt[0], "a"), (study.control.arm, study.control.arm.dataset)):
        heads = np.ones((arm.episodes.size, 1), dtype=np.int64)
        found = list(score_member(study, networks, arm, heads, workers=1, progress=SILENT))
        for episode, score in found:
            alone = score_episode(
                networks[arm.fold[episode]],
                arm,
                episode,
                [1],
                is_clean=False,
                seed=noise_seed(study.options.seed, name, f"demo_{episode}"),
                options=ScoreOptions(2, 64),
            )
            assert alone.statistics.tolist() == score.statistics.tolist()
