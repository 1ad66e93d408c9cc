"""Tasks of a run: fit, score, challenge, distil, write; each leaves one file, written whole.

A task is a line of text, so that it can be carried out by this process, by another, or by another
machine that sees the same files; what exists is not done again.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from ambient_curate import memory
from ambient_curate.annotation.part_writer import PartWriter, RowPlan, part_path, sums_path
from ambient_curate.annotation.shards import Shard, plan_shards, scored_windows
from ambient_curate.annotation.weights import Mixture
from ambient_curate.classifier.channels import Channel, crop_channel, noise_channel
from ambient_curate.classifier.checkpoints import load_pair, load_student, save_pair, save_student
from ambient_curate.classifier.distillation import TRUSTED, Student, StudentOptions, teach_student
from ambient_curate.classifier.fit import (
    FitOptions,
    FoldClassifier,
    PairClassifier,
    fit_pair,
    pick_device,
)
from ambient_curate.classifier.networks import Sizes
from ambient_curate.classifier.out_of_fold import (
    CHALLENGER,
    MODES,
    PIECE,
    ScoringModes,
    ScoringSet,
    challenge_pair,
    challenge_path,
    crop_modes,
    list_scoring_sets,
    save_challenge,
    save_scores,
    score_piece,
)
from ambient_curate.data.populations import Population
from ambient_curate.data.study import Study, open_study
from ambient_curate.files import write_json_atomic
from ambient_curate.noise import grid
from ambient_curate.progress import Progress, track
from ambient_curate.run.workers import serve

FRAMES, CLASSIFIER, STUDENTS, CROPS = "frames", "classifier", "students", "crops"
PLAN = "plan.json"
CHALLENGE = "challenging by boosting"
PAIRS_HELD = 8  # of a fold
STEPS = FitOptions().train.steps


class Jobs:
    """Carries out tasks; what they need is read from the run when it is first needed.

    Parameters
    ----------
    work : Path
        The run's working directory.
    study : Study or None
        Its study, if it is open already.
    crops : bool
        Whether these are the tasks of its crops, in a directory of their own.
    """

    def __init__(self, work: Path, study: Study | None = None, *, crops: bool = False) -> None:
        memory.hold()
        self.work, self.of_crops = work, crops
        if study is not None:
            self.study = study

    @cached_property
    def study(self) -> Study:
        """The study, from its files."""
        study = open_study(self.work / FRAMES)
        memory.trim()
        return study

    @cached_property
    def classifiers(self) -> list[FoldClassifier]:
        """The classifiers, once all are fitted; each pair is read when it is asked for."""
        return load_classifiers(self.study, self.work, crops=self.of_crops)

    @cached_property
    def scoring_sets(self) -> dict[str, ScoringSet]:
        """What is scored, by label."""
        return list_scoring_sets(self.study, modes_of(self.study, crops=self.of_crops))

    @cached_property
    def crops(self) -> "Jobs":
        """Who carries out the tasks of crops."""
        return Jobs(self.work / CROPS, self.study, crops=True)

    @cached_property
    def shards(self) -> list[Shard]:
        """What the parts are of, by number."""
        return plan_shards(self.study)

    @cached_property
    def writer(self) -> PartWriter:
        """The writer of parts, once their plan is made."""
        plan = RowPlan.load(self.work / PLAN)
        students = load_students(self.study, self.work)
        taught = {name: students[name] for name in plan.taught}
        crops = self.crops.classifiers if plan.reaches else []
        return PartWriter(self.study, self.classifiers, taught, plan, self.work, crops)

    def perform(self, task: str, progress: Progress) -> None:
        """Carry out one task, named by one of the functions below."""
        kind, *rest = task.split()
        match kind:
            case "fit":
                self._fit(*rest, progress=progress)
            case "challenge":
                self._challenge(*rest, progress=progress)
            case "score":
                self._score(*rest, progress=progress)
            case "teach":
                self._teach(*rest, progress=progress)
            case "write":
                self._write(*rest, progress=progress)
            case "crops":
                self.crops.perform(" ".join(rest), progress)
            case _:
                raise ValueError(f"no such task: {task}")

    def _fit(self, fold: str, head: str, *, progress: Progress) -> None:
        options, number, population = (
            self.study.options,
            int(fold),
            self.study.populations[int(head)],
        )
        sizes = FitOptions(
            folds=options.folds, seed=options.seed, by_window=options.weighting == "window"
        )
        channel = channel_of(self.study, crops=self.of_crops)
        with track(progress, _name_fits(self.of_crops), STEPS) as advance:
            fitted = fit_pair(self.study.clean, population, number, channel, sizes, advance=advance)
        save_pair(fitted, _pair_path(self.work, number, int(head)))
        memory.trim()  # training takes more memory than all that comes after it

    def _score(self, label: str, piece: str, *, progress: Progress) -> None:
        scoring_set = self.scoring_sets[label]
        name = _name_scores(scoring_set, self.of_crops)
        with track(progress, name, scoring_set.rows.size) as advance:
            scores = score_piece(self.study, self.classifiers, scoring_set, int(piece), advance)
        save_scores(scores, scoring_set.path(self.work, int(piece)))

    def _challenge(self, head: str, *, progress: Progress) -> None:
        with track(progress, CHALLENGE, 1) as advance:
            found = challenge_pair(self.study, self.work, int(head))
            advance(1)
        save_challenge(found, self.work, int(head))

    def _teach(self, member: str, fold: str, *, progress: Progress) -> None:
        name, number, options = sorted(self.study.frames)[int(member)], int(fold), self._sizes
        head = self.study.head(name)
        if head is None:
            raise ValueError(f"{name} has no output")
        population, classifier = self.study.populations[head], self.classifiers[number]
        student = teach_student(
            classifier, population, fold=number, head=head, options=options, progress=progress
        )
        save_student(student, _student_path(self.work, int(member), number))
        memory.trim()

    def _write(self, number: str, *, progress: Progress) -> None:
        shard = self.shards[int(number)]
        windows = int(scored_windows(self.study, shard.dataset).sum())
        with track(progress, f"annotating {shard.dataset}", windows) as advance:
            self.writer.write(shard, advance)

    @property
    def _sizes(self) -> StudentOptions:
        return student_sizes(self.study)


def student_sizes(study: Study) -> StudentOptions:
    """Sizes of the students of a study."""
    return StudentOptions(seed=study.options.seed, epsilon=study.options.epsilon)


@dataclass(frozen=True)
class Stage:
    """Tasks that may be carried out in any order, or at once.

    Parameters
    ----------
    tasks : list of str
        Those whose files are not there.
    totals : dict of str to int
        How much there is to do, by the name under which the tasks report it.
    """

    tasks: list[str]
    totals: dict[str, int]


def modes_of(study: Study, *, crops: bool) -> ScoringModes:
    """How episodes are scored."""
    return crop_modes(study.options.horizon) if crops else MODES


def plan_crops(plan: Callable[..., Stage], study: Study, work: Path) -> Stage:
    """Make the stage of `plan_fits` or `plan_scores` for crops."""
    stage = plan(study, work / CROPS, crops=True)
    return Stage([f"crops {task}" for task in stage.tasks], stage.totals)


def _name_scores(scoring_set: ScoringSet, crops: bool) -> str:
    return f"scoring {'crops of ' if crops else ''}{scoring_set.population.dataset}"


def plan_fits(study: Study, work: Path, *, crops: bool = False) -> Stage:
    """Every pair's classifier of every fold; there are no controls among crops."""
    (work / CLASSIFIER).mkdir(parents=crops, exist_ok=True)
    missing = [
        (fold, head)
        for head in range(len(study.corrupt if crops else study.populations))
        for fold in range(study.options.folds)
        if not _pair_path(work, fold, head).exists()
    ]
    totals = {_name_fits(crops): STEPS * len(missing)} if missing else {}
    return Stage([f"fit {fold} {head}" for fold, head in missing], totals)


def _name_fits(crops: bool) -> str:
    return f"fitting{' crops' if crops else ''}"


def channel_of(study: Study, *, crops: bool) -> Channel:
    """Give what the classifiers of a study look through."""
    options, windows = study.options, study.clean.windows
    sigma = grid(options.schedule)
    if crops:
        return crop_channel(options.horizon, float(sigma[0]), dim=windows.dim)
    return noise_channel(
        sigma, Sizes(options.horizon, windows.action.shape[1], windows.condition_dim)
    )


def plan_scores(study: Study, work: Path, *, crops: bool = False) -> Stage:
    """Out-of-fold scores of a bounded number of episodes of every member."""
    (work / "scores").mkdir(exist_ok=True)
    tasks, totals = [], dict[str, int]()
    for label, scoring_set in list_scoring_sets(study, modes_of(study, crops=crops)).items():
        if crops and scoring_set.head >= len(study.corrupt):
            continue
        missing = [n for n in range(scoring_set.pieces) if not scoring_set.path(work, n).exists()]
        tasks += [f"score {label} {piece}" for piece in missing]
        name = _name_scores(scoring_set, crops)
        done = (scoring_set.pieces - len(missing)) * PIECE
        totals[name] = totals.get(name, 0) + max(scoring_set.rows.size - done, 0)
    return Stage(tasks, totals)


def plan_challenges(study: Study, work: Path) -> Stage:
    """Plan a challenge of the classifier of every corrupt set and group."""
    (work / CHALLENGER).mkdir(exist_ok=True)
    heads = range(len(study.corrupt))
    missing = [head for head in heads if not challenge_path(work, head).exists()]
    return Stage([f"challenge {head}" for head in missing], {CHALLENGE: len(missing)})


def plan_students(study: Study, statuses: Mapping[str, str], work: Path) -> Stage:
    """Students of the datasets that have an answer and enough windows in every fold."""
    (work / STUDENTS).mkdir(exist_ok=True)
    tasks, totals = [], dict[str, int]()
    if study.by_window:
        for population in Mixture(study, statuses).heads.values():
            member = sorted(study.frames).index(population.dataset)
            if not _worth_teaching(study, population):
                continue
            folds = range(study.options.folds)
            missing = [n for n in folds if not _student_path(work, member, n).exists()]
            tasks += [f"teach {member} {fold}" for fold in missing]
            totals[f"teaching {population.dataset}"] = len(missing) * student_sizes(study).answers
    return Stage(tasks, totals)


def _worth_teaching(study: Study, population: Population) -> bool:
    counts = np.bincount(
        population.fold[population.episodes], weights=population.windows.counts[population.episodes]
    )
    return bool(counts.min() >= student_sizes(study).least)


def plan_parts(study: Study, work: Path, index: int = 0, count: int = 1) -> Stage:
    """Parts of the manifest, with their sums: those whose number is `index` modulo `count`."""
    for folder in ("manifest", "sums"):
        (work / folder).mkdir(exist_ok=True)
    shards = plan_shards(study)
    missing = [
        shard
        for shard in shards[index::count]
        if not (part_path(work, shard.number).exists() and sums_path(work, shard.number).exists())
    ]
    totals = dict[str, int]()
    for shard in missing:
        name = f"annotating {shard.dataset}"
        windows = int(scored_windows(study, shard.dataset)[shard.episodes].sum())
        totals[name] = totals.get(name, 0) + windows
    return Stage([f"write {shard.number}" for shard in missing], totals)


def describe_classifier(study: Study, work: Path) -> None:
    """Say beside the classifiers which pairs they are of, by the number in their names."""
    outputs = [
        {"dataset": population.dataset, "group": population.group}
        for population in study.populations
    ]
    write_json_atomic(
        work / CLASSIFIER / "config.json",
        {"outputs": outputs, "folds": study.options.folds, "clean": study.clean.dataset},
    )


def describe_students(study: Study, work: Path) -> list[dict[str, Any]]:
    """Say how far the students of every dataset err, and whether they annotate."""
    found = []
    for name, students in load_students(study, work).items():
        error = float(np.mean([student.error for student in students]))
        found.append({"dataset": name, "error": error, "trusted": error <= TRUSTED})
    return found


def load_classifiers(study: Study, work: Path, *, crops: bool = False) -> list[FoldClassifier]:
    """Give the classifiers of every fold; a pair is read from its file when it is asked for.

    They go to where they are fastest. Those of crops stay on the processor: a GPU's cumulative
    sums are not the same every time.
    """
    channel = channel_of(study, crops=crops)
    device = torch.device("cpu") if crops else pick_device()
    return [
        FoldClassifier(_StoredPairs(work, fold, channel, device), channel.levels)
        for fold in range(study.options.folds)
    ]


class _StoredPairs(Mapping[int, PairClassifier]):
    """The pairs of a fold, from their files; the last `PAIRS_HELD` stay in memory."""

    def __init__(self, work: Path, fold: int, channel: Channel, device: torch.device) -> None:
        self.work, self.fold, self.channel, self.device = work, fold, channel, device
        self.read = lru_cache(maxsize=PAIRS_HELD)(self._read)

    def _read(self, head: int) -> PairClassifier:
        return load_pair(_pair_path(self.work, self.fold, head), self.channel).to(self.device)

    def __getitem__(self, head: int) -> PairClassifier:
        return self.read(head)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return len(list(self.work.glob(f"{CLASSIFIER}/fold-{self.fold}-*.safetensors")))


def load_students(study: Study, work: Path) -> dict[str, list[Student]]:
    """Read the students, of the datasets that have one a fold."""
    folds, found = range(study.options.folds), {}
    for member, name in enumerate(sorted(study.frames)):
        paths = [_student_path(work, member, fold) for fold in folds]
        if all(path.exists() for path in paths):
            found[name] = [load_student(path) for path in paths]
    return found


def _pair_path(work: Path, fold: int, head: int) -> Path:
    return work / CLASSIFIER / f"fold-{fold}-{head:05d}.safetensors"


def _student_path(work: Path, member: int, fold: int) -> Path:
    return work / STUDENTS / f"{member:05d}-{fold}.safetensors"


def main() -> None:
    """Carry out the tasks that arrive on stdin, for the run whose working directory is given."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        serve(Jobs(Path(sys.argv[1])).perform)


if __name__ == "__main__":
    main()
