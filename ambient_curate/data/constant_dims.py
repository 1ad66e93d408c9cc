"""Motion in dimensions that are constant in the clean set, where nothing is compared.

A clean set that never moves in a dimension gives it no scale, so that a window carries nothing of
it. A dataset that does move there differs from the clean set at every noise level below the size of
that motion, and no classifier sees it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from ambient_curate.data.motion import CONSTANT
from ambient_curate.data.normalizer import Normalizer
from ambient_curate.data.populations import Population
from ambient_curate.data.windows import ObservedWindows, Windows


@dataclass(frozen=True)
class ConstantMotion:
    """Motion of a population in a dimension that is constant in the clean set.

    Parameters
    ----------
    kind : {"action", "state"}
        What the dimension is one of.
    dim : int
        Its number, from 0.
    constant : float
        Its value in the clean set, as windows represent it.
    share : float
        Share of the population's frames with another value, in (0, 1]; where windows are relative,
        a frame counts once for every window that it is in.
    furthest : float
        Largest distance from `constant`, in the dataset's units.
    """

    kind: str
    dim: int
    constant: float
    share: float
    furthest: float

    @property
    def sentence(self) -> str:
        """The same in words, without the dataset's name."""
        share = f"{self.share:.1%}" if self.share >= 0.001 else "less than 0.1%"
        return (
            f"{self.kind} dimension {self.dim} is always {self.constant:.4g} in the clean set, and "
            f"something else in {share} of the frames here, by up to {self.furthest:.3g}"
        )


def list_constant_dims(windows: Windows) -> dict[str, list[int]]:
    """Dimensions without a scale: of ``action``, and of a ``state`` that is conditioned on."""
    found = {"action": [] if windows.normalizer is None else windows.normalizer.constant}
    if isinstance(windows, ObservedWindows):
        found["state"] = windows.scale.constant
    return {kind: dims for kind, dims in found.items() if dims}


def find_constant_motion(population: Population) -> list[ConstantMotion]:
    """Find where a population moves in dimensions that are constant in the clean set.

    Parameters
    ----------
    population : Population
        Its windows hold the normaliser that was fitted on the clean set.

    Returns
    -------
    list of ConstantMotion
        By kind and dimension. All frames of the population's episodes count, also those that are in
        no whole window: a trainer pads. A difference within the resolution of float32 is no motion.
    """
    windows, found = population.windows, list[ConstantMotion]()
    for kind, dims in list_constant_dims(windows).items():
        if kind == "state" and isinstance(windows, ObservedWindows):
            scale, values = windows.scale, _read_states(windows, population, dims)
        elif windows.normalizer is not None:
            scale, values = windows.normalizer, _read_actions(windows, population, dims)
        found += _tally(kind, dims, scale, values)
    return found


Values = tuple[Float64[np.ndarray, "frame dim"], Float64[np.ndarray, " dim"]]


def _tally(
    kind: str, dims: list[int], scale: Normalizer, values: Iterator[Values]
) -> list[ConstantMotion]:
    """Count what lies outside the clean range, given values and how fine they are."""
    low, high = scale.low[dims], scale.high[dims]
    slack = CONSTANT * np.maximum(np.abs(low), np.abs(high))
    outside, furthest, frames = np.zeros(len(dims)), np.zeros(len(dims)), 0
    for part, fineness in values:
        away = np.maximum(low - part, part - high)
        outside += (away > np.maximum(slack, fineness)).sum(axis=0)
        furthest = np.maximum(furthest, away.max(axis=0, initial=0.0))
        frames += len(part)
    return [
        ConstantMotion(kind, dim, float((a + b) / 2 + 0.0), float(n / frames), float(far))
        for dim, a, b, n, far in zip(dims, low, high, outside, furthest, strict=True)
        if n
    ]


def _read_actions(windows: Windows, population: Population, dims: list[int]) -> Iterator[Values]:
    """Yield the represented actions of every episode in some dimensions."""
    for episode in population.episodes:
        first, length = int(windows.offset[episode]), int(windows.length[episode])
        frames = slice(first, first + length)
        action = windows.action[frames][:, dims]
        fineness = np.zeros(len(dims))
        values = action
        if windows.represent != "absolute":
            alone = Windows(
                action,
                None if windows.state is None else windows.state[frames][:, dims],
                *(np.array([0]), np.array([length]), windows.horizon, windows.stride),
                windows.represent,
            )
            values = alone.of_episode(0).flatten(0, 1)
            # a difference is as fine as what was subtracted
            fineness = CONSTANT * action.abs().amax(dim=0).double().numpy()
        yield values.double().numpy(), fineness


def _read_states(
    windows: ObservedWindows, population: Population, dims: list[int]
) -> Iterator[Values]:
    for episode in population.episodes:
        first, length = int(windows.offset[episode]), int(windows.length[episode])
        states = windows.observed[first : first + length][:, dims]
        yield states.double().numpy(), np.zeros(len(dims))
