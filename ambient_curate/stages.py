"""Fit the networks and ask what their scores say: stages that resume from what is on disk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from ambient_curate.arms import Arm, ArmName
from ambient_curate.checkpoints import load_fold, save_fold
from ambient_curate.checks import Finding
from ambient_curate.classifier import FitOptions, FoldClassifier, fit_fold
from ambient_curate.curves import ArmCurves, Side, hold_out, summarize_arm
from ambient_curate.empirical import compare_sets, measure_arm
from ambient_curate.engines import Interrupted, Stopped, map_items
from ambient_curate.envelopes import FiniteSets, build_envelope
from ambient_curate.evidence import (
    OTHER,
    OWN,
    WHOLE,
    Evidence,
    Look,
    gather_evidence,
    load_evidence,
    save_evidence,
    score_member,
)
from ambient_curate.examinations import (
    RELIABLE,
    UNRELIABLE,
    differ_surely,
    examine_arm,
    examine_control,
    examine_folds,
)
from ambient_curate.progress import Progress, Task
from ambient_curate.runs import write_json_atomic
from ambient_curate.scoring import noise_seed
from ambient_curate.study import Study

CLASSIFIER_CONFIG = "config.json"


class _Stoppable:
    """A task that ends its piece of work when the others have failed or were interrupted."""

    def __init__(self, task: Task, stopped: Stopped) -> None:
        self.task, self.stopped = task, stopped

    def advance(self, steps: int | float = 1, note: str | None = None) -> None:
        if self.stopped():
            raise Interrupted
        self.task.advance(steps, note)


def fit_classifiers(
    study: Study,
    sigma: Float64[np.ndarray, " level"],
    folder: Path,
    *,
    workers: int,
    progress: Progress,
) -> list[FoldClassifier]:
    """Fit the network of every fold that is not in `folder` yet, several at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    options = study.options
    sizes = FitOptions(
        folds=options.folds, seed=options.seed, by_window=options.weighting == "window"
    )
    places = [folder / f"fold-{fold}.safetensors" for fold in range(options.folds)]

    def fit(fold: int, stopped: Stopped) -> None:
        with progress.task(f"fold {fold + 1} of {options.folds}", sizes.train.steps) as task:
            fitted = fit_fold(
                study.clean,
                study.arms,
                fold,
                sigma,
                sizes,
                task=_Stoppable(task, stopped),
            )
        save_fold(fitted, places[fold])

    missing = [fold for fold, place in enumerate(places) if not place.exists()]
    for _ in map_items(fit, missing, workers=workers):
        pass
    outputs = [{"dataset": arm.dataset, "group": arm.group} for arm in study.arms]
    write_json_atomic(
        folder / CLASSIFIER_CONFIG,
        {"outputs": outputs, "folds": options.folds, "clean": study.clean.dataset},
    )
    return [load_fold(place) for place in places]


@dataclass(frozen=True, eq=False)
class Answers:
    """What the scores say.

    Parameters
    ----------
    arms : dict of (str, str or None) to ArmCurves
        By dataset and group.
    control : ArmCurves or None
        The planted control.
    statuses : dict of (str, str or None) to str
        By dataset and group, of `arms` only: whether their classifier may be believed.
    findings : dict of (str, str or None) to list of Finding
        What was examined, with those of the control first.
    """

    arms: dict[ArmName, ArmCurves]
    control: ArmCurves | None
    statuses: dict[ArmName, str]
    findings: dict[ArmName, list[Finding]]


def score_study(
    study: Study,
    classifiers: Sequence[FoldClassifier],
    work: Path,
    *,
    workers: int,
    progress: Progress,
) -> Answers:
    """Score a bounded number of windows of every episode out of fold; say what they show."""
    (work / "scores").mkdir(exist_ok=True)
    stage = _Scoring(study, classifiers, work, workers, progress)
    clean = stage.score(study.clean, stage.clean_heads(), "clean")
    control = None
    if study.control is not None:
        arm = study.control.arm
        heads = np.full((arm.episodes.size, 1), len(study.corrupt))
        control = stage.summarize(arm, clean.scored, stage.score_once(arm, heads, "control"))
    common = examine_control(control, study.control)
    arms, findings = {}, {}
    for arm, corrupt in stage.score_corrupt():
        name = arm.dataset, arm.group
        arms[name] = stage.summarize(arm, clean.scored, corrupt.scored)
        findings[name] = [*common, *stage.examine(arm, arms[name], clean, corrupt)]
    statuses = {
        name: RELIABLE if all(finding.passed for finding in found) else UNRELIABLE
        for name, found in findings.items()
    }
    return Answers(arms, control, statuses, findings)


@dataclass(frozen=True, eq=False)
class _Scores:
    """What networks say of an arm: at length, and in short two of them, so as to compare."""

    scored: Evidence
    own: Evidence
    other: Evidence


class _Scoring:
    """The scoring stage: what its steps share."""

    def __init__(
        self,
        study: Study,
        classifiers: Sequence[FoldClassifier],
        work: Path,
        workers: int,
        progress: Progress,
    ) -> None:
        self.study, self.classifiers, self.work = study, classifiers, work
        self.workers, self.progress = workers, progress
        self.sigma = classifiers[0].sigma

    def clean_heads(self) -> Int64[np.ndarray, "episode head"]:
        """Every output, for every clean episode; the control's only for its opponents."""
        episodes = self.study.clean.episodes
        heads = np.tile(np.arange(len(self.study.arms)), (episodes.size, 1))
        if self.study.control is not None and self.study.control.arm.opponents is not None:
            admitted = np.isin(episodes, self.study.control.arm.opponents)
            heads[~admitted, -1] = -1
        return heads

    def score(self, arm: Arm, heads: Int64[np.ndarray, "episode head"], label: str) -> _Scores:
        """Score an arm in every way, or read its scores where they are on disk."""
        return _Scores(
            self.score_once(arm, heads, label),
            self.score_once(arm, heads, f"{label}-own", OWN),
            self.score_once(arm, heads, f"{label}-other", OTHER),
        )

    def score_once(
        self,
        arm: Arm,
        heads: Int64[np.ndarray, "episode head"],
        label: str,
        look: Look = WHOLE,
    ) -> Evidence:
        """Score an arm in one way."""
        place = self.work / "scores" / f"{label}.npz"
        if place.exists():
            return load_evidence(place)
        scores = score_member(
            self.study,
            self.classifiers,
            arm,
            heads,
            look=look,
            workers=self.workers,
            progress=self.progress,
        )
        evidence = gather_evidence(list(scores), heads)
        save_evidence(evidence, place)
        return evidence

    def score_corrupt(self) -> Iterator[tuple[Arm, _Scores]]:
        """Score every corrupt member; yield its arms with its scores."""
        for number, name in enumerate(sorted(self.study.frames)):
            head = self.study.head(name)
            if name == self.study.clean.dataset or head is None:
                continue
            whole = self.study.arms[head]
            scores = self.score(whole, self._heads_of(whole), f"{number:05d}")
            yield from ((arm, scores) for arm in self.study.corrupt if arm.dataset == name)

    def _head(self, name: str, group: str | None = None) -> int:
        head = self.study.head(name, group)
        return -1 if head is None else head

    def _heads_of(self, arm: Arm) -> Int64[np.ndarray, "episode head"]:
        """List the outputs of every episode of a member: its own, then its group's (-1: none)."""
        own = np.full((arm.episodes.size, 1), self._head(arm.dataset))
        if self.study.groups is None:
            return own
        labels = self.study.groups[arm.dataset]
        group = [[self._head(arm.dataset, labels[episode])] for episode in arm.episodes]
        return np.concatenate([own, np.array(group)], axis=1)

    def summarize(self, arm: Arm, clean: Evidence, corrupt: Evidence) -> ArmCurves:
        """Curves, crossing and bounds of one arm."""
        head, (p, q) = self._output(arm), self._sides(arm, clean, corrupt)
        options = self.study.options
        # clusters are found in the very episodes that they are made of
        clustered = arm.group is not None and options.group_by.startswith("cluster:")
        held_out = hold_out(p, q) if options.weighting == "episode" and not clustered else None
        finite = self._compare(arm, clean.of_head(head)[0], corrupt.of_head(head)[0])
        return summarize_arm(
            (arm.dataset, arm.group),
            self.sigma,
            p,
            q,
            build_envelope(self.sigma, held_out, finite, epsilon=options.epsilon),
            epsilon=options.epsilon,
            rng=self._rng(arm, "bootstrap"),
        )

    def examine(
        self, arm: Arm, curves: ArmCurves, clean: _Scores, corrupt: _Scores
    ) -> list[Finding]:
        """Ask whether the curves of an arm may be believed."""
        scored, own, other = (
            self._sides(arm, getattr(clean, look), getattr(corrupt, look))
            for look in ("scored", "own", "other")
        )
        sure = differ_surely(self.study.clean, arm, float(self.sigma[0]), self._rng(arm, "energy"))
        rng, epsilon = self._rng(arm, "examination"), self.study.options.epsilon
        return [
            *examine_arm(curves, *scored, sure, epsilon=epsilon, rng=rng),
            examine_folds(own, other),
        ]

    def _output(self, arm: Arm) -> int:
        return next(i for i, other in enumerate(self.study.arms) if other is arm)

    def _compare(self, arm: Arm, clean: np.ndarray, corrupt: np.ndarray) -> FiniteSets:
        by_window = self.study.options.weighting == "window"
        rng = self._rng(arm, "finite sets")
        p = measure_arm(self.study.clean, clean, rng, by_window=by_window)
        q = measure_arm(arm, corrupt, rng, by_window=by_window)
        return compare_sets(p, q, self.sigma, rng)

    def _rng(self, arm: Arm, purpose: str) -> np.random.Generator:
        identity = f"{arm.dataset}\x00{arm.group}"
        return np.random.default_rng(noise_seed(self.study.options.seed, identity, purpose))

    def _sides(self, arm: Arm, clean: Evidence, corrupt: Evidence) -> tuple[Side, Side]:
        head = self._output(arm)
        return self._side(self.study.clean, clean, head), self._side(arm, corrupt, head)

    def _side(self, arm: Arm, evidence: Evidence, head: int) -> Side:
        episodes, statistics, histogram = evidence.of_head(head)
        weight = np.ones(episodes.size)
        if self.study.options.weighting == "window":
            weight = arm.windows.counts[episodes].astype(np.float64)
        return Side(statistics, histogram, weight, arm.fold[episodes])
