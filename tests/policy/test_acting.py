"""Acting: what reaches the denoiser, and what is made of what it gives, frame by frame."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_policy import (
    ACTION,
    HORIZON,
    N_ACTION,
    N_OBS,
    SCHEDULE,
    STATE,
    Recorder,
    draw,
    make_denoiser,
    make_interface,
    make_shape,
    make_sigma,
    scale_between,
)
from torch import Tensor

from ambient_curate.errors import CheckpointError, ConfigError, RunError
from ambient_curate.files import write_json_atomic
from ambient_curate.policy.acting import Policy, load_policy
from ambient_curate.policy.checkpoints import POLICY, describe_policy, save_weights
from ambient_curate.run.records import SCHEMA_VERSION

pytestmark = pytest.mark.usefixtures("one_thread")  # small tensors on a busy machine

CENTRE, HALF = np.array([1.0, 4.0]), np.array([1.0, 4.0])  # of states, see make_interface
COLUMNS = {"task": ["push", "turn"], "mass": [1.0, 5.0]}


def record(answer: Tensor | None = None, **changes: Any) -> tuple[Policy, Recorder]:
    """A policy that asks its denoiser once."""
    recorder = Recorder(torch.zeros(HORIZON, ACTION) if answer is None else answer)
    return Policy(recorder, make_interface(**changes), horizon=HORIZON, steps=1), recorder


def frame(environment: int, time: int) -> list[float]:
    return [0.1 * environment, 0.5 * time]


def frames(environments: Sequence[int], times: Sequence[int]) -> dict[str, np.ndarray]:
    pairs = zip(environments, times, strict=True)
    return {"state": np.array([frame(*pair) for pair in pairs])}


def condition_of(environment: int, times: Sequence[int]) -> list[float]:
    """States of these times, oldest first, scaled by hand."""
    seen = np.array([frame(environment, time) for time in times])
    return ((seen - CENTRE) / HALF).flatten().tolist()


def assert_condition(recorder: Recorder, expected: list[list[float]]) -> None:
    torch.testing.assert_close(recorder.asked[-1][2], torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("n_obs", [1, 2, 3])
def test_history_is_padded_with_the_first_frame_and_oldest_first(n_obs: int) -> None:
    policy, recorder = record(n_obs_steps=n_obs)
    for time in range(5):
        policy.act(frames([0, 1], [time, time + 10]))
        times = [max(0, time - back) for back in reversed(range(n_obs))]
        assert_condition(
            recorder, [condition_of(0, times), condition_of(1, [10 + t for t in times])]
        )


@pytest.mark.parametrize("n_obs", [2, 3])
def test_environments_keep_their_own_history_whoever_acts_with_them(n_obs: int) -> None:
    policy, recorder = record(n_obs_steps=n_obs)
    times: dict[int, list[int]] = {4: [], 7: [], 9: []}
    for time, group in enumerate([[4, 7], [7], [9, 4], [7, 9, 4], [4]]):
        policy.act(frames(group, [time] * len(group)), environments=group)
        for number in group:
            times[number].append(time)
        expected = []
        for number in group:
            padded = [times[number][0]] * n_obs + times[number]
            expected.append(condition_of(number, padded[-n_obs:]))
        assert_condition(recorder, expected)


def test_frames_between_acts_are_remembered() -> None:
    policy, recorder = record(n_obs_steps=3)
    policy.act(frames([0, 1], [0, 0]))
    assert policy.observe(frames([1], [1]), environments=[1]) == [1]
    policy.observe(frames([0, 1], [2, 2]))
    asked = len(recorder.asked)
    policy.act(frames([0, 1], [3, 3]))
    assert len(recorder.asked) == asked + 1  # observing asks nothing
    assert_condition(recorder, [condition_of(0, [0, 2, 3]), condition_of(1, [1, 2, 3])])


def test_observing_first_counts_as_the_first_frame() -> None:
    policy, recorder = record(n_obs_steps=3)
    policy.observe(frames([0], [5]))
    policy.act(frames([0], [6]))
    assert_condition(recorder, [condition_of(0, [5, 5, 6])])


def test_reset_forgets_some_environments_only() -> None:
    policy, recorder = record(n_obs_steps=2)
    policy.act(frames([0, 1, 2], [0, 0, 0]))
    policy.reset([1, 99])  # one that never acted is no error
    policy.act(frames([0, 1, 2], [1, 1, 1]))
    assert_condition(
        recorder,
        [condition_of(0, [0, 1]), condition_of(1, [1, 1]), condition_of(2, [0, 1])],
    )


def test_reset_of_all_forgets_all_and_begins_the_noise_anew() -> None:
    policy, recorder = record(n_obs_steps=2)
    for _ in range(2):
        policy.act(frames([0, 1], [0, 0]))
        policy.act(frames([0, 1], [1, 1]))
        policy.reset()
    policy.act(frames([0, 1], [7, 7]))
    assert_condition(recorder, [condition_of(0, [7, 7]), condition_of(1, [7, 7])])
    first, second, again, _, _ = (x_t for x_t, _, _ in recorder.asked)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])  # environments have noise of their own


def test_a_partial_reset_does_not_repeat_the_noise() -> None:
    policy, recorder = record()
    policy.act(frames([0], [0]))
    policy.reset([0])
    policy.act(frames([0], [0]))
    assert not torch.equal(recorder.asked[0][0], recorder.asked[1][0])


def test_callers_may_reuse_the_array_of_their_states() -> None:
    policy, recorder = record(n_obs_steps=2)
    state = np.array([frame(0, 1)], dtype=np.float32)
    policy.observe({"state": state})
    state[:] = frame(0, 2)
    policy.act({"state": state})
    assert_condition(recorder, [condition_of(0, [1, 2])])


def scaled_window(actions: np.ndarray, oldest: np.ndarray, represent: str) -> Tensor:
    """What a denoiser says whose actions are these: represented, then scaled, by hand."""
    if represent == "relative":
        actions = actions - oldest
    if represent == "delta":
        actions = actions - np.vstack([oldest, actions[:-1]])
    return torch.from_numpy((actions - np.array([1.0, 3.0])) / np.array([2.0, 1.0])).float()


@pytest.mark.parametrize("represent", ["absolute", "relative", "delta"])
@pytest.mark.parametrize(("n_obs", "n_action"), [(1, HORIZON), (2, 3), (3, 6), (3, 1)])
def test_actions_are_restored_from_the_oldest_frame_and_begin_at_the_present(
    represent: str, n_obs: int, n_action: int
) -> None:
    rng, rows, acts = np.random.default_rng(4), 3, 5
    reference = None if represent == "absolute" else "state"
    changes = {"n_obs_steps": n_obs, "n_action_steps": n_action, "reference": reference}
    policy, recorder = record(represent=represent, **changes)
    states = rng.normal(size=(acts, rows, STATE)).astype(np.float32)
    for time in range(acts):
        actions = rng.normal(size=(rows, HORIZON, ACTION))
        oldest = states[max(0, time - n_obs + 1)]
        recorder.answer = torch.stack(
            [scaled_window(actions[r], oldest[r], represent) for r in range(rows)]
        )
        found = policy.act({"state": states[time]})
        assert found.dtype == np.float32
        assert found.shape == (rows, n_action, ACTION)
        expected = actions[:, n_obs - 1 : n_obs - 1 + n_action]
        np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-5)


def test_a_constant_action_gets_its_constant() -> None:
    scale = scale_between([0.0, 5.0], [2.0, 5.0])
    policy, _ = record(torch.full((HORIZON, ACTION), 0.5), scale_action=scale)
    found = policy.act(frames([0], [0]))
    assert found.tolist() == [[[1.5, 5.0]] * N_ACTION]


def test_windows_relative_to_their_first_action_are_refused() -> None:
    with pytest.raises(ValueError, match="their own first action say nothing of where to begin"):
        record(represent="relative", reference="first action")


def test_windows_relative_to_a_state_that_is_not_observed_are_refused() -> None:
    with pytest.raises(ValueError, match="relative to the state, which the policy does not"):
        record(represent="delta", reference="state", scale_state=None)


def test_told_columns_follow_the_states_row_by_row() -> None:
    policy, recorder = record(columns=COLUMNS)
    told = {"task": ["turn", "push"], "mass": np.array([5.0, 3.0])}
    policy.act(frames([0, 1], [1, 2]) | told)
    assert_condition(
        recorder,
        [[*condition_of(0, [1, 1]), 0, 1, 1], [*condition_of(1, [2, 2]), 1, 0, 0]],
    )


def test_a_policy_without_states_is_told_columns_only() -> None:
    policy, recorder = record(columns=COLUMNS, scale_state=None, n_obs_steps=1)
    policy.act({"mass": [1.0, 3.0], "task": ["push", "fly"]})
    assert_condition(recorder, [[1, 0, -1], [0, 0, 0]])


def test_a_policy_that_sees_nothing_acts_for_those_it_is_given() -> None:
    policy, recorder = record(scale_state=None, n_obs_steps=1)
    assert policy.act({}, environments=[3, 8, 9]).shape == (3, N_ACTION, ACTION)
    assert recorder.asked[-1][2].shape == (3, 0)
    with pytest.raises(ValueError, match="nothing is observed: give `environments`"):
        policy.act({})


GOOD = {"state": np.zeros((2, STATE)), "task": ["push", "turn"], "mass": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": None}, r"lacks \['state'\]: it has \['mass', 'task'\]"),
        ({"mass": None}, r"lacks \['mass'\]: it has \['state', 'task'\]"),
        ({"task": None, "mass": None}, r"lacks \['task', 'mass'\]"),
        ({"state": np.zeros((2, 3))}, r"state has shape \(2, 3\); expected \(2, 2\)"),
        ({"state": np.zeros(2)}, r"state has shape \(2,\); expected \(2, 2\)"),
        ({"state": np.zeros((2, 1, STATE))}, r"state has shape \(2, 1, 2\); expected \(2, 2\)"),
        ({"mass": [1.0]}, r"mass has shape \(1,\); expected \(2,\)"),
        ({"task": "push"}, r"task has shape \(\); expected \(2,\)"),
    ],
)
def test_wrong_observations_are_refused_and_not_remembered(
    change: Mapping[str, Any], message: str
) -> None:
    policy, recorder = record(columns=COLUMNS)
    wrong = {key: value for key, value in (GOOD | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        policy.act(wrong)
    policy.act(GOOD | frames([0, 1], [1, 1]))
    half = N_OBS * STATE
    seen = recorder.asked[-1][2][:, :half].tolist()
    assert np.allclose(seen, [condition_of(0, [1, 1]), condition_of(1, [1, 1])])


def test_rows_that_are_not_one_an_environment_are_refused() -> None:
    policy, _ = record()
    for call in (policy.act, policy.observe):
        with pytest.raises(ValueError, match=r"state has shape \(2, 2\); expected \(3, 2\)"):
            call(frames([0, 1], [0, 0]), environments=[0, 1, 2])


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("aor")), max_size=20))
def test_history_is_the_last_frames_since_the_reset(calls: list[tuple[int, str]]) -> None:
    """Whatever one environment does, the others' histories are as if it had not."""
    policy, recorder = record(n_obs_steps=3)
    seen: dict[int, list[int]] = {}
    for time, (number, kind) in enumerate(calls):
        if kind == "r":
            policy.reset([number])
            seen.pop(number, None)
            continue
        seen.setdefault(number, [time] * 3).append(time)
        here = frames([number], [time])
        if kind == "o":
            policy.observe(here, environments=[number])
        else:
            policy.act(here, environments=[number])
            assert_condition(recorder, [condition_of(number, seen[number][-3:])])


def test_seed_and_solver_and_steps_reach_the_sampler() -> None:
    found = {}
    for seed in (0, 1):
        for steps in (2, 10):
            for solver in ("ddim", "ddpm"):
                recorder = Recorder(draw(HORIZON, ACTION), make_sigma())
                policy = Policy(
                    recorder,
                    make_interface(),
                    horizon=HORIZON,
                    steps=steps,
                    solver=solver,  # type: ignore[arg-type]
                    seed=seed,
                )
                policy.act(frames([0], [0]))
                assert len(recorder.asked) == steps
                found[seed, steps, solver] = recorder.asked[-1][0]
    values = list(found.values())
    same = [torch.equal(a, b) for i, a in enumerate(values) for b in values[i + 1 :]]
    assert not any(same)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A finished policy, as `train` leaves it."""
    shape = make_shape()
    card = describe_policy(shape, make_interface(represent="delta", reference="state"), SCHEDULE)
    write_json_atomic(
        tmp_path / POLICY.record,
        {"schema": POLICY.schema, "schema_version": SCHEMA_VERSION} | card,
    )
    save_weights(make_denoiser(shape), tmp_path / POLICY.results[0])
    return tmp_path


@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
def test_a_loaded_policy_acts_as_the_one_that_was_stored(stored: Path, solver: Any) -> None:
    interface = make_interface(represent="delta", reference="state")
    policy = Policy(
        make_denoiser(make_shape()), interface, horizon=HORIZON, steps=3, solver=solver, seed=5
    )
    loaded = load_policy(str(stored), steps=3, solver=solver, seed=5)
    for time in range(3):
        observation = frames([0, 1], [time, time])
        found = loaded.act(observation)
        assert np.array_equal(found, policy.act(observation))
        assert np.isfinite(found).all() and found.std() > 0.01
    assert not loaded.denoiser.training
    assert not any(parameter.requires_grad for parameter in loaded.denoiser.parameters())


def test_a_loaded_policy_executes_as_many_actions_as_wanted(stored: Path) -> None:
    most = HORIZON - N_OBS + 1
    seen = frames([0, 1], [0, 0])
    whole = load_policy(stored, n_action_steps=most).act(seen)
    assert whole.shape[1] == most
    for count in (1, N_ACTION, most):
        found = load_policy(stored, n_action_steps=count).act(seen)
        assert np.array_equal(found, whole[:, :count])
    for wrong in (0, most + 1):
        with pytest.raises(ConfigError, match=f"n_action_steps = {wrong}: .* 1 to {most} actions"):
            load_policy(stored, n_action_steps=wrong)


def test_unfinished_and_damaged_policies_are_refused(stored: Path) -> None:
    weights = stored / POLICY.results[0]
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="holds no weights of this policy"):
        load_policy(stored)
    weights.unlink()
    with pytest.raises(CheckpointError, match="holds no weights of this policy"):
        load_policy(stored)
    (stored / POLICY.record).unlink()
    with pytest.raises(RunError, match=r"has no policy\.json"):
        load_policy(stored)
