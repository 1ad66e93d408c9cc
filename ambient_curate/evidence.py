"""Evidence: the out-of-fold statistics of every episode of a member, kept between stages."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from ambient_curate.arms import Arm
from ambient_curate.classifier import FoldClassifier
from ambient_curate.engines import Interrupted, Stopped, map_items
from ambient_curate.files import replace_whole
from ambient_curate.progress import Progress
from ambient_curate.scoring import EpisodeScore, ScoreOptions, noise_seed, score_episode
from ambient_curate.study import Study

SCORED = ScoreOptions(draws=2, most_windows=64)
COMPARED = ScoreOptions(draws=2, most_windows=16, every=16)


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
    what : str
        For the progress.
    """

    options: ScoreOptions
    judge: bool
    what: str


WHOLE = Look(SCORED, False, "scoring")
OWN = Look(COMPARED, False, "comparing")
OTHER = Look(COMPARED, True, "comparing again")


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


def score_member(
    study: Study,
    classifiers: Sequence[FoldClassifier],
    arm: Arm,
    heads: Int64[np.ndarray, "episode head"],
    *,
    look: Look,
    workers: int,
    progress: Progress,
) -> Iterator[tuple[int, EpisodeScore]]:
    """Score the episodes of `arm` in order, each by a network that was not trained on it.

    Parameters
    ----------
    study, classifiers
        The study and its networks, one a fold.
    arm : Arm
        A whole member, or the control.
    heads : ndarray, int64, shape (episode, head)
        Outputs to score each episode of the arm against.
    look : Look
        Which network, and how much.
    workers : int
        Threads.
    progress : Progress
        Told of every episode.

    Yields
    ------
    tuple of int and EpisodeScore
        The episode's row in the member, and its scores.
    """
    is_clean = arm.dataset == study.clean.dataset
    ids = study.frames[arm.dataset if arm.shift is None else study.clean.dataset].ids
    back = 1 if look.judge else 0  # a fold validates the network of the fold before

    def score(number: int, stopped: Stopped) -> tuple[int, EpisodeScore]:
        if stopped():
            raise Interrupted
        episode = int(arm.episodes[number])
        score = score_episode(
            classifiers[(int(arm.fold[episode]) - back) % len(classifiers)],
            arm,
            episode,
            [int(head) for head in heads[number] if head >= 0],
            is_clean=is_clean,
            seed=noise_seed(study.options.seed, arm.dataset, ids[episode]),
            options=look.options,
        )
        return episode, score

    with progress.task(f"{look.what} {arm.dataset}", total=arm.episodes.size) as task:
        for result in map_items(score, range(arm.episodes.size), workers=workers):
            yield result
            task.advance(1)


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
