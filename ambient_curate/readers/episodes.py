"""Episode and Dataset: what every reader returns."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, Int64

from ambient_curate.errors import DatasetError

Label = str | int | float | bool

ACTIONS = ("action", "actions")  # usual names
STATES = ("observation.state", "state")
LONGEST_LABEL = 256  # characters; anything longer (a simulator's model) is data, not a label
_ALIKE = {"action": re.compile("action"), "state": re.compile("state|qpos|proprio")}
_FLAG = re.compile(r"terminat|is_(first|last)|done")  # of an episode's end


@dataclass(frozen=True)
class Episode:
    """The low-dimensional part of one episode.

    Parameters
    ----------
    id : str
        Stable name of the episode in its dataset, equal on every machine and in every run: the
        LeRobot episode index, ``tfds_id`` (``"<file>__<i>"``), ``"demo_3"``, ...
    number : int
        The source's own number of the episode, 0 or more: LeRobot's ``episode_index``, the 3 of
        ``demo_3``. Where the source has none, its position in reading order, from 0.
    action : ndarray, float32, shape (frame, action)
        Actions as stored, in the dataset's own units.
    source : Path
        The file that holds the episode.
    state : ndarray, float32, shape (frame, state), or None
        Proprioceptive state at the same frames, where the dataset names one.
    task : str or None
        Task or language instruction.
    rate_hz : float or None
        Control rate; None where neither the format nor ``ambient.toml`` tells it.
    first_frame : int or None
        Global index of the first frame where the source has one (LeRobot ``index``).
    labels : mapping of str to str, int, float or bool
        Episode-level columns, for ``where`` and ``--group-by COLUMN``.
    problems : sequence of str
        What was wrong in the episode and did not stop the reader: ``"KIND"`` or
        ``"KIND: details"``, where episodes with the same fault give the same kind.
    period_s : float or None
        Median step between the time stamps of two frames in seconds, where there are stamps.
    """

    id: str
    number: int
    action: Float32[np.ndarray, "frame action"]
    source: Path
    state: Float32[np.ndarray, "frame state"] | None = None
    task: str | None = None
    rate_hz: float | None = None
    first_frame: int | None = None
    labels: Mapping[str, Label] = field(default_factory=dict)
    problems: Sequence[str] = ()
    period_s: float | None = None

    @property
    def length(self) -> int:
        """Number of frames."""
        return int(self.action.shape[0])

    @property
    def digest(self) -> bytes:
        """SHA-256 of the shape and bytes of the actions: equal for exact duplicates."""
        action = np.ascontiguousarray(self.action, np.float32)
        digest = hashlib.sha256(np.array(action.shape, np.int64).tobytes())
        digest.update(action.data)
        return digest.digest()


class EpisodeError(DatasetError):
    """One episode cannot be read, while the rest of its file can."""


class EpisodeName(NamedTuple):
    """What an episode is called, known before its frames are read: see `Episode`."""

    id: str
    number: int


@dataclass(frozen=True)
class ReadRequest:
    """Which episodes of a shard are read, and what is done about one that cannot be.

    Parameters
    ----------
    keeps : callable
        Tells of a name whether the episode is wanted; nothing is read of another.
    on_damage : callable or None
        Called with the name and the error of an episode that cannot be read, while the rest of
        its shard can. None: the error is raised.
    """

    keeps: Callable[[EpisodeName], bool] = lambda name: True
    on_damage: Callable[[EpisodeName, DatasetError], None] | None = None

    def read(self, name: EpisodeName, read: Callable[[], Episode]) -> Iterator[Episode]:
        """Yield the episode that `read` returns, or none where it is not wanted or damaged.

        Raises
        ------
        EpisodeError
            What `read` raises, with the name of the episode and the line that leaves it out,
            where there is no `on_damage`.
        """
        if not self.keeps(name):
            return
        try:
            episode = read()
        except DatasetError as error:
            damage = _name_damage(name, error)
            if self.on_damage is None:
                raise damage from error
            self.on_damage(name, damage)
        else:
            yield episode


ALL = ReadRequest()


def _name_damage(name: EpisodeName, error: DatasetError) -> EpisodeError:
    """Say which episode is damaged, and how it is left out."""
    text = str(error)
    excluded = json.dumps([name.id], ensure_ascii=False)
    return EpisodeError(
        text if name.id in text else f"episode {name.id}: {text}",
        f"{error.hint}; exclude = {excluded} leaves the episode out",
    )


@dataclass(frozen=True)
class ReaderOptions:
    """What a user says about one dataset where its files leave a choice.

    Parameters
    ----------
    action : sequence of str
        Names of the action columns or features, concatenated in this order; empty: the format's
        own name (``action``, ``actions``).
    state : sequence of str
        The same for the state; empty: the format's own name where it has one, else no state.
    split : str or None
        Split to read where the format has splits; None: the format's default (RLDS: ``train``).
    rate_hz : float or None
        Control rate, overriding the files'.
    transpose : bool or None
        Whether ``.npy`` and ``.npz`` arrays are (value, frame); None: (frame, value), where that is
        likely.
    checksums : bool
        Verify payload checksums where the format has them.
    """

    action: Sequence[str] = ()
    state: Sequence[str] = ()
    split: str | None = None
    rate_hz: float | None = None
    transpose: bool | None = None
    checksums: bool = True


@runtime_checkable  # so that the tests can check annotations at run time
class Dataset(Protocol):
    """One opened dataset: its metadata is read and checked, its episodes are read on demand.

    Opening raises `DatasetError` where the metadata is missing or damaged; `read_shard` raises it
    where a data file is. Both name the file, what was expected and what to do. Of several files
    the damaged ones are no reason not to open the rest.
    """

    @property
    def path(self) -> Path:
        """Directory or file of the dataset."""

    @property
    def format(self) -> str:
        """Format and version for people: ``"LeRobot v2.1"``, ``"RLDS"``, ``"HDF5"``, ``"npz"``."""

    @property
    def shards(self) -> Sequence[Path]:
        """Data files in reading order: the units of reading, of skipping and of fingerprints."""

    @property
    def metadata_files(self) -> Sequence[Path]:
        """Files beside the shards that the content depends on (``meta/info.json``, ...)."""

    @property
    def problems(self) -> Sequence[str]:
        """Deviations from the format that did not stop the reader, one sentence each."""

    @property
    def is_numbered(self) -> bool:
        """Whether the source numbers its episodes; if not, their numbers are positions."""

    def list_episodes(self, shard: Path) -> Sequence[EpisodeName]:
        """List what `read_shard` yields, by name, without reading frames; in any order."""

    def read_shard(self, shard: Path, request: ReadRequest = ALL) -> Iterator[Episode]:
        """Yield the wanted episodes of one shard in source order; low-dimensional data only.

        What is wrong in one episode is told to `request`. An error that is raised all the same
        concerns the file: the episodes that have not been yielded cannot be read.
        """


_LONGEST_STEP = 1.5  # of a median step: above it a frame is missing
_SECONDS = (1e-5, 10.0)  # that a robot's step may last


def measure_clock(
    times: Float64[np.ndarray, " frame"],
) -> tuple[float | None, list[str]]:
    """Measure the median step between an episode's time stamps, and say what is wrong with them.

    Parameters
    ----------
    times : ndarray, float64, shape (frame,)
        Seconds.

    Returns
    -------
    float or None
        The step in seconds; None where there is none above 0.
    list of str
        Problems, as in `Episode`.
    """
    if not np.isfinite(times).all():
        return None, ["timestamp is no number: at some frames"]
    problems = []
    if len(times) and times.min() < 0:
        problems.append(f"timestamp is below 0: {times.min():.4g} s at the least")
    steps = np.diff(times)
    period = float(np.median(steps)) if len(steps) else 0.0
    if period > 0 and not _SECONDS[0] <= period <= _SECONDS[1]:
        return None, [*problems, f"timestamp is not in seconds: its median step is {period:.4g}"]
    if (steps <= 0).any():
        place = int(np.flatnonzero(steps <= 0)[0])
        problems.append(
            f"timestamp does not rise: {times[place]:.6g} s at frame {place}, "
            f"{times[place + 1]:.6g} s after it"
        )
    elif (steps > _LONGEST_STEP * period).any():
        place = int(steps.argmax())
        problems.append(
            f"timestamp jumps: by {steps[place]:.4g} s after frame {place}, where the median step "
            f"is {period:.4g} s"
        )
    return period if period > 0 else None, problems


def find_alike(role: str, names: Iterable[str]) -> list[str]:
    """Find the names that may stand for ``action`` or ``state``, in the order given.

    Examples
    --------
    >>> find_alike("action", ["reward", "action/xyz", "action/grip", "action/terminate"])
    ['action/xyz', 'action/grip']
    """
    words = _ALIKE[role]
    return [each for each in names if words.search(each.lower()) and not _FLAG.search(each.lower())]


def suggest_names(role: str, names: Iterable[str]) -> str:
    """Write the line of ``ambient.toml`` that names action or state, from the names there are."""
    return f"{role} = {json.dumps(find_alike(role, names) or ['NAME'], ensure_ascii=False)}"


def report_unread_state(state: Sequence[str], names: Iterable[str]) -> list[str]:
    """Say in a sentence that no state is read though some name may stand for one."""
    if state or not (found := find_alike("state", names)):
        return []
    return [f"no state is read; if one is wanted, in ambient.toml: {suggest_names('state', found)}"]


def name_file(root: Path, file: Path) -> str:
    """Name a file of the dataset at `root`: its stem, or the directory that it has for itself."""
    if root in (file, file.parent):
        return file.stem
    return file.parent.relative_to(root).as_posix()


def count_windows(length: Int64[np.ndarray, " *shape"], horizon: int, stride: int) -> np.ndarray:
    """Whole windows of episodes of `length` frames: starts 0, stride, ... <= length - horizon."""
    return np.maximum((length - horizon) // stride + 1, 0)


_DIGITS = re.compile(r"([0-9]+)")
_LARGEST = 2**63


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key of names in which numbers count as numbers: ``episode_2`` before ``episode_10``."""
    parts = _DIGITS.split(name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def distinct_numbers(numbers: Collection[int]) -> bool:
    """Tell whether numbers can tell episodes apart: all different, each from 0 to 2^63 - 1."""
    inside = all(0 <= number < _LARGEST for number in numbers)
    return inside and len(set(numbers)) == len(numbers)


def numbers_in_names(names: Sequence[str]) -> list[int] | None:
    """Find the number that each name has at one and the same place, and no other name has.

    Returns
    -------
    list of int or None
        None where there is no such place, or more than one.

    Examples
    --------
    >>> numbers_in_names(["episode_2", "episode_10", "episode_7_failed"])
    [2, 10, 7]
    >>> numbers_in_names(["2024-05-01_ep3", "2024-05-02_ep4"]) is None
    True
    """
    parts = [_DIGITS.split(name) for name in names]
    found = []
    for place in range(1, min(map(len, parts), default=0), 2):
        before = {each[place - 1] for each in parts}
        numbers = [int(each[place]) for each in parts]
        if len(before) == 1 and distinct_numbers(numbers):
            found.append(numbers)
    return found[0] if len(found) == 1 else None


def find_shared_frames(
    first: Int64[np.ndarray, " episode"], length: Int64[np.ndarray, " episode"]
) -> tuple[int, int] | None:
    """Find two episodes that have a global index of frames in common; None: there are none.

    Parameters
    ----------
    first, length : ndarray, int64, shape (episode,)
        Global index of the first frame, -1 where there is none, and number of frames.
    """
    order = np.argsort(first, kind="stable")
    order = order[(first[order] >= 0) & (length[order] > 0)]
    shared = np.flatnonzero((first + length)[order[:-1]] > first[order[1:]])
    return (int(order[shared[0]]), int(order[shared[0] + 1])) if shared.size else None
