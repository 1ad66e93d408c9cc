"""Demonstrations: every datum is the window, and the observation, that a plain loop would cut."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ambient_curate.data.normalizer import Normalizer, fit_normalizer
from ambient_curate.data.windows import Windows
from ambient_curate.policy.level_sampler import Admission, BatchSampler, LevelSampler
from ambient_curate.policy.training_data import Batch, Demonstrations, Part, keep_batch

HORIZON, ACTION, STATE = 4, 2, 3


def make_part(name: str, lengths: Sequence[int], seed: int, stride: int = 1) -> Part:
    rng = np.random.default_rng(seed)
    length = np.array(lengths)
    action = torch.from_numpy(rng.normal(size=(length.sum(), ACTION)).astype(np.float32))
    state = torch.from_numpy(rng.normal(size=(length.sum(), STATE)).astype(np.float32))
    normalizer = fit_normalizer("minmax", action.numpy())
    offset = np.cumsum(length) - length
    windows = Windows(
        action, None, offset, length, HORIZON, stride, "relative", normalizer=normalizer
    )
    goal = torch.from_numpy(rng.normal(size=(length.size, 1)).astype(np.float32))
    return Part(name, windows, np.flatnonzero(length >= HORIZON), state, goal)


def make(parts: Sequence[Part], n_obs_steps: int = 2, n_action_steps: int = 3) -> Demonstrations:
    assert parts[0].state is not None
    scale = fit_normalizer("minmax", parts[0].state.numpy())
    return Demonstrations(parts, scale, n_obs_steps=n_obs_steps, n_action_steps=n_action_steps)


def cut_plainly(made: Demonstrations) -> list[tuple[np.ndarray, np.ndarray, int, int, int]]:
    """Every window, its condition, and its part, episode and start."""
    rows = []
    for number, part in enumerate(made.parts):
        w = part.windows
        assert w.normalizer is not None and made.scale_state is not None and part.state is not None
        for episode in part.episodes.tolist():
            first, size = int(w.offset[episode]), int(w.length[episode])
            action = w.action[first : first + size].numpy()
            state = made.scale_state.apply(part.state[first : first + size]).numpy()
            for start in range(-made.before, size - HORIZON + made.after + 1):
                picked = [min(max(start + i, 0), size - 1) for i in range(HORIZON)]
                window = torch.from_numpy(action[picked] - action[picked[0]])
                seen = state[picked[: made.before + 1]].ravel()
                told = part.condition[episode].numpy()
                scaled = w.normalizer.apply(window).numpy()
                rows.append((scaled, np.append(seen, told), number, episode, start))
    return rows


@pytest.mark.parametrize(("n_obs_steps", "n_action_steps"), [(1, 1), (2, 3), (4, 2)])
def test_every_datum_is_what_a_loop_cuts(n_obs_steps: int, n_action_steps: int) -> None:
    parts = [make_part("a", [9, 3, 4, 6], 0), make_part("b", [5, 12], 1)]
    made = make(parts, n_obs_steps, n_action_steps)
    rows = cut_plainly(made)
    assert len(made) == len(rows) == sum(made.size)
    order = np.random.default_rng(0).permutation(len(rows))
    batch = made.read(order)
    for place, row in enumerate(order.tolist()):
        np.testing.assert_array_equal(batch["action"][place].numpy(), rows[row][0])
        np.testing.assert_array_equal(batch["condition"][place].numpy(), rows[row][1])


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_datum_has_the_value_of_the_nearest_whole_window(stride: int) -> None:
    part = make_part("a", [9, 3, 4, 6, 11], 0, stride)
    made = make([part])
    counts = part.windows.counts[part.episodes]
    starts = [(e, n * stride) for e, c in zip(part.episodes, counts, strict=True) for n in range(c)]
    found = made.spread(0, np.arange(len(starts), dtype=np.float64))
    rows = cut_plainly(made)
    assert found.size == len(rows)
    for value, (_, _, _, episode, start) in zip(found, rows, strict=True):
        near_episode, near = starts[int(value)]
        own = [s for e, s in starts if e == episode]
        assert near_episode == episode
        assert abs(near - start) == min(abs(s - start) for s in own)


def test_without_a_state_only_the_condition_is_told() -> None:
    plain = make_part("a", [9], 0)
    part = Part("a", plain.windows, plain.episodes, None, plain.condition)
    made = Demonstrations([part], None, n_obs_steps=2, n_action_steps=1)
    assert made.read(np.array([0]))["condition"].tolist() == plain.condition.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_whole_batches_with_their_levels(workers: int) -> None:
    made = make([make_part("a", [9, 5], 0), make_part("b", [8], 1)])
    never = np.zeros(len(made))
    admission = Admission(("a", "b"), made.size, never, never)
    sampler = LevelSampler(admission, np.array([0.1, 0.5]), seed=2)
    batches = BatchSampler(sampler, 6, range(3))
    loader: DataLoader[Batch] = DataLoader(
        made, batch_sampler=batches, num_workers=workers, collate_fn=keep_batch
    )
    for step, batch in enumerate(loader):
        datum, level = sampler.draw(step, 6)
        assert batch["datum"].tolist() == datum.tolist()
        assert batch["level"].tolist() == level.tolist()
        assert torch.equal(batch["action"], made.read(datum)["action"])
        assert torch.equal(batch["condition"], made.read(datum)["condition"])


def test_one_pair_alone_is_a_batch_of_one() -> None:
    made = make([make_part("a", [9, 5], 0)])
    assert torch.equal(made[3, 1]["action"], made.read(np.array([3]))["action"])
    assert made[3, 1]["level"].tolist() == [1]


def test_scaling_and_representation_are_undone() -> None:
    from ambient_curate.data.windows import restore_actions

    part = make_part("a", [9], 0)
    w = part.windows
    for represent in ("absolute", "relative", "delta"):
        changed = Windows(w.action, w.action, *(w.offset, w.length), HORIZON, 1, represent)
        scaled = Normalizer.apply(fit_normalizer("minmax", w.action.numpy()), changed.of_episode(0))
        back = fit_normalizer("minmax", w.action.numpy()).undo(scaled)
        reference = w.action[:6]
        actions = restore_actions(back, represent, reference)
        torch.testing.assert_close(actions, Windows.of_episode(_plain(w), 0))


def _plain(w: Windows) -> Windows:
    return Windows(w.action, None, w.offset, w.length, HORIZON, 1, "absolute")
