"""Chunks: every scored window once, with its own fold and its own noise, whatever lies around."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_study import ACTION, HORIZON, make_episodes, make_study

from ambient_curate.annotation import shards
from ambient_curate.annotation import shards as annotation_shards
from ambient_curate.annotation.shards import CHUNK, Chunk, Shard, cut_blocks, read_chunks
from ambient_curate.classifier.out_of_fold import noise_seed
from ambient_curate.data.study import Study

LENGTHS = (6, 2, 9, 5, 90, 4, 7, 600)  # the second has no whole window
DRAWS = 4
DIM = HORIZON * ACTION
Noise = Mapping[tuple[int, int], np.ndarray]  # by episode and number of the window


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Study]:
    folder = tmp_path_factory.mktemp("frames")
    members = {name: make_episodes(name, LENGTHS) for name in ("clean", "a")}
    return {
        name: make_study(folder / name, members, granularity=name)
        for name in ("episode", "datapoint")
    }


def read(study: Study, *episodes: int, name: str = "a", draws: int = DRAWS) -> list[Chunk]:
    population = study.clean if name == "clean" else study.corrupt[0]
    return list(read_chunks(study, population, Shard(0, name, np.array(episodes)), draws))


def places(study: Study, *episodes: int) -> list[tuple[int, int]]:
    """Episode and number of every scored window."""
    blocks = cut_blocks(study, "a", np.array(episodes))
    return [(block.episode, number) for block in blocks for number in block.numbers.tolist()]


def noise_of(study: Study, *episodes: int, name: str = "a") -> Noise:
    where = places(study, *episodes)
    return {
        where[row]: noise.numpy()
        for chunk in read(study, *episodes, name=name)
        for row, noise in zip(chunk.rows.tolist(), chunk.noise, strict=True)
    }


@pytest.mark.parametrize("granularity", ["episode", "datapoint"])
@settings(max_examples=40)
@given(st.permutations(range(7)), st.integers(1, 120), st.integers(1, 60))
def test_every_scored_window_is_read_once_with_those_of_its_fold(
    studies: dict[str, Study], granularity: str, order: list[int], least: int, block: int
) -> None:
    study, episodes = studies[granularity], order[:5]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annotation_shards, "CHUNK", least)
        patch.setattr(shards, "BLOCK", block)
        found, where = read(study, *episodes), places(study, *episodes)
    windows = {episode: study.windows["a"].of_episode(episode) for episode in episodes}
    rows = np.concatenate([chunk.rows for chunk in found])
    assert sorted(rows.tolist()) == list(range(len(where)))
    assert [chunk.fold for chunk in found] == sorted(chunk.fold for chunk in found)
    for chunk, following in zip(found, [*found[1:], None], strict=True):
        own = [where[row] for row in chunk.rows.tolist()]
        assert {study.folds["a"][episode] for episode, _ in own} == {chunk.fold}
        assert (chunk.windows == torch.stack([windows[e][number] for e, number in own])).all()
        assert len(chunk.rows) < least + block
        last_of_fold = following is None or following.fold != chunk.fold
        assert len(chunk.rows) >= least or last_of_fold


@pytest.mark.parametrize("granularity", ["episode", "datapoint"])
def test_noise_is_drawn_from_the_identity_of_the_episode_and_of_the_block(
    studies: dict[str, Study], granularity: str
) -> None:
    study = studies[granularity]
    for name in ("a", "clean"):
        found = noise_of(study, 0, 1, 4, 7, name=name)
        for episode in (0, 4, 7):
            seed = noise_seed(study.options.seed, name, f"demo_{episode}")
            own = [pair for pair in found if pair[0] == episode]
            for place in range(0, len(own), 256):
                rng = np.random.default_rng([*seed, place // 256])
                for pair in own[place : place + 256]:
                    half = rng.standard_normal((DRAWS // 2, DIM), dtype=np.float32)
                    np.testing.assert_array_equal(found[pair], np.concatenate([half, -half]))


def test_noise_does_not_depend_on_the_shard_on_chunks_or_on_other_episodes(
    studies: dict[str, Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection without the others, in another order, is another one."""
    study, scored = studies["datapoint"], (0, 2, 3, 4, 5, 6, 7)
    whole = noise_of(study, *scored)
    others = [noise_of(study, *scored[::-1])]
    monkeypatch.setattr(annotation_shards, "CHUNK", 1)
    others += [noise_of(study, *scored), *(noise_of(study, episode) for episode in scored)]
    fewer = make_episodes("a", LENGTHS)[7:2:-1]
    members = {"clean": make_episodes("clean", LENGTHS), "a": fewer}
    apart = make_study(tmp_path, members, granularity="datapoint")
    renamed = noise_of(apart, 0, 1, 2, 3, 4)
    others.append({(7 - row, number): noise for (row, number), noise in renamed.items()})
    for other in others:
        for pair, noise in other.items():
            np.testing.assert_array_equal(noise, whole[pair])
    assert sum(map(len, others)) == 3 * len(whole) + len(renamed)


def test_no_two_windows_share_noise_nor_do_two_seeds(
    studies: dict[str, Study], tmp_path: Path
) -> None:
    members = {name: make_episodes(name, LENGTHS) for name in ("clean", "a")}
    reseeded = make_study(tmp_path, members, granularity="datapoint", seed=1)
    drawn = [
        noise_of(study, *range(len(LENGTHS)), name=name)
        for study in (studies["datapoint"], reseeded)
        for name in ("a", "clean")
    ]
    halves = [noise[: DRAWS // 2].ravel() for each in drawn for noise in each.values()]
    values = np.concatenate(halves)  # the others are these, negated
    assert values.size == sum(map(len, drawn)) * DRAWS // 2 * DIM
    assert np.unique(np.abs(values)).size > 0.999 * values.size  # float32 has few near 0
    assert abs(values.mean()) < 4.0 / values.size**0.5
    assert abs(values.var() - 1.0) < 4.0 * (2.0 / values.size) ** 0.5


def test_a_chunk_has_512_windows_or_somewhat_more(studies: dict[str, Study]) -> None:
    assert CHUNK == 512
    study = studies["datapoint"]
    assert [len(chunk.rows) for chunk in read(study, 7)] == [512, 86]
    assert study.folds["a"][2] == study.folds["a"][7]
    assert [len(chunk.rows) for chunk in read(study, 2, 7)] == [519, 86]  # 7, 256, 256; 86
    assert read(study, 2)[0].noise.shape == (7, DRAWS, DIM)
    assert read(study, 1) == []
