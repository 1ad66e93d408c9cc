"""Answers: what the out-of-fold scores of a study say of every dataset and group."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from ambient_curate.arms import Arm, ArmName
from ambient_curate.checks import Finding
from ambient_curate.curves import ArmCurves, Side, hold_out, summarize_arm
from ambient_curate.empirical import compare_sets, measure_arm
from ambient_curate.envelopes import FiniteSets, build_envelope, know_nothing
from ambient_curate.evidence import LOOKS, Evidence, Looks, crop_looks, list_hearings
from ambient_curate.examinations import (
    RELIABLE,
    UNRELIABLE,
    differ_surely,
    examine_arm,
    examine_control,
    examine_crops,
    examine_folds,
)
from ambient_curate.scoring import noise_seed
from ambient_curate.study import Study


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


def hear_study(study: Study, sigma: Float64[np.ndarray, " level"], work: Path) -> Answers:
    """Say what the scores of a study show, all of which lie under ``work/scores``."""
    stage = _Answering(study, sigma, work)
    clean = stage.read("clean")
    control = None
    if study.control is not None:
        control = stage.summarize(study.control.arm, clean.whole, stage.read_whole("control"))
    common = examine_control(control, study.control)
    arms, findings = {}, {}
    for arm, corrupt in stage.read_corrupt():
        name = arm.dataset, arm.group
        arms[name] = stage.summarize(arm, clean.whole, corrupt.whole)
        findings[name] = [*common, *stage.examine(arm, arms[name], clean, corrupt)]
    return Answers(arms, control, _judge(findings), findings)


def hear_crops(study: Study, levels: Float64[np.ndarray, " level"], work: Path) -> Answers:
    """Say what the scores of crops show, all of which lie under ``work/scores``.

    No upper bound is known for crops, and no control is planted among them.

    Parameters
    ----------
    study : Study
        What is annotated.
    levels : ndarray, float64, shape (level,)
        Of `crops.radius_levels`.
    work : Path
        Where the scores lie.
    """
    stage = _CropAnswering(study, levels, work, crop_looks(study.options.horizon))
    clean = stage.read("clean")
    arms, findings = {}, {}
    for arm, corrupt in stage.read_corrupt():
        name = arm.dataset, arm.group
        arms[name] = stage.summarize(arm, clean.whole, corrupt.whole)
        findings[name] = stage.examine(arm, arms[name], clean, corrupt)
    return Answers(arms, None, _judge(findings), findings)


def _judge(findings: dict[ArmName, list[Finding]]) -> dict[ArmName, str]:
    return {
        name: RELIABLE if all(finding.passed for finding in found) else UNRELIABLE
        for name, found in findings.items()
    }


@dataclass(frozen=True, eq=False)
class _Heard:
    """What networks say of a member: at length, and in short two of them, so as to compare."""

    whole: Evidence
    own: Evidence
    other: Evidence


class _Answering:
    """What the steps of hearing a study share."""

    def __init__(
        self,
        study: Study,
        sigma: Float64[np.ndarray, " level"],
        work: Path,
        looks: Looks = LOOKS,
    ) -> None:
        self.study, self.sigma, self.work, self.looks = study, sigma, work, looks
        self.hearings = list_hearings(study, looks)

    def read_whole(self, label: str) -> Evidence:
        return self.hearings[label].read(self.work)

    def read(self, label: str) -> _Heard:
        return _Heard(*(self.read_whole(label + look.ending) for look in self.looks))

    def read_corrupt(self) -> Iterator[tuple[Arm, _Heard]]:
        """Read the scores of every corrupt member; yield its arms with them."""
        for number, name in enumerate(sorted(self.study.frames)):
            if name != self.study.clean.dataset and self.study.head(name) is not None:
                heard = self.read(f"{number:05d}")
                yield from ((arm, heard) for arm in self.study.corrupt if arm.dataset == name)

    def summarize(self, arm: Arm, clean: Evidence, corrupt: Evidence) -> ArmCurves:
        """Curves, crossing and bounds of one arm."""
        head, (p, q) = self._output(arm), self._sides(arm, clean, corrupt)
        options = self.study.options
        # clusters are found in the very episodes that they are made of
        clustered = arm.group is not None and options.group_by.startswith("cluster:")
        certifiable = options.weighting == "episode" and not clustered
        held_out = hold_out(p, q, self._rng(arm, "folds")) if certifiable else None
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

    def examine(self, arm: Arm, curves: ArmCurves, clean: _Heard, corrupt: _Heard) -> list[Finding]:
        """Ask whether the curves of an arm may be believed."""
        whole, own, other = (
            self._sides(arm, getattr(clean, look), getattr(corrupt, look))
            for look in ("whole", "own", "other")
        )
        sure = differ_surely(self.study.clean, arm, float(self.sigma[0]), self._rng(arm, "energy"))
        rng, epsilon = self._rng(arm, "examination"), self.study.options.epsilon
        return [
            *examine_arm(curves, *whole, sure, epsilon=epsilon, rng=rng),
            examine_folds(own, other),
        ]

    def _output(self, arm: Arm) -> int:
        return next(i for i, other in enumerate(self.study.arms) if other is arm)

    def _compare(self, arm: Arm, clean: np.ndarray, corrupt: np.ndarray) -> FiniteSets:
        if arm.windows.told:  # finite sets hardly share a state: all that is certain is apart
            return know_nothing(self.sigma.size, clean.size, corrupt.size)
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


class _CropAnswering(_Answering):
    """The same of crops."""

    def examine(self, arm: Arm, curves: ArmCurves, clean: _Heard, corrupt: _Heard) -> list[Finding]:
        whole, own, other = (
            self._sides(arm, getattr(clean, look), getattr(corrupt, look))
            for look in ("whole", "own", "other")
        )
        rng, epsilon = self._rng(arm, "crops"), self.study.options.epsilon
        return [
            examine_crops(curves, *whole, epsilon=epsilon, rng=rng),
            examine_folds(own, other),
        ]

    def _compare(self, arm: Arm, clean: np.ndarray, corrupt: np.ndarray) -> FiniteSets:
        return know_nothing(self.sigma.size, clean.size, corrupt.size)
