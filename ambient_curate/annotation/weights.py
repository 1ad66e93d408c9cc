"""Unbiased weights of windows, and how far selection by window shifts the training distribution.

A window is used at the lowest noise only where it is like clean ones, and so the windows of q that
are used crowd where p and q agree. Weights undo this, at the price of fewer effective windows
(method.md section 3).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from ambient_curate.annotation.reliability import RELIABLE
from ambient_curate.data.populations import Population
from ambient_curate.data.study import Study

REACH = 12.0  # |logit c| beyond which nothing changes
BINS = 240
_EDGES = np.linspace(-REACH, REACH, BINS + 1)


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums over the windows of one class, of which p and q_i make a mixture.

    Parameters
    ----------
    mass, usable, weighted : ndarray, float64, shape (bin,)
        Mass of the windows by the logit of their c, that of those that are usable at every level,
        and that of all of them times their weight.
    sums : ndarray, float64, shape (3,)
        Over all windows, of mass times weight: the sum, the sum of its squares, and the sum of the
        squares of an episode's.
    """

    mass: Float64[np.ndarray, " bin"]
    usable: Float64[np.ndarray, " bin"]
    weighted: Float64[np.ndarray, " bin"]
    sums: Float64[np.ndarray, " 3"]

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.mass + other.mass,
            self.usable + other.usable,
            self.weighted + other.weighted,
            self.sums + other.sums,
        )


@dataclass(frozen=True)
class Tilt:
    """What choosing by window does to the windows that p and q_i train at the lowest level.

    Parameters
    ----------
    usable : float
        Share of q_i that is used, in [0, 1].
    mixture, clean : float
        What the used windows of both, and what p, have in the region of c in which the former
        have more: in [0, 1], ``mixture - clean`` is a lower estimate of their total variation.
    weighted : float
        What all windows have there by their weights: about `clean`.
    windows, episodes : float
        Effective sample size of the weighted windows, and of their episodes (Kish).
    """

    usable: float
    mixture: float
    clean: float
    weighted: float
    windows: float
    episodes: float

    @property
    def tv(self) -> float:
        """Total variation of p and the mixture, at least."""
        return self.mixture - self.clean


def unbiased_weights(
    c: Float[np.ndarray, "window head"], shares: Float64[np.ndarray, " head"]
) -> Float64[np.ndarray, " window"]:
    """Weights that make a mixture of p and q_1 .. q_K speak for p, whatever is averaged.

    ``w = 1 / (pi_0 + sum_i pi_i (1 - c_i) / c_i)`` is p over the mixture's density, so that
    ``E_mixture[w g] = E_p[g]``. It belongs to the window, not to its noised version: a weight that
    is a function of x_sigma changes no denoiser's target.

    Parameters
    ----------
    c : ndarray, shape (window, head)
        Balanced P(clean) of each window against each q_i, next to no noise, in [0, 1].
    shares : ndarray, float64, shape (head,)
        pi_1 .. pi_K; what is missing to 1 is pi_0, > 0.

    Returns
    -------
    ndarray, float64, shape (window,)
        In [0, 1 / pi_0].

    Examples
    --------
    >>> unbiased_weights(np.array([[1.0], [0.5], [0.0]]), np.array([0.75])).tolist()
    [4.0, 1.0, 0.0]
    """
    present = shares > 0.0
    c = c[:, present].astype(np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        odds = (1.0 - c) / c
    return 1.0 / (1.0 - shares.sum() + (shares[present] * odds).sum(axis=1))


def tally_windows(
    c: Float[np.ndarray, " window"],
    usable: Bool[np.ndarray, " window"],
    mass: Float64[np.ndarray, " window"],
    share: float,
    first: Int64[np.ndarray, " episode"],
) -> Tally:
    """Tally windows of whole episodes in the mixture of p and one q_i.

    Parameters
    ----------
    c : ndarray, shape (window,)
        Balanced P(clean) against q_i next to no noise.
    usable : ndarray, bool, shape (window,)
        Whether the window would train at every level; a clean one does.
    mass : ndarray, float64, shape (window,)
        In the mixture; over all episodes of both it sums to 1.
    share : float
        pi_i in [0, 1).
    first : ndarray, int64, shape (episode,)
        Where the windows of every episode begin, rising from 0.
    """
    weight = mass * unbiased_weights(c[:, None], np.array([share]))
    with np.errstate(divide="ignore"):
        logit = np.log(c.astype(np.float64)) - np.log1p(-c.astype(np.float64))
    where = np.clip(logit, -REACH, REACH)
    by_episode = np.add.reduceat(weight, first)
    sums = np.array([weight.sum(), np.square(weight).sum(), np.square(by_episode).sum()])
    every, used, weighted = (
        np.histogram(where, _EDGES, weights=each)[0] for each in (mass, mass * usable, weight)
    )
    return Tally(every, used, weighted, sums)


def describe_tilt(clean: Tally, corrupt: Tally, share: float) -> Tilt:
    """Describe the mixture of p and one q_i.

    At the lowest level the used windows have the density ``pi_0 p + pi_i q_i P(usable)``, up to its
    sum. Where ``P(usable) q_i > usable p``, with the share that is usable among those of about the
    same c, that is more than p. Noise decides whether a single window is usable: a region of
    usable windows, instead of one of c, would take its luck for a difference of laws.

    Parameters
    ----------
    clean, corrupt : Tally
        Of all episodes of p and of q_i.
    share : float
        pi_i in (0, 1).
    """
    used = float(corrupt.usable.sum()) / share
    middle = 0.5 * (_EDGES[:-1] + _EDGES[1:])
    crowded = np.exp(-middle) * corrupt.usable > used * corrupt.mass
    both = clean + corrupt
    total, squares, by_episode = both.sums
    return Tilt(
        usable=used,
        mixture=float(both.usable[crowded].sum()) / (1.0 - share + used * share),
        clean=float(clean.usable[crowded].sum()) / (1.0 - share),
        weighted=float(both.weighted[crowded].sum() / total),
        windows=float(total**2 / squares),
        episodes=float(total**2 / by_episode),
    )


class Mixture:
    """Shares of the data sets in the draw of windows, and what follows from them.

    Parameters
    ----------
    study : Study
        What is annotated.
    statuses : mapping of str to str
        By corrupt dataset; those that are not ``ok`` have no part.

    Attributes
    ----------
    heads : dict of int to Population
        The corrupt sets in it, by output of the network.
    shares : dict of str to float
        Share of every dataset's windows, the clean one's first.
    """

    def __init__(self, study: Study, statuses: Mapping[str, str]) -> None:
        self.study = study
        self.heads = {
            head: population
            for head, population in enumerate(study.corrupt)
            if population.group is None and statuses.get(population.dataset) == RELIABLE
        }
        self._counts = {
            population.dataset: int(population.windows.counts[population.episodes].sum())
            for population in (study.clean, *self.heads.values())
        }
        total = sum(self._counts.values())
        self.shares = {name: count / total for name, count in self._counts.items()}

    def head_of(self, dataset: str) -> int | None:
        """Output that stands for a corrupt set; None where it has no part."""
        return next(
            (head for head, population in self.heads.items() if population.dataset == dataset), None
        )

    def share_of(self, corrupt: Population) -> float:
        """Share of a corrupt dataset's windows beside those of the clean set alone."""
        count = self._counts[corrupt.dataset]
        return count / (count + self._counts[self.study.clean.dataset])

    def weigh(self, c: Float[np.ndarray, "window head"]) -> Float64[np.ndarray, " window"]:
        """Unbiased weights of windows, from their c against each of `heads` next to no noise."""
        if not self.heads:  # the clean set trains alone
            return np.ones(len(c))
        shares = [self.shares[population.dataset] for population in self.heads.values()]
        return unbiased_weights(c, np.array(shares))

    def tally(
        self,
        population: Population,
        corrupt: Population,
        c: Float[np.ndarray, " window"],
        usable: Bool[np.ndarray, " window"],
        counts: Int64[np.ndarray, " episode"],
    ) -> Tally:
        """Tally windows of the clea population, or of `corrupt`, in the mixture of the two.

        Parameters
        ----------
        population, corrupt : Population
            Whose windows, and of which pair.
        c : ndarray, shape (window,)
            Against `corrupt`, next to no noise.
        usable : ndarray, bool, shape (window,)
            At every level.
        counts : ndarray, int64, shape (episode,)
            Windows of each of the episodes, > 0.
        """
        share = self.share_of(corrupt)
        own = share if population is corrupt else 1.0 - share
        if self.study.options.weighting == "window":
            mass = np.full(c.size, own / self._counts[population.dataset])
        else:
            mass = np.repeat(own / (population.episodes.size * counts), counts)
        return tally_windows(c, usable, mass, share, np.cumsum(counts) - counts)
