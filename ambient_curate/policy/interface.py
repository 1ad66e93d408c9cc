"""The interface of a policy: observations and actions, in the units of the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from ambient_curate.data.normalizer import Normalizer
from ambient_curate.options import Representation


@dataclass(frozen=True, eq=False)
class Interface:
    """What a policy reads and gives, in the units of the data.

    Parameters
    ----------
    represent : {"absolute", "relative", "delta"}
        Of its windows.
    reference : str or None
        What relative windows refer to: ``"state"`` or ``"first action"``.
    scale_action : Normalizer
        Of its windows.
    scale_state : Normalizer or None
        Of observed states; None: it observes none.
    columns : dict of str to list
        What it is conditioned on of an episode: names, with the texts that are known for ``task``
        or the ``[low, high]`` that a number was scaled from; one that never varied becomes 0.
    n_obs_steps, n_action_steps : int
        Frames it observes, actions that are executed.
    control_hz : float or None
        Rate of the clean data.
    """

    represent: Representation
    reference: str | None
    scale_action: Normalizer
    scale_state: Normalizer | None
    columns: dict[str, list[Any]]
    n_obs_steps: int
    n_action_steps: int
    control_hz: float | None

    @property
    def condition_dim(self) -> int:
        """Length of what it is conditioned on of an episode."""
        return sum(len(known) if _is_text(known) else 1 for known in self.columns.values())

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        scales = {"scale_action": self.scale_action, "scale_state": self.scale_state}
        stored = {name: None if s is None else s.as_dict() for name, s in scales.items()}
        return vars(self) | stored

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Interface":
        """Inverse of `as_dict`."""
        given = dict(stored)
        for name in ("scale_action", "scale_state"):
            given[name] = None if given[name] is None else Normalizer.from_dict(given[name])
        return cls(**given)

    def encode(self, given: Mapping[str, Any]) -> Float32[np.ndarray, " condition"]:
        """Encode the condition of one episode: texts as one of those known, numbers scaled.

        Raises
        ------
        ValueError
            If a column is missing, or a number is not finite; a text that is not known is encoded
            as none of them.
        """
        values: list[float] = []
        for name, known in self.columns.items():
            if name not in given:
                raise ValueError(f"the observation lacks {name}: expected {list(self.columns)}")
            if _is_text(known):
                values += [float(given[name] == text) for text in known]
            else:
                low, high = known
                if not np.isfinite(value := float(given[name])):
                    raise ValueError(f"{name} = {value}: expected a finite number")
                scale = 1.0 / (high - low) if high > low else 0.0
                values.append((2.0 * value - low - high) * scale)
        return np.array(values, dtype=np.float32)


def kind_of(known: Sequence[Any]) -> Literal["texts", "numbers"]:
    """Say what a column holds, by what is known of it."""
    return "texts" if not known or isinstance(known[0], str) else "numbers"


def _is_text(known: Sequence[Any]) -> bool:
    return kind_of(known) == "texts"
