"""Chunks: windows of one fold, of one episode or many, with their noise: what a network is fed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ambient_curate.arms import Arm
from ambient_curate.noise import draw_pairs
from ambient_curate.scoring import noise_seed
from ambient_curate.shards import Block, Shard, cut_blocks
from ambient_curate.study import Study

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


def read_chunks(study: Study, arm: Arm, shard: Shard, draws: int) -> Iterator[Chunk]:
    """Read the scored windows of a shard, fold by fold.

    A window's noise follows from the seed, its episode's id and its number: it is the same
    whatever else the shard holds.

    Parameters
    ----------
    study : Study
        What is annotated.
    arm : Arm
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
            if arm.fold[block.episode] != fold:
                continue
            group.append(block)
            rows.append(np.arange(end - block.numbers.size, end))
            if sum(row.size for row in rows) >= CHUNK:
                yield Chunk(np.concatenate(rows), fold, *_read(study, arm, group, draws))
                group, rows = [], []
        if group:
            yield Chunk(np.concatenate(rows), fold, *_read(study, arm, group, draws))


def _read(study: Study, arm: Arm, blocks: Sequence[Block], draws: int) -> tuple[Tensor, Tensor]:
    episode = np.repeat([block.episode for block in blocks], [b.numbers.size for b in blocks])
    windows = arm.windows.gather(episode, np.concatenate([block.numbers for block in blocks]))
    ids = study.frames[arm.dataset].ids
    noise = []
    for block in blocks:
        seed = noise_seed(study.options.seed, arm.dataset, ids[block.episode])
        rng = np.random.default_rng([*seed, block.place])
        noise.append(draw_pairs(rng, block.numbers.size, draws, arm.windows.dim))
    return windows, torch.from_numpy(np.concatenate(noise))
