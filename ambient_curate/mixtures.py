"""The mixture that trains: the clean windows with those of every corrupt set that has an answer."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from ambient_curate.arms import Arm
from ambient_curate.examinations import RELIABLE
from ambient_curate.study import Study
from ambient_curate.tilts import Tally, tally_windows, unbiased_weights


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
    heads : dict of int to Arm
        The corrupt sets in it, by output of the network.
    shares : dict of str to float
        Share of every dataset's windows, the clean one's first.
    """

    def __init__(self, study: Study, statuses: Mapping[str, str]) -> None:
        self.study = study
        self.heads = {
            head: arm
            for head, arm in enumerate(study.corrupt)
            if arm.group is None and statuses.get(arm.dataset) == RELIABLE
        }
        self._counts = {
            arm.dataset: int(arm.windows.counts[arm.episodes].sum())
            for arm in (study.clean, *self.heads.values())
        }
        total = sum(self._counts.values())
        self.shares = {name: count / total for name, count in self._counts.items()}

    def head_of(self, dataset: str) -> int | None:
        """Output that stands for a corrupt set; None where it has no part."""
        return next((head for head, arm in self.heads.items() if arm.dataset == dataset), None)

    def share_of(self, corrupt: Arm) -> float:
        """Share of a corrupt dataset's windows beside those of the clean set alone."""
        count = self._counts[corrupt.dataset]
        return count / (count + self._counts[self.study.clean.dataset])

    def weigh(self, c: Float[np.ndarray, "window head"]) -> Float64[np.ndarray, " window"]:
        """Unbiased weights of windows, from their c against each of `heads` next to no noise."""
        if not self.heads:  # the clean set trains alone
            return np.ones(len(c))
        shares = [self.shares[arm.dataset] for arm in self.heads.values()]
        return unbiased_weights(c, np.array(shares))

    def tally(
        self,
        arm: Arm,
        corrupt: Arm,
        c: Float[np.ndarray, " window"],
        usable: Bool[np.ndarray, " window"],
        counts: Int64[np.ndarray, " episode"],
    ) -> Tally:
        """Tally windows of the clean arm, or of `corrupt`, in the mixture of the two.

        Parameters
        ----------
        arm, corrupt : Arm
            Whose windows, and of which pair.
        c : ndarray, shape (window,)
            Against `corrupt`, next to no noise.
        usable : ndarray, bool, shape (window,)
            At every level.
        counts : ndarray, int64, shape (episode,)
            Windows of each of the episodes, > 0.
        """
        share = self.share_of(corrupt)
        own = share if arm is corrupt else 1.0 - share
        if self.study.options.weighting == "window":
            mass = np.full(c.size, own / self._counts[arm.dataset])
        else:
            mass = np.repeat(own / (arm.episodes.size * counts), counts)
        return tally_windows(c, usable, mass, share, np.cumsum(counts) - counts)
