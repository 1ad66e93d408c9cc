"""How trainers draw samples from the weights they are given, restated from their code.

Nothing of the package is used here: what the package writes is read by this.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Shares = dict[str, float]
Mixture = Sequence[tuple[str, float]]


def draw_rlds(mixture: Mixture, frames: Mapping[str, int]) -> Shares:
    """Octo and OpenVLA, balance_weights=True; OpenVLA's epoch needs a weight of exactly 1."""
    sizes = np.array([frames[name] for name, _ in mixture])
    given = np.array([weight for _, weight in mixture])
    weights = given * sizes
    weights = weights / np.sum(weights)
    primary = np.array([i for i in range(len(given)) if given[i] == 1.0])
    assert int((sizes / weights)[primary].max()) > 0  # the length of OpenVLA's epoch
    return dict(zip([name for name, _ in mixture], weights.tolist(), strict=True))


def draw_openpi(weights: Mapping[str, float]) -> Shares:
    """RLDSDataset.weight: sample_from_datasets draws by the weights alone."""
    assert sum(weights.values()) == 1.0, "Dataset weights must sum to 1.0"
    return dict(weights)


def draw_gr00t_n15(mixture: Mixture, frames: Mapping[str, int]) -> Shares:
    """LeRobotMixtureDataset, balance_dataset_weights=True: a weight of exactly 1 is required."""
    given = np.array([weight for _, weight in mixture])
    weights = given * np.array([frames[name] for name, _ in mixture])
    weights /= weights.sum()
    assert np.any(given == 1.0), "please at least set one dataset's weight to 1.0"
    return dict(zip([name for name, _ in mixture], weights.tolist(), strict=True))


def draw_gr00t(mix_ratio: Mapping[str, float], shards: Mapping[str, Sequence[int]]) -> Shares:
    """DatasetFactory with a spec a dataset, whose length is its number of shards."""
    weights = {name: 1.0 * ratio for name, ratio in mix_ratio.items()}  # relative length, ratio
    average = {name: sum(shards[name]) / len(shards[name]) for name in weights}
    drawn = np.array([weights[name] / average[name] for name in weights])
    drawn /= drawn.sum()  # of shards; each then gives all its samples
    samples = drawn * np.array([average[name] for name in weights])
    return dict(zip(weights, (samples / samples.sum()).tolist(), strict=True))


def draw_robomimic(data: Sequence[Mapping[str, Any]], root: Path) -> dict[tuple[str, str], float]:
    """MetaDataset, normalize_weights_by_ds_size=False, padded: a sample a frame; by demonstration.

    A path is taken from the file that holds the entries.
    """
    weights, place = [], []
    for entry in data:
        with h5py.File(root / entry["path"]) as file:
            key = "mask/{}".format(entry["filter_key"])
            demos = [name.decode("utf-8") for name in np.array(file[key][:])]
            for demo in demos:
                count = len(file[f"data/{demo}/actions"])
                weights += [entry.get("weight", 1.0)] * count
                place += [(entry["path"], demo)] * count
    total, shares = sum(weights), dict[tuple[str, str], float]()
    for where, weight in zip(place, weights, strict=True):
        shares[where] = shares.get(where, 0.0) + weight / total
    return shares
