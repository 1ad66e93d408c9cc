"""Diffusion times at which data may be used: for the windows of a batch, or with the data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ambient_curate.errors import NotEnoughDataError
from ambient_curate.export.trainer_time import Clock
from ambient_curate.integrations.lookup import FrameAnnotations
from ambient_curate.noise import sigma_from_flow, sigma_from_ve


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


@dataclass(frozen=True)
class Law:
    """Distribution by which a trainer draws its diffusion times. NumPy alone, for JAX too.

    Parameters
    ----------
    schedule : str
        See `trainer_time.Clock`. Of steps all are drawn alike; ``edm`` has the noise of Karras
        et al. (2022, table 1).
    exponent : float
        For flows: noise times follow the density ``exponent t^(exponent - 1)``, which is
        Beta(exponent, 1). 1: uniform; openpi, SmolVLA and GR00T have 1.5.
    floor : float in [0, 1)
        For flows: the lowest noise time; that law is squeezed into [floor, 1]. openpi and SmolVLA
        have 0.001.
    """

    schedule: str
    exponent: float = 1.0
    floor: float = 0.0

    @cached_property
    def clock(self) -> Clock:
        """The trainer's time, without how often each is drawn."""
        return Clock(self.schedule)

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw times as the trainer does: int64 steps, or float64 times, shape (count,)."""
        nothing = np.zeros(count)
        return self.draw_admitted(nothing, nothing, rng.random(count))[0]

    def find_sigma(self, time: np.ndarray) -> np.ndarray:
        """VP noise level of times, float64, of any shape."""
        if self.clock.is_discrete:
            return np.asarray(self.clock.levels[time])
        if self.schedule == "edm":
            return sigma_from_ve(time)
        return sigma_from_flow(1.0 - time if self.schedule == "flow-reversed" else time)

    def draw_admitted(
        self, sigma_min: np.ndarray, sigma_max: np.ndarray, uniform: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw a time for every row, by this law restricted to the times it may be used.

        Parameters
        ----------
        sigma_min, sigma_max : ndarray, shape (row,)
            Usable above, and at or below, in VP noise; NaN: not at all.
        uniform : ndarray, float64, shape (row,)
            Numbers drawn from [0, 1), such as ``rng.random(row)``.

        Returns
        -------
        time : ndarray, int64 or float64, shape (row,)
            Arbitrary where the share is 0.
        share : ndarray, float64, shape (row,)
            Of the trainer's times, at which the row may be used: the weight of its loss.
        """
        after, until = self.clock.after(sigma_min), self.clock.until(sigma_max)
        if self.clock.is_discrete:
            return _draw_steps(self.clock.steps, after, until, uniform)
        reverse = self.schedule == "flow-reversed"
        noise = (1.0 - after, 1.0 - until) if reverse else (after, until)
        start, end = (self._share_below(time) for time in noise)
        end = np.minimum(start, end)
        share = 1.0 - start + end
        place = uniform * share
        time = self._undo_share(np.where(place < end, place, place - end + start))
        return 1.0 - time if reverse else time, share

    def _share_below(self, time: np.ndarray) -> np.ndarray:
        if self.schedule == "edm":
            from scipy.special import ndtr

            with np.errstate(divide="ignore"):
                return np.asarray(ndtr((np.log(time) + 1.2) / 1.2))
        inside = np.maximum((time - self.floor) / (1.0 - self.floor), 0.0)
        return np.asarray(inside**self.exponent)

    def _undo_share(self, share: np.ndarray) -> np.ndarray:
        if self.schedule == "edm":
            from scipy.special import ndtri

            return np.asarray(np.exp(ndtri(share) * 1.2 - 1.2))
        return np.asarray(self.floor + (1.0 - self.floor) * share ** (1.0 / self.exponent))


def _draw_steps(
    steps: int, after: np.ndarray, until: np.ndarray, uniform: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one of the usable steps, counted from the lowest."""
    low = np.minimum(until + 1, after)  # steps 0 .. until that `after` does not have too
    count = low + steps - after
    number = np.minimum((uniform * count).astype(np.int64), steps - 1)
    time = np.where(number < low, number, number - low + after)
    return np.minimum(time, steps - 1), count / steps


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
    a forbidden time were dropped, with fewer evaluations of the network. Without PyTorch,
    `Law.draw_admitted` does the same.

    Parameters
    ----------
    sigma_min, sigma_max : Tensor, shape (row,)
        Usable above, and at or below, in VP noise; NaN: not at all. `sigma_max` None: nowhere.
    schedule, exponent, floor
        See `Law`.
    generator : torch.Generator or None
        Of the draws; on the rows' device.

    References
    ----------
    method.md, section 10.
    """
    device = sigma_min.device
    high = torch.zeros_like(sigma_min) if sigma_max is None else sigma_max
    uniform = torch.rand(sigma_min.shape, dtype=torch.float64, generator=generator, device=device)
    low, high, uniform = (each.detach().cpu().double() for each in (sigma_min, high, uniform))
    law = Law(schedule, exponent, floor)
    time, share = law.draw_admitted(low.numpy(), high.numpy(), uniform.numpy())
    found = torch.from_numpy(time)
    found = found if law.clock.is_discrete else found.float()
    return Draw(found.to(device), torch.from_numpy(share).float().to(device))


Pair = tuple[int, int | float]  # number of a datum, and a time
_TOGETHER = 1024  # pairs that are drawn at once


class PairDraws:
    """Draws pairs of a datum and a time at which it may be used. NumPy alone.

    A time first, by the trainer's own law; then one of the data that may be used at it, all alike,
    in O(log N) and without rejection. So every noise level is seen as often as without annotation,
    and a mean loss needs no weights.

    Parameters
    ----------
    sigma_min, sigma_max : ndarray, shape (datum,)
        Usable above, and at or below, in VP noise; NaN: not at all.
    law : Law
        Of the trainer.

    Raises
    ------
    NotEnoughDataError
        If there are times at which nothing may be used.
    """

    def __init__(
        self,
        sigma_min: Float[np.ndarray, " datum"],
        sigma_max: Float[np.ndarray, " datum"],
        law: Law,
    ) -> None:
        high = np.nan_to_num(sigma_min.astype(np.float64), nan=1.0)
        low = np.nan_to_num(sigma_max.astype(np.float64), nan=0.0)
        high, low = np.where(low >= high, 0.0, high), np.where(low >= high, 0.0, low)
        self.law = law
        above = np.argsort(high, kind="stable")
        below = np.argsort(-low, kind="stable")[: np.count_nonzero(low)]
        self._order = np.concatenate([above, below])
        self._min, self._falling = high[above], -low[below]
        ends = np.append(self._min, 1.0)[:1], -np.append(self._falling, 0.0)[:1]
        covered = float(law.draw_admitted(*ends, np.zeros(1))[1][0])
        if covered < 1.0:
            raise NotEnoughDataError(
                f"nothing may be used at {1.0 - covered:.2%} of the times, of sigma "
                f"{ends[1][0]:.4f} to {ends[0][0]:.4f}",
                "add data whose sigma_min is lower, such as the clean set",
            )

    def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw `count` pairs: numbers of data, int64, and times, int64 steps or float64."""
        time = self.law.draw(rng, count)
        sigma = self.law.find_sigma(time)
        above = np.searchsorted(self._min, sigma, side="left")
        below = np.searchsorted(self._falling, -sigma, side="right")
        place = rng.integers(np.maximum(above + below, 1))
        return self._order[np.where(place < above, place, place - above + self._min.size)], time


class AdmittedPairs(Dataset[tuple[Any, Tensor]]):
    """A trainer's dataset, each datum with a time at which it may be used.

    Three lines of a training loop::

        pairs = AdmittedPairs(dataset, FrameAnnotations(*files), Law("squaredcos_cap_v2:100"))
        loader = DataLoader(pairs, batch_size=64, sampler=pairs.sample(seed=0), num_workers=4)
        for sample, time in loader: ...

    Parameters
    ----------
    dataset : Dataset
        Found by number.
    annotations : FrameAnnotations
        Of an export; a datum of which it says nothing is never drawn.
    law : Law
        Of the trainer.
    index : sequence of int, or None
        Global index of the frame of every datum. None: its number.

    Raises
    ------
    NotEnoughDataError
        As `PairDraws` does.
    ValueError
        If `index` has another length than the dataset.
    """

    def __init__(
        self,
        dataset: Any,
        annotations: FrameAnnotations,
        law: Law,
        *,
        index: Sequence[int] | Int64[np.ndarray, " datum"] | None = None,
    ) -> None:
        numbers = np.arange(len(dataset)) if index is None else np.asarray(index)
        if len(numbers) != len(dataset):
            raise ValueError(f"{len(numbers)} indices of {len(dataset)} data")
        low, high, _ = annotations.of(torch.from_numpy(numbers.astype(np.int64)))
        self.dataset = dataset
        self.draws = PairDraws(low.numpy(), high.numpy(), law)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, pair: Pair) -> tuple[Any, Tensor]:
        """Give a datum, and its time as an int64 or float32 scalar."""
        number, time = pair
        return self.dataset[number], torch.tensor(time)

    def sample(
        self, count: int | None = None, *, seed: int = 0, rank: int = 0, ranks: int = 1
    ) -> "PairSampler":
        """Sample `count` pairs an epoch, of all ranks together; None: as many as there are data."""
        return PairSampler(self.draws, count or len(self), seed, slice(rank, None, ranks))


class PairSampler(Sampler[Pair]):
    """Gives a `torch.utils.data.DataLoader` the pairs of an epoch, every epoch others.

    They depend on the seed and the epoch alone, not on the loader's workers.

    Parameters
    ----------
    draws : PairDraws
        Source of the pairs.
    count : int
        Pairs an epoch.
    seed : int
        Of all draws.
    share : slice
        Those of this rank.
    """

    def __init__(self, draws: PairDraws, count: int, seed: int, share: slice) -> None:
        self.draws, self.count, self.seed, self.share = draws, count, seed, share
        self.epoch = 0
        """Epoch of the next iteration; set it to resume."""

    def __iter__(self) -> Iterator[Pair]:
        rng = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        yield from islice(self._draw(rng), self.share.start, self.count, self.share.step)

    def _draw(self, rng: np.random.Generator) -> Iterator[Pair]:
        while True:
            datum, time = self.draws.draw(rng, _TOGETHER)
            yield from zip(datum.tolist(), time.tolist(), strict=True)

    def __len__(self) -> int:
        return len(range(self.count)[self.share])
