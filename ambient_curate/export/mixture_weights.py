"""Weights of datasets, each so that a trainer's own law of sampling draws the share that is meant.

A dataset is meant to be drawn in proportion to its windows that may be used, counted on average
over the trainer's time. A trainer that multiplies a weight by the number of frames is given the
mean over frames; one that draws datasets by their weights alone is given the share.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from ambient_curate.export.job import AnnotatedMember, Job
from ambient_curate.files import to_json

UNITS = 1 << 53  # parts of 1 that float64 adds without rounding, in any order


def list_used(job: Job) -> list[str]:
    """List the datasets that are drawn at all; a note says which are not."""
    for name, count in job.effective.items():
        note = f"{name}: left out of the weights, since none of its windows may be used"
        if count == 0.0 and note not in job.notes:
            job.notes.append(note)
    return [name for name, count in job.effective.items() if count > 0.0]


def weigh_frames(job: Job) -> dict[str, float]:
    """Give the weight of a frame of every dataset that is drawn; it is exactly 1 in the clean set.

    The law is ``P(dataset) = weight * frames / sum(weight * frames)``: Octo and OpenVLA with
    ``balance_weights``, GR00T's LeRobotMixtureDataset with ``balance_dataset_weights``. The latter
    two refuse a mixture without a weight of exactly 1.
    """
    means = {name: job.effective[name] / job.rows[name] for name in list_used(job)}
    (clean,) = (member.name for member in job.members if member.is_clean)
    return {name: mean / means[clean] for name, mean in means.items()}


def share_exactly(job: Job) -> dict[str, float]:
    """Give the share of every dataset that is drawn; in float64 they add up to exactly 1.

    The law is ``P(dataset) = weight``, and openpi asserts ``sum(weights) == 1.0``. Multiples of
    2^-53 that add up to 1 do so in any order of summation. What is rounded to 0 is left out.
    """
    used = list_used(job)
    total = sum(job.effective[name] for name in used)
    units = {name: int(job.effective[name] / total * UNITS) for name in used}
    largest = max(used, key=units.__getitem__)
    units[largest] += UNITS - sum(units.values())
    return {name: count / UNITS for name, count in units.items() if count}


def write_mixture(job: Job) -> None:
    """Write ``mixture.json``, pairs of name and weight, and ``ambient.parquet`` a member."""
    _write_frames(job)
    write_json(job, "mixture.json", list(weigh_frames(job).items()))


def write_trajectories(job: Job) -> None:
    """Write ``ambient.parquet`` and ``trajectories.parquet`` a member, and two files of weights.

    ``mixture_n1.5.json`` is for LeRobotMixtureDataset, and so is a trajectory's weight, which
    takes the place of its own: ``P(trajectory) = weight / sum(weights)``, then any of its frames.
    ``mix_ratio_n1.7.json`` is for DatasetFactory, which draws a spec of one dataset by its
    ``mix_ratio``.
    """
    _write_frames(job)
    write_json(job, "mixture_n1.5.json", list(weigh_frames(job).items()))
    write_json(job, "mix_ratio_n1.7.json", share_exactly(job))
    job.notes.append(
        "mixture_n1.5.json and trajectories.parquet are for LeRobotMixtureDataset (GR00T N1, "
        "N1.5); mix_ratio_n1.7.json is for DatasetFactory (N1.6, N1.7), a spec a dataset"
    )
    for member in job.members:
        weight = sum_episodes(job, member)
        rows = pa.table({"episode_index": member.frames.number, "weight": weight})
        job.write_rows(job.folder(member) / "trajectories.parquet", [rows])


def sum_episodes(job: Job, member: AnnotatedMember) -> Float64[np.ndarray, " episode"]:
    """Count the windows of every episode that may be used, on average over the trainer's time."""
    total = np.zeros(member.frames.n_episodes)
    for samples in member.at_frames(job.n_obs_steps - 1):
        share = job.clock.share(samples.sigma_min, samples.sigma_max)
        total += np.bincount(samples.episode, share, minlength=len(total))
    return total


def write_json(job: Job, name: str, content: Any) -> None:
    """Write a JSON file beside the members' folders."""
    text = to_json(content, indent=1)
    (job.out / name).write_text(text + "\n", encoding="utf-8")


def _write_frames(job: Job) -> None:
    for member in job.members:
        path = job.folder(member) / "ambient.parquet"
        job.write_frames(member, path, before=job.n_obs_steps - 1)
