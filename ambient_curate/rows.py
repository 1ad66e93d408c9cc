"""Rows of the manifest: the level above which a dataset, group, episode or window may train."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Float64

from ambient_curate.arms import ArmName
from ambient_curate.crossing import last_crossing
from ambient_curate.curves import CONFIDENCE, ArmCurves, C
from ambient_curate.manifest import manifest_schema, sort_rows, tabulate
from ambient_curate.study import Study

Curves = Float[np.ndarray, "window level"]
Columns = dict[str, list[Any]]


def manifest_metadata(
    study: Study, sigma: Float64[np.ndarray, " level"], digest: str
) -> dict[str, str]:
    """File metadata of every part."""
    options = study.options
    return {
        "granularity": options.granularity,
        "epsilon": repr(options.epsilon),
        "grid": json.dumps(sigma.tolist()),
        "representation": options.represent,
        "normaliser": json.dumps(study.normalizer.as_dict()),
        "weighting": options.weighting,
        "run_digest": digest,
    }


def tabulate_rows(columns: Columns, metadata: Mapping[str, str]) -> pa.Table:
    """Make a sorted part of the manifest; columns that are not given are null."""
    return sort_rows(tabulate(columns, manifest_schema(metadata)))


def whole_rows(
    study: Study,
    arms: Mapping[ArmName, ArmCurves],
    statuses: Mapping[ArmName, str],
) -> Columns:
    """Rows that speak for a whole dataset or group."""
    columns = _empty("dataset", "group", "horizon", "is_clean", *_ANSWER, "p_clean", "status")
    grouped = study.groups
    for name in sorted(study.frames):
        labels = [None] if grouped is None else sorted(set(grouped[name]))
        for label in labels:
            is_clean = name == study.clean.dataset
            arm = arms.get((name, label))
            status = "ok" if is_clean else statuses.get((name, label), "too-few-episodes")
            values = {
                "dataset": name,
                "group": label,
                "horizon": study.options.horizon,
                "is_clean": is_clean,
                "status": status,
                "p_clean": arm.corrupt[C] if arm and study.options.store_curves else None,
                **_answer(is_clean, arm if status == "ok" else None),
            }
            for key, value in values.items():
                columns[key].append(value)
    return columns


_ANSWER = ("sigma_min", "sigma_min_lower", "sigma_min_upper", "sigma_max")


def _answer(is_clean: bool, arm: ArmCurves | None) -> dict[str, float | None]:
    if is_clean:
        return dict.fromkeys(_ANSWER, 0.0)
    if arm is None:
        return dict.fromkeys(_ANSWER, None)
    values = (arm.sigma_min, arm.envelope.lower, arm.envelope.upper, 0.0)
    return dict(zip(_ANSWER, values, strict=True))


def _empty(*names: str) -> Columns:
    return {name: [] for name in names}


def curve_interval(
    curves: Float[np.ndarray, "row level"],
    errors: Float[np.ndarray, "row level"],
    sigma: Float64[np.ndarray, " level"],
    *,
    epsilon: float,
    draws: int,
) -> Float64[np.ndarray, "3 row"]:
    """Crossing of every curve, with a Monte-Carlo interval from its noise draws.

    The ends are the last crossings of the curve plus and minus Student's t times its standard
    error: what another draw of noise would change, given the classifier.

    Returns
    -------
    ndarray, float64, shape (3, row)
        sigma_min, lower and upper.
    """
    from scipy.special import stdtrit

    t = float(stdtrit(draws - 1, 0.5 + CONFIDENCE / 2))
    threshold = 0.5 - epsilon
    middle = last_crossing(curves, sigma, threshold)
    lower = last_crossing(curves + t * errors, sigma, threshold)
    upper = last_crossing(curves - t * errors, sigma, threshold)
    return np.stack([middle, np.minimum(lower, middle), np.maximum(upper, middle)])


class MemberRows:
    """Rows of one member's episodes or windows, added episode by episode.

    Parameters
    ----------
    study : Study
        With granularity ``episode`` or ``datapoint``.
    name : str
        The member.
    sigma : ndarray, float64, shape (level,)
        The grid.
    status : str
        What a scored row says: ``ok``, or why the member has no answer.
    draws : int
        Noise draws a window.
    """

    def __init__(
        self, study: Study, name: str, sigma: Float64[np.ndarray, " level"], status: str, draws: int
    ) -> None:
        self.study, self.name, self.sigma, self.status = study, name, sigma, status
        self.draws = draws
        self._next = 0
        self.by_window = study.options.granularity == "datapoint"
        self.is_clean = name == study.clean.dataset
        self.columns = _empty(
            "dataset",
            "episode_id",
            "episode_index",
            "start",
            "horizon",
            "index",
            "is_clean",
            *_ANSWER,
            "p_clean",
            "weight",
            "status",
            "fold",
        )

    def add(
        self,
        episode: int,
        curves: tuple[Curves, Curves] | None,
        weight: Float64[np.ndarray, " window"] | None,
    ) -> None:
        """Add an episode, after those before it that have no scores.

        Parameters
        ----------
        episode : int
            Row of the member.
        curves : tuple of ndarray, shape (window, level), or None
            Mean probabilities of "clean" and their standard errors; None: clean.
        weight : ndarray, float64, shape (window,), or None
            Of each row, where a row is a window.
        """
        self._add_unscored(episode)
        self._add(episode, curves, weight)
        self._next = episode + 1

    def finish(self) -> Columns:
        """Add the remaining episodes, none of which has scores, and return the columns."""
        self._add_unscored(self.study.frames[self.name].n_episodes)
        return self.columns

    def _add_unscored(self, end: int) -> None:
        for episode in range(self._next, end):
            self._add(episode, None, None)
        self._next = end

    def _add(
        self, episode: int, curves: tuple[Curves, Curves] | None, weight: np.ndarray | None
    ) -> None:
        windows = self.study.windows[self.name]
        count = int(windows.counts[episode])
        starts = np.arange(max(count, 1) if self.by_window else 1) * windows.stride
        status = "too-short" if count == 0 else "ok" if self.is_clean else self.status
        frames = self.study.frames[self.name]
        first = int(frames.first_frame[episode])
        fold = int(self.study.folds[self.name][episode])
        n = len(starts)
        values = {
            "dataset": [self.name] * n,
            "episode_id": [frames.ids[episode]] * n,
            "episode_index": [int(frames.index[episode])] * n,
            "start": starts.tolist() if self.by_window else [None],
            "horizon": [self.study.options.horizon] * n,
            "index": [None] * n if first < 0 else (first + starts).tolist(),
            "is_clean": [self.is_clean] * n,
            "weight": [None] * n if weight is None else weight.tolist(),
            "status": [status] * n,
            "fold": [fold if count and status != "too-few-episodes" else None] * n,
            **self._answers(curves, n, status),
        }
        for key, value in values.items():
            self.columns[key].extend(value)

    def _answers(
        self, scored: tuple[Curves, Curves] | None, n: int, status: str
    ) -> dict[str, Sequence[Any]]:
        if status == "ok" and self.is_clean:
            return {**dict.fromkeys(_ANSWER, [0.0] * n), "p_clean": [None] * n}
        if scored is None:
            return dict.fromkeys((*_ANSWER, "p_clean"), [None] * n)
        curves, errors = (values.astype(np.float64) for values in scored)
        draws = self.draws
        if not self.by_window:
            draws = (draws - 1) * len(curves) + 1  # degrees of freedom of the pooled error
            errors = np.sqrt(np.square(errors).sum(axis=0, keepdims=True)) / len(errors)
            curves = curves.mean(axis=0, keepdims=True)
        crossing = curve_interval(
            curves, errors, self.sigma, epsilon=self.study.options.epsilon, draws=draws
        )
        stored = list(curves) if self.study.options.store_curves else [None] * n
        return dict(zip(_ANSWER, (*crossing.tolist(), [0.0] * n), strict=True)) | {
            "p_clean": stored
        }
