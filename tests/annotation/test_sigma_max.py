"""Locality through the whole path: sigma_max of all that is annotated, the same each time."""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from planted_bits import draw_bits
from small_worker import leave_network

from ambient_curate.annotation import tasks
from ambient_curate.annotation.annotate import annotate, annotate_share, merge
from ambient_curate.annotation.sigma_max import list_reaches, wiener_field
from ambient_curate.classifier.fit import FitOptions
from ambient_curate.noise import grid, schedule_levels
from ambient_curate.run.records import Run
from ambient_curate.statistics import boosting
from ambient_curate.training import TrainOptions

HORIZON, PERIOD = 6, 3
SCHEDULE = "squaredcos_cap_v2:20"


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Signs that repeat, others that flip three frames later, smaller ones, and the same again."""
    root, rng = tmp_path_factory.mktemp("bits") / "set", np.random.default_rng(0)
    sets = {
        "clean": draw_bits(rng, 60, 24, 0.95, PERIOD),
        "far": draw_bits(rng, 60, 24, 0.05, PERIOD),
        "frame": [0.5 * each for each in draw_bits(rng, 30, 24, 0.95, PERIOD)],
        "same": draw_bits(rng, 60, 24, 0.95, PERIOD),
    }
    for name, episodes in sets.items():
        (root / name).mkdir(parents=True)
        for number, episode in enumerate(episodes):
            smooth = episode + np.linspace(0, 1e-3, 24)[:, None]  # every value differs
            np.savez(root / name / f"{number:03d}.npz", action=smooth.astype(np.float32))
    return root


def make_small(steps: int) -> functools.partial[FitOptions]:
    train = TrainOptions(steps=steps, warm_up=10)
    rows = {"windows": 40 * steps, "held_out": 512, "calibration_rows": 128}
    return functools.partial(FitOptions, train=train, **rows)


@pytest.fixture(autouse=True)
def quick_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit next to nothing, a network alone: most of these tests are about the path."""
    monkeypatch.setattr(tasks, "FitOptions", make_small(20))
    monkeypatch.setattr(tasks, "noise_channel", leave_network)
    monkeypatch.setattr(boosting, "TREES", (3, 4))


@pytest.fixture(scope="module")
def found(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "FitOptions", make_small(100))
        patch.setattr(tasks, "noise_channel", leave_network)
        return run(collection, tmp_path_factory.mktemp("found") / "run")


def run(collection: Path, out: Path, **options: object) -> Run:
    given = {"horizon": HORIZON, "folds": 3, "workers": 1, "locality": True, "schedule": SCHEDULE}
    return annotate(collection, out=out, **given | options)


def test_planted_radii_are_found(found: Run) -> None:
    said = {each["dataset"]: each for each in found.info["locality"]}
    assert {name: each["radius"] for name, each in said.items()} == {
        "far": 1,
        "frame": -1,
        "same": HORIZON - 1,
    }
    rows = {row["dataset"]: row for row in found.manifest().to_pylist()}
    assert rows["frame"]["sigma_max"] == 0.0
    assert (rows["same"]["sigma_min"], rows["same"]["sigma_max"]) == (0.0, 0.0)  # may do all
    assert said["same"]["sigma_max"] == 1.0
    assert rows["far"]["sigma_max"] == said["far"]["sigma_max"] == said["far"]["reaches"][1]
    assert 0.0 < rows["far"]["sigma_max"] < rows["far"]["sigma_min"]
    verdict = {row["dataset"]: row for row in found.info["verdict"]}
    levels = schedule_levels(SCHEDULE)
    usable = (levels <= rows["far"]["sigma_max"]) | (levels > rows["far"]["sigma_min"])
    assert verdict["far"]["usable"] == pytest.approx(usable.mean())
    assert verdict["far"]["sigma_max"] == rows["far"]["sigma_max"]
    for each in said.values():
        assert each["sigma_max_lower"] <= each["sigma_max"] <= each["sigma_max_upper"]
        assert each["radius"] <= each["radius_bracket"]
        lower = np.array(each["delta_lower"])
        assert (lower <= np.array(each["delta"]) + 1e-6).all()


def test_reaches_are_those_of_the_wider_field(collection: Path, found: Run) -> None:
    sigma, scale = np.array(found.info["grid"]), found.info["normaliser"]
    assert (sigma == grid(SCHEDULE)).all()

    def field(name: str) -> np.ndarray:
        rows = []
        for file in sorted((collection / name).glob("*.npz")):
            values = (np.load(file)["action"][:, 0] - scale["offset"][0]) * scale["scale"][0]
            rows.append(np.lib.stride_tricks.sliding_window_view(values, HORIZON))
        return wiener_field(np.cov(np.concatenate(rows).T), HORIZON, sigma)

    for each in found.info["locality"]:
        widest = np.maximum(field("clean"), field(each["dataset"]))
        expected = list_reaches(widest, HORIZON, sigma)
        # windows are drawn, not all taken: a level or two to either side
        np.testing.assert_allclose(each["reaches"], expected, atol=0.05)


@pytest.mark.parametrize(
    "granularity",
    [*(pytest.param(each, marks=pytest.mark.slow) for each in ("group", "episode")), "datapoint"],
)
def test_every_granularity_has_a_sigma_max(
    collection: Path, tmp_path: Path, granularity: str
) -> None:
    options = {"granularity": granularity, "group_by": "cluster:2", "limit": 12}
    found = run(collection, tmp_path / "run", **options)
    rows = found.manifest().to_pandas()
    assert not rows.sigma_max.isna()[rows.status == "ok"].any()
    mean = rows[rows.status == "ok"].groupby("dataset").sigma_max.mean()
    assert mean["clean"] == 0.0 and mean.get("frame", 0.0) == 0.0
    reaches = {each["dataset"]: each["reaches"] for each in found.info["locality"]}
    for name in ("far", "same"):
        told = set(rows[rows.dataset == name].sigma_max.dropna())
        assert told <= {0.0, *(reaches[name] if granularity != "group" else told)}


@pytest.mark.slow  # test_annotation.py and test_hidden_by_noise.py do the same without crops
def test_shares_and_workers_write_the_same_bytes(collection: Path, tmp_path: Path) -> None:
    given = {"granularity": "datapoint", "limit": 6}
    run(collection, tmp_path / "whole", **given)
    options = {"horizon": HORIZON, "folds": 3, "locality": True, "schedule": SCHEDULE, **given}
    for index in range(2):
        annotate_share(
            collection,
            out=tmp_path / "shares",
            shard_index=index,
            num_shards=2,
            workers=1,
            **options,
        )
    merge(tmp_path / "shares")

    def digest(place: Path) -> list[str]:
        return [
            hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted((place / "manifest").iterdir())
        ]

    assert digest(tmp_path / "whole") == digest(tmp_path / "shares")


def test_without_locality_nothing_is_said(place_small: Callable[..., Run], tmp_path: Path) -> None:
    found = place_small(tmp_path)
    assert found.info["locality"] == []
    assert {row["sigma_max"] for row in found.info["verdict"]} == {0.0}
    table = pq.read_table(tmp_path / "run" / "manifest")
    assert set(table["sigma_max"].to_pylist()) == {0.0}
