"""Checks that can show a classifier to be unreliable, and which dataset fails which.

Each asks for evidence of one fault, and passes where there is none. Where laws are equal, a sound
classifier fails any of the four in less than one run of twenty (method.md section 7).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from ambient_curate.annotation.curves import PopulationCurves, Side
from ambient_curate.classifier.out_of_fold import ACCURACY, BRIER, C
from ambient_curate.data.constant_dims import find_constant_motion, list_constant_dims
from ambient_curate.data.planted_controls import SHIFT, Control
from ambient_curate.data.populations import Population
from ambient_curate.errors import NotEnoughDataError
from ambient_curate.run.records import explain_missed
from ambient_curate.statistics.bootstrap import pick_evenly, stretch
from ambient_curate.statistics.energy_test import MOST_WINDOWS, compare_episodes

CERTAIN = 0.001  # largest p-value that counts as a difference
CONFIDENCE = 0.95  # of the accuracy's interval
WIDENING = 1.6  # of the control's 95 % interval: a false alarm would null every dataset
HEIGHTENING = 2.5  # of its lower end: what is found too high errs on the safe side
BALANCE_CONFIDENCE = 0.99  # simultaneous over the levels
MOST_OFF = 0.1  # that a recovered control may be found off, in sigma
KNOWN = 0.01  # to which it is known where a control is
CLEAR_ERRORS = 2.0  # standard errors that a Brier score may lie too low


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Parameters
    ----------
    check : str
        Name of the check.
    passed : bool
        False: the classifier is unreliable.
    numbers : mapping of str to float
        What was compared.
    sentence : str
        The same in plain words.
    """

    check: str
    passed: bool
    numbers: Mapping[str, float]
    sentence: str


def check_blindness(
    p_value: float,
    accuracy: Float64[np.ndarray, " redraw"],
    sigma_min: float,
    *,
    challenged: bool = False,
) -> Finding:
    """Find a difference that a test without a classifier is sure of and the network misses.

    Parameters
    ----------
    p_value : float
        Of `energy_test.compare_episodes`.
    accuracy : ndarray, float64, shape (redraw,)
        Bootstrap of the network's balanced accuracy at the lowest level of the grid.
    sigma_min : float
        What is answered.
    challenged : bool
        Whether a challenger was tried, which raises sigma_min where it sees more.

    Returns
    -------
    Finding
        Not passed where the p-value is at most `CERTAIN`, the accuracy's interval reaches down to
        1/2, sigma_min is 0, and no challenger could be tried. A small difference that the network
        sees is no finding; one below the rule's margin that it cannot be shown to see is
        (method.md section 7).
    """
    tail = (1.0 - CONFIDENCE) / 2
    lower, upper = (float(end) for end in np.quantile(accuracy, [tail, 1.0 - tail]))
    certain = p_value <= CERTAIN
    sees = lower > 0.5 or sigma_min > 0.0
    test = (
        f"a test without a classifier {'finds a' if certain else 'is not sure of any'} difference "
        f"(p = {p_value:.3f})"
    )
    network = (
        f"the network {'sees one' if sees else 'sees none'}: its accuracy at the lowest noise is "
        f"{lower:.3f} to {upper:.3f}, its sigma_min {sigma_min:.3f}"
    )
    numbers = {"p_value": p_value, "lower": lower, "upper": upper, "sigma_min": sigma_min}
    passed = sees or not certain or challenged
    return Finding("blindness", passed, numbers, f"{test}; {network}")


def is_recovered(expected: float, found: float, lower: float, upper: float) -> bool:
    """Say whether a planted control was found where it was planted.

    Parameters
    ----------
    expected : float
        Where it was planted, in (0, 1).
    found, lower, upper : float
        Its sigma_min and the 95 % interval around it, in [0, 1].

    Returns
    -------
    bool
        True where `found` is off by at most `MOST_OFF`, so that no interval is too wide to miss,
        and the interval holds `expected`; or off by at most `KNOWN`.
    """
    off = abs(found - expected)
    return off <= KNOWN or (off <= MOST_OFF and lower <= expected <= upper)


def check_control(
    expected: float,
    found: float,
    lower: float,
    upper: float,
    *,
    name: str = "planted control",
    decides: bool = True,
) -> Finding:
    """Find that a planted control came out where it was not planted.

    Parameters
    ----------
    expected : float
        Where it was planted, in (0, 1).
    found, lower, upper : float
        Its sigma_min and the 95 % bootstrap interval around it, in [0, 1].
    name : str
        What was planted.
    decides : bool
        Whether one that is surely missed makes all answers void.

    Returns
    -------
    Finding
        Not passed where it decides, `found` is off by more than `MOST_OFF`, and `expected` lies
        above the interval, its upper end stretched `WIDENING` times away from `found` in log-SNR,
        or below the lower end stretched `HEIGHTENING` times; an end at 0 or 1 is not stretched.
        Too low is unsafe; too high costs data only, but far too high tells of networks that have
        met the episodes they score. One that passes may still be missed: ``numbers["recovered"]``
        is 1 or 0 by `is_recovered`; a recovered one passes.
    """
    lowest, highest = stretch(found, lower, HEIGHTENING), stretch(found, upper, WIDENING)
    recovered = is_recovered(expected, found, lower, upper)
    held = abs(found - expected) <= MOST_OFF or bool(lowest <= expected <= highest)
    too_low = found < expected
    if recovered:
        ending = "recovered"
    elif held:
        ending = explain_missed(expected, found)
    else:
        ending = (
            "the network is too weak for this data; add clean episodes"
            if too_low
            else "as if networks scored what they were trained on; look for copies of episodes"
        )
    sentence = (
        f"the {name} was expected at sigma {expected:.3f} and found at {found:.3f} "
        f"({lower:.3f} to {upper:.3f}): {ending}"
    )
    numbers = {"expected": expected, "found": found, "lower": lower, "upper": upper}
    numbers |= {"recovered": float(recovered)}
    return Finding("control", held or not decides, numbers, sentence)


def check_balance(
    offset: Float64[np.ndarray, " level"],
    redraws: Float64[np.ndarray, "redraw level"],
    value: Float64[np.ndarray, " level"],
    epsilon: float,
    *,
    axis: str = "sigma",
) -> Finding:
    """Find a level at which E_p c + E_q c - 1 is surely beyond the rule's margin.

    Parameters
    ----------
    offset : ndarray, float64, shape (level,)
        E_p c + E_q c - 1; 0 for the best classifier.
    redraws : ndarray, float64, shape (redraw, level)
        Its bootstrap by episode, with equal folds drawn for both classes.
    value : ndarray, float64, shape (level,)
        What each level stands for.
    epsilon : float
        Margin of the rule.
    axis : str
        What `value` is: sigma, or a radius in frames.

    Returns
    -------
    Finding
        Not passed where the interval at some level lies wholly outside [-epsilon, epsilon]. The
        intervals hold at all levels at once: their width, in standard errors, is a quantile of
        the largest deviation over the levels.
    """
    spread = redraws.std(axis=0)
    deviation = np.abs(redraws - offset) / np.where(spread > 0.0, spread, np.inf)
    width = np.quantile(deviation.max(axis=1), BALANCE_CONFIDENCE) * spread
    sure = np.abs(offset) - width  # the end nearest to 0
    passed = bool((sure <= epsilon).all())
    worst = int(np.argmax(np.abs(offset) if passed else sure))
    numbers = {
        axis: float(value[worst]),
        "offset": float(offset[worst]),
        "lower": float(offset[worst] - width[worst]),
        "upper": float(offset[worst] + width[worst]),
        "epsilon": epsilon,
    }
    sentence = (
        f"E_p c + E_q c - 1 is {numbers['offset']:+.3f} ({numbers['lower']:+.3f} to "
        f"{numbers['upper']:+.3f}) at {axis} {numbers[axis]:.{3 if axis == 'sigma' else 0}f}, "
        f"{'within' if passed else 'surely beyond'} the margin of {epsilon:g}"
    )
    return Finding("balance", passed, numbers, sentence)


def check_overfit(
    in_use: Float64[np.ndarray, " episode"],
    held_out: Float64[np.ndarray, " episode"],
    is_clean: Bool[np.ndarray, " episode"],
    fold: Int64[np.ndarray, " episode"],
) -> Finding:
    """Find scores that are better than those of a network known not to be trained on the episode.

    Parameters
    ----------
    in_use, held_out : ndarray, float64, shape (episode,)
        Brier score of every episode by the network whose scores are used, and by the other one.
    is_clean : ndarray, bool, shape (episode,)
        Its class; each has half of the weight.
    fold : ndarray, int64, shape (episode,)
        Its fold; every fold has episodes of both classes, and counts the same.

    Returns
    -------
    Finding
        Not passed where the scores in use are lower by more than `CLEAR_ERRORS` standard errors of
        the episodes' differences: then they are not out of fold. Passed, without an ``error`` among
        the numbers, where a class has one episode in every fold: nothing tells its spread.

    Raises
    ------
    ValueError
        If a fold has no episode of a class.
    """
    gap, error = _average_by_fold(held_out - in_use, is_clean, fold)
    mean, _ = _average_by_fold(in_use, is_clean, fold)
    numbers = {"in_use": mean, "held_out": mean + gap, "gap": gap}
    compared = (
        f"the Brier score in use is {mean:.4f}, that of a network known to hold the episode out "
        f"{mean + gap:.4f}"
    )
    if error is None:
        ending = "cannot be compared: a class has only one episode in every fold"
        return Finding("overfit", True, numbers, f"{compared}: {ending}")
    passed = bool(gap <= CLEAR_ERRORS * error)
    sentence = (
        f"{compared} (standard error of the gap {error:.4f}): "
        f"{'no sign of scores' if passed else 'scores come'} from networks that saw the episode"
    )
    return Finding("overfit", passed, numbers | {"error": error}, sentence)


def _average_by_fold(
    values: np.ndarray, is_clean: np.ndarray, fold: np.ndarray
) -> tuple[float, float | None]:
    """Mean of episodes' values and its standard error; folds and classes count the same.

    No standard error where a class has one episode in every fold.
    """
    folds = np.unique(fold)
    means, squares = [], list[float]()
    for label in (True, False):
        cells = [values[(fold == k) & (is_clean == label)] for k in folds]
        sizes = np.array([cell.size for cell in cells])
        if not sizes.all():
            raise ValueError("every fold needs episodes of both classes")
        freedom = sizes.sum() - folds.size
        residual = sum(float(np.square(cell - cell.mean()).sum()) for cell in cells)
        means.append(float(np.mean([cell.mean() for cell in cells])))
        if freedom:
            variance = residual / freedom  # pooled: folds have few episodes
            squares.append(0.25 * variance * float((1.0 / sizes).sum()) / folds.size**2)
    return 0.5 * sum(means), float(np.sqrt(sum(squares))) if len(squares) == len(means) else None


RELIABLE = "ok"
UNRELIABLE = "classifier-unreliable"
NOT_COMPARED = "not-compared"
DIMENSIONS = "dimensions"  # name of the check of what was compared


class _EpisodeWindows(Sequence[Float32[np.ndarray, "_ dim"]]):
    """Some windows of every episode of a population, read when asked for."""

    def __init__(self, population: Population, episodes: np.ndarray) -> None:
        self.population, self.episodes = population, episodes

    def __len__(self) -> int:
        return self.episodes.size

    def __getitem__(self, number: int) -> np.ndarray:  # type: ignore[override]
        episode = self.episodes[number]
        picked = pick_evenly(int(self.population.windows.counts[episode]), MOST_WINDOWS)
        windows = self.population.windows.gather(np.full_like(picked, episode), picked)
        return windows.flatten(1).numpy()


def differ_surely(
    clean: Population, corrupt: Population, sigma: float, rng: np.random.Generator
) -> float:
    """Return the p-value of "clean and corrupt episodes follow one law", without a classifier.

    1 where a side has too few episodes for the test.
    """
    sides = [_EpisodeWindows(population, population.episodes) for population in (clean, corrupt)]
    try:
        return compare_episodes(*sides, sigma=sigma, rng=rng).p_value
    except NotEnoughDataError:
        return 1.0


def examine_population(
    population: PopulationCurves,
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
    population : PopulationCurves
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
    offset = population.clean[C] + population.corrupt[C] - 1.0
    return [
        check_blindness(
            p_value, (hits[0] + hits[1]) / 2.0, population.sigma_min, challenged=challenged
        ),
        check_balance(offset, means[0] + means[1] - 1.0, population.sigma, epsilon),
    ]


def examine_crops(
    population: PopulationCurves,
    clean: Side,
    corrupt: Side,
    *,
    epsilon: float,
    rng: np.random.Generator,
) -> Finding:
    """Ask whether a network of crops is calibrated at every radius.

    Parameters
    ----------
    population, clean, corrupt, epsilon, rng
        As in `examine_population`; the levels are those of `crop_network.radius_levels`.
    """
    folds = int(rng.integers(2**32))  # both classes draw the same
    means = [side.redraw(C, rng, folds) for side in (clean, corrupt)]
    offset = population.clean[C] + population.corrupt[C] - 1.0
    radius = np.arange(population.sigma.size - 1, -1, -1, dtype=np.float64)
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


def examine_control(found: PopulationCurves, planted: Control) -> Finding:
    """Ask whether a planted control was found where it is."""
    ends = found.sigma_min, found.lower, found.upper
    return check_control(planted.sigma_min, *ends, name=planted.name, decides=planted.name == SHIFT)


def examine_dimensions(population: Population) -> list[Finding]:
    """Ask whether a population moves where the clean set is constant and nothing is compared.

    Parameters
    ----------
    population : Population
        A corrupt one.

    Returns
    -------
    list of Finding
        Empty where every dimension has a scale. Not passed where there is such motion; the numbers
        are its shares of the frames, by dimension.
    """
    if not list_constant_dims(population.windows):
        return []
    moves = find_constant_motion(population)
    if not moves:
        sentence = "it is constant wherever the clean set is"
        return [Finding(DIMENSIONS, True, {}, sentence)]
    sentence = (
        "; ".join(move.sentence for move in moves)
        + ": this was not compared, so no noise level is known that hides it; `dims` in "
        "ambient.toml leaves a dimension out of all datasets"
    )
    shares = {f"{move.kind} {move.dim}": move.share for move in moves}
    return [Finding(DIMENSIONS, False, shares, sentence)]


def judge(findings: Sequence[Finding]) -> str:
    """Give the status of what was examined: one of the manifest's, `RELIABLE` if all passed."""
    failed = {finding.check for finding in findings if not finding.passed}
    if DIMENSIONS in failed:
        return NOT_COMPARED
    return UNRELIABLE if failed else RELIABLE


def failures(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield what the failed checks say."""
    yield from (finding.sentence for finding in findings if not finding.passed)
