"""Training data of a policy: windows with observations, and the levels each may be used at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32, Float64, Int64, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from ambient_curate.data.cache import Frames
from ambient_curate.data.normalizer import Normalizer, fit_normalizer
from ambient_curate.data.study import Study
from ambient_curate.data.windows import Windows, nearest_windows
from ambient_curate.errors import ConfigError, NotEnoughDataError, write_count
from ambient_curate.policy.interface import Interface, kind_of
from ambient_curate.policy.level_sampler import Admission, Item
from ambient_curate.policy.options import PolicyOptions
from ambient_curate.run.source_data import place_values

Batch = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Part:
    """Some episodes of one dataset.

    Parameters
    ----------
    name : str
        Of the dataset.
    windows : Windows
        Its actions, as the policy is to give them; `stride` is that of the annotation.
    episodes : ndarray, int64, shape (episode,)
        Those in use, each with a whole window.
    state : Tensor, float32, shape (frame, state), or None
        What is observed; None: nothing.
    condition : Tensor, float32, shape (dataset's episodes, condition)
        What the policy knows of an episode, such as its goal.
    """

    name: str
    windows: Windows
    episodes: Int64[np.ndarray, " episode"]
    state: Float32[Tensor, "frame state"] | None
    condition: Float32[Tensor, "all_episodes condition"]


class Demonstrations(Dataset[Batch]):
    """All windows of all parts, one after the other; a datum is the place of one.

    A window begins with the `n_obs_steps` frames that are observed, of which the last is the
    present. As in Diffusion Policy (Chi et al. 2023), windows also begin up to ``n_obs_steps - 1``
    frames before an episode and end up to ``n_action_steps - 1`` frames after it; there the first
    or last frame is repeated.

    Parameters
    ----------
    parts : sequence of Part
        Of equal dimensions.
    scale_state : Normalizer or None
        Of observed states; None: there are none.
    n_obs_steps, n_action_steps : int
        Frames observed, and frames that are executed of a window, >= 1.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        scale_state: Normalizer | None,
        *,
        n_obs_steps: int,
        n_action_steps: int,
    ) -> None:
        self.parts, self.scale_state = parts, scale_state
        self.before, self.after = n_obs_steps - 1, n_action_steps - 1
        self._counts = [
            part.windows.length[part.episodes]
            - part.windows.horizon
            + (1 + self.before + self.after)
            for part in parts
        ]
        self._ends = [np.cumsum(counts) for counts in self._counts]
        self.size = tuple(int(counts.sum()) for counts in self._counts)
        self._until = np.cumsum(self.size)

    def __len__(self) -> int:
        return int(self._until[-1])

    def spread(
        self, part: int, values: Float64[np.ndarray, " window"]
    ) -> Float64[np.ndarray, " datum"]:
        """Give every datum of a part the value of the nearest whole window of its episode.

        Parameters
        ----------
        part : int
            Number of the part.
        values : ndarray, float64, shape (window,)
            One a whole window of the part's episodes, in their order.
        """
        windows, episodes = self.parts[part].windows, self.parts[part].episodes
        counts = windows.counts[episodes]
        episode, start = self._locate(part, np.arange(self.size[part]))
        length = windows.length[episodes][episode]
        number = nearest_windows(start, length, windows.horizon, windows.stride)
        return values[(np.cumsum(counts) - counts)[episode] + number]

    def _locate(
        self, part: int, place: Int64[np.ndarray, " datum"]
    ) -> tuple[Int64[np.ndarray, " datum"], Int64[np.ndarray, " datum"]]:
        """Find the number of the episode in the part, and the first frame, which may be < 0."""
        ends = self._ends[part]
        episode = np.searchsorted(ends, place, side="right")
        start = place - (ends - self._counts[part])[episode] - self.before
        return episode, start

    def read(self, data: Int64[np.ndarray, " datum"]) -> Batch:
        """Read data as a batch.

        Returns
        -------
        dict of str to Tensor
            ``action``, float32 (datum, horizon, action), scaled; ``condition``, float32
            (datum, n_obs_steps x state + condition): observed states, scaled, oldest first, then
            what the policy knows of the episode.
        """
        owner = np.searchsorted(self._until, data, side="right")
        pieces = [
            (where, *self._read_part(part, data[where] - (self._until[part] - self.size[part])))
            for part in np.unique(owner).tolist()
            for where in [np.flatnonzero(owner == part)]
        ]
        back = torch.from_numpy(np.argsort(np.concatenate([where for where, _, _ in pieces])))
        return {
            "action": torch.cat([action for _, action, _ in pieces])[back],
            "condition": torch.cat([condition for _, _, condition in pieces])[back],
        }

    def _read_part(self, part: int, place: np.ndarray) -> tuple[Tensor, Tensor]:
        chosen = self.parts[part]
        number, start = self._locate(part, place)
        episode = chosen.episodes[number]
        steps = start[:, None] + np.arange(chosen.windows.horizon)
        steps = np.clip(steps, 0, chosen.windows.length[episode][:, None] - 1)
        frames = torch.from_numpy(steps + chosen.windows.offset[episode][:, None])
        condition = chosen.condition[torch.from_numpy(episode)]
        if chosen.state is not None and self.scale_state is not None:
            seen = self.scale_state.apply(chosen.state[frames[:, : self.before + 1]])
            condition = torch.cat([seen.flatten(1), condition], dim=1)
        return chosen.windows.read(frames), condition

    def __getitem__(self, item: Item) -> Batch:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[Item]) -> Batch:
        """Read a whole batch at once; with ``datum`` and ``level``, int64, of every pair."""
        pairs = np.asarray(items, dtype=np.int64)
        datum, level = torch.from_numpy(pairs[:, 0].copy()), torch.from_numpy(pairs[:, 1].copy())
        return self.read(pairs[:, 0]) | {"datum": datum, "level": level}


def keep_batch(batch: Any) -> Batch:
    """Collate nothing: `Demonstrations` gives whole batches to a `DataLoader`."""
    return batch


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


@dataclass(frozen=True, eq=False)
class Kept:
    """What a training takes over from the policy that it goes on from.

    Parameters
    ----------
    interface : Interface
        Its own: the network has learnt in the units of these scales and the places of these texts.
    held_out : ndarray, 32 bytes, shape (episode,)
        `Frames.digest` of the clean episodes that were kept apart, and still are.
    """

    interface: Interface
    held_out: Shaped[np.ndarray, " episode"]

    @classmethod
    def from_card(cls, card: Mapping[str, Any], interface: Interface) -> "Kept":
        """Read it from ``policy.json``."""
        digests = (card["held_out"] or {}).get("episodes", [])
        return cls(interface, np.array([bytes.fromhex(text) for text in digests], dtype="S32"))


def build_curriculum(
    study: Study, manifest: pa.Table, options: PolicyOptions, kept: Kept | None = None
) -> Curriculum:
    """Lay out the data of a run as its manifest and the options say.

    Parameters
    ----------
    study : Study
        The run's data.
    manifest : pyarrow.Table
        Of the run.
    options : PolicyOptions
        How.
    kept : Kept or None
        Of the policy that a training goes on from.

    Raises
    ------
    ConfigError
        If the window is too short for what is observed and executed, or a column to condition on
        does not exist or holds what the policy that is gone on from does not know.
    NotEnoughDataError
        If no corrupt window is annotated, unless that is allowed; if weights are asked for and
        there are none.
    """
    _check_lengths(study, options)
    rows = {name: np.flatnonzero(study.windows[name].counts) for name in study.frames}
    names = [study.clean.dataset]
    if options.mode != "clean":
        names += [name for name in sorted(study.frames) if name not in names]
    apart = _hold_out(study, rows[names[0]], options, kept)
    copies = study.frames[names[0]].digest[apart]
    if kept is not None:
        copies = np.concatenate([copies, kept.held_out])
    rows = {
        name: rows[name][~np.isin(study.frames[name].digest[rows[name]], copies)] for name in names
    }
    interface = _describe_interface(study, names, options)
    if kept is not None:
        _check_columns(interface, kept.interface)
        interface = kept.interface
    data = _demonstrate(study, rows, interface)
    held_out = _demonstrate(study, {names[0]: apart}, interface) if apart.size else None
    values = [place_values(study, manifest, name, rows[name], COLUMNS) for name in names]
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
            f"{write_count(needed, 'frame')}; the run has {horizon}",
            "use fewer, or annotate with a longer --horizon",
        )


def _hold_out(
    study: Study, rows: np.ndarray, options: PolicyOptions, kept: Kept | None
) -> np.ndarray:
    """Choose the clean episodes that are kept apart: those that were, if any is here."""
    if kept is not None:
        found = np.isin(study.frames[study.clean.dataset].digest[rows], kept.held_out)
        if found.any():
            return rows[found]
    count = round(options.validation * rows.size)
    order = np.random.default_rng([options.seed, 2]).permutation(rows)
    return np.sort(order[:count])


def _check_columns(here: Interface, kept: Interface) -> None:
    """Refuse texts that a policy has no place for; numbers may leave their range as actions may."""
    for name, values in here.columns.items():
        known = kept.columns[name]
        if kind_of(values) != kind_of(known):
            raise ConfigError(
                f"the column {name} holds {kind_of(values)}, and {kind_of(known)} where the policy "
                "to start from was trained",
                "start from a policy that is conditioned on the same column",
            )
        unknown = sorted(set(values) - set(known)) if kind_of(values) == "texts" else []
        if unknown:
            raise ConfigError(
                f"the policy to start from does not know {name} = {unknown[0]!r}; it knows "
                f"{', '.join(map(repr, known))}",
                "leave these episodes out of the collection, or train without init",
            )


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
        windows = replace(study.windows[name], normalizer=interface.scale_action)
        parts.append(Part(name, windows, rows, state, _tell(frames, interface)))
    return Demonstrations(
        parts,
        interface.scale_state,
        n_obs_steps=interface.n_obs_steps,
        n_action_steps=interface.n_action_steps,
    )


def _tell(frames: Frames, interface: Interface) -> Tensor:
    """Encode what the policy knows of every episode."""
    columns = {name: _read_column(frames, name) for name in interface.columns}
    condition = np.zeros((frames.n_episodes, interface.condition_dim), dtype=np.float32)
    for row in range(frames.n_episodes if columns else 0):
        condition[row] = interface.encode({name: values[row] for name, values in columns.items()})
    return torch.from_numpy(condition)


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
