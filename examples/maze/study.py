"""The study: data, annotation, choices on validation pairs, and results on fresh ones."""

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ambient_curate import annotate
from ambient_curate.progress import Progress, track
from ambient_curate.run.records import Run
from examples.maze.arms import Training, Trial
from examples.maze.demonstrations import Clean, write_demonstrations
from examples.maze.tables import MARGIN, find_verdict
from examples.maze.world import Maze

VALIDATION, FRESH = 1_000_000, 2_000_000  # seeds of the first pairs; those of the data are lower
APART = 10_000  # seeds between the fresh pairs of two repetitions


@dataclass(frozen=True)
class Size:
    """How much is made, trained and tried.

    Parameters
    ----------
    clean, corrupt : int
        Plans.
    folds : int
        Of the annotation.
    steps : int
        Of training, for all but the clean set alone.
    clean_steps, clean_octaves : tuple of int
        Of training on the clean set alone: all pairs are tried in validation.
    clean_shares : tuple of float
        Of co-training, besides the natural one: tried in validation.
    sigma_min : tuple of float
        Of the sweep, in validation.
    unet_steps : int
        Of training a U-Net, at most; 0: none.
    validated, tried : int
        Pairs of start and goal, of each policy.
    seeds : int
        Repetitions of the final arms.
    """

    clean: int = 50
    corrupt: int = 5000
    folds: int = 5
    steps: int = 5000
    clean_steps: tuple[int, ...] = (1000, 2000)
    clean_octaves: tuple[int, ...] = (4, 0)
    clean_shares: tuple[float, ...] = (0.1, 0.5)
    sigma_min: tuple[float, ...] = (0.03, 0.05, 0.1, 0.121, 0.15, 0.182, 0.3)
    unet_steps: int = 0
    validated: int = 500
    tried: int = 1000
    seeds: int = 3


QUICK = Size(
    clean=12,
    corrupt=60,
    folds=3,
    steps=50,
    clean_steps=(50,),
    clean_octaves=(4, 0),
    clean_shares=(0.1,),
    sigma_min=(0.05, 0.3),
    unet_steps=0,
    validated=8,
    tried=12,
    seeds=1,
)


@dataclass(frozen=True)
class Study:
    """What the study is made of, and where.

    Parameters
    ----------
    out : Path
        Gets ``data``, ``run``, ``policies``, ``trials``, ``records.parquet`` and the figures.
    size : Size
        How much of everything.
    maze : Maze
        Where.
    source : {"gcs", "trajopt"}
        Planner of the clean set.
    progress : Progress
        Told of everything.
    workers : int
        Processes.
    """

    out: Path
    size: Size
    maze: Maze
    source: Clean
    progress: Progress
    workers: int

    def run(self) -> tuple[pa.Table, Run]:
        """Do everything that was not done before; return all trials, and the annotation."""
        size = self.size
        self.out.mkdir(parents=True, exist_ok=True)
        write_demonstrations(
            self.out / "data",
            self.maze,
            size.clean,
            size.corrupt,
            self.progress,
            source=self.source,
        )
        run = annotate(
            self.out / "data",
            out=self.out / "run",
            granularity="datapoint",
            folds=size.folds,
            workers=self.workers,
            progress=self.progress,
        )
        verdict = find_verdict(run)["sigma_min"]
        tried = list(plan_validation(size, 1.0 if verdict is None else verdict))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.workers, context, _take_one_core) as pool:
            validated = self._try(pool, "validation", tried)
            chosen = choose(validated, tried)
            fresh = self._try(pool, "fresh trials", list(plan_trials(size, chosen)))
        results = pa.concat_tables([validated, fresh], promote_options="default")
        pq.write_table(results, self.out / "results.parquet")
        return results, run

    def _try(self, pool: Executor, name: str, trials: Sequence[Trial]) -> pa.Table:
        """Train and try, several at once.

        Trials of one training follow each other, and those that need a second policy come last: no
        two processes train the same one.
        """
        found = {t.name: known for t in trials if (known := t.find(self.out)) is not None}
        with track(self.progress, name, len(trials)) as advance:
            advance(len(found))
            for controlled in (False, True):
                together: dict[str, list[Trial]] = {}
                for trial in trials:
                    if trial.name not in found and (trial.control is not None) == controlled:
                        together.setdefault(trial.training.name, []).append(trial)
                for tried in self._share_out(pool, together.values()):
                    found |= tried
                    advance(len(tried), next(iter(tried)))
        tables = [found[trial.name] for trial in trials]
        return pa.concat_tables(tables, promote_options="default").replace_schema_metadata(None)

    def _share_out(
        self, pool: Executor, groups: Iterable[Sequence[Trial]]
    ) -> Iterator[dict[str, pa.Table]]:
        work = [pool.submit(_try_all, group, self.out, self.maze) for group in groups]
        try:
            for future in as_completed(work):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _take_one_core() -> None:
    torch.set_num_threads(1)


def _try_all(trials: Sequence[Trial], out: Path, maze: Maze) -> dict[str, pa.Table]:
    return {trial.name: trial.run(out, maze) for trial in trials}


def plan_validation(size: Size, verdict: float) -> Iterator[Trial]:
    """Give the trials that choose: one seed of training, pairs that are not used again.

    The classifier's `verdict` is one sigma_min for the whole corrupt set; the run has every
    window's own.
    """

    def trial(arm: str, name: str, value: float | None, **options: Any) -> Trial:
        given = {"seed": 0, "steps": size.steps} | options
        tags = {"phase": "validation", "seed": 0, "value": value}
        return Trial(arm, Training(name, given), VALIDATION, size.validated, tags=tags)

    for sigma_min in sorted(size.sigma_min, reverse=True):
        name = f"sweep_{sigma_min:g}"
        yield trial("sweep", name, sigma_min, mode="ambient", sigma_min=sigma_min)
    yield trial("cotrain", "cotrain", None, mode="cotrain")
    for share in size.clean_shares:
        yield trial("cotrain", f"cotrain_{share:g}", share, mode="cotrain", clean_weight=share)
    yield trial("rrt", "rrt", None, mode="cotrain", clean_weight=0.0)
    yield trial("dataset", "dataset", None, mode="ambient", sigma_min=verdict)
    yield trial("datapoint", "datapoint", None, mode="ambient")
    yield trial("weighted", "weighted", None, mode="weighted")
    ambient = {"mode": "ambient", "sigma_min": verdict, "loss": "ambient"}
    yield trial("ambient loss", "ambient_loss", None, **ambient)
    for octaves, steps in product(size.clean_octaves, size.clean_steps):
        name, given = f"clean_{steps}_octaves{octaves}", {"steps": steps, "octaves": octaves}
        yield trial(f"clean, {octaves} octaves", name, float(steps), mode="clean", **given)


def choose(validated: pa.Table, trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """Choose the final arms' options on validation pairs.

    Of the clean set alone and of co-training, what succeeds most (of equals the first); of the
    sweep the smoothest whose success is within `MARGIN` of its best.
    """
    frame = validated.to_pandas().astype({"acceleration": float}).groupby("training")
    rate, acceleration = frame.success.mean(), frame.acceleration.mean()

    def options_of(arm: str, *, smooth: bool = False) -> dict[str, Any]:
        named = {
            trial.training.name: trial.training.options
            for trial in trials
            if trial.arm.startswith(arm)
        }
        rates = rate[list(named)]
        near = rates[rates >= rates.max() - MARGIN].index
        best = acceleration[near].fillna(np.inf).idxmin() if smooth else rates.idxmax()
        return {key: value for key, value in named[best].items() if key != "seed"}

    return {
        "clean": options_of("clean"),
        "cotrain": options_of("cotrain"),
        "dataset": options_of("dataset"),
        "datapoint": options_of("datapoint"),
        "best of sweep": options_of("sweep", smooth=True),
    }


def plan_trials(size: Size, chosen: dict[str, dict[str, Any]]) -> Iterator[Trial]:
    """Give the final trials: fresh seeds of training, fresh pairs, the same for all arms."""
    for seed in range(1, size.seeds + 1):
        first = FRESH + APART * seed
        made = {}
        for arm, options in chosen.items():
            given = {"seed": seed, "steps": size.steps} | options
            made[arm] = Training(f"{arm.replace(' ', '_')}_seed{seed}", given)
            tags = {"phase": "final", "seed": seed, "value": None}
            yield Trial(arm, made[arm], first, size.tried, tags=tags)
        tags = {"phase": "final", "seed": seed, "value": None}
        linear = Trial("cotrain, linear last step", made["cotrain"], first, size.tried, tags=tags)
        yield replace(linear, control=made["clean"])
        if seed == 1:
            yield from _vary(size, made, first)
    if size.unet_steps:
        yield from _plan_unet(size, chosen)


def _vary(size: Size, made: dict[str, Training], first: int) -> Iterator[Trial]:
    """Give trials of the first repetition's policies that act in other ways."""
    for arm in ("cotrain", "dataset", "datapoint", "best of sweep"):
        tags = {"phase": "varied", "seed": 1, "value": None}
        trial = Trial(arm, made[arm], first, size.tried, tags=tags)
        yield replace(trial, arm=f"{arm}, executing 4", n_action_steps=4)
        for steps in (10, 25):
            yield replace(trial, arm=f"{arm}, {steps} DDIM steps", steps=steps)


def _plan_unet(size: Size, chosen: dict[str, dict[str, Any]]) -> Iterator[Trial]:
    for arm in ("cotrain", "dataset", "clean"):
        options = {"seed": 1, "steps": size.unet_steps} | chosen[arm]
        options |= {"network": "unet-small", "batch_size": 64}
        options["steps"] = min(options["steps"], size.unet_steps)
        training = Training(f"{arm}_unet", options)
        tags = {"phase": "unet", "seed": 1, "value": None}
        yield Trial(f"{arm}, U-Net", training, FRESH + APART, size.tried, tags=tags)
