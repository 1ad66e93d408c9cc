"""Inspection of a collection: what is in it, and what would mislead a comparison."""

import hashlib
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from ambient_curate.data.collection import (
    RATE_TOLERANCE,
    Collection,
    Member,
    check_action_dims,
    compare_rate,
    open_split,
    read_episodes,
    require_clean,
)
from ambient_curate.errors import ConfigError, DatasetError
from ambient_curate.progress import SILENT, Progress
from ambient_curate.readers.episodes import Episode

ABSOLUTE_RATIO = 5.0  # root mean square over root mean square deviation within a window
WINDOW = 16  # frames, the default horizon
MOVING_SHARE = 0.1  # of the frames; a dimension that changes less often is a command


@dataclass
class Motion:
    """Per action dimension: extremes, squares, squares about the window's mean, and changes."""

    low: Float64[np.ndarray, " action"]
    high: Float64[np.ndarray, " action"]
    squares: Float64[np.ndarray, " action"]
    squares_within: Float64[np.ndarray, " action"]
    changes: Int64[np.ndarray, " action"]
    frames: int = 0

    @classmethod
    def zeros(cls, size: int) -> "Motion":
        """Start with no frame of `size` dimensions."""
        low, high = np.full(size, np.inf), np.full(size, -np.inf)
        return cls(low, high, np.zeros(size), np.zeros(size), np.zeros(size, np.int64))

    def add(self, action: Float64[np.ndarray, "frame action"]) -> None:
        """Count the frames of one episode in."""
        self.low = np.minimum(self.low, action.min(axis=0))
        self.high = np.maximum(self.high, action.max(axis=0))
        whole = len(action) // WINDOW * WINDOW
        windows = action[:whole].reshape(-1, WINDOW, action.shape[1])
        self.squares += (windows**2).sum(axis=(0, 1))
        self.squares_within += ((windows - windows.mean(axis=1, keepdims=True)) ** 2).sum(
            axis=(0, 1)
        )
        self.changes += (np.diff(action, axis=0) != 0).sum(axis=0)
        self.frames += len(action)

    def constant_dims(self) -> list[int]:
        """List the dimensions that never change."""
        return np.flatnonzero(self.low == self.high).tolist()

    def absolute_dims(self) -> list[int]:
        """List the dimensions far from zero for the distance they move.

        Over whole windows, the root mean square is more than `ABSOLUTE_RATIO` times the root mean
        square deviation from the window's own mean. Dimensions that change in less than
        `MOVING_SHARE` of the frames (a gripper command, a constant) are not positions.
        """
        far = self.squares > ABSOLUTE_RATIO**2 * self.squares_within
        return np.flatnonzero(far & (self.changes >= MOVING_SHARE * self.frames)).tolist()


def name_dims(dims: Sequence[int], kind: str = "action") -> str:
    """Name dimensions of actions (or of states) in words, neighbours as a range."""
    starts = [dim for dim in dims if dim - 1 not in dims]
    ends = [dim for dim in dims if dim + 1 not in dims]
    runs = [f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    return f"{kind} dimension{'s' * (len(dims) > 1)} {', '.join(runs)}"


LISTED = 5  # damages listed one by one


@dataclass(frozen=True)
class MemberInspection:
    """What one member holds after its selection.

    Parameters
    ----------
    name, format : str
        Member and format.
    path : Path
        Where it lies.
    is_clean : bool
        Whether it is the clean set.
    episodes, steps : int
        Numbers of readable episodes and of their frames.
    shortest, longest : int
        Lengths of the shortest and longest episode in frames; 0 without episodes.
    action_dim : int or None
        Action dimension; None without episodes.
    state_dim : int or None
        State dimension; None where there is no state.
    rate_hz : float or None
        Control rate, where known.
    tasks : int
        Number of different tasks.
    duplicates : int
        Episodes whose actions are, byte for byte, those of an earlier episode of this member.
    duplicates_elsewhere : int
        Episodes whose actions are those of an episode of another member.
    problems : tuple of str
        What is wrong or would mislead a comparison, one sentence each.
    notes : tuple of str
        What is worth a look, one sentence each.
    """

    name: str
    format: str
    path: Path
    is_clean: bool
    episodes: int
    steps: int
    shortest: int
    longest: int
    action_dim: int | None
    state_dim: int | None
    rate_hz: float | None
    tasks: int
    duplicates: int
    duplicates_elsewhere: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """What a collection holds.

    Parameters
    ----------
    path : Path
        The collection.
    clean : str or None
        Name of the clean set, where one is named.
    members : tuple of MemberInspection
        Sorted by name.
    broken : tuple of (str, str)
        Members that cannot be opened, with the reason.
    problems : tuple of str
        What concerns several members, one sentence each.
    """

    path: Path
    clean: str | None
    members: tuple[MemberInspection, ...]
    broken: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        content = asdict(self)
        content["path"] = str(self.path)
        content["broken"] = dict(self.broken)
        content["problems"] = list(self.problems)
        content["members"] = [
            member
            | {"path": str(member["path"])}
            | {key: list(member[key]) for key in ("problems", "notes")}
            for member in content["members"]
        ]
        return content


def inspect_collection(collection: Collection, *, progress: Progress = SILENT) -> Inspection:
    """Read every member once and report what it holds and what is wrong with it.

    Damaged files and episodes are problems of their member and are left out of its numbers.

    Raises
    ------
    ConfigError
        If a line of ``ambient.toml`` does not fit its member.
    """
    tallies = {
        member.name: _count_member(member, progress=progress) for member in collection.members
    }
    rates = {name: tally.rate_hz for name, tally in tallies.items()}
    reference = collection.clean if collection.clean in tallies else None
    holders = Counter(content for tally in tallies.values() for content in tally.contents)
    repeated = {content for content, count in holders.items() if count > 1}
    members = tuple(
        _inspect_member(member, tallies, repeated, reference, progress)
        for member in collection.members
    )
    problems = _check_clean(collection) + _compare_dims(tallies, reference)
    problems += _compare_rates(rates) if reference is None else []
    return Inspection(
        collection.path,
        reference,
        members,
        tuple((name, str(error)) for name, error in collection.broken),
        tuple(problems),
    )


@dataclass
class _Tally:
    """Running sums over the episodes of one member; memory grows by a digest an episode."""

    lengths: list[int] = field(default_factory=list)
    contents: Counter[bytes] = field(default_factory=Counter)
    tasks: set[str] = field(default_factory=set)
    rates: set[float] = field(default_factory=set)
    action_dims: set[int] = field(default_factory=set)
    state_dims: set[int] = field(default_factory=set)
    damages: list[str] = field(default_factory=list)
    motion: Motion | None = None

    def add(self, episode: Episode) -> None:
        action = episode.action
        self.lengths.append(episode.length)
        self.contents[hashlib.sha256(repr(action.shape).encode() + action.tobytes()).digest()] += 1
        self.tasks |= {episode.task} if episode.task is not None else set()
        self.rates |= {episode.rate_hz} if episode.rate_hz is not None else set()
        self.action_dims.add(action.shape[1])
        self.state_dims |= {episode.state.shape[1]} if episode.state is not None else set()
        if self.motion is None:
            self.motion = Motion.zeros(action.shape[1])
        if len(self.action_dims) == 1:
            self.motion.add(action.astype(np.float64))

    @property
    def rate_hz(self) -> float | None:
        return min(self.rates) if self.rates else None


def _count_member(member: Member, *, progress: Progress = SILENT) -> _Tally:
    tally = _Tally()

    def report(path: Path, error: DatasetError) -> None:
        tally.damages.append(str(error))

    try:
        for episode in read_episodes(member, on_error="skip", progress=progress, on_skip=report):
            tally.add(episode)
    except DatasetError as error:  # nothing is left; any damage is listed already
        tally.damages.append(str(error))
    return tally


def _inspect_member(
    member: Member,
    tallies: Mapping[str, _Tally],
    repeated: Container[bytes],
    clean: str | None,
    progress: Progress,
) -> MemberInspection:
    tally = tallies[member.name]
    problems = [*member.dataset.problems, *_list_problems(tally)]
    if clean is not None and clean != member.name and tally.lengths:
        problems += compare_rate(tally.rate_hz, clean, tallies[clean].rate_hz)
    problems += _compare_splits(member, tally, progress)
    return MemberInspection(
        name=member.name,
        format=member.dataset.format,
        path=member.dataset.path,
        is_clean=member.name == clean,
        episodes=len(tally.lengths),
        steps=sum(tally.lengths),
        shortest=min(tally.lengths, default=0),
        longest=max(tally.lengths, default=0),
        action_dim=max(tally.action_dims, default=None),
        state_dim=max(tally.state_dims, default=None),
        rate_hz=tally.rate_hz,
        tasks=len(tally.tasks),
        duplicates=sum(tally.contents.values()) - len(tally.contents),
        duplicates_elsewhere=sum(
            count for content, count in tally.contents.items() if content in repeated
        ),
        problems=tuple(problems),
        notes=tuple(_list_notes(tally)),
    )


def _list_problems(tally: _Tally) -> list[str]:
    problems = tally.damages[:LISTED]
    if len(tally.damages) > LISTED:
        problems.append(f"and {len(tally.damages) - LISTED} more")
    if len(tally.rates) > 1:
        problems.append(f"its episodes have {len(tally.rates)} different rates")
    for what, dims in (("action", tally.action_dims), ("state", tally.state_dims)):
        if len(dims) > 1:
            problems.append(f"its episodes differ in {what} dimension: {sorted(dims)}")
    if tally.motion is not None and (constant := tally.motion.constant_dims()):
        problems.append(f"constant: {name_dims(constant)}")
    return problems


def _list_notes(tally: _Tally) -> list[str]:
    absolute = tally.motion.absolute_dims() if tally.motion is not None else []
    if not absolute:
        return []
    return [f"far from zero for the motion, so perhaps absolute positions: {name_dims(absolute)}"]


def _compare_rates(rates: Mapping[str, float | None]) -> list[str]:
    known = {name: rate for name, rate in rates.items() if rate is not None}
    if not known or max(known.values()) <= min(known.values()) * (1 + RATE_TOLERANCE):
        return []
    listed = ", ".join(f"{name} {rate:g} Hz" for name, rate in known.items())
    return [f"rates differ: {listed}; a window spans another time in each"]


def _check_clean(collection: Collection) -> list[str]:
    try:
        if collection.clean is not None:
            require_clean(collection)
    except ConfigError as error:
        return [str(error)]
    return []


def _compare_dims(tallies: Mapping[str, _Tally], clean: str | None) -> list[str]:
    dims = {name: max(tally.action_dims) for name, tally in tallies.items() if tally.action_dims}
    if clean in dims:
        dims = {clean: dims[clean]} | dims
    try:
        check_action_dims(dims)
    except ConfigError as error:
        return [f"{error}; {error.hint}"]
    return []


def _compare_splits(member: Member, tally: _Tally, progress: Progress) -> list[str]:
    """Tell which other splits of the dataset repeat episodes of the one that is read."""
    problems: list[str] = []
    read = "the split read"
    repeats: list[tuple[str, int, int]] = []
    for split in getattr(member.dataset, "splits", ()):
        try:
            other = open_split(member, split)
        except DatasetError as error:
            problems.append(f"split {split}: {error}")
            continue
        if other.dataset.shards == member.dataset.shards:
            read = split
            continue
        contents = _count_member(other, progress=progress).contents
        shared = sum(count for content, count in contents.items() if content in tally.contents)
        if shared:
            repeats.append((split, shared, contents.total()))
    return problems + [
        f"split {split} repeats {shared} of {total} episodes of {read}"
        for split, shared, total in repeats
    ]
