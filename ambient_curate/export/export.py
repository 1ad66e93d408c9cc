"""Export of a run for another trainer."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ambient_curate.data.collection import Collection, list_numbers
from ambient_curate.data.study import Study
from ambient_curate.data.trainer_scales import compare_scales, fit_length, read_trainer_scales
from ambient_curate.errors import ConfigError, CurateError, write_count
from ambient_curate.export import (
    diffusion_policy,
    lerobot,
    mixture_weights,
    openpi,
    plain_tables,
    robomimic,
)
from ambient_curate.export.job import AnnotatedMember, Job
from ambient_curate.export.trainer_time import rescale
from ambient_curate.export.trainers import ExportOptions, Trainer
from ambient_curate.options import digest, options_or_changes
from ambient_curate.progress import Progress, silent
from ambient_curate.run.directory import open_run, package_versions
from ambient_curate.run.records import Kind, Run, has_own_numbers, open_run_results, read_run
from ambient_curate.run.schema import SCHEMA_VERSION
from ambient_curate.run.source_data import (
    place_values,
    read_normalizers,
    read_own_manifest,
    reopen_data,
    reopen_study,
)

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
CHECKS: dict[str, Callable[[Collection, ExportOptions], None]] = {
    "lerobot": lerobot.check,
    "robomimic": robomimic.check,
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
    factor, notes = _find_factor(run, chosen)
    inputs = _inputs(run, chosen, factor)
    path = chosen.out or Path(f"{run.path.resolve().name}_{chosen.to}")
    if chosen.force or not (path / EXPORT.record).exists():
        _check_data(run, chosen)  # before anything is read, or an earlier export deleted
    with open_run(path, inputs, digest(inputs), force=chosen.force, kind=EXPORT) as directory:
        if directory.complete:
            return Export(path, read_run(path, EXPORT), True)
        try:
            study_folder, out = directory.work / "frames", directory.work / "data"
            collection, study = reopen_study(run, study_folder, progress, data=chosen.data)
            job = _lay_job(run, study, collection, out, chosen, factor)
            WRITERS[chosen.to](job)
            unread = [*_list_unread(job, chosen), *_explain_numbers(job, run)]
            job.notes.extend([*_note_limit(run), *notes, *unread, *_list_unanswered(run)])
            described = _describe(job, chosen.trainer)
            _write_readme(out / "README.md", inputs | described)
        except CurateError:
            directory.abandon()
            raise
        directory.commit(described)
    return Export(path, read_run(path, EXPORT))


def _check_data(run: Run, chosen: ExportOptions) -> None:
    """Refuse data that is not what was annotated, or that the trainer cannot take."""
    collection = reopen_data(run, chosen.data)
    if chosen.to in CHECKS:
        CHECKS[chosen.to](collection, chosen)


def _note_limit(run: Run) -> list[str]:
    """Say that a run of ``--limit`` speaks of the first episodes only."""
    limit = run.info["options"]["limit"]
    if limit is None:
        return []
    return [
        f"The run was made with --limit {limit}: it speaks of the first "
        f"{write_count(limit, 'episode')} of each dataset, and the others have no rows."
    ]


def _list_unread(job: Job, chosen: ExportOptions) -> list[str]:
    """Say which datasets the trainer cannot read as they are."""
    known, unread = chosen.trainer.formats, dict[str, list[str]]()
    for member in job.members:
        if known and not member.format.startswith(known):
            unread.setdefault(member.format, []).append(member.name)
    return [
        f"{chosen.to} does not train on {format} ({', '.join(names)}): rows are of use once the "
        f"data is converted to {' or '.join(known)} with the same episodes and frames"
        for format, names in unread.items()
    ]


def _explain_numbers(job: Job, run: Run) -> list[str]:
    """Say where frames are not found by their index, or episodes by the numbers of the run."""
    notes = [
        f"{member.name}: its global index of frames does not tell all of them apart: join by "
        "episode_index and frame_index; index counts the frames of the annotated episodes"
        for member in job.members
        if member.frames.index_fails
    ]
    if not has_own_numbers(run.info):
        notes.append(
            "the run's episode_index is the position of an episode (schema version 1); here it is "
            "the source's own number"
        )
    return notes


def _list_unanswered(run: Run) -> list[str]:
    """Say which datasets and groups have no sigma_min, so that they never train, and why."""
    return [
        f"{row['dataset'] if row['group'] is None else row['dataset'] + ' / ' + row['group']}: "
        f"never usable, {row['status']}: {row['reason']}"
        for row in run.info["verdict"]
        if row["status"] != "ok"
    ]


def _find_factor(run: Run, chosen: ExportOptions) -> tuple[float, list[str]]:
    """Find by how much larger the trainer's scaled actions are than the run's, and what to say."""
    if chosen.normalizer is None:
        return 1.0, []
    own, dims = read_normalizers(run), run.info["sources"]
    kind = chosen.normalize or run.info["normaliser"]["kind"]
    scales = read_trainer_scales(chosen.normalizer, kind)
    again = (
        f"ambient-curate annotate COLLECTION --normalizer {chosen.normalizer} --normalize {kind}"
    )
    trainer = {
        name: fit_length(
            scales.of(name), dims[name]["selection"].get("dims", ()), normalizer.scale.size
        )
        for name, normalizer in own.items()
    }
    try:
        factor = compare_scales(own, trainer)
    except ConfigError as error:
        raise ConfigError(str(error), f"annotate for this trainer: {again}") from error
    cut = any(scaling.clipped.any() for scaling in trainer.values())
    if not cut or any(each.trainer and each.trainer.clipped.any() for each in own.values()):
        return factor, []
    return factor, [
        "the trainer cuts scaled actions off at -1 and 1, and the run did not: to compare what it "
        f"sees, {again}"
    ]


def _inputs(run: Run, chosen: ExportOptions, factor: float) -> dict[str, Any]:
    left_out = ("normalizer", "normalize", "data", "merged", "out", "force", "schedule")
    options = {key: value for key, value in asdict(chosen).items() if key not in left_out}
    options |= {"schedule": chosen.clock.schedule, "factor": factor}
    options |= {"merged": _describe_merged(chosen.merged)}
    versions = package_versions() | {"schema": str(SCHEMA_VERSION)}
    return {"options": options, "run": run.info["digest"], "versions": versions}


def _describe_merged(path: Path | None) -> str | None:
    """Identify the files of a merged dataset, videos left out, without reading them."""
    if path is None:
        return None
    files = sorted(file for file in path.rglob("*") if file.suffix in (".json", ".parquet"))
    return digest({str(f): (f.stat().st_size, f.stat().st_mtime_ns) for f in files})


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
    sources = {member.name: member for member in collection.members}
    members = []
    for name, frames in study.frames.items():
        rows = manifest.filter(pc.equal(manifest["dataset"], name))
        values = place_values(study, rows, name, np.arange(frames.n_episodes), COLUMNS)
        for column in ("sigma_min", "sigma_max"):
            values[column] = rescale(values[column], factor)
        numbers = np.sort(list_numbers(sources[name].dataset))
        member = AnnotatedMember(
            name=name,
            is_clean=name == study.clean.dataset,
            frames=frames,
            windows=study.windows[name],
            values=values,
            source=sources[name],
            position=np.searchsorted(numbers, frames.number),
        )
        members.append(member)
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
    return Job(tuple(members), out, clock, horizon, n_obs_steps, n_action_steps, metadata, chosen)


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
                "padded": job.padded[member.name],
                "effective": job.effective[member.name],
                "share": job.mixture[member.name],
            }
            for member in job.members
        },
        "notes": job.notes,
    }


def _write_readme(path: Path, info: Mapping[str, Any]) -> None:
    """Say beside the files what they are for."""
    lines = (f"# Export for {info['options']['to']}", *export_lines(info))
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def export_lines(info: Mapping[str, Any]) -> Iterator[str]:
    """Say when the trainer may use a window, what it honours, and what a user has to know.

    Parameters
    ----------
    info : mapping
        Content of ``export.json``.
    """
    options, before = info["options"], info["n_obs_steps"] - 1
    yield f"{options['to']}, {options['schedule']}: {info['rule']}."
    yield f"Honoured: {info['honours']}. Lost: {info['lost']}."
    begins = f"{write_count(before, 'frame')} before it" if before else "at it"
    yield (
        f"The window of a frame begins {begins}; one that leaves its episode has the values of the "
        "nearest whole window, and `padded` frames outside. annotate counts whole windows only, so "
        "there may be more here."
    )
    if options["factor"] != 1.0:
        yield (
            f"The trainer's actions are {options['factor']:.4g} times as large as the run's: noise "
            "levels were rescaled."
        )
    yield from info["notes"]
