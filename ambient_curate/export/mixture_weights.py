"""Octo, OpenVLA and GR00T: how often to draw each dataset, or each trajectory."""

import json

import numpy as np
import pyarrow as pa

from ambient_curate.export.job import Job


def write_mixture(job: Job) -> None:
    """Write ``mixture.json``, pairs of name and weight, and ``ambient.parquet`` a member."""
    for member in job.members:
        path = job.folder(member) / "ambient.parquet"
        job.write_frames(member, path, before=job.n_obs_steps - 1)
    text = json.dumps(list(job.mixture.items()), indent=1, ensure_ascii=False)
    (job.out / "mixture.json").write_text(text + "\n", encoding="utf-8")


def write_trajectories(job: Job) -> None:
    """Write what `write_mixture` does, and ``trajectories.parquet``, a weight an episode."""
    write_mixture(job)
    for member in job.members:
        total = np.zeros(member.frames.n_episodes)
        for samples in member.at_frames(job.n_obs_steps - 1):
            share = job.clock.share(samples.sigma_min, samples.sigma_max)
            total += np.bincount(samples.episode, share, minlength=len(total))
        rows = pa.table({"episode_index": member.frames.number, "weight": total})
        job.write_rows(job.folder(member) / "trajectories.parquet", [rows])
