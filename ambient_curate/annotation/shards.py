"""Shards: runs of a member's episodes, annotated and written as one part; and their windows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ambient_curate.classifier.out_of_fold import noise_seed
from ambient_curate.data.populations import Population
from ambient_curate.data.study import Study
from ambient_curate.noise import draw_pairs
from ambient_curate.statistics.bootstrap import pick_evenly

MOST_WINDOWS = 65_536  # scored in a shard, but for one longer episode
BLOCK = 256  # windows of an episode that share a source of noise
EPISODE_WINDOWS = 64  # that speak for an episode, where a row is an episode


@dataclass(frozen=True, eq=False)
class Shard:
    """Some episodes of one member.

    Parameters
    ----------
    number : int
        Of its part of the manifest: parts in this order hold the rows in theirs.
    dataset : str
        The member.
    episodes : ndarray, int64, shape (episode,)
        Rows of the member, by their number in the source.
    """

    number: int
    dataset: str
    episodes: Int64[np.ndarray, " episode"]


@dataclass(frozen=True, eq=False)
class Block:
    """Windows of one episode that are scored with one source of noise.

    Parameters
    ----------
    episode : int
        Row of the member.
    place : int
        Number of the block in its episode.
    numbers : ndarray, int64, shape (window,)
        The windows, at most `BLOCK`.
    """

    episode: int
    place: int
    numbers: Int64[np.ndarray, " window"]


def plan_shards(study: Study) -> list[Shard]:
    """Cut every member, in the order of the manifest, into shards of bounded size.

    Episodes that share a number stay together, since their rows interleave.
    """
    shards: list[Shard] = []
    for name in sorted(study.frames):
        number = study.frames[name].number
        order = np.argsort(number, kind="stable")
        size = np.cumsum(np.maximum(scored_windows(study, name)[order], 1))
        first = 0
        while first < order.size:
            before = size[first - 1] if first else 0
            end = max(int(np.searchsorted(size, before + MOST_WINDOWS, side="right")), first + 1)
            while end < order.size and number[order[end]] == number[order[end - 1]]:
                end += 1
            shards.append(Shard(len(shards), name, order[first:end]))
            first = end
    return shards


def scored_windows(study: Study, name: str) -> Int64[np.ndarray, " episode"]:
    """Windows of every episode of a member that are scored for its rows."""
    counts = study.windows[name].counts
    return counts if study.by_window else np.minimum(counts, EPISODE_WINDOWS)


def cut_blocks(study: Study, name: str, episodes: Int64[np.ndarray, " episode"]) -> Iterator[Block]:
    """Cut the scored windows of some episodes into blocks, in their order."""
    counts = study.windows[name].counts
    most = None if study.by_window else EPISODE_WINDOWS
    for episode in episodes.tolist():
        picked = pick_evenly(int(counts[episode]), most)
        for place, first in enumerate(range(0, picked.size, BLOCK)):
            yield Block(episode, place, picked[first : first + BLOCK])


CHUNK = 512  # windows, or somewhat more


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some windows of a shard.

    Parameters
    ----------
    rows : ndarray, int64, shape (window,)
        Their places among the scored windows of the shard.
    fold : int
        That holds them out.
    windows : Tensor, float32, shape (window, horizon, action)
        Normalised.
    noise : Tensor, float32, shape (window, draw, dim)
        Standard normal, in antithetic pairs (`noise.draw_pairs`).
    """

    rows: Int64[np.ndarray, " window"]
    fold: int
    windows: Float32[Tensor, "window horizon action"]
    noise: Float32[Tensor, "window draw dim"]


def read_chunks(study: Study, population: Population, shard: Shard, draws: int) -> Iterator[Chunk]:
    """Read the scored windows of a shard, fold by fold.

    A window's noise follows from the seed, its episode's id and its number: it is the same
    whatever else the shard holds.

    Parameters
    ----------
    study : Study
        What is annotated.
    population : Population
        The whole member.
    shard : Shard
        Of that member.
    draws : int
        Noise draws a window, an even number.
    """
    blocks = list(cut_blocks(study, shard.dataset, shard.episodes))
    ends = np.cumsum([block.numbers.size for block in blocks])
    for fold in range(study.options.folds):
        group: list[Block] = []
        rows: list[np.ndarray] = []
        for block, end in zip(blocks, ends.tolist(), strict=True):
            if population.fold[block.episode] != fold:
                continue
            group.append(block)
            rows.append(np.arange(end - block.numbers.size, end))
            if sum(row.size for row in rows) >= CHUNK:
                yield Chunk(np.concatenate(rows), fold, *_read(study, population, group, draws))
                group, rows = [], []
        if group:
            yield Chunk(np.concatenate(rows), fold, *_read(study, population, group, draws))


def _read(
    study: Study, population: Population, blocks: Sequence[Block], draws: int
) -> tuple[Tensor, Tensor]:
    episode = np.repeat([block.episode for block in blocks], [b.numbers.size for b in blocks])
    windows = population.windows.gather(
        episode, np.concatenate([block.numbers for block in blocks])
    )
    ids = study.frames[population.dataset].ids
    noise = []
    for block in blocks:
        seed = noise_seed(study.options.seed, population.dataset, ids[block.episode])
        rng = np.random.default_rng([*seed, block.place])
        noise.append(draw_pairs(rng, block.numbers.size, draws, population.windows.dim))
    return windows, torch.from_numpy(np.concatenate(noise))
