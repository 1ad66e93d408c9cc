"""Examinations: whether the classifier of an arm may be believed, check by check."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32

from ambient_curate.arms import Arm
from ambient_curate.checks import (
    Finding,
    check_balance,
    check_blindness,
    check_control,
    check_overfit,
)
from ambient_curate.controls import SHIFT, Control
from ambient_curate.curves import ArmCurves, Side
from ambient_curate.energy import MOST_WINDOWS, compare_episodes
from ambient_curate.episodes import pick_evenly
from ambient_curate.errors import NotEnoughDataError
from ambient_curate.scoring import ACCURACY, BRIER, C

RELIABLE = "ok"
UNRELIABLE = "classifier-unreliable"


class _EpisodeWindows(Sequence[Float32[np.ndarray, "_ dim"]]):
    """Some windows of every episode of an arm, read when asked for."""

    def __init__(self, arm: Arm, episodes: np.ndarray) -> None:
        self.arm, self.episodes = arm, episodes

    def __len__(self) -> int:
        return self.episodes.size

    def __getitem__(self, number: int) -> np.ndarray:  # type: ignore[override]
        episode = self.episodes[number]
        picked = pick_evenly(int(self.arm.windows.counts[episode]), MOST_WINDOWS)
        windows = self.arm.windows.gather(np.full_like(picked, episode), picked)
        return windows.flatten(1).numpy()


def differ_surely(clean: Arm, corrupt: Arm, sigma: float, rng: np.random.Generator) -> float:
    """Return the p-value of "clean and corrupt episodes follow one law", without a classifier.

    1 where a side has too few episodes for the test.
    """
    sides = [_EpisodeWindows(arm, arm.episodes) for arm in (clean, corrupt)]
    try:
        return compare_episodes(*sides, sigma=sigma, rng=rng).p_value
    except NotEnoughDataError:
        return 1.0


def examine_arm(
    arm: ArmCurves,
    clean: Side,
    corrupt: Side,
    p_value: float,
    *,
    challenged: bool,
    epsilon: float,
    rng: np.random.Generator,
) -> list[Finding]:
    """Ask whether the network is blind to a sure difference, and whether it is calibrated.

    Parameters
    ----------
    arm : ArmCurves
        What the scores say.
    clean, corrupt : Side
        The scores.
    p_value : float
        Of `differ_surely`.
    challenged : bool
        Whether a challenger was tried.
    epsilon : float
        Margin of the rule.
    rng : Generator
        Of the bootstraps.
    """
    folds = int(rng.integers(2**32))  # both classes draw the same
    hits = [side.redraw(ACCURACY, rng, folds)[:, 0] for side in (clean, corrupt)]
    means = [side.redraw(C, rng, folds) for side in (clean, corrupt)]
    offset = arm.clean[C] + arm.corrupt[C] - 1.0
    return [
        check_blindness(p_value, (hits[0] + hits[1]) / 2.0, arm.sigma_min, challenged=challenged),
        check_balance(offset, means[0] + means[1] - 1.0, arm.sigma, epsilon),
    ]


def examine_crops(
    arm: ArmCurves, clean: Side, corrupt: Side, *, epsilon: float, rng: np.random.Generator
) -> Finding:
    """Ask whether a network of crops is calibrated at every radius.

    Parameters
    ----------
    arm, clean, corrupt, epsilon, rng
        As in `examine_arm`; the levels are those of `crops.radius_levels`.
    """
    folds = int(rng.integers(2**32))  # both classes draw the same
    means = [side.redraw(C, rng, folds) for side in (clean, corrupt)]
    offset = arm.clean[C] + arm.corrupt[C] - 1.0
    radius = np.arange(arm.sigma.size - 1, -1, -1, dtype=np.float64)
    return check_balance(offset, means[0] + means[1] - 1.0, radius, epsilon, axis="radius")


def examine_folds(own: tuple[Side, Side], other: tuple[Side, Side]) -> Finding:
    """Ask whether the networks were trained on what they score.

    Parameters
    ----------
    own, other : tuple of Side
        Clean and corrupt scores of the same windows and noise: by the network that holds an
        episode out, and by the one that the episode stopped and calibrated.
    """
    in_use, held_out = (
        np.concatenate([side.statistics[:, BRIER].mean(axis=1) for side in sides])
        for sides in (own, other)
    )
    is_clean = np.repeat([True, False], [len(side.fold) for side in own])
    fold = np.concatenate([side.fold for side in own])
    return check_overfit(in_use, held_out, is_clean, fold)


def examine_control(found: ArmCurves, planted: Control) -> Finding:
    """Ask whether a planted control was found where it is."""
    ends = found.sigma_min, found.lower, found.upper
    return check_control(planted.sigma_min, *ends, name=planted.name, decides=planted.name == SHIFT)


def failures(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield what the failed checks say."""
    yield from (finding.sentence for finding in findings if not finding.passed)
