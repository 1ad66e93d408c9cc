"""The two long stages of an annotation, fit and score, each resumed from what is on disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    DRAWS,
    Evidence,
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
)
from ambient_curate.manifest import read_manifest, write_part
from ambient_curate.progress import Progress, Task
from ambient_curate.rows import MemberRows, tabulate_rows, whole_rows
from ambient_curate.runs import write_json_atomic
from ambient_curate.scoring import EpisodeScore, noise_seed
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
    sigma_min : dict of str to ndarray, float64
        Every episode or datapoint row by member, NaN for null; empty at the coarser granularities.
    """

    arms: dict[ArmName, ArmCurves]
    control: ArmCurves | None
    statuses: dict[ArmName, str]
    findings: dict[ArmName, list[Finding]]
    sigma_min: dict[str, Float64[np.ndarray, " row"]]


def score_study(
    study: Study,
    classifiers: Sequence[FoldClassifier],
    work: Path,
    metadata: Mapping[str, str],
    *,
    workers: int,
    progress: Progress,
) -> Answers:
    """Score every member out of fold and write the manifest's parts under `work`."""
    stage = _Scoring(study, classifiers, work, metadata, workers, progress)
    (work / "manifest").mkdir(exist_ok=True)
    (work / "scores").mkdir(exist_ok=True)
    clean = stage.score(study.clean, stage.clean_heads(), "clean")
    control = None
    if study.control is not None:
        arm = study.control.arm
        heads = np.full((arm.episodes.size, 1), len(study.corrupt))
        control, _ = stage.summarize(arm, clean, stage.score(arm, heads, "control"))
    common = examine_control(control, study.control)
    summaries = stage.score_corrupt(clean)
    arms = {name: arm for name, (arm, _) in summaries.items()}
    findings = {name: [*common, *found] for name, (_, found) in summaries.items()}
    statuses = {
        name: RELIABLE if all(finding.passed for finding in found) else UNRELIABLE
        for name, found in findings.items()
    }
    return Answers(arms, control, statuses, findings, stage.write_rows(arms, statuses))


class _Scoring:
    """The scoring stage: what its steps share."""

    def __init__(
        self,
        study: Study,
        classifiers: Sequence[FoldClassifier],
        work: Path,
        metadata: Mapping[str, str],
        workers: int,
        progress: Progress,
    ) -> None:
        self.study, self.classifiers, self.work = study, classifiers, work
        self.metadata, self.workers, self.progress = metadata, workers, progress
        self.sigma = classifiers[0].sigma

    def clean_heads(self) -> Int64[np.ndarray, "episode head"]:
        """Every output, for every clean episode; the control's only for its opponents."""
        episodes = self.study.clean.episodes
        heads = np.tile(np.arange(len(self.study.arms)), (episodes.size, 1))
        if self.study.control is not None and self.study.control.arm.opponents is not None:
            admitted = np.isin(episodes, self.study.control.arm.opponents)
            heads[~admitted, -1] = -1
        return heads

    def score(self, arm: Arm, heads: Int64[np.ndarray, "episode head"], label: str) -> Evidence:
        """Score an arm, or read its scores where they are on disk."""
        place = self.work / "scores" / f"{label}.npz"
        if place.exists():
            return load_evidence(place)
        evidence = gather_evidence(list(self._stream(arm, heads)), heads)
        save_evidence(evidence, place)
        return evidence

    def score_rows(
        self, arm: Arm, heads: Int64[np.ndarray, "episode head"], number: int
    ) -> Evidence:
        """Score a member and write its part of the manifest on the way."""
        place = self.work / "scores" / f"{number:05d}.npz"
        if place.exists():
            return load_evidence(place)
        rows = self._rows(arm.dataset, RELIABLE)
        slim = []
        for episode, score in self._stream(arm, heads):
            rows.add(episode, score)
            slim.append((episode, replace(score, curves=None, errors=None)))
        self._write(rows, number)
        evidence = gather_evidence(slim, heads)
        save_evidence(evidence, place)
        return evidence

    def _stream(
        self, arm: Arm, heads: Int64[np.ndarray, "episode head"]
    ) -> Iterator[tuple[int, EpisodeScore]]:
        return score_member(
            self.study, self.classifiers, arm, heads, workers=self.workers, progress=self.progress
        )

    def _rows(self, name: str, status: str) -> MemberRows:
        return MemberRows(
            self.study, name, self.sigma, status, DRAWS[self.study.options.granularity]
        )

    def _write(self, rows: MemberRows, number: int) -> None:
        write_part(tabulate_rows(rows.finish(), self.metadata), self._part(number))

    def _part(self, number: int) -> Path:
        return self.work / "manifest" / f"part-{number:05d}.parquet"

    def score_corrupt(self, clean: Evidence) -> dict[ArmName, tuple[ArmCurves, list[Finding]]]:
        """Score every corrupt member; summarise and examine its arms."""
        result: dict[ArmName, tuple[ArmCurves, list[Finding]]] = {}
        for number, name in enumerate(sorted(self.study.frames)):
            if name == self.study.clean.dataset or self.study.head(name) is None:
                continue
            whole = self.study.arms[self._head(name)]
            heads = self._heads_of(whole)
            if self.study.by_row:
                evidence = self.score_rows(whole, heads, number)
            else:
                evidence = self.score(whole, heads, f"{number:05d}")
            for arm in self.study.corrupt:
                if arm.dataset == name:
                    result[name, arm.group] = self.summarize(arm, clean, evidence)
        return result

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

    def summarize(
        self, arm: Arm, clean: Evidence, corrupt: Evidence
    ) -> tuple[ArmCurves, list[Finding]]:
        """Curves, crossing and bounds of one arm, and whether they may be believed."""
        head = next(i for i, other in enumerate(self.study.arms) if other is arm)
        p, q = self._side(self.study.clean, clean, head), self._side(arm, corrupt, head)
        finite = self._compare(arm, clean.of_head(head)[0], corrupt.of_head(head)[0])
        options = self.study.options
        # clusters are found in the very episodes that they are made of
        clustered = arm.group is not None and options.group_by.startswith("cluster:")
        held_out = hold_out(p, q) if options.weighting == "episode" and not clustered else None
        envelope = build_envelope(self.sigma, held_out, finite, epsilon=options.epsilon)
        curves = summarize_arm(
            (arm.dataset, arm.group),
            self.sigma,
            p,
            q,
            envelope,
            epsilon=options.epsilon,
            rng=self._rng(arm, "bootstrap"),
        )
        if arm.shift is not None:
            return curves, []  # the control itself
        sure = differ_surely(self.study.clean, arm, float(self.sigma[0]), self._rng(arm, "energy"))
        rng = self._rng(arm, "examination")
        return curves, examine_arm(curves, p, q, sure, epsilon=options.epsilon, rng=rng)

    def _compare(self, arm: Arm, clean: np.ndarray, corrupt: np.ndarray) -> FiniteSets:
        by_window = self.study.options.weighting == "window"
        rng = self._rng(arm, "finite sets")
        p = measure_arm(self.study.clean, clean, rng, by_window=by_window)
        q = measure_arm(arm, corrupt, rng, by_window=by_window)
        return compare_sets(p, q, self.sigma, rng)

    def _rng(self, arm: Arm, purpose: str) -> np.random.Generator:
        identity = f"{arm.dataset}\x00{arm.group}"
        return np.random.default_rng(noise_seed(self.study.options.seed, identity, purpose))

    def _side(self, arm: Arm, evidence: Evidence, head: int) -> Side:
        episodes, statistics, histogram = evidence.of_head(head)
        weight = np.ones(episodes.size)
        if self.study.options.weighting == "window":
            weight = arm.windows.counts[episodes].astype(np.float64)
        return Side(statistics, histogram, weight, arm.fold[episodes])

    def write_rows(
        self, arms: Mapping[ArmName, ArmCurves], statuses: Mapping[ArmName, str]
    ) -> dict[str, Float64[np.ndarray, " row"]]:
        """Write the parts that are not there yet; return every member's rows, where it has any.

        A member whose classifier turned out unreliable after its rows were written loses them.
        """
        if not self.study.by_row:
            columns = whole_rows(self.study, arms, statuses)
            write_part(tabulate_rows(columns, self.metadata), self._part(0))
            return {}
        result = {}
        for number, name in enumerate(sorted(self.study.frames)):
            own = name == self.study.clean.dataset
            status = RELIABLE if own else statuses.get((name, None), "too-few-episodes")
            if status == UNRELIABLE or not self._part(number).exists():
                self._write(self._rows(name, status), number)
            column = read_manifest(self._part(number))["sigma_min"]
            result[name] = column.to_numpy()
        return result
