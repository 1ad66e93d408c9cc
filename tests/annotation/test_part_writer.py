"""Parts: rows, weights and tilts, recomputed by hand."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t as student_t
from small_study import (
    LENGTHS,
    SIGMA,
    TASKS,
    files,
    make_episodes,
    make_plan,
    make_study,
    make_tepid,
    read_rows,
    write_parts,
)

from ambient_curate.annotation import shards
from ambient_curate.annotation.part_writer import RowPlan, RowTotals, read_row_totals
from ambient_curate.annotation.tasks import PLAN
from ambient_curate.classifier.out_of_fold import noise_seed
from ambient_curate.data.populations import Population
from ambient_curate.data.study import Study
from ambient_curate.run.tables import read_manifest
from ambient_curate.statistics.bootstrap import pick_evenly
from ambient_curate.statistics.sigma_min import last_crossing

pytestmark = pytest.mark.usefixtures("one_thread")
LONGER = (*LENGTHS[:-1], 12, 2)  # of b, with a stub
COUNTS = {"clean": 22, "a": 22, "b": 27}  # whole windows; c has too few episodes
WINDOW_DRAWS, EPISODE_DRAWS = 16, 4
ANSWER = ("sigma_min", "sigma_min_lower", "sigma_min_upper")


@pytest.fixture(scope="module")
def study_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Study]:
    """Members a and b, and c that has too few episodes, each kind of study made once."""
    lengths = {"clean": LENGTHS, "a": LENGTHS, "b": LONGER, "c": (6, 6)}

    @cache
    def make(granularity: str, weighting: str = "episode") -> Study:
        members = {
            name: make_episodes(name, n, task=[*TASKS, "x"][: len(n)])
            for name, n in lengths.items()
        }
        folder = tmp_path_factory.mktemp("frames")
        return make_study(
            folder, members, granularity=granularity, weighting=weighting, store_curves=True
        )

    return make


def write(study: Study, work: Path, unreliable: str = "") -> RowTotals:
    return write_parts(study, work, make_plan(study, unreliable), make_tepid(study))


def arm_of(study: Study, name: str) -> Population:
    return next(
        population
        for population in (study.clean, *study.corrupt)
        if (population.dataset, population.group) == (name, None)
    )


def rescore(study: Study, name: str, draws: int, most: int | None) -> Iterator[tuple[int, Any]]:
    """Episodes of a member by the networks of their own folds: c by level, window, draw, head."""
    population, fitted = arm_of(study, name), make_tepid(study)
    for episode in population.episodes.tolist():
        picked = pick_evenly(int(population.windows.counts[episode]), most)
        seed = noise_seed(study.options.seed, name, f"demo_{episode}")
        rng = np.random.default_rng([*seed, 0])
        half = rng.standard_normal(
            (picked.size, draws // 2, population.windows.dim), dtype=np.float32
        )
        noise = np.concatenate([half, -half], axis=1)
        network = fitted[study.folds[name][episode]]
        windows = population.windows.of_episode(episode)[torch.from_numpy(picked)]
        heads = range(len(network.pairs))
        c = network.predict(windows, torch.from_numpy(noise), heads, slice(None))
        yield episode, c.double().numpy()


def cross(curves: np.ndarray, errors: np.ndarray, freedom: float) -> np.ndarray:
    """Crossings of curves, and of the curves a half-width up and down; shape (3, row)."""
    half = 2.0 * student_t.ppf(0.975, freedom / 2) * errors
    return np.stack([last_crossing(x, SIGMA, 0.45) for x in (curves, curves + half, curves - half)])


def paired(c: np.ndarray) -> np.ndarray:
    """Means of antithetic draws, which lie half of the last axis apart."""
    half = c.shape[-1] // 2
    return (c[..., :half] + c[..., half:]) / 2.0


def weigh(c: np.ndarray, mixed: str) -> float:
    """One window's p over the density of what trains, from its c against each of `mixed`."""
    total = sum(COUNTS[name] for name in ("clean", *mixed))
    odds = (1.0 - c.astype(np.float64)) / c
    shares = [COUNTS[name] / total for name in mixed]
    return 1.0 / (COUNTS["clean"] / total + sum(s * o for s, o in zip(shares, odds, strict=True)))


def test_the_parts_hold_every_member_and_the_sums_their_rows(
    study_of: Callable[..., Study], tmp_path: Path
) -> None:
    study = study_of("datapoint")
    sums = write(study, tmp_path).sums
    windows = {"a": 22, "b": 28, "c": 8, "clean": 22}  # b's last row is that of a stub
    statuses = {"a": {"ok"}, "b": {"ok", "too-short"}, "c": {"too-few-episodes"}, "clean": {"ok"}}
    assert list(files(tmp_path)) == [
        *(f"manifest/part-{number:05d}.parquet" for number in range(4)),
        PLAN,
        *(f"sums/{number:05d}.npz" for number in range(4)),
    ]
    for number, name in enumerate(sorted(study.frames)):
        table = read_manifest(tmp_path / "manifest" / f"part-{number:05d}.parquet")
        assert set(table["dataset"].to_pylist()) == {name}
        assert table.num_rows == windows[name] == sums[name].rows
        assert set(table["status"].to_pylist()) == statuses[name]
        assert sums[name].nulls == table["sigma_min"].null_count
        found = table["sigma_min"].drop_null().to_numpy()
        places = np.flatnonzero(sums[name].counts)
        assert places.tolist() == np.unique(np.ceil(found * 10_000)).astype(int).tolist()
    values = [row["sigma_min"] for row in read_rows(tmp_path, "a")]
    assert len(set(values)) > 5  # every window has its own
    assert {row["sigma_min"] for row in read_rows(tmp_path, "clean")} == {0.0}


@pytest.mark.parametrize("mixed", ["ab", "b", ""])
def test_weights_are_those_of_every_windows_own_scores(
    study_of: Callable[..., Study], tmp_path: Path, mixed: str
) -> None:
    """Clean windows too, by two draws; members without an answer have no part in the draw."""
    study = study_of("datapoint")
    unreliable = "".join(sorted(set("ab") - set(mixed)))
    found = write(study, tmp_path, unreliable)
    heads = [study.head(name) for name in mixed]
    seen = []
    for name in ("clean", *mixed):
        own = iter(read_rows(tmp_path, name))
        for _, c in rescore(study, name, 2 if name == "clean" else WINDOW_DRAWS, None):
            for window in c[0].mean(axis=1)[:, heads]:
                row = next(own)
                assert row["weight"] == pytest.approx(weigh(window, mixed), rel=1e-5)
                seen.append(row["weight"])
        assert [(row["weight"], row["status"]) for row in own] == (
            [(None, "too-short")] if name == "b" else []
        )
    assert (np.ptp(seen) > 0.1) == bool(mixed)
    for name in ("c", *unreliable):
        assert {row["weight"] for row in read_rows(tmp_path, name)} == {None}
    total = sum(COUNTS[name] for name in ("clean", *mixed))
    assert found.shares == {name: COUNTS[name] / total for name in ("clean", *mixed)}
    assert list(found.tilts) == list(mixed)


def test_a_windows_answers_come_from_eight_pairs_of_draws_at_all_levels(
    study_of: Callable[..., Study], tmp_path: Path
) -> None:
    study = study_of("datapoint")
    write(study, tmp_path)
    for name in "ab":
        own, head = iter(read_rows(tmp_path, name)), study.head(name)
        for episode, c in rescore(study, name, WINDOW_DRAWS, None):
            curves = c[..., head].mean(axis=2).T
            pairs = paired(c[..., head])
            errors = pairs.std(axis=2, ddof=1).T / (WINDOW_DRAWS / 2) ** 0.5
            answers = cross(curves, errors, WINDOW_DRAWS / 2 - 1)
            for curve, answer in zip(curves, answers.T, strict=True):
                row = next(own)
                assert (row["episode_index"], row["fold"]) == (episode, study.folds[name][episode])
                np.testing.assert_allclose([row[key] for key in ANSWER], answer, atol=1e-4)
                np.testing.assert_allclose(row["p_clean"], curve, rtol=1e-5)


def test_an_episodes_answer_comes_from_two_pairs_for_at_most_64_windows(tmp_path: Path) -> None:
    members = {name: make_episodes(name, (*LENGTHS, 90)) for name in ("clean", "a")}
    study = make_study(tmp_path / "frames", members, granularity="episode", store_curves=True)
    found = write(study, tmp_path / "work")
    assert (found.shares, found.tilts) == ({}, {})
    written = read_rows(tmp_path / "work", "a")
    assert len(written) == found.sums["a"].rows == 7
    for row, (_, c) in zip(written, rescore(study, "a", EPISODE_DRAWS, 64), strict=True):
        draws = c[..., 0]
        windows = min(64, study.windows["a"].counts[row["episode_index"]])
        assert draws.shape == (SIGMA.size, windows, EPISODE_DRAWS)
        curve = draws.mean(axis=(1, 2))
        variance = paired(draws).var(axis=2, ddof=1) / (EPISODE_DRAWS / 2)
        error = np.sqrt(variance.sum(axis=1)) / windows
        answer = cross(curve, error, (EPISODE_DRAWS / 2 - 1) * windows)
        np.testing.assert_allclose([row[key] for key in ANSWER], answer, atol=1e-4)
        np.testing.assert_allclose(row["p_clean"], curve, rtol=1e-5)
    assert {row["weight"] for row in read_rows(tmp_path / "work")} == {None}
    assert {row["sigma_min"] for row in read_rows(tmp_path / "work", "clean")} == {0.0}


@pytest.mark.parametrize("weighting", ["episode", "window"])
@pytest.mark.parametrize("mixed", ["ab", "b"])
def test_tilts_are_those_of_a_plain_loop_over_all_windows(
    study_of: Callable[..., Study],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weighting: str,
    mixed: str,
) -> None:
    """Each of a pair: the clean set and one other, with their shares of the pair's windows."""
    monkeypatch.setattr(shards, "MOST_WINDOWS", 8)
    study = study_of("datapoint", weighting)
    found = write(study, tmp_path, "".join(set("ab") - set(mixed))).tilts
    assert list(found) == list(mixed)
    for name in mixed:
        expected = loop_tilt(study, name, by_window=weighting == "window")
        for key, value in expected.items():
            assert getattr(found[name], key) == pytest.approx(value, rel=1e-5), key


def loop_tilt(study: Study, name: str, *, by_window: bool) -> dict[str, float]:
    head = study.head(name)
    assert head is not None
    windows: dict[str, list[list[tuple[float, float, bool]]]] = {}  # by episode: mass, c, usable
    for member, draws in (("clean", 2), (name, WINDOW_DRAWS)):
        episodes = [c[..., head].mean(axis=2).T for _, c in rescore(study, member, draws, None)]
        windows[member] = [
            [
                (
                    1 / COUNTS[member] if by_window else 1 / (len(episodes) * len(curves)),
                    float(curve[0]),
                    member == "clean" or bool((curve > 0.45).all()),
                )
                for curve in curves
            ]
            for curves in episodes
        ]
    clean, corrupt = ([w for each in windows[member] for w in each] for member in ("clean", name))
    used = sum(m for m, _, usable in corrupt if usable)
    crowded = set()
    for place in {bin_of(c) for _, c, _ in corrupt}:
        here = [(m, usable) for m, c, usable in corrupt if bin_of(c) == place]
        share = sum(m for m, usable in here if usable) / sum(m for m, _ in here)
        if np.exp(-0.1 * (place + 0.5)) * share > used:
            crowded.add(place)
    p, q = (
        sum(m for m, c, usable in side if usable and bin_of(c) in crowded)
        for side in (clean, corrupt)
    )
    assert 0.0 < p < 1.0
    assert 0.0 < used < 1.0
    share = COUNTS[name] / (COUNTS[name] + COUNTS["clean"])
    weights = [
        [own * m * c / ((1 - share) * c + share * (1 - c)) for m, c, _ in each]
        for own, side in zip((1 - share, share), windows.values(), strict=True)
        for each in side
    ]
    total = sum(map(sum, weights))
    both = zip([w for each in weights for w in each], clean + corrupt, strict=True)
    return {
        "usable": used,
        "mixture": ((1 - share) * p + share * q) / (1 - share + share * used),
        "clean": p,
        "weighted": sum(w for w, (_, c, _) in both if bin_of(c) in crowded) / total,
        "windows": total**2 / sum(w**2 for each in weights for w in each),
        "episodes": total**2 / sum(sum(each) ** 2 for each in weights),
    }


def bin_of(c: float) -> int:
    """A tenth of a logit, from -12 to 12."""
    return 119 if c == 1.0 else int(np.floor(10.0 * np.log(c / (1.0 - c)).clip(-12.0, 11.99)))


@pytest.mark.parametrize("granularity", ["episode", "datapoint"])
def test_a_member_that_is_not_believed_has_null_rows_and_the_other_its_own(
    study_of: Callable[..., Study], tmp_path: Path, granularity: str
) -> None:
    study = study_of(granularity)
    found = write(study, tmp_path, "a")
    assert found.sums["a"].nulls == found.sums["a"].rows > 0
    for row in read_rows(tmp_path):
        if row["dataset"] == "a":
            assert (row["sigma_min"], row["status"]) == (None, "classifier-unreliable")
        elif row["dataset"] == "b":
            assert row["status"] == ("too-short" if row["sigma_min"] is None else "ok")


@pytest.mark.parametrize("granularity", ["dataset", "group"])
def test_where_a_row_speaks_for_a_whole_dataset_there_is_nothing_to_read(
    study_of: Callable[..., Study], tmp_path: Path, granularity: str
) -> None:
    found = read_row_totals(study_of(granularity), {"a": "ok", "b": "ok"}, tmp_path)
    assert (found.sums, found.shares, found.tilts) == ({}, {}, {})


def test_a_plan_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    plan = RowPlan({"a": "ok", "b": "classifier-unreliable"}, ["a"], {"grid": "[0.1]"})
    plan.save(tmp_path / PLAN)
    assert RowPlan.load(tmp_path / PLAN) == plan
