"""Minari's own writer: what it writes is read as it was given to it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ambient_curate import readers
from ambient_curate.readers.episodes import Episode, ReaderOptions

minari = pytest.importorskip("minari")
buffers = pytest.importorskip("minari.data_collector")
spaces = pytest.importorskip("gymnasium").spaces
pytestmark = pytest.mark.filterwarnings("ignore:.*is set to None", "ignore:env_spec is None")

LENGTHS = (5, 11, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13)  # two digits in the last ids
BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)


def write(
    monkeypatch: pytest.MonkeyPatch, root: Path, observations: list[Any], space: Any
) -> tuple[Path, list[np.ndarray]]:
    """Let Minari write a dataset; give its directory, and the actions."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    rng = np.random.default_rng(0)
    actions = [rng.normal(size=(length, 2)).astype(np.float32) for length in LENGTHS]
    recorded = [
        buffers.EpisodeBuffer(
            id=number,
            seed=number + 40,
            observations=seen,
            actions=list(action),
            rewards=[0.0] * len(action),
            terminations=[False] * (len(action) - 1) + [True],
            truncations=[False] * len(action),
            infos={"success": np.arange(len(action) + 1) > 3},
        )
        for number, (action, seen) in enumerate(zip(actions, observations, strict=True))
    ]
    minari.create_dataset_from_buffers(
        "toy/reach-v0",
        recorded,
        action_space=spaces.Box(-np.inf, np.inf, (2,), np.float32),
        observation_space=space,
        algorithm_name="a",
        author="a",
        author_email="a@example.org",
        code_permalink="https://example.org",
        description="toy",
    )
    return root / "toy/reach-v0", actions


def read(path: Path, **options: Any) -> list[Episode]:
    dataset = readers.open_dataset(path, ReaderOptions(**options))
    assert (dataset.format, tuple(dataset.problems)) == ("Minari HDF5", ())
    return [episode for shard in dataset.shards for episode in dataset.read_shard(shard)]


def test_what_minari_writes_is_read_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    seen = [rng.normal(size=(length + 1, 3)).astype(np.float32) for length in LENGTHS]
    root, actions = write(monkeypatch, tmp_path, [list(each) for each in seen], BOX)
    episodes = read(root)
    assert [episode.id for episode in episodes] == [f"episode_{n}" for n in range(len(LENGTHS))]
    for number, episode in enumerate(episodes):
        np.testing.assert_array_equal(episode.action, actions[number])
        np.testing.assert_array_equal(episode.state, seen[number][:-1])
        assert episode.labels["seed"] == number + 40
        assert episode.labels["total_steps"] == LENGTHS[number]
    own = list(minari.load_dataset("toy/reach-v0").iterate_episodes())
    for theirs, episode in zip(own, episodes, strict=True):
        np.testing.assert_array_equal(theirs.actions, episode.action)


def test_observations_in_a_dict_are_read_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    seen = [
        {
            "pos": rng.normal(size=(length + 1, 3)).astype(np.float32),
            "image": np.full((length + 1, 4, 4, 3), 7, np.uint8),
        }
        for length in LENGTHS
    ]
    image = spaces.Box(0, 255, (4, 4, 3), np.uint8)
    space = spaces.Dict({"pos": BOX, "image": image})
    root, actions = write(monkeypatch, tmp_path, seen, space)
    assert {episode.state for episode in read(root)} == {None}
    for number, episode in enumerate(read(root, state=["observations/pos"])):
        np.testing.assert_array_equal(episode.action, actions[number])
        np.testing.assert_array_equal(episode.state, seen[number]["pos"][:-1])
