"""Parts of the manifest: every row scored out of fold and written, a part a member."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from ambient_curate.arms import Arm
from ambient_curate.classifier import FoldClassifier
from ambient_curate.engines import Interrupted, Stopped, map_items
from ambient_curate.examinations import RELIABLE
from ambient_curate.manifest import read_manifest, write_part
from ambient_curate.progress import Progress
from ambient_curate.rows import Curves, MemberRows, tabulate_rows, whole_rows
from ambient_curate.scoring import ScoreOptions, WindowScores, noise_seed, score_windows
from ambient_curate.stages import Answers
from ambient_curate.study import Study
from ambient_curate.tilts import (
    Tally,
    Tilt,
    describe_tilt,
    load_tallies,
    save_tallies,
    tally_episode,
    unbiased_weights,
)

SCORED = {"episode": ScoreOptions(4, 64), "datapoint": ScoreOptions(8, None)}


@dataclass(frozen=True, eq=False)
class RowAnswers:
    """What the rows say together; all empty where a row speaks for a whole dataset or group.

    Parameters
    ----------
    sigma_min : mapping of str to ndarray, float64
        Every episode or datapoint row by member, NaN for null.
    shares : mapping of str to float
        Share of every dataset in the draw of windows that the weights are for; of datapoints only.
    tilts : mapping of str to Tilt
        By corrupt dataset of the same.
    """

    sigma_min: Mapping[str, Float64[np.ndarray, " row"]]
    shares: Mapping[str, float]
    tilts: Mapping[str, Tilt]


def write_parts(
    study: Study,
    classifiers: Sequence[FoldClassifier],
    answers: Answers,
    work: Path,
    metadata: Mapping[str, str],
    *,
    workers: int,
    progress: Progress,
) -> RowAnswers:
    """Write the parts of the manifest that are not under ``work/manifest`` yet.

    Parameters
    ----------
    study, classifiers
        The study and its networks, one a fold.
    answers : Answers
        What the evidence says of every dataset and group.
    work : Path
        The run's working directory.
    metadata : mapping of str to str
        Of `rows.manifest_metadata`.
    workers : int
        Threads.
    progress : Progress
        Told of every episode.
    """
    (work / "manifest").mkdir(exist_ok=True)
    if not study.by_row:
        columns = whole_rows(study, answers.arms, answers.statuses)
        write_part(tabulate_rows(columns, metadata), _part(work, 0))
        return RowAnswers({}, {}, {})
    (work / "tallies").mkdir(exist_ok=True)
    statuses = {name: status for (name, group), status in answers.statuses.items() if group is None}
    writer = _Writer(study, classifiers, statuses, work, metadata)
    for number, name in enumerate(sorted(study.frames)):
        if not (_part(work, number).exists() and _tallies(work, number).exists()):
            writer.write(number, name, workers, progress)
    return writer.read_answers()


def _part(work: Path, number: int) -> Path:
    return work / "manifest" / f"part-{number:05d}.parquet"


def _tallies(work: Path, number: int) -> Path:
    return work / "tallies" / f"{number:05d}.npz"


Scored = tuple[int, tuple[Curves, Curves] | None, np.ndarray | None, list[Tally]]


class _Writer:
    """Scores and writes one member after another."""

    def __init__(
        self,
        study: Study,
        classifiers: Sequence[FoldClassifier],
        statuses: Mapping[str, str],
        work: Path,
        metadata: Mapping[str, str],
    ) -> None:
        self.study, self.classifiers, self.work = study, classifiers, work
        self.metadata = metadata
        self.statuses = {**statuses, study.clean.dataset: RELIABLE}
        self.options = SCORED[study.options.granularity]
        self.by_window = study.options.granularity == "datapoint"
        # what trains beside the clean set: output of the network, and arm
        self.mixed = {
            head: arm
            for head, arm in enumerate(study.corrupt)
            if arm.group is None and self.statuses[arm.dataset] == RELIABLE
        }
        self.counts = {
            arm.dataset: int(arm.windows.counts[arm.episodes].sum())
            for arm in (study.clean, *self.mixed.values())
        }
        total = sum(self.counts.values())
        self.shares = {name: count / total for name, count in self.counts.items()}

    def write(self, number: int, name: str, workers: int, progress: Progress) -> None:
        """Write a member's part, after the sums over its windows."""
        status = self.statuses.get(name, "too-few-episodes")
        rows = MemberRows(self.study, name, self.classifiers[0].sigma, status, self.options.draws)
        totals: list[Tally] = []
        for episode, curves, weight, tallies in self._score(name, workers, progress):
            rows.add(episode, curves, weight)
            totals = [a + b for a, b in zip(totals, tallies, strict=True)] if totals else tallies
        save_tallies(totals, _tallies(self.work, number))
        write_part(tabulate_rows(rows.finish(), self.metadata), _part(self.work, number))

    def _score(self, name: str, workers: int, progress: Progress) -> Iterator[Scored]:
        """Score the episodes of a member that has an answer; the clean one's for the weights."""
        score: Callable[[int], Scored]
        head = next((head for head, arm in self.mixed.items() if arm.dataset == name), None)
        if head is not None:
            arm, score = self.mixed[head], partial(self._score_corrupt, head)
        elif name == self.study.clean.dataset and self.by_window:
            arm, score = self.study.clean, self._score_clean
        else:
            return

        def work(episode: int, stopped: Stopped) -> Scored:
            if stopped():
                raise Interrupted
            return score(episode)

        with progress.task(f"annotating {name}", total=arm.episodes.size) as task:
            for result in map_items(work, arm.episodes.tolist(), workers=workers):
                yield result
                task.advance(1)

    def _score_clean(self, episode: int) -> Scored:
        """Score the windows of a clean episode at the lowest level: they train at every one."""
        clean, heads = self.study.clean, list(self.mixed)
        if not heads:  # it trains alone
            return episode, None, np.ones(int(clean.windows.counts[episode])), []
        blocks = self._windows(clean, episode, heads, every=self.classifiers[0].sigma.size)
        c = np.concatenate([block.curves[:, 0] for block in blocks])
        used = np.ones(len(c), dtype=bool)
        tallies = [
            self._tally(clean, episode, arm, c[:, i], used)
            for i, arm in enumerate(self.mixed.values())
        ]
        return episode, None, self._weigh(c), tallies

    def _score_corrupt(self, head: int, episode: int) -> Scored:
        arm = self.mixed[head]
        weighed = list(self.mixed) if self.by_window else []
        blocks = list(self._windows(arm, episode, [head], lowest=weighed))
        curves, errors = (
            np.concatenate([getattr(block, name)[..., 0] for block in blocks])
            for name in ("curves", "errors")
        )
        if not self.by_window:
            return episode, (curves, errors), None, []
        lowest = np.concatenate([block.lowest for block in blocks])
        tally = self._tally(arm, episode, arm, curves[:, 0], self._usable(curves))
        return episode, (curves, errors), self._weigh(lowest), [tally]

    def _windows(
        self,
        arm: Arm,
        episode: int,
        heads: Sequence[int],
        *,
        lowest: Sequence[int] = (),
        every: int = 1,
    ) -> Iterator[WindowScores]:
        name = self.study.frames[arm.dataset].ids[episode]
        return score_windows(
            self.classifiers[int(arm.fold[episode])],
            arm,
            episode,
            heads,
            lowest,
            seed=noise_seed(self.study.options.seed, arm.dataset, name),
            options=replace(self.options, every=every),
        )

    def _usable(self, curves: np.ndarray) -> np.ndarray:
        return np.all(curves > 0.5 - self.study.options.epsilon, axis=1)

    def _weigh(self, c: np.ndarray) -> np.ndarray:
        shares = [self.shares[arm.dataset] for arm in self.mixed.values()]
        return unbiased_weights(c, np.array(shares))

    def _tally(
        self, arm: Arm, episode: int, corrupt: Arm, c: np.ndarray, usable: np.ndarray
    ) -> Tally:
        """Tally an episode of the clean set or of a corrupt one, in the mixture of the two."""
        share = self._share(corrupt)
        own = share if arm is corrupt else 1.0 - share
        if self.study.options.weighting == "window":
            mass = own / self.counts[arm.dataset]
        else:
            mass = own / (arm.episodes.size * c.size)
        return tally_episode(c, usable, mass, share)

    def _share(self, corrupt: Arm) -> float:
        """Share of a corrupt dataset's windows beside those of the clean set alone."""
        count = self.counts[corrupt.dataset]
        return count / (count + self.counts[self.study.clean.dataset])

    def read_answers(self) -> RowAnswers:
        """Read back what the parts and the sums say."""
        numbers = {name: number for number, name in enumerate(sorted(self.study.frames))}
        sigma_min = {
            name: read_manifest(_part(self.work, number))["sigma_min"].to_numpy()
            for name, number in numbers.items()
        }
        if not self.by_window:
            return RowAnswers(sigma_min, {}, {})
        clean = load_tallies(_tallies(self.work, numbers[self.study.clean.dataset]))
        tilts = {
            arm.dataset: describe_tilt(
                own, load_tallies(_tallies(self.work, numbers[arm.dataset]))[0], self._share(arm)
            )
            for own, arm in zip(clean, self.mixed.values(), strict=True)
        }
        return RowAnswers(sigma_min, self.shares, tilts)
