"""Demonstrations: windows of several datasets, with what the policy saw, as batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor
from torch.utils.data import Dataset

from ambient_curate.policy.sampler import Item
from ambient_curate.windows import Normalizer, Windows, nearest_windows

Batch = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Part:
    """Some episodes of one dataset.

    Parameters
    ----------
    name : str
        Of the dataset.
    windows : Windows
        Its actions, as the policy is to give them; `stride` is that of the annotation.
    episodes : ndarray, int64, shape (episode,)
        Those in use, each with a whole window.
    state : Tensor, float32, shape (frame, state), or None
        What is observed; None: nothing.
    condition : Tensor, float32, shape (dataset's episodes, condition)
        What is told of an episode, such as its goal.
    """

    name: str
    windows: Windows
    episodes: Int64[np.ndarray, " episode"]
    state: Float32[Tensor, "frame state"] | None
    condition: Float32[Tensor, "all_episodes condition"]


class Demonstrations(Dataset[Batch]):
    """All windows of all parts, one after the other; a datum is the place of one.

    A window begins with the `n_obs_steps` frames that are observed, of which the last is the
    present. As in Diffusion Policy (Chi et al. 2023), windows also begin up to ``n_obs_steps - 1``
    frames before an episode and end up to ``n_action_steps - 1`` frames after it; there the first
    or last frame is repeated.

    Parameters
    ----------
    parts : sequence of Part
        Of equal dimensions.
    scale_state : Normalizer or None
        Of observed states; None: there are none.
    n_obs_steps, n_action_steps : int
        Frames observed, and frames that are executed of a window, >= 1.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        scale_state: Normalizer | None,
        *,
        n_obs_steps: int,
        n_action_steps: int,
    ) -> None:
        self.parts, self.scale_state = parts, scale_state
        self.before, self.after = n_obs_steps - 1, n_action_steps - 1
        self._counts = [
            part.windows.length[part.episodes]
            - part.windows.horizon
            + (1 + self.before + self.after)
            for part in parts
        ]
        self._ends = [np.cumsum(counts) for counts in self._counts]
        self.size = tuple(int(counts.sum()) for counts in self._counts)
        self._until = np.cumsum(self.size)

    def __len__(self) -> int:
        return int(self._until[-1])

    def spread(
        self, part: int, values: Float64[np.ndarray, " window"]
    ) -> Float64[np.ndarray, " datum"]:
        """Give every datum of a part the value of the nearest whole window of its episode.

        Parameters
        ----------
        part : int
            Number of the part.
        values : ndarray, float64, shape (window,)
            One a whole window of the part's episodes, in their order.
        """
        windows, episodes = self.parts[part].windows, self.parts[part].episodes
        counts = windows.counts[episodes]
        episode, start = self._locate(part, np.arange(self.size[part]))
        length = windows.length[episodes][episode]
        number = nearest_windows(start, length, windows.horizon, windows.stride)
        return values[(np.cumsum(counts) - counts)[episode] + number]

    def _locate(
        self, part: int, place: Int64[np.ndarray, " datum"]
    ) -> tuple[Int64[np.ndarray, " datum"], Int64[np.ndarray, " datum"]]:
        """Find the number of the episode in the part, and the first frame, which may be < 0."""
        ends = self._ends[part]
        episode = np.searchsorted(ends, place, side="right")
        start = place - (ends - self._counts[part])[episode] - self.before
        return episode, start

    def read(self, data: Int64[np.ndarray, " datum"]) -> Batch:
        """Read data as a batch.

        Returns
        -------
        dict of str to Tensor
            ``action``, float32 (datum, horizon, action), scaled; ``condition``, float32
            (datum, n_obs_steps x state + condition): observed states, scaled, oldest first, then
            what is told of the episode.
        """
        owner = np.searchsorted(self._until, data, side="right")
        pieces = [
            (where, *self._read_part(part, data[where] - (self._until[part] - self.size[part])))
            for part in np.unique(owner).tolist()
            for where in [np.flatnonzero(owner == part)]
        ]
        back = torch.from_numpy(np.argsort(np.concatenate([where for where, _, _ in pieces])))
        return {
            "action": torch.cat([action for _, action, _ in pieces])[back],
            "condition": torch.cat([condition for _, _, condition in pieces])[back],
        }

    def _read_part(self, part: int, place: np.ndarray) -> tuple[Tensor, Tensor]:
        chosen = self.parts[part]
        number, start = self._locate(part, place)
        episode = chosen.episodes[number]
        steps = start[:, None] + np.arange(chosen.windows.horizon)
        steps = np.clip(steps, 0, chosen.windows.length[episode][:, None] - 1)
        frames = torch.from_numpy(steps + chosen.windows.offset[episode][:, None])
        condition = chosen.condition[torch.from_numpy(episode)]
        if chosen.state is not None and self.scale_state is not None:
            seen = self.scale_state.apply(chosen.state[frames[:, : self.before + 1]])
            condition = torch.cat([seen.flatten(1), condition], dim=1)
        return chosen.windows.read(frames), condition

    def __getitem__(self, item: Item) -> Batch:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[Item]) -> Batch:
        """Read a whole batch at once; with ``datum`` and ``level``, int64, of every pair."""
        pairs = np.asarray(items, dtype=np.int64)
        datum, level = torch.from_numpy(pairs[:, 0].copy()), torch.from_numpy(pairs[:, 1].copy())
        return self.read(pairs[:, 0]) | {"datum": datum, "level": level}


def keep_batch(batch: Any) -> Batch:
    """Collate nothing: `Demonstrations` gives whole batches to a `DataLoader`."""
    return batch
