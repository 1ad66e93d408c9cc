"""Which dimensions look like positions, and how they are named."""

import numpy as np
import pytest

from ambient_curate.data.motion import Motion, Range, count_outside, name_dims


def test_a_place_far_from_zero_is_told_from_a_command_and_a_velocity() -> None:
    rng = np.random.default_rng(0)
    place = 3.0 + 0.01 * rng.normal(size=200).cumsum()
    velocity = rng.normal(size=200)
    command = np.where(np.arange(200) < 100, 5.0, 6.0)
    motion = Motion.zeros(4)
    motion.add(np.stack([place, velocity, command, np.full(200, 2.0)], axis=1))
    assert motion.absolute_dims() == [0]
    assert motion.constant_dims() == [3]


def count(*episodes: np.ndarray, clean: Range | None = None) -> Motion:
    motion = Motion.zeros(episodes[0].shape[1], clean)
    for episode in episodes:
        motion.add(episode)
    return motion


def noise(seed: int, frames: int = 200, dims: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, dims))


def test_frames_that_repeat_the_one_before_are_counted() -> None:
    """Every command is held for three frames; an episode that never moves is another fault."""
    held = np.repeat(noise(0, 50), 3, axis=0)
    motion = count(held, noise(1, 100), np.ones((70, 2)))
    assert (motion.repeated, motion.frames) == (100, 320)
    one = noise(2)
    one[:, 0] = np.repeat(one[::2, 0], 2)  # the other dimension moves on
    assert count(one).repeated == 0


@pytest.mark.parametrize(("head", "tail"), [(0, 0), (1, 0), (20, 0), (0, 20), (20, 30)])
def test_an_idle_start_and_end_are_counted(head: int, tail: int) -> None:
    """Sensor noise of a ten-thousandth of the motion is no motion."""
    move = np.linspace([0.0, 1.0], [1.0, 3.0], 100)
    episode = np.concatenate([move[:1]] * head + [move] + [move[-1:]] * tail)
    episode += 1e-5 * noise(0, len(episode))
    assert count(episode).idle == head + tail
    assert count(np.ones((50, 2))).idle == 0


def test_a_dimension_that_is_cut_off_is_told_from_a_command() -> None:
    sine = np.sin(np.linspace(0.0, 60.0, 600))
    cut, command = np.minimum(sine, 0.8), np.where(sine > 0.0, 1.0, -1.0)
    busy = np.where(np.arange(600) % 2 == 0, 1.0, -1.0)  # a command that changes often
    late = count(*np.stack([sine, cut, command, busy, np.ones(600)], axis=1).reshape(6, 100, 5))
    assert late.saturated_dims() == [1]
    share = float(np.mean(sine > 0.8))
    assert late.at_high[1] == round(share * 600)
    assert late.at_low[1] == 1


def test_ends_are_those_of_all_episodes() -> None:
    """A later episode reaches further: what was the end before is none."""
    first, second = np.array([[0.0], [1.0], [1.0]]), np.array([[2.0], [0.0], [-1.0]])
    motion = count(first, second)
    assert (motion.at_low.tolist(), motion.at_high.tolist()) == ([1], [1])
    again = count(first, first)
    assert (again.at_low.tolist(), again.at_high.tolist()) == ([2], [4])


def test_columns_that_are_copies_are_grouped() -> None:
    values = noise(0, dims=7)
    values[:, 3] = values[:, 1]
    values[:, 6] = values[:, 1]
    values[:, 4:6] = 0.5  # constant ones are equal, and named as such
    other = noise(1, dims=7)
    other[:, 3] = other[:, 6] = other[:, 1]
    assert count(values, other).copied_dims() == [[1, 3, 6]]
    other[-1, 6] += 1.0
    assert count(values, other).copied_dims() == [[1, 3]]
    assert count(noise(2)).copied_dims() == []


def test_the_clean_range_is_compared_with() -> None:
    clean = np.array([-1.0, 1.0]), np.array([1.0, 1.0])
    values = np.array([[0.0, 1.0], [2.0, 1.0], [0.0, 0.0], [-1.0, 1.0 + 1e-7]])
    motion = count(values, clean=clean)
    assert motion.outside.tolist() == count_outside(values, *clean).tolist() == [1, 1]
    assert motion.share_outside() == 2 / 8
    assert motion.moves_where_constant() == [1]
    assert count(values[:2], clean=clean).moves_where_constant() == []
    assert count(values).moves_where_constant() == []
    assert count(values).share_outside() == 0.0


@pytest.mark.parametrize(
    ("dims", "text"),
    [([2], "action dimension 2"), ([0, 1, 2, 5], "action dimensions 0-2, 5")],
)
def test_neighbours_are_named_as_a_range(dims: list[int], text: str) -> None:
    assert name_dims(dims) == text
