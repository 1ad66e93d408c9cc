"""What an export says of the frames of a batch, and the times drawn by it."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ambient_curate.integrations import Draw, FrameAnnotations, sample_time

FEATURES = ("ambient.sigma_min", "ambient.sigma_max")


@dataclass
class AnnotatedConfig:
    """Mixed into a policy's configuration.

    Parameters
    ----------
    annotations : str
        The ``ambient.parquet`` files of an export, with commas between. Only training needs them,
        and a dataset with the features of ``--as features`` does not.
    """

    annotations: str = ""


class Annotation:
    """The annotation of a policy's dataset, read at the first batch.

    Parameters
    ----------
    config : AnnotatedConfig
        Of the policy.
    """

    def __init__(self, config: AnnotatedConfig) -> None:
        self._paths = [path.strip() for path in config.annotations.split(",") if path.strip()]
        self._frames: FrameAnnotations | None = None

    def draw(self, batch: dict[str, Tensor], schedule: str, **law: float) -> Draw:
        """Draw a time for every frame of a batch among those at which it may be used."""
        low, high = self._find(batch)
        return sample_time(low, high, schedule, **law)

    def _find(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        if self._paths:
            self._frames = self._frames or FrameAnnotations(*self._paths)
            low, high, _ = self._frames.of(batch["index"])
            return low, high
        if not batch.keys() >= set(FEATURES):
            raise ValueError(
                "nothing says at which noise a frame may be used: give --policy.annotations, the "
                "ambient.parquet of an export, or a dataset that was exported --as features"
            )
        low, high = (batch[name].reshape(-1) for name in FEATURES)
        return low, high


def keep_features(pipelines: tuple[Any, Any]) -> tuple[Any, Any]:
    """Let the pipeline before a policy keep the features, which LeRobot's own would drop."""
    before, after = pipelines
    convert, restore = before.to_transition, before.to_output
    held: dict[str, Tensor] = {}

    def hold(batch: dict[str, Any]) -> Any:
        held.clear()
        held.update({name: batch[name] for name in FEATURES if name in batch})
        return convert(batch)

    def add(transition: Any) -> dict[str, Any]:
        batch = restore(transition)
        device = batch["index"].device if "index" in batch else None
        return batch | {name: value.to(device) for name, value in held.items()}

    before.to_transition, before.to_output = hold, add
    return before, after
