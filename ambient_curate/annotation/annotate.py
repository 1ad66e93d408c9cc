"""Annotation of a collection: read, fit, score, assess, distil, write the manifest."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from ambient_curate import memory, noise
from ambient_curate.annotation import tasks as annotation_tasks
from ambient_curate.annotation.assessment import Assessment, assess_study
from ambient_curate.annotation.cautions import list_cautions
from ambient_curate.annotation.curves import tabulate_curves, tabulate_reliability
from ambient_curate.annotation.part_writer import RowPlan, RowTotals, part_path, read_row_totals
from ambient_curate.annotation.reliability import RELIABLE
from ambient_curate.annotation.request import AnnotationRequest, make_request
from ambient_curate.annotation.rows import manifest_metadata, tabulate_rows, whole_rows
from ambient_curate.annotation.shards import plan_shards
from ambient_curate.annotation.sigma_max import Locality, assess_localities, list_localities
from ambient_curate.annotation.tasks import (
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
from ambient_curate.annotation.verdict import (
    build_verdict,
    describe_checks,
    describe_controls,
    describe_policy,
    list_assumptions,
    summarize_assumptions,
)
from ambient_curate.data.collection import Collection
from ambient_curate.data.populations import PopulationName
from ambient_curate.data.study import Study, describe_member, open_study, prepare_study
from ambient_curate.errors import RunError
from ambient_curate.option_fields import check_path
from ambient_curate.options import AnnotateOptions, digest
from ambient_curate.progress import Progress, join_pieces, silent, warn
from ambient_curate.run.directory import RunDirectory, join_run, open_run, reopen_run
from ambient_curate.run.records import Run, open_run_results
from ambient_curate.run.tables import write_curves, write_part, write_reliability
from ambient_curate.run.workers import Engine, InProcess, WorkerPool

# arguments of Python for a worker; -P: no module of the current folder stands in for a library's
WORKER = ("-P", "-m", annotation_tasks.__name__)
_SHOWN = 3  # failed tasks in an error message


def annotate(
    collection: Collection | Path | str,
    options: AnnotateOptions | None = None,
    *,
    progress: Progress = silent,
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
    Ambient Diffusion Policy, arXiv 2606.12365; method.md sections 2, 3 and 5.
    """
    request = make_request(collection, options, changes)
    if request.options.num_shards is not None:
        raise ValueError("a share of a run is written by annotate_share")
    inputs = request.inputs
    with open_run(request.path, inputs, digest(inputs), force=request.options.force) as run:
        if run.complete:
            return replace(open_run_results(request.path), already_complete=True)
        with _single_threads(), _start_workers(run.work, request.options) as engine:
            study, assessment = _prepare(run, request, engine, progress)
            if study.by_row:
                _carry_out(plan_parts(study, run.work), engine, progress)
            _finish(run, study, assessment)
    return open_run_results(request.path)


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
    progress: Progress = silent,
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
    request = make_request(collection, options, changes)
    index, count = request.options.shard_index, request.options.num_shards
    if index is None or count is None:
        raise ValueError("a share needs shard_index and num_shards")
    inputs = request.inputs
    with join_run(request.path, inputs, digest(inputs), tell=partial(warn, progress)) as run:
        if run.complete:
            parts = len(list((request.path / "manifest").glob("part-*.parquet")))
            return Share(request.path, parts, parts)
        with _single_threads(), _start_workers(run.work, request.options) as engine:
            if not run.ready:
                study, _ = _prepare(run, request, engine, progress)
                run.share()
            else:
                study = open_study(run.work / FRAMES)
            if not study.by_row:
                return Share(request.path, 1, 1)
            _carry_out(plan_parts(study, run.work, index, count), engine, progress)
            left, total = len(plan_parts(study, run.work).tasks), len(plan_shards(study))
            return Share(request.path, total - left, total)


def merge(path: Path | str) -> Run:
    """Finish a run whose shares are all there.

    Raises
    ------
    RunError
        If the directory is no run, a job still writes to it, or parts of the manifest are missing.
    ConfigError
        If `path` is neither a path nor text.
    """
    path = check_path("path", path)
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
            _finish(run, study, _assess(study, run.work))
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
def _start_workers(work: Path, options: AnnotateOptions) -> Iterator[Engine]:
    """Offer whoever carries out tasks: this process, some of its own, or a cluster's."""
    count = options.workers or len(os.sched_getaffinity(0))
    if options.engine == "ray":
        from ambient_curate.run.ray_workers import RayPool

        with RayPool(work, Jobs, workers=count) as cluster:
            yield cluster
    elif count == 1:
        yield InProcess(Jobs(work).perform)
    else:
        with WorkerPool([*WORKER, str(work)], workers=count) as pool:
            yield pool


def _carry_out(stage: Stage, engine: Engine, progress: Progress) -> None:
    memory.trim()  # the parent waits: it need not hold what the step before has freed
    with join_pieces(progress, stage.totals) as joined:
        failures = engine.run(stage.tasks, joined)
    if failures:
        shown = "; ".join(f"{failure.task}: {failure.reason}" for failure in failures[:_SHOWN])
        more = f"; and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
        raise RunError(
            f"{len(failures)} of {len(stage.tasks)} pieces of work failed twice ({shown}{more})",
            "the others are done: the same command tries the failed ones again",
        )


def _prepare(
    run: RunDirectory, request: AnnotationRequest, engine: Engine, progress: Progress
) -> tuple[Study, Assessment]:
    """Do what comes before the parts: read, fit, score, assess, distil, and plan the parts."""
    study = prepare_study(
        request.collection, request.options, run.work / FRAMES, progress, request.scalings
    )
    _carry_out(plan_fits(study, run.work), engine, progress)
    describe_classifier(study, run.work)
    _carry_out(plan_scores(study, run.work), engine, progress)
    _carry_out(plan_challenges(study, run.work), engine, progress)
    assessment = _assess(study, run.work)
    localities = dict[PopulationName, Locality]()
    if study.options.locality:
        for plan in (plan_fits, plan_scores):
            _carry_out(plan_crops(plan, study, run.work), engine, progress)
        localities = _assess_localities(study, run.work)
    if study.by_row:
        statuses = _whole_statuses(assessment)
        _carry_out(plan_students(study, statuses, run.work), engine, progress)
        taught = [s["dataset"] for s in describe_students(study, run.work) if s["trusted"]]
        metadata = manifest_metadata(study, noise.grid(study.options.schedule), run.digest)
        common = RowPlan(statuses, taught, metadata, _list_reaches(localities), _floors(assessment))
        common.save(run.work / PLAN)
    return study, assessment


def _assess(study: Study, work: Path) -> Assessment:
    return assess_study(study, noise.grid(study.options.schedule), work)


def _assess_localities(study: Study, work: Path) -> dict[PopulationName, Locality]:
    return assess_localities(study, work / CROPS) if study.options.locality else {}


def _list_reaches(localities: Mapping[PopulationName, Locality]) -> dict[str, tuple[float, ...]]:
    return {
        name: found.reaches
        for (name, group), found in localities.items()
        if group is None and found.status == RELIABLE
    }


def _floors(assessment: Assessment) -> dict[str, float]:
    """sigma_min of the datasets of which a challenger saw more than the classifier did."""
    return {
        name: population.sigma_min
        for (name, group), population in assessment.populations.items()
        if group is None and population.challenger_sigma_min is not None
    }


def _whole_statuses(assessment: Assessment) -> dict[str, str]:
    return {name: status for (name, group), status in assessment.statuses.items() if group is None}


def _finish(run: RunDirectory, study: Study, assessment: Assessment) -> None:
    """Write what speaks for whole datasets, and commit."""
    localities = _assess_localities(study, run.work)
    if not study.by_row:
        (run.work / "manifest").mkdir(exist_ok=True)
        metadata = manifest_metadata(study, noise.grid(study.options.schedule), run.digest)
        levels = _list_levels(study, assessment, localities)
        columns = whole_rows(study, assessment.populations, assessment.statuses, levels)
        write_part(tabulate_rows(columns, metadata), part_path(run.work, 0))
    curves = [*assessment.populations.values(), *assessment.controls]
    write_curves(tabulate_curves(curves), run.work / "curves.parquet")
    write_reliability(tabulate_reliability(curves), run.work / "reliability.parquet")
    rows = read_row_totals(study, _whole_statuses(assessment), run.work)
    opened = {key: _place_from(run.path, value) for key, value in study.opened.items()}
    described = _describe_run(study, assessment, rows, localities)
    students = describe_students(study, run.work)
    run.commit({"collection": opened, **described, "students": students})


def _list_levels(
    study: Study, assessment: Assessment, localities: Mapping[PopulationName, Locality]
) -> dict[PopulationName, float]:
    """sigma_max of datasets and groups: the larger, where it is found in two ways."""
    local = {name: found.sigma_max for name, found in localities.items()}
    if not study.options.legibility:
        return local
    return {
        name: max(population.legibility[0], local.get(name, 0.0))
        for name, population in assessment.populations.items()
    }


def _list_legibility(study: Study, assessment: Assessment) -> list[dict[str, Any]]:
    """List how far noise hides each difference, as ``run.json`` keeps it."""
    keys = ("dataset", "group", "status", "sigma_max", "sigma_max_lower", "sigma_max_upper")
    return [
        dict(zip(keys, (*name, assessment.statuses[name], *population.legibility), strict=True))
        for name, population in assessment.populations.items()
        if study.options.legibility
    ]


def _place_from(run: Path, text: str) -> str:
    """Write an absolute path as one from a run, so that both can be moved together."""
    return os.path.relpath(text, run.resolve()) if os.path.isabs(text) else text


def _describe_normalizers(study: Study) -> dict[str, Any]:
    """Give the normaliser of every member, where a trainer scales each by its own statistics."""
    if not study.scaled_apart:
        return {}
    return {"normalisers": {name: each.as_dict() for name, each in study.normalizers.items()}}


def _describe_run(
    study: Study,
    assessment: Assessment,
    rows: RowTotals,
    localities: Mapping[PopulationName, Locality],
) -> dict[str, Any]:
    options, levels = study.options, _list_levels(study, assessment, localities)
    controls = describe_controls(assessment.controls, study.controls)
    members = {name: describe_member(study, name) for name in study.frames}
    outside = {name: member["outside"] for name, member in members.items()}
    cautions = list_cautions(study, controls, assessment.populations.values(), outside)
    return {
        "clean": study.clean.dataset,
        "granularity": options.granularity,
        "epsilon": options.epsilon,
        "schedule": options.schedule,
        "grid": noise.grid(options.schedule).tolist(),
        "representation": {"kind": options.represent, "reference": study.reference},
        "normaliser": study.normalizer.as_dict(),
        **_describe_normalizers(study),
        "weighting": options.weighting,
        "members": members,
        "verdict": build_verdict(
            study, assessment.populations, assessment.findings, rows.sums, rows.tilts, levels
        ),
        "locality": list_localities(localities),
        "legibility": _list_legibility(study, assessment),
        "shares": rows.shares,
        "checks": describe_checks(assessment.findings),
        "controls": controls,
        "assumptions": [
            *list_assumptions(study),
            *describe_policy(study, assessment.populations, assessment.statuses),
        ],
        "assumed": summarize_assumptions(study),
        "warnings": [caution.text for caution in cautions],
        "cautions": [asdict(caution) for caution in cautions if caution.short],
        "skipped": list(study.skipped),
    }
