"""Parts as files: the same for any split of the work, written once, and whole or not at all."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_study import (
    LENGTHS,
    carry_out,
    files,
    make_episodes,
    make_jobs,
    make_plan,
    make_study,
    make_tepid,
    read_rows,
    times,
    write_parts,
)

from ambient_curate.annotation import part_writer, shards
from ambient_curate.annotation import shards as annotation_shards
from ambient_curate.annotation.part_writer import RowTotals, part_path, sums_path
from ambient_curate.annotation.shards import plan_shards
from ambient_curate.annotation.tasks import PLAN, plan_parts
from ambient_curate.data.study import Study
from ambient_curate.run.tables import read_manifest

pytestmark = pytest.mark.usefixtures("one_thread")
VALUES = ("sigma_min", "sigma_min_lower", "sigma_min_upper", "weight", "p_clean")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of at most ten windows."""
    monkeypatch.setattr(shards, "MOST_WINDOWS", 10)


@pytest.fixture(scope="module")
def study_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Study]:
    """Members a and b, whose episodes come in an order of their own, and c that has too few."""

    @cache
    def make(granularity: str) -> Study:
        members = {name: make_episodes(name, (*LENGTHS, 2, 40)) for name in ("clean", "a", "b")}
        members["b"] = members["b"][::-1]
        members["c"] = make_episodes("c", (6, 6))
        folder = tmp_path_factory.mktemp("frames")
        return make_study(folder, members, granularity=granularity, store_curves=True)

    return make


def write(study: Study, work: Path, index: int = 0, count: int = 1) -> RowTotals:
    return write_parts(study, work, make_plan(study, "b"), make_tepid(study), index, count)


def sums_of(answers: RowTotals) -> dict[str, list[Any]]:
    return {
        name: [sums.counts.tolist(), sums.nulls, sums.banned] for name, sums in answers.sums.items()
    }


@pytest.mark.parametrize("granularity", ["episode", "datapoint"])
def test_parts_are_the_same_bytes_for_any_split_of_the_work(
    study_of: Callable[[str], Study], tmp_path: Path, granularity: str
) -> None:
    """In one go; by two jobs, the last first; part by part, by a process each, backwards."""
    study = study_of(granularity)
    first = write(study, tmp_path / "one")
    whole = files(tmp_path / "one")
    assert len(whole) == 2 * len(plan_shards(study)) + 1 > 20
    assert write(study, tmp_path / "two", 1, 2).sums == {}
    second = write(study, tmp_path / "two", 0, 2)
    many = tmp_path / "many"
    many.mkdir()
    make_plan(study, "b").save(many / PLAN)
    plan_parts(study, many)
    for shard in reversed(plan_shards(study)):
        carry_out(make_jobs(study, many, make_tepid(study)), [f"write {shard.number}"])
    assert files(tmp_path / "two") == files(many) == whole
    assert sums_of(first) == sums_of(second)
    assert (first.shares, first.tilts) == (second.shares, second.tilts)


@pytest.mark.parametrize("granularity", ["episode", "datapoint"])
def test_many_parts_hold_the_rows_of_one_a_member(
    study_of: Callable[[str], Study],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    granularity: str,
) -> None:
    study = study_of(granularity)
    many = write(study, tmp_path / "many")
    monkeypatch.setattr(shards, "MOST_WINDOWS", 10**9)
    monkeypatch.setattr(annotation_shards, "CHUNK", 10**9)
    few = write(study, tmp_path / "few")
    assert len(list((tmp_path / "few" / "manifest").iterdir())) == 4
    (tmp_path / "many" / "run.json").touch()  # as of a finished run
    table = read_manifest(tmp_path / "many")
    assert table.to_pylist() == read_rows(tmp_path / "many")
    for row, other in zip(table.to_pylist(), read_rows(tmp_path / "few"), strict=True):
        for name in row:
            if name in VALUES and row[name] is not None:
                # to what a network's rounding differs by in a larger batch
                np.testing.assert_allclose(row[name], other[name], rtol=1e-4, atol=1e-6)
            else:
                assert row[name] == other[name]
    for name, sums in many.sums.items():
        assert (sums.rows, sums.nulls) == (few.sums[name].rows, few.sums[name].nulls)
        assert sums.quantile(0.5) == pytest.approx(few.sums[name].quantile(0.5), abs=2e-4)
    for name, tilt in many.tilts.items():
        for key, value in vars(tilt).items():
            assert getattr(few.tilts[name], key) == pytest.approx(value, rel=1e-5), key


def fail(*_: Any, **__: Any) -> None:
    raise AssertionError("scored again")


@pytest.mark.parametrize("granularity", ["episode", "datapoint"])
def test_finished_parts_are_neither_scored_nor_written_again(
    study_of: Callable[[str], Study],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    granularity: str,
) -> None:
    study = study_of(granularity)
    first = write(study, tmp_path)
    before = times(tmp_path)
    assert plan_parts(study, tmp_path).tasks == []
    assert plan_parts(study, tmp_path).totals == {}
    for name in ("draw_curves", "draw_lowest", "write_part", "save_sums"):
        monkeypatch.setattr(part_writer, name, fail)
    again = write(study, tmp_path)
    assert {k: v for k, v in times(tmp_path).items() if k != PLAN} == {
        k: v for k, v in before.items() if k != PLAN
    }
    assert sums_of(again) == sums_of(first)
    assert (again.shares, again.tilts) == (first.shares, first.tilts)


@pytest.mark.parametrize("lost", ["part", "sums", "both"])
def test_a_lost_part_or_its_sums_are_made_again_to_the_same_bytes_and_no_other(
    study_of: Callable[[str], Study], tmp_path: Path, lost: str
) -> None:
    study = study_of("datapoint")
    first = write(study, tmp_path)
    whole, before = files(tmp_path), times(tmp_path)
    last = plan_shards(study)[-1].number  # of the clean set
    paths = [path(tmp_path, n) for n in (3, last) for path in (part_path, sums_path)]
    for path in paths[:: 1 if lost == "both" else 2] if lost != "sums" else paths[1::2]:
        path.unlink()
    part_path(tmp_path, 3).with_name(".part-00003.parquet.tmp").write_bytes(b"half")
    assert plan_parts(study, tmp_path).tasks == ["write 3", f"write {last}"]
    again = write(study, tmp_path)
    part_path(tmp_path, 3).with_name(".part-00003.parquet.tmp").unlink(missing_ok=True)
    assert files(tmp_path) == whole
    assert again.tilts == first.tilts
    touched = {name for name, time in times(tmp_path).items() if time != before[name]}
    assert touched == {PLAN, *(str(path.relative_to(tmp_path)) for path in paths)}


@pytest.mark.parametrize("broken", ["draw_curves", "save_sums", "write_part"])
def test_an_interrupted_part_leaves_none_and_is_made_whole_later(
    study_of: Callable[[str], Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The second of a; sums without their part are not taken for one."""
    study = study_of("datapoint")
    write(study, tmp_path / "plain")
    work = getattr(part_writer, broken)

    def interrupt(*arguments: Any, **named: Any) -> Any:
        if plan_parts(study, tmp_path / "broken").tasks[0] == "write 1":
            raise KeyboardInterrupt
        return work(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(part_writer, broken, interrupt)
        with pytest.raises(KeyboardInterrupt):
            write(study, tmp_path / "broken")
    left = set(files(tmp_path / "broken")) - {PLAN}
    half = {"sums/00001.npz"} if broken == "write_part" else set()
    assert left == {"manifest/part-00000.parquet", "sums/00000.npz"} | half
    write(study, tmp_path / "broken")
    assert files(tmp_path / "broken") == files(tmp_path / "plain")
