"""How near sigma_min comes to the truth, for laws of episodes whose windows have exact densities.

    python tests/benchmarks/bench_power.py [--laws NAME ...] [--other] [--seeds 1 2] [--out FILE]
    python tests/benchmarks/bench_power.py --reversed TAPE [--stand-in] [--each-alone]

Every family of laws is written as one collection, 50 clean and 120 corrupt episodes a set unless
its name says otherwise, and annotated. A line a law and seed shows the truth, the oracle's reading
(what the exact likelihood ratio reads from the same episodes), the network's and the challenger's
sigma_min where the run names them, the answer and its interval. Then follow mean errors and counts;
a null counts as an error of 1 less the truth. NAME is a family, or FAMILY/LAW for a collection of
one corrupt set. Rows that the file already holds are not run again.

With `--reversed`, TAPE is a dataset of any format: its even episodes are clean, the odd ones are
corrupt as they are, backwards in time, and with ten planted changes; for absolute and relative
windows, alone and together. `--stand-in` does the same with motions of known kind whose speed alone
tells them from their reversal.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from power_families import (
    FAMILIES,
    OTHER_FAMILIES,
    Family,
    Reaches,
)
from power_laws import (
    Episodes,
    Scaling,
    WindowLaw,
)
from power_truths import (
    find_truth,
    read_oracle,
)

from ambient_curate import readers
from ambient_curate.annotation.annotate import annotate
from ambient_curate.data.normalizer import Normalizer

HARD = ("near30", "fast10")  # few episodes, rather than the classifier, decide there
KEY = ("experiment", "law", "seed", "schedule", "epsilon", "represent", "normalize", "sets")
PERIOD = 5  # frames of a planted tremor
Row = dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """A run: what its ``run.json`` holds, seconds of the clock, and of processors."""

    info: dict[str, Any]
    seconds: float
    cpu_seconds: float


def write_collection(folder: Path, members: dict[str, Episodes]) -> None:
    """One ``.npz`` file a member; the clean one is named ``clean``."""
    folder.mkdir(parents=True)
    rates = []
    for name, episodes in members.items():
        ends = np.cumsum([len(episode) for episode in episodes])
        action = np.concatenate(episodes).astype(np.float32)
        np.savez(folder / f"{name}.npz", action=action, episode_ends=ends)
        rates.append(f'"{name}".rate_hz = 20.0\n')
    text = 'clean = "clean"\n[datasets]\n' + "".join(rates)
    (folder / "ambient.toml").write_text(text, encoding="utf-8")


def annotate_members(
    members: dict[str, Episodes], settings: argparse.Namespace, seed: int, **changes: Any
) -> Finished:
    """Write a collection, annotate it, and leave no file."""
    with tempfile.TemporaryDirectory() as place:
        write_collection(Path(place) / "data", members)
        start, used = time.perf_counter(), used_cpu()
        run = annotate(
            Path(place) / "data",
            out=Path(place) / "run",
            horizon=16,
            schedule=settings.schedule,
            epsilon=settings.epsilon,
            seed=seed,
            workers=settings.workers,
            **changes,
        )
        return Finished(run.info, time.perf_counter() - start, used_cpu() - used)


def used_cpu() -> float:
    """Seconds that this process and those it has waited for spent computing."""
    return sum(os.times()[:4])


def list_rows(run: Finished, settings: argparse.Namespace) -> list[Row]:
    """What a run says of every corrupt set."""
    verdict = [row for row in run.info["verdict"] if not row["is_clean"]]
    controls = run.info.get("controls", [])
    return [
        {
            "set": row["dataset"],
            "schedule": settings.schedule,
            "epsilon": settings.epsilon,
            "sets": len(verdict),
            "network": row.get("network_sigma_min"),
            "challenger": row.get("challenger_sigma_min"),
            **{name: row[name] for name in ("sigma_min", "lower", "upper", "status", "reason")},
            "controls": [[c[name] for name in ("name", "expected", "found")] for c in controls],
            "warnings": [text for text in run.info["warnings"] if row["dataset"] in text],
            "seconds": round(run.seconds, 1),
            "cpu_seconds": round(run.cpu_seconds, 1),
        }
        for row in verdict
    ]


def run_family(family: Family, settings: argparse.Namespace, seed: int) -> Iterator[Row]:
    """Annotate a family; rows with the truth and the oracle's reading beside the answers."""
    members = family.draw(seed)
    run = annotate_members(members, settings, seed, normalize="gaussian", represent="absolute")
    normalizer = Normalizer.from_dict(run.info["normaliser"])
    scaling = Scaling(normalizer.offset, normalizer.scale)
    grid, clean, epsilon = np.array(run.info["grid"]), family.clean, settings.epsilon
    for row in list_rows(run, settings):
        name = row.pop("set")
        law = family.corrupt[name]
        row |= {"experiment": "laws", "law": f"{family.name}/{name}", "seed": seed}
        row |= {
            "represent": "absolute",
            "normalize": "gaussian",
            "equal": law is clean,
            "truth": None,
            "oracle": None,
        }
        if isinstance(clean, WindowLaw) and isinstance(law, WindowLaw):
            truth = find_truth(clean, law, scaling, grid, epsilon=epsilon)
            episodes = members["clean"], members[name]
            oracle = read_oracle(clean, law, *episodes, scaling, grid, epsilon=epsilon)
            row |= {"truth": truth.sigma_min, "delta": float(truth.delta[0])}
            row |= {"truth_ends": [truth.lower, truth.upper], "oracle": oracle.sigma_min}
        yield row


# ---- reversed copies


def plant_changes(clean: Episodes, episodes: Episodes) -> dict[str, Episodes]:
    """The episodes as they are, backwards in time, and changed in ten ways."""
    spread = np.ptp(np.concatenate(clean), axis=0)
    centre = np.concatenate(clean).mean(axis=0)
    rng = np.random.default_rng(5)
    first = np.arange(spread.size) == 0

    def white(episode: np.ndarray, size: np.ndarray) -> np.ndarray:
        return episode + size * rng.standard_normal(episode.shape)

    def shake(episode: np.ndarray, size: float) -> np.ndarray:
        phase = rng.uniform(0.0, 2.0 * np.pi, spread.size)
        time = 2.0 * np.pi * np.arange(len(episode))[:, None] / PERIOD
        return episode + size * spread * np.sin(time + phase)

    changed = {
        "same": episodes,
        "reversed": [e[::-1] for e in episodes],
        "tremor.02": [shake(e, 0.02) for e in episodes],
        "tremor.05": [shake(e, 0.05) for e in episodes],
        "held2": [e[np.arange(len(e)) // 2 * 2] for e in episodes],
        "held4": [e[np.arange(len(e)) // 4 * 4] for e in episodes],
        "lagged1": [delay_half(e, 1) for e in episodes],
        "lagged3": [delay_half(e, 3) for e in episodes],
        "scaled1.1": [centre + 1.1 * (e - centre) for e in episodes],
        "scaled1.3": [centre + 1.3 * (e - centre) for e in episodes],
        "shifted.05": [e + 0.05 * spread for e in episodes],
        "jitter1": [white(e, 0.05 * spread * first) for e in episodes],
    }
    return changed


def delay_half(episode: np.ndarray, frames: int) -> np.ndarray:
    """The first half of the actions late by some frames."""
    half = episode.shape[1] // 2
    return np.concatenate([episode[:-frames, :half], episode[frames:, half:]], axis=1)


def read_halves(path: Path) -> tuple[Episodes, Episodes]:
    """Even and odd episodes of a dataset, in its order."""
    dataset = readers.open_dataset(path)
    episodes = [e.action for shard in dataset.shards for e in dataset.read_shard(shard)]
    return episodes[::2], episodes[1::2]


def draw_stand_in() -> tuple[Episodes, Episodes]:
    """30 clean episodes, and 60 of the same law."""
    rng = np.random.default_rng(3)
    return Reaches().draw_episodes(rng, 30), Reaches().draw_episodes(rng, 60)


def run_reversals(
    name: str,
    halves: tuple[Episodes, Episodes],
    settings: argparse.Namespace,
    *,
    done: list[Row],
) -> Iterator[Row]:
    """Rows of each set alone (of all, or of the first two) and of all together."""
    clean, rest = halves
    changed = plant_changes(clean, rest)
    alone = list(changed) if settings.each_alone else ["same", "reversed"]
    groups = [[one] for one in alone] + [list(changed)]
    for represent in ("absolute", "relative"):
        for seed in settings.seeds:
            for group in groups:
                how = {"represent": represent, "normalize": settings.normalize}
                about = {
                    "experiment": name,
                    "seed": seed,
                    **how,
                    "sets": len(group),
                    "schedule": settings.schedule,
                }
                wanted = [about | {"epsilon": settings.epsilon, "law": one} for one in group]
                if found := find_done(wanted, done):
                    yield from found
                    continue
                members = {"clean": clean} | {one: changed[one] for one in group}
                run = annotate_members(members, settings, seed, **how)
                for row in list_rows(run, settings):
                    yield about | row | {"law": row.pop("set")}


# ---- rows that are there already, and what is printed


def find_done(wanted: Sequence[Row], done: Sequence[Row]) -> list[Row]:
    """Rows of a finished run, in the order wanted; empty where any is missing."""
    by_key = {tuple(row[name] for name in KEY): row for row in done}
    keys = [tuple(row[name] for name in KEY) for row in wanted]
    return [by_key[key] for key in keys] if all(key in by_key for key in keys) else []


def run_laws(settings: argparse.Namespace, done: list[Row]) -> Iterator[Row]:
    """Rows of all families that were asked for."""
    for family in choose_families(settings.laws, other=settings.other):
        for seed in settings.seeds:
            about = {"experiment": "laws", "seed": seed, "represent": "absolute"}
            about |= {"normalize": "gaussian"}
            about |= {"schedule": settings.schedule, "epsilon": settings.epsilon}
            about |= {"sets": len(family.corrupt)}
            wanted = [about | {"law": f"{family.name}/{name}"} for name in family.corrupt]
            yield from find_done(wanted, done) or run_family(family, settings, seed)


def choose_families(names: Sequence[str], *, other: bool) -> Iterator[Family]:
    """Families by name, or all of one table; ``FAMILY/LAW`` keeps one corrupt law."""
    every = FAMILIES | OTHER_FAMILIES
    for name in names or (OTHER_FAMILIES if other else FAMILIES):
        family, _, law = name.partition("/")
        yield every[family]().only([law]) if law else every[family]()


def keep_rows(rows: Iterable[Row], path: Path | None, done: list[Row]) -> Iterator[Row]:
    """Pass rows on; append to the file those that it does not hold."""
    for row in rows:
        if path is not None and row not in done:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        yield row


def read_rows(path: Path | None) -> list[Row]:
    """Rows of a file of JSON lines; none where there is no file."""
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def covers(row: Row) -> bool | None:
    """Whether the interval holds the truth, within the error of its Monte Carlo; None: no answer.

    The estimate itself may be null.
    """
    if row["sigma_min"] is None or row.get("truth") is None:
        return None
    lower, upper = row["truth_ends"]
    return bool(row["lower"] <= upper and lower <= row["upper"])


def print_row(row: Row) -> None:
    held = {None: "-", True: "yes", False: "no"}[covers(row)]
    name = row["law"] if row["experiment"] == "laws" else f"{row['experiment']}/{row['law']}"
    print(
        f"{name:16} {row['represent']:8} seed {row['seed']} of {row['sets']:2} sets  "
        f"truth {show(row.get('truth')):5}  oracle {show(row.get('oracle')):5}  "
        f"network {show(row['network']):5}  challenger {show(row['challenger']):5}  "
        f"answer {show(row['sigma_min']):5} [{show(row['lower'])}, {show(row['upper'])}]  "
        f"{row['status']}  covers {held}  "
        f"{row['seconds']:.0f} s, {row['cpu_seconds']:.0f} of processors",
        flush=True,
    )


def error(row: Row, of: str) -> float:
    """Distance of the answer from the truth or the reading; a null answer is read as 1."""
    answer = 1.0 if row["sigma_min"] is None else row["sigma_min"]
    return float(abs(answer - row[of]))


def print_summary(rows: Sequence[Row]) -> None:
    """Print what the answers of laws with known truths amount to."""
    rows = [row for row in rows if row.get("truth") is not None]
    if not rows:
        return
    easy = [row for row in rows if row["law"].partition("/")[2] not in HARD]
    away = {
        name: np.mean([error(row, "truth") for row in some])
        for name, some in {"all": rows, "easy": easy}.items()
        if some
    }
    print(f"rows: {len(rows)}; mean |answer - truth| over all: {away['all']:.3f}")
    if easy:
        print(f"  without {' and '.join(HARD)}: {away['easy']:.3f} over {len(easy)}")
    short = max(rows, key=shortfall)
    reading = np.mean([error(row, "oracle") for row in rows])
    print(
        f"mean |answer - oracle's reading|: {reading:.3f}; largest shortfall below it: "
        f"{shortfall(short):.3f} ({short['law']}, seed {short['seed']})"
    )
    print_counts(rows)


def shortfall(row: Row) -> float:
    """By how much the answer is below the oracle's reading; a null answer is not."""
    return 0.0 if row["sigma_min"] is None else float(row["oracle"] - row["sigma_min"])


def print_counts(rows: Sequence[Row]) -> None:
    apart = [row for row in rows if row["truth"] > 0.1]
    nulls = sum(row["sigma_min"] is None for row in apart)
    print(f"null where the truth is above .1: {nulls} of {len(apart)}")
    unseen = [row for row in rows if row["truth"] > 0.2]
    silent = sum(row["status"] == "ok" and row["sigma_min"] == 0.0 for row in unseen)
    print(f"ok with 0 where the truth is above .2: {silent} of {len(unseen)}")
    equal = [row for row in rows if row["equal"]]
    at_zero = sum(row["sigma_min"] == 0.0 for row in equal)
    print(f"p = q: 0 in {at_zero} of {len(equal)}")
    said = [row for row in rows if row["sigma_min"] is not None]
    held = sum(bool(covers(row)) for row in said)
    below = sum(row["upper"] < row["truth_ends"][0] for row in said)
    above = sum(row["lower"] > row["truth_ends"][1] for row in said)
    width = np.mean([row["upper"] - row["lower"] for row in said]) if said else 0.0
    print(
        f"intervals: {held} of {len(said)} hold the truth; {below} lie below it, {above} above; "
        f"mean width {width:.3f}"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--laws", default="", help="families or FAMILY/LAW, with commas")
    parser.add_argument("--other", action="store_true", help="the families not designed with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, help="file of JSON lines, continued where it ends")
    parser.add_argument("--schedule", default="squaredcos_cap_v2:20")
    parser.add_argument("--epsilon", type=float, default=0.05)
    parser.add_argument("--normalize", default="gaussian", help="of reversed copies")
    parser.add_argument("--workers", type=int, help="processes; one for each core by default")
    parser.add_argument("--reversed", type=Path, metavar="TAPE", help="a dataset to reverse")
    parser.add_argument("--stand-in", action="store_true", help="reverse motions of known kind")
    parser.add_argument("--each-alone", action="store_true", help="every planted change alone too")
    settings = parser.parse_args()
    settings.laws = [name for name in settings.laws.split(",") if name]
    return settings


def choose_work(settings: argparse.Namespace, done: list[Row]) -> Iterator[Row]:
    """Rows of what was asked for: reversed copies, else laws."""
    if settings.reversed is not None:
        halves = read_halves(settings.reversed)
        yield from run_reversals(settings.reversed.name, halves, settings, done=done)
    if settings.stand_in:
        yield from run_reversals("stand-in", draw_stand_in(), settings, done=done)
    if settings.reversed is None and not settings.stand_in:
        yield from run_laws(settings, done)


def main() -> None:
    settings = parse_arguments()
    done, rows = read_rows(settings.out), []
    for row in keep_rows(choose_work(settings, done), settings.out, done):
        print_row(row)
        rows.append(row)
    print_summary(rows)


if __name__ == "__main__":
    main()
