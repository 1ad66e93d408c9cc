"""How often the energy test is wrong where nothing differs, and how often it finds what does."""

import time
import tracemalloc

import numpy as np
import pytest

from ambient_curate.demo import add_tremor, delay, hold, move
from ambient_curate.energy import (
    compare_episodes,
    episode_distances,
    permute_episodes,
)

pytestmark = pytest.mark.validity
SIGMA = 0.0251
HORIZON = 16
REPETITIONS = 1_000


def normalize(episodes: list[np.ndarray], clean: int) -> list[np.ndarray]:
    """Give the range of the clean episodes to [-1, 1], as `windows.fit_normalizer` does."""
    values = np.concatenate(episodes[:clean])
    low, high = values.min(axis=0), values.max(axis=0)
    return [(e - (low + high) / 2) / ((high - low) / 2) for e in episodes]


@pytest.mark.parametrize(("clean", "corrupt"), [(6, 30), (15, 15)])
def test_equal_laws_are_told_apart_no_more_often_than_stated(clean: int, corrupt: int) -> None:
    """Random walks (windows of an episode depend on one another) of 1 to 12 windows.

    The normaliser knows which side is clean, the one step that does; six episodes fit it here.
    """
    rng = np.random.default_rng(20261122)
    p_values = np.empty(REPETITIONS)
    for i in range(REPETITIONS):
        episodes = [
            rng.normal(size=(rng.integers(1, 13), 5)).cumsum(axis=0) for _ in range(clean + corrupt)
        ]
        scaled = normalize(episodes, clean)
        p_values[i] = compare_episodes(
            scaled[:clean], scaled[clean:], sigma=SIGMA, rng=rng, permutations=199
        ).p_value
    for level in (0.01, 0.05, 0.25):
        share = float(np.mean(p_values <= level))
        print(f"{clean} against {corrupt} equal: p <= {level} in {share:.3f}")
        error = np.sqrt(level * (1 - level) / REPETITIONS)
        assert level - 4 * error <= share <= level + 3 * error


def relative_windows(motion: np.ndarray) -> np.ndarray:
    starts = np.arange(len(motion) - HORIZON + 1)
    windows = motion[starts[:, None] + np.arange(HORIZON)]
    return windows - windows[:, :1]


FAULTS = {
    "tremor of 10 mm": (lambda m, r: add_tremor(m, r), 1.0),
    "tremor of 2 mm": (lambda m, r: m + 0.2 * (add_tremor(m, r) - m), 0.4),
    "tremor of 0.1 mm": (lambda m, r: m + 0.01 * (add_tremor(m, r) - m), 0.0),
    "lag": (lambda m, r: delay(m), 0.9),
    "hold": (lambda m, r: hold(m), 0.9),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_power_by_episodes_and_what_scaling_the_directions_brings(fault: str) -> None:
    """Faults of the demo, 20 episodes against 20, p <= .05, 50 repetitions.

    A tremor of a tenth of a millimetre lies 60-fold below the lowest noise: finding it would
    accuse a network of missing what cannot be seen.
    """
    corrupt, least = FAULTS[fault]
    rng = np.random.default_rng(1)
    found = np.empty((50, 2))
    for repeat in found:
        motions = [move(rng) for _ in range(20)] + [corrupt(move(rng), rng) for _ in range(20)]
        frames = normalize([relative_windows(m).reshape(-1, 2) for m in motions], 20)
        sides = [f.reshape(-1, 2 * HORIZON)[::2] for f in frames]
        repeat[0] = compare_episodes(
            sides[:20], sides[20:], sigma=SIGMA, rng=rng, permutations=199
        ).p_value
        counts = np.array([len(s) for s in sides])
        plain = episode_distances(np.concatenate(sides), counts)
        repeat[1] = permute_episodes(plain, 20, rng, 199)[1]
    scaled, unscaled = (found <= 0.05).mean(axis=0)
    print(f"{fault}: power {scaled:.2f} scaled, {unscaled:.2f} unscaled")
    assert scaled >= least
    assert scaled >= unscaled - 0.1
    if not least:
        assert scaled <= 0.2


def test_five_thousand_windows_against_fifty_thousand_cost_seconds() -> None:
    rng = np.random.default_rng(2)
    windows = rng.normal(size=(55_000, 2 * HORIZON)).astype(np.float32)
    episodes = np.split(windows, 550)
    tracemalloc.start()
    start = time.perf_counter()
    compare_episodes(episodes[:50], episodes[50:], sigma=SIGMA, rng=rng)
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{seconds:.1f} s, {peak / 1e6:.0f} MB")
    assert seconds < 30
    assert peak < 500e6
