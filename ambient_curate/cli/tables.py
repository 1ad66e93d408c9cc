"""Runs, inspections, policies and exports as tables and sentences for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ambient_curate.data.inspection import Inspection, MemberInspection
from ambient_curate.errors import Failures, write_count
from ambient_curate.export.trainers import Trainer
from ambient_curate.noise import flow_from_sigma, ve_from_sigma
from ambient_curate.report.sentences import (
    list_run_warnings,
    summarize_controls,
    summarize_sets,
    write_bracket,
    write_range,
    write_sigma,
)
from ambient_curate.run.compare import MOVED, Comparison
from ambient_curate.run.records import explain_missed, list_controls, name_set
from ambient_curate.run.verify import CHECKS, Verification

Table = tuple[list[str], list[list[str]]]
_SHOWN = 20  # differences of the inputs of two runs
_SKIPPED = 3  # kinds of failures, where not all is shown


def verdict_table(verdict: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out the verdict of ``run.json``.

    Parameters
    ----------
    verdict : sequence of mapping
        A row a dataset (and group), numbers or None.

    Returns
    -------
    tuple of list of str and list of list of str
        Headings and cells; ``-`` where there is no number. The columns of groups, and of the
        quantiles over episodes or windows, are there when a row has them.
    """
    cells = [_verdict_cells(row) for row in verdict]
    optional = ("group", "10 %", "50 %", "90 %", "null", "sigma_max")
    columns = [
        name for name in cells[0] if name not in optional or any(row[name] != "-" for row in cells)
    ]
    return columns, [[row[name] for name in columns] for row in cells]


def _verdict_cells(row: Mapping[str, Any]) -> dict[str, str]:
    quantiles = row["quantiles"] or (None, None, None)
    spread = [write_sigma(value) for value in quantiles]
    return {
        "dataset": row["dataset"],
        "group": "-" if row["group"] is None else row["group"],
        "episodes": f"{row['episodes']:,}",
        "windows": f"{row['windows']:,}",
        "sigma_min": write_sigma(row["sigma_min"]),
        "interval": "-" if row["is_clean"] else write_range(row["lower"], row["upper"]),
        "bracket": write_bracket(row),
        "10 %": spread[0],
        "50 %": spread[1],
        "90 %": spread[2],
        "null": "-" if row["quantiles"] is None else f"{row['nulls']:,}",
        "sigma_max": write_sigma(row.get("sigma_max") or None),
        "Delta": write_sigma(row["delta"]),
        "step": "-" if row["index"] is None else str(row["index"]),
        "usable": "-" if row["usable"] is None else f"{100 * row['usable']:.0f} %",
        "status": "clean" if row["is_clean"] and row["status"] == "ok" else row["status"],
    }


def verdict_lines(info: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is said below a verdict: a sentence a dataset or group, one of the controls."""
    yield from (f"{name}: {sentence}" for name, sentence in summarize_sets(info))
    if controls := summarize_controls(info):
        yield f"controls: {controls}"


def verdict_details(info: Mapping[str, Any]) -> Iterator[str]:
    """Yield what each number of a verdict means, or why there is none, in lines of their own."""
    for row in info["verdict"]:
        name = name_set(row["dataset"], row["group"])
        if row["reason"]:
            yield f"{name}: {row['reason']}"
        elif not row["is_clean"]:
            first, *others = _meaning(row, info["epsilon"], info["schedule"])
            yield f"{name}: {first}"
            yield from (f"    {text}" for text in others)
    yield from _local_lines(info.get("locality", []))
    yield from _legibility_lines(info.get("legibility", []))
    for control in list_controls(info):
        levels = control["expected"], control["found"]
        yield (
            f"{control['name']}: expected {write_sigma(levels[0])}, found {write_sigma(levels[1])} "
            + write_range(control["lower"], control["upper"])
            + ("" if control["recovered"] else f": {explain_missed(*levels)}")
        )


def _legibility_lines(legibility: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say up to which noise a dataset differs from clean data as much as without noise."""
    for each in legibility:
        name = name_set(each["dataset"], each["group"])
        if each["status"] != "ok":
            yield f"{name}: no sigma_max: {each['status']}"
        elif each["sigma_max"] == 1.0:
            yield f"{name}: usable at every noise: noise hides nothing of what tells it from clean"
        else:
            top = write_sigma(each["sigma_max"])
            ends = write_range(each["sigma_max_lower"], each["sigma_max_upper"])
            yield (
                f"{name}: usable up to sigma {top} {ends} too: so far noise "
                "hides little of what tells it from clean"
            )


def _local_lines(localities: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say up to which radius crops are alike, and up to which noise a denoiser sees no further."""
    for each in localities:
        name = name_set(each["dataset"], each["group"])
        if each["status"] != "ok":
            yield f"{name}: no sigma_max: {each['status']}, of crops"
        elif each["radius"] < 0:
            yield f"{name}: no sigma_max: single frames differ already"
        elif each["radius"] == len(each["delta"]) - 1:
            yield f"{name}: usable at every noise: even whole windows are alike"
        else:
            top = write_sigma(each["sigma_max"])
            ends = write_range(each["sigma_max_lower"], each["sigma_max_upper"])
            yield (
                f"{name}: usable up to sigma {top} {ends} too: a denoiser "
                f"depends there on no more than {write_count(each['radius'], 'frame')} to either "
                "side, and so far all is alike"
            )
        if (certified := each["radius_bracket"]) < len(each["delta"]) - 1:
            yield f"    certified, whatever the classifier: crops of radius {certified + 1} differ"


def _meaning(row: Mapping[str, Any], epsilon: float, schedule: str) -> Iterator[str]:
    """Say what is believed, what is certified, and what cannot be known."""
    if row["sigma_min"] >= 1.0:
        yield "not usable at any noise level"
    else:
        yield f"usable above sigma {write_sigma(row['sigma_min'])}: {_trainer_time(row, schedule)}"
        yield f"if the classifier is near-optimal: then TV is at most {row['tv_high']:.3f} there"
    if row["tv_finite"] is not None and row["tv_finite"] < 1.0:  # 1: nothing is known
        yield f"the sampled windows differ there by a TV of at most {row['tv_finite']:.3f}"
    if row["tilt"] is not None:
        yield from _tilting(row["tilt"])
    if row.get("challenger_sigma_min") is not None:
        yield row["challenger"]
    if row["p_value"] is not None:
        yield (
            "without a classifier: so large a difference at the lowest noise has p = "
            f"{row['p_value']:.3f} if both follow one law"
        )
    if row["bracket_lower"] > 0.0:
        yield (
            "certified, whatever the classifier: up to sigma "
            f"{write_sigma(row['bracket_lower'])} TV is at least {2 * epsilon:.3f}"
        )
    elif row["tv_lower"]:
        yield (
            "certified, whatever the classifier: at the lowest noise TV is at least "
            f"{row['tv_lower']:.3f}, too little for a bracket"
        )
    else:
        yield "that it differs is not certified: no bound above 0 holds whatever the classifier"
    if row["bracket_upper"] < 1.0:
        upper = write_sigma(row["bracket_upper"])
        yield f"certified: from sigma {upper} on Delta is below the rule's"
    elif row["tv_floor"] is not None:
        yield (
            f"no upper bound on the populations' TV below {row['tv_floor']:.3f} can come from so "
            "few episodes"
        )


def _tilting(tilt: Mapping[str, float]) -> Iterator[str]:
    """Say what choosing by window does to the mixture, and what the weights make of it."""
    if tilt["usable"] == 0.0:
        yield "none of its windows is usable at the lowest noise"
    else:
        yield (
            f"{100 * tilt['usable']:.1f} % of its windows are usable at the lowest noise; with "
            f"them {tilt['mixture']:.3f} of the training windows lie where the clean set has "
            f"{tilt['clean']:.3f}; by column weight, {tilt['weighted']:.3f}"
        )
    yield (
        "all its windows and the clean set's by column weight are worth "
        f"{write_count(tilt['windows'], 'equal window')} of "
        f"{write_count(tilt['episodes'], 'episode')}"
    )


def _trainer_time(row: Mapping[str, Any], schedule: str) -> str:
    sigma = row["sigma_min"]
    step = "no step" if row["index"] is None else f"step {row['index']}"
    return (
        f"{step} of {schedule}, EDM noise {float(ve_from_sigma(sigma)):.3f}, flow time "
        f"{float(flow_from_sigma(sigma)):.3f}"
    )


def caveats(info: Mapping[str, Any]) -> Iterator[str]:
    """Yield what concerns a whole run: a legend, warnings, what was skipped, what it assumes.

    Warnings about one dataset are in its sentence of `verdict_lines`.
    """
    yield _legend(info["epsilon"])
    yield from (f"warning: {text}" for text in list_run_warnings(info))
    yield from _skipped_lines(info, _SKIPPED)
    if "assumed" in info:
        yield f"assumed: {info['assumed']}"
    else:  # a run of an earlier version
        yield from (f"assumption: {text}" for text in info["assumptions"])


def _legend(epsilon: float) -> str:
    """Tie sigma_min to Delta, and Delta to epsilon (method.md section 3)."""
    return (
        "legend: Delta says how far apart noised data and noised clean data are, 0 (alike) to 2; "
        f"sigma_min is the noise level above which it stays below 4 epsilon = {4 * epsilon:g}"
    )


def all_caveats(info: Mapping[str, Any]) -> Iterator[str]:
    """Yield every assumption, every warning, and all that was skipped."""
    yield from (f"assumption: {text}" for text in info["assumptions"])
    for student in info["students"]:
        who = "students" if student["trusted"] else "noise draws, since its students err too much"
        yield (
            f"{student['dataset']}: its windows are annotated by {who} (mean error of sigma_min "
            f"{student['error']:.3f})"
        )
    yield from (f"warning: {text}" for text in info["warnings"])
    yield from _skipped_lines(info, None)


def _skipped_lines(info: Mapping[str, Any], most: int | None) -> Iterator[str]:
    """Say what was skipped, kind by kind; run.json lists every file."""
    failures = Failures()
    for entry in info["skipped"]:
        failures.add(entry["file"], f"{entry['file']}: {entry['error']}")
    yield from (f"skipped: {text}" for text in failures.sentences(most))


def inspection_table(inspection: Inspection) -> Table:
    """Lay out the members of a collection.

    Returns
    -------
    tuple of list of str and list of list of str
        Headings and cells; ``-`` where there is no number. ``repeated`` counts the episodes equal
        to an earlier one of the same dataset, ``elsewhere`` those that another dataset has too.
    """
    cells = [_member_cells(member) for member in inspection.members]
    return list(cells[0]), [list(row.values()) for row in cells]


def _member_cells(member: MemberInspection) -> dict[str, str]:
    return {
        "dataset": f"{member.name} (clean)" if member.is_clean else member.name,
        "format": member.format,
        "episodes": f"{member.episodes:,}",
        "steps": f"{member.steps:,}",
        "lengths": f"{member.shortest} to {member.longest}",
        "action": "-" if member.action_dim is None else str(member.action_dim),
        "state": "-" if member.state_dim is None else str(member.state_dim),
        "Hz": "-" if member.rate_hz is None else f"{member.rate_hz:g}",
        "tasks": str(member.tasks),
        "repeated": str(member.duplicates),
        "elsewhere": str(member.duplicates_elsewhere),
    }


def inspection_lines(inspection: Inspection) -> Iterator[str]:
    """Yield what is said below an inspection: problems, notes, and what cannot be opened."""
    for member in inspection.members:
        if member.names:
            yield f"{member.name}: {member.numbering}"
        yield from (f"{member.name}: {text}" for text in member.problems)
        yield from (f"{member.name}: note: {text}" for text in member.notes)
    yield from (f"{name}: cannot be opened: {reason}" for name, reason in inspection.broken)
    yield from inspection.problems


def verification_table(verification: Verification) -> Table:
    """Lay out what was checked of a run, and what was not."""
    states = {
        check.name: "holds" if check.holds else f"{len(check.findings):,} wrong"
        for check in verification.checks
    }
    rows = [[name, states.get(name, "not checked"), verification.explain(name)] for name in CHECKS]
    return ["check", "state", "what it says"], rows


def verification_lines(verification: Verification) -> Iterator[str]:
    """Yield every finding, with its check."""
    for check in verification.checks:
        yield from (f"{check.name}: {text}" for text in check.findings)


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """Yield what is said above the tables of a comparison: the inputs that differ."""
    if comparison.identical:
        yield "identical: the same inputs and the same results"
        return
    differences = comparison.differences
    if not differences:
        yield "the same options, sources and versions"
    yield from (f"{each.name}: {each.a} -> {each.b}" for each in differences[:_SHOWN])
    if len(differences) > _SHOWN:
        yield f"and {write_count(len(differences) - _SHOWN, 'more difference')} of the inputs"
    if len(set(comparison.granularity)) > 1:
        yield (
            "rows are not compared: in A they are of granularity {}, in B of {}".format(
                *comparison.granularity
            )
        )
    if any(each.name == "options.horizon" for each in differences):
        yield "windows of other lengths are compared by where they start"
    if comparison.other_files:
        count = write_count(len(comparison.other_files), "result file")
        yield f"not the same bytes: {count}"


def comparison_tables(comparison: Comparison) -> Iterator[tuple[str, Table]]:
    """Yield the tables of a comparison, each with its title; none of identical runs."""
    if comparison.identical:
        return
    yield "whole datasets", _verdict_pairs(comparison)
    if comparison.rows:
        yield f"rows; moved: by more than {MOVED:g}", _row_counts(comparison)
    if comparison.most_moved:
        columns = ["dataset", "group", "episode", "start", "A", "B", "moved"]
        cells = [
            [
                *(row.dataset, row.group or "-", row.episode_id or "-"),
                "-" if row.start is None else str(row.start),
                *(write_sigma(row.a), write_sigma(row.b), f"{row.b - row.a:+.3f}"),
            ]
            for row in comparison.most_moved
        ]
        yield "rows that moved most", _drop_empty(columns, cells)


def _verdict_pairs(comparison: Comparison) -> Table:
    columns = ["dataset", "group", "A", "B", "moved", "usable A", "usable B", "actions"]
    same = {True: "the same", False: "others", None: "-"}
    rows = [
        [
            *(pair.dataset, pair.group or "-", *map(write_sigma, pair.sigma_min)),
            "-" if pair.moved is None else f"{pair.moved:+.3f}",
            *(*map(_percent, pair.usable), same[pair.same_actions]),
        ]
        for pair in comparison.verdict
    ]
    return _drop_empty(columns, rows)


def _row_counts(comparison: Comparison) -> Table:
    counted = ("both", "only_a", "only_b", "lost", "gained")
    columns = ["dataset", "both", "only A", "only B", "lost", "gained"]
    rows = [
        [
            *(row.dataset, *(f"{getattr(row, name):,}" for name in counted)),
            *(_percent(row.moved), write_sigma(row.median), write_sigma(row.largest)),
        ]
        for row in comparison.rows
    ]
    return [*columns, "moved", "median", "largest"], rows


def _drop_empty(columns: list[str], rows: list[list[str]]) -> Table:
    """Leave out ``group``, ``episode`` and ``start`` where no row has them."""
    optional = ("group", "episode", "start")
    kept = [
        place
        for place, name in enumerate(columns)
        if name not in optional or any(row[place] != "-" for row in rows)
    ]
    return [columns[place] for place in kept], [[row[place] for place in kept] for row in rows]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def policy_table(info: Mapping[str, Any]) -> Table:
    """Lay out what a policy was trained on, level by level, and how far it errs there.

    Parameters
    ----------
    info : mapping
        Content of ``policy.json``.

    Returns
    -------
    tuple of list of str and list of list of str
        A row for each of some levels: the share of every dataset's windows that was admitted, and
        the mean squared error on held-out clean windows, where there are any, before too if the
        training went on from a policy.
    """
    measured, sigma = info["held_out"], info["sigma"]
    levels = range(len(sigma)) if measured is None else measured["levels"]
    columns = ["level", "sigma", *info["coverage"]]
    rows = [
        [str(level), f"{sigma[level]:.4f}"]
        + [f"{100 * share[level]:.0f} %" for share in info["coverage"].values()]
        for level in levels
    ]
    for key, head in (("error_before", "error before"), ("error", "held-out error")):
        if measured is not None and key in measured:
            columns.append(head)
            rows = [[*row, f"{error:.2e}"] for row, error in zip(rows, measured[key], strict=True)]
    return columns, rows


def rollout_table(found: Mapping[str, Any], interval: tuple[float, float]) -> Table:
    """Lay out what came of a policy's episodes, in one row."""
    n, successes = len(found["successes"]), sum(found["successes"])
    low, high = interval
    columns = ["episodes", "successes", "rate", "95 % (Wilson)", "mean reward", "mean frames"]
    cells = [
        str(n),
        str(successes),
        f"{100 * successes / n:.1f} %",
        f"[{100 * low:.1f} %, {100 * high:.1f} %]",
        f"{sum(found['rewards']) / n:.3f}",
        f"{sum(found['frames']) / n:.1f}",
    ]
    return columns, [cells]


def coverage_lines(
    coverage: Mapping[str, Sequence[float]],
    sigma: Sequence[float],
    sizes: Mapping[str, tuple[int, float]],
) -> Iterator[str]:
    """Say at which noise levels each dataset will be used, before it is.

    Parameters
    ----------
    coverage : mapping of str to sequence of float
        Share of the dataset's windows that is admitted at every level.
    sigma : sequence of float
        The levels.
    sizes : mapping of str to (int, float)
        Number of windows, and how many their weights make them worth.
    """
    for name, share in coverage.items():
        used = [level for level, part in enumerate(share) if part > 0]
        windows, effective = sizes[name]
        text = f"{name}: {write_count(windows, 'window')}, "
        if round(effective) != windows:
            text += f"by their weights worth {effective:,.0f}, "
        if not used:
            yield text + "admitted at no noise level"
            continue
        mean = sum(share) / len(share)
        missing = used[-1] - used[0] + 1 - len(used)
        holes = f" (with holes: {write_count(missing, 'level')})" if missing else ""
        yield text + (
            f"admitted from sigma {sigma[used[0]]:.3f} to {sigma[used[-1]]:.3f}{holes}, "
            f"{100 * mean:.0f} % of them at a level on average"
        )


def trainers_table(trainers: Mapping[str, Trainer]) -> Table:
    """Lay out all trainers: a row each."""
    rows = [
        [name, t.honours, t.lost, " or ".join(t.formats) or "any", t.schedule]
        for name, t in trainers.items()
    ]
    return ["to", "what it honours", "what is lost", "trains on", "time"], rows


def export_table(info: Mapping[str, Any]) -> Table:
    """Lay out what was written of every dataset.

    Parameters
    ----------
    info : mapping
        Content of ``export.json``.
    """
    columns = ["dataset", "windows", "padded", "never usable", "on average usable", "share"]
    rows = [
        [
            name,
            f"{member['rows']:,}",
            f"{member['padded']:,}",
            f"{member['never_usable']:,}",
            f"{member['effective']:,.0f}",
            f"{100 * member['share']:.1f} %",
        ]
        for name, member in info["members"].items()
    ]
    return columns, rows
