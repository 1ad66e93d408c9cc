"""The small denoising network: a residual MLP that trains on a CPU in minutes."""

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional as F

from ambient_curate.policy.features import embed_time, modulate, seed_weights

TIME_DIM = 64


class ResidualMlp(nn.Module):
    """Maps noised windows, times and conditions to windows; all zeros before training.

    A hidden layer of time and condition scales and shifts (FiLM, Perez et al. 2018) what enters
    each residual block. At the default size, a horizon of 16 and 2 actions it has .9 M parameters.

    Parameters
    ----------
    horizon, action_dim : int
        Frames and dimensions of a window, >= 1.
    condition_dim : int
        Length of a condition, >= 0.
    width : int
        Units of a layer.
    depth : int
        Residual blocks, of two layers each.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(
        self,
        horizon: int,
        action_dim: int,
        condition_dim: int,
        *,
        width: int = 256,
        depth: int = 3,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.window = (horizon, action_dim)
        with torch.device("meta"):  # else PyTorch draws weights from its global generator
            self.inlet = nn.Linear(horizon * action_dim, width)
            self.context = nn.Sequential(
                nn.Linear(TIME_DIM + condition_dim, width),
                nn.SiLU(),
                nn.Linear(width, width),
                nn.SiLU(),
            )
            self.blocks = nn.ModuleList(MlpBlock(width) for _ in range(depth))
            self.norm = nn.LayerNorm(width)
            self.outlet = nn.Linear(width, horizon * action_dim)
        seed_weights(self, self.outlet, generator=generator)

    def forward(
        self,
        x: Float32[Tensor, "row horizon action"],
        time: Float32[Tensor, " row"],
        condition: Float32[Tensor, "row condition"],
    ) -> Float[Tensor, "row horizon action"]:
        """Give the network's output.

        Parameters
        ----------
        x : Tensor, float32, shape (row, horizon, action_dim)
            Noised windows.
        time : Tensor, float32, shape (row,)
            Noise levels as times in [0, 100).
        condition : Tensor, float32, shape (row, condition_dim)
            What is known of each window.

        Raises
        ------
        ValueError
            If the windows have another shape than the network was built for.
        """
        if x.shape[1:] != self.window:
            raise ValueError(f"windows of shape {tuple(x.shape[1:])}; expected {self.window}")
        context = self.context(torch.cat([embed_time(time, TIME_DIM), condition], dim=1))
        hidden = self.inlet(x.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, context)
        return self.outlet(F.silu(self.norm(hidden))).unflatten(1, self.window)


class MlpBlock(nn.Module):
    """Norm, FiLM and two layers, added to what enters.

    Parameters
    ----------
    width : int
        Units of each layer, of the input, of the context and of the output.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.film = nn.Linear(width, 2 * width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(
        self, hidden: Float[Tensor, "row width"], context: Float[Tensor, "row width"]
    ) -> Float[Tensor, "row width"]:
        """Give the sum."""
        change = F.silu(modulate(self.norm(hidden), self.film(context)))
        return hidden + self.second(F.silu(self.first(change)))
