"""Options of a policy and its training; importing them loads no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ambient_curate.option_fields import (
    Options,
    Rule,
    above,
    is_text,
    number_in,
    raise_problems,
    whole,
)

Mode = Literal["ambient", "weighted", "cotrain", "clean"]
Loss = Literal["denoise", "ambient"]
Prediction = Literal["wiener", "sample", "epsilon", "v", "flow"]
Network = Literal["mlp", "unet", "unet-small"]
Precision = Literal["float32", "bfloat16"]
Log = Literal["tensorboard", "wandb", "trackio"]


_COLUMNS = Rule(lambda value: value == "" or is_text(value), "names with commas between")


@dataclass(frozen=True)
class PolicyOptions(Options):
    """Everything a user may choose about a policy; building one checks every value."""

    mode: Annotated[
        Mode,
        "Which data at which noise: ambient (corrupt windows where sigma_min and sigma_max "
        "admit them), weighted (all windows everywhere, drawn by the manifest's unbiased "
        "weight), cotrain (all windows everywhere) or clean (the clean set alone).",
    ] = "ambient"
    clean_weight: Annotated[
        float | None,
        number_in("[0, 1)"),
        "Share of the clean set in {range} where all other datasets are admitted too; these "
        "share the rest by their sizes, and where some are not, the others keep their "
        "proportions. 0: the corrupt sets alone. None: every admitted window is drawn alike.",
    ] = None
    sigma_min: Annotated[
        float | None,
        number_in("[0, 1]"),
        "One sigma_min in {range} for all corrupt windows. None: the manifest's.",
    ] = None
    sigma_max: Annotated[
        float | None,
        number_in("[0, 1]"),
        "One sigma_max in {range} for all corrupt windows. None: the manifest's.",
    ] = None
    loss: Annotated[
        Loss,
        "denoise: targets from the window itself, the default of the paper. ambient: targets "
        "from the window at its sigma_min.",
    ] = "denoise"
    buffer: Annotated[
        float,
        above(1),
        "With the ambient loss: largest s^4 / (s^2 - s_min^2)^2, in EDM noise, {range}. Nearer "
        "to sigma_min than that, the denoising loss is used.",
    ] = 4.0
    prediction: Annotated[
        Prediction,
        "What the network gives: wiener (what is left of the window by a linear filter, in "
        "units of its spread), sample, epsilon, v or flow.",
    ] = "wiener"
    network: Annotated[
        Network,
        "mlp (trains on a CPU in minutes), unet (Diffusion Policy's) or unet-small.",
    ] = "mlp"
    n_obs_steps: Annotated[int, whole(1), "Frames of the state that are observed, {range}."] = 2
    n_action_steps: Annotated[
        int | None,
        whole(1),
        "Actions that are executed of a predicted window, {range}; at most horizon - "
        "n_obs_steps + 1. None: 8, or as many as there are.",
    ] = None
    condition: Annotated[
        str,
        _COLUMNS,
        "Episode columns that the policy is conditioned on, such as a goal, with commas "
        "between; task is the task's text. Empty: none.",
    ] = ""
    octaves: Annotated[
        int,
        whole(0, 10),
        "Frequencies at which the network is also given sines and cosines of all that it "
        "observes and is conditioned on, so that it distinguishes near places, {range}. 0: "
        "numbers alone, which less data suffices for.",
    ] = 0
    steps: Annotated[int, whole(0), "Steps of training, {range}; 0 only with init."] = 6000
    epochs: Annotated[
        float | None,
        above(0),
        "Passes over the admitted windows, {range}, in place of steps. None: steps decides.",
    ] = None
    batch_size: Annotated[
        int,
        whole(1),
        "Windows in a step, of all processes together, {range}.",
    ] = 256
    learning_rate: Annotated[
        float | None,
        above(0),
        "Peak of the schedule. None: 2e-3 for mlp, 3e-4 for a U-Net.",
    ] = None
    weight_decay: Annotated[float, number_in("[0, 1]"), "AdamW's, in {range}."] = 1e-4
    average_decay: Annotated[
        float,
        number_in("(0, 1)"),
        "Decay of the moving average of the weights, in {range}.",
    ] = 0.999
    warm_up: Annotated[int, whole(0), "Steps of linear warm-up."] = 200
    validation: Annotated[
        float,
        number_in("[0, 0.5]"),
        "Share of the clean episodes held out to measure the error, in {range}.",
    ] = 0.1
    precision: Annotated[Precision, "float32, or bfloat16 for the network's products."] = "float32"
    compile: Annotated[bool, "Compile the network first; pays on long runs."] = False
    seed: Annotated[int, whole(0), "Seed of every random draw, 0 to 2^63 - 1."] = 0
    workers: Annotated[int, whole(0), "Processes that read ahead; 0: none."] = 0
    init: Annotated[
        Path | None,
        "A policy to go on from, on another run or in another mode. It decides what the network "
        "is and observes: what is given of that must agree.",
    ] = None
    allow_unannotated: Annotated[bool, "Train although no corrupt window has a sigma_min."] = False
    data: Annotated[Path | None, "The collection. None: where the run found it."] = None
    log: Annotated[
        Log | None,
        "Also log to tensorboard, wandb or trackio, which needs the extra of that name. None: "
        "to CSV files alone.",
    ] = None
    out: Annotated[Path | None, "Directory of the policy. None: ./<run>_policy."] = None
    force: Annotated[bool, "Replace a policy that is already there."] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps == 0 and self.epochs is None and self.init is None:
            raise_problems(["steps = 0 without init: there is nothing to keep as it is"])

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
