"""How trainers scale actions: their files of statistics, each by the rule of its trainer.

The rules are facts of the trainers' own code; docs/trainers.md names the version that was read.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ambient_curate.data.normalizer import Normalizer, Scaling, scale_as_trainer
from ambient_curate.errors import ConfigError
from ambient_curate.options import Normalization

SAYS_ALL = ("ambient-curate", "robomimic")  # formats of an offset and a scale, not of statistics
TOLERANCE = 1e-4  # of a ratio of scales, relative
_HIDDEN = 1e-3  # spread of a constant dimension, in a trainer's units, that no noise level shows
_EXPECTED = (
    "give a trainer's file of statistics: LeRobot's meta/stats.json or meta/episodes_stats.jsonl, "
    "openpi's norm_stats.json, dataset_statistics.json of Octo or OpenVLA, GR00T's statistics by "
    'joint group, robomimic\'s {"actions": {"offset": [...], "scale": [...]}}, a run.json, or '
    '{"scale": [...]}, a number a dimension'
)
_BY_DIMENSION = ("min", "max", "mean", "std", "q01", "q99", "p01", "p99", "mask", "offset", "scale")
Statistics = Mapping[str, Any]  # of actions: a list of numbers for every name


@dataclass(frozen=True, eq=False)
class TrainerScales:
    """What a trainer's file of statistics says.

    Parameters
    ----------
    path : Path
        The file.
    scalings : dict of str to Scaling
        By dataset; the one key ``""`` where all datasets are scaled alike.
    """

    path: Path
    scalings: Mapping[str, Scaling]

    def of(self, dataset: str) -> Scaling:
        """Give the scaling of a dataset's actions.

        Raises
        ------
        ConfigError
            If the file has statistics of several datasets and none of this one.
        """
        if len(self.scalings) == 1:
            return next(iter(self.scalings.values()))
        if dataset not in self.scalings:
            raise ConfigError(
                f"{self.path} has statistics of {', '.join(self.scalings)}, none of {dataset!r}",
                "name the dataset as the trainer does, by [datasets.NAME] in ambient.toml",
            )
        return self.scalings[dataset]


class _MissingError(Exception):
    """Statistics that a trainer needs are not in its file."""

    def __init__(self, found: Statistics, name: str) -> None:
        kinds = {"minmax": "max", "gaussian": "std", "quantile": "q01"}
        given = [kind for kind, known in kinds.items() if found.get(known) is not None]
        super().__init__(f"{name} of actions; it has {', '.join(sorted(found))}")
        self.hint = f"choose what it has, as the trainer does: --normalize {' or '.join(given)}"


def read_trainer_scales(path: Path, kind: str) -> TrainerScales:
    """Read how a trainer scales actions.

    Parameters
    ----------
    path : Path
        Its file of statistics.
    kind : {"minmax", "quantile", "gaussian"}
        Which statistics it uses. Files that say offset and scale themselves are taken as they are.

    Raises
    ------
    ConfigError
        If the file is none of a known trainer, or has no such statistics.
    """
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            episodes = path.suffix == ".jsonl"  # one a line: as many as the data has
            name, found = _recognize(
                {"action": _merge_episodes(file)} if episodes else json.load(file)
            )
        for each in found.values():
            _require_sizes(each)
        with np.errstate(all="ignore"):  # what is not finite is refused below
            scalings = {dataset: RULES[name](each, kind) for dataset, each in found.items()}
    except _MissingError as error:
        raise ConfigError(f"{path}, of {name}, has no {error}", error.hint) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} tells no scale of actions: {error!r}", _EXPECTED) from error
    for scaling in scalings.values():
        _check(path, scaling)
    source = {"file": path.name, "format": name, "sha256": sha256}
    return TrainerScales(path, {key: replace(s, source=source) for key, s in scalings.items()})


def _require_sizes(found: Statistics) -> None:
    sizes = {name: np.size(found[name]) for name in _BY_DIMENSION if found.get(name) is not None}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"its statistics differ in size: {sizes}")


def _check(path: Path, scaling: Scaling) -> None:
    offset, scale = scaling.offset, scaling.scale
    sound = np.isfinite(scale).all() and np.isfinite(offset).all() and (scale >= 0.0).all()
    if scale.ndim != 1 or offset.shape != scale.shape or not sound or not scale.any():
        raise ConfigError(f"{path}: the scale of actions is {scale.tolist()}", _EXPECTED)


def fit_length(scaling: Scaling, dims: Sequence[int], size: int) -> Scaling:
    """Give a scaling of the dimensions that were read.

    Parameters
    ----------
    scaling : Scaling
        Of the trainer's dimensions.
    dims : sequence of int
        Those of the dataset that are kept; empty: all.
    size : int
        How many there are.

    Raises
    ------
    ConfigError
        If the trainer has another number of dimensions.
    """
    known = scaling.scale.size
    if dims and known > max(dims):
        return scaling.take(dims)
    if known > size and scaling.source.get("format") == "openpi":  # it pads actions
        return scaling.take(range(size))
    if known == size:
        return scaling
    raise ConfigError(
        f"{scaling.source.get('file')} has {known} action dimensions, the data {size}",
        "give statistics of the same actions, or name those that both have: dims in ambient.toml",
    )


def scale_members(
    scalings: Mapping[str, Scaling],
    dims: Mapping[str, Sequence[int]],
    values: Float[np.ndarray, "n action"],
    kind: Normalization,
    *,
    absolute: bool,
) -> dict[str, Normalizer]:
    """Make the normaliser of every member: one and the same where the trainer scales all alike.

    Parameters
    ----------
    scalings, dims : mapping of str
        By member, what its statistics say, and the action dimensions that were chosen.
    values : ndarray, shape (n, action)
        The clean set's, as windows represent them.
    kind, absolute
        As in `scale_as_trainer`.
    """
    fitted = {
        name: fit_length(each, dims[name], values.shape[1]) for name, each in scalings.items()
    }
    alike = len({json.dumps(each.as_dict()) for each in fitted.values()}) == 1
    made = {
        name: scale_as_trainer(kind, each, values, absolute=absolute, shared=alike)
        for name, each in fitted.items()
    }
    return dict.fromkeys(made, next(iter(made.values()))) if alike else made


def _recognize(content: Any) -> tuple[str, dict[str, Statistics]]:
    """Tell whose file it is, and find the statistics of actions, by dataset."""
    if "normaliser" in content:
        return "ambient-curate", _of_run(content)
    if "scale" in content:
        return "ambient-curate", {"": content}
    if "norm_stats" in content:
        return "openpi", {"": content["norm_stats"]["actions"]}
    parts = [each for each in content.values() if isinstance(each, Mapping)]
    if all(each.keys() == {"offset", "scale"} for each in parts):
        return "robomimic", {"": _join(content)}
    if _is_statistics(content.get("action")):
        return _name_flat(content), {"": content["action"]}
    if all(_is_statistics(each.get("action")) for each in parts):
        datasets = {dataset: each["action"] for dataset, each in content.items()}
        return "octo" if any("p01" in each for each in datasets.values()) else "openvla", datasets
    if len(content) > 1:
        raise ValueError(f"it has {', '.join(content)}, of which one embodiment is to be kept")
    ((_, tag),) = content.items()
    name = "gr00t-n1.5" if "statistics" in tag else "gr00t"
    groups = tag.get("statistics", tag)["action"]
    return name, {"": _join({key: each for key, each in groups.items() if "mean" in each})}


def _is_statistics(found: Any) -> bool:
    return isinstance(found, Mapping) and isinstance(
        found.get("mean", found.get("min")), list | np.ndarray
    )


def _name_flat(content: Statistics) -> str:
    """Tell LeRobot's statistics from those of Octo and OpenVLA."""
    if "p01" in content["action"]:
        return "octo"
    if "num_transitions" in content or "mask" in content["action"]:
        return "openvla"
    return "lerobot"


def _join(groups: Mapping[str, Statistics]) -> dict[str, np.ndarray]:
    """Join groups of dimensions, in the file's order."""
    common = set.intersection(*(set(each) for each in groups.values()))
    return {
        name: np.concatenate([_numbers(each[name]) for each in groups.values()]) for name in common
    }


def _of_run(content: Statistics) -> dict[str, Statistics]:
    own = content.get("normalisers", {})
    whole = content["normaliser"]
    return {name: own.get(name, whole) for name in content["members"]} if own else {"": whole}


def _merge_episodes(lines: Iterable[bytes]) -> dict[str, np.ndarray]:
    """Merge LeRobot's statistics of episodes as it does: by their numbers of frames."""
    count, mean, square = 0.0, np.zeros(1), np.zeros(1)
    low, high = np.full(1, np.inf), np.full(1, -np.inf)
    for line in lines:
        found = json.loads(line)["stats"]["action"]
        low, high = np.minimum(low, found["min"]), np.maximum(high, found["max"])
        frames, own = float(np.ravel(found["count"])[0]), _numbers(found["mean"])
        step = own - mean
        # the parallel rule for sums of squares about the mean
        square = square + frames * (
            _numbers(found["std"]) ** 2 + step**2 * count / (count + frames)
        )
        mean = mean + step * frames / (count + frames)
        count += frames
    return {"min": low, "max": high, "mean": mean, "std": np.sqrt(square / count)}


def _numbers(values: Any) -> np.ndarray:
    return np.ravel(np.asarray(values, dtype=np.float64))


def _ends(found: Statistics, kind: str) -> list[np.ndarray]:
    names = ("min", "max") if kind == "minmax" else ("q01", "q99")
    return [_read(found, name) for name in names]


def _read(found: Statistics, name: str) -> np.ndarray:
    if found.get(name) is None:
        raise _MissingError(found, name)
    return _numbers(found[name])


def _span(low: np.ndarray, width: np.ndarray) -> Scaling:
    """Give ``2 * (x - low) / width - 1``."""
    return _scale(low, 2.0 / width, -1.0)


def _scale(offset: np.ndarray, scale: np.ndarray, shift: float = 0.0) -> Scaling:
    nowhere = np.zeros(scale.shape, dtype=bool)
    return Scaling(offset, scale, np.full(scale.shape, shift), nowhere)


def _centre(found: Statistics, floor: float) -> Scaling:
    """Give ``(x - mean) / (std + floor)``."""
    mean, std = _read(found, "mean"), _read(found, "std")
    return _scale(mean, 1.0 / (std + floor))


def _put(scaling: Scaling, where: np.ndarray, scale: float) -> Scaling:
    """Give dimensions another scale, and no offset."""
    offset, shift = (np.where(where, 0.0, each) for each in (scaling.offset, scaling.shift))
    scale_there = np.where(where, scale, scaling.scale)
    return replace(scaling, offset=offset, scale=scale_there, shift=shift)


def _scale_lerobot(found: Statistics, kind: str) -> Scaling:
    """Take 1e-8 for a width of 0, and add it to every standard deviation."""
    if kind == "gaussian":
        return _centre(found, 1e-8)
    low, high = _ends(found, kind)
    return _span(low, np.where(high == low, 1e-8, high - low))


def _scale_openpi(found: Statistics, kind: str) -> Scaling:
    """Add 1e-6 to every width and standard deviation."""
    if kind == "gaussian":
        return _centre(found, 1e-6)
    low, high = _ends(found, kind)
    return _span(low, high - low + 1e-6)


def _scale_octo(found: Statistics, kind: str) -> Scaling:
    """Add 1e-8; cut quantiles off at -1 and 1; leave what is masked as it is stored.

    Its "bounds" are the quantiles: the range that is in the file is not used.
    """
    if kind == "gaussian":
        return _mask(_centre(found, 1e-8), found)
    low, high = _read(found, "p01"), _read(found, "p99")
    made = replace(_span(low, high - low + 1e-8), clipped=np.ones(low.shape, dtype=bool))
    return _mask(made, found)


def _scale_openvla(found: Statistics, kind: str) -> Scaling:
    """Do as Octo, but put 0 for a dimension of no range where ranges are used."""
    if kind == "gaussian":
        return _mask(_centre(found, 1e-8), found)
    low, high = _ends(found, kind)
    made = replace(_span(low, high - low + 1e-8), clipped=np.ones(low.shape, dtype=bool))
    return _put(_mask(made, found), _numbers(found["min"]) == _numbers(found["max"]), 0.0)


def _mask(scaling: Scaling, found: Statistics) -> Scaling:
    kept = ~np.asarray(found.get("mask", np.ones(scaling.scale.shape)), dtype=bool)
    return replace(_put(scaling, kept, 1.0), clipped=scaling.clipped & ~kept)


def _scale_gr00t_n15(found: Statistics, kind: str) -> Scaling:
    """Put 0 for an empty range, leave other constants as stored, cut quantiles off."""
    if kind == "gaussian":
        return _scale_moving(found)
    low, high = _ends(found, kind)
    still = low == high
    made = _put(_span(low, np.where(still, 1.0, high - low)), still, float(kind == "quantile"))
    return replace(made, clipped=np.full(low.shape, kind == "quantile"))


def _scale_gr00t(found: Statistics, kind: str) -> Scaling:
    """Put 0 for an empty range, leave what has no standard deviation, cut all off."""
    if kind == "gaussian":
        made = _scale_moving(found)
    else:
        low, high = _ends(found, kind)
        still = np.isclose(high, low)
        made = _put(_span(low, np.where(still, 1.0, high - low)), still, 0.0)
    return replace(made, clipped=np.ones(made.scale.shape, dtype=bool))


def _scale_moving(found: Statistics) -> Scaling:
    std = _read(found, "std")
    moving = np.where(std == 0.0, 1.0, std)
    return _put(_centre({**found, "std": moving}, 0.0), std == 0.0, 1.0)


def _scale_robomimic(found: Statistics, kind: str) -> Scaling:
    """Divide by what it calls a scale, whatever that was made from."""
    offset, divisor = _numbers(found["offset"]), _numbers(found["scale"])
    return _scale(offset, 1.0 / divisor)


def _scale_plain(found: Statistics, kind: str) -> Scaling:
    scale = np.asarray(found["scale"], dtype=np.float64)
    if "low" not in found and not (scale > 0.0).all():  # only a run means something by 0
        raise ValueError(f"the scale of actions is {scale.tolist()}")
    offset = np.asarray(found.get("offset", np.zeros(scale.shape)), dtype=np.float64)
    given = found.get("trainer", {})  # of a run that had one
    shift, clipped = (np.asarray(given.get(k, np.zeros(scale.shape))) for k in ("shift", "clipped"))
    return Scaling(offset, scale, shift.astype(np.float64), clipped.astype(bool))


RULES: Mapping[str, Callable[[Statistics, str], Scaling]] = {
    "lerobot": _scale_lerobot,
    "openpi": _scale_openpi,
    "octo": _scale_octo,
    "openvla": _scale_openvla,
    "gr00t-n1.5": _scale_gr00t_n15,
    "gr00t": _scale_gr00t,
    "robomimic": _scale_robomimic,
    "ambient-curate": _scale_plain,
}


def compare_scales(own: Mapping[str, Normalizer], trainer: Mapping[str, Scaling]) -> float:
    """Give the factor by which a trainer's scaled actions are larger than the run's.

    An offset that all datasets share does not matter: noise hides no constant.

    Parameters
    ----------
    own : mapping of str to Normalizer
        The run's, by dataset.
    trainer : mapping of str to Scaling
        The trainer's, for the same datasets.

    Raises
    ------
    ConfigError
        If there is no one factor for all dimensions and datasets: noise would hide other things
        then.
    """
    found = {name: _compare(own[name], trainer[name]) for name in own}
    factors = np.array([factor for factor, _ in found.values()])
    shifts = np.stack([shift for _, shift in found.values()])
    if np.ptp(factors) > TOLERANCE * factors.min() or (np.ptp(shifts, axis=0) > _HIDDEN).any():
        raise ConfigError(
            "the trainer scales every dataset by its own statistics, and the run did not scale "
            "them so"
        )
    return float(factors.mean())


def _compare(own: Normalizer, trainer: Scaling) -> tuple[float, np.ndarray]:
    """Give the factor for one dataset, and where the trainer has the run's zero."""
    shown = (
        f"the run multiplies actions by {_show(own.scale)}, the trainer by {_show(trainer.scale)}"
    )
    if own.scale.shape != trainer.scale.shape:
        raise ConfigError(shown)
    compared = own.scale > 0.0
    # a dataset that moves where the clean set is constant has no sigma_min, whatever the scale
    spread = (own.high - own.low) * trainer.scale
    if own.trainer is not None:
        spread = np.where(trainer.scale > 0.0, np.inf, 0.0)  # the run's trainer never saw it
    if (spread[~compared] > _HIDDEN).any():
        raise ConfigError(f"{shown}; the run compared nothing where it has 0")
    ratio = trainer.scale[compared] / own.scale[compared]
    if ratio.min() == 0.0 or np.ptp(ratio) > TOLERANCE * ratio.min():
        raise ConfigError(f"{shown}: one is no multiple of the other")
    nought = own.offset - (0.0 if own.trainer is None else own.trainer.shift * own.spread)
    shift = (nought - trainer.offset) * trainer.scale + trainer.shift
    return float(ratio.mean()), np.where(compared, shift, 0.0)


def _show(scale: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in scale.tolist()) + "]"
