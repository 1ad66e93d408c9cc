"""robomimic: a filter key in copies of the files, and a row a frame beside them."""

import shutil
from pathlib import Path

import h5py
import numpy as np

from ambient_curate.data.collection import Collection
from ambient_curate.errors import ConfigError
from ambient_curate.export.job import AnnotatedMember, Job
from ambient_curate.export.lerobot import find_unusable

KEY = "ambient"


def check(collection: Collection) -> None:
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
    """Write, for every member, copies with ``mask/ambient``, and ``ambient.parquet``."""
    for member in job.members:
        folder = job.folder(member)
        job.write_frames(member, folder / "ambient.parquet", before=job.n_obs_steps - 1)
        _copy_files(member, folder)


def _copy_files(member: AnnotatedMember, folder: Path) -> None:
    unusable = set(find_unusable(member))
    pairs = zip(member.frames.ids, member.frames.number.tolist(), strict=True)
    usable = [id for id, index in pairs if index not in unusable]
    for file in member.files:
        prefix = f"{file.stem}/" if len(member.files) > 1 else ""
        own = [id.removeprefix(prefix) for id in usable if id.startswith(prefix)]
        copy = folder / file.name
        shutil.copyfile(file, copy)
        with h5py.File(copy, "r+") as content:
            content.create_dataset(f"mask/{KEY}", data=np.array(own, dtype="S"))
