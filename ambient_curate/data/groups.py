"""Group labels of episodes: a task, an episode column, or a cluster of similar motion."""

from collections.abc import Mapping

import numpy as np
import torch

from ambient_curate.data.cache import Frames
from ambient_curate.data.windows import Windows
from ambient_curate.errors import ConfigError

UNNAMED = "(none)"
_POINTS = 16  # moments at which a motion is compared


def label_groups(
    frames: Mapping[str, Frames], windows: Mapping[str, Windows], group_by: str, *, seed: int
) -> dict[str, list[str]]:
    """Give every episode of every member a group label.

    Parameters
    ----------
    frames, windows : mapping
        By member; the same names. The windows carry the normaliser.
    group_by : str
        ``task``, ``cluster:K``, or the name of an episode column.
    seed : int
        Of the clustering.

    Returns
    -------
    dict of str to list of str
        A label an episode; ``(none)`` where an episode has no task or lacks the column.

    Raises
    ------
    ConfigError
        If no member has the column; the hint lists those there are.
    """
    if group_by == "task":
        return {name: [task or UNNAMED for task in member.task] for name, member in frames.items()}
    if group_by.startswith("cluster:"):
        return _cluster(windows, int(group_by.removeprefix("cluster:")), seed)
    columns = sorted({key for m in frames.values() for labels in m.labels() for key in labels})
    if group_by not in columns:
        raise ConfigError(
            f"no episode has a column {group_by!r} to group by",
            f"use task, cluster:K, or one of: {', '.join(columns) or '(no columns)'}",
        )
    return {
        name: [str(labels.get(group_by, UNNAMED)) for labels in member.labels()]
        for name, member in frames.items()
    }


def _cluster(windows: Mapping[str, Windows], count: int, seed: int) -> dict[str, list[str]]:
    """K-means of whole motions, all members together, by their course at a few moments."""
    from sklearn.cluster import KMeans

    motions = {name: _sample_motions(member) for name, member in windows.items()}
    pooled = np.concatenate(list(motions.values()))
    if (different := len(np.unique(pooled, axis=0))) < count:
        raise ConfigError(
            f"{different} different episodes cannot make {count} clusters",
            "use a smaller cluster:K",
        )
    model = KMeans(count, n_init=4, random_state=seed % 2**32).fit(pooled)
    return {
        name: [f"cluster {label}" for label in model.predict(motion)]
        for name, motion in motions.items()
    }


def _sample_motions(member: Windows) -> np.ndarray:
    spans = zip(member.offset.tolist(), member.length.tolist(), strict=True)
    return np.stack([_sample_motion(member, first, length) for first, length in spans])


def _sample_motion(member: Windows, first: int, length: int) -> np.ndarray:
    moments = np.linspace(0, length - 1, _POINTS).round().astype(np.int64)
    actions = member.action[torch.from_numpy(first + moments)]
    scaled = actions if member.normalizer is None else member.normalizer.apply(actions)
    return scaled.double().numpy().ravel()
