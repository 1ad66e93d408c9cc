"""The trainers a run can be exported for, and what each can use; loads no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ambient_curate.errors import ConfigError
from ambient_curate.export.trainer_time import Clock
from ambient_curate.option_fields import Options, Rule, text, whole

Statistics = Literal["minmax", "quantile", "gaussian"]


@dataclass(frozen=True)
class Trainer:
    """Who is written for.

    Parameters
    ----------
    honours, lost : str
        What it can make use of, and what of a run it cannot.
    formats : tuple of str
        How the names of the formats begin that it trains on; empty: any.
    schedule : str
        Its usual time; see `Clock`.
    n_obs_steps, n_action_steps : int
        Usual frames observed, and executed of a window.
    """

    honours: str
    lost: str
    formats: tuple[str, ...] = ()
    schedule: str = "squaredcos_cap_v2:100"
    n_obs_steps: int = 2
    n_action_steps: int = 8


_PLAIN = Trainer(
    "what you make of it: levels, times, weight of every window", "nothing", n_obs_steps=1
)
TRAINERS: dict[str, Trainer] = {
    "lerobot": Trainer(
        "the noise rule, by the plug-in policy of examples/",
        "without the plug-in everything: LeRobot itself reads none of these files, and trains as "
        "before unless you leave out the episodes of exclude_episodes.json",
        ("LeRobot",),
    ),
    "diffusion-policy": Trainer(
        "the noise rule and weights, by ambient_curate.integrations in its dataset and loss",
        "without these everything",
        ("Zarr", "HDF5"),
    ),
    "openpi": Trainer(
        "ranges of frames, a weight a dataset; the noise rule where sample_time gives the time",
        "weights of windows",
        ("RLDS", "LeRobot"),
        "flow",
        1,
    ),
    "robomimic": Trainer(
        "whole demonstrations, by the filter key ambient, and a weight a file; the noise rule in "
        "your own algorithm",
        "weights of windows; without that algorithm everything but demonstrations and weights",
        ("HDF5",),
    ),
    "octo": Trainer(
        "a weight a dataset; the noise rule as one more factor of the loss's mask",
        "weights of windows",
        ("RLDS",),
    ),
    "openvla": Trainer(
        "a weight a dataset",
        "noise levels: tokens have none, a window counts by its share of them",
        ("RLDS",),
        n_obs_steps=1,
    ),
    "gr00t": Trainer(
        "weights of datasets and trajectories; the noise rule by sample_time",
        "weights of windows",
        ("LeRobot",),
        "flow-reversed",
        1,
    ),
    "parquet": _PLAIN,
    "csv": _PLAIN,
    "jsonl": _PLAIN,
}

_TRAINER = Rule(
    lambda value: isinstance(value, str) and value in TRAINERS, f"one of {', '.join(TRAINERS)}"
)


@dataclass(frozen=True)
class ExportOptions(Options):
    """What a user may choose about an export; building one checks every value."""

    to: Annotated[
        str,
        _TRAINER,
        "The trainer: lerobot, diffusion-policy, openpi, robomimic, octo, openvla, gr00t, or "
        "plain parquet, csv, jsonl.",
    ] = "parquet"
    schedule: Annotated[
        str | None,
        text("a schedule's name"),
        "The trainer's time: squaredcos_cap_v2:T, linear:T, scaled_linear:T, edm, flow or "
        "flow-reversed. None: its usual one.",
    ] = None
    n_obs_steps: Annotated[
        int | None,
        whole(1),
        "Frames that the trainer observes, {range}. None: its usual number.",
    ] = None
    n_action_steps: Annotated[
        int | None,
        whole(1),
        "Frames of a window that it executes, {range}. None: its usual number.",
    ] = None
    normalizer: Annotated[
        Path | None,
        "The trainer's file of statistics, by which it scales actions: any that annotate reads, or "
        '{"scale": [...]}, a number a dimension. None: as the run does.',
    ] = None
    normalize: Annotated[
        Statistics | None,
        "Which statistics of that file the trainer uses: minmax, quantile or gaussian. None: those "
        "of the run.",
    ] = None
    as_: Annotated[
        Literal["tables", "features"],
        "For lerobot: beside tables alone, or also as features of a copy of every dataset, whose "
        "videos are linked: tables or features.",
    ] = "tables"
    merged: Annotated[
        Path | None,
        "For lerobot: the dataset that the annotated ones were merged into; rows go by its frames. "
        "None: by those of each dataset.",
    ] = None
    data: Annotated[Path | None, "The collection. None: where the run found it."] = None
    out: Annotated[Path | None, "Directory of the export. None: ./<run>_<to>."] = None
    force: Annotated[bool, "Replace an export that is already there."] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule is not None:
            Clock(self.schedule)
        if self.to != "lerobot" and (self.as_, self.merged) != ("tables", None):
            name = "as" if self.merged is None else "merged"
            raise ConfigError(f"{name} is given, and to = {self.to!r}", "add --to lerobot")

    @property
    def trainer(self) -> Trainer:
        """Who is written for."""
        return TRAINERS[self.to]

    @property
    def clock(self) -> Clock:
        """Its time."""
        return Clock(self.schedule or self.trainer.schedule)
