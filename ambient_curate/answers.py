"""Answers: what the out-of-fold scores of a study say of every dataset and group."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from ambient_curate.arms import Arm, ArmName
from ambient_curate.challenger import ChallengerFinding
from ambient_curate.checks import Finding
from ambient_curate.curves import ArmCurves, Side, hold_out, summarize_arm
from ambient_curate.empirical import compare_sets, measure_arm
from ambient_curate.envelopes import FiniteSets, build_envelope, know_nothing
from ambient_curate.evidence import (
    CLEAN,
    CORRUPT,
    LOOKS,
    Look,
    Looks,
    crop_looks,
    list_hearings,
    load_challenge,
    name_side,
)
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
    controls : list of ArmCurves
        The planted controls.
    statuses : dict of (str, str or None) to str
        By dataset and group, of `arms` only: whether their classifier may be believed.
    findings : dict of (str, str or None) to list of Finding
        What was examined, with those of the control first.
    """

    arms: dict[ArmName, ArmCurves]
    controls: list[ArmCurves]
    statuses: dict[ArmName, str]
    findings: dict[ArmName, list[Finding]]


def hear_study(study: Study, sigma: Float64[np.ndarray, " level"], work: Path) -> Answers:
    """Say what the scores of a study show, all of which lie under ``work/scores``."""
    stage = _Answering(study, sigma, work)
    controls = [stage.summarize(planted.arm) for planted in study.controls]
    common = [
        examine_control(found, planted)
        for found, planted in zip(controls, study.controls, strict=True)
    ]
    arms, findings = {}, {}
    for head, arm in enumerate(study.corrupt):
        name = arm.dataset, arm.group
        found = load_challenge(work, head)
        arms[name] = stage.summarize(arm).raise_to(found)
        findings[name] = [*common, *stage.examine(arm, arms[name], found)]
    return Answers(arms, controls, _judge(findings), findings)


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
    arms, findings = {}, {}
    for arm in study.corrupt:
        name = arm.dataset, arm.group
        arms[name] = stage.summarize(arm)
        findings[name] = stage.examine(arm, arms[name])
    return Answers(arms, [], _judge(findings), findings)


def _judge(findings: dict[ArmName, list[Finding]]) -> dict[ArmName, str]:
    return {
        name: RELIABLE if all(finding.passed for finding in found) else UNRELIABLE
        for name, found in findings.items()
    }


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

    def summarize(self, arm: Arm) -> ArmCurves:
        """Curves, crossing and bounds of one arm."""
        options, (p, q) = self.study.options, self._sides(arm, self.looks[0])
        # clusters are found in the very episodes that they are made of
        clustered = arm.group is not None and options.group_by.startswith("cluster:")
        certifiable = options.weighting == "episode" and not clustered
        held_out = None
        if certifiable:
            held_out = hold_out(
                p.hold_back(self.sigma), q.hold_back(self.sigma), self._rng(arm, "folds")
            )
        finite = self._compare(arm)
        return summarize_arm(
            (arm.dataset, arm.group),
            self.sigma,
            p.interpolate(self.sigma),
            q.interpolate(self.sigma),
            build_envelope(self.sigma, held_out, finite, epsilon=options.epsilon),
            epsilon=options.epsilon,
            rng=self._rng(arm, "bootstrap"),
        )

    def examine(
        self, arm: Arm, curves: ArmCurves, challenge: ChallengerFinding | None = None
    ) -> list[Finding]:
        """Ask whether the curves of an arm may be believed."""
        whole, own, other = (self._sides(arm, look) for look in self.looks)
        sure = differ_surely(self.study.clean, arm, float(self.sigma[0]), self._rng(arm, "energy"))
        rng, epsilon = self._rng(arm, "examination"), self.study.options.epsilon
        clean, corrupt = (side.interpolate(self.sigma) for side in whole)
        challenged = challenge is not None and challenge.status != "not computed"
        return [
            *examine_arm(
                curves, clean, corrupt, sure, challenged=challenged, epsilon=epsilon, rng=rng
            ),
            examine_folds(own, other),
        ]

    def _output(self, arm: Arm) -> int:
        return next(i for i, other in enumerate(self.study.arms) if other is arm)

    def _compare(self, arm: Arm) -> FiniteSets:
        p, q = (self.hearings[name_side(self._output(arm), s)] for s in (CLEAN, CORRUPT))
        sizes = p.rows.size, q.rows.size
        if arm.windows.told:  # finite sets hardly share a state: all that is certain is apart
            return know_nothing(self.sigma.size, *sizes)
        by_window = self.study.options.weighting == "window"
        rng = self._rng(arm, "finite sets")
        clean, corrupt = (
            measure_arm(side.arm, side.arm.episodes[side.rows], rng, by_window=by_window)
            for side in (p, q)
        )
        return compare_sets(clean, corrupt, self.sigma, rng)

    def _rng(self, arm: Arm, purpose: str) -> np.random.Generator:
        identity = f"{arm.dataset}\x00{arm.group}"
        return np.random.default_rng(noise_seed(self.study.options.seed, identity, purpose))

    def _sides(self, arm: Arm, look: Look) -> tuple[Side, Side]:
        head = self._output(arm)
        p, q = (self._side(name_side(head, side) + look.ending) for side in (CLEAN, CORRUPT))
        return p, q

    def _side(self, label: str) -> Side:
        hearing = self.hearings[label]
        arm, scores = hearing.arm, hearing.read(self.work)
        weight = hearing.weigh(self.study.options.weighting)
        return Side(scores.statistics, scores.histogram, weight, arm.fold[scores.episodes])


class _CropAnswering(_Answering):
    """The same of crops."""

    def examine(
        self, arm: Arm, curves: ArmCurves, challenge: ChallengerFinding | None = None
    ) -> list[Finding]:
        whole, own, other = (self._sides(arm, look) for look in self.looks)
        rng, epsilon = self._rng(arm, "crops"), self.study.options.epsilon
        return [
            examine_crops(curves, *whole, epsilon=epsilon, rng=rng),
            examine_folds(own, other),
        ]

    def _compare(self, arm: Arm) -> FiniteSets:
        p, q = (self.hearings[name_side(self._output(arm), s)] for s in (CLEAN, CORRUPT))
        return know_nothing(self.sigma.size, p.rows.size, q.rows.size)
