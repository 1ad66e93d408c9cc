"""Exporters: what a run says, in the form that other trainers take; one module a trainer."""

from collections.abc import Callable
from dataclasses import dataclass

from ambient_curate.exporters import (
    diffusion_policy,
    lerobot,
    mixtures,
    openpi,
    plain,
    robomimic,
)
from ambient_curate.exporters.job import Job

__all__ = ["TRAINERS", "Trainer"]


@dataclass(frozen=True)
class Trainer:
    """Who is written for.

    Parameters
    ----------
    honours, lost : str
        What it can make use of, and what of a run it cannot.
    write : callable
        Writes the files of a `Job`.
    schedule : str
        Its usual time; see `Clock`.
    n_obs_steps, n_action_steps : int
        Usual frames observed, and executed of a window.
    """

    honours: str
    lost: str
    write: Callable[[Job], None]
    schedule: str = "squaredcos_cap_v2:100"
    n_obs_steps: int = 2
    n_action_steps: int = 8


TRAINERS: dict[str, Trainer] = {
    "lerobot": Trainer(
        "noise gate and weight by the plug-in policy of examples/; alone, episodes to leave out",
        "without the plug-in everything but whole episodes",
        lerobot.write,
    ),
    "diffusion-policy": Trainer(
        "noise gate and weight by the dataset in ambient_curate.integrations",
        "without that dataset everything",
        diffusion_policy.write,
    ),
    "openpi": Trainer(
        "ranges of frames, a weight a dataset; the noise gate where `sample_time` gives the time",
        "weights of windows",
        openpi.write,
        "flow",
        1,
    ),
    "robomimic": Trainer(
        "whole demonstrations, by the filter key `ambient`; the noise gate in your own algorithm",
        "without that algorithm everything but whole demonstrations",
        robomimic.write,
    ),
    "octo": Trainer(
        "a weight a dataset; the noise gate as one more factor of the loss's mask",
        "weights of windows",
        mixtures.write_mixture,
    ),
    "openvla": Trainer(
        "a weight a dataset",
        "noise levels: tokens have none, a window counts by its share of them",
        mixtures.write_mixture,
        n_obs_steps=1,
    ),
    "gr00t": Trainer(
        "weights of datasets and trajectories; the noise gate by `sample_time`",
        "weights of windows",
        mixtures.write_trajectories,
        "flow-reversed",
        1,
    ),
} | {
    name: Trainer(
        "what you make of it: levels, times and weight of every window",
        "nothing",
        write,
        n_obs_steps=1,
    )
    for name, write in (
        ("parquet", plain.write_parquet),
        ("csv", plain.write_csv),
        ("jsonl", plain.write_jsonl),
    )
}
