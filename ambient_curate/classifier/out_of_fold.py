"""Out-of-fold scores of episodes: classifier statistics at every level, kept between stages."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ambient_curate.classifier.fit import FoldClassifier, rows_at_once
from ambient_curate.data.populations import Population
from ambient_curate.data.study import Study
from ambient_curate.files import replace_whole, write_json_atomic
from ambient_curate.noise import grid
from ambient_curate.progress import Advance
from ambient_curate.statistics.boosting import SampledWindows, draw_windows
from ambient_curate.statistics.bootstrap import draw_evenly, pick_evenly
from ambient_curate.statistics.challenger import (
    ChallengerFinding,
    ChallengerLevel,
    NetworkScores,
    cross_challenger,
)
from ambient_curate.statistics.sigma_min import last_crossing, rising_fit, sparse_levels

STATISTICS = ("c", "brier", "bce", "accuracy")
C, BRIER, BCE, ACCURACY = range(len(STATISTICS))
BINS = 10
BANDS = 6
SMALLEST = 0.01  # probabilities are clipped to [SMALLEST, 1 - SMALLEST] in the cross-entropy
BLOCK = 256  # windows scored together


@dataclass(frozen=True)
class ScoreOptions:
    """How much of an episode is scored.

    Attributes
    ----------
    draws : int
        Noise draws a window, >= 1.
    most_windows : int or None
        Score at most this many windows, drawn from equal stretches of the episode; None: all.
    every : int
        Score at the lowest level and every so-manyth one above it, >= 1.
    """

    draws: int = 2
    most_windows: int | None = None
    every: int = 1


@dataclass(frozen=True, eq=False)
class EpisodeScore:
    """Scores of one episode by a network.

    Parameters
    ----------
    statistics : ndarray, float64, shape (head, statistic, level)
        Means over windows and noise of the probability of "clean", its squared error, its
        cross-entropy in nats, and whether it is on the right side of 1/2 (`STATISTICS`).
    histogram : ndarray, float64, shape (head, band, bin, 2)
        Share of the scores in each band of levels and bin of probability, and their sum.
    """

    statistics: Float64[np.ndarray, "head statistic level"]
    histogram: Float64[np.ndarray, "head band bin 2"]


def noise_seed(seed: int, dataset: str, episode_id: str) -> list[int]:
    """Seed of an episode's noise, from its identity: the same whatever else is scored, or where."""
    text = f"{seed}\x00{dataset}\x00{episode_id}".encode()
    return np.frombuffer(hashlib.sha256(text).digest(), dtype=np.uint32).tolist()


def score_episode(
    classifier: FoldClassifier,
    population: Population,
    episode: int,
    heads: Sequence[int],
    *,
    is_clean: bool,
    seed: Sequence[int],
    options: ScoreOptions,
) -> EpisodeScore:
    """Score the windows of one episode at every level of the classifier.

    Parameters
    ----------
    classifier : FoldClassifier
        Of the fold that holds the episode out.
    population : Population
        Where the episode is, with what is planted in it.
    episode : int
        Episode of the member, with at least one whole window.
    heads : sequence of int
        Corrupt populations to score against.
    is_clean : bool
        Which answer is right.
    seed : sequence of int
        From `noise_seed`.
    options : ScoreOptions
        How much of it to score.
    """
    sums = _Sums(len(heads), classifier.sigma[:: options.every].size, is_clean)
    count = 0
    for windows, noise in _noise_windows(population, episode, seed, options):
        count += noise.shape[0] * noise.shape[1]
        for number, levels in _split_levels(classifier, noise, options.every):
            sums.add(classifier.predict(windows, noise, heads, levels), number)
    return EpisodeScore(sums.statistics / count, sums.histogram / count)


def _noise_windows(
    population: Population, episode: int, seed: Sequence[int], options: ScoreOptions
) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows of an episode, `BLOCK` at a time, with their noise (window, draw, dim)."""
    rng = np.random.default_rng(seed)
    picked = draw_evenly(int(population.windows.counts[episode]), options.most_windows, rng)
    for first in range(0, picked.size, BLOCK):
        number = picked[first : first + BLOCK]
        windows = population.gather(np.full_like(number, episode), number)
        shape = (number.size, options.draws, population.windows.dim)
        yield windows, torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def _split_levels(
    classifier: FoldClassifier, noise: Tensor, every: int
) -> Iterator[tuple[slice, slice]]:
    """Pair numbers of scored levels with their places in the grid, few enough for one call."""
    chosen = range(0, classifier.sigma.size, every)
    rows = rows_at_once(classifier.device)
    at_once = max(1, rows // (noise.shape[0] * noise.shape[1]))
    for first in range(0, len(chosen), at_once):
        part = chosen[first : first + at_once]
        yield slice(first, first + len(part)), slice(part.start, part.stop, part.step)


class _Sums:
    """Sums over windows and draws, by head and level."""

    def __init__(self, heads: int, levels: int, is_clean: bool) -> None:
        self.statistics = np.zeros((heads, len(STATISTICS), levels))
        self.histogram = np.zeros((heads, BANDS, BINS, 2))
        self.band = band_of(levels)
        self.is_clean = is_clean

    def add(self, c: Tensor, levels: slice) -> None:
        right = c if self.is_clean else 1.0 - c  # probability given to the right answer
        values = (
            c,
            (1.0 - right).square(),
            -torch.log(right.clamp(SMALLEST, 1.0 - SMALLEST)),
            (right > 0.5).float() + 0.5 * (right == 0.5).float(),
        )
        for i, value in enumerate(values):
            # (level, window, draw, head) -> (head, level)
            self.statistics[:, i, levels] += value.sum(dim=(1, 2), dtype=torch.float64).T.numpy()
        self._bin(c, self.band[levels])

    def _bin(self, c: Tensor, band: np.ndarray) -> None:
        cell = (c * BINS).long().clamp_(max=BINS - 1)
        cell += BINS * torch.from_numpy(band)[:, None, None, None]
        for head in range(c.shape[-1]):
            flat, value = cell[..., head].flatten(), c[..., head].flatten().double()
            for i, weight in enumerate((torch.ones_like(value), value)):
                counts = torch.bincount(flat, weight, minlength=BANDS * BINS)
                self.histogram[head, :, :, i] += counts.reshape(BANDS, BINS).numpy()


def band_of(levels: int) -> np.ndarray:
    """Band of every level, for reliability: `BANDS` runs of neighbouring levels."""
    return np.arange(levels, dtype=np.int64) * BANDS // levels


SCORED = ScoreOptions(draws=2, most_windows=64)
COMPARED = ScoreOptions(draws=2, most_windows=16, every=4)
MOST = 8_192  # episodes of a member that are scored, evenly spaced
WINDOWS = 65_536  # of a member that are scored: with many episodes, fewer of each
PIECE = 128  # episodes in one piece of work
CLEAN, CORRUPT, CHALLENGER = "clean", "corrupt", "challenger"


@dataclass(frozen=True)
class ScoringMode:
    """Who scores an episode, and how much of it.

    Attributes
    ----------
    options : ScoreOptions
        How much.
    by_validation : bool
        By the network that the episode's fold stopped and calibrated, instead of the one that has
        not met the fold at all. Neither was trained on it.
    ending : str
        Of its files' names.
    """

    options: ScoreOptions
    by_validation: bool
    ending: str


WHOLE = ScoringMode(SCORED, False, "")
OWN = ScoringMode(COMPARED, False, "-own")
OTHER = ScoringMode(COMPARED, True, "-other")
ScoringModes = tuple[ScoringMode, ScoringMode, ScoringMode]
MODES: ScoringModes = (WHOLE, OWN, OTHER)


def crop_modes(horizon: int) -> ScoringModes:
    """Give every frame of a window a turn as the centre of its crops."""
    whole = ScoreOptions(draws=horizon, most_windows=32)
    compared = ScoreOptions(draws=horizon, most_windows=4, every=4)
    return (
        ScoringMode(whole, False, ""),
        ScoringMode(compared, False, "-own"),
        ScoringMode(compared, True, "-other"),
    )


@dataclass(frozen=True, eq=False)
class OutOfFoldScores:
    """Statistics of the scored episodes of one side of a pair.

    Parameters
    ----------
    episodes : ndarray, int64, shape (episode,)
        Rows of the member, rising; only those with a whole window.
    statistics : ndarray, float64, shape (episode, statistic, level)
        As `out_of_fold.EpisodeScore.statistics`.
    histogram : ndarray, float64, shape (episode, band, bin, 2)
        As `out_of_fold.EpisodeScore.histogram`.
    """

    episodes: Int64[np.ndarray, " episode"]
    statistics: Float64[np.ndarray, "episode statistic level"]
    histogram: Float64[np.ndarray, "episode band bin 2"]


@dataclass(frozen=True, eq=False)
class ScoringSet:
    """Episodes that are scored in one way.

    Parameters
    ----------
    label : str
        Name of its files.
    population : Population
        A side of the pair.
    head : int
        Which pair.
    rows : ndarray, int64, shape (episode,)
        Places in ``population.episodes``.
    mode : Look
        Which network, and how much.
    is_clean : bool
        Which side.
    """

    label: str
    population: Population
    head: int
    rows: Int64[np.ndarray, " episode"]
    mode: ScoringMode
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
            return self.population.windows.counts[self.population.episodes[self.rows]].astype(
                np.float64
            )
        return np.ones(self.rows.size)

    def read(self, work: Path) -> OutOfFoldScores:
        """Read the scores of all pieces."""
        parts = [load_scores(self.path(work, piece)) for piece in range(self.pieces)]
        return OutOfFoldScores(
            *(
                np.concatenate([getattr(part, f.name) for part in parts])
                for f in fields(OutOfFoldScores)
            )
        )


def list_scoring_sets(study: Study, modes: ScoringModes = MODES) -> dict[str, ScoringSet]:
    """List what is scored before anything is said, by label: no more than `MOST` of a side.

    Every pair has a clean and a corrupt side. Both, but not those of controls, are also scored in
    short by two networks, to compare them.
    """
    found: list[ScoringSet] = []
    for head, population in enumerate(study.populations):
        shown = modes if head < len(study.corrupt) else modes[:1]
        for side, which in ((CLEAN, study.clean.compared_with(population)), (CORRUPT, population)):
            found += _list_modes(name_side(head, side), which, head, shown, is_clean=side == CLEAN)
    return {scoring_set.label: scoring_set for scoring_set in found}


def name_side(head: int, side: str) -> str:
    """Label of a side of a pair."""
    return f"{head:05d}-{side}"


def _list_modes(
    label: str, population: Population, head: int, modes: Sequence[ScoringMode], *, is_clean: bool
) -> list[ScoringSet]:
    rows = pick_evenly(population.episodes.size, MOST)
    return [
        ScoringSet(label + mode.ending, population, head, rows, _shorten(mode, rows.size), is_clean)
        for mode in modes
    ]


def _shorten(mode: ScoringMode, episodes: int) -> ScoringMode:
    """Score fewer windows of each where there are many: episodes differ more."""
    most = min(mode.options.most_windows or WINDOWS, WINDOWS // episodes)
    return replace(mode, options=replace(mode.options, most_windows=most))


def score_piece(
    study: Study,
    classifiers: Sequence[FoldClassifier],
    scoring_set: ScoringSet,
    piece: int,
    advance: Advance,
) -> OutOfFoldScores:
    """Score some episodes, each by a network that was not trained on it.

    Parameters
    ----------
    study, classifiers
        The study and its networks, one a fold.
    scoring_set : ScoringSet
        What is scored, and how.
    piece : int
        Which `PIECE` of its episodes.
    advance : callable
        Told of every episode.
    """
    population, head = scoring_set.population, scoring_set.head
    other = study.populations[head]
    ids = study.frames[study.clean.dataset if other.planted is not None else population.dataset].ids
    back = (
        1 if scoring_set.mode.by_validation else 0
    )  # a fold validates the network of the fold before
    chosen = range(piece * PIECE, min((piece + 1) * PIECE, scoring_set.rows.size))
    scores = []
    for number in chosen:
        episode = int(population.episodes[scoring_set.rows[number]])
        score = score_episode(
            classifiers[(int(population.fold[episode]) - back) % len(classifiers)],
            population,
            episode,
            [head],
            is_clean=scoring_set.is_clean,
            seed=noise_seed(study.options.seed, population.dataset, ids[episode]),
            options=scoring_set.mode.options,
        )
        scores.append((episode, score))
        advance(1)
    return gather_scores(scores)


def gather_scores(scores: Sequence[tuple[int, EpisodeScore]]) -> OutOfFoldScores:
    """Stack the scores of a side's episodes, each against one head."""
    return OutOfFoldScores(
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
    scoring_sets, population = list_scoring_sets(study), study.populations[head]
    sigma = grid(study.options.schedule)
    levels = sigma[sparse_levels(sigma.size)]
    seed = noise_seed(
        study.options.seed, f"{population.dataset}\x00{population.group}", "challenger"
    )
    sides, means = [], []
    for number, side in enumerate((CLEAN, CORRUPT)):
        scoring_set = scoring_sets[name_side(head, side)]
        scores, weight = scoring_set.read(work), scoring_set.weigh(study.options.weighting)
        network = NetworkScores(scores.statistics[:, BRIER], scores.statistics[:, ACCURACY], weight)
        rng = np.random.default_rng([*seed, number])
        sides.append((_sample_windows(scoring_set.population, scores.episodes, rng), network))
        means.append(np.average(scores.statistics[:, C], axis=0, weights=weight))
    epsilon = study.options.epsilon
    found = float(last_crossing(rising_fit(means[1]), levels, 0.5 - epsilon))  # of the corrupt side
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
    population: Population, episodes: Int64[np.ndarray, " episode"], rng: np.random.Generator
) -> SampledWindows:
    place, number = draw_windows(population.windows.counts[episodes], rng)
    windows = population.gather(episodes[place], number).flatten(1)
    moved = windows[:, : population.windows.dim - population.windows.condition_dim]
    values = moved.reshape(len(windows), population.windows.horizon, -1).numpy()
    return SampledWindows(values, place, population.fold[episodes[place]])


def save_scores(scores: OutOfFoldScores, path: Path) -> None:
    """Write scores as a file of plain arrays that appears only whole."""
    with replace_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{f.name: getattr(scores, f.name) for f in fields(OutOfFoldScores)})


def load_scores(path: Path) -> OutOfFoldScores:
    """Read what `save_scores` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return OutOfFoldScores(*(stored[f.name] for f in fields(OutOfFoldScores)))
