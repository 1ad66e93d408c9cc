"""Windows that are followed by the state at their first frame."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_study import ACTION, HORIZON, make_episodes, make_study

from ambient_curate.data.windows import ObservedWindows
from ambient_curate.errors import ConfigError

LENGTHS = (6, 3, 9, 5, 4, 7)


def draw_states(seed: int, width: int = 2) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [3.0 + rng.normal(size=(n, width)).astype(np.float32) for n in LENGTHS]


def test_a_window_ends_with_the_state_at_its_first_frame(tmp_path: Path) -> None:
    seen = {name: draw_states(number) for number, name in enumerate(("clean", "a"))}
    members = {name: make_episodes(name, LENGTHS, state=states) for name, states in seen.items()}
    study = make_study(tmp_path, members, condition="state")
    windows, plain = study.corrupt[0].windows, study.windows["a"]
    assert isinstance(windows, ObservedWindows)
    assert (windows.condition_dim, plain.condition_dim) == (2, 0)
    assert windows.dim == HORIZON * ACTION + 2 == plain.dim + 2
    rows = windows.gather(np.array([2, 5]), np.array([4, 1]))
    assert rows.shape == (2, 1, windows.dim)
    same = plain.gather(np.array([2, 5]), np.array([4, 1]))  # what a policy is trained on
    torch.testing.assert_close(rows[:, 0, :-2], same.flatten(1))
    clean = np.concatenate(seen["clean"])
    condition_dim = np.stack([seen["a"][2][4], seen["a"][5][1]])
    expected = (condition_dim - clean.mean(axis=0)) / clean.std(axis=0)
    np.testing.assert_allclose(rows[:, 0, -2:], expected, rtol=1e-5)
    assert study.controls == ()


@pytest.mark.parametrize("width", [None, 3])
def test_states_must_be_there_and_alike(tmp_path: Path, width: int | None) -> None:
    members = {"clean": make_episodes("clean", LENGTHS, state=draw_states(0))}
    given = {} if width is None else {"state": draw_states(1, width)}
    members["a"] = make_episodes("a", LENGTHS, **given)
    with pytest.raises(ConfigError, match=f"clean: 2, a: {width or 0}$"):
        make_study(tmp_path, members, condition="state")
    with pytest.raises(ConfigError, match="crops are not conditioned on the state"):
        make_study(tmp_path, members, condition="state", locality=True)
