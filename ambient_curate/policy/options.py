"""Options of a policy and its training; importing them loads no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ambient_curate.options import (
    Rule,
    field_values,
    find_problems,
    is_number,
    is_text,
    is_whole,
    one_of,
    raise_problems,
)

Mode = Literal["ambient", "weighted", "cotrain", "clean"]
Loss = Literal["denoise", "ambient"]
Prediction = Literal["wiener", "sample", "epsilon", "v", "flow"]
Network = Literal["mlp", "unet", "unet-small"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class PolicyOptions:
    """Everything a user may choose about a policy; building one checks every value.

    Attributes
    ----------
    mode : str
        Which data at which noise: ambient (corrupt windows where sigma_min and sigma_max admit
        them), weighted (all windows everywhere, drawn by the manifest's unbiased weight), cotrain
        (all windows everywhere) or clean (the clean set alone).
    clean_weight : float or None
        Share of the clean set in [0, 1) where all other datasets are admitted too; these share the
        rest by their sizes, and where some are not, the others keep their proportions. 0: the
        corrupt sets alone. None: every admitted window is drawn alike.
    sigma_min : float or None
        One sigma_min in [0, 1] for all corrupt windows. None: the manifest's.
    sigma_max : float or None
        One sigma_max in [0, 1] for all corrupt windows. None: the manifest's.
    loss : str
        denoise: targets from the window itself, the default of the paper. ambient: targets from
        the window at its sigma_min.
    buffer : float
        With the ambient loss: largest s^4 / (s^2 - s_min^2)^2, in EDM noise, > 1. Nearer to
        sigma_min than that, the denoising loss is used.
    prediction : str
        What the network gives: wiener (what is left of the window by a linear filter, in units of
        its spread), sample, epsilon, v or flow.
    network : str
        mlp (trains on a CPU in minutes), unet (Diffusion Policy's) or unet-small.
    n_obs_steps : int
        Frames of the state that are observed, >= 1.
    n_action_steps : int or None
        Actions that are executed of a predicted window, >= 1; at most horizon - n_obs_steps + 1.
        None: 8, or as many as there are.
    condition : str
        Episode columns that the policy is conditioned on, such as a goal, with commas between; task
        is the task's text. Empty: none.
    octaves : int
        Frequencies at which the network is also given sines and cosines of all that it observes and
        is conditioned on, so that it distinguishes near places, 0 to 10. 0: numbers alone, which
        less data suffices for.
    steps : int
        Steps of training, >= 1.
    epochs : float or None
        Passes over the admitted windows, > 0, in place of steps. None: steps decides.
    batch_size : int
        Windows in a step, of all processes together, >= 1.
    learning_rate : float or None
        Peak of the schedule. None: 2e-3 for mlp, 3e-4 for a U-Net.
    weight_decay : float
        AdamW's, in [0, 1].
    average_decay : float
        Decay of the moving average of the weights, in (0, 1).
    warm_up : int
        Steps of linear warm-up.
    validation : float
        Share of the clean episodes held out to measure the error, in [0, 0.5].
    precision : str
        float32, or bfloat16 for the network's products.
    compile : bool
        Compile the network first; pays on long runs.
    seed : int
        Seed of every random draw, 0 to 2^63 - 1.
    workers : int
        Processes that read ahead; 0: none.
    init : Path or None
        A policy to start from, such as an ambient one to be fine-tuned on the clean set.
    allow_unannotated : bool
        Train although no corrupt window has a sigma_min.
    data : Path or None
        The collection. None: where the run found it.
    tensorboard : bool
        Also log for TensorBoard, which needs the extra of that name.
    out : Path or None
        Directory of the policy. None: ./<run>_policy.
    force : bool
        Replace a policy that is already there.
    """

    mode: Mode = "ambient"
    clean_weight: float | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    loss: Loss = "denoise"
    buffer: float = 4.0
    prediction: Prediction = "wiener"
    network: Network = "mlp"
    n_obs_steps: int = 2
    n_action_steps: int | None = None
    condition: str = ""
    octaves: int = 0
    steps: int = 6000
    epochs: float | None = None
    batch_size: int = 256
    learning_rate: float | None = None
    weight_decay: float = 1e-4
    average_decay: float = 0.999
    warm_up: int = 200
    validation: float = 0.1
    precision: Precision = "float32"
    compile: bool = False
    seed: int = 0
    workers: int = 0
    init: Path | None = None
    allow_unannotated: bool = False
    data: Path | None = None
    tensorboard: bool = False
    out: Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        raise_problems(find_problems(field_values(self), POLICY_RULES))

    @property
    def peak_rate(self) -> float:
        """The learning rate, or its default for the network."""
        default = 2e-3 if self.network == "mlp" else 3e-4
        return default if self.learning_rate is None else self.learning_rate

    def count_actions(self, horizon: int) -> int:
        """Give `n_action_steps`, or its default for windows of `horizon` frames."""
        if self.n_action_steps is not None:
            return self.n_action_steps
        return max(1, min(8, horizon - self.n_obs_steps + 1))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names in `condition`."""
        return tuple(name.strip() for name in self.condition.split(",") if name.strip())


def _number(accepts: str, low: float, high: float, *, ends: str = "") -> Rule:
    def inside(value: object) -> bool:
        if not is_number(value):
            return False
        at_end = (value == low and "low" in ends) or (value == high and "high" in ends)
        return at_end or low < value < high  # type: ignore[operator]

    return Rule(inside, accepts)


def _optional(rule: Rule) -> Rule:
    return Rule(lambda value: value is None or rule.accepts(value), rule.expected)


_INFINITY = float("inf")
_COUNT = Rule(lambda value: is_whole(value, 1), "a whole number >= 1")
_WHOLE = Rule(is_whole, "a whole number >= 0")
_FLAG = Rule(lambda value: isinstance(value, bool), "true or false")
_PATH = _optional(Rule(lambda value: isinstance(value, Path), "a path"))
POLICY_RULES: dict[str, Rule] = {
    "mode": one_of(Mode),
    "clean_weight": _optional(_number("a number in [0, 1)", 0.0, 1.0, ends="low")),
    "sigma_min": _optional(_number("a number in [0, 1]", 0.0, 1.0, ends="low high")),
    "sigma_max": _optional(_number("a number in [0, 1]", 0.0, 1.0, ends="low high")),
    "loss": one_of(Loss),
    "buffer": _number("a number > 1", 1.0, _INFINITY),
    "prediction": one_of(Prediction),
    "network": one_of(Network),
    "n_obs_steps": _COUNT,
    "n_action_steps": _optional(_COUNT),
    "condition": Rule(lambda value: value == "" or is_text(value), "names with commas between"),
    "octaves": Rule(lambda value: is_whole(value) and value <= 10, "a whole number, 0 to 10"),
    "steps": _COUNT,
    "epochs": _optional(_number("a number > 0", 0.0, _INFINITY)),
    "batch_size": _COUNT,
    "learning_rate": _optional(_number("a number > 0", 0.0, _INFINITY)),
    "weight_decay": _number("a number in [0, 1]", 0.0, 1.0, ends="low high"),
    "average_decay": _number("a number in (0, 1)", 0.0, 1.0),
    "warm_up": _WHOLE,
    "validation": _number("a number in [0, 0.5]", 0.0, 0.5, ends="low high"),
    "precision": one_of(Precision),
    "compile": _FLAG,
    "seed": _WHOLE,
    "workers": _WHOLE,
    "init": _PATH,
    "allow_unannotated": _FLAG,
    "data": _PATH,
    "tensorboard": _FLAG,
    "out": _PATH,
    "force": _FLAG,
}
