"""Studies of a few short episodes held in memory, and classifiers with random weights for them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from ambient_curate.annotation.curves import PopulationCurves
from ambient_curate.annotation.part_writer import PartWriter, RowPlan, RowTotals, read_row_totals
from ambient_curate.annotation.rows import manifest_metadata
from ambient_curate.annotation.tasks import PLAN, Jobs, plan_parts
from ambient_curate.classifier.channels import NETWORK, Channel, noise_channel
from ambient_curate.classifier.fit import FoldClassifier, PairClassifier
from ambient_curate.classifier.networks import Sizes, WindowNetwork
from ambient_curate.classifier.out_of_fold import BANDS, BINS, STATISTICS, EpisodeScore
from ambient_curate.data.collection import Collection, Member
from ambient_curate.data.populations import Population
from ambient_curate.data.selection import MemberOptions
from ambient_curate.data.settings import CollectionSettings
from ambient_curate.data.study import Study, prepare_study
from ambient_curate.data.windows import Windows
from ambient_curate.options import AnnotateOptions
from ambient_curate.progress import silent
from ambient_curate.readers.episodes import ALL, Episode, EpisodeName, ReadRequest
from ambient_curate.run.tables import read_manifest
from ambient_curate.statistics.brackets import Envelope

SIGMA = np.array([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.99])
HORIZON, ACTION = 3, 2
LENGTHS = (6, 3, 9, 5, 4, 7)
TASKS = ["x", "x", "x", "y", "x", "x"]


@dataclass
class MemoryDataset:
    """A dataset of one shard that counts how often it is read."""

    path: Path
    episodes: Sequence[Episode]
    format: str = "memory"
    metadata_files: Sequence[Path] = ()
    problems: Sequence[str] = ()
    is_numbered: bool = False
    reads: int = 0

    @property
    def shards(self) -> Sequence[Path]:
        return [self.path]

    def list_episodes(self, shard: Path) -> list[EpisodeName]:
        return [EpisodeName(each.id, each.number) for each in self.episodes]

    def read_shard(self, shard: Path, request: ReadRequest = ALL) -> Iterator[Episode]:
        self.reads += 1
        for name, episode in zip(self.list_episodes(shard), self.episodes, strict=True):
            yield from request.read(name, lambda episode=episode: episode)


def make_episodes(name: str, lengths: Sequence[int], **fields: Any) -> list[Episode]:
    """Random walks; `fields` give each episode its entry of a sequence."""
    rng = np.random.default_rng(list(name.encode()))
    return [
        Episode(
            f"demo_{i}",
            i,
            rng.normal(size=(length, ACTION)).cumsum(axis=0).astype(np.float32),
            Path(name),
            **{key: values[i] for key, values in fields.items()},
        )
        for i, length in enumerate(lengths)
    ]


def make_collection(members: Mapping[str, Sequence[Episode]]) -> Collection:
    opened = tuple(
        Member(name, MemoryDataset(Path(name), episodes), MemberOptions())
        for name, episodes in sorted(members.items())
    )
    return Collection(Path("set"), "set", opened, "clean", CollectionSettings())


def make_study(folder: Path, members: Mapping[str, Sequence[Episode]], **options: Any) -> Study:
    chosen = AnnotateOptions(**{"horizon": HORIZON, "folds": 3, **options})
    return prepare_study(make_collection(members), chosen, folder, silent)


def make_staged(folder: Path, granularity: str = "dataset", weighting: str = "episode") -> Study:
    """Members a and b, and c that has too few episodes."""
    lengths = {"clean": LENGTHS, "a": LENGTHS, "b": (*LENGTHS, 2), "c": (6, 6)}
    members = {
        name: make_episodes(name, n, task=[*TASKS, "x"][: len(n)]) for name, n in lengths.items()
    }
    return make_study(folder, members, granularity=granularity, weighting=weighting)


def make_population(
    name: str, episodes: Sequence[np.ndarray], fold: Sequence[int], **fields: Any
) -> Population:
    """Make a population of un-normalised episodes of shape (frame, action)."""
    length = np.array([len(each) for each in episodes], dtype=np.int64)
    action = torch.from_numpy(np.concatenate(episodes).astype(np.float32))
    windows = Windows(action, None, np.cumsum(length) - length, length, HORIZON, 1)
    return Population(name, None, windows, np.arange(len(episodes)), np.array(fold), **fields)


def make_classifier(
    heads: int, *, seed: int = 0, scale: float = 0.3, sigma: np.ndarray = SIGMA
) -> FoldClassifier:
    """A pair for each of `heads`, read at the sparse levels of a grid; `scale` 0: it says 1/2."""
    channel = noise_channel(sigma, Sizes(HORIZON, ACTION))
    generator = torch.Generator().manual_seed(seed)
    pairs = {head: make_pair(channel, generator, scale=scale) for head in range(heads)}
    return FoldClassifier(pairs, channel.levels)


def make_pair(
    channel: Channel, generator: torch.Generator, *, scale: float = 0.3
) -> PairClassifier:
    """A network with random weights everywhere, so that every output is alive."""
    network = make_network(channel, generator)
    slope = scale * (1.0 + torch.rand(2, channel.levels.size, generator=generator))
    intercept = scale * torch.randn(channel.levels.size, generator=generator)
    return PairClassifier(channel, nn.ModuleDict({NETWORK: network}), slope, intercept)


def make_network(channel: Channel, generator: torch.Generator) -> WindowNetwork:
    sizes = Sizes(HORIZON, ACTION)
    network = WindowNetwork(sizes, channel.range, generator=generator).requires_grad_(False)
    basis, _ = torch.linalg.qr(torch.randn(sizes.dim, sizes.dim, generator=generator))
    network.basis.copy_(basis)
    network.mean.copy_(torch.randn(sizes.dim, generator=generator))
    network.variance.copy_(torch.rand(sizes.dim, generator=generator).sort().values)
    for name in ("clean_mean", "corrupt_mean", "corrupt_variance", "relative_variance"):
        buffer = network.get_buffer(name)
        buffer.copy_(torch.rand(buffer.shape, generator=generator))
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def recalibrate(
    classifier: FoldClassifier, by: float, intercept: torch.Tensor | float
) -> FoldClassifier:
    """Multiply the slopes of every pair by a number, and give it another intercept."""
    pairs = {
        head: replace(pair, slope=by * pair.slope, intercept=0.0 * pair.intercept + intercept)
        for head, pair in classifier.pairs.items()
    }
    return replace(classifier, pairs=pairs)


def make_envelope(lower: float = 0.0, upper: float = 1.0) -> Envelope:
    """Bounds that say nothing, around a bracket."""
    blank = np.full(SIGMA.size, np.nan)
    return Envelope(*([blank] * 7), lower, upper, 0.4)


def make_arm_curves(
    dataset: str, group: str | None = None, sigma_min: float = 0.31
) -> PopulationCurves:
    """Curves that rise from .1 to .5, with an interval and a bracket around `sigma_min`."""
    n = SIGMA.size
    half, rising = np.full((4, n), 0.5), np.linspace(0.1, 0.5, n)
    return PopulationCurves(
        *(dataset, group, SIGMA, 5, 4, half, np.tile(rising, (4, 1)), rising),
        *(np.zeros((2, n)), np.zeros((2, n)), sigma_min, sigma_min / 2, (1.0 + sigma_min) / 2),
        (0.0, 0.0, 0.0),
        make_envelope(sigma_min / 4, (3.0 + sigma_min) / 4),
        np.zeros((BANDS, BINS, 3)),
        sigma_min,
    )


def make_score(heads: int, *, seed: int = 0, levels: int = SIGMA.size) -> EpisodeScore:
    """A score whose statistics are random."""
    rng = np.random.default_rng(seed)
    return EpisodeScore(
        rng.random((heads, len(STATISTICS), levels)), rng.random((heads, BANDS, BINS, 2))
    )


def make_networks(
    study: Study, *, blind: bool = False, sigma: np.ndarray = SIGMA
) -> list[FoldClassifier]:
    """Untrained networks that see a difference only at low noise, or none at all."""
    heads, folds = len(study.populations), range(study.options.folds)
    made = [make_classifier(heads, seed=fold, sigma=sigma) for fold in folds]
    if blind:
        return [recalibrate(each, 0.0, 0.0) for each in made]
    return [recalibrate(each, 1.0, torch.linspace(-2.0, 1.0, each.sigma.size)) for each in made]


def make_tepid(study: Study, sigma: np.ndarray = SIGMA) -> list[FoldClassifier]:
    """They say about 1/2, so that windows of both sides have the same c, and some are usable."""
    return [recalibrate(each, 0.07, 0.0) for each in make_networks(study, sigma=sigma)]


class SmallJobs(Jobs):
    """Jobs whose networks are given instead of fitted, on the grid that the plan of rows names."""

    def __init__(self, work: Path, study: Study, networks: Sequence[FoldClassifier]) -> None:
        super().__init__(work, study)
        self.__dict__["classifiers"] = list(networks)

    @cached_property
    def writer(self) -> PartWriter:
        writer = super().writer
        writer.sigma = np.array(json.loads(writer.plan.metadata["grid"]))
        return writer


def make_jobs(study: Study, work: Path, networks: Sequence[FoldClassifier]) -> Jobs:
    work.mkdir(exist_ok=True)
    return SmallJobs(work, study, networks)


def carry_out(jobs: Jobs, tasks: Iterable[str]) -> None:
    for task in tasks:
        jobs.perform(task, silent)


def make_plan(
    study: Study, unreliable: str = "", taught: Sequence[str] = (), sigma: np.ndarray = SIGMA
) -> RowPlan:
    """A plan of parts; `unreliable` are the members, of one letter, that are not believed."""
    statuses = {
        population.dataset: "classifier-unreliable"
        if population.dataset in list(unreliable)
        else "ok"
        for population in study.corrupt
    }
    return RowPlan(statuses, taught, manifest_metadata(study, sigma, "digest"))


def write_parts(
    study: Study,
    work: Path,
    plan: RowPlan,
    networks: Sequence[FoldClassifier],
    index: int = 0,
    count: int = 1,
) -> RowTotals:
    """Write the parts that are missing, or every so-manyth; then read what the rows say."""
    jobs = make_jobs(study, work, networks)
    plan.save(work / PLAN)
    carry_out(jobs, plan_parts(study, work, index, count).tasks)
    if plan_parts(study, work).tasks:
        return RowTotals({}, {}, {})  # others have yet to write theirs
    return read_row_totals(study, plan.statuses, work)


def read_rows(work: Path, name: str | None = None) -> list[dict[str, Any]]:
    """Read the rows of all parts as they are, or those of one member."""
    tables = [read_manifest(path) for path in sorted((work / "manifest").iterdir())]
    return [row for row in pa.concat_tables(tables).to_pylist() if name in (None, row["dataset"])]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def times(folder: Path) -> Mapping[str, int]:
    return {path: (folder / path).stat().st_mtime_ns for path in files(folder)}
