"""The action normaliser: offset and scale per dimension, fitted on data or given by a trainer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from ambient_curate.data.motion import count_outside, is_constant
from ambient_curate.options import Normalization
from ambient_curate.readers.episodes import count_windows as count_windows

ROWS = 65_536  # of values read at a time
QUANTILES = (0.01, 0.99)
_FAR = 10.0  # of a constant from the centre of a trainer's scaled actions
_NUMBERS = ("offset", "scale", "shift")

Parts = Callable[[], Iterator[Float[np.ndarray, "n action"]]]


@dataclass(frozen=True, eq=False)
class Scaling:
    """What a trainer makes of an action, ``(x - offset) * scale + shift``, by its own statistics.

    Parameters
    ----------
    offset, scale, shift : ndarray, float64, shape (action,)
        Finite, ``scale >= 0``; where it is 0 the trainer leaves nothing of a dimension. A range is
        brought to [-1, 1] from its lower end by a shift of -1, as trainers do: a centre would be
        rounded, which a range of nothing makes large.
    clipped : ndarray, bool, shape (action,)
        Dimensions that are cut off at -1 and 1 afterwards.
    source : mapping of str to str
        ``file``, ``format`` and ``sha256`` of the file of statistics.
    """

    offset: Float64[np.ndarray, " action"]
    scale: Float64[np.ndarray, " action"]
    shift: Float64[np.ndarray, " action"]
    clipped: Bool[np.ndarray, " action"]
    source: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        arrays = {name: getattr(self, name).tolist() for name in _NUMBERS}
        return {**arrays, "clipped": self.clipped.tolist(), "source": dict(self.source)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Scaling":
        """Inverse of `as_dict`."""
        numbers = {name: np.asarray(stored[name], dtype=np.float64) for name in _NUMBERS}
        clipped = np.asarray(stored["clipped"], dtype=bool)
        return cls(**numbers, clipped=clipped, source=stored["source"])

    def take(self, dims: Sequence[int]) -> "Scaling":
        """Give the scaling of some dimensions."""
        numbers = {name: getattr(self, name)[list(dims)] for name in _NUMBERS}
        return replace(self, **numbers, clipped=self.clipped[list(dims)])


@dataclass(frozen=True)
class Normalizer:
    """Affine scaling of every action dimension: ``(x - offset) * scale``, and a trainer's shift.

    Parameters
    ----------
    kind : {"minmax", "quantile", "gaussian", "none"}
        What was fitted, or which of a trainer's statistics were taken.
    offset, scale : ndarray, float64, shape (action,)
        A dimension that is constant in what it was fitted on has scale 0 and becomes 0; with
        ``none`` every scale is 1.
    low, high : ndarray, float64, shape (action,)
        Range of the clean set, before scaling.
    trainer : Scaling or None
        What a trainer's statistics say, from which offset and scale come; None: fitted.
    """

    kind: Normalization
    offset: Float64[np.ndarray, " action"]
    scale: Float64[np.ndarray, " action"]
    low: Float64[np.ndarray, " action"]
    high: Float64[np.ndarray, " action"]
    trainer: Scaling | None = None

    @property
    def constant(self) -> list[int]:
        """Dimensions without a scale: they are constant in the clean set, and not compared.

        None where the scale is a trainer's own: what it multiplies by 0 it never sees move.
        """
        return [] if self.trainer is not None else np.flatnonzero(self.scale == 0.0).tolist()

    @property
    def still(self) -> list[int]:
        """Dimensions that are constant in the clean set, whatever their scale."""
        return np.flatnonzero(is_constant(self.low, self.high)).tolist()

    def apply(self, windows: Float32[Tensor, "*batch action"]) -> Float32[Tensor, "*batch action"]:
        """Scale raw actions; values outside the range are cut off only where a trainer does so."""
        offset, scale = torch.from_numpy(self.offset), torch.from_numpy(self.scale)
        scaled = (windows.double() - offset) * scale
        if self.trainer is not None:
            scaled += torch.from_numpy(self.trainer.shift)
            clipped = torch.from_numpy(self.trainer.clipped)
            scaled = torch.where(clipped, scaled.clamp(-1.0, 1.0), scaled)
        return scaled.float()

    def undo(self, scaled: Float32[Tensor, "*batch action"]) -> Float32[Tensor, "*batch action"]:
        """Inverse of `apply`; a constant dimension gets its constant."""
        back = self.spread
        shift = np.zeros_like(back) if self.trainer is None else self.trainer.shift
        values = (scaled.double() - torch.from_numpy(shift)) * torch.from_numpy(back)
        return (values + torch.from_numpy(self.offset)).float()

    @property
    def spread(self) -> Float64[np.ndarray, " action"]:
        """Inverse of the scale, 0 where that is 0."""
        moving = self.scale != 0.0
        return np.divide(1.0, self.scale, out=np.zeros_like(self.scale), where=moving)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        arrays = {name: getattr(self, name).tolist() for name in ("offset", "scale", "low", "high")}
        given = {} if self.trainer is None else {"trainer": self.trainer.as_dict()}
        return {"kind": self.kind, **arrays, **given}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Normalizer":
        """Inverse of `as_dict`."""
        names = ("offset", "scale", "low", "high")
        arrays = {name: np.asarray(stored[name], dtype=np.float64) for name in names}
        trainer = Scaling.from_dict(stored["trainer"]) if "trainer" in stored else None
        return cls(stored["kind"], **arrays, trainer=trainer)


def fit_normalizer(kind: Normalization, values: Float[np.ndarray, "n action"]) -> Normalizer:
    """Fit a normaliser on the clean set's values.

    Parameters
    ----------
    kind : {"minmax", "quantile", "gaussian", "none"}
        Range to [-1, 1], 1 % and 99 % quantiles to [-1, 1], mean 0 and standard deviation 1, or
        left as stored. A dimension whose two quantiles are the same (a gripper that hardly ever
        moves) has its range to [-1, 1]: without a scale it would not be compared.
    values : ndarray, shape (n, action)
        Finite, n >= 1.
    """
    values = values.astype(np.float64)
    low, high = values.min(axis=0), values.max(axis=0)
    if kind == "none":
        return Normalizer(kind, np.zeros_like(low), np.ones_like(low), low, high)
    if kind == "gaussian":
        return _centred(kind, values.mean(axis=0), values.std(axis=0), (low, high), (low, high))
    ends = (low, high) if kind == "minmax" else np.quantile(values, QUANTILES, axis=0)
    return _spanned(kind, ends, (low, high), (low, high))


def fit_normalizer_on_all(
    kind: Normalization, clean: Float[np.ndarray, "n action"], parts: Parts
) -> Normalizer:
    """Fit a normaliser on the values of all datasets, without holding them together.

    Parameters
    ----------
    kind : {"minmax", "quantile", "gaussian", "none"}
        As in `fit_normalizer`.
    clean : ndarray, shape (n, action)
        The clean set's values, whose range a normaliser keeps.
    parts : callable
        Gives an iterator over all values, the clean set's too, in parts of float32; called once
        for each pass.
    """
    span = clean.min(axis=0).astype(np.float64), clean.max(axis=0).astype(np.float64)
    if kind == "none":
        return Normalizer(kind, np.zeros_like(span[0]), np.ones_like(span[0]), *span)
    low, high, count = np.full_like(span[0], np.inf), np.full_like(span[1], -np.inf), 0
    for part in parts():
        low, high = np.minimum(low, part.min(axis=0)), np.maximum(high, part.max(axis=0))
        count += len(part)
    if kind == "gaussian":
        mean = sum(part.sum(axis=0, dtype=np.float64) for part in parts()) / count
        square = sum(((part - mean) ** 2).sum(axis=0, dtype=np.float64) for part in parts())
        return _centred(kind, mean, np.sqrt(square / count), (low, high), span)
    if kind == "minmax":
        return _spanned(kind, (low, high), (low, high), span)
    ends = [_quantile(parts, share, count) for share in QUANTILES]
    return _spanned(kind, (ends[0], ends[1]), (low, high), span)


Ends = tuple[Float64[np.ndarray, " action"], Float64[np.ndarray, " action"]] | np.ndarray


def _spanned(kind: Normalization, ends: Ends, fitted: Ends, clean: Ends) -> Normalizer:
    """Bring two ends to -1 and 1; the range takes their place where they are the same."""
    ends = np.where(is_constant(*ends), fitted, ends)
    return _centred(kind, (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2, fitted, clean)


def _centred(
    kind: Normalization, centre: np.ndarray, half: np.ndarray, fitted: Ends, clean: Ends
) -> Normalizer:
    constant = is_constant(*fitted)
    scale = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, half))
    return Normalizer(kind, centre, scale, *clean)


def _quantile(parts: Parts, share: float, count: int) -> Float64[np.ndarray, " action"]:
    """Quantile of every dimension, interpolated between two ranks as `numpy.quantile` does."""
    place = share * (count - 1)
    rank = int(place)
    below, above = (_value_of_rank(parts, min(each, count - 1)) for each in (rank, rank + 1))
    return below + (above - below) * (place - rank)


def _value_of_rank(parts: Parts, rank: int) -> Float64[np.ndarray, " action"]:
    """Find the float32 value of a rank, from 0, in every dimension.

    First its upper 16 bits, then the lower ones among the values that agree in those.
    """
    upper = _count_halves(parts, lambda bits: bits >> 16, None)
    head, before = _find_rank(upper, np.full(len(upper), rank))
    lower = _count_halves(parts, lambda bits: bits & 0xFFFF, head)
    tail, _ = _find_rank(lower, rank - before)
    bits = (head << 16 | tail).astype(np.uint32)
    back = np.where(bits >> 31, bits ^ np.uint32(1 << 31), ~bits)  # the inverse of _order_bits
    return back.astype(np.uint32).view(np.float32).astype(np.float64)


def _order_bits(values: np.ndarray) -> np.ndarray:
    """Give whole numbers in the order of float32 values."""
    bits = (np.ascontiguousarray(values, dtype=np.float32) + np.float32(0.0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits ^ np.uint32(1 << 31)).astype(np.int64)


def _count_halves(
    parts: Parts, half: Callable[[np.ndarray], np.ndarray], head: np.ndarray | None
) -> np.ndarray:
    """Count, by dimension, the values by half of their bits: all, or those with an upper half."""
    counts: np.ndarray | None = None
    for part in parts():
        bits = _order_bits(part)
        counts = np.zeros((bits.shape[1], 1 << 16), np.int64) if counts is None else counts
        for dim, column in enumerate(bits.T):
            own = column if head is None else column[column >> 16 == head[dim]]
            counts[dim] += np.bincount(half(own), minlength=1 << 16)
    assert counts is not None
    return counts


def _find_rank(counts: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find where a rank falls in each row of counts, and how many come before."""
    ends = np.cumsum(counts, axis=1)
    place = (ends <= rank[:, None]).sum(axis=1)
    rows = np.arange(len(counts))
    return place, ends[rows, place] - counts[rows, place]


def scale_as_trainer(
    kind: Normalization,
    scaling: Scaling,
    values: Float[np.ndarray, "n action"],
    *,
    absolute: bool,
    shared: bool,
) -> Normalizer:
    """Make a normaliser of what a trainer's statistics say.

    Parameters
    ----------
    kind : {"minmax", "quantile", "gaussian"}
        Which statistics were taken.
    scaling : Scaling
        Of as many dimensions as the actions have.
    values : ndarray, shape (n, action)
        The clean set's, as windows represent them.
    absolute : bool
        Whether windows hold actions as they are stored. If not, statistics of actions say how much
        a difference is multiplied, and nothing of its centre or of a cut-off.
    shared : bool
        Whether all datasets are scaled so.
    """
    low, high = (ends.astype(np.float64) for ends in (values.min(axis=0), values.max(axis=0)))
    centre = (low + high) / 2
    if not absolute:
        zero, nowhere = np.zeros_like(centre), np.zeros_like(scaling.clipped)
        scaling = replace(scaling, offset=centre, shift=zero, clipped=nowhere)
    offset = scaling.offset
    if shared:
        # noise hides no constant, and float32 would lose what little lies beside a large one
        far = np.abs(centre - offset) * scaling.scale > _FAR
        offset = np.where(far & is_constant(low, high) & ~scaling.clipped, centre, offset)
    return Normalizer(kind, offset, scaling.scale, low, high, trainer=scaling)


def share_outside(values: Float[np.ndarray, "n action"], normalizer: Normalizer) -> float:
    """Share of the values that lie outside the clean set's range in their dimension."""
    count = 0
    for first in range(0, len(values), ROWS):  # the values may be a file larger than memory
        part = values[first : first + ROWS]
        count += int(count_outside(part, normalizer.low, normalizer.high).sum())
    return count / values.size
