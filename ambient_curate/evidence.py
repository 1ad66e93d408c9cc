"""Evidence: the out-of-fold statistics of every episode of a member, kept between stages."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from ambient_curate.arms import Arm
from ambient_curate.classifier import FoldClassifier
from ambient_curate.episodes import pick_evenly
from ambient_curate.files import replace_whole
from ambient_curate.progress import Task
from ambient_curate.scoring import EpisodeScore, ScoreOptions, noise_seed, score_episode
from ambient_curate.study import Study

SCORED = ScoreOptions(draws=2, most_windows=64)
COMPARED = ScoreOptions(draws=2, most_windows=16, every=16)
MOST = 8_192  # episodes of a member that are heard, evenly spaced
WINDOWS = 65_536  # of a member that are heard: with many episodes, fewer of each
PIECE = 128  # episodes in one piece of work


@dataclass(frozen=True)
class Look:
    """Who scores an episode, and how much of it.

    Attributes
    ----------
    options : ScoreOptions
        How much.
    judge : bool
        By the network that the episode's fold stopped and calibrated, instead of the one that has
        not met the fold at all. Neither was trained on it.
    ending : str
        Of its files' names.
    """

    options: ScoreOptions
    judge: bool
    ending: str


WHOLE = Look(SCORED, False, "")
OWN = Look(COMPARED, False, "-own")
OTHER = Look(COMPARED, True, "-other")
Looks = tuple[Look, Look, Look]
LOOKS: Looks = (WHOLE, OWN, OTHER)


def crop_looks(horizon: int) -> Looks:
    """Give every frame of a window a turn as the centre of its crops."""
    whole = ScoreOptions(draws=horizon, most_windows=32)
    compared = ScoreOptions(draws=horizon, most_windows=4, every=4)
    return Look(whole, False, ""), Look(compared, False, "-own"), Look(compared, True, "-other")


@dataclass(frozen=True, eq=False)
class Evidence:
    """Statistics of the scored episodes of one arm's member.

    Parameters
    ----------
    episodes : ndarray, int64, shape (episode,)
        Rows of the member, rising; only those with a whole window.
    heads : ndarray, int64, shape (episode, head)
        Outputs each episode is scored against; -1 where there is none.
    statistics : ndarray, float64, shape (episode, head, statistic, level)
        As `scoring.EpisodeScore.statistics`.
    histogram : ndarray, float64, shape (episode, head, band, bin, 2)
        As `scoring.EpisodeScore.histogram`.
    """

    episodes: Int64[np.ndarray, " episode"]
    heads: Int64[np.ndarray, "episode head"]
    statistics: Float64[np.ndarray, "episode head statistic level"]
    histogram: Float64[np.ndarray, "episode head band bin 2"]

    def of_head(self, head: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Episodes scored against `head`, with their statistics and histograms."""
        row, column = np.nonzero(self.heads == head)
        return self.episodes[row], self.statistics[row, column], self.histogram[row, column]


@dataclass(frozen=True, eq=False)
class Hearing:
    """Episodes that are scored in one way.

    Parameters
    ----------
    label : str
        Name of its files.
    arm : Arm
        A whole member, or the control.
    heads : ndarray, int64, shape (episode, head)
        Outputs to score each of `rows` against; -1: none.
    rows : ndarray, int64, shape (episode,)
        Places in ``arm.episodes``.
    look : Look
        Which network, and how much.
    """

    label: str
    arm: Arm
    heads: Int64[np.ndarray, "episode head"]
    rows: Int64[np.ndarray, " episode"]
    look: Look

    @property
    def pieces(self) -> int:
        """Number of pieces of work."""
        return -(-self.rows.size // PIECE)

    def path(self, work: Path, piece: int) -> Path:
        """Where the scores of a piece lie."""
        return work / "scores" / f"{self.label}.{piece:03d}.npz"

    def read(self, work: Path) -> Evidence:
        """Read the scores of all pieces."""
        parts = [load_evidence(self.path(work, piece)) for piece in range(self.pieces)]
        return Evidence(
            *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Evidence))
        )


def list_hearings(study: Study, looks: Looks = LOOKS) -> dict[str, Hearing]:
    """List what is scored before anything is said, by label: no more than `MOST` of a member.

    The clean set and the control come first. Every member, but not the control, is also scored in
    short by two networks, to compare them.
    """
    found: list[Hearing] = []
    clean = study.clean
    found += _hear("clean", clean, _clean_heads(study), looks)
    if study.control is not None:
        heads = np.full((study.control.arm.episodes.size, 1), len(study.corrupt))
        found += _hear("control", study.control.arm, heads, looks[:1])
    for number, name in enumerate(sorted(study.frames)):
        head = study.head(name)
        if name != clean.dataset and head is not None:
            arm = study.arms[head]
            found += _hear(f"{number:05d}", arm, _heads_of(study, arm), looks)
    return {hearing.label: hearing for hearing in found}


def _hear(
    label: str, arm: Arm, heads: Int64[np.ndarray, "episode head"], looks: Sequence[Look]
) -> list[Hearing]:
    rows = pick_evenly(arm.episodes.size, MOST)
    return [
        Hearing(label + look.ending, arm, heads[rows], rows, _shorten(look, rows.size))
        for look in looks
    ]


def _shorten(look: Look, episodes: int) -> Look:
    """Listen to less of each where there are many: they differ more than the windows of one do."""
    most = min(look.options.most_windows or WINDOWS, WINDOWS // episodes)
    return replace(look, options=replace(look.options, most_windows=most))


def _clean_heads(study: Study) -> Int64[np.ndarray, "episode head"]:
    """Every output, for every clean episode; the control's only for its opponents."""
    episodes = study.clean.episodes
    heads = np.tile(np.arange(len(study.arms)), (episodes.size, 1))
    if study.control is not None and study.control.arm.opponents is not None:
        admitted = np.isin(episodes, study.control.arm.opponents)
        heads[~admitted, -1] = -1
    return heads


def _heads_of(study: Study, arm: Arm) -> Int64[np.ndarray, "episode head"]:
    """List the outputs of every episode of a member: its own, then its group's (-1: none)."""
    own = np.full((arm.episodes.size, 1), study.head(arm.dataset))
    if study.groups is None:
        return own
    labels = study.groups[arm.dataset]
    found = [study.head(arm.dataset, labels[episode]) for episode in arm.episodes]
    return np.concatenate([own, np.array([[-1 if h is None else h] for h in found])], axis=1)


def score_piece(
    study: Study,
    classifiers: Sequence[FoldClassifier],
    hearing: Hearing,
    piece: int,
    task: Task,
) -> Evidence:
    """Score some episodes, each by a network that was not trained on it.

    Parameters
    ----------
    study, classifiers
        The study and its networks, one a fold.
    hearing : Hearing
        What is scored, and how.
    piece : int
        Which `PIECE` of its episodes.
    task : Task
        Told of every episode.
    """
    arm, heads = hearing.arm, hearing.heads
    ids = study.frames[arm.dataset if arm.shift is None else study.clean.dataset].ids
    back = 1 if hearing.look.judge else 0  # a fold validates the network of the fold before
    chosen = range(piece * PIECE, min((piece + 1) * PIECE, hearing.rows.size))
    scores = []
    for number in chosen:
        episode = int(arm.episodes[hearing.rows[number]])
        score = score_episode(
            classifiers[(int(arm.fold[episode]) - back) % len(classifiers)],
            arm,
            episode,
            [int(head) for head in heads[number] if head >= 0],
            is_clean=arm is study.clean,
            seed=noise_seed(study.options.seed, arm.dataset, ids[episode]),
            options=hearing.look.options,
        )
        scores.append((episode, score))
        task.advance(1)
    return gather_evidence(scores, heads[chosen.start : chosen.stop])


def gather_evidence(
    scores: Sequence[tuple[int, EpisodeScore]], heads: Int64[np.ndarray, "episode head"]
) -> Evidence:
    """Stack the scores of a member's episodes; absent heads hold zeros."""
    first = scores[0][1]
    n, width = heads.shape
    statistics = np.zeros((n, width, *first.statistics.shape[1:]))
    histogram = np.zeros((n, width, *first.histogram.shape[1:]))
    for row, (_, score) in enumerate(scores):
        present = heads[row] >= 0
        statistics[row, present] = score.statistics
        histogram[row, present] = score.histogram
    return Evidence(np.array([e for e, _ in scores]), heads, statistics, histogram)


def save_evidence(evidence: Evidence, path: Path) -> None:
    """Write evidence as a file of plain arrays that appears only whole."""
    with replace_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{f.name: getattr(evidence, f.name) for f in fields(Evidence)})


def load_evidence(path: Path) -> Evidence:
    """Read what `save_evidence` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return Evidence(*(stored[f.name] for f in fields(Evidence)))
