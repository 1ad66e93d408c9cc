"""Probes against classes whose best classifier is known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm
from small_study import make_population, make_study
from small_worker import leave_network

from ambient_curate.analysis import probes
from ambient_curate.analysis.probes import (
    Probe,
    ProbeOptions,
    _summarise,
    label_episodes,
    probe_dataset,
)
from ambient_curate.classifier.fit import FitOptions
from ambient_curate.data.study import Study
from ambient_curate.errors import ConfigError, NotEnoughDataError
from ambient_curate.noise import signal_scale
from ambient_curate.readers.episodes import Episode
from ambient_curate.training import TrainOptions

SPREAD = 0.3
OPTIONS = ProbeOptions(
    of="side",
    levels=8,
    fit=FitOptions(
        folds=3, train=TrainOptions(steps=300), windows=2048, held_out=1024, calibration_rows=256
    ),
)


def make_source(
    folder: Path, sides: dict[str, float], *, episodes: int = 24, frames: int = 24, **labels: object
) -> Study:
    """White actions about a level of each side; `clean` and `sim` hold the same kind."""
    rng = np.random.default_rng(0)

    def episode(number: int, side: str, where: str) -> Episode:
        action = sides[side] + SPREAD * rng.normal(size=(frames, 1))
        told = {"side": side, "who": number % 40} | labels
        return Episode(
            f"{where}{number}", number, action.astype(np.float32), Path(where), labels=told
        )

    sim = [episode(i, side, "sim") for i, side in enumerate(list(sides) * episodes)]
    clean = [episode(i, next(iter(sides)), "clean") for i in range(4)]
    return make_study(folder, {"clean": clean, "sim": sim}, horizon=4, normalize="none")


@pytest.fixture(autouse=True)
def network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "noise_channel", leave_network)


def probe(study: Study, options: ProbeOptions = OPTIONS) -> Probe:
    return probe_dataset("sim", study.frames["sim"], study.windows["sim"], options)


def test_two_sides_are_read_as_well_as_they_can_be(tmp_path: Path, one_thread: None) -> None:
    found = probe(make_source(tmp_path / "f", {"left": -0.15, "right": 0.15}))
    a = signal_scale(found.sigma)
    spread = np.sqrt(a**2 * SPREAD**2 + found.sigma**2)
    best = norm.cdf(a * 0.15 * 2 / spread)  # 4 frames: the distance is 2 x .3
    assert np.abs(found.accuracy - best).max() < 0.04
    assert (found.lower - 0.02 <= best).all() and (found.upper + 0.02 >= best).all()
    assert found.chance == 0.5 and found.episodes == (24, 24)
    assert (
        found.halfway is not None and 0.4 < found.halfway < 0.7 and found.readable >= found.halfway
    )


def test_three_sides_are_told_apart(tmp_path: Path, one_thread: None) -> None:
    found = probe(make_source(tmp_path / "f", {"a": -2.0, "b": 0.0, "c": 2.0}))
    assert found.accuracy[0] > 0.97 and found.lower[0] < 1.0
    assert found.chance == pytest.approx(1 / 3)
    assert abs(found.accuracy[-1] - found.chance) < 0.15


def test_sides_that_do_not_differ_are_not_read(tmp_path: Path, one_thread: None) -> None:
    found = probe(make_source(tmp_path / "f", {"left": 0.0, "right": 0.0}))
    assert (found.lower <= 0.5).all() and (found.upper >= 0.5).all()
    assert found.readable == 0.0 and found.halfway is None


def test_few_classes_and_unknown_columns_are_refused(tmp_path: Path) -> None:
    study = make_source(tmp_path / "f", {"left": 0.0, "right": 1.0}, episodes=6)
    with pytest.raises(NotEnoughDataError, match=r"task of sim has 0 classes"):
        probe(study, replace(OPTIONS, of="task"))
    with pytest.raises(ConfigError, match="no episode has a column 'colour'"):
        probe(study, replace(OPTIONS, of="colour"))


def test_a_number_of_many_values_is_cut_at_its_quartiles(tmp_path: Path) -> None:
    study = make_source(tmp_path / "f", {"left": 0.0, "right": 1.0}, episodes=40)
    labels = label_episodes("sim", study.frames["sim"], study.windows["sim"], "who", seed=0)
    assert sorted(set(labels)) == ["<= 9.75", "> 29.25", "to 19.5", "to 29.25"]
    assert {labels.count(label) for label in labels} == {20}


def test_without_a_column_the_goal_is_where_an_episode_ends(tmp_path: Path) -> None:
    study = make_source(tmp_path / "f", {"a": 0.0, "b": 5.0, "c": 10.0, "d": 15.0}, episodes=6)
    labels = label_episodes("sim", study.frames["sim"], study.windows["sim"], "goal", seed=0)
    assert [len(set(labels[i::4])) for i in range(4)] == [1, 1, 1, 1]
    assert len(set(labels)) == 4


def test_a_probe_is_read_back_as_it_was_written() -> None:
    levels = np.array([0.1, 0.5, 0.9])
    values = np.array([0.9, 0.7, 0.4])
    there = Probe("a", "task", ("x", "y"), (3, 4), {"z": 1}, levels, values, values - 0.1, values)
    back = Probe.from_dict(there.as_dict())
    assert back.as_dict() == there.as_dict()
    assert (there.readable, there.halfway) == (0.5, 0.9)


REPEATS = 2000
LAWS: dict[str, tuple[float, Callable[..., np.ndarray]]] = {
    "even": (0.5, lambda rng, shape: rng.beta(2, 2, shape)),
    "skewed": (8 / 9, lambda rng, shape: rng.beta(8, 1, shape)),
    "at the ends": (0.5, lambda rng, shape: rng.beta(0.5, 0.5, shape)),
    "right or wrong": (0.7, lambda rng, shape: 1.0 * (rng.random(shape) < 0.7)),
    "hardly wrong": (0.95, lambda rng, shape: 1.0 * (rng.random(shape) < 0.95)),
}


@pytest.mark.parametrize("episodes", [(5, 5), (5, 50), (50, 50), (9, 9, 9, 9), (200, 200)])
@pytest.mark.parametrize("law", LAWS)
def test_intervals_cover_given_the_networks(episodes: tuple[int, ...], law: str) -> None:
    """Shares of an episode's windows that are named rightly; each level is a repetition."""
    mean, draw = LAWS[law]
    rng = np.random.default_rng(len(law))
    some = make_population("set", [np.zeros((4, 1))], [0])
    populations = [replace(some, group=str(number)) for number in range(len(episodes))]
    scores = [list(draw(rng, (n, REPEATS))) for n in episodes]
    found = _summarise("set", "side", populations, {}, np.arange(REPEATS) / REPEATS, scores)
    share = float(np.mean((found.lower <= mean) & (mean <= found.upper)))
    assert share >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / REPEATS)
