"""Shards: every episode once, in the manifest's order, in runs of bounded size."""

from collections.abc import Sequence
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_study import HORIZON, LENGTHS, make_episodes, make_study

from ambient_curate.annotation import shards
from ambient_curate.annotation.shards import (
    BLOCK,
    EPISODE_WINDOWS,
    MOST_WINDOWS,
    cut_blocks,
    plan_shards,
    scored_windows,
)
from ambient_curate.data.study import Study

Members = dict[str, list[tuple[int, int]]]  # by name: windows and position of every episode

EPISODES = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 8)), min_size=1, max_size=12)
MEMBERS = st.dictionaries(st.sampled_from(("a", "b", "clean", "Z")), EPISODES, min_size=1)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    members = {name: make_episodes(name, LENGTHS) for name in ("clean", "a")}
    return make_study(tmp_path_factory.mktemp("frames"), members)


def lay(study: Study, members: Members, granularity: str) -> Study:
    """The study with other members, of as many windows, at these positions in the source."""
    frames, windows = {}, {}
    for name, episodes in members.items():
        counts, index = np.array(episodes, dtype=np.int64).T
        length = np.where(counts > 0, counts + HORIZON - 1, 1)
        offset = np.cumsum(length) - length
        frames[name] = replace(
            study.frames["a"],
            number=index,
            offset=offset,
            length=length,
            first_frame=offset,
            digest=np.zeros(index.size, "S32"),
        )
        windows[name] = replace(study.windows["a"], offset=offset, length=length)
    options = replace(study.options, granularity=granularity)
    return replace(study, options=options, frames=frames, windows=windows)


def sizes(study: Study, name: str, episodes: Sequence[int]) -> list[int]:
    """Scored windows; an episode without one has a row all the same."""
    most = None if study.options.granularity == "datapoint" else EPISODE_WINDOWS
    counts = [int(study.windows[name].counts[episode]) for episode in episodes]
    return [max(1, count if most is None else min(count, most)) for count in counts]


@given(MEMBERS, st.integers(1, 200), st.sampled_from(["episode", "datapoint"]))
def test_shards_cover_every_episode_once_in_the_order_of_the_manifest(
    study: Study, members: Members, most: int, granularity: str
) -> None:
    found = lay(study, members, granularity)
    with patch.object(shards, "MOST_WINDOWS", most):
        planned = plan_shards(found)
    assert [shard.number for shard in planned] == list(range(len(planned)))
    order = [(shard.dataset, episode) for shard in planned for episode in shard.episodes.tolist()]
    assert order == sorted(
        ((name, episode) for name, each in members.items() for episode in range(len(each))),
        key=lambda pair: (pair[0], members[pair[0]][pair[1]][1], pair[1]),
    )


@given(MEMBERS, st.integers(1, 200), st.sampled_from(["episode", "datapoint"]))
def test_shards_are_as_large_as_allowed_and_part_no_episodes_of_one_position(
    study: Study, members: Members, most: int, granularity: str
) -> None:
    """Larger ones are one episode, but for those that share the position of their last."""
    found = lay(study, members, granularity)
    with patch.object(shards, "MOST_WINDOWS", most):
        planned = plan_shards(found)
    for shard, following in zip(planned, [*planned[1:], None], strict=True):
        index = found.frames[shard.dataset].number[shard.episodes]
        size = sizes(found, shard.dataset, shard.episodes.tolist())
        untied = max(1, np.count_nonzero(index != index[-1]) + 1)
        assert sum(size[:untied]) <= most or untied == 1
        if following is not None and following.dataset == shard.dataset:
            assert found.frames[shard.dataset].number[following.episodes[0]] > index[-1]
            more = sizes(found, shard.dataset, following.episodes[:1].tolist())
            assert sum(size + more) > most


def test_a_shard_holds_65536_windows_or_one_longer_episode(study: Study) -> None:
    """Stubs count as one, whose rows are written too."""
    assert MOST_WINDOWS == 65_536
    counts = [30_000, 35_535, 0, 1, 70_000, 65_535, 1, 1]
    found = lay(study, {"a": [(n, i) for i, n in enumerate(counts)]}, "datapoint")
    cut = [shard.episodes.tolist() for shard in plan_shards(found)]
    assert cut == [[0, 1, 2], [3], [4], [5, 6], [7]]
    by_episode = lay(study, {"a": [(100, i) for i in range(1_025)]}, "episode")
    assert [shard.episodes.size for shard in plan_shards(by_episode)] == [1_024, 1]


def test_at_most_64_windows_speak_for_an_episode_and_all_for_themselves(study: Study) -> None:
    members: Members = {"a": [(0, 0), (1, 1), (64, 2), (65, 3), (1_000, 4)]}
    for granularity, expected in (
        ("episode", [0, 1, 64, 64, 64]),
        ("datapoint", [0, 1, 64, 65, 1_000]),
    ):
        assert scored_windows(lay(study, members, granularity), "a").tolist() == expected


@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=6),
    st.integers(1, 70),
    st.sampled_from(["episode", "datapoint"]),
    st.data(),
)
def test_blocks_are_the_scored_windows_of_the_episodes_in_their_order(
    study: Study, counts: list[int], most: int, granularity: str, data: st.DataObject
) -> None:
    found = lay(study, {"a": [(n, i) for i, n in enumerate(counts)]}, granularity)
    episodes = data.draw(st.permutations(range(len(counts))))
    with patch.object(shards, "BLOCK", most):
        blocks = list(cut_blocks(found, "a", np.array(episodes)))
    order = list(dict.fromkeys(block.episode for block in blocks))
    assert order == [episode for episode in episodes if counts[episode] > 0]
    assert [block.episode for block in blocks] == sorted(
        (block.episode for block in blocks), key=episodes.index
    )
    for episode, count in enumerate(counts):
        own = [block for block in blocks if block.episode == episode]
        assert [block.place for block in own] == list(range(len(own)))
        assert all(block.numbers.size == most for block in own[:-1])
        assert all(0 < block.numbers.size <= most for block in own[-1:])
        numbers = [number for block in own for number in block.numbers.tolist()]
        if granularity == "datapoint" or count <= EPISODE_WINDOWS:
            assert numbers == list(range(count))
        else:
            assert len(numbers) == EPISODE_WINDOWS
            steps = np.diff([-1, *numbers, count])
            assert steps.min() >= 1
            assert np.ptp(steps[1:-1]) <= 1  # evenly spread


def test_a_block_has_256_windows(study: Study) -> None:
    assert BLOCK == 256
    found = lay(study, {"a": [(600, 0)]}, "datapoint")
    blocks = cut_blocks(found, "a", np.array([0]))
    assert [(b.place, int(b.numbers[0]), b.numbers.size) for b in blocks] == [
        (0, 0, 256),
        (1, 256, 256),
        (2, 512, 88),
    ]
