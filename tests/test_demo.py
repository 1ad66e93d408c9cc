"""The demo's faults are what they claim to be, and their spectra predict the order of sigma_min."""

import math
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ambient_curate import demo
from ambient_curate.collection import open_collection, read_episodes
from ambient_curate.demo import RATE_HZ, TREMOR_HZ, TREMOR_M, make_demo, run_demo
from ambient_curate.errors import ConfigError
from ambient_curate.progress import SilentProgress

HORIZON = 16
THRESHOLD = 0.2  # Delta at epsilon = 0.05
FAULTS = ("tremor", "coarse", "lag", "shifted")  # by rising sigma_min


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("demo") / "data")


def windows(data: Path, name: str) -> np.ndarray:
    """Windows of a dataset minus their first frame, scaled as the clean range to [-1, 1]."""
    return (_relative(data, name) * scale(data)).reshape(-1, 2 * HORIZON)


def scale(data: Path) -> np.ndarray:
    return 2 / np.ptp(_relative(data, "clean"), axis=(0, 1))


@cache
def _relative(data: Path, name: str) -> np.ndarray:
    with np.load(data / f"{name}.npz", allow_pickle=False) as file:
        episodes = np.split(file["action"].astype(np.float64), file["episode_ends"][:-1])
    whole = [episode for episode in episodes if len(episode) >= HORIZON]
    views = [np.lib.stride_tricks.sliding_window_view(e, HORIZON, axis=0) for e in whole]
    stacked = np.concatenate(views).transpose(0, 2, 1)
    return stacked - stacked[:, :1]


def gaussian_sigma_min(p: tuple, q: tuple, seed: int = 0) -> float:
    """sigma_min between two Gaussians (mean, covariance), Delta by Monte Carlo under q."""
    z = np.random.default_rng(seed).normal(size=(4000, len(p[0])))

    def delta(noise: float) -> float:
        factors = [np.linalg.cholesky(C + noise**2 * np.eye(len(C))) for _, C in (p, q)]
        x = q[0] + z @ factors[1].T
        logs = [
            -0.5 * (np.linalg.solve(L, (x - mean).T) ** 2).sum(axis=0) - np.log(np.diag(L)).sum()
            for L, (mean, _) in zip(factors, (p, q), strict=True)
        ]
        return float(2 - 4 * np.mean(1 / (1 + np.exp(np.clip(logs[1] - logs[0], -500, 500)))))

    low, high = math.log(0.003), math.log(20)
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if delta(math.exp(middle)) > THRESHOLD else (low, middle)
    noise = math.exp(low)
    return noise / math.hypot(1, noise)


def spectral_sigma_min(data: Path, name: str) -> float:
    """What mean and covariance alone, the spectrum of the windows, say."""
    moments = [(w.mean(0), np.cov(w.T)) for w in (windows(data, "clean"), windows(data, name))]
    return gaussian_sigma_min(*moments)


def tremor_covariance(data: Path) -> np.ndarray:
    """Covariance of the tremor in a scaled relative window, from its autocovariance."""
    low, high = TREMOR_HZ
    lag_s = np.subtract.outer(np.arange(HORIZON), np.arange(HORIZON)) / RATE_HZ
    stationary = (high * np.sinc(2 * high * lag_s) - low * np.sinc(2 * low * lag_s)) / (high - low)
    minus_first = np.eye(HORIZON)
    minus_first[:, 0] -= 1
    relative = TREMOR_M**2 * minus_first @ stationary @ minus_first.T
    return np.kron(relative, np.diag(scale(data) ** 2))


def tremor_limits(data: Path) -> tuple[float, float]:
    """Limits of the true sigma_min of the tremor, from the two ways to use the clean motion.

    A judge who knows it sees the tremor alone: no one can do better. A judge who looks only where
    clean motion has next to no power sees it alone in those directions: the best does no worse.
    """
    tremor, clean = tremor_covariance(data), windows(data, "clean")
    power, directions = np.linalg.eigh(clean.T @ clean / len(clean))
    quiet = directions[:, power < 0.0015**2]
    limits = []
    for seen in (quiet, np.eye(2 * HORIZON)):
        zero, covariance = np.zeros(seen.shape[1]), seen.T @ tremor @ seen
        limits.append(gaussian_sigma_min((zero, 0 * covariance), (zero, covariance)))
    return limits[0], limits[1]


def test_it_is_a_collection_with_a_clean_set(data: Path) -> None:
    collection = open_collection(data)
    assert collection.clean == "clean"
    assert [member.name for member in collection.members] == sorted(("clean", *FAULTS))
    for member in collection.members:
        episodes = list(read_episodes(member))
        assert len(episodes) == (60 if member.name == "clean" else 150)
        assert {episode.rate_hz for episode in episodes} == {RATE_HZ}


def test_equal_seeds_give_equal_bytes(data: Path, tmp_path: Path) -> None:
    again, other = make_demo(tmp_path / "again"), make_demo(tmp_path / "other", seed=1)
    for file in sorted(data.iterdir()):
        assert (again / file.name).read_bytes() == file.read_bytes()
        assert (other / file.name).read_bytes() != file.read_bytes()


def test_what_is_there_is_kept_and_what_is_foreign_is_refused(tmp_path: Path) -> None:
    made = make_demo(tmp_path / "data")
    before = {file: file.stat().st_mtime_ns for file in made.iterdir()}
    assert make_demo(made) == made
    assert {file: file.stat().st_mtime_ns for file in made.iterdir()} == before
    for foreign in (tmp_path, made):
        with pytest.raises(ConfigError, match="is not the collection of this demo"):
            make_demo(foreign, seed=2)


def test_an_interrupted_making_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setitem(demo.MAKERS, "lag", interrupt)
        make_demo(tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert open_collection(make_demo(tmp_path / "data")).clean == "clean"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_reach_has_minimum_jerk() -> None:
    motion = demo.move(np.random.default_rng(3))
    jerk = np.diff(motion, n=3, axis=0)
    reach = slice(0, int(np.argmax(np.all(np.diff(motion, axis=0) == 0, axis=1))))
    time = np.linspace(0, 1, len(motion[reach]))
    degree_five = np.polynomial.polynomial.polyfit(time, motion[reach], 5)
    fitted = np.polynomial.polynomial.polyval(time, degree_five).T
    np.testing.assert_allclose(fitted, motion[reach], atol=1e-9)
    assert np.abs(jerk[reach]).max() < 0.02


def test_the_tremor_has_its_band_and_its_strength() -> None:
    rng = np.random.default_rng(0)
    still = np.zeros((4096, 2))
    tremor = demo.add_tremor(still, rng)
    assert tremor.std(axis=0) == pytest.approx([TREMOR_M] * 2, rel=0.05)
    power = np.abs(np.fft.rfft(tremor * np.hanning(len(tremor))[:, None], axis=0)) ** 2
    frequency = np.fft.rfftfreq(len(tremor), 1 / RATE_HZ)
    inside = (frequency > TREMOR_HZ[0] - 0.1) & (frequency < TREMOR_HZ[1] + 0.1)
    assert power[inside].sum() > 0.99 * power.sum()


def test_the_tremor_has_the_covariance_of_its_band(data: Path) -> None:
    rng = np.random.default_rng(1)
    frames = demo.add_tremor(np.zeros((200_000, 2)), rng).reshape(-1, HORIZON, 2)
    scaled = ((frames - frames[:, :1]) * scale(data)).reshape(-1, 2 * HORIZON)
    expected = tremor_covariance(data)
    np.testing.assert_allclose(np.cov(scaled.T), expected, atol=0.05 * np.abs(expected).max())


def test_the_lag_answers_a_step_exponentially() -> None:
    step = np.concatenate([np.zeros((1, 2)), np.ones((20, 2))])
    time_s = np.arange(21)[:, None] / RATE_HZ
    np.testing.assert_allclose(demo.delay(step), 1 - np.exp(-time_s / demo.LAG_S) * np.ones(2))


def test_the_hold_repeats_every_fourth_command() -> None:
    ramp = np.arange(10.0)[:, None] * np.ones(2)
    assert demo.hold(ramp)[:, 0].tolist() == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]


def test_the_spectra_predict_the_order(data: Path) -> None:
    predicted = [spectral_sigma_min(data, name) for name in FAULTS]
    assert all(1.5 * low < high for low, high in pairwise(predicted)), predicted


def test_the_limits_of_the_tremor_enclose_what_its_spectrum_predicts(data: Path) -> None:
    low, high = tremor_limits(data)
    assert 0.05 < low < spectral_sigma_min(data, "tremor") < high < 0.15


@pytest.mark.slow
def test_the_annotation_finds_what_the_spectra_predict(tmp_path: Path) -> None:
    run = run_demo(tmp_path, progress=SilentProgress())
    found = {row["dataset"]: row for row in run.info["verdict"]}
    low, high = tremor_limits(tmp_path / "data")
    assert low - 0.03 < found["tremor"]["sigma_min"] < high + 0.03
    for name in FAULTS:
        predicted = spectral_sigma_min(tmp_path / "data", name)
        assert found[name]["sigma_min"] == pytest.approx(predicted, abs=0.06), name
        assert found[name]["status"] == "ok"
    assert run.info["control"]["recovered"]
    assert run_demo(tmp_path).already_complete
