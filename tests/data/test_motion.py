"""Which dimensions look like positions, and how they are named."""

import numpy as np
import pytest

from ambient_curate.data.inspection import Motion, name_dims


def test_a_place_far_from_zero_is_told_from_a_command_and_a_velocity() -> None:
    rng = np.random.default_rng(0)
    place = 3.0 + 0.01 * rng.normal(size=200).cumsum()
    velocity = rng.normal(size=200)
    command = np.where(np.arange(200) < 100, 5.0, 6.0)
    motion = Motion.zeros(4)
    motion.add(np.stack([place, velocity, command, np.full(200, 2.0)], axis=1))
    assert motion.absolute_dims() == [0]
    assert motion.constant_dims() == [3]


@pytest.mark.parametrize(
    ("dims", "text"),
    [([2], "action dimension 2"), ([0, 1, 2, 5], "action dimensions 0-2, 5")],
)
def test_neighbours_are_named_as_a_range(dims: list[int], text: str) -> None:
    assert name_dims(dims) == text
