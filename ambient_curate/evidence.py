"""Evidence: the out-of-fold statistics of every episode of a member, kept between stages."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from ambient_curate.arms import Arm
from ambient_curate.boosting import SampledWindows, draw_windows
from ambient_curate.challenger import (
    ChallengerFinding,
    ChallengerLevel,
    NetworkScores,
    cross_challenger,
)
from ambient_curate.classifier import FoldClassifier
from ambient_curate.crossing import last_crossing, rising_fit, sparse_levels
from ambient_curate.episodes import pick_evenly
from ambient_curate.files import replace_whole
from ambient_curate.noise import grid
from ambient_curate.progress import Task
from ambient_curate.records import write_json_atomic
from ambient_curate.scoring import (
    ACCURACY,
    BRIER,
    C,
    EpisodeScore,
    ScoreOptions,
    noise_seed,
    score_episode,
)
from ambient_curate.study import Study

SCORED = ScoreOptions(draws=2, most_windows=64)
COMPARED = ScoreOptions(draws=2, most_windows=16, every=4)
MOST = 8_192  # episodes of a member that are heard, evenly spaced
WINDOWS = 65_536  # of a member that are heard: with many episodes, fewer of each
PIECE = 128  # episodes in one piece of work
CLEAN, CORRUPT, CHALLENGER = "clean", "corrupt", "challenger"


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
    """Statistics of the scored episodes of one side of a pair.

    Parameters
    ----------
    episodes : ndarray, int64, shape (episode,)
        Rows of the member, rising; only those with a whole window.
    statistics : ndarray, float64, shape (episode, statistic, level)
        As `scoring.EpisodeScore.statistics`.
    histogram : ndarray, float64, shape (episode, band, bin, 2)
        As `scoring.EpisodeScore.histogram`.
    """

    episodes: Int64[np.ndarray, " episode"]
    statistics: Float64[np.ndarray, "episode statistic level"]
    histogram: Float64[np.ndarray, "episode band bin 2"]


@dataclass(frozen=True, eq=False)
class Hearing:
    """Episodes that are scored in one way.

    Parameters
    ----------
    label : str
        Name of its files.
    arm : Arm
        A side of the pair.
    head : int
        Which pair.
    rows : ndarray, int64, shape (episode,)
        Places in ``arm.episodes``.
    look : Look
        Which network, and how much.
    is_clean : bool
        Which side.
    """

    label: str
    arm: Arm
    head: int
    rows: Int64[np.ndarray, " episode"]
    look: Look
    is_clean: bool

    @property
    def pieces(self) -> int:
        """Number of pieces of work."""
        return -(-self.rows.size // PIECE)

    def path(self, work: Path, piece: int) -> Path:
        """Where the scores of a piece lie."""
        return work / "scores" / f"{self.label}.{piece:03d}.npz"

    def weigh(self, weighting: str) -> Float64[np.ndarray, " episode"]:
        """Give what each episode counts for in a mean: the same, or its number of windows."""
        if weighting == "window":
            return self.arm.windows.counts[self.arm.episodes[self.rows]].astype(np.float64)
        return np.ones(self.rows.size)

    def read(self, work: Path) -> Evidence:
        """Read the scores of all pieces."""
        parts = [load_evidence(self.path(work, piece)) for piece in range(self.pieces)]
        return Evidence(
            *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Evidence))
        )


def list_hearings(study: Study, looks: Looks = LOOKS) -> dict[str, Hearing]:
    """List what is scored before anything is said, by label: no more than `MOST` of a side.

    Every pair has a clean and a corrupt side. Both, but not those of controls, are also scored in
    short by two networks, to compare them.
    """
    found: list[Hearing] = []
    for head, arm in enumerate(study.arms):
        shown = looks if head < len(study.corrupt) else looks[:1]
        for side, which in ((CLEAN, study.clean.facing(arm)), (CORRUPT, arm)):
            found += _hear(name_side(head, side), which, head, shown, is_clean=side == CLEAN)
    return {hearing.label: hearing for hearing in found}


def name_side(head: int, side: str) -> str:
    """Label of a side of a pair."""
    return f"{head:05d}-{side}"


def _hear(
    label: str, arm: Arm, head: int, looks: Sequence[Look], *, is_clean: bool
) -> list[Hearing]:
    rows = pick_evenly(arm.episodes.size, MOST)
    return [
        Hearing(label + look.ending, arm, head, rows, _shorten(look, rows.size), is_clean)
        for look in looks
    ]


def _shorten(look: Look, episodes: int) -> Look:
    """Listen to less of each where there are many: they differ more than the windows of one do."""
    most = min(look.options.most_windows or WINDOWS, WINDOWS // episodes)
    return replace(look, options=replace(look.options, most_windows=most))


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
    arm, head = hearing.arm, hearing.head
    other = study.arms[head]
    ids = study.frames[study.clean.dataset if other.planted is not None else arm.dataset].ids
    back = 1 if hearing.look.judge else 0  # a fold validates the network of the fold before
    chosen = range(piece * PIECE, min((piece + 1) * PIECE, hearing.rows.size))
    scores = []
    for number in chosen:
        episode = int(arm.episodes[hearing.rows[number]])
        score = score_episode(
            classifiers[(int(arm.fold[episode]) - back) % len(classifiers)],
            arm,
            episode,
            [head],
            is_clean=hearing.is_clean,
            seed=noise_seed(study.options.seed, arm.dataset, ids[episode]),
            options=hearing.look.options,
        )
        scores.append((episode, score))
        task.advance(1)
    return gather_evidence(scores)


def gather_evidence(scores: Sequence[tuple[int, EpisodeScore]]) -> Evidence:
    """Stack the scores of a side's episodes, each against one head."""
    return Evidence(
        np.array([episode for episode, _ in scores]),
        np.stack([score.statistics[0] for _, score in scores]),
        np.stack([score.histogram[0] for _, score in scores]),
    )


def challenge_pair(study: Study, work: Path, head: int) -> ChallengerFinding:
    """Let boosting of simple features compete with the classifier of a pair, on its scores.

    Parameters
    ----------
    study : Study
        What is annotated.
    work : Path
        Where the scores of both sides lie.
    head : int
        Which pair.
    """
    hearings, arm = list_hearings(study), study.arms[head]
    sigma = grid(study.options.schedule)
    levels = sigma[sparse_levels(sigma.size)]
    seed = noise_seed(study.options.seed, f"{arm.dataset}\x00{arm.group}", "challenger")
    sides, curve = [], np.empty(0)
    for number, side in enumerate((CLEAN, CORRUPT)):
        hearing = hearings[name_side(head, side)]
        scores, weight = hearing.read(work), hearing.weigh(study.options.weighting)
        network = NetworkScores(scores.statistics[:, BRIER], scores.statistics[:, ACCURACY], weight)
        rng = np.random.default_rng([*seed, number])
        sides.append((_sample_windows(hearing.arm, scores.episodes, rng), network))
        curve = rising_fit(np.average(scores.statistics[:, C], axis=0, weights=weight))
    epsilon = study.options.epsilon
    found = float(last_crossing(curve, levels, 0.5 - epsilon))  # of the corrupt side
    clean, corrupt = sides
    return cross_challenger(clean, corrupt, levels, sigma_min=found, epsilon=epsilon, seed=seed[0])


def challenge_path(work: Path, head: int) -> Path:
    """Where the challenger's finding of a pair lies."""
    return work / CHALLENGER / f"{head:05d}.json"


def save_challenge(found: ChallengerFinding, work: Path, head: int) -> None:
    """Write what the challenger of a pair found."""
    write_json_atomic(challenge_path(work, head), asdict(found))


def load_challenge(work: Path, head: int) -> ChallengerFinding:
    """Read what `save_challenge` wrote."""
    stored = json.loads(challenge_path(work, head).read_text(encoding="utf-8"))
    levels = tuple(ChallengerLevel(**level) for level in stored.pop("levels"))
    return ChallengerFinding(levels=levels, **stored)


def _sample_windows(
    arm: Arm, episodes: Int64[np.ndarray, " episode"], rng: np.random.Generator
) -> SampledWindows:
    place, number = draw_windows(arm.windows.counts[episodes], rng)
    windows = arm.gather(episodes[place], number).flatten(1)
    moved = windows[:, : arm.windows.dim - arm.windows.told]
    values = moved.reshape(len(windows), arm.windows.horizon, -1).numpy()
    return SampledWindows(values, place, arm.fold[episodes[place]])


def save_evidence(evidence: Evidence, path: Path) -> None:
    """Write evidence as a file of plain arrays that appears only whole."""
    with replace_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{f.name: getattr(evidence, f.name) for f in fields(Evidence)})


def load_evidence(path: Path) -> Evidence:
    """Read what `save_evidence` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return Evidence(*(stored[f.name] for f in fields(Evidence)))
