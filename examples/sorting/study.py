"""The study: data, choices on validation blocks, and results on fresh ones."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ambient_curate import annotate
from ambient_curate.progress import Progress, track
from ambient_curate.run.records import Run
from examples.sorting.arms import Training, Trial
from examples.sorting.demonstrations import write_demonstrations

VALIDATION, FRESH = 1_000_000, 2_000_000  # seeds of the first blocks
APART = 10_000  # seeds between the fresh blocks of two repetitions
NEVER = 1e-6  # share of the clean set where it shall not be used


@dataclass(frozen=True)
class Size:
    """How much is made, trained and tried.

    Parameters
    ----------
    right, wrong : int
        Demonstrations of each rule.
    folds : int
        Of the annotation.
    steps : int
        Of training, for all but the clean set alone.
    clean_steps : tuple of int
        Of training on the clean set alone: all are tried in validation.
    clean_shares : tuple of float
        Of co-training, besides the natural one: tried in validation.
    sigma_max : tuple of float
        Of the sweep, in validation.
    validated, tried : int
        Blocks, of each policy.
    seeds : int
        Repetitions of the final arms.
    """

    right: int = 50
    wrong: int = 200
    folds: int = 5
    steps: int = 5000
    clean_steps: tuple[int, ...] = (2000, 5000)
    clean_shares: tuple[float, ...] = (0.5, 0.8)
    sigma_max: tuple[float, ...] = (0.1, 0.2, 0.3, 0.46, 0.6, 0.75)
    validated: int = 200
    tried: int = 300
    seeds: int = 3


QUICK = Size(
    right=8,
    wrong=16,
    folds=3,
    steps=60,
    clean_steps=(40,),
    clean_shares=(0.5,),
    sigma_max=(0.3,),
    validated=4,
    tried=6,
    seeds=1,
)


@dataclass(frozen=True)
class Study:
    """What the study is made of, and where.

    Parameters
    ----------
    out : Path
        Gets ``data``, a run, ``policies``, ``trials``, ``records.parquet`` and the figures.
    size : Size
        How much of everything.
    progress : Progress
        Told of everything.
    workers : int
        Processes.
    """

    out: Path
    size: Size
    progress: Progress
    workers: int

    def run(self) -> tuple[pa.Table, Run]:
        """Do everything that was not done before; return all trials, and the run."""
        size = self.size
        self.out.mkdir(parents=True, exist_ok=True)
        write_demonstrations(self.out / "data", size.right, size.wrong, self.progress)
        run = annotate(
            self.out / "data",
            out=self.out / "run",
            condition="state",
            legibility=True,
            folds=size.folds,
            workers=self.workers,
            progress=self.progress,
        )
        tried = list(plan_validation(size))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.workers, context, _take_one_core) as pool:
            validated = self._try(pool, "validation", tried)
            chosen = choose(validated, tried)
            fresh = self._try(pool, "fresh trials", list(plan_trials(size, chosen)))
        results = pa.concat_tables([validated, fresh], promote_options="default")
        pq.write_table(results, self.out / "results.parquet")
        return results, run

    def _try(self, pool: Executor, name: str, trials: Sequence[Trial]) -> pa.Table:
        """Train and try, several at once."""
        found = {t.name: known for t in trials if (known := t.find(self.out)) is not None}
        with track(self.progress, name, len(trials)) as advance:
            advance(len(found))
            work = {pool.submit(t.run, self.out): t.name for t in trials if t.name not in found}
            try:
                for future in as_completed(work):
                    found[work[future]] = future.result()
                    advance(1, work[future])
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        tables = [found[trial.name] for trial in trials]
        return pa.concat_tables(tables, promote_options="default").replace_schema_metadata(None)


def _take_one_core() -> None:
    torch.set_num_threads(1)


def use_below(sigma_max: float) -> dict[str, Any]:
    """Options that use the wrong rule at no more noise than sigma_max, and nowhere else."""
    return {"mode": "ambient", "sigma_min": 1.0, "sigma_max": sigma_max}


def plan_validation(size: Size) -> Iterator[Trial]:
    """Give the trials that choose: one seed of training, blocks that are not used again."""

    def trial(arm: str, name: str, value: float | None, **options: Any) -> Trial:
        given = {"seed": 0, "steps": size.steps} | options
        tags = {"phase": "validation", "seed": 0, "value": value}
        return Trial(arm, Training(name, given), VALIDATION, size.validated, tags)

    for sigma_max in size.sigma_max:
        yield trial("locality", f"below_{sigma_max:g}", sigma_max, **use_below(sigma_max))
    yield trial("cotrain", "cotrain", None, mode="cotrain")
    for share in size.clean_shares:
        yield trial("cotrain", f"cotrain_{share:g}", share, mode="cotrain", clean_weight=share)
    yield trial("wrong", "wrong", None, mode="cotrain", clean_weight=0.0)
    for steps in size.clean_steps:
        yield trial("clean", f"clean_{steps}", float(steps), mode="clean", steps=steps)


def choose(validated: pa.Table, trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """Choose the final arms' options: what succeeds most on validation blocks, of equals the first.

    Returns
    -------
    dict of str to dict
        By arm: options of `train_policy`.
    """
    rate = validated.to_pandas().groupby("training").success.mean()

    def best_of(arm: str) -> dict[str, Any]:
        named = {
            trial.training.name: trial.training.options
            for trial in trials
            if trial.arm.startswith(arm)
        }
        best = named[rate[list(named)].idxmax()]
        return {key: value for key, value in best.items() if key != "seed"}

    local = best_of("locality")
    return {
        "clean": best_of("clean"),
        "wrong rule alone": {"mode": "cotrain", "clean_weight": 0.0},
        "cotrain": {"mode": "cotrain"},
        "cotrain, best share": best_of("cotrain"),
        "locality, sigma_max swept": local,
        "locality, sigma_max estimated": {"mode": "ambient", "sigma_min": 1.0},
        "both levels as annotated": {"mode": "ambient"},
        "cotrain, told the rule": {"mode": "cotrain", "condition": "rule"},
        "locality, told the rule": local | {"condition": "rule"},
        "exclusive bands": local | {"clean_weight": NEVER},
    }


def plan_trials(size: Size, chosen: dict[str, dict[str, Any]]) -> Iterator[Trial]:
    """Give the final trials: fresh seeds of training, fresh blocks, the same for all arms."""
    for seed in range(1, size.seeds + 1):
        for arm, options in chosen.items():
            given = {"seed": seed, "steps": size.steps} | options
            name = f"{arm.replace(',', '').replace(' ', '_')}_seed{seed}"
            tags = {"phase": "final", "seed": seed, "value": None}
            yield Trial(arm, Training(name, given), FRESH + APART * seed, size.tried, tags)
