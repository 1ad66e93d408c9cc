"""Conditioning: windows followed by the state at their start, which noise does not reach."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ambient_curate.data.cache import Frames
from ambient_curate.data.normalizer import Normalizer, fit_normalizer
from ambient_curate.data.windows import Windows
from ambient_curate.errors import ConfigError


@dataclass(frozen=True, eq=False, kw_only=True)
class ObservedWindows(Windows):
    """Windows, each given as one row: its actions frame by frame, then the state at its first.

    Parameters
    ----------
    observed : Tensor, float32, shape (frame, state)
        States of all frames.
    scale : Normalizer
        Of the states, fitted on the clean set.
    """

    observed: Tensor
    scale: Normalizer

    @property
    def condition_dim(self) -> int:
        """Dimensions of the state."""
        return int(self.observed.shape[1])

    def read(self, frames: Int64[Tensor, "window horizon"]) -> Float32[Tensor, "window 1 dim"]:
        """Read windows of any frames; the state is that of the first of each."""
        actions = super().read(frames).flatten(1)
        return torch.cat([actions, self.scale.apply(self.observed[frames[:, 0]])], dim=1)[:, None]


def observe(
    windows: Mapping[str, Windows], frames: Mapping[str, Frames], clean: str
) -> dict[str, ObservedWindows]:
    """Let the windows of all members be followed by the state.

    Parameters
    ----------
    windows, frames : mapping by member
        Of a study.
    clean : str
        The clean set, whose states have mean 0 and standard deviation 1 afterwards.

    Raises
    ------
    ConfigError
        If a member has no states, or of another size than the clean set.
    """
    dims = {name: member.state_dim for name, member in frames.items()}
    differing = [name for name, dim in dims.items() if dim != dims[clean]]
    if dims[clean] == 0 or differing:
        shown = ", ".join(f"{name}: {dims[name]}" for name in [clean, *differing])
        raise ConfigError(
            f"condition = state needs one state in all datasets; dimensions found: {shown}",
            "name the same `state` columns for each in ambient.toml, or leave condition out",
        )
    scale = fit_normalizer("gaussian", frames[clean].data["state"].numpy())
    return {
        name: ObservedWindows(**vars(each), observed=frames[name].data["state"], scale=scale)
        for name, each in windows.items()
    }
