"""LeRobot: a row a frame by the dataset's global index, and episodes to leave out.

A plug-in policy finds the rows by the ``index`` of a batch, which LeRobot's own preprocessing
keeps while it drops columns that it does not know. The dataset makes a window at every frame, from
``n_obs_steps - 1`` frames before it, and repeats the first and last frames of an episode.
"""

import json

import numpy as np
from jaxtyping import Bool

from ambient_curate.export.job import AnnotatedMember, Job


def write(job: Job) -> None:
    """Write ``ambient.parquet`` and ``exclude_episodes.json`` for every member."""
    for member in job.members:
        folder = job.folder(member)
        job.write_frames(member, folder / "ambient.parquet", before=job.n_obs_steps - 1)
        left_out = json.dumps(find_unusable(member))
        (folder / "exclude_episodes.json").write_text(left_out + "\n", encoding="utf-8")
    counted = [
        member.name for member in job.members if not (member.has_index or member.frames.index_fails)
    ]
    if counted:
        job.notes.append(
            "no global index, so frames are counted in the order of the annotated episodes: "
            f"{', '.join(counted)}"
        )


def find_unusable(member: AnnotatedMember) -> list[int]:
    """List the numbers of the episodes none of whose windows may be used at any noise level."""
    return sorted(member.frames.number[~find_usable(member)].tolist())


def find_usable(member: AnnotatedMember) -> Bool[np.ndarray, " episode"]:
    """Tell which episodes have a window that may be used at some noise level."""
    low = np.nan_to_num(member.values["sigma_min"], nan=1.0)
    usable = (low < 1.0) | (np.nan_to_num(member.values["sigma_max"], nan=0.0) > 0.0)
    until = np.cumsum(member.windows.counts)
    known = np.append(0, np.cumsum(usable))
    return np.asarray(known[until] > known[until - member.windows.counts])
