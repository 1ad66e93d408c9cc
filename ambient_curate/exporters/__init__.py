"""Exporters: what a run says, in the form that other trainers take; one module a trainer."""

from collections.abc import Callable

from ambient_curate.exporters import (
    diffusion_policy,
    lerobot,
    mixtures,
    openpi,
    plain,
    robomimic,
)
from ambient_curate.exporters.job import Job

__all__ = ["WRITERS"]

WRITERS: dict[str, Callable[[Job], None]] = {
    "lerobot": lerobot.write,
    "diffusion-policy": diffusion_policy.write,
    "openpi": openpi.write,
    "robomimic": robomimic.write,
    "octo": mixtures.write_mixture,
    "openvla": mixtures.write_mixture,
    "gr00t": mixtures.write_trajectories,
    "parquet": plain.write_parquet,
    "csv": plain.write_csv,
    "jsonl": plain.write_jsonl,
}
