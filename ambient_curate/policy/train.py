"""Training of a policy on a finished run."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ambient_curate.data.study import Study, open_study
from ambient_curate.errors import CheckpointError
from ambient_curate.options import digest, options_or_changes
from ambient_curate.policy.checkpoints import (
    POLICY,
    build_from_card,
    describe_policy,
    find_levels,
    load_weights,
    save_weights,
)
from ambient_curate.policy.denoiser import Denoiser, Shape, build_denoiser
from ambient_curate.policy.fitting import (
    CHECKPOINT,
    Lesson,
    Ranks,
    fit_policy,
    join_ranks,
    measure_errors,
)
from ambient_curate.policy.level_sampler import (
    LevelSampler,
    find_bands,
    never_admitted,
    split_shares,
)
from ambient_curate.policy.options import PolicyOptions
from ambient_curate.policy.preconditioning import PerMode, find_motion, fit_modes
from ambient_curate.policy.training_data import Curriculum, build_curriculum
from ambient_curate.progress import Progress, silent, warn
from ambient_curate.run.directory import RunDirectory, open_run, package_versions
from ambient_curate.run.records import Run, open_run_results, read_run
from ambient_curate.run.source_data import check_study, read_own_manifest, reopen_study

NOT_IN_DIGEST = ("out", "force", "workers", "data", "tensorboard")
FRAMES = "frames"
MODE_WINDOWS = 8_192  # from which a band's eigenvectors are found
FLOOR = 1e-6  # of a mode's variance, in scaled actions
MEASURED, MEASURED_WINDOWS = 20, 512  # levels and windows of the last held-out errors


@dataclass(frozen=True)
class TrainedPolicy:
    """A finished policy.

    Parameters
    ----------
    path : Path
        Its directory; `load_policy` reads it.
    info : dict
        Content of ``policy.json``.
    already_complete : bool
        It was there before, of the same inputs.
    rank : int
        Of this process among those that trained it.
    """

    path: Path
    info: dict[str, Any]
    already_complete: bool = False
    rank: int = 0


def train_policy(
    run: Run | Path | str,
    options: PolicyOptions | None = None,
    *,
    progress: Progress = silent,
    tell: Callable[[LevelSampler], None] | None = None,
    **changes: Any,
) -> TrainedPolicy:
    """Train a diffusion policy on a run: each window where its sigma_min and sigma_max admit it.

    The same call continues a training that was interrupted, with the same losses, and recognises
    one that is complete. Started by ``torchrun``, its processes share every batch.

    Parameters
    ----------
    run : Run, Path or str
        A finished run, or its directory.
    options : PolicyOptions or None
        None: the defaults.
    progress : Progress
        Told of all long work; silent by default.
    tell : callable or None
        Given the sampler before training begins, as to show its `coverage`.
    **changes
        Options by name; not with `options`.

    Raises
    ------
    CurateError
        If the data is not what was annotated, an option does not suit it, or the directory is
        taken.
    ValueError
        If both `options` and changes are given.

    References
    ----------
    Ambient Diffusion Policy, arXiv 2606.12365; Diffusion Policy, arXiv 2303.04137; method.md
    section 9.
    """
    options = options_or_changes(PolicyOptions, options, changes)
    if not isinstance(run, Run):
        run = open_run_results(run)
    path = options.out or Path(f"{run.path.resolve().name}_policy")
    inputs = _inputs(run, options)
    with join_ranks() as ranks, ExitStack() as stack:
        directory = RunDirectory(path, digest(inputs), inputs, POLICY)
        if ranks.is_first:
            opened = open_run(path, inputs, digest(inputs), force=options.force, kind=POLICY)
            directory = stack.enter_context(opened)
            if not directory.complete:
                reopen_study(run, directory.work / FRAMES, progress, data=options.data)
        ranks.wait()
        if not directory.complete:
            _train(run, options, directory, ranks, progress, tell)
            ranks.wait()
            return TrainedPolicy(path, read_run(path, POLICY), rank=ranks.rank)
        return TrainedPolicy(path, read_run(path, POLICY), True, ranks.rank)


def _inputs(run: Run, options: PolicyOptions) -> dict[str, Any]:
    chosen = {key: value for key, value in asdict(options).items() if key not in NOT_IN_DIGEST}
    if options.init is not None:
        chosen["init"] = read_run(options.init, POLICY)["digest"]
    return {"options": chosen, "run": run.info["digest"], "versions": package_versions()}


def _train(
    run: Run,
    options: PolicyOptions,
    directory: RunDirectory,
    ranks: Ranks,
    progress: Progress,
    tell: Callable[[LevelSampler], None] | None,
) -> None:
    study = open_study(directory.work / FRAMES)
    check_study(run, study)
    manifest = read_own_manifest(run)
    curriculum = build_curriculum(study, manifest, options)
    del manifest
    if options.epochs is not None:
        options = replace(options, steps=_count_steps(curriculum, options))
    sampler = _lay_sampler(curriculum, study, options)
    if ranks.is_first:
        _warn(curriculum, sampler, progress)
        if tell is not None:
            tell(sampler)
    shape, denoiser = _begin(curriculum, sampler, study, options)
    lesson = Lesson(curriculum.data, sampler, curriculum.held_out)
    shown = progress if ranks.is_first else silent
    trained = fit_policy(denoiser, lesson, options, directory.work, ranks, shown)
    if ranks.is_first:
        save_weights(trained, directory.work / POLICY.results[0])
        (directory.work / CHECKPOINT).unlink()
        schedule = study.options.schedule
        directory.commit(
            describe_policy(shape, curriculum.interface, schedule)
            | _describe_training(curriculum, sampler, trained)
        )


def _count_steps(curriculum: Curriculum, options: PolicyOptions) -> int:
    """Count the steps that draw as many windows as may be used at all, `epochs` times."""
    usable = int((np.nan_to_num(curriculum.admission.sigma_min, nan=1.0) < 1.0).sum())
    return max(1, round((options.epochs or 0.0) * usable / options.batch_size))


def _lay_sampler(curriculum: Curriculum, study: Study, options: PolicyOptions) -> LevelSampler:
    admission = curriculum.admission
    shares = None
    if options.clean_weight is not None and len(admission.dataset) > 1:
        sizes = dict(zip(admission.dataset, admission.size, strict=True))
        shares = split_shares(sizes, study.clean.dataset, options.clean_weight)
    levels = find_levels(study.options.schedule)
    return LevelSampler(admission, levels, shares=shares, seed=options.seed)


def _warn(curriculum: Curriculum, sampler: LevelSampler, progress: Progress) -> None:
    """Warn of what will not be used."""
    sizes = dict(zip(curriculum.admission.dataset, curriculum.admission.size, strict=True))
    for name, count in curriculum.unannotated.items():
        if count:
            found = f"{count:,} of {sizes[name]:,} windows have no sigma_min and are never used"
            warn(progress, f"{name}: {found}")
    for name in never_admitted(sampler):
        warn(progress, f"{name}: no noise level of the schedule admits any of its windows")


def _begin(
    curriculum: Curriculum, sampler: LevelSampler, study: Study, options: PolicyOptions
) -> tuple[Shape, Denoiser]:
    """Build the denoiser with its first weights."""
    if options.init is not None:
        return _load_initial(curriculum, study, options.init)
    modes = None
    if options.prediction == "wiener":
        modes = _find_modes(curriculum, sampler, options.seed)
    batch = curriculum.data.read(np.zeros(1, dtype=np.int64))
    _, horizon, action_dim = batch["action"].shape
    shape = Shape(
        options.network,
        options.prediction,
        horizon,
        action_dim,
        batch["condition"].shape[1],
        sampler.sigma.size,
        0 if modes is None else modes.basis.shape[0],
        options.octaves,
        0 if modes is None else modes.slope.shape[1],
    )
    generator = torch.Generator().manual_seed(options.seed)
    sigma = torch.from_numpy(sampler.sigma).float()
    return shape, build_denoiser(shape, sigma, modes, generator=generator)


def _find_modes(curriculum: Curriculum, sampler: LevelSampler, seed: int) -> PerMode:
    """Find the eigenvectors of what is admitted, band of levels by band."""
    band = find_bands(sampler)
    rng = np.random.default_rng([seed, 3])
    seen = curriculum.interface
    past = seen.n_obs_steps - 1 if seen.reference == "state" and seen.scale_state else 0
    windows, motion = [], []
    for number in range(int(band[-1]) + 1):
        levels = rng.choice(np.flatnonzero(band == number), size=MODE_WINDOWS)
        batch = curriculum.data.read(sampler.draw_at(levels, rng))
        action_dim = batch["action"].shape[2]
        windows.append(batch["action"])
        motion.append(find_motion(batch["condition"], past * action_dim, action_dim))
    return fit_modes(windows, torch.from_numpy(band), floor=FLOOR, motion_by_band=motion)


def _load_initial(curriculum: Curriculum, study: Study, path: Path) -> tuple[Shape, Denoiser]:
    card = read_run(path, POLICY)
    denoiser, interface = build_from_card(card)
    load_weights(denoiser, path / POLICY.results[0])
    own = curriculum.interface.as_dict() | {"schedule": study.options.schedule}
    given = interface.as_dict() | {"schedule": card["schedule"]}
    for part, value in own.items():
        if value != given[part]:
            raise CheckpointError(
                f"the {part} of {path} is {given[part]}, that of this training {value}",
                "start from a policy of the same data, conditions and representation",
            )
    return Shape(**card["shape"]), denoiser


def _describe_training(
    curriculum: Curriculum, sampler: LevelSampler, trained: Denoiser
) -> dict[str, Any]:
    """Say what was used, and how far the policy errs on what was held out."""
    admission = curriculum.admission
    coverage = {name: share.tolist() for name, share in sampler.coverage().items()}
    held_out = None
    if curriculum.held_out is not None:
        levels = np.unique(np.linspace(0, sampler.sigma.size - 1, MEASURED).round().astype(int))
        errors = measure_errors(trained, curriculum.held_out, levels, windows=MEASURED_WINDOWS)
        held_out = {
            "levels": levels.tolist(),
            "sigma": sampler.sigma[levels].tolist(),
            "error": errors.tolist(),
        }
    return {
        "windows": dict(zip(admission.dataset, admission.size, strict=True)),
        "effective_windows": admission.effective_sizes(),
        "unannotated": curriculum.unannotated,
        "sigma": sampler.sigma.tolist(),
        "coverage": coverage,
        "held_out": held_out,
    }
