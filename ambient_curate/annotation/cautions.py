"""Cautions: what may mislead a reader of the verdict, of one dataset or of the whole run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ambient_curate.annotation.curves import PopulationCurves
from ambient_curate.classifier.out_of_fold import C
from ambient_curate.data.collection import compare_rate, compare_rates
from ambient_curate.data.constant_dims import list_constant_dims
from ambient_curate.data.motion import Motion, name_dims
from ambient_curate.data.study import Study
from ambient_curate.run.records import explain_missed, name_set

FEW_CLEAN = 20
LARGE_SHARE = 0.01
LEAST_SPAN, LARGEST_SPAN = 0.01, 100.0  # of the clean set, in a trainer's scaled actions


@dataclass(frozen=True)
class Caution:
    """A warning about the verdict.

    Parameters
    ----------
    dataset, group : str or None
        What it is about; both None: the whole run.
    text : str
        All of it, with the dataset's name.
    short : str
        The same in a few words and without the name, to end a sentence about the dataset or a
        control; empty where `text` is printed as it is. It says so where sigma_min may be too low.
    """

    dataset: str | None
    group: str | None
    text: str
    short: str = ""


def list_cautions(
    study: Study,
    controls: Sequence[Mapping[str, Any]],
    populations: Iterable[PopulationCurves],
    outside: Mapping[str, float | None],
) -> list[Caution]:
    """List what may mislead a reader of the verdict: of the whole run, then of its datasets.

    Parameters
    ----------
    study : Study
        What was annotated.
    controls : sequence of mapping
        Of `verdict.describe_controls`.
    populations : iterable of PopulationCurves
        What the scores say of datasets and groups.
    outside : mapping of str to float or None
        By member, the share of its action values outside the clean range, of
        `ambient_curate.data.study.find_outside`.
    """
    return [
        *(Caution(None, None, text) for text in _warn_of_run(study, bool(controls))),
        *_find_missed(controls),
        *_find_outside(outside),
        *list_offsets(populations, study.options.epsilon),
        *_compare_rates(study),
        *(
            Caution(name, None, f"{name}: {text}")
            for name, noted in study.noted.items()
            for text in noted["contradictions"]
        ),
    ]


def _warn_of_run(study: Study, controlled: bool) -> list[str]:
    """List what may mislead a reader of the whole verdict, whose controls may be missing."""
    found = []
    if not controlled and study.options.condition == "none":
        found.append(
            "no planted control: it needs two clean episodes a fold, and clean actions that vary"
        )
    if (n := len(study.clean.episodes)) < FEW_CLEAN:
        found.append(
            f"the clean set has {n} episodes: below {FEW_CLEAN} sigma_min is rough, often too high "
            "and sometimes too low; record more before you rely on it"
        )
    found += _position_warnings(study)
    found += _span_warnings(study)
    for kind, dims in list_constant_dims(study.clean.windows).items():
        found.append(
            f"constant in the clean set, so not compared: {name_dims(dims, kind)}; a dataset that "
            "moves there has no sigma_min"
        )
    return found


def _find_missed(controls: Sequence[Mapping[str, Any]]) -> list[Caution]:
    """Say where controls were missed, and what that means for the other numbers."""
    found = []
    for control in controls:
        if control["recovered"]:
            continue
        short = explain_missed(control["expected"], control["found"])
        text = (
            f"the {control['name']} was expected at sigma {control['expected']:.3f} and found at "
            f"{control['found']:.3f} [{control['lower']:.3f}, {control['upper']:.3f}]: {short}"
        )
        found.append(Caution(None, None, text, short))
    return found


def _position_warnings(study: Study) -> list[str]:
    """Warn where places would be compared: clean actions that look like absolute positions."""
    if study.options.represent != "absolute":
        return []
    windows = study.clean.windows
    motion = Motion.zeros(int(windows.action.shape[1]))
    for first, length in zip(windows.offset, windows.length, strict=True):
        motion.add(windows.action[first : first + length].double().numpy())
    if not (dims := motion.absolute_dims()):
        return []
    return [
        f"{name_dims(dims)} look like absolute positions: the classifier then also learns where "
        "the clean episodes are; represent = relative compares motions"
    ]


def _span_warnings(study: Study) -> list[str]:
    """Warn where a trainer's statistics do not fit the clean set: of other actions, other units."""
    normalizer = study.normalizer
    if normalizer.trainer is None:
        return []
    span = (normalizer.high - normalizer.low) * normalizer.scale
    odd = ((span > LARGEST_SPAN) | (span < LEAST_SPAN)) & (span > 0.0)
    dims = np.flatnonzero(odd & np.isin(np.arange(span.size), normalizer.still, invert=True))
    if not dims.size:
        return []
    spans = f"{span[dims].min():.3g} to {span[dims].max():.3g} in {name_dims(dims.tolist())}"
    return [
        f"scaled by {normalizer.trainer.source['file']}, the clean set spans {spans}, where 2 is "
        "usual: check that the file is of these actions, in these units"
    ]


def list_offsets(populations: Iterable[PopulationCurves], epsilon: float) -> list[Caution]:
    """Warn where calibration is off by as much as the rule's margin: E_p c + E_q c is not 1.

    The best classifier has E_p c + E_q c = 1 at every level; the sum being 1 does not make a
    classifier the best one. Where it is more, corrupt data looks cleaner than it is.
    """
    found = []
    for population in populations:
        offset = population.clean[C] + population.corrupt[C] - 1.0
        worst = int(np.argmax(np.abs(offset)))
        if abs(offset[worst]) <= epsilon:
            continue
        dataset, group = population.dataset, population.group
        at = f"{offset[worst]:+.3f} at sigma {population.sigma[worst]:.3f}"
        text = (
            f"{name_set(dataset, group)}: E_p c + E_q c - 1 reaches "
            f"{at}, beyond the margin of {epsilon:g}: too few clean episodes to calibrate on"
        )
        side = "low" if offset.max() > epsilon else "high"
        short = f"sigma_min may be too {side}, since calibration is off by {at}"
        found.append(Caution(dataset, group, text, short))
    return found


def _find_outside(outside: Mapping[str, float | None]) -> list[Caution]:
    return [
        Caution(
            name,
            None,
            f"{share:.1%} of {name}'s action values lie outside the clean set's range",
            f"{share:.1%} of its action values lie outside the clean set's range",
        )
        for name, share in outside.items()
        if share is not None and share > LARGE_SHARE
    ]


def _compare_rates(study: Study) -> list[Caution]:
    clean = study.clean.dataset
    rates = {name: noted["clock_hz"] for name, noted in study.noted.items()}
    if rates[clean] is None:
        return [Caution(None, None, text) for text in compare_rates(rates)]
    return [
        Caution(name, None, f"{name}: {text}", text.partition(":")[0])
        for name in rates
        if name != clean
        for text in compare_rate(rates[name], clean, rates[clean])
    ]
