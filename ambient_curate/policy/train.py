"""Training of a policy on a finished run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from ambient_curate.data.normalizer import Normalizer
from ambient_curate.data.study import Study, open_study
from ambient_curate.errors import CheckpointError, ConfigError
from ambient_curate.option_fields import spell_keys
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
    check_tracker,
    fit_policy,
    measure_errors,
)
from ambient_curate.policy.interface import Interface
from ambient_curate.policy.level_sampler import (
    LevelSampler,
    find_bands,
    never_admitted,
    split_shares,
)
from ambient_curate.policy.options import PolicyOptions
from ambient_curate.policy.preconditioning import PerMode, find_motion, fit_modes
from ambient_curate.policy.training_data import (
    Curriculum,
    Demonstrations,
    Kept,
    build_curriculum,
)
from ambient_curate.progress import Progress, silent, warn
from ambient_curate.run.directory import RunDirectory, open_run, package_versions
from ambient_curate.run.records import Run, digest_files, open_run_results, read_run
from ambient_curate.run.source_data import check_study, read_own_manifest, reopen_study
from ambient_curate.training import Ranks, join_ranks

NOT_IN_DIGEST = ("out", "force", "workers", "data", "log")
# what the policy to start from decides, where nothing else is said
DECIDED = ("network", "prediction", "octaves", "n_obs_steps", "n_action_steps", "condition")
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

    With `init` it goes on from a finished policy, with a schedule of its own: weights (the moving
    average, as saved), principal axes, scales and what is observed are that policy's. The clean
    episodes that were held out stay so, and ``policy.json`` has the error on them before and after.

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
        Options by name; not with `options`. Where they name an `init`, its policy decides what the
        network is and observes; values in `options` must agree with it.

    Raises
    ------
    CurateError
        If the data is not what was annotated, an option does not suit it or its extra is not
        installed, the directory is taken, or the policy to start from is of other dimensions,
        another horizon, observation, normaliser or network.
    ValueError
        If both `options` and changes are given.

    References
    ----------
    Ambient Diffusion Policy, arXiv 2606.12365; Diffusion Policy, arXiv 2303.04137; method.md
    section 9.
    """
    options = _settle(options, changes)
    check_tracker(options.log)
    if not isinstance(run, Run):
        run = open_run_results(run)
    path = options.out or Path(f"{run.path.resolve().name}_policy")
    if options.init is not None and path.resolve() == options.init.resolve():
        raise ConfigError(
            f"{path} is the policy to start from, and would be replaced by the new one",
            "choose another directory with --out",
        )
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


def _settle(options: PolicyOptions | None, changes: Mapping[str, Any]) -> PolicyOptions:
    """Complete options by name with what the policy to start from decides."""
    chosen = options_or_changes(PolicyOptions, options, changes)
    if options is not None or chosen.init is None:
        return chosen
    stored = read_run(chosen.init, POLICY)["options"]
    given, _ = spell_keys(changes, PolicyOptions.declared)
    return replace(chosen, **{name: stored[name] for name in DECIDED if given.get(name) is None})


def _inputs(run: Run, options: PolicyOptions) -> dict[str, Any]:
    chosen = {key: value for key, value in asdict(options).items() if key not in NOT_IN_DIGEST}
    if options.init is not None:
        chosen["init"] = read_run(options.init, POLICY)["seal"]
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
    start = None if options.init is None else _read_start(options.init, study, options)
    kept = None if start is None else start.kept
    curriculum = build_curriculum(study, read_own_manifest(run), options, kept)
    if options.epochs is not None:
        options = replace(options, steps=_count_steps(curriculum, options))
    sampler = _lay_sampler(curriculum, study, options)
    if ranks.is_first:
        _warn(curriculum, sampler, progress)
        if tell is not None:
            tell(sampler)
    shape, denoiser = _begin(curriculum, sampler, options) if start is None else start.network
    denoiser = denoiser.to(ranks.device)
    described = _describe_training(curriculum, sampler, start)
    if ranks.is_first:
        described["held_out"] = _describe_held_out(study, curriculum, sampler, start)
    lesson = Lesson(curriculum.data, sampler, curriculum.held_out)
    shown = progress if ranks.is_first else silent
    trained = fit_policy(denoiser, lesson, options, directory.work, ranks, shown, directory.path)
    if ranks.is_first:
        if curriculum.held_out is not None:
            described["held_out"]["error"] = _measure(trained, curriculum.held_out)
        save_weights(trained, directory.work / POLICY.results[0])
        (directory.work / CHECKPOINT).unlink(missing_ok=True)  # of no steps there is none
        card = describe_policy(shape, curriculum.interface, study.options.schedule)
        directory.commit(card | described)


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
    curriculum: Curriculum, sampler: LevelSampler, options: PolicyOptions
) -> tuple[Shape, Denoiser]:
    """Build the denoiser with its first weights."""
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


@dataclass(frozen=True, eq=False)
class _Start:
    """A finished policy that a training goes on from.

    Parameters
    ----------
    record : dict
        What ``policy.json`` of the next one says of it.
    network : tuple of Shape and Denoiser
        With its weights.
    kept : Kept
        What its training data has to do with that of the next.
    """

    record: dict[str, Any]
    network: tuple[Shape, Denoiser]
    kept: Kept


def _read_start(path: Path, study: Study, options: PolicyOptions) -> _Start:
    card, weights = read_run(path, POLICY), POLICY.results[0]
    denoiser, interface = build_from_card(card)
    load_weights(denoiser, path / weights)
    if digest_files(path, [weights])[weights] != card["files"][weights]:
        raise CheckpointError(
            f"{path / weights} was changed since {POLICY.record} was written",
            "train that policy again with --force",
        )
    shape = Shape(**card["shape"])
    pairs = _pair_interfaces(shape, interface, card["schedule"], study, options)
    if differing := [f"{name} is {old}, here {new}" for name, old, new in pairs if old != new]:
        raise CheckpointError(
            f"the policy {path} does not suit this training: its {'; '.join(differing)}",
            "leave out the options that it decides; other data is scaled as its own was by "
            "annotate --normalizer and the run.json of the run that it was trained on",
        )
    named = {"path": str(path), "seal": card["seal"], "run": card["run"]}
    record = named | {name: card["options"][name] for name in ("mode", "steps")}
    return _Start(record, (shape, denoiser), Kept.from_card(card, interface))


def _pair_interfaces(
    shape: Shape, there: Interface, schedule: str, study: Study, options: PolicyOptions
) -> Iterator[tuple[str, object, object]]:
    """Yield what must be equal: its name, of a policy and of what it is to be trained on."""
    clean, here = study.frames[study.clean.dataset], study.options
    yield "network", shape.network, options.network
    yield "prediction", shape.prediction, options.prediction
    yield "octaves", shape.octaves, options.octaves
    yield "n_obs_steps", there.n_obs_steps, options.n_obs_steps
    yield "n_action_steps", there.n_action_steps, options.count_actions(here.horizon)
    yield "condition", ",".join(there.columns) or "none", ",".join(options.columns) or "none"
    yield "horizon", shape.horizon, here.horizon
    yield "schedule", schedule, here.schedule
    yield "representation", there.represent, here.represent
    yield "reference", there.reference, study.reference
    state = 0 if there.scale_state is None else there.scale_state.scale.size
    yield "number of state dimensions", state, clean.state_dim
    yield "control_hz", there.control_hz, clean.rate_hz
    old, new = there.scale_action, study.normalizer
    yield "number of action dimensions", old.scale.size, new.scale.size
    if old.scale.size == new.scale.size:
        yield from _pair_scales(old, new)


def _pair_scales(old: Normalizer, new: Normalizer) -> Iterator[tuple[str, object, object]]:
    """Yield what decides of the units of sigma_min: each scale, and what is cut off."""
    first = int((old.scale != new.scale).argmax())
    scale, scale_here = float(old.scale[first]), float(new.scale[first])
    yield f"normaliser's scale in dimension {first}", scale, scale_here
    cut, cut_here = _list_clipped(old), _list_clipped(new)
    yield "normaliser's list of dimensions that are cut off", cut, cut_here
    for dim in cut if cut == cut_here else []:
        lower, lower_here = _find_lower_end(old, dim), _find_lower_end(new, dim)
        yield f"normaliser's cut-off in dimension {dim}", lower, lower_here


def _list_clipped(normalizer: Normalizer) -> list[int]:
    trainer = normalizer.trainer
    return [] if trainer is None else np.flatnonzero(trainer.clipped).tolist()


def _find_lower_end(normalizer: Normalizer, dim: int) -> float:
    """Value that becomes -1."""
    shift = 0.0 if normalizer.trainer is None else normalizer.trainer.shift[dim]
    return float(normalizer.offset[dim] - (1.0 + shift) * normalizer.spread[dim])


def _describe_training(
    curriculum: Curriculum, sampler: LevelSampler, start: _Start | None
) -> dict[str, Any]:
    """Describe the data, levels and start of a training for ``policy.json``."""
    admission = curriculum.admission
    return {
        "init": None if start is None else start.record,
        "windows": dict(zip(admission.dataset, admission.size, strict=True)),
        "effective_windows": admission.effective_sizes(),
        "unannotated": curriculum.unannotated,
        "sigma": sampler.sigma.tolist(),
        "coverage": {name: share.tolist() for name, share in sampler.coverage().items()},
        "held_out": None,
    }


def _describe_held_out(
    study: Study, curriculum: Curriculum, sampler: LevelSampler, start: _Start | None
) -> dict[str, Any] | None:
    """Say what is held out, and how far a policy errs there that is gone on from."""
    if curriculum.held_out is None:
        return None
    rows = curriculum.held_out.parts[0].episodes
    digests = study.frames[study.clean.dataset].digest[rows].tolist()
    levels = _spread_levels(sampler.sigma.size)
    described = {
        "episodes": [digest.ljust(32, b"\0").hex() for digest in digests],
        "levels": levels.tolist(),
        "sigma": sampler.sigma[levels].tolist(),
    }
    if start is not None and start.kept.held_out.size:  # else it was trained on these episodes
        described["error_before"] = _measure(start.network[1], curriculum.held_out)
    return described


def _spread_levels(count: int) -> Int64[np.ndarray, " level"]:
    return np.unique(np.linspace(0, count - 1, MEASURED).round().astype(np.int64))


def _measure(denoiser: Denoiser, held_out: Demonstrations) -> list[float]:
    levels = _spread_levels(denoiser.sigma.shape[0])
    return measure_errors(denoiser, held_out, levels, windows=MEASURED_WINDOWS).tolist()
