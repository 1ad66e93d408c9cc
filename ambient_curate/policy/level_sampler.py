"""The noise-level sampler: a level first, then a window that may be used at it.

This is where sigma_min and sigma_max enter training. Drawing the datum first and a level that it
admits second would change how often each noise level is seen.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64
from torch.utils.data import Sampler

from ambient_curate.errors import NotEnoughDataError
from ambient_curate.option_fields import Rule, check_argument, is_number, raise_problems, whole

Item = tuple[int, int]  # a datum and a level

_SHARE = Rule(lambda value: is_number(value) and 0.0 <= value < np.inf, "a number >= 0")


@dataclass(frozen=True, eq=False)
class Admission:
    """Which data may be used at which noise: where ``sigma > sigma_min or sigma <= sigma_max``.

    Parameters
    ----------
    dataset : sequence of str
        Names of the datasets.
    size : sequence of int
        Data of each, which come in this order.
    sigma_min : ndarray, float64, shape (datum,)
        In [0, 1]; 1: not above any level. NaN, not annotated, counts as 1.
    sigma_max : ndarray, float64, shape (datum,)
        In [0, 1]; 0, or NaN: none below.
    weight : ndarray, shape (datum,), or None
        How often a datum is drawn, relative to others, wherever it may be used; >= 0. None: all
        alike.

    Raises
    ------
    ValueError
        If an array has another length or leaves its range, or a name is there twice.
    ConfigError
        If a size is no whole number.
    """

    dataset: Sequence[str]
    size: Sequence[int]
    sigma_min: Float64[np.ndarray, " datum"]
    sigma_max: Float64[np.ndarray, " datum"]
    weight: Float[np.ndarray, " datum"] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.dataset, str) or len(set(self.dataset)) < len(self.dataset):
            raise ValueError(f"dataset = {self.dataset!r}: expected a name for each, none twice")
        sizes = [check_argument("size", size, whole(0)) for size in self.size]
        arrays = {
            name: np.asarray(value, dtype=np.float64)
            for name, value in vars(self).items()
            if name in ("sigma_min", "sigma_max", "weight") and value is not None
        }
        found = {"dataset": tuple(self.dataset), "size": tuple(sizes)} | arrays
        vars(self).update(found)  # a frozen dataclass refuses setattr
        shapes = {self.sigma_min.shape, self.sigma_max.shape, (sum(self.size),)}
        shapes |= set() if self.weight is None else {self.weight.shape}
        if len(shapes) > 1 or len(self.dataset) != len(self.size):
            raise ValueError(f"one value a datum, one size a dataset: {sorted(shapes)}")
        for name, values in (("sigma_min", self.sigma_min), ("sigma_max", self.sigma_max)):
            if ((values < 0.0) | (values > 1.0)).any():
                raise ValueError(f"{name} leaves [0, 1]")
        if self.weight is not None and not (self.weight >= 0.0).all():
            raise ValueError("a weight is negative or not a number")

    def spans(self) -> Iterator[tuple[str, slice]]:
        """Yield every dataset with the places of its data."""
        ends = np.cumsum(self.size).tolist()
        for name, size, end in zip(self.dataset, self.size, ends, strict=True):
            yield name, slice(end - size, end)

    def effective_sizes(self) -> dict[str, float]:
        """Give Kish's effective sample size of every dataset: (sum w)^2 / sum w^2."""
        if self.weight is None:
            return dict(zip(self.dataset, map(float, self.size), strict=True))
        found = {}
        for name, span in self.spans():
            w = self.weight[span].astype(np.float64)
            found[name] = float(w.sum() ** 2 / (w**2).sum()) if w.any() else 0.0
        return found


class LevelSampler:
    """Draws pairs of a datum and a noise level, in O(log N) a pair and without rejection.

    Levels are uniform. Given a level, dataset i has the probability ``w_i / sum_j w_j`` over the
    datasets that have data admitted at it, and its data there are drawn in proportion to their
    weights. Sorted by sigma_min, the data admitted from above are a prefix at every level; sorted
    by falling sigma_max, so are those admitted from below.

    Parameters
    ----------
    admission : Admission
        The data.
    sigma : ndarray, float64, shape (level,)
        Rising noise levels in (0, 1].
    shares : mapping of str to float, or None
        ``w_i`` > 0, or 0 to leave a dataset out. None: the weight of the data it has admitted at
        the level, so that all admitted data are drawn alike.
    seed : int
        Of all draws.

    Raises
    ------
    NotEnoughDataError
        If nothing may be used at some level.
    ConfigError
        If `shares` has not one number for each dataset, or levels or the seed are wrong.
    """

    def __init__(
        self,
        admission: Admission,
        sigma: Float64[np.ndarray, " level"],
        *,
        shares: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        sigma = np.asarray(sigma, dtype=np.float64)
        if sigma.ndim != 1 or not ((sigma > 0.0) & (sigma <= 1.0)).all() or sigma.size == 0:
            raise_problems([f"sigma = {sigma}: expected noise levels in (0, 1]"])
        if not (np.diff(sigma) > 0.0).all():
            raise_problems(["sigma does not rise: expected every level above the one before"])
        self.admission, self.sigma = admission, sigma
        self.seed = check_argument("seed", seed, whole(0))
        shares = None if shares is None else _check_shares(shares, admission.dataset)
        order: list[np.ndarray] = []
        weight: list[np.ndarray] = []
        mass, count = [], []
        for _, span in admission.spans():
            for part, admitted in _sort_parts(admission, span, sigma):
                w = np.ones(part.size) if admission.weight is None else admission.weight[part]
                order.append(part)
                weight.append(w.astype(np.float64))
                mass.append(np.append(0.0, np.cumsum(weight[-1]))[admitted])
                count.append(admitted)
        self._order = np.concatenate(order)
        self._until = np.append(0.0, np.cumsum(np.concatenate(weight)))
        size = np.array([part.size for part in order])  # two a dataset: from above, from below
        self._start = np.cumsum(size) - size
        self._count = np.stack(count, axis=1)
        self.mass = np.stack(mass, axis=1)
        """Weight of the data admitted at every level, of every part of a dataset."""
        self.probability = self._find_probability(shares)
        """Of every part at every level; rows sum to 1."""
        self._steps = np.cumsum(self.probability, axis=1)

    def _find_probability(
        self, shares: Mapping[str, float] | None
    ) -> Float64[np.ndarray, "level part"]:
        of_dataset = self.mass[:, 0::2] + self.mass[:, 1::2]
        wanted = of_dataset
        if shares is not None:
            w = np.array([shares[name] for name in self.admission.dataset])
            wanted = np.where(of_dataset > 0.0, w, 0.0)
        total = wanted.sum(axis=1)
        if not (total > 0.0).all():
            empty = self.sigma[total <= 0.0]
            raise NotEnoughDataError(
                f"no datum may be used at {empty.size} of {self.sigma.size} noise levels, the "
                f"first at sigma {empty[0]:.4f}",
                "add data whose sigma_min is lower, such as the clean set",
            )
        share = np.divide(wanted, of_dataset, out=np.zeros_like(wanted), where=of_dataset > 0.0)
        return np.repeat(share / total[:, None], 2, axis=1) * self.mass

    def draw(
        self, step: int, count: int
    ) -> tuple[Int64[np.ndarray, " count"], Int64[np.ndarray, " count"]]:
        """Draw data and levels of one step; equal for equal seed, step and count.

        Returns
        -------
        tuple of ndarray
            Places of the data, and of their levels in `sigma`.
        """
        rng = np.random.default_rng([self.seed, step])
        level = rng.integers(self.sigma.size, size=count)
        return self.draw_at(level, rng), level

    def draw_at(
        self, level: Int64[np.ndarray, " count"], rng: np.random.Generator
    ) -> Int64[np.ndarray, " count"]:
        """Draw a datum for each of some levels."""
        count, steps = level.size, self._steps[level]
        place = rng.random(count) * steps[:, -1]
        part = (steps <= place[:, None]).sum(axis=1)
        first = self._start[part]
        target = self._until[first] + rng.random(count) * self.mass[level, part]
        found = np.searchsorted(self._until, target, side="right") - 1
        last = first + self._count[level, part] - 1  # rounding may carry one over the end
        return self._order[np.clip(found, first, last)]

    def coverage(self) -> dict[str, Float64[np.ndarray, " level"]]:
        """Share of every dataset's data (by weight) that is admitted at each level."""
        found = {}
        for number, (name, span) in enumerate(self.admission.spans()):
            weight = self.admission.weight
            whole = float(span.stop - span.start if weight is None else weight[span].sum())
            admitted = self.mass[:, 2 * number] + self.mass[:, 2 * number + 1]
            found[name] = admitted / whole if whole else np.zeros(self.sigma.size)
        return found


def _check_shares(shares: Mapping[str, float], datasets: Sequence[str]) -> dict[str, float]:
    """Give the share of every dataset; `ConfigError` lists the wrong and the missing ones."""
    listed = f"expected one share for each of {', '.join(datasets)}"
    problems = [f"shares names {name!r}: {listed}" for name in shares if name not in datasets]
    problems += [f"shares lacks {name!r}: {listed}" for name in datasets if name not in shares]
    raise_problems(problems)
    return {name: check_argument(f"shares[{name!r}]", shares[name], _SHARE) for name in datasets}


def _sort_parts(
    admission: Admission, span: slice, sigma: Float64[np.ndarray, " level"]
) -> Iterator[tuple[Int64[np.ndarray, " datum"], Int64[np.ndarray, " level"]]]:
    """Yield the data admitted above and below, sorted, and how many of them are at each level."""
    low = np.nan_to_num(admission.sigma_max[span], nan=0.0)
    high = np.nan_to_num(admission.sigma_min[span], nan=1.0)
    everywhere = low >= high
    high, low = np.where(everywhere, 0.0, high), np.where(everywhere, 0.0, low)
    order = np.argsort(high, kind="stable")
    yield order + span.start, np.searchsorted(high[order], sigma, side="left")
    order = np.argsort(-low, kind="stable")
    order = order[: np.count_nonzero(low)]
    yield order + span.start, np.searchsorted(-low[order], -sigma, side="right")


class BatchSampler(Sampler[list[Item]]):
    """Gives a rank its share of every batch, for a `torch.utils.data.DataLoader`.

    What is drawn in a step depends on the seed and the step alone, so that neither the number of
    ranks nor of the loader's workers changes a batch, and `first` is all there is to resume from.

    Parameters
    ----------
    sampler : LevelSampler
        Source of the pairs.
    batch_size : int
        Of all ranks together, a multiple of their number.
    steps : range
        Steps to give.
    rank, ranks : int
        Which share of each batch.
    """

    def __init__(
        self,
        sampler: LevelSampler,
        batch_size: int,
        steps: range,
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if batch_size % ranks:
            raise ValueError(f"a batch of {batch_size} is not a multiple of {ranks} ranks")
        self.sampler, self.steps = sampler, steps
        self.batch_size, self._share = batch_size, share_of(batch_size, rank, ranks)

    def __iter__(self) -> Iterator[list[Item]]:
        for step in self.steps:
            datum, level = self.sampler.draw(step, self.batch_size)
            yield list(zip(datum[self._share].tolist(), level[self._share].tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.steps)


def share_of(batch_size: int, rank: int, ranks: int) -> slice:
    """Rows of a batch that belong to a rank."""
    each = batch_size // ranks
    return slice(rank * each, (rank + 1) * each)


def split_shares(sizes: Mapping[str, int], clean: str, clean_weight: float) -> dict[str, float]:
    """Give the clean set the share `clean_weight`, and the others the rest by their sizes.

    Parameters
    ----------
    sizes : mapping of str to int
        Data of every dataset.
    clean : str
        One of them.
    clean_weight : float
        In [0, 1).
    """
    rest = sum(size for name, size in sizes.items() if name != clean)
    shares = {name: (1.0 - clean_weight) * size / max(rest, 1) for name, size in sizes.items()}
    return shares | {clean: clean_weight}


def find_bands(sampler: LevelSampler, *, change: float = 0.1) -> Int64[np.ndarray, " level"]:
    """Find runs of neighbouring levels at which nearly the same data may be used.

    Levels of a run have the same number. The next begins where some dataset's admitted share has
    changed by more than `change`.
    """
    shares = np.stack(list(sampler.coverage().values()), axis=1)
    band = np.zeros(len(shares), dtype=np.int64)
    first = 0
    for level in range(1, len(shares)):
        new = np.abs(shares[level] - shares[first]).max() > change
        first = level if new else first
        band[level] = band[level - 1] + new
    return band


def never_admitted(sampler: LevelSampler) -> Sequence[str]:
    """Names of the datasets that no level admits anything of."""
    return [name for name, share in sampler.coverage().items() if not share.any()]
