"""Diffusion times for the windows of a batch, drawn among those at which each may be used."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ambient_curate.export.trainer_time import Clock


class Draw(NamedTuple):
    """Times of a batch.

    Parameters
    ----------
    time : Tensor, shape (row,)
        int64 steps, or float32 times, of the trainer.
    weight : Tensor, float32, shape (row,)
        Share of the trainer's times at which the row may be used, in [0, 1]. Multiply the loss of
        each row by it. 0: at none; its time is arbitrary and must not count.
    """

    time: Tensor
    weight: Tensor


def sample_time(
    sigma_min: Float[Tensor, " row"],
    sigma_max: Float[Tensor, " row"] | None,
    schedule: str,
    *,
    exponent: float = 1.0,
    floor: float = 0.0,
    generator: torch.Generator | None = None,
) -> Draw:
    """Draw a time for every row, by the trainer's own law restricted to the times it may be used.

    A mean of losses times weights is then what the trainer's own draws would give if every row at
    a forbidden time were dropped, with fewer evaluations of the network.

    Parameters
    ----------
    sigma_min, sigma_max : Tensor, shape (row,)
        Usable above, and at or below, in VP noise; NaN: not at all. `sigma_max` None: nowhere.
    schedule : str
        See `trainer_time.Clock`. Of steps all are drawn alike; ``edm`` has the noise of Karras
        et al. (2022, table 1).
    exponent : float
        For flows: noise times follow the density ``exponent t^(exponent - 1)``, which is
        Beta(exponent, 1). 1: uniform; openpi, SmolVLA and GR00T have 1.5.
    floor : float in [0, 1)
        For flows: the lowest noise time; that law is squeezed into [floor, 1]. openpi and SmolVLA
        have 0.001.
    generator : torch.Generator or None
        Of the draws; on the rows' device.

    References
    ----------
    method.md, section 10.
    """
    clock, device = Clock(schedule), sigma_min.device
    low = sigma_min.detach().double().cpu().numpy()
    high = torch.zeros_like(sigma_min) if sigma_max is None else sigma_max
    after = torch.from_numpy(clock.after(low)).to(device)
    until = torch.from_numpy(clock.until(high.detach().double().cpu().numpy())).to(device)
    uniform = torch.rand(sigma_min.shape, dtype=torch.float64, generator=generator, device=device)
    if clock.is_discrete:
        return _draw_steps(clock.steps, after, until, uniform)
    return _draw_times(_Law(clock.schedule, exponent, floor), after, until, uniform)


def _draw_steps(steps: int, after: Tensor, until: Tensor, uniform: Tensor) -> Draw:
    """Draw one of the usable steps, counted from the lowest."""
    low = torch.minimum(until + 1, after)  # steps 0 .. until that `after` does not have too
    count = low + steps - after
    number = (uniform * count).long().clamp(max=steps - 1)
    time = torch.where(number < low, number, number - low + after)
    return Draw(time.clamp(max=steps - 1), (count.double() / steps).float())


class _Law(NamedTuple):
    """By which a trainer draws the times of noise."""

    schedule: str
    exponent: float
    floor: float

    def share_below(self, time: Tensor) -> Tensor:
        if self.schedule == "edm":
            return torch.special.ndtr((time.log() + 1.2) / 1.2)
        return ((time - self.floor) / (1.0 - self.floor)).clamp(min=0.0) ** self.exponent

    def undo_share(self, share: Tensor) -> Tensor:
        if self.schedule == "edm":
            return torch.exp(torch.special.ndtri(share) * 1.2 - 1.2)
        return self.floor + (1.0 - self.floor) * share ** (1.0 / self.exponent)


def _draw_times(law: _Law, after: Tensor, until: Tensor, uniform: Tensor) -> Draw:
    """Draw by the inverse of the law's distribution function, from the shares that are usable."""
    reverse = law.schedule == "flow-reversed"
    noise = (1.0 - after, 1.0 - until) if reverse else (after, until)
    start, end = (law.share_below(time) for time in noise)
    end = torch.minimum(start, end)
    weight = 1.0 - start + end
    place = uniform * weight
    place = torch.where(place < end, place, place - end + start)
    time = law.undo_share(place)
    return Draw((1.0 - time if reverse else time).float(), weight.float())
