"""Shards: runs of a member's episodes, each annotated on its own and written as one part."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from ambient_curate.episodes import pick_evenly
from ambient_curate.study import Study

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
        Rows of the member, by their position in the source.
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

    Episodes that share a position in the source stay together, since their rows interleave.
    """
    shards: list[Shard] = []
    for name in sorted(study.frames):
        index = study.frames[name].index
        order = np.argsort(index, kind="stable")
        size = np.cumsum(np.maximum(scored_windows(study, name)[order], 1))
        first = 0
        while first < order.size:
            before = size[first - 1] if first else 0
            end = max(int(np.searchsorted(size, before + MOST_WINDOWS, side="right")), first + 1)
            while end < order.size and index[order[end]] == index[order[end - 1]]:
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
