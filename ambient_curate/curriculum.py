"""The curriculum: from a manifest and its data to what a policy is trained on, and when."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ambient_curate.errors import ConfigError, NotEnoughDataError
from ambient_curate.frames import Frames
from ambient_curate.placement import place_values
from ambient_curate.policy.demonstrations import Demonstrations, Part
from ambient_curate.policy.interface import Interface
from ambient_curate.policy.options import PolicyOptions
from ambient_curate.policy.sampler import Admission
from ambient_curate.study import Study
from ambient_curate.windows import fit_normalizer

COLUMNS = ("sigma_min", "sigma_max", "weight")


@dataclass(frozen=True, eq=False)
class Curriculum:
    """What a policy is trained on.

    Parameters
    ----------
    data : Demonstrations
        Its windows.
    held_out : Demonstrations or None
        Clean windows of episodes that are kept apart, without copies in `data`.
    admission : Admission
        Which of the windows may be used at which noise.
    interface : Interface
        What the policy reads and gives.
    unannotated : dict of str to int
        By dataset: windows without a sigma_min, which are never used.
    """

    data: Demonstrations
    held_out: Demonstrations | None
    admission: Admission
    interface: Interface
    unannotated: dict[str, int]


def build_curriculum(study: Study, manifest: pa.Table, options: PolicyOptions) -> Curriculum:
    """Lay out the data of a run as its manifest and the options say.

    Parameters
    ----------
    study : Study
        The run's data.
    manifest : pyarrow.Table
        Of the run.
    options : PolicyOptions
        How.

    Raises
    ------
    ConfigError
        If the window is too short for what is observed and executed, or a column to condition on
        does not exist.
    NotEnoughDataError
        If no corrupt window is annotated, unless that is allowed; if weights are asked for and
        there are none.
    """
    _check_lengths(study, options)
    kept = {name: np.flatnonzero(study.windows[name].counts) for name in study.frames}
    apart = _hold_out(study, kept[study.clean.dataset], options)
    names = [study.clean.dataset]
    if options.mode != "clean":
        names += [name for name in sorted(study.frames) if name not in names]
    copies = study.frames[study.clean.dataset].digest[apart]
    kept = {
        name: kept[name][~np.isin(study.frames[name].digest[kept[name]], copies)] for name in names
    }
    interface = _describe_interface(study, names, options)
    data = _demonstrate(study, kept, interface)
    held_out = _demonstrate(study, {names[0]: apart}, interface) if apart.size else None
    values = [place_values(study, manifest, name, kept[name], COLUMNS) for name in names]
    admission = _admit(data, values, options)
    unannotated = {
        name: int(np.isnan(admission.sigma_min[span]).sum()) for name, span in admission.spans()
    }
    _require_annotated(data, unannotated, options)
    return Curriculum(data, held_out, admission, interface, unannotated)


def _check_lengths(study: Study, options: PolicyOptions) -> None:
    horizon, actions = study.options.horizon, options.count_actions(study.options.horizon)
    needed = options.n_obs_steps - 1 + actions
    if needed > horizon:
        raise ConfigError(
            f"n_obs_steps = {options.n_obs_steps} and n_action_steps = {actions} need windows of "
            f"{needed} frames; the run has {horizon}",
            "use fewer, or annotate with a longer --horizon",
        )


def _hold_out(study: Study, kept: np.ndarray, options: PolicyOptions) -> np.ndarray:
    """Choose the clean episodes that are kept apart."""
    count = round(options.validation * kept.size)
    order = np.random.default_rng([options.seed, 2]).permutation(kept)
    return np.sort(order[:count])


def _describe_interface(study: Study, names: Sequence[str], options: PolicyOptions) -> Interface:
    clean = study.frames[study.clean.dataset]
    scale_state = None
    dims = {name: study.frames[name].state_dim for name in names}
    if clean.state_dim:
        differing = [name for name, dim in dims.items() if dim != clean.state_dim]
        if differing:
            raise ConfigError(
                f"states cannot be compared: {study.clean.dataset} has {clean.state_dim} "
                f"dimensions, {differing[0]} has {dims[differing[0]]}",
                "choose their common columns with `state` in ambient.toml, and annotate again",
            )
        scale_state = fit_normalizer("minmax", clean.data["state"].numpy())
    frames = {name: study.frames[name] for name in names}
    return Interface(
        study.options.represent,
        study.reference,
        study.normalizer,
        scale_state,
        {column: _range_of(frames, column) for column in options.columns},
        options.n_obs_steps,
        options.count_actions(study.options.horizon),
        clean.rate_hz,
    )


def _range_of(frames: Mapping[str, Frames], column: str) -> list[Any]:
    """Find what is known of a column: its texts, or the lowest and highest of its numbers."""
    values = [value for member in frames.values() for value in _read_column(member, column)]
    if missing := sum(value is None for value in values):
        found = sorted({key for m in frames.values() for labels in m.labels() for key in labels})
        raise ConfigError(
            f"{missing} of {len(values)} episodes have no column {column!r} to condition on",
            f"use task or one of: {', '.join(found) or '(no columns)'}",
        )
    if any(isinstance(value, str) for value in values):
        return sorted({str(value) for value in values})
    numbers = np.array(values, dtype=np.float64)
    return [float(numbers.min()), float(numbers.max())]


def _read_column(frames: Frames, column: str) -> list[Any]:
    if column == "task":
        return list(frames.task)
    return [labels.get(column) for labels in frames.labels()]


def _demonstrate(
    study: Study, episodes: Mapping[str, np.ndarray], interface: Interface
) -> Demonstrations:
    parts = []
    for name, rows in episodes.items():
        frames = study.frames[name]
        state = None if interface.scale_state is None else frames.data["state"]
        parts.append(Part(name, study.windows[name], rows, state, _tell(frames, interface)))
    return Demonstrations(
        parts,
        interface.scale_state,
        n_obs_steps=interface.n_obs_steps,
        n_action_steps=interface.n_action_steps,
    )


def _tell(frames: Frames, interface: Interface) -> Tensor:
    """Encode what the policy is told of every episode."""
    columns = {name: _read_column(frames, name) for name in interface.columns}
    told = np.zeros((frames.n_episodes, interface.condition_dim), dtype=np.float32)
    for row in range(frames.n_episodes if columns else 0):
        told[row] = interface.encode({name: values[row] for name, values in columns.items()})
    return torch.from_numpy(told)


def _admit(
    data: Demonstrations,
    values: Sequence[Mapping[str, np.ndarray]],
    options: PolicyOptions,
) -> Admission:
    """Say what may be used when: by the manifest, or everything everywhere."""
    names = tuple(part.name for part in data.parts)
    spread = {
        column: np.concatenate(
            [data.spread(number, found[column]) for number, found in enumerate(values)]
        )
        for column in COLUMNS
    }
    everywhere = np.zeros(len(data))
    if options.mode == "ambient":
        low = np.nan_to_num(spread["sigma_max"], nan=0.0)
        high = spread["sigma_min"]
        if options.sigma_min is not None:
            high[data.size[0] :] = options.sigma_min  # the first part is the clean set
        if options.sigma_max is not None:
            low[data.size[0] :] = options.sigma_max
        return Admission(names, data.size, high, low)
    weight = None
    if options.mode == "weighted":
        weight = _require_weights(spread["weight"])
    return Admission(names, data.size, everywhere, everywhere, weight)


def _require_weights(weight: np.ndarray) -> np.ndarray:
    if np.isnan(weight).all():
        raise NotEnoughDataError(
            "the manifest has no weights", "annotate with --granularity datapoint"
        )
    return np.nan_to_num(weight, nan=0.0)


def _require_annotated(
    data: Demonstrations, unannotated: Mapping[str, int], options: PolicyOptions
) -> None:
    corrupt = [
        unannotated[part.name] == size
        for part, size in zip(data.parts[1:], data.size[1:], strict=True)
    ]
    if options.mode != "ambient" or options.allow_unannotated or not all(corrupt):
        return
    raise NotEnoughDataError(
        "no corrupt window of the run has a sigma_min: a policy would be trained on the clean set "
        "alone",
        "use --mode clean if that is what you want, or --allow-unannotated",
    )
