"""Parts of the manifest: rows of one shard, scored out of fold, written once and whole."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int64

from ambient_curate.annotation.reliability import RELIABLE
from ambient_curate.annotation.rows import (
    Found,
    RowSums,
    load_sums,
    save_sums,
    sum_rows,
    tabulate_shard,
)
from ambient_curate.annotation.shards import Chunk, Shard, plan_shards, read_chunks, scored_windows
from ambient_curate.annotation.sigma_max import AROUND, cross_crops, reach_at, score_crops
from ambient_curate.annotation.weights import Mixture, Tally, Tilt, describe_tilt
from ambient_curate.classifier.distillation import Student, predict_curves
from ambient_curate.classifier.fit import FoldClassifier
from ambient_curate.classifier.window_curves import (
    Curves,
    cross_curves,
    cross_legibility,
    draw_curves,
    draw_lowest,
    pool_episodes,
    spread_of,
)
from ambient_curate.data.populations import Population
from ambient_curate.data.study import Study
from ambient_curate.files import write_json_atomic
from ambient_curate.noise import grid, schedule_levels
from ambient_curate.progress import Advance
from ambient_curate.run.tables import write_part
from ambient_curate.statistics.sigma_min import expand_levels, sparse_levels

EPISODE_DRAWS = 4  # of noise, in pairs, a window, where a row is an episode
WINDOW_DRAWS = 16  # where it is a window
LOWEST_DRAWS = 2  # at the lowest level, where a student knows the rest


@dataclass(frozen=True, eq=False)
class RowTotals:
    """What the rows say together; all empty where a row speaks for a whole dataset or group.

    Parameters
    ----------
    sums : mapping of str to RowSums
        Over the episodes or windows of every member.
    shares : mapping of str to float
        Share of every dataset in the draw of windows that the weights are for; of windows only.
    tilts : mapping of str to Tilt
        By corrupt dataset of the same.
    """

    sums: Mapping[str, RowSums]
    shares: Mapping[str, float]
    tilts: Mapping[str, Tilt]


def read_row_totals(study: Study, statuses: Mapping[str, str], work: Path) -> RowTotals:
    """Add up what the parts say, all of which are written."""
    sums: dict[str, RowSums] = {}
    for shard in plan_shards(study) if study.by_row else ():
        found = load_sums(sums_path(work, shard.number))
        name = shard.dataset
        sums[name] = sums[name] + found if name in sums else found
    if not study.by_window:
        return RowTotals(sums, {}, {})
    mixture = Mixture(study, statuses)
    pairs = zip(sums[study.clean.dataset].tallies, mixture.heads.values(), strict=True)
    tilts = {
        population.dataset: describe_tilt(
            own, sums[population.dataset].tallies[0], mixture.share_of(population)
        )
        for own, population in pairs
    }
    return RowTotals(sums, mixture.shares, tilts)


@dataclass(frozen=True)
class RowPlan:
    """What the parts of a run have in common, known once the scores are assessed.

    Parameters
    ----------
    statuses : mapping of str to str
        By corrupt dataset that was scored.
    taught : sequence of str
        Datasets whose windows are annotated by their students.
    metadata : mapping of str to str
        Of `rows.manifest_metadata`.
    reaches : mapping of str to sequence of float
        By corrupt dataset whose crops may be believed: `sigma_max.list_reaches`; empty: no
        locality.
    floors : mapping of str to float
        sigma_min of the datasets of which a challenger saw more than the classifier did: no row is
        given less.
    """

    statuses: Mapping[str, str]
    taught: Sequence[str]
    metadata: Mapping[str, str]
    reaches: Mapping[str, Sequence[float]] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the plan for whoever writes parts."""
        write_json_atomic(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "RowPlan":
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def part_path(work: Path, number: int) -> Path:
    """Where a part of the manifest lies."""
    return work / "manifest" / f"part-{number:05d}.parquet"


def sums_path(work: Path, number: int) -> Path:
    """Where the sums over its rows lie."""
    return work / "sums" / f"{number:05d}.npz"


class PartWriter:
    """Writes parts, one shard after another.

    Parameters
    ----------
    study : Study
        With granularity ``episode`` or ``datapoint``.
    classifiers : sequence of FoldClassifier
        One a fold.
    students : mapping of str to sequence of Student
        By dataset of ``plan.taught``: one a fold.
    plan : RowPlan
        What the parts have in common.
    work : Path
        The run's working directory.
    crops : sequence of FoldClassifier
        Those of crops, where the plan has reaches.
    """

    def __init__(
        self,
        study: Study,
        classifiers: Sequence[FoldClassifier],
        students: Mapping[str, Sequence[Student]],
        plan: RowPlan,
        work: Path,
        crops: Sequence[FoldClassifier] = (),
    ) -> None:
        self.study, self.classifiers, self.students = study, classifiers, students
        self.plan, self.work, self.crops = plan, work, crops
        self.mixture = Mixture(study, plan.statuses)
        self.sigma = grid(study.options.schedule)
        self.threshold = 0.5 - study.options.epsilon
        self.levels = np.sort(schedule_levels(study.options.schedule))

    def write(self, shard: Shard, advance: Advance) -> None:
        """Score a shard and write its part, the sums over its rows first."""
        name = shard.dataset
        head, status = self.mixture.head_of(name), RELIABLE
        found, tallies = Found(), list[Tally]()
        if name == self.study.clean.dataset:
            found, tallies = self._find_clean(shard, advance)
        elif head is not None:
            find = self._find_windows if self.study.by_window else self._find_episodes
            found, tallies = find(shard, head, advance)
            if name in self.plan.reaches:
                found = self._look_at_crops(found, shard, head)
        else:
            status = self.plan.statuses.get(name, "too-few-episodes")
            advance(int(self._counts(shard).sum()))
        table = tabulate_shard(self.study, shard, status, found, self.plan.metadata)
        low, high = (table[column].to_numpy() for column in ("sigma_min", "sigma_max"))
        save_sums(sum_rows(low, high, self.levels, tallies), sums_path(self.work, shard.number))
        write_part(table, part_path(self.work, shard.number))

    def _find_clean(self, shard: Shard, advance: Advance) -> tuple[Found, list[Tally]]:
        """Clean windows train at every level; each has a weight against what trains with it."""
        counts, heads = self._counts(shard), self.mixture.heads
        if not self.study.by_window:
            advance(int(counts.sum()))
            return Found(np.zeros((3, counts.size))), []
        c = np.empty((int(counts.sum()), len(heads)), dtype=np.float32)
        if not heads:
            advance(len(c))
        for chunk in self._read(self.study.clean, shard, LOWEST_DRAWS, advance) if heads else ():
            c[chunk.rows] = self._draw_lowest(chunk)
        used = np.ones(len(c), dtype=bool)
        pairs = enumerate(heads.values() if len(c) else ())
        tallies = [
            self.mixture.tally(self.study.clean, corrupt, c[:, i], used, counts)
            for i, corrupt in pairs
        ]
        return Found(np.zeros((3, len(c))), weight=self.mixture.weigh(c)), tallies

    def _find_windows(self, shard: Shard, head: int, advance: Advance) -> tuple[Found, list[Tally]]:
        population, counts, heads = (
            self.mixture.heads[head],
            self._counts(shard),
            list(self.mixture.heads),
        )
        n = int(counts.sum())
        sigma_min, sigma_max = np.empty((3, n)), np.zeros(n)
        c = np.empty((n, len(heads)), dtype=np.float32)
        curves = self._empty_curves(n)
        students = self.students.get(shard.dataset)
        for chunk in self._read(
            population, shard, LOWEST_DRAWS if students else WINDOW_DRAWS, advance
        ):
            if students:
                means = predict_curves(students[chunk.fold].network, chunk.windows)
                up, down = students[chunk.fold].margins[:, None]
            else:
                drawn = self._draw(chunk, head)
                means = drawn.means
                up = down = spread_of(drawn.errors, np.full(len(means), WINDOW_DRAWS / 2 - 1.0))
            sigma_min[:, chunk.rows] = self._cross(shard, means, up, down)
            sigma_max[chunk.rows] = self._cross_legibility(means)
            c[chunk.rows] = self._draw_lowest(chunk)
            if curves is not None:
                curves[chunk.rows] = expand_levels(means, self.sigma)
        own, usable = c[:, heads.index(head)], sigma_min[0] == 0.0
        tallies = [self.mixture.tally(population, population, own, usable, counts)] if n else []
        return Found(sigma_min, sigma_max, self.mixture.weigh(c), curves), tallies

    def _find_episodes(
        self, shard: Shard, head: int, advance: Advance
    ) -> tuple[Found, list[Tally]]:
        """Annotate episodes, whose curves are the means over their windows."""
        counts = self._counts(shard)
        means, errors = np.empty((2, int(counts.sum()), sparse_levels(self.sigma.size).size))
        for chunk in self._read(self.mixture.heads[head], shard, EPISODE_DRAWS, advance):
            drawn = self._draw(chunk, head)
            means[chunk.rows], errors[chunk.rows] = drawn.means, drawn.errors
        pooled = pool_episodes(Curves(means, errors), counts)
        spread = spread_of(pooled.errors, (EPISODE_DRAWS / 2 - 1.0) * counts)
        sigma_min = self._cross(shard, pooled.means, spread, spread)
        curves = self._empty_curves(counts.size)
        if curves is not None:
            curves[:] = expand_levels(pooled.means, self.sigma)
        return Found(sigma_min, self._cross_legibility(pooled.means), None, curves), []

    def _cross(
        self, shard: Shard, means: np.ndarray, up: np.ndarray, down: np.ndarray
    ) -> Float64[np.ndarray, "3 row"]:
        """sigma_min of rows, of none below what a challenger saw of the whole dataset."""
        found = cross_curves(means, up, down, self.sigma, self.threshold)
        return np.maximum(found, self.plan.floors.get(shard.dataset, 0.0))

    def _cross_legibility(self, means: Float64[np.ndarray, "row level"]) -> np.ndarray:
        """sigma_max of curves by what noise hides, where that is asked for; else 0."""
        if not self.study.options.legibility:
            return np.zeros(len(means))
        return cross_legibility(means, self.sigma, self.study.options.epsilon)

    def _look_at_crops(self, found: Found, shard: Shard, head: int) -> Found:
        """Let sigma_max be that of crops where it is the larger one."""
        below = self._find_below(shard, head)
        if found.sigma_max is not None:
            below = np.maximum(below, found.sigma_max)
        return replace(found, sigma_max=below)

    def _find_below(self, shard: Shard, head: int) -> Float64[np.ndarray, " row"]:
        """Find sigma_max of windows, whose every frame counts, or of episodes, by their means."""
        counts, levels = self._counts(shard), self.crops[0].sigma
        curves = np.empty((int(counts.sum()), levels.size))
        draws = AROUND * self.study.options.horizon
        for chunk in read_chunks(self.study, self.mixture.heads[head], shard, draws):
            network = self.crops[chunk.fold]
            c = score_crops(network, chunk.windows, chunk.noise, head)
            curves[chunk.rows] = c.min(axis=1) if self.study.by_window else c.mean(axis=1)
        if not self.study.by_window:
            curves = pool_episodes(Curves(curves, np.zeros_like(curves)), counts).means
        radius = cross_crops(curves, levels, self.threshold)
        return reach_at(radius, np.array(self.plan.reaches[shard.dataset]))

    def _counts(self, shard: Shard) -> Int64[np.ndarray, " episode"]:
        """Scored windows of the shard's episodes that have any."""
        counts = scored_windows(self.study, shard.dataset)[shard.episodes]
        return counts[counts > 0]

    def _empty_curves(self, rows: int) -> Float32[np.ndarray, "row level"] | None:
        if not self.study.options.store_curves:
            return None
        return np.empty((rows, self.sigma.size), dtype=np.float32)

    def _read(
        self, population: Population, shard: Shard, draws: int, advance: Advance
    ) -> Iterator[Chunk]:
        for chunk in read_chunks(self.study, population, shard, draws):
            yield chunk
            advance(len(chunk.rows))

    def _draw(self, chunk: Chunk, head: int) -> Curves:
        return draw_curves(self.classifiers[chunk.fold], chunk.windows, chunk.noise, head)

    def _draw_lowest(self, chunk: Chunk) -> Float32[np.ndarray, "window head"]:
        heads = list(self.mixture.heads)
        return draw_lowest(self.classifiers[chunk.fold], chunk.windows, chunk.noise, heads)
