"""robomimic: a filter key in copies of the files, a row a frame beside them, a weight a file."""

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Bool

from ambient_curate.data.collection import Collection
from ambient_curate.errors import ConfigError
from ambient_curate.export.job import AnnotatedMember, Job
from ambient_curate.export.lerobot import find_usable
from ambient_curate.export.mixture_weights import list_used, sum_episodes, write_json
from ambient_curate.export.trainers import ExportOptions

KEY = "ambient"


def check(collection: Collection, chosen: ExportOptions) -> None:
    """Refuse what cannot be copied, before anything is read.

    Raises
    ------
    ConfigError
        If a member has no HDF5 files of that layout, or a file has such a key already.
    """
    for member in collection.members:
        if (format := member.dataset.format) != "HDF5":
            raise ConfigError(
                f"{member.name} is {format}: robomimic reads HDF5 files of its own layout",
                "export --to parquet, or convert the data first",
            )
        for file in member.dataset.shards:
            with h5py.File(file) as content:
                if f"mask/{KEY}" in content:
                    raise ConfigError(f"{file} has a filter key {KEY!r} already", "rename it there")


def write(job: Job) -> None:
    """Write copies with ``mask/ambient``, ``ambient.parquet`` a member, and ``train_data.json``.

    The latter is robomimic's ``train.data``: path from that file, filter key, and the weight of a
    sample. Its law is ``P(sample) = weight / sum(weights)``, over the demonstrations of the key.
    """
    data: list[dict[str, Any]] = []
    for member in job.members:
        folder = job.folder(member)
        job.write_frames(member, folder / "ambient.parquet", before=job.n_obs_steps - 1)
        kept = find_usable(member)
        shares = sum_episodes(job, member)
        for file in member.files:
            own = kept & _find_own(member, file)
            _copy_file(member, file, folder / file.name, own)
            if shares[own].sum() > 0.0:
                weight = shares[own].sum() / member.frames.length[own].sum()
                path = f"{folder.name}/{file.name}"
                data.append({"path": path, "filter_key": KEY, "weight": float(weight)})
    list_used(job)
    write_json(job, "train_data.json", data)


def _find_own(member: AnnotatedMember, file: Path) -> Bool[np.ndarray, " episode"]:
    """Tell which of a member's episodes lie in a file."""
    prefix = _prefix(member, file)
    return np.fromiter((id.startswith(prefix) for id in member.frames.ids), bool)


def _prefix(member: AnnotatedMember, file: Path) -> str:
    return f"{file.stem}/" if len(member.files) > 1 else ""


def _copy_file(
    member: AnnotatedMember, file: Path, copy: Path, kept: Bool[np.ndarray, " episode"]
) -> None:
    prefix = _prefix(member, file)
    names = [
        member.frames.ids[number].removeprefix(prefix) for number in np.flatnonzero(kept).tolist()
    ]
    shutil.copyfile(file, copy)
    with h5py.File(copy, "r+") as content:
        content.create_dataset(f"mask/{KEY}", data=np.array(names, dtype="S"))
