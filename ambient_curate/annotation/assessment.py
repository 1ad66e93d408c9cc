"""Assessment: sigma_min, its interval and bounds, and the checks, from out-of-fold scores."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from ambient_curate.annotation.curves import PopulationCurves, Side, hold_out, summarize_population
from ambient_curate.annotation.reliability import (
    Finding,
    differ_surely,
    examine_control,
    examine_crops,
    examine_dimensions,
    examine_folds,
    examine_population,
    judge,
)
from ambient_curate.classifier.out_of_fold import (
    CLEAN,
    CORRUPT,
    MODES,
    ScoringMode,
    ScoringModes,
    crop_modes,
    list_scoring_sets,
    load_challenge,
    name_side,
    noise_seed,
)
from ambient_curate.data.populations import Population, PopulationName
from ambient_curate.data.study import Study
from ambient_curate.statistics.bootstrap import draw_evenly
from ambient_curate.statistics.brackets import MONTE_CARLO, FiniteSets, build_envelope, know_nothing
from ambient_curate.statistics.challenger import ChallengerFinding
from ambient_curate.statistics.upper_bounds import Measure, kernel_divergence

MOST = 2_048  # windows of a measure
LEVELS = 24  # at which the divergence is computed


def measure_population(
    population: Population,
    episodes: np.ndarray,
    rng: np.random.Generator,
    *,
    by_window: bool = False,
    most: int = MOST,
) -> tuple[Measure, int]:
    """Lay windows of a population out as a measure in which every episode weighs the same.

    Parameters
    ----------
    population : Population
        Where the windows are, with what is planted in them.
    episodes : ndarray, int64, shape (episode,)
        Episodes of the population, each with a whole window.
    rng : Generator
        Chooses among more than `most` episodes, and among the windows of an episode.
    by_window : bool
        An episode weighs as many windows as it has.
    most : int
        Windows, each of an episode's as likely as any other.

    Returns
    -------
    tuple of Measure and int
        The measure, and how many episodes are in it.
    """
    if episodes.size > most:
        episodes = np.sort(rng.choice(episodes, most, replace=False))
    each = max(1, most // episodes.size)
    counts = population.windows.counts[episodes]
    picked = [draw_evenly(int(count), each, rng) for count in counts]
    owner = np.repeat(np.arange(episodes.size), [len(numbers) for numbers in picked])
    windows = population.gather(episodes[owner], np.concatenate(picked))
    share = counts if by_window else np.ones(episodes.size)
    weights = (share / np.bincount(owner))[owner]
    return Measure(windows.flatten(1).numpy(), weights / weights.sum()), episodes.size


def compare_sets(
    clean: tuple[Measure, int],
    corrupt: tuple[Measure, int],
    sigma: Float64[np.ndarray, " level"],
    rng: np.random.Generator,
) -> FiniteSets:
    """Bound the divergences of two noised measures from above at every level.

    They never rise with noise, so a level may take the value of a lower one: they are computed at
    `LEVELS` levels, evenly spaced on the grid, and held from each to the next.
    """
    at = np.unique(np.linspace(0, sigma.size - 1, min(LEVELS, sigma.size)).astype(np.int64))
    alpha = MONTE_CARLO / (2 * at.size)  # Delta and TV, at every level at once
    found = kernel_divergence(clean[0], corrupt[0], sigma[at], alpha=alpha, rng=rng)
    held = np.searchsorted(at, np.arange(sigma.size), side="right") - 1
    return FiniteSets(found.delta_upper[held], found.tv_upper[held], clean[1], corrupt[1])


@dataclass(frozen=True, eq=False)
class Assessment:
    """What the scores say.

    Parameters
    ----------
    populations : dict of (str, str or None) to PopulationCurves
        By dataset and group.
    controls : list of PopulationCurves
        The planted controls.
    statuses : dict of (str, str or None) to str
        By dataset and group, of `populations` only: whether their classifier may be believed.
    findings : dict of (str, str or None) to list of Finding
        What was examined, with those of the control first.
    """

    populations: dict[PopulationName, PopulationCurves]
    controls: list[PopulationCurves]
    statuses: dict[PopulationName, str]
    findings: dict[PopulationName, list[Finding]]


def assess_study(study: Study, sigma: Float64[np.ndarray, " level"], work: Path) -> Assessment:
    """Say what the scores of a study show, all of which lie under ``work/scores``."""
    stage = _Assessing(study, sigma, work)
    controls = [stage.summarize(planted.population) for planted in study.controls]
    common = [
        examine_control(found, planted)
        for found, planted in zip(controls, study.controls, strict=True)
    ]
    populations, findings = {}, {}
    for head, population in enumerate(study.corrupt):
        name = population.dataset, population.group
        found = load_challenge(work, head)
        populations[name] = stage.summarize(population).raise_to(found)
        findings[name] = [*common, *stage.examine(population, populations[name], found)]
    return Assessment(populations, controls, _judge(findings), findings)


def assess_crops(study: Study, levels: Float64[np.ndarray, " level"], work: Path) -> Assessment:
    """Say what the scores of crops show, all of which lie under ``work/scores``.

    No upper bound is known for crops, and no control is planted among them.

    Parameters
    ----------
    study : Study
        What is annotated.
    levels : ndarray, float64, shape (level,)
        Of `crop_network.radius_levels`.
    work : Path
        Where the scores lie.
    """
    stage = _CropAssessing(study, levels, work, crop_modes(study.options.horizon))
    populations, findings = {}, {}
    for population in study.corrupt:
        name = population.dataset, population.group
        populations[name] = stage.summarize(population)
        findings[name] = stage.examine(population, populations[name])
    return Assessment(populations, [], _judge(findings), findings)


def _judge(findings: dict[PopulationName, list[Finding]]) -> dict[PopulationName, str]:
    return {name: judge(found) for name, found in findings.items()}


class _Assessing:
    """What the steps of an assessment share."""

    def __init__(
        self,
        study: Study,
        sigma: Float64[np.ndarray, " level"],
        work: Path,
        modes: ScoringModes = MODES,
    ) -> None:
        self.study, self.sigma, self.work, self.modes = study, sigma, work, modes
        self.scoring_sets = list_scoring_sets(study, modes)

    def summarize(self, population: Population) -> PopulationCurves:
        """Curves, crossing and bounds of one population."""
        options, (p, q) = self.study.options, self._sides(population, self.modes[0])
        # clusters are found in the very episodes that they are made of
        clustered = population.group is not None and options.group_by.startswith("cluster:")
        certifiable = options.weighting == "episode" and not clustered
        held_out = None
        if certifiable:
            held_out = hold_out(
                p.hold_back(self.sigma), q.hold_back(self.sigma), self._rng(population, "folds")
            )
        finite = self._compare(population)
        return summarize_population(
            (population.dataset, population.group),
            self.sigma,
            p.interpolate(self.sigma),
            q.interpolate(self.sigma),
            build_envelope(self.sigma, held_out, finite, epsilon=options.epsilon),
            epsilon=options.epsilon,
            rng=self._rng(population, "bootstrap"),
        )

    def examine(
        self,
        population: Population,
        curves: PopulationCurves,
        challenge: ChallengerFinding | None = None,
    ) -> list[Finding]:
        """Ask whether the curves of a population may be believed."""
        whole, own, other = (self._sides(population, mode) for mode in self.modes)
        sure = differ_surely(
            self.study.clean, population, float(self.sigma[0]), self._rng(population, "energy")
        )
        rng, epsilon = self._rng(population, "examination"), self.study.options.epsilon
        clean, corrupt = (side.interpolate(self.sigma) for side in whole)
        challenged = challenge is not None and challenge.status != "not computed"
        return [
            *examine_dimensions(population),
            *examine_population(
                curves, clean, corrupt, sure, challenged=challenged, epsilon=epsilon, rng=rng
            ),
            examine_folds(own, other),
        ]

    def _output(self, population: Population) -> int:
        return next(i for i, other in enumerate(self.study.populations) if other is population)

    def _compare(self, population: Population) -> FiniteSets:
        p, q = (self.scoring_sets[name_side(self._output(population), s)] for s in (CLEAN, CORRUPT))
        sizes = p.rows.size, q.rows.size
        if (
            population.windows.condition_dim
        ):  # finite sets hardly share a state: all that is certain is apart
            return know_nothing(self.sigma.size, *sizes)
        by_window = self.study.options.weighting == "window"
        rng = self._rng(population, "finite sets")
        clean, corrupt = (
            measure_population(
                side.population, side.population.episodes[side.rows], rng, by_window=by_window
            )
            for side in (p, q)
        )
        return compare_sets(clean, corrupt, self.sigma, rng)

    def _rng(self, population: Population, purpose: str) -> np.random.Generator:
        identity = f"{population.dataset}\x00{population.group}"
        return np.random.default_rng(noise_seed(self.study.options.seed, identity, purpose))

    def _sides(self, population: Population, mode: ScoringMode) -> tuple[Side, Side]:
        head = self._output(population)
        p, q = (self._side(name_side(head, side) + mode.ending) for side in (CLEAN, CORRUPT))
        return p, q

    def _side(self, label: str) -> Side:
        scoring_set = self.scoring_sets[label]
        population, scores = scoring_set.population, scoring_set.read(self.work)
        weight = scoring_set.weigh(self.study.options.weighting)
        return Side(scores.statistics, scores.histogram, weight, population.fold[scores.episodes])


class _CropAssessing(_Assessing):
    """The same of crops."""

    def examine(
        self,
        population: Population,
        curves: PopulationCurves,
        challenge: ChallengerFinding | None = None,
    ) -> list[Finding]:
        whole, own, other = (self._sides(population, mode) for mode in self.modes)
        rng, epsilon = self._rng(population, "crops"), self.study.options.epsilon
        return [
            *examine_dimensions(population),
            examine_crops(curves, *whole, epsilon=epsilon, rng=rng),
            examine_folds(own, other),
        ]

    def _compare(self, population: Population) -> FiniteSets:
        p, q = (self.scoring_sets[name_side(self._output(population), s)] for s in (CLEAN, CORRUPT))
        return know_nothing(self.sigma.size, p.rows.size, q.rows.size)
