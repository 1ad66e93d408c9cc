"""What sigma_min implies for a policy: how far its samples can be from clean data.

Total variation of what ideal denoisers of the admitted data sample and of the clean law, by the
shares of the draw; what the rule demands for a wanted value; and how much of a corrupt set the rule
leaves unexamined (method.md section 3, "What sigma_min means for a policy").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ambient_curate.divergence import tv_range_at


@dataclass(frozen=True)
class Handover:
    """A level at which one or more corrupt sets leave the mixture that is denoised.

    Parameters
    ----------
    sigma : float
        Their common sigma_min, in [0, 1).
    sets : tuple of int
        Positions of the sets that leave.
    share : float
        Their joint share of what is admitted just above `sigma`, in (0, 1].
    clean_share : float
        Share of the clean set in what is left, in (0, 1].
    """

    sigma: float
    sets: tuple[int, ...]
    share: float
    clean_share: float


def list_handovers(
    sigma_min: Sequence[float | None], shares: Sequence[float], clean_share: float
) -> list[Handover]:
    """Levels at which the admitted mixture changes, from the highest down.

    Parameters
    ----------
    sigma_min : sequence of float or None, length n
        Of the corrupt sets, in [0, 1]. 1 and None (not annotated) are never admitted.
    shares : sequence of float, length n
        Of the draw, >= 0, in any common unit such as windows; a set without any has no part.
    clean_share : float
        Of the clean set, > 0, in the same unit.

    Returns
    -------
    list of Handover
        Sets of equal sigma_min leave together. The last one may be at 0: such sets are admitted
        everywhere, and the sampler ends on their mixture with the clean set.

    Raises
    ------
    ValueError
        If the lengths differ or a value is out of range.

    Examples
    --------
    >>> for each in list_handovers([0.2, 0.5, None], [3.0, 4.0, 8.0], 1.0):
    ...     print(each)
    Handover(sigma=0.5, sets=(1,), share=0.5, clean_share=0.25)
    Handover(sigma=0.2, sets=(0,), share=0.75, clean_share=1.0)
    """
    _require_sound(sigma_min, shares, clean_share)
    level_of = {
        place: float(sigma)
        for place, sigma in enumerate(sigma_min)
        if sigma is not None and sigma < 1.0 and shares[place] > 0.0
    }
    handovers, left = list[Handover](), clean_share
    for level in sorted(set(level_of.values())):  # from below: what is left is known
        sets = tuple(place for place in level_of if level_of[place] == level)
        leaving = sum(shares[place] for place in sets)
        handovers.append(Handover(level, sets, leaving / (left + leaving), clean_share / left))
        left += leaving
    return handovers[::-1]


def bound_output(
    sigma_min: Sequence[float | None],
    shares: Sequence[float],
    clean_share: float,
    epsilon: float,
) -> float:
    """Largest total variation of a policy's samples and the clean law, at the lowest noise.

    For one corrupt set ``(1 - L) sqrt(2 epsilon)``, L the clean share of the admitted draw. For
    several, the sum over the handovers of ``share * TV(q, r)`` with q what leaves and r what is
    left, of clean share L'; there ``TV(q, r) <= sqrt(2 epsilon) (2 - L')``.

    Parameters
    ----------
    sigma_min, shares, clean_share
        As in `list_handovers`.
    epsilon : float
        Margin of the rule, in (0, 1/2].

    Returns
    -------
    float
        In [0, 1]; 0 where no corrupt set is admitted, 1 where nothing is known.

    Raises
    ------
    ValueError
        If the lengths differ or a value is out of range.

    Notes
    -----
    Assumed: sigma_min of a whole set, with ``Delta(q_i, p) < 4 epsilon`` at every level above it;
    ideal denoisers of what is admitted at each level; the exact reverse process, which changes
    denoisers at sigma_min itself; sigma_max = 0. For windows as such, not given an observation.

    References
    ----------
    method.md section 3, "What sigma_min means for a policy".

    Examples
    --------
    >>> round(bound_output([0.3], [0.9], 0.1, 0.05), 3)
    0.285
    """
    tv = tv_range_at(_require_margin(epsilon))[1]
    terms = (
        each.share * min(tv * (2.0 - each.clean_share), 1.0)
        for each in list_handovers(sigma_min, shares, clean_share)
    )
    return min(sum(terms, 0.0), 1.0)


def epsilon_for(tau: float, clean_share: float) -> float:
    """Margin of the rule with which one corrupt set moves a policy by at most `tau`.

    ``(tau / (1 - L))^2 / 2``, from `bound_output`; at most 1/2, where the rule admits everything.

    Parameters
    ----------
    tau : float
        Wanted total variation of the policy's samples and the clean law, in (0, 1].
    clean_share : float
        L, share of the clean set in the draw, in [0, 1).

    Raises
    ------
    ValueError
        If a value is out of range.

    Examples
    --------
    >>> round(epsilon_for(0.1, 0.5), 3)
    0.02
    """
    if not (0.0 < tau <= 1.0 and 0.0 <= clean_share < 1.0):
        raise ValueError(
            f"tau must be in (0, 1] and clean_share in [0, 1), got {tau} and {clean_share}"
        )
    return min((tau / (1.0 - clean_share)) ** 2 / 2.0, 0.5)


def arbitrary_share(epsilon: float) -> float:
    """Share of a corrupt set that may be anything while its sigma_min is still 0.

    Where all but a share m equals the clean law, Delta is at most ``2 m / (2 - m)``, and that where
    the rest is apart from it: below ``4 epsilon`` for m below ``4 epsilon / (1 + 2 epsilon)``.

    Parameters
    ----------
    epsilon : float
        Margin of the rule, in (0, 1/2].

    Raises
    ------
    ValueError
        If it is out of range.

    Examples
    --------
    >>> round(arbitrary_share(0.05), 3)
    0.182
    """
    return 4.0 * _require_margin(epsilon) / (1.0 + 2.0 * epsilon)


def _require_margin(epsilon: float) -> float:
    if not 0.0 < epsilon <= 0.5:
        raise ValueError(f"epsilon must be in (0, 1/2], got {epsilon}")
    return epsilon


def _require_sound(
    sigma_min: Sequence[float | None], shares: Sequence[float], clean_share: float
) -> None:
    if len(sigma_min) != len(shares):
        raise ValueError(f"{len(sigma_min)} values of sigma_min, but {len(shares)} shares")
    if not all(sigma is None or 0.0 <= sigma <= 1.0 for sigma in sigma_min):
        raise ValueError(f"sigma_min must be in [0, 1] or None, got {list(sigma_min)}")
    if not (np.isfinite([*shares, clean_share]).all() and clean_share > 0.0):
        raise ValueError(f"shares must be finite and that of the clean set > 0, got {clean_share}")
    if min(shares, default=0.0) < 0.0:
        raise ValueError(f"shares must be >= 0, got {list(shares)}")
