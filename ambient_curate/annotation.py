"""Annotation: from a collection of robot data to a run directory with its manifest."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from ambient_curate import heap, jobs, noise
from ambient_curate.answers import Answers, hear_study
from ambient_curate.arms import ArmName
from ambient_curate.collection import (
    Collection,
    compare_rate,
)
from ambient_curate.config import AnnotateOptions, digest
from ambient_curate.crews import Alone, Crew, Engine
from ambient_curate.curves import tabulate_curves, tabulate_reliability
from ambient_curate.errors import RunError
from ambient_curate.examinations import RELIABLE
from ambient_curate.jobs import (
    CROPS,
    FRAMES,
    PLAN,
    Jobs,
    Stage,
    describe_classifier,
    describe_students,
    plan_challenges,
    plan_crops,
    plan_fits,
    plan_parts,
    plan_scores,
    plan_students,
)
from ambient_curate.localities import Locality, hear_localities, list_localities
from ambient_curate.manifest import write_curves, write_part, write_reliability
from ambient_curate.orders import Order, place_order
from ambient_curate.parts import RowAnswers, RowPlan, part_path, read_answers
from ambient_curate.progress import SILENT, Progress, Shared
from ambient_curate.results import Run, open_run_results
from ambient_curate.rows import manifest_metadata, tabulate_rows, whole_rows
from ambient_curate.runs import RunDirectory, join_run, open_run, reopen_run
from ambient_curate.shards import plan_shards
from ambient_curate.study import Study, describe_member, open_study, prepare_study
from ambient_curate.verdict import (
    build_verdict,
    describe_checks,
    describe_controls,
    describe_policy,
    list_assumptions,
    list_offsets,
    list_warnings,
)

# arguments of Python for a worker; -P: no module of the current folder stands in for a library's
WORKER = ("-P", "-m", jobs.__name__)
_SHOWN = 3  # failed tasks in an error message


def annotate(
    collection: Collection | Path | str,
    options: AnnotateOptions | None = None,
    *,
    progress: Progress = SILENT,
    **changes: Any,
) -> Run:
    """Find the noise levels at which every corrupt dataset of a collection may train a policy.

    Reads the collection, fits the cross-fitted noisy-channel classifier, scores every episode by
    the network that never saw it, and writes a run directory. The same call continues a run that
    was interrupted and recognises one that is complete.

    Parameters
    ----------
    collection : Collection, Path or str
        An opened collection, or the path of one.
    options : AnnotateOptions or None
        None: those of ``ambient.toml`` and the defaults.
    progress : Progress
        Told of all long work; silent by default.
    **changes
        Options by name, also ``tv`` or ``delta`` in place of ``epsilon``; not with `options`.

    Returns
    -------
    Run
        The finished run.

    Raises
    ------
    CurateError
        If the input is damaged or too little, an option is wrong, the run's directory is taken,
        or a part of the work failed repeatedly.
    ValueError
        If both `options` and changes are given, or a share of the work is asked for.

    References
    ----------
    Ambient Diffusion Policy, arXiv 2606.12365; METHOD.md sections 2, 3 and 5.
    """
    order = place_order(collection, options, changes)
    if order.options.num_shards is not None:
        raise ValueError("a share of a run is written by annotate_share")
    inputs = order.inputs
    with open_run(order.path, inputs, digest(inputs), force=order.options.force) as run:
        if run.complete:
            return replace(open_run_results(order.path), already_complete=True)
        with _single_threads(), _hire(run.work, order.options) as engine:
            study, answers = _prepare(run, order, engine, progress)
            if study.by_row:
                _carry_out(plan_parts(study, run.work), engine, progress)
            _finish(run, study, answers)
    return open_run_results(order.path)


@dataclass(frozen=True)
class Share:
    """How far several jobs on one run have come.

    Parameters
    ----------
    path : Path
        Directory of the run.
    done, total : int
        Parts of the manifest that are there, and that there will be.
    """

    path: Path
    done: int
    total: int


def annotate_share(
    collection: Collection | Path | str,
    options: AnnotateOptions | None = None,
    *,
    progress: Progress = SILENT,
    **changes: Any,
) -> Share:
    """Do the share of one of several jobs on the same run, as `annotate` would do all of it.

    The first job to come reads, fits and scores; the others wait for it. Then each writes every
    ``num_shards``-th part of the manifest. `merge` finishes the run.

    Parameters
    ----------
    collection, options, progress, **changes
        As in `annotate`, with ``shard_index`` and ``num_shards``.

    Raises
    ------
    CurateError
        As `annotate`.
    ValueError
        If both `options` and changes are given, or ``num_shards`` is not.
    """
    order = place_order(collection, options, changes)
    index, count = order.options.shard_index, order.options.num_shards
    if index is None or count is None:
        raise ValueError("a share needs shard_index and num_shards")
    inputs = order.inputs
    with join_run(order.path, inputs, digest(inputs), tell=progress.message) as run:
        if run.complete:
            parts = len(list((order.path / "manifest").glob("part-*.parquet")))
            return Share(order.path, parts, parts)
        with _single_threads(), _hire(run.work, order.options) as engine:
            if not run.ready:
                study, _ = _prepare(run, order, engine, progress)
                run.share()
            else:
                study = open_study(run.work / FRAMES)
            if not study.by_row:
                return Share(order.path, 1, 1)
            _carry_out(plan_parts(study, run.work, index, count), engine, progress)
            left, total = len(plan_parts(study, run.work).tasks), len(plan_shards(study))
            return Share(order.path, total - left, total)


def merge(path: Path | str) -> Run:
    """Finish a run whose shares are all there.

    Raises
    ------
    RunError
        If the directory is no run, a job still writes to it, or parts of the manifest are missing.
    """
    path = Path(path)
    with reopen_run(path) as run:
        if run.complete:
            return replace(open_run_results(path), already_complete=True)
        if not run.ready:
            raise RunError(
                f"{path} has nothing to merge yet: no job has read, fitted and scored",
                "give the annotate command again: it continues where it stopped",
            )
        study = open_study(run.work / FRAMES)
        missing = plan_parts(study, run.work).tasks if study.by_row else []
        if missing:
            raise RunError(
                f"{len(missing)} of {len(plan_shards(study))} parts of {path} are missing: "
                + ", ".join(task.split()[1] for task in missing[:_SHOWN])
                + (", ..." if len(missing) > _SHOWN else ""),
                "give the jobs that write them again: --shard-index is the number of the part "
                "modulo --num-shards",
            )
        with _single_threads():
            _finish(run, study, _hear(study, run.work))
    return open_run_results(path)


@contextmanager
def _single_threads() -> Iterator[None]:
    """Compute each piece of work on one thread, so that its bytes depend on nothing else."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):  # BLAS and OpenMP under NumPy, SciPy and scikit-learn
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _hire(work: Path, options: AnnotateOptions) -> Iterator[Engine]:
    """Offer whoever carries out tasks: this process, some of its own, or a cluster's."""
    count = options.workers or len(os.sched_getaffinity(0))
    if options.engine == "ray":
        from ambient_curate.rays import RayCrew

        with RayCrew(work, workers=count) as cluster:
            yield cluster
    elif count == 1:
        yield Alone(Jobs(work).perform)
    else:
        with Crew([*WORKER, str(work)], workers=count) as crew:
            yield crew


def _carry_out(stage: Stage, engine: Engine, progress: Progress) -> None:
    heap.trim()  # the parent waits: it need not hold what the step before has freed
    with Shared(progress, stage.totals) as shared:
        failures = engine.run(stage.tasks, shared)
    if failures:
        shown = "; ".join(f"{failure.task}: {failure.reason}" for failure in failures[:_SHOWN])
        more = f"; and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
        raise RunError(
            f"{len(failures)} of {len(stage.tasks)} pieces of work failed twice ({shown}{more})",
            "the others are done: the same command tries the failed ones again",
        )


def _prepare(
    run: RunDirectory, order: Order, engine: Engine, progress: Progress
) -> tuple[Study, Answers]:
    """Do what comes before the parts: read, fit, hear the evidence, teach, and plan them."""
    study = prepare_study(order.collection, order.options, run.work / FRAMES, progress)
    _carry_out(plan_fits(study, run.work), engine, progress)
    describe_classifier(study, run.work)
    _carry_out(plan_scores(study, run.work), engine, progress)
    _carry_out(plan_challenges(study, run.work), engine, progress)
    answers = _hear(study, run.work)
    localities = dict[ArmName, Locality]()
    if study.options.locality:
        for plan in (plan_fits, plan_scores):
            _carry_out(plan_crops(plan, study, run.work), engine, progress)
        localities = _hear_localities(study, run.work)
    if study.by_row:
        statuses = _whole_statuses(answers)
        _carry_out(plan_students(study, statuses, run.work), engine, progress)
        taught = [s["dataset"] for s in describe_students(study, run.work) if s["trusted"]]
        metadata = manifest_metadata(study, noise.grid(study.options.schedule), run.digest)
        common = RowPlan(statuses, taught, metadata, _list_reaches(localities), _floors(answers))
        common.save(run.work / PLAN)
    return study, answers


def _hear(study: Study, work: Path) -> Answers:
    return hear_study(study, noise.grid(study.options.schedule), work)


def _hear_localities(study: Study, work: Path) -> dict[ArmName, Locality]:
    return hear_localities(study, work / CROPS) if study.options.locality else {}


def _list_reaches(localities: Mapping[ArmName, Locality]) -> dict[str, tuple[float, ...]]:
    return {
        name: found.reaches
        for (name, group), found in localities.items()
        if group is None and found.status == RELIABLE
    }


def _floors(answers: Answers) -> dict[str, float]:
    """sigma_min of the datasets of which a challenger saw more than the classifier did."""
    return {
        name: arm.sigma_min
        for (name, group), arm in answers.arms.items()
        if group is None and arm.challenger_sigma_min is not None
    }


def _whole_statuses(answers: Answers) -> dict[str, str]:
    return {name: status for (name, group), status in answers.statuses.items() if group is None}


def _finish(run: RunDirectory, study: Study, answers: Answers) -> None:
    """Write what speaks for whole datasets, and commit."""
    localities = _hear_localities(study, run.work)
    if not study.by_row:
        (run.work / "manifest").mkdir(exist_ok=True)
        metadata = manifest_metadata(study, noise.grid(study.options.schedule), run.digest)
        levels = _list_levels(study, answers, localities)
        columns = whole_rows(study, answers.arms, answers.statuses, levels)
        write_part(tabulate_rows(columns, metadata), part_path(run.work, 0))
    curves = [*answers.arms.values(), *answers.controls]
    write_curves(tabulate_curves(curves), run.work / "curves.parquet")
    write_reliability(tabulate_reliability(curves), run.work / "reliability.parquet")
    rows = read_answers(study, _whole_statuses(answers), run.work)
    opened = {key: _place_from(run.path, value) for key, value in study.opened.items()}
    described = _describe_run(study, answers, rows, localities)
    students = describe_students(study, run.work)
    run.commit({"collection": opened, **described, "students": students})


def _list_levels(
    study: Study, answers: Answers, localities: Mapping[ArmName, Locality]
) -> dict[ArmName, float]:
    """sigma_max of datasets and groups: the larger, where it is found in two ways."""
    local = {name: found.sigma_max for name, found in localities.items()}
    if not study.options.legibility:
        return local
    return {name: max(arm.legible[0], local.get(name, 0.0)) for name, arm in answers.arms.items()}


def _list_legible(study: Study, answers: Answers) -> list[dict[str, Any]]:
    """List what noise leaves legible, as ``run.json`` keeps it."""
    keys = ("dataset", "group", "status", "sigma_max", "sigma_max_lower", "sigma_max_upper")
    return [
        dict(zip(keys, (*name, answers.statuses[name], *arm.legible), strict=True))
        for name, arm in answers.arms.items()
        if study.options.legibility
    ]


def _place_from(run: Path, text: str) -> str:
    """Write an absolute path as one from a run, so that both can be moved together."""
    return os.path.relpath(text, run.resolve()) if os.path.isabs(text) else text


def _describe_run(
    study: Study,
    answers: Answers,
    rows: RowAnswers,
    localities: Mapping[ArmName, Locality],
) -> dict[str, Any]:
    options, levels = study.options, _list_levels(study, answers, localities)
    controls = describe_controls(answers.controls, study.controls)
    rates = {name: frames.rate_hz for name, frames in study.frames.items()}
    clean = study.clean.dataset
    return {
        "clean": clean,
        "granularity": options.granularity,
        "epsilon": options.epsilon,
        "schedule": options.schedule,
        "grid": noise.grid(options.schedule).tolist(),
        "representation": {"kind": options.represent, "reference": study.reference},
        "normaliser": study.normalizer.as_dict(),
        "weighting": options.weighting,
        "members": {name: describe_member(study, name) for name in study.frames},
        "verdict": build_verdict(
            study, answers.arms, answers.findings, rows.sums, rows.tilts, levels
        ),
        "locality": list_localities(localities),
        "legibility": _list_legible(study, answers),
        "shares": rows.shares,
        "checks": describe_checks(answers.findings),
        "controls": controls,
        "assumptions": [
            *list_assumptions(study),
            *describe_policy(study, answers.arms, answers.statuses),
        ],
        "warnings": [
            *list_warnings(study, controls),
            *list_offsets(answers.arms.values(), options.epsilon),
            *(
                f"{name}: {text}"
                for name in rates
                if name != clean
                for text in compare_rate(rates[name], clean, rates[clean])
            ),
        ],
        "skipped": list(study.skipped),
    }
