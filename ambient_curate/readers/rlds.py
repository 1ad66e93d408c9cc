"""RLDS datasets as TensorFlow Datasets writes them: one record of a TFRecord shard is one episode.

The values of a feature at all steps of an episode are one flat list named ``steps/<path>``; what
holds for the whole episode is in ``episode_metadata/<path>``.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count, islice
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from ambient_curate.errors import DatasetError, write_count
from ambient_curate.readers import tfds
from ambient_curate.readers.episodes import (
    ALL,
    LONGEST_LABEL,
    Episode,
    EpisodeName,
    Label,
    ReaderOptions,
    ReadRequest,
    distinct_numbers,
    suggest_names,
)
from ambient_curate.readers.tfrecord import (
    Record,
    Span,
    bytes_entries,
    decode_numbers,
    find_records,
    locate_features,
    read_feature,
    read_records,
)

_Located = Mapping[str, list[Span]]  # what locate_features returns

_STEPS, _METADATA = "steps/", "episode_metadata/"
_STATES = ("observation/state", "observation/proprio")
_TASKS = ("steps/language_instruction", "steps/observation/natural_language_instruction")
_NUMBERS = ("episode_metadata/episode_index", "episode_metadata/episode_id")
_STEP_SCALARS = ("steps/is_first", "steps/is_last", "steps/is_terminal", "steps/reward")
_NUMERIC = ("float", "int")


@dataclass(frozen=True)
class RLDSDataset:
    """One opened split of an RLDS dataset; an `ambient_curate.readers.episodes.Dataset`.

    Parameters
    ----------
    layout : Layout
        Files, splits and features.
    action, state : tuple of str
        Full names of the features that make them up, in order; no state if empty.
    options : ReaderOptions
        As given.
    """

    layout: tfds.Layout
    action: tuple[str, ...]
    state: tuple[str, ...]
    options: ReaderOptions

    @property
    def path(self) -> Path:
        """Directory that holds the metadata and the shards."""
        return self.layout.directory

    @property
    def format(self) -> str:
        """Name of the format."""
        return "RLDS"

    @property
    def shards(self) -> Sequence[Path]:
        """Files of the opened split, in order."""
        return self.layout.shards

    @property
    def metadata_files(self) -> Sequence[Path]:
        """``dataset_info.json`` and, where there is one, ``features.json``."""
        return self.layout.metadata_files

    @property
    def problems(self) -> Sequence[str]:
        """What was unusual, one sentence each."""
        return self.layout.problems

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits there are, the opened one among them."""
        return self.layout.splits

    @cached_property
    def _own_numbers(self) -> list[int] | None:
        """The numbers that ``episode_metadata`` gives the episodes, where all of them differ."""
        for name in _NUMBERS:
            tensor = self.layout.tensors.get(name)
            if tensor is not None and tensor.dtype.startswith(("int", "uint")):
                with suppress(ValueError):
                    return _read_own_numbers(self.layout, name)
        return None

    @property
    def is_numbered(self) -> bool:
        """Whether ``episode_metadata`` has a number that tells all episodes apart."""
        return self._own_numbers is not None

    def list_episodes(self, shard: Path) -> Sequence[EpisodeName]:
        """List the episodes of one shard; ids are TensorFlow Datasets' ``tfds_id``."""
        position = self.layout.shards.index(shard)
        first = sum(self.layout.lengths[:position])
        numbers = range(first, first + self.layout.lengths[position])
        own = self._own_numbers
        ids = [f"{shard.name}__{place}" for place in range(len(numbers))]
        return list(map(EpisodeName, ids, numbers if own is None else own[first : numbers.stop]))

    def read_shard(self, shard: Path, request: ReadRequest = ALL) -> Iterator[Episode]:
        """Yield the episodes of one shard in source order; images are never read.

        Raises
        ------
        DatasetError
            If the shard is damaged, or the number of episodes is not the one in
            ``dataset_info.json``; as `request` says, if an episode is damaged, lacks a chosen
            feature or has a wrong number of its values.
        """
        names = self.list_episodes(shard)
        length, found = len(names), 0
        for record in find_records(shard, sequential=self.options.checksums):
            if found < length:
                name = names[found]
                yield from request.read(name, partial(self._read_episode, record, name))
            found += 1
        if found != length:
            raise DatasetError(
                f"{shard} holds {write_count(found, 'episode')}, {tfds.INFO} says {length}",
                "one of the two files is not the original: copy both from the dataset's source",
            )

    def _read_episode(self, record: Record, name: EpisodeName) -> Episode:
        if self.options.checksums:
            record.verify()
        located = locate_features(record)
        steps = self._count_steps(record, located)
        task, problems = _read_task(record, located)
        return Episode(
            id=name.id,
            number=name.number,
            action=self._concatenate(record, located, self.action, steps),
            source=record.path,
            state=self._concatenate(record, located, self.state, steps) if self.state else None,
            task=task,
            rate_hz=self.options.rate_hz,
            labels=self._read_labels(record, located),
            problems=problems,
        )

    def _count_steps(self, record: Record, located: _Located) -> int:
        for name in _STEP_SCALARS:
            if name in located:
                return _read_numbers(record, located, name).size
        shape = self.layout.tensors[self.action[0]].shape
        if shape is None or 0 in shape:
            raise DatasetError(
                f"{record.path}: record {record.number} does not tell its number of steps: it has "
                f"none of {', '.join(_STEP_SCALARS)}, and the shape of {self.action[0]} is unknown",
                f"copy {tfds.FEATURES}, which gives the shapes, from the dataset's source",
            )
        return _read_numbers(record, located, self.action[0]).size // math.prod(shape)

    def _concatenate(
        self, record: Record, located: _Located, names: Sequence[str], steps: int
    ) -> Float32[np.ndarray, "frame column"]:
        parts = []
        for name in names:
            values = _read_numbers(record, located, name)
            shape = self.layout.tensors[name].shape
            width = values.size // max(steps, 1) if shape is None else math.prod(shape)
            if values.size != steps * width:
                raise record.damage(
                    record.span[0],
                    f"{name} holds {values.size} values, expected {steps} steps of {width}",
                )
            parts.append(values.reshape(steps, width).astype(np.float32, copy=False))
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    def _read_labels(self, record: Record, located: _Located) -> dict[str, Label]:
        labels: dict[str, Label] = {}
        for name, pieces in located.items():
            if not name.startswith(_METADATA):
                continue
            feature = read_feature(record, pieces)
            if feature.size > LONGEST_LABEL:
                continue
            values: list[Label] = []
            if feature.kind == "bytes":
                values = [_decode_text(record, span) for span in bytes_entries(record, feature)]
            elif feature.kind in _NUMERIC:
                values = decode_numbers(record, feature).tolist()
            if len(values) == 1:
                tensor = self.layout.tensors.get(name)
                is_bool = tensor is not None and tensor.dtype == "bool"
                labels[name.removeprefix(_METADATA)] = bool(values[0]) if is_bool else values[0]
        return labels


def recognizes(path: Path) -> bool:
    """Tell whether `path`, or a version directory in it, looks like RLDS, even if broken."""
    return tfds.recognizes(path)


def open_dataset(path: Path, options: ReaderOptions) -> RLDSDataset:
    """Open an RLDS dataset: its directory, or the one above that holds its versions.

    Raises
    ------
    DatasetError
        If the metadata is missing or damaged, a shard is absent, or the split or a feature asked
        for does not exist.
    """
    layout = tfds.read_layout(path, options.split)
    if not any(name.startswith(_STEPS) for name in layout.tensors):
        layout = _without_shapes(layout, options.action or ("action",))
    action = _choose_features(layout, "action", options.action or ("action",))
    state = _choose_features(layout, "state", options.state or _default_state(layout))
    return RLDSDataset(layout, action, state, options)


def _without_shapes(layout: tfds.Layout, action: Sequence[str]) -> tfds.Layout:
    """Take the numeric features from records where ``features.json`` tells none.

    The first record is enough unless it is damaged or lacks the action.
    """
    tensors: dict[str, tfds.Tensor] = {}
    needed = {_STEPS + name.removeprefix(_STEPS) for name in action}
    for shard in layout.shards:
        with suppress(DatasetError):  # reading the episodes tells of it
            for record in find_records(shard, sequential=False):
                with suppress(DatasetError):
                    tensors |= _list_numbers(record)
                if needed <= tensors.keys():
                    break
        if needed <= tensors.keys():
            break
    problem = f"{tfds.FEATURES} describes no steps: shapes are taken from the number of values"
    return replace(layout, tensors=tensors, problems=(*layout.problems, problem))


def _list_numbers(record: Record) -> dict[str, tfds.Tensor]:
    """List the numeric features of a record."""
    return {
        name: tfds.Tensor(None, feature.kind)
        for name, pieces in locate_features(record).items()
        if (feature := read_feature(record, pieces)).kind in _NUMERIC
    }


def _read_own_numbers(layout: tfds.Layout, name: str) -> list[int]:
    """Read a number an episode from the metadata in all shards, which leaves the steps unread.

    The episodes of a damaged shard, which are never given out, are numbered on from the largest.

    Raises
    ------
    ValueError
        If an episode has no such number, or two have the same.
    """
    parts: list[list[int] | None] = []
    for shard, length in zip(layout.shards, layout.lengths, strict=True):
        try:
            records = read_records(shard, checksums=False)
            numbers = [_read_own_number(record, name) for record in records]
            parts.append(numbers if len(numbers) == length else None)
        except DatasetError:  # reading the episodes tells of it
            parts.append(None)
    known = [number for part in parts for number in part or ()]
    if not known or not distinct_numbers(known):
        raise ValueError(f"{name} does not tell the episodes apart")
    spare = count(max(known) + 1)
    sizes = zip(parts, layout.lengths, strict=True)
    return [number for part, length in sizes for number in (part or islice(spare, length))]


def _read_own_number(record: Record, name: str) -> int:
    feature = read_feature(record, locate_features(record).get(name, ()))
    return int(decode_numbers(record, feature).item())


def _default_state(layout: tfds.Layout) -> tuple[str, ...]:
    """Name the usual state feature if it is there and a vector."""
    for name in _STATES:
        tensor = layout.tensors.get(_STEPS + name)
        if tensor is not None and (tensor.shape is None or len(tensor.shape) == 1):
            return (name,)
    return ()


def _choose_features(layout: tfds.Layout, role: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """Complete the names of step features and check that they are there."""
    names = tuple(_STEPS + name.removeprefix(_STEPS) for name in wanted)
    missing = [name for name in names if name not in layout.tensors]
    if missing and (encoding := layout.encoded.get(missing[0])):
        raise DatasetError(
            f"{layout.directory} stores {missing[0]} as {encoding}, which is not read",
            "write the dataset again without an encoding of this feature",
        )
    if missing:
        steps = [name for name in layout.tensors if name.startswith(_STEPS)]
        known = [name.removeprefix(_STEPS) for name in steps]
        raise DatasetError(
            f"{layout.directory} has no numeric feature {missing[0]} for the {role}; "
            f"it has {', '.join(known) or 'none at all'}",
            f"list the features in ambient.toml, in order: {suggest_names(role, known)}",
        )
    return names


def _read_numbers(
    record: Record, located: _Located, name: str
) -> Float32[np.ndarray, " value"] | Int64[np.ndarray, " value"]:
    feature = read_feature(record, located.get(name, ()))
    if feature.kind not in _NUMERIC:
        raise record.damage(
            record.span[0], f"{name} is {feature.kind or 'absent'}, expected numbers"
        )
    return decode_numbers(record, feature)


def _read_task(record: Record, located: _Located) -> tuple[str | None, list[str]]:
    """Read the first step's instruction, and say whether it stays; None: absent or empty."""
    for name in _TASKS:
        feature = read_feature(record, located.get(name, ()))
        if feature.kind == "bytes":
            spans = bytes_entries(record, feature)
            texts = dict.fromkeys(record.buffer[start:stop] for start, stop in spans)
            if texts:
                first, *others = (text.decode(errors="replace") for text in texts)
                problem = f"instruction changes inside: from {first!r:.40} to "
                return first or None, [problem + f"{others[0]!r:.40}"] if others else []
    return None, []


def _decode_text(record: Record, span: tuple[int, int]) -> str:
    return record.buffer[span[0] : span[1]].decode(errors="replace")
