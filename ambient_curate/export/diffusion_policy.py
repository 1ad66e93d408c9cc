"""Diffusion Policy: arrays in the order of its `SequenceSampler`.

The sampler goes through the episodes and, within each, through the first frames of windows from
``n_obs_steps - 1`` before its beginning until ``n_action_steps - 1`` frames of a window lie behind
its end, but one frame at least inside.
"""

from typing import Any

import numpy as np

from ambient_curate.export.job import Job


def write(job: Job) -> None:
    """Write ``sampler.npz`` for every member.

    It holds, of every annotated episode, ``episode`` (its place in a replay buffer of all episodes
    of the source in the order of their numbers), ``number`` (the source's own) and ``count`` (its
    windows); of every window, in the sampler's order, ``sigma_min``, ``sigma_max``,
    ``t_min``, ``t_max`` and ``weight``; and ``before``, the frames that the first window of an
    episode begins before it.
    """
    before, after = (min(n, job.horizon) - 1 for n in (job.n_obs_steps, job.n_action_steps))
    for member in job.members:
        count = np.maximum(member.frames.length - job.horizon + 1 + before + after, 0)
        columns: dict[str, list[np.ndarray]] = {}
        for samples in member.samples(before, count):
            job.count(member, samples)
            for name, values in job.times(samples).items():
                if name != "weight":
                    columns.setdefault(name, []).append(values)
            columns.setdefault("weight", []).append(samples.weight.astype(np.float32))
        arrays: dict[str, Any] = {name: np.concatenate(each) for name, each in columns.items()}
        arrays |= {"episode": member.position, "number": member.frames.number}
        arrays |= {"count": count, "before": before}
        np.savez(job.folder(member) / "sampler.npz", **arrays)
