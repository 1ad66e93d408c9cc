"""The trainers a run can be exported for, and what each can use; loads no torch."""

from dataclasses import dataclass
from pathlib import Path

from ambient_curate.export.trainer_time import Clock
from ambient_curate.options import Rule, field_values, find_problems, is_whole, raise_problems


@dataclass(frozen=True)
class Trainer:
    """Who is written for.

    Parameters
    ----------
    honours, lost : str
        What it can make use of, and what of a run it cannot.
    schedule : str
        Its usual time; see `Clock`.
    n_obs_steps, n_action_steps : int
        Usual frames observed, and executed of a window.
    """

    honours: str
    lost: str
    schedule: str = "squaredcos_cap_v2:100"
    n_obs_steps: int = 2
    n_action_steps: int = 8


_PLAIN = Trainer(
    "what you make of it: levels, times, weight of every window", "nothing", n_obs_steps=1
)
TRAINERS: dict[str, Trainer] = {
    "lerobot": Trainer(
        "noise gate, by the plug-in policy of examples/; without it, episodes to leave out",
        "without the plug-in everything but whole episodes",
    ),
    "diffusion-policy": Trainer(
        "noise gate and weight, by ambient_curate.integrations in its dataset and loss",
        "without these everything",
    ),
    "openpi": Trainer(
        "ranges of frames, a weight a dataset; noise gate where sample_time gives the time",
        "weights of windows",
        "flow",
        1,
    ),
    "robomimic": Trainer(
        "whole demonstrations, by the filter key ambient; noise gate in your own algorithm",
        "without that algorithm everything but whole demonstrations",
    ),
    "octo": Trainer(
        "a weight a dataset; noise gate as one more factor of the loss's mask",
        "weights of windows",
    ),
    "openvla": Trainer(
        "a weight a dataset",
        "noise levels: tokens have none, a window counts by its share of them",
        n_obs_steps=1,
    ),
    "gr00t": Trainer(
        "weights of datasets and trajectories; noise gate by sample_time",
        "weights of windows",
        "flow-reversed",
        1,
    ),
    "parquet": _PLAIN,
    "csv": _PLAIN,
    "jsonl": _PLAIN,
}


@dataclass(frozen=True)
class ExportOptions:
    """What a user may choose about an export; building one checks every value.

    Attributes
    ----------
    to : str
        The trainer: lerobot, diffusion-policy, openpi, robomimic, octo, openvla, gr00t, or plain
        parquet, csv, jsonl.
    schedule : str or None
        The trainer's time: squaredcos_cap_v2:T, linear:T, scaled_linear:T, edm, flow or
        flow-reversed. None: its usual one.
    n_obs_steps : int or None
        Frames that the trainer observes, >= 1. None: its usual number.
    n_action_steps : int or None
        Frames of a window that it executes, >= 1. None: its usual number.
    normalizer : Path or None
        JSON file that says by how much the trainer multiplies actions: "scale", a number a
        dimension, or a LeRobot dataset's meta/stats.json. None: as the run does.
    data : Path or None
        The collection. None: where the run found it.
    out : Path or None
        Directory of the export. None: ./<run>_<to>.
    force : bool
        Replace an export that is already there.
    """

    to: str = "parquet"
    schedule: str | None = None
    n_obs_steps: int | None = None
    n_action_steps: int | None = None
    normalizer: Path | None = None
    data: Path | None = None
    out: Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        raise_problems(find_problems(field_values(self), EXPORT_RULES))
        if self.schedule is not None:
            Clock(self.schedule)

    @property
    def trainer(self) -> Trainer:
        """Who is written for."""
        return TRAINERS[self.to]

    @property
    def clock(self) -> Clock:
        """Its time."""
        return Clock(self.schedule or self.trainer.schedule)


_COUNT = Rule(lambda value: value is None or is_whole(value, 1), "a whole number >= 1")
_PATH = Rule(lambda value: value is None or isinstance(value, Path), "a path")
EXPORT_RULES: dict[str, Rule] = {
    "to": Rule(lambda value: value in TRAINERS, f"one of {', '.join(TRAINERS)}"),
    "schedule": Rule(lambda value: value is None or isinstance(value, str), "a schedule's name"),
    "n_obs_steps": _COUNT,
    "n_action_steps": _COUNT,
    "normalizer": _PATH,
    "data": _PATH,
    "out": _PATH,
    "force": Rule(lambda value: isinstance(value, bool), "true or false"),
}
