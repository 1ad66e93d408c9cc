"""Annotation: from a collection of robot data to a run directory with its manifest."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from threadpoolctl import threadpool_limits

from ambient_curate import noise
from ambient_curate.collection import (
    Collection,
    compare_rate,
    fingerprint,
    open_collection,
    require_clean,
)
from ambient_curate.config import AnnotateOptions, digest, resolve_options
from ambient_curate.curves import tabulate_curves, tabulate_reliability
from ambient_curate.manifest import write_curves, write_reliability
from ambient_curate.parts import RowAnswers, write_parts
from ambient_curate.progress import SILENT, Progress
from ambient_curate.results import Run, open_run_results
from ambient_curate.rows import manifest_metadata
from ambient_curate.runs import RunDirectory, open_run, package_versions
from ambient_curate.stages import Answers, fit_classifiers, score_study
from ambient_curate.study import Study, describe_member, prepare_study
from ambient_curate.verdict import (
    build_verdict,
    describe_checks,
    describe_control,
    list_assumptions,
    list_offsets,
    list_warnings,
)

NOT_IN_DIGEST = ("out", "force", "workers", "strict", "checksums")


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
        If the input is damaged or too little, an option is wrong, or the run's directory is taken.
    ValueError
        If both `options` and changes are given.

    References
    ----------
    Ambient Diffusion Policy, arXiv 2606.12365; METHOD.md sections 2, 3 and 5.
    """
    if options is not None and changes:
        raise ValueError("give options, or single options by name, not both")
    if not isinstance(collection, Collection):
        given = asdict(options) if options is not None else changes
        picked = {key: given.get(key) for key in ("clean", "checksums", "on_error")}
        collection = open_collection(collection, **picked)
    if options is None:
        options = resolve_options(collection.settings.options, changes)
    clean = require_clean(collection)
    noise.schedule_levels(options.schedule)  # an unknown one is told before any work
    inputs = _inputs(collection, options, clean)
    path = options.out or Path(f"{collection.name}_run")
    with open_run(path, inputs, digest(inputs), force=options.force) as run:
        if run.complete:
            return replace(open_run_results(path), already_complete=True)
        with _single_threads():
            _write_run(run, collection, options, digest(inputs), progress)
    return open_run_results(path)


def _inputs(collection: Collection, options: AnnotateOptions, clean: str) -> dict[str, Any]:
    """Everything that decides the numbers, and so the digest."""
    chosen = {key: value for key, value in asdict(options).items() if key not in NOT_IN_DIGEST}
    if options.granularity != "group":
        del chosen["group_by"]
    sources = {
        member.name: {
            "format": member.dataset.format,
            "selection": {key: value for key, value in asdict(member.options).items() if value},
            "files": {
                entry["path"]: f"{entry['size']} bytes, mtime_ns {entry['mtime_ns']}"
                for entry in fingerprint(member)
            },
        }
        for member in collection.members
    }
    return {
        "options": chosen | {"clean": clean},
        "sources": sources,
        "versions": package_versions(),
        "threads": 1,
    }


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


def _write_run(
    run: RunDirectory,
    collection: Collection,
    options: AnnotateOptions,
    run_digest: str,
    progress: Progress,
) -> None:
    sigma = noise.grid(options.schedule)
    workers = options.workers or len(os.sched_getaffinity(0))
    study = prepare_study(collection, options, run.work / "frames", progress)
    classifiers = fit_classifiers(
        study, sigma, run.work / "classifier", workers=workers, progress=progress
    )
    answers = score_study(study, classifiers, run.work, workers=workers, progress=progress)
    metadata = manifest_metadata(study, sigma, run_digest)
    rows = write_parts(
        study, classifiers, answers, run.work, metadata, workers=workers, progress=progress
    )
    curves = [*answers.arms.values(), *([answers.control] if answers.control else [])]
    write_curves(tabulate_curves(curves), run.work / "curves.parquet")
    write_reliability(tabulate_reliability(curves), run.work / "reliability.parquet")
    run.commit(_describe_run(collection, study, answers, rows, sigma))


def _describe_run(
    collection: Collection,
    study: Study,
    answers: Answers,
    rows: RowAnswers,
    sigma: Float64[np.ndarray, " level"],
) -> dict[str, Any]:
    options = study.options
    control = describe_control(answers.control, study.control)
    rates = {name: frames.rate_hz for name, frames in study.frames.items()}
    clean = study.clean.dataset
    return {
        "clean": clean,
        "granularity": options.granularity,
        "epsilon": options.epsilon,
        "schedule": options.schedule,
        "grid": sigma.tolist(),
        "representation": {"kind": options.represent, "reference": study.reference},
        "normaliser": study.normalizer.as_dict(),
        "weighting": options.weighting,
        "members": {
            member.name: describe_member(study, member.name)
            | {"format": member.dataset.format, "problems": list(member.dataset.problems)}
            for member in collection.members
        },
        "verdict": build_verdict(study, answers.arms, answers.findings, rows.sigma_min, rows.tilts),
        "shares": rows.shares,
        "checks": describe_checks(answers.findings),
        "control": control,
        "assumptions": list_assumptions(study),
        "warnings": [
            *list_warnings(study, control),
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
