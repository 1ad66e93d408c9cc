"""Parts: rows and weights recomputed by hand, written once, by any number of workers."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small_study import (
    LENGTHS,
    SIGMA,
    TASKS,
    files,
    make_arm_curves,
    make_episodes,
    make_networks,
    make_study,
    times,
)

from ambient_curate import parts
from ambient_curate.arms import Arm
from ambient_curate.classifier import FoldClassifier
from ambient_curate.manifest import read_manifest
from ambient_curate.parts import RowAnswers, write_parts
from ambient_curate.progress import SILENT
from ambient_curate.rows import curve_interval, manifest_metadata
from ambient_curate.scoring import ScoreOptions, WindowScores, noise_seed, score_windows
from ambient_curate.stages import Answers
from ambient_curate.study import Study
from ambient_curate.tilts import Tilt

pytestmark = pytest.mark.usefixtures("one_thread")
LONGER = (*LENGTHS[:-1], 12, 2)  # of b, with a stub
COUNTS = {"clean": 22, "a": 22, "b": 27}  # whole windows; c has too few episodes
DRAWS = 8


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
        return make_study(folder, members, granularity=granularity, weighting=weighting)

    return make


def networks(study: Study) -> list[FoldClassifier]:
    """They say about 1/2, so that windows of both sides have the same c, and some are usable."""
    return [
        replace(each, slope=0.015 * each.slope, intercept=0.0 * each.intercept)
        for each in make_networks(study)
    ]


def answers_of(study: Study, unreliable: str = "") -> Answers:
    names = [(arm.dataset, arm.group) for arm in study.corrupt]
    statuses = {
        name: "classifier-unreliable" if name[0] in list(unreliable) else "ok" for name in names
    }
    return Answers({name: make_arm_curves(*name) for name in names}, None, statuses, {})


def write(study: Study, work: Path, workers: int = 1, unreliable: str = "") -> RowAnswers:
    work.mkdir(exist_ok=True)
    return write_parts(
        study,
        networks(study),
        answers_of(study, unreliable),
        work,
        manifest_metadata(study, SIGMA, "digest"),
        workers=workers,
        progress=SILENT,
    )


def rows(work: Path, name: str | None = None) -> list[dict[str, Any]]:
    tables = [read_manifest(path) for path in sorted((work / "manifest").iterdir())]
    return [row for row in pa.concat_tables(tables).to_pylist() if name in (None, row["dataset"])]


def arm_of(study: Study, name: str) -> Arm:
    return next(
        arm for arm in (study.clean, *study.corrupt) if (arm.dataset, arm.group) == (name, None)
    )


def rescore(
    study: Study, name: str, heads: list[int], options: ScoreOptions
) -> Iterator[tuple[int, WindowScores]]:
    """Episodes of a member by the networks of their own folds, all windows at once."""
    arm, fitted = arm_of(study, name), networks(study)
    for episode in arm.episodes.tolist():
        seed = noise_seed(study.options.seed, name, f"demo_{episode}")
        network = fitted[study.folds[name][episode]]
        every = range(len(network.slope))
        (scores,) = score_windows(network, arm, episode, heads, every, seed=seed, options=options)
        yield episode, scores


def weigh(c: np.ndarray, mixed: str) -> float:
    """One window's p over the density of what trains, from its c against each of `mixed`."""
    total = sum(COUNTS[name] for name in ("clean", *mixed))
    odds = (1.0 - c.astype(np.float64)) / c
    shares = [COUNTS[name] / total for name in mixed]
    return 1.0 / (COUNTS["clean"] / total + sum(s * o for s, o in zip(shares, odds, strict=True)))


@pytest.mark.parametrize("granularity", ["dataset", "group", "episode", "datapoint"])
def test_parts_are_the_same_bytes_by_any_number_of_workers(
    study_of: Callable[..., Study], tmp_path: Path, granularity: str
) -> None:
    study = study_of(granularity)
    for workers in (1, 2):
        write(study, tmp_path / str(workers), workers)
    first = files(tmp_path / "1")
    assert first == files(tmp_path / "2")
    numbers = range(4) if study.by_row else range(1)
    expected = [f"manifest/part-{i:05d}.parquet" for i in numbers]
    expected += [f"tallies/{i:05d}.npz" for i in numbers if study.by_row]
    assert list(first) == expected


def test_the_parts_hold_every_member_and_the_answers_their_rows(
    study_of: Callable[..., Study], tmp_path: Path
) -> None:
    study = study_of("datapoint")
    answers = write(study, tmp_path)
    windows = {"a": 22, "b": 28, "c": 8, "clean": 22}  # b's last row is that of a stub
    statuses = {"a": {"ok"}, "b": {"ok", "too-short"}, "c": {"too-few-episodes"}, "clean": {"ok"}}
    for number, name in enumerate(sorted(study.frames)):
        table = read_manifest(tmp_path / "manifest" / f"part-{number:05d}.parquet")
        assert set(table["dataset"].to_pylist()) == {name}
        assert table.num_rows == windows[name] == answers.sigma_min[name].size
        assert set(table["status"].to_pylist()) == statuses[name]
        column = [np.nan if v is None else v for v in table["sigma_min"].to_pylist()]
        np.testing.assert_array_equal(answers.sigma_min[name], column)
    assert (answers.sigma_min["clean"] == 0.0).all()
    assert np.isnan(answers.sigma_min["c"]).all()
    assert np.unique(answers.sigma_min["a"]).size > 5  # every window has its own


@pytest.mark.parametrize("mixed", ["ab", "b", ""])
def test_weights_are_those_of_every_windows_own_scores(
    study_of: Callable[..., Study], tmp_path: Path, mixed: str
) -> None:
    """Clean windows too; members without an answer have no part in the draw, and no weights."""
    study = study_of("datapoint")
    unreliable = "".join(sorted(set("ab") - set(mixed)))
    found = write(study, tmp_path, unreliable=unreliable)
    heads = [study.head(name) for name in mixed]
    seen = []
    for name in ("clean", *mixed):
        own = iter(rows(tmp_path, name))
        for _, scores in rescore(study, name, [0], ScoreOptions(DRAWS)):
            for c in scores.lowest[:, heads]:
                row = next(own)
                assert row["weight"] == pytest.approx(weigh(c, mixed), rel=1e-6)
                seen.append(row["weight"])
        assert [(row["weight"], row["status"]) for row in own] == (
            [(None, "too-short")] if name == "b" else []
        )
    assert (np.ptp(seen) > 0.1) == bool(mixed)
    for name in ("c", *unreliable):
        assert {row["weight"] for row in rows(tmp_path, name)} == {None}
    total = sum(COUNTS[name] for name in ("clean", *mixed))
    assert found.shares == {name: COUNTS[name] / total for name in ("clean", *mixed)}
    assert list(found.tilts) == list(mixed)


def test_a_windows_answers_come_from_eight_draws_of_all_windows(
    study_of: Callable[..., Study], tmp_path: Path
) -> None:
    study = study_of("datapoint")
    write(study, tmp_path)
    for name in "ab":
        own = iter(rows(tmp_path, name))
        for episode, scores in rescore(study, name, [study.head(name)], ScoreOptions(DRAWS)):
            curves, errors = (x[..., 0].astype(np.float64) for x in (scores.curves, scores.errors))
            answer = curve_interval(curves, errors, SIGMA, epsilon=0.05, draws=DRAWS)
            for expected in answer.T:
                row = next(own)
                assert (row["episode_index"], row["fold"]) == (episode, study.folds[name][episode])
                names = ("sigma_min", "sigma_min_lower", "sigma_min_upper")
                assert [row[key] for key in names] == expected.tolist()


def test_an_episodes_answer_comes_from_four_draws_of_at_most_64_windows(tmp_path: Path) -> None:
    members = {name: make_episodes(name, (*LENGTHS, 90)) for name in ("clean", "a")}
    study = make_study(tmp_path / "frames", members, granularity="episode", store_curves=True)
    found = write(study, tmp_path / "work")
    assert (found.shares, found.tilts) == ({}, {})
    written = rows(tmp_path / "work", "a")
    assert len(written) == found.sigma_min["a"].size == 7
    for row, (_, scores) in zip(
        written, rescore(study, "a", [0], ScoreOptions(4, 64)), strict=True
    ):
        assert len(scores.curves) == min(64, study.windows["a"].counts[row["episode_index"]])
        np.testing.assert_allclose(row["p_clean"], scores.curves[..., 0].mean(axis=0), rtol=1e-6)
    assert {row["weight"] for row in rows(tmp_path / "work")} == {None}


@pytest.mark.parametrize("weighting", ["episode", "window"])
@pytest.mark.parametrize("mixed", ["ab", "b"])
def test_tilts_are_those_of_a_plain_loop_over_all_windows(
    study_of: Callable[..., Study], tmp_path: Path, weighting: str, mixed: str
) -> None:
    """Each of a pair: the clean set and one other, with their shares of the pair's windows."""
    study = study_of("datapoint", weighting)
    unreliable = "".join(set("ab") - set(mixed))
    found = write(study, tmp_path, unreliable=unreliable).tilts
    assert list(found) == list(mixed)
    for name in mixed:
        expected = loop_tilt(study, name, by_window=weighting == "window")
        for key, value in expected.items():
            assert getattr(found[name], key) == pytest.approx(value, rel=1e-5), key


def loop_tilt(study: Study, name: str, *, by_window: bool) -> dict[str, float]:
    head = study.head(name)
    assert head is not None
    windows: dict[str, list[list[tuple[float, float, bool]]]] = {}  # by episode: mass, c, usable
    for member in ("clean", name):
        episodes = [scores for _, scores in rescore(study, member, [head], ScoreOptions(DRAWS))]
        windows[member] = [
            [
                (
                    1 / COUNTS[member] if by_window else 1 / (len(episodes) * len(scores.lowest)),
                    float(c),
                    member == "clean" or bool((curve[:, 0] > 0.45).all()),
                )
                for c, curve in zip(scores.lowest[:, head], scores.curves, strict=True)
            ]
            for scores in episodes
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
    write(study, tmp_path, unreliable="a")
    for row in rows(tmp_path):
        if row["dataset"] == "a":
            assert (row["sigma_min"], row["status"]) == (None, "classifier-unreliable")
        elif row["dataset"] == "b":
            assert row["status"] == ("too-short" if row["sigma_min"] is None else "ok")


def test_a_dataset_or_group_has_its_row_from_the_curves_alone(
    study_of: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "score_windows", scored_again)
    for granularity, groups in (("dataset", [None]), ("group", ["x", "y"])):
        work = tmp_path / granularity
        answers = write(study_of(granularity), work, unreliable="a")
        assert not (answers.sigma_min or answers.shares or answers.tilts)
        found = {(row["dataset"], row["group"]): row["status"] for row in rows(work)}
        assert found["a", groups[0]] == "classifier-unreliable"
        assert found["b", groups[0]] == "ok"
        assert set(found) >= {("clean", group) for group in groups}
        if granularity == "group":
            assert found["b", "y"] == "too-few-episodes"


def scored_again(*_: Any, **__: Any) -> None:
    raise AssertionError("scored again")


@pytest.mark.parametrize("granularity", ["episode", "datapoint"])
def test_finished_parts_are_neither_scored_nor_written_again(
    study_of: Callable[..., Study],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    granularity: str,
) -> None:
    study = study_of(granularity)
    first, before = write(study, tmp_path), times(tmp_path)
    monkeypatch.setattr(parts, "score_windows", scored_again)
    again = write(study, tmp_path)
    assert times(tmp_path) == before
    assert (again.shares, again.tilts) == (first.shares, first.tilts)
    assert all(isinstance(tilt, Tilt) for tilt in again.tilts.values())
    for name, found in first.sigma_min.items():
        np.testing.assert_array_equal(again.sigma_min[name], found)


@pytest.mark.parametrize(
    ("lost", "redone"),
    [
        (["manifest/part-00001.parquet"], [1]),
        (["tallies/00001.npz"], [1]),
        (["manifest/part-00002.parquet", "manifest/part-00003.parquet"], [2, 3]),  # c, and clean
        (["tallies/00000.npz", "manifest/part-00003.parquet"], [0, 3]),
    ],
)
def test_a_lost_part_or_tally_is_made_again_to_the_same_bytes_and_no_other(
    study_of: Callable[..., Study], tmp_path: Path, lost: list[str], redone: list[int]
) -> None:
    study = study_of("datapoint")
    first = write(study, tmp_path)
    whole, before = files(tmp_path), times(tmp_path)
    for name in lost:
        (tmp_path / name).unlink()
    half = tmp_path / "manifest" / ".part-00001.parquet.tmp"
    half.write_bytes(b"half")
    again = write(study, tmp_path, workers=2)
    half.unlink(missing_ok=True)
    assert files(tmp_path) == whole
    assert again.tilts == first.tilts
    touched = {name for name, time in times(tmp_path).items() if time != before[name]}
    assert touched == {
        name.format(number)
        for number in redone
        for name in ("manifest/part-{:05d}.parquet", "tallies/{:05d}.npz")
    }


def test_an_interrupted_part_leaves_none_and_is_made_whole_later(
    study_of: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of("datapoint")
    write(study, tmp_path / "plain")
    calls = []

    def interrupt(*arguments: Any, **named: Any) -> Iterator[WindowScores]:
        calls.append(1)
        if len(calls) == 9:  # in the middle of b
            raise KeyboardInterrupt
        return score_windows(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "score_windows", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write(study, tmp_path / "broken")
    assert list(files(tmp_path / "broken")) == ["manifest/part-00000.parquet", "tallies/00000.npz"]
    write(study, tmp_path / "broken", workers=2)
    assert files(tmp_path / "broken") == files(tmp_path / "plain")
