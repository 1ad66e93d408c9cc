"""Which way round a wall: routes are named rightly, and both probes are made."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("pydrake", reason="the extra maze is not installed")
pytest.importorskip("ompl", reason="the extra maze is not installed")

from ambient_curate.analysis.probes import ProbeOptions
from ambient_curate.analysis.survey import read_probes, survey_probes
from ambient_curate.classifier.fit import FitOptions
from ambient_curate.training import TrainOptions
from examples.maze import routes
from examples.maze.routes import MAZE, WALL_X, WALL_Y, cut_path, main, name_route


def walk(*corners: tuple[float, float]) -> np.ndarray:
    parts = [np.linspace(a, b, 10, endpoint=False) for a, b in pairwise(corners)]
    return np.concatenate([*parts, [corners[-1]]])


def test_the_wall_stands_alone_in_the_maze() -> None:
    middle = np.array([[x, WALL_Y] for x in np.linspace(*WALL_X, 21)])
    assert not MAZE.is_free(middle).any()
    beside = np.array([[WALL_X[0] - 0.5, WALL_Y], [WALL_X[1] + 0.5, WALL_Y]])
    assert MAZE.is_free(beside).all()


def test_routes_are_named_by_the_end_they_go_round() -> None:
    left = walk((2.5, 0.5), (1.5, 0.5), (0.5, 0.5), (0.5, 1.5), (1.5, 1.5))
    right = walk((1.5, 0.5), (3.5, 0.5), (3.5, 1.5), (1.5, 1.5))
    assert (name_route(left), name_route(right)) == ("left", "right")
    assert name_route(walk((1.5, 0.5), (4.5, 0.5), (4.5, 1.5))) is None  # far from the wall
    assert name_route(np.concatenate([left, left[::-1]])) is None  # there and back
    cut = cut_path(left)
    assert (cut[:, 1] <= WALL_Y).all() and len(cut) == 26


@pytest.mark.slow
def test_both_probes_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = FitOptions(train=TrainOptions(steps=100), windows=2048, held_out=512)
    options = ProbeOptions(levels=6, most_windows=8, fit=fit)
    monkeypatch.setattr(routes, "survey_probes", partial(survey_probes, options=options))
    main(["--out", str(tmp_path / "out"), "--quick"])
    table = pq.read_table(tmp_path / "out/data/rrt/data.parquet").to_pandas()
    paths = table.groupby("episode_index")
    assert set(paths.route.first()) == {"left", "right"}
    heading = paths.action_0.last() - paths.action_0.first()
    assert ((heading > 0) == (paths.route.first() == "right")).mean() > 0.9
    found = {
        (probe.dataset, probe.of): probe for probe in read_probes(tmp_path / "out/probes.json")
    }
    assert ("data", "dataset") in found
    assert found["rrt", "route"].accuracy[0] > 0.8
    assert "| rrt | route |" in capsys.readouterr().out
    assert (tmp_path / "out/routes.png").stat().st_size > 10_000
