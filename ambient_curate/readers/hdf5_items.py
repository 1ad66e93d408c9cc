"""What every layout of HDF5 files reads with: files, arrays and attributes, damage told as such."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float32

from ambient_curate.episodes import Label
from ambient_curate.errors import DatasetError
from ambient_curate.readers.hdf5_texts import read_text

COPY_AGAIN = "copy the file again from its source"
_LONGEST_LABEL = 256  # characters; anything longer (a simulator's model) is data, not a label
_LONGEST_TEXT = 1 << 20  # bytes, of an environment's description
# What h5py makes of the HDF5 library's complaints about damaged bytes.
_H5PY_ERRORS = (OSError, KeyError, RuntimeError, TypeError, ValueError, OverflowError, MemoryError)


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """Open a file; whatever HDF5 says of damaged bytes inside the block is a DatasetError."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except _H5PY_ERRORS as error:
        raise DatasetError(f"{path}: HDF5 cannot read it: {error}", COPY_AGAIN) from error


def read_array(group: h5py.Group, name: str) -> Float32[np.ndarray, "frame column"]:
    """Read a dataset of numbers, its axes after the first made one.

    Raises
    ------
    DatasetError
        If it is missing, holds no numbers, or is not wholly in the file.
    """
    dataset = group.get(name)
    place = f"{group.file.filename}: {group.name}"
    if not isinstance(dataset, h5py.Dataset):
        raise DatasetError(
            f"{place} has no dataset {name!r}; it has {', '.join(list_datasets(group)) or 'none'}",
            'name the datasets in ambient.toml, as in `action = ["actions"]`',
        )
    if dataset.dtype.kind not in "fiub" or not dataset.shape:
        raise DatasetError(
            f"{place}: {name} is {dataset.dtype} of shape {dataset.shape}, "
            "expected numbers with frames along the first axis",
            "name another dataset in ambient.toml",
        )
    require_stored(dataset)
    columns = math.prod(dataset.shape[1:])
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which is reported as such
        return dataset[()].reshape(dataset.shape[0], columns).astype(np.float32)


def require_stored(dataset: h5py.Dataset) -> None:
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
        raise DatasetError(f"{place} has {stored} of {expected} {unit} of its values", COPY_AGAIN)


def list_datasets(group: h5py.Group) -> list[str]:
    """Names of all datasets in a group, at any depth."""
    names: list[str] = []
    group.visititems(
        lambda name, item: names.append(to_text(name)) if isinstance(item, h5py.Dataset) else None
    )
    return names


def list_members(group: h5py.Group) -> str:
    """Names of what a group holds, as text for a message."""
    return ", ".join(map(to_text, group)) or "nothing"


def to_text(name: str | bytes) -> str:
    """Make a name printable; h5py gives bytes where it is no UTF-8."""
    return name.decode(errors="replace") if isinstance(name, bytes) else name


def read_labels(group: h5py.Group) -> dict[str, Label]:
    """Take the scalar attributes of a group that are short enough for a label."""
    names = [
        name for name in group.attrs if isinstance(name, str)
    ]  # bytes: a name that is no UTF-8
    labels = {name: read_attribute(group, name, longest=_LONGEST_LABEL) for name in names}
    return {
        name: label
        for name, label in labels.items()
        if label is not None and len(str(label)) <= _LONGEST_LABEL
    }


def read_count(group: h5py.Group, name: str) -> int | None:
    """Read a number from an attribute; None if there is none."""
    count = read_attribute(group, name)
    return int(count) if isinstance(count, int | float) else None


def read_attribute(group: h5py.Group, name: str, *, longest: int = _LONGEST_TEXT) -> Label | None:
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


def parse_object(text: object) -> dict[str, Any]:
    """Parse a JSON object; an empty one where `text` is anything else."""
    try:
        value = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def to_task(value: object) -> str | None:
    """Take a text that can be written out again; None of anything else, and of an empty one."""
    text = value.strip().encode(errors="replace").decode() if isinstance(value, str) else ""
    return text or None
