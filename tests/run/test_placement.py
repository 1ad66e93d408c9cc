"""Placement: every window finds its row, whatever a row speaks for."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ambient_curate.data.study import prepare_study
from ambient_curate.progress import silent
from ambient_curate.run.records import Run
from ambient_curate.run.source_data import annotated_options, place_values, reopen_data

OPTIONS = {
    "dataset": {},
    "group": {"group_by": "task"},
    "episode": {},
    "datapoint": {"stride": 2},
}


@pytest.fixture(scope="module", params=list(OPTIONS))
def made(
    request: pytest.FixtureRequest,
    place_small: Callable[..., Run],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    folder = tmp_path_factory.mktemp("placement")
    return place_small(folder, granularity=request.param, **OPTIONS[request.param])


def test_every_window_has_the_value_of_the_row_that_speaks_for_it(
    made: Run, tmp_path: Path
) -> None:
    study = prepare_study(reopen_data(made), annotated_options(made), tmp_path / "f", silent)
    manifest = made.manifest()
    marked = np.arange(len(manifest), dtype=np.float64)  # a value that names the row
    place = manifest.column_names.index("weight")
    manifest = manifest.set_column(place, "weight", [marked])
    rows = manifest.to_pylist()
    for name, frames in study.frames.items():
        episodes = np.arange(frames.n_episodes)[::-1]
        found = iter(place_values(study, manifest, name, episodes, ["weight"])["weight"])
        for episode in episodes.tolist():
            for number in range(int(study.windows[name].counts[episode])):
                row = rows[int(next(found))]
                assert row["dataset"] == name
                assert row["episode_id"] in (None, frames.ids[episode])
                clean = name == study.clean.dataset  # all of its rows say the same
                assert clean or row["group"] in (None, frames.task[episode])
                assert row["start"] in (None, number * study.windows[name].stride)
        assert next(found, None) is None


def test_a_window_without_a_row_has_no_value(made: Run, tmp_path: Path) -> None:
    study = prepare_study(reopen_data(made), annotated_options(made), tmp_path / "f", silent)
    manifest = made.manifest()
    found = place_values(study, manifest.slice(0, 0), "far", np.arange(6), ["sigma_min"])
    assert len(found["sigma_min"]) == study.windows["far"].counts[:6].sum() > 0
    assert np.isnan(found["sigma_min"]).all()
