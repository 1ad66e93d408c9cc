"""openpi: which frames to keep, how often to draw each dataset, and from what time on.

Its RLDS loader takes ranges of frames by episode and a weight a dataset; its PyTorch model takes
the time of every sample, which `ambient_curate.integrations.sample_time` draws.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ambient_curate.export.job import Job, Samples
from ambient_curate.export.mixture_weights import share_exactly, write_json
from ambient_curate.files import to_json


def write(job: Job) -> None:
    """Write ``filter_dict.json`` and ``ambient.parquet`` for every member, ``weights.json``."""
    for member in job.members:
        folder = job.folder(member)
        job.write_frames(member, folder / "ambient.parquet", before=job.n_obs_steps - 1)
        labels = list(member.frames.labels())
        ranges: dict[str, list[list[int]]] = {}
        for samples in member.at_frames(job.n_obs_steps - 1):
            for number, kept in _find_ranges(samples):
                ranges[name_episode(member.frames.ids[number], labels[number])] = kept
        text = to_json(ranges, indent=1)
        (folder / "filter_dict.json").write_text(text + "\n", encoding="utf-8")
    write_json(job, "weights.json", share_exactly(job))


def name_episode(id: str, labels: Mapping[str, Any]) -> str:
    """Give the key by which openpi finds an episode: DROID's two paths, else its id."""
    parts = [labels.get(name) for name in ("recording_folderpath", "file_path")]
    return "--".join(map(str, parts)) if None not in parts else id


def _find_ranges(samples: Samples) -> list[tuple[int, list[list[int]]]]:
    """Find the runs ``[first, end)`` of usable frames of every episode."""
    begins = np.flatnonzero(np.diff(samples.episode, prepend=-1))
    found = []
    for number, usable in zip(
        samples.episode[begins].tolist(), np.split(samples.usable, begins[1:]), strict=True
    ):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], usable, [False]])))
        found.append((number, edges.reshape(-1, 2).tolist()))
    return found
