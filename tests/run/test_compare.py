"""Comparison: against rows matched one by one in plain Python, and what each difference shows."""

import json
import shutil
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import check_failure, run_command
from small_run import annotate_small, write_collection
from small_worker import make_small

from ambient_curate.files import write_json_atomic
from ambient_curate.run.compare import MOVED, Comparison, compare_runs
from ambient_curate.run.records import Run, open_run_results


@pytest.fixture(scope="module")
def made(
    place_small: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Runs of one collection: of windows, of another epsilon, of episodes; and of other data."""
    folder = tmp_path_factory.mktemp("comparison")
    place_small(folder, "windows", granularity="datapoint")
    place_small(folder, "episodes", granularity="episode")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch.setattr)
        annotate_small(folder / "set", folder / "wider", granularity="datapoint", epsilon=0.2)
        other = write_collection(folder / "other")
        (other / "far").rename(other / "away")
        file = other / "jitter" / "data.parquet"
        table = pq.read_table(file)
        pq.write_table(table.slice(10), file, write_page_checksum=True)  # without its first episode
        annotate_small(other, folder / "others", granularity="datapoint")
        yield folder


def rows_of(run: Path) -> dict[tuple[str, str, int], float | None]:
    rows = open_run_results(run).manifest().to_pylist()
    return {(r["dataset"], r["episode_id"], r["start"]): r["sigma_min"] for r in rows}


def check_rows(found: Comparison) -> None:
    """Compare with rows that are matched one by one."""
    a, b = (rows_of(path) for path in found.paths)
    moved: list[tuple[float, tuple[str, str, int]]] = []
    assert [each.dataset for each in found.rows] == sorted({key[0] for key in {**a, **b}})
    for each in found.rows:
        one, other = ({k: v for k, v in rows.items() if k[0] == each.dataset} for rows in (a, b))
        both = one.keys() & other.keys()
        counts = (len(both), len(one.keys() - other), len(other.keys() - one))
        assert (each.both, each.only_a, each.only_b) == counts
        known = [k for k in both if one[k] is not None and other[k] is not None]
        assert each.lost == sum(one[k] is not None and other[k] is None for k in both)
        assert each.gained == sum(one[k] is None and other[k] is not None for k in both)
        sizes = [abs(one[k] - other[k]) for k in known]  # type: ignore[operator]
        moved += zip(sizes, known, strict=True)
        if sizes:
            assert each.moved == pytest.approx(sum(s > MOVED for s in sizes) / len(sizes))
            assert each.median == statistics.median(sizes)
            assert each.largest == max(sizes)
        else:
            assert (each.moved, each.median, each.largest) == (None, None, None)
    expected = sorted(((size, key) for size, key in moved if size), key=lambda p: (-p[0], p[1]))
    listed = [(abs(r.b - r.a), (r.dataset, r.episode_id, r.start)) for r in found.most_moved]
    assert listed == expected[: len(listed)] and len(listed) == min(10, len(expected))
    assert all(
        (r.a, r.b) == (a[key], b[key]) for r, (_, key) in zip(found.most_moved, listed, strict=True)
    )


@pytest.mark.parametrize("name", ["windows", "episodes"])
def test_a_run_is_identical_to_itself(made: Path, name: str) -> None:
    found = compare_runs(made / name, open_run_results(made / name))
    assert found.identical and found.as_dict()["identical"]
    assert found.differences == found.most_moved == found.other_files == ()
    assert {pair.same_actions for pair in found.verdict} == {True}


def test_another_epsilon_moves_every_sigma_min_that_can(made: Path) -> None:
    found = compare_runs(made / "windows", made / "wider")
    (difference,) = found.differences
    assert (difference.name, difference.a, difference.b) == ("options.epsilon", "0.05", "0.2")
    check_rows(found)
    assert not found.identical
    assert all(each.only_a == each.only_b == 0 for each in found.rows)
    assert sum(each.moved or 0 for each in found.rows) > 0
    for pair in found.verdict:
        assert pair.same_actions and pair.moved is not None and pair.moved <= 0  # more is usable
        assert pair.moved == pair.sigma_min[1] - pair.sigma_min[0]  # type: ignore[operator]


def test_other_data_is_told_by_file_and_by_its_rows(made: Path) -> None:
    found = compare_runs(made / "windows", made / "others")
    check_rows(found)
    names = {difference.name for difference in found.differences}
    assert "sources.jitter.files.data.parquet" in names
    assert {name for name in names if name.startswith("sources.far")}
    rows = {each.dataset: each for each in found.rows}
    assert (rows["far"].only_a, rows["away"].only_b) == (36, 36)
    assert rows["jitter"].only_a == 7 and rows["jitter"].only_b == 0
    pairs = {pair.dataset: pair for pair in found.verdict}
    assert pairs["clean"].same_actions is True
    assert pairs["jitter"].same_actions is False
    assert pairs["far"].same_actions is None and pairs["far"].sigma_min[1] is None


def test_of_another_granularity_only_whole_datasets_are_compared(made: Path) -> None:
    found = compare_runs(made / "windows", made / "episodes")
    assert found.granularity == ("datapoint", "episode")
    assert found.rows == found.most_moved == ()
    assert [pair.dataset for pair in found.verdict] == ["clean", "far", "jitter"]
    code, stdout, _ = run_command("diff", str(made / "windows"), str(made / "episodes"))
    assert code == 0
    text = "rows are not compared: in A they are of granularity datapoint, in B of episode\n"
    assert text in stdout


def test_rows_with_an_answer_in_one_run_only_are_counted_apart(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "windows", tmp_path / "lost")
    for part in sorted((tmp_path / "lost" / "manifest").glob("*.parquet")):
        table = pq.read_table(part)
        rows = table.to_pylist()
        for row in rows:
            if row["dataset"] == "far" and row["start"] == 2:
                row |= dict.fromkeys(("sigma_min", "sigma_min_lower", "sigma_min_upper"))
                row |= {"sigma_max": None, "status": "non-finite"}
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), part)
    found = compare_runs(made / "windows", tmp_path / "lost")
    check_rows(found)
    assert {each.dataset: (each.lost, each.gained) for each in found.rows}["far"] == (6, 0)
    assert not found.identical
    back = compare_runs(tmp_path / "lost", made / "windows")
    assert {each.dataset: (each.lost, each.gained) for each in back.rows}["far"] == (0, 6)


def test_the_fewest_rows_are_listed_that_are_asked_for(made: Path) -> None:
    ten = compare_runs(made / "windows", made / "wider")
    three = compare_runs(made / "windows", made / "wider", most=3)
    assert three.most_moved == ten.most_moved[:3]
    none = compare_runs(made / "windows", made / "wider", most=0)
    assert none.most_moved == () and none.rows == ten.rows and not none.identical


def test_the_command_says_what_differs_and_ends_with_0(made: Path) -> None:
    same = run_command("diff", str(made / "windows"), str(made / "windows"))
    assert same == (0, "identical: the same inputs and the same results\n", "")
    code, stdout, stderr = run_command("diff", str(made / "windows"), str(made / "wider"))
    assert (code, stderr) == (0, "")
    assert stdout.startswith("options.epsilon: 0.05 -> 0.2\n")
    assert [line for line in stdout.splitlines() if line.startswith(("whole", "rows"))] == [
        "whole datasets",
        "rows; moved: by more than 0.01",
        "rows that moved most",
    ]
    options = ("--rows", "2", "--format", "json")
    code, stdout, _ = run_command("diff", str(made / "windows"), str(made / "wider"), *options)
    found: dict[str, Any] = json.loads(stdout)
    assert code == 0 and not found["identical"] and len(found["most_moved"]) == 2
    assert np.isfinite([row["moved"] for row in found["verdict"]]).all()


def test_no_run_and_a_run_of_an_earlier_version(made: Path, tmp_path: Path) -> None:
    check_failure(run_command("diff", str(made / "windows"), str(tmp_path)), "is no run")
    shutil.copytree(made / "windows", tmp_path / "old")
    record = json.loads((tmp_path / "old" / "run.json").read_text())
    record = {key: value for key, value in record.items() if key not in ("files", "seal")}
    for member in record["members"].values():
        del member["actions_sha256"]
    write_json_atomic(tmp_path / "old" / "run.json", record)
    found = compare_runs(tmp_path / "old", made / "windows")
    assert found.identical
    assert {pair.same_actions for pair in found.verdict} == {None}
