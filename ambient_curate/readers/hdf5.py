"""HDF5 files of demonstrations in robomimic's layout: ``data/demo_<k>/actions`` and what is beside.

Only the datasets that make up the action and the state are read, never the images.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float32

from ambient_curate.episodes import Episode, Label, ReaderOptions
from ambient_curate.errors import DatasetError
from ambient_curate.readers.hdf5_texts import read_text

_SUFFIXES = (".hdf5", ".h5")
_DEMO = re.compile(r"demo_([0-9]{1,18})")
_LONGEST_LABEL = 256  # characters; anything longer (a simulator's model) is data, not a label
_LONGEST_TEXT = 1 << 20  # bytes, of an environment's description
_COPY_AGAIN = "copy the file again from its source"
# What h5py makes of the HDF5 library's complaints about damaged bytes.
_H5PY_ERRORS = (OSError, KeyError, RuntimeError, TypeError, ValueError, OverflowError, MemoryError)


@dataclass(frozen=True)
class _File:
    """What is known of one file when it is opened."""

    path: Path
    demos: tuple[str, ...]
    task: str | None
    rate_hz: float | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class HDF5Dataset:
    """One opened HDF5 dataset of one or more files; an `ambient_curate.episodes.Dataset`.

    Parameters
    ----------
    path : Path
        The file or the directory of files.
    files : tuple of _File
        Files in reading order.
    options : ReaderOptions
        As given.
    """

    path: Path
    files: tuple[_File, ...]
    options: ReaderOptions

    @property
    def format(self) -> str:
        """Name of the format."""
        return "HDF5"

    @property
    def shards(self) -> Sequence[Path]:
        """The files, in order of their names."""
        return tuple(file.path for file in self.files)

    @property
    def metadata_files(self) -> Sequence[Path]:
        """None: all metadata is in the shards."""
        return ()

    @property
    def problems(self) -> Sequence[str]:
        """What was unusual, one sentence each."""
        return tuple(problem for file in self.files for problem in file.problems)

    def read_shard(self, shard: Path) -> Iterator[Episode]:
        """Yield the demonstrations of one file in the order of their numbers.

        Raises
        ------
        DatasetError
            If the file is damaged, or a demonstration lacks a chosen dataset or has a number of
            frames other than it says.
        """
        position = self.shards.index(shard)
        file = self.files[position]
        first = sum(len(earlier.demos) for earlier in self.files[:position])
        prefix = f"{shard.stem}/" if len(self.files) > 1 else ""
        with _open_file(shard) as content:
            masks = _read_masks(content)
            for offset, name in enumerate(file.demos):
                demo = _find_demo(content, name)
                action, state = self._read_frames(demo)
                yield Episode(
                    id=f"{prefix}{name}",
                    index=first + offset,
                    action=action,
                    source=shard,
                    state=state,
                    task=file.task,
                    rate_hz=self.options.rate_hz or file.rate_hz,
                    labels=_read_labels(demo)
                    | {f"mask/{key}": name in members for key, members in masks.items()},
                )

    def _read_frames(
        self, demo: h5py.Group
    ) -> tuple[Float32[np.ndarray, "frame action"], Float32[np.ndarray, "frame state"] | None]:
        """Read action and state, of one length, the one that the demonstration itself tells."""
        names = (*(self.options.action or ("actions",)), *self.options.state)
        arrays = [_read_array(demo, name) for name in names]
        lengths = {name: len(array) for name, array in zip(names, arrays, strict=True)}
        promised = _read_count(demo, "num_samples")
        if promised is not None:
            lengths["the attribute num_samples"] = promised
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{count} by {name}" for name, count in lengths.items())
            raise DatasetError(
                f"{demo.file.filename}: {demo.name} has {counts}; one number of frames is expected",
                _COPY_AGAIN,
            )
        split = len(arrays) - len(self.options.state)
        state = np.concatenate(arrays[split:], axis=1) if self.options.state else None
        return np.concatenate(arrays[:split], axis=1), state


def recognizes(path: Path) -> bool:
    """Tell whether `path` is an HDF5 file by its name, or a directory with one, even if broken."""
    return bool(_find_files(path))


def open_dataset(path: Path, options: ReaderOptions) -> HDF5Dataset:
    """Open an HDF5 file, or a directory of them as one dataset.

    Raises
    ------
    DatasetError
        If a file cannot be opened or holds no demonstrations, or an option does not fit the format.
    """
    if options.split is not None:
        raise DatasetError(
            f"{path}: HDF5 files have no splits, but split {options.split!r} is asked for",
            'leave `split` out; a filter key is a label: `where = "mask/train == true"`',
        )
    absolute = [name for name in (*options.action, *options.state) if name.startswith("/")]
    if absolute:
        raise DatasetError(
            f"{path}: the dataset name {absolute[0]!r} is not relative to a demonstration",
            'give the name inside of a demonstration, as in `state = ["obs/eef_pos"]`',
        )
    paths = _find_files(path)
    if not paths:
        raise DatasetError(f"{path} holds no HDF5 file", f"expected {' or '.join(_SUFFIXES)}")
    if len({file.stem for file in paths}) < len(paths):
        raise DatasetError(
            f"{path} holds files that differ by their suffix only", "rename one of them"
        )
    return HDF5Dataset(path, tuple(_inspect_file(file) for file in paths), options)


def _find_files(path: Path) -> list[Path]:
    candidates = sorted(path.iterdir()) if path.is_dir() else [path]
    return [
        file
        for file in candidates
        if file.suffix.lower() in _SUFFIXES and file.is_file() and not file.name.startswith(".")
    ]


@contextmanager
def _open_file(path: Path) -> Iterator[h5py.File]:
    """Open a file; whatever HDF5 says of damaged bytes inside the block is a DatasetError."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except _H5PY_ERRORS as error:
        raise DatasetError(f"{path}: HDF5 cannot read it: {error}", _COPY_AGAIN) from error


def _inspect_file(path: Path) -> _File:
    """List the demonstrations of a file and read what holds for all of them."""
    with _open_file(path) as file:
        data = file.get("data")
        if not isinstance(data, h5py.Group):
            raise DatasetError(
                f"{path} has no group 'data' of demonstrations; it holds {_list(file)}",
                "only robomimic's layout is known: data/demo_0/actions, data/demo_1/actions, ...",
            )
        names = list(map(_text, data))
        numbers = {name: int(match[1]) for name in names if (match := _DEMO.fullmatch(name))}
        demos = tuple(sorted(numbers, key=lambda name: (numbers[name], name)))
        if not demos:
            raise DatasetError(
                f"{path}: data holds no demonstrations named demo_<number>, but {_list(data)}",
                "only robomimic's layout is known: data/demo_0/actions, data/demo_1/actions, ...",
            )
        problems = []
        if len(demos) < len(names):
            others = ", ".join(sorted(set(names) - set(demos)))
            problems.append(f"{path.name}: of data, {others} is no demonstration and is not read")
        unread = [key for key, mask in _masks(file).items() if mask.dtype.kind != "S"]
        if unread:
            problems.append(
                f"{path.name}: of mask, {', '.join(unread)} is no list of texts of one fixed "
                "length (dtype S) and is not read"
            )
        total = _read_count(data, "total")
        frames = [_read_count(_find_demo(file, name), "num_samples") for name in demos]
        known = [count for count in frames if count is not None]
        if total is not None and len(known) == len(demos) and total != sum(known):
            problems.append(
                f"{path.name}: data tells a total of {total} frames, "
                f"its demonstrations have {sum(known)}"
            )
        task, rate_hz = _parse_env_args(_read_attribute(data, "env_args"))
        return _File(path, demos, task, rate_hz, tuple(problems))


def _find_demo(file: h5py.File, name: str) -> h5py.Group:
    demo = file["data"][name]
    if not isinstance(demo, h5py.Group):
        raise DatasetError(f"{file.filename}: data/{name} is no group", _COPY_AGAIN)
    return demo


def _parse_env_args(text: Label | None) -> tuple[str | None, float | None]:
    """Take the environment's name and control frequency from its JSON, as far as they are there."""
    try:
        env_args = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return None, None
    if not isinstance(env_args, dict):
        return None, None
    name, settings = env_args.get("env_name"), env_args.get("env_kwargs")
    rate_hz = settings.get("control_freq", 0) if isinstance(settings, dict) else 0
    is_rate = isinstance(rate_hz, int | float) and 0 < rate_hz < math.inf
    return name if isinstance(name, str) else None, float(rate_hz) if is_rate else None


def _read_masks(file: h5py.File) -> dict[str, set[str]]:
    """Read robomimic's filter keys: lists of demonstrations' names."""
    members = {}
    for key, dataset in _masks(file).items():
        if dataset.dtype.kind == "S":
            _require_stored(dataset)
            members[key] = set(np.ravel(dataset.asstr(errors="replace")[()]).tolist())
    return members


def _masks(file: h5py.File) -> dict[str, h5py.Dataset]:
    masks = file.get("mask")
    items = masks.items() if isinstance(masks, h5py.Group) else ()
    return {_text(key): item for key, item in items if isinstance(item, h5py.Dataset)}


def _read_array(demo: h5py.Group, name: str) -> Float32[np.ndarray, "frame column"]:
    dataset = demo.get(name)
    place = f"{demo.file.filename}: {demo.name}"
    if not isinstance(dataset, h5py.Dataset):
        raise DatasetError(
            f"{place} has no dataset {name!r}; it has {', '.join(_datasets(demo)) or 'none'}",
            'name the datasets in ambient.toml, as in `action = ["actions"]`',
        )
    if dataset.dtype.kind not in "fiub" or not dataset.shape:
        raise DatasetError(
            f"{place}: {name} is {dataset.dtype} of shape {dataset.shape}, "
            "expected numbers with frames along the first axis",
            "name another dataset in ambient.toml",
        )
    _require_stored(dataset)
    columns = math.prod(dataset.shape[1:])
    with np.errstate(
        over="ignore"
    ):  # a float64 beyond float32 becomes infinite, seen as such later
        return dataset[()].reshape(dataset.shape[0], columns).astype(np.float32)


def _require_stored(dataset: h5py.Dataset) -> None:
    """Refuse a dataset that is not wholly in its file: HDF5 would make up the missing values."""
    place = f"{dataset.file.filename}: {dataset.name}"
    if dataset.is_virtual or dataset.external:
        raise DatasetError(f"{place} keeps its values in other files", "copy it with `h5repack`")
    if dataset.chunks:
        expected = math.prod(
            -(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)
        )
        stored, unit = dataset.id.get_num_chunks(), "chunks"
    else:
        expected = math.prod(dataset.shape) * dataset.dtype.itemsize
        stored, unit = min(dataset.id.get_storage_size(), dataset.file.id.get_filesize()), "bytes"
    if stored < expected:
        raise DatasetError(f"{place} has {stored} of {expected} {unit} of its values", _COPY_AGAIN)


def _datasets(group: h5py.Group) -> list[str]:
    """Names of all datasets in a group, at any depth."""
    names: list[str] = []
    group.visititems(
        lambda name, item: names.append(_text(name)) if isinstance(item, h5py.Dataset) else None
    )
    return names


def _list(group: h5py.Group) -> str:
    return ", ".join(map(_text, group)) or "nothing"


def _text(name: str | bytes) -> str:
    """Make a name printable; h5py gives bytes where it is no UTF-8."""
    return name.decode(errors="replace") if isinstance(name, bytes) else name


def _read_labels(demo: h5py.Group) -> dict[str, Label]:
    """Take the scalar attributes of a demonstration that are short enough for a label."""
    names = [name for name in demo.attrs if isinstance(name, str)]  # bytes: a name that is no UTF-8
    labels = {name: _read_attribute(demo, name, longest=_LONGEST_LABEL) for name in names}
    return {
        name: label
        for name, label in labels.items()
        if label is not None and len(str(label)) <= _LONGEST_LABEL
    }


def _read_count(group: h5py.Group, name: str) -> int | None:
    count = _read_attribute(group, name)
    return int(count) if isinstance(count, int | float) else None


def _read_attribute(group: h5py.Group, name: str, *, longest: int = _LONGEST_TEXT) -> Label | None:
    """Read a number or a text; None if there is none, it is longer or something else."""
    if name not in group.attrs:
        return None
    attribute = group.attrs.get_id(name)
    text = h5py.check_string_dtype(attribute.dtype)
    # Looked at before it is read: HDF5 trusts a damaged shape or size, and crashes.
    if attribute.shape != () or not (text or attribute.dtype.kind in "fiub"):
        return None
    if text and text.length is None:
        return read_text(group, name, longest=longest)
    value = group.attrs[name]
    label = value.item() if isinstance(value, np.generic) else value
    return label.decode(errors="replace") if isinstance(label, bytes) else label
