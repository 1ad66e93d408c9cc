"""Evidence: every episode by the network that never saw it, kept and found again exactly."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_study import SIGMA, make_classifier, make_episodes, make_score, make_study

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
FIELDS = ("episodes", "heads", "statistics", "histogram")


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
    made, scores = make_evidence(), make_scores()
    expected = {
        0: ([1, 4, 5], [(0, 0), (1, 0), (2, 0)]),
        1: ([5], [(2, 1)]),
        2: ([1], [(0, 1)]),
        3: ([], []),
    }
    for head, (episodes, places) in expected.items():
        found, statistics, histogram = made.of_head(head)
        assert found.tolist() == episodes
        assert statistics.tolist() == [scores[i].statistics[j].tolist() for i, j in places]
        assert histogram.tolist() == [scores[i].histogram[j].tolist() for i, j in places]


def test_an_absent_head_is_in_no_answer() -> None:
    made = make_evidence()
    assert made.heads.tolist() == HEADS.tolist()
    assert made.statistics.shape == (3, 2, len(STATISTICS), SIGMA.size)
    assert made.histogram.shape == (3, 2, BANDS, BINS, 2)
    assert (made.statistics[1, 1] == 0.0).all()


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
    heads: np.ndarray,
    look: Look = WHOLE,
) -> list[tuple[int, EpisodeScore]]:
    """Scores of all episodes of an arm: episode, and what was said against its own heads."""
    hearing = Hearing("label", arm, heads, np.arange(arm.episodes.size), look)
    with SILENT.task("scoring") as task:
        found = score_piece(study, networks, hearing, 0, task)
    return [
        (episode, EpisodeScore(found.statistics[row][present], found.histogram[row][present]))
        for row, (episode, present) in enumerate(
            zip(found.episodes.tolist(), heads >= 0, strict=True)
        )
    ]


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
            classifier.fit_fold(
                *(study.clean, study.arms, held_out, noise_channel(SIGMA)),
                classifier.FitOptions(folds=3),
            )
    return {validation[0]: network for network, validation in enumerate(drawn[1::2])}


@pytest.mark.parametrize("look", [WHOLE, OWN, OTHER])
def test_every_episode_is_scored_by_a_network_that_was_not_trained_on_it(
    studies: dict[str, Study], look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that its fold has no part in; to compare, the one that its fold calibrated."""
    study = studies["dataset"]
    says = [0.2, 0.5, 0.8]
    heads = np.array([[0, 1] if row % 2 else [0, -1] for row in range(7)])
    arm = study.corrupt[0]
    networks = [constant(p) for p in says]
    found = gather(study, networks, arm, heads, look)
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
            gather(study, networks, study.corrupt[0], heads, look) for study in studies.values()
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
        for episode, score in gather(study, networks, arm, heads, look):
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


def test_every_member_is_heard_at_length_and_twice_in_short_and_the_control_once(
    studies: dict[str, Study], tmp_path: Path
) -> None:
    study = studies["dataset"]
    assert study.control is not None
    hearings = list_hearings(study)
    looks = {"": WHOLE, "-own": OWN, "-other": OTHER}
    arms = {"clean": study.clean, "00000": study.corrupt[0]}
    expected = {
        name + end: (arm, look) for name, arm in arms.items() for end, look in looks.items()
    }
    expected["control"] = (study.control.arm, WHOLE)
    assert {label: (each.arm, each.look) for label, each in hearings.items()} == expected
    for label, each in hearings.items():
        assert each.label == label
        assert each.rows.tolist() == list(range(each.arm.episodes.size))
        assert each.pieces == 1
        assert each.path(tmp_path, 2) == tmp_path / "scores" / f"{label}.002.npz"
    opponents = study.control.arm.opponents
    assert opponents is not None
    heads = [[0, 1 if episode in opponents else -1] for episode in study.clean.episodes]
    assert hearings["clean"].heads.tolist() == heads
    assert hearings["00000"].heads.tolist() == [[0]] * 7
    assert hearings["control"].heads.tolist() == [[1]] * study.control.arm.episodes.size


def test_a_group_is_heard_beside_its_dataset_where_it_has_an_output(tmp_path: Path) -> None:
    tasks = ["x", "x", "x", "y", "x", "x", "x", "x"]
    members = {name: make_episodes(name, LENGTHS, task=tasks) for name in ("clean", "a")}
    study = make_study(tmp_path, members, granularity="group")
    whole, part = study.head("a"), study.head("a", "x")
    assert part is not None
    for end in ("", "-own", "-other"):
        hearing = list_hearings(study)["00000" + end]
        assert hearing.heads.tolist() == [[whole, -1 if row == 3 else part] for row in range(7)]
        assert hearing.arm.group is None


def test_a_member_without_an_output_is_not_heard(tmp_path: Path) -> None:
    members = {name: make_episodes(name, LENGTHS) for name in ("clean", "b")}
    study = make_study(tmp_path, members | {"a": make_episodes("a", (6, 6))})
    assert [label[:5] for label in list_hearings(study)] == ["clean"] * 3 + ["contr"] + [
        "00001"
    ] * 3


@pytest.mark.parametrize(("label", "size"), [("clean", 3), ("control", 1), ("00000-other", 2)])
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


def test_no_more_than_so_many_episodes_of_a_member_are_heard_evenly_spaced(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each says what it says among all."""
    assert (evidence.MOST, evidence.PIECE) == (8_192, 128)
    (tmp_path / "all").mkdir()
    whole = {label: hear(small, label, tmp_path / "all") for label in ("clean", "00000-own")}
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
    for label, most in (("clean", 20), ("clean-own", 16), ("clean-other", 16)):
        options = list_hearings(small)[label].look.options
        usual = SCORED if label == "clean" else COMPARED
        assert options == ScoreOptions(usual.draws, most, usual.every)


def test_the_task_is_told_of_every_episode_of_the_piece(
    small: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int | float] = []

    class Counter:
        def advance(self, steps: int | float = 1, note: str | None = None) -> None:
            told.append(steps)

    monkeypatch.setattr(evidence, "PIECE", 5)
    score_piece(small, make_networks_of(small), list_hearings(small)["clean"], 1, Counter())
    assert told == [1, 1]
