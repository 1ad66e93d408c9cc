"""The verdict: one row per dataset or group, its assumptions and its warnings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ambient_curate.annotation.curves import PopulationCurves, null_if_nan
from ambient_curate.annotation.reliability import (
    RELIABLE,
    Finding,
    failures,
    is_recovered,
    judge,
)
from ambient_curate.annotation.rows import RowSums, sum_rows
from ambient_curate.annotation.weights import Tilt
from ambient_curate.data.planted_controls import Control
from ambient_curate.data.populations import PopulationName
from ambient_curate.data.study import Study
from ambient_curate.data.trainer_scales import SAYS_ALL
from ambient_curate.divergence import delta_at, tv_range_at
from ambient_curate.errors import write_count
from ambient_curate.noise import first_admissible_index, schedule_levels
from ambient_curate.statistics.policy_bounds import arbitrary_share, bound_output, epsilon_for

WANTED_TV = 0.1  # of a policy, for which the epsilon it takes is named
_NAMED = 5  # sets whose shares are named

TOO_FEW = "too few different episodes with a whole window to fill every fold"


def describe_controls(
    found: Sequence[PopulationCurves], planted: Sequence[Control]
) -> list[dict[str, Any]]:
    """Say where every planted control was found, and where it was planted."""
    return [
        {
            "name": control.name,
            "expected": control.sigma_min,
            "found": curves.sigma_min,
            "lower": curves.lower,
            "upper": curves.upper,
            "recovered": is_recovered(
                control.sigma_min, curves.sigma_min, curves.lower, curves.upper
            ),
        }
        for curves, control in zip(found, planted, strict=True)
    ]


def describe_checks(findings: Mapping[PopulationName, Sequence[Finding]]) -> list[dict[str, Any]]:
    """Say what was examined of every population, as ``run.json`` keeps it."""
    return [
        {"dataset": name, "group": group} | asdict(finding)
        for (name, group), found in findings.items()
        for finding in found
    ]


def build_verdict(
    study: Study,
    populations: Mapping[PopulationName, PopulationCurves],
    findings: Mapping[PopulationName, Sequence[Finding]],
    sums: Mapping[str, RowSums],
    tilts: Mapping[str, Tilt],
    sigma_max: Mapping[PopulationName, float],
) -> list[dict[str, Any]]:
    """One row a dataset, the clean one first, and one a group.

    Parameters
    ----------
    study : Study
        What was annotated.
    populations : mapping of (str, str or None) to PopulationCurves
        By dataset and group; absent where there were too few episodes.
    findings : mapping of (str, str or None) to sequence of Finding
        Of the same.
    sums : mapping of str to RowSums
        Over the rows of every member; empty where a row speaks for the whole.
    tilts : mapping of str to Tilt
        By dataset, where a row is a window.
    sigma_max : mapping of (str, str or None) to float
        Of the same as `populations`; empty without locality and legibility.

    Returns
    -------
    list of dict
        JSON-able; the keys are those of ``run.json``'s ``verdict``.
    """
    clean = study.clean.dataset
    names = [clean, *(name for name in sorted(study.frames) if name != clean)]
    rows = []
    for name in names:
        tilt = asdict(tilts[name]) if name in tilts else None
        rows.append(
            _row(study, (name, None), populations, findings, sums, sigma_max) | {"tilt": tilt}
        )
        if study.groups is not None and name != clean:
            rows += [
                _row(study, (name, label), populations, findings, sums, sigma_max) | {"tilt": None}
                for label in sorted(set(study.groups[name]))
            ]
    return rows


_ANSWER = ("sigma_min", "lower", "upper", "bracket_lower", "bracket_upper")


def _row(
    study: Study,
    key: PopulationName,
    populations: Mapping[PopulationName, PopulationCurves],
    findings: Mapping[PopulationName, Sequence[Finding]],
    sums: Mapping[str, RowSums],
    sigma_max: Mapping[PopulationName, float],
) -> dict[str, Any]:
    name, group = key
    is_clean = name == study.clean.dataset
    population = populations.get(key)
    status, reason = RELIABLE, ""
    if population is None and not is_clean:
        status, reason = "too-few-episodes", TOO_FEW
    elif found := findings.get(key, ()):
        status, reason = judge(found), "; ".join(failures(found))
    windows = study.windows[name].counts
    if group is not None and study.groups is not None:
        windows = windows[np.array(study.groups[name]) == group]
    values: tuple[float | None, ...] = (None,) * 5
    if is_clean:
        values = (0.0,) * 5
    elif population is not None and status == "ok":
        bracket = population.envelope.lower, population.envelope.upper
        values = (population.sigma_min, population.lower, population.upper, *bracket)
    return {
        "dataset": name,
        "group": group,
        "is_clean": is_clean,
        "episodes": len(windows),
        "windows": int(windows.sum()),
        **dict(zip(_ANSWER, values, strict=True)),
        "sigma_max": None if values[0] is None else sigma_max.get(key, 0.0),
        "status": status,
        "reason": reason,
        "p_value": _p_value(findings.get(key, ())),
        "network_sigma_min": None if population is None else population.network_sigma_min,
        "challenger_sigma_min": None if population is None else population.challenger_sigma_min,
        "challenger": "" if population is None else population.challenger,
        "tv_lower": None
        if population is None
        else null_if_nan(float(population.envelope.tv_lower[0])),
        **_divergence(study, population if status == "ok" else None, values[0]),
        **_usable(study, values[0], sigma_max.get(key, 0.0), sums.get(name)),
    }


def _p_value(findings: Sequence[Finding]) -> float | None:
    """Of the test without a classifier."""
    found = (finding.numbers["p_value"] for finding in findings if finding.check == "blindness")
    return next(found, None)


def _divergence(
    study: Study, population: PopulationCurves | None, sigma_min: float | None
) -> dict[str, Any]:
    """Give Delta and TV at the first admitted level, and the trainer's step."""
    blank = dict.fromkeys(("delta", "tv_low", "tv_high", "tv_finite", "tv_floor", "index"))
    if sigma_min is None:
        return blank
    blank["index"] = first_admissible_index(sigma_min, study.options.schedule)
    if population is None or sigma_min >= 1.0:
        return blank
    low, high = tv_range_at(study.options.epsilon)
    first = int(np.argmax(population.sigma > sigma_min))
    return blank | {
        "delta": float(population.delta[first]),
        "tv_low": low if sigma_min > 0 else 0.0,
        "tv_high": high,
        "tv_finite": null_if_nan(float(population.envelope.tv_upper_empirical[first])),
        "tv_floor": null_if_nan(population.envelope.tv_floor),
    }


def _usable(
    study: Study, sigma_min: float | None, sigma_max: float, rows: RowSums | None
) -> dict[str, Any]:
    """Usable share of the trainer's levels, and the spread over a member's rows (null: 1)."""
    levels = np.sort(schedule_levels(study.options.schedule))
    quantiles = None
    if rows is None:
        least = np.array([np.nan if sigma_min is None else sigma_min])
        rows = sum_rows(least, np.array([sigma_max]), levels)
    else:
        quantiles = [rows.quantile(share) for share in (0.1, 0.5, 0.9)]
    return {
        "usable": 1.0 - rows.banned / (rows.rows * levels.size),
        "quantiles": quantiles,
        "nulls": rows.nulls,
    }


def list_assumptions(study: Study) -> list[str]:
    """List what the numbers rest on, a sentence each."""
    epsilon = study.options.epsilon
    return [
        f"a level is usable where E_q c > 1/2 - {epsilon:g}: Delta < {delta_at(epsilon):g} and "
        f"TV <= {tv_range_at(epsilon)[1]:.3f} there, if the classifier is the best possible one",
        "intervals are approximate: a bootstrap over folds and corrupt episodes (dataset, group), "
        "or what other draws of noise would change, given the classifier (episode, datapoint)",
        "what is certified holds with 95 % for each dataset on its own, if its episodes are "
        "independent draws of one law"
        if study.options.weighting == "episode"
        else "nothing is certified: episodes of unequal weight",
        "p(A), not p(A|O): a difference in task mix counts as a difference"
        if study.options.condition == "none"
        else "p(A, O), O being the state at a window's start: other places count as a difference",
        *(
            [
                "sigma_max: noise has taken less than "
                f"{delta_at(epsilon):g} off Delta, if the classifier is the best possible one at "
                "all levels up to it; not certified"
            ]
            if study.options.legibility
            else []
        ),
        *(
            [
                "sigma_max: crops that the best linear denoiser depends on have Delta < "
                f"{delta_at(epsilon):g}; estimated, not certified from above"
            ]
            if study.options.locality
            else []
        ),
        *(
            []
            if study.by_row
            else [
                f"at epsilon {epsilon:g} up to {100 * arbitrary_share(epsilon):.0f} % of a corrupt "
                "set may be arbitrary and its sigma_min is still 0; --granularity episode or "
                "datapoint finds such data"
            ]
        ),
        f"windows: {study.options.represent}"
        + (f", from the {study.reference}" if study.reference else "")
        + f", {write_count(study.options.horizon, 'frame')}, {describe_scale(study)}",
    ]


def describe_scale(study: Study) -> str:
    """Say by what windows are normalised."""
    kind, trainer = study.normalizer.kind, study.normalizer.trainer
    if trainer is not None:
        name, file = trainer.source["format"], trainer.source["file"]
        used: list[str] = [] if name in SAYS_ALL else [kind]
        used += ["each dataset by its own"] if study.scaled_apart else []
        return f"normalised as {name} does by {file}" + (f" ({', '.join(used)})" if used else "")
    if study.options.normalize_on == "all":
        return (
            f"normalised by all datasets together ({kind}), so that every sigma_min depends on "
            "which datasets there are"
        )
    return f"normalised by the clean set ({kind})"


def summarize_assumptions(study: Study) -> str:
    """Say in a sentence what the numbers rest on; `list_assumptions` has all of it."""
    options = study.options
    parts = [
        "the classifier is close to the best possible one"
        + (" and episodes are independent draws" if options.weighting == "episode" else ""),
        "another task mix counts as a difference: p(A), not p(A|O)"
        if options.condition == "none"
        else "other places count as a difference: p(A, O)",
        f"windows are {options.represent}, {write_count(options.horizon, 'frame')}, "
        f"{describe_scale(study)}",
    ]
    if options.weighting != "episode":
        parts.insert(1, "nothing is certified, since episodes have unequal weight")
    if not study.by_row:
        parts.append(
            f"up to {100 * arbitrary_share(options.epsilon):.0f} % of a set may be arbitrary and "
            "its sigma_min is still 0"
        )
    return "; ".join(parts)


def describe_policy(
    study: Study,
    populations: Mapping[PopulationName, PopulationCurves],
    statuses: Mapping[PopulationName, str],
) -> list[str]:
    """Say how far what a policy samples can be from the clean law, with what that rests on.

    Parameters
    ----------
    study : Study
        What was annotated.
    populations : mapping of (str, str or None) to PopulationCurves
        By dataset and group.
    statuses : mapping of (str, str or None) to str
        Of the same: whether their classifier may be believed.

    Returns
    -------
    list of str
        One sentence at granularity ``dataset`` where a corrupt set is admitted somewhere, else
        none; none either where windows are conditioned on a state (method.md section 3).
    """
    options, clean = study.options, study.clean.dataset
    sigma_min = {
        name: population.sigma_min
        for (name, group), population in populations.items()
        if group is None and statuses[name, group] == RELIABLE and population.sigma_min < 1.0
    }
    if options.granularity != "dataset" or options.condition != "none" or not sigma_min:
        return []
    windows = {name: float(study.windows[name].counts.sum()) for name in (clean, *sigma_min)}
    total = sum(windows.values())
    shares = [windows[name] / total for name in sigma_min]
    tv = bound_output(list(sigma_min.values()), shares, windows[clean] / total, options.epsilon)
    bound = f"by a TV of at most {tv:.3f}" if tv < 1.0 else "by any TV: no bound below 1 is known"
    text = (
        f"what a policy samples differs from the clean law at the lowest noise {bound}, if a "
        f"window is drawn uniformly ({_name_shares(windows)}), denoisers are ideal for what is "
        "admitted at each level, the reverse process is exact"
        + (", sigma_max is 0" if options.locality or options.legibility else "")
        + ", and the classifier is the best possible one"
    )
    if len(shares) == 1:
        wanted = epsilon_for(WANTED_TV, windows[clean] / total)
        text += f"; a TV of at most {WANTED_TV:g} takes epsilon {wanted:.2g}"
    return [text]


def _name_shares(windows: Mapping[str, float]) -> str:
    """Write the shares of the draw, the clean set's first, then the largest ones."""
    total = sum(windows.values())
    clean, *others = windows
    named = [clean, *sorted(others, key=lambda name: -windows[name])[: _NAMED - 1]]
    text = ", ".join(f"{name} {windows[name] / total:.1%}" for name in named)
    more = len(windows) - len(named)
    return f"{text} and {more} more" if more else text
