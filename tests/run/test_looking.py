"""Looking: an episode's own rows and data, and what to do where there is none."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ambient_curate.errors import RunError
from ambient_curate.report.figures import save_run_figure
from ambient_curate.run.records import Run, open_run_results
from ambient_curate.run.source_data import look_up


@pytest.fixture(scope="module")
def run(place_small: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("looking")
    return place_small(folder, granularity="datapoint", store_curves=True)


def test_rows_and_data_are_those_of_the_episode(run: Run) -> None:
    rows = run.manifest().to_pandas()
    wanted = rows[(rows.dataset == "jitter") & (rows.episode_index == 3)]
    found = look_up(run, "jitter", wanted.episode_id.iloc[0])
    assert found.rows["sigma_min"].to_pylist() == wanted.sigma_min.tolist()
    assert found.episode is not None
    table = pq.read_table(run.path.parent / "set/jitter/data.parquet").to_pandas()
    expected = np.stack(table[table.episode_index == 3].action)
    np.testing.assert_allclose(found.episode.action, expected, rtol=1e-6)
    first = look_up(run, "", "")
    assert first.rows["dataset"][0].as_py() == "far" and first.rows["episode_index"][0].as_py() == 0


def test_what_is_not_there_is_told_with_what_is(run: Run) -> None:
    with pytest.raises(RunError, match="no dataset 'x'") as caught:
        look_up(run, "x", "")
    assert "jitter" in str(caught.value.hint)
    with pytest.raises(RunError, match="far has no episode '77'"):
        look_up(run, "far", "77")


def test_without_the_data_the_rows_are_left(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "a/run")
    alone = open_run_results(tmp_path / "a/run")
    found = look_up(alone, "far", "")
    assert found.episode is None and found.rows.num_rows == 6
    with pytest.raises(RunError, match="is not there"):
        look_up(alone, "far", "", tmp_path / "nowhere")
    there = look_up(alone, "far", "", run.path.parent / "set").episode
    known = look_up(run, "far", "").episode
    assert there is not None and known is not None
    np.testing.assert_array_equal(there.action, known.action)
    for each, size in ((alone, 30_000), (run, 50_000)):
        path = save_run_figure(each, "episode", tmp_path / "e.png", dataset="far")
        assert path.stat().st_size > size


def test_a_run_of_whole_datasets_has_no_episodes(
    place_small: Callable[..., Run], tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="whole datasets or groups") as caught:
        look_up(place_small(tmp_path), "", "")
    assert "--granularity" in str(caught.value.hint)
