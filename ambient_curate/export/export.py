"""Export of a run for another trainer."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ambient_curate.data.collection import Collection
from ambient_curate.data.study import Study
from ambient_curate.export import (
    diffusion_policy,
    lerobot,
    mixture_weights,
    openpi,
    plain_tables,
    robomimic,
)
from ambient_curate.export.action_scale import compare_scales, read_scale, rescale
from ambient_curate.export.job import AnnotatedMember, Job
from ambient_curate.export.trainers import ExportOptions, Trainer
from ambient_curate.options import digest, options_or_changes
from ambient_curate.progress import Progress, silent
from ambient_curate.run.directory import open_run, package_versions
from ambient_curate.run.records import Kind, Run, open_run_results, read_run
from ambient_curate.run.source_data import place_values, read_own_manifest, reopen_study

WRITERS: dict[str, Callable[[Job], None]] = {
    "lerobot": lerobot.write,
    "diffusion-policy": diffusion_policy.write,
    "openpi": openpi.write,
    "robomimic": robomimic.write,
    "octo": mixture_weights.write_mixture,
    "openvla": mixture_weights.write_mixture,
    "gr00t": mixture_weights.write_trajectories,
    "parquet": plain_tables.write_parquet,
    "csv": plain_tables.write_csv,
    "jsonl": plain_tables.write_jsonl,
}


EXPORT = Kind("export", "export", ("data",))
COLUMNS = ("sigma_min", "sigma_max", "weight")


@dataclass(frozen=True)
class Export:
    """A finished export.

    Parameters
    ----------
    path : Path
        Its directory; the files lie in ``data``.
    info : dict
        Content of ``export.json``.
    already_complete : bool
        It was there before, of the same inputs.
    """

    path: Path
    info: dict[str, Any]
    already_complete: bool = False


def export_run(
    run: Run | Path | str,
    options: ExportOptions | None = None,
    *,
    progress: Progress = silent,
    **changes: Any,
) -> Export:
    """Write what a run says for another trainer: by its own windows, in its own time.

    A window of the trainer that leaves its episode takes the values of the nearest whole window.
    One without a sigma_min is never usable: its sigma_min is written as 1.

    Parameters
    ----------
    run : Run, Path or str
        A finished run, or its directory.
    options : ExportOptions or None
        None: the defaults.
    progress : Progress
        Told of all long work.
    **changes
        Options by name; not with `options`.

    Raises
    ------
    CurateError
        If the data is not what was annotated, the trainer scales actions otherwise or cannot take
        such data, or the directory is taken.
    ValueError
        If both `options` and changes are given.

    References
    ----------
    method.md, sections 1 and 10.
    """
    chosen = options_or_changes(ExportOptions, options, changes)
    if not isinstance(run, Run):
        run = open_run_results(run)
    factor = _find_factor(run, chosen.normalizer)
    inputs = _inputs(run, chosen, factor)
    path = chosen.out or Path(f"{run.path.resolve().name}_{chosen.to}")
    with ExitStack() as stack:
        directory = stack.enter_context(
            open_run(path, inputs, digest(inputs), force=chosen.force, kind=EXPORT)
        )
        if directory.complete:
            return Export(path, read_run(path, EXPORT), True)
        frames = directory.work / "frames"
        collection, study = reopen_study(run, frames, progress, data=chosen.data)
        job = _lay_job(run, study, collection, directory.work / "data", chosen, factor)
        job.notes.extend(_list_unanswered(run))
        WRITERS[chosen.to](job)
        directory.commit(_describe(job, chosen.trainer))
    return Export(path, read_run(path, EXPORT))


def _list_unanswered(run: Run) -> list[str]:
    """Say which datasets and groups have no sigma_min, so that they never train, and why."""
    return [
        f"{row['dataset'] if row['group'] is None else row['dataset'] + ' / ' + row['group']}: "
        f"never usable, {row['status']}: {row['reason']}"
        for row in run.info["verdict"]
        if row["status"] != "ok"
    ]


def _find_factor(run: Run, normalizer: Path | None) -> float:
    """Find by how much larger the trainer's scaled actions are than the run's."""
    if normalizer is None:
        return 1.0
    own = run.info["normaliser"]
    scale = np.asarray(own["scale"], dtype=np.float64)
    return compare_scales(scale, read_scale(normalizer, own["kind"]))


def _inputs(run: Run, chosen: ExportOptions, factor: float) -> dict[str, Any]:
    left_out = ("normalizer", "data", "out", "force", "schedule")
    options = {key: value for key, value in asdict(chosen).items() if key not in left_out}
    options |= {"schedule": chosen.clock.schedule, "factor": factor}
    return {"options": options, "run": run.info["digest"], "versions": package_versions()}


def _lay_job(
    run: Run,
    study: Study,
    collection: Collection,
    out: Path,
    chosen: ExportOptions,
    factor: float,
) -> Job:
    out.mkdir(exist_ok=True)
    trainer, clock, manifest = chosen.trainer, chosen.clock, read_own_manifest(run)
    files = {member.name: tuple(member.dataset.shards) for member in collection.members}
    members = []
    for name, frames in study.frames.items():
        rows = manifest.filter(pc.equal(manifest["dataset"], name))
        values = place_values(study, rows, name, np.arange(frames.n_episodes), COLUMNS)
        for column in ("sigma_min", "sigma_max"):
            values[column] = rescale(values[column], factor)
        is_clean, kind = name == study.clean.dataset, study.sources[name]["format"]
        windows = study.windows[name]
        members.append(AnnotatedMember(name, is_clean, frames, windows, values, kind, files[name]))
    n_obs_steps = chosen.n_obs_steps or trainer.n_obs_steps
    metadata = {
        "schedule": clock.schedule,
        "rule": clock.rule,
        "representation": study.options.represent,
        "n_obs_steps": str(n_obs_steps),
        "run_digest": run.info["digest"],
    }
    n_action_steps = chosen.n_action_steps or trainer.n_action_steps
    horizon = study.options.horizon
    return Job(tuple(members), out, clock, horizon, n_obs_steps, n_action_steps, metadata)


def _describe(job: Job, trainer: Trainer) -> dict[str, Any]:
    """Say what was written, for ``export.json``."""
    return {
        "honours": trainer.honours,
        "lost": trainer.lost,
        "rule": job.clock.rule,
        "horizon": job.horizon,
        "n_obs_steps": job.n_obs_steps,
        "n_action_steps": job.n_action_steps,
        "members": {
            member.name: {
                "is_clean": member.is_clean,
                "rows": job.rows[member.name],
                "never_usable": job.never[member.name],
                "effective": job.effective[member.name],
                "share": job.mixture[member.name],
            }
            for member in job.members
        },
        "notes": job.notes,
    }
