"""Inspection of a collection: what is in it, and what would mislead a comparison."""

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ambient_curate.data.collection import (
    RATE_TOLERANCE,
    Collection,
    Member,
    check_action_dims,
    compare_rate,
    compare_rates,
    open_split,
    read_episodes,
    require_clean,
)
from ambient_curate.data.motion import Motion, name_dims
from ambient_curate.data.settings import SETTINGS_FILE
from ambient_curate.errors import ConfigError, DatasetError, Failures, name_some, write_count
from ambient_curate.progress import Progress, silent
from ambient_curate.readers.episodes import Episode, EpisodeName, find_shared_frames
from ambient_curate.readers.hdf5 import HDF5Dataset
from ambient_curate.readers.plain_arrays import ArrayDataset

LISTED = 5  # damages listed one by one
NAMED = 3  # episodes whose number and id are shown, besides the last one
EXCLUDED = 100  # episodes that a line of ambient.toml names
KINDS = 100  # kinds of faults in the episodes of a member
LARGE_SHARE = 0.1  # of frames or values that is noted
SLIGHT_SHARE = 0.01  # of values outside the clean set's range that is noted

_WRONG_RATE = "timestamp contradicts the rate"


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
        Control rate that is stated, else by time stamps, where known.
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
    is_numbered : bool
        Whether the numbers below are the source's own; if not, they are positions.
    names : tuple of EpisodeName
        Id and number of every readable episode, by number.
    hint : str or None
        What to do where nothing of it can be read.
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
    is_numbered: bool = False
    names: tuple[EpisodeName, ...] = ()
    hint: str | None = None

    @property
    def numbering(self) -> str:
        """By what numbers and ids its episodes are called: the first few and the last."""
        shown = [f"{name.number} is {name.id!r}" for name in self.names]
        if len(shown) > NAMED + 1:
            shown[NAMED:-1] = ["..."]
        kind = "the source's own" if self.is_numbered else "positions"
        return f"numbers of its episodes, {kind}: {', '.join(shown)}"


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
            | {"names": [name._asdict() for name in member["names"]]}
            for member in content["members"]
        ]
        return content


def inspect_collection(collection: Collection, *, progress: Progress = silent) -> Inspection:
    """Read every member once and report what it holds and what is wrong with it.

    Damaged files and episodes are problems of their member and are left out of its numbers.

    Raises
    ------
    ConfigError
        If a line of ``ambient.toml`` does not fit its member.
    """
    tallies = _count_members(collection, progress)
    rates = {name: tally.contradictions.clock_hz for name, tally in tallies.items()}
    reference = collection.clean if collection.clean in tallies else None
    holders = Counter(content for tally in tallies.values() for content in tally.contents)
    repeated = {content for content, count in holders.items() if count > 1}
    members = tuple(
        _inspect_member(member, tallies, repeated, reference, progress)
        for member in collection.members
    )
    problems = [*_check_clean(collection), *collection.unread, *_compare_dims(tallies, reference)]
    problems += compare_rates(rates) if reference is None or rates[reference] is None else []
    return Inspection(
        collection.path,
        reference,
        members,
        tuple((name, str(error)) for name, error in collection.broken),
        tuple(problems),
    )


@dataclass
class _Fault:
    """A kind of fault in the episodes of a member: how many have it, the first ones, one's case."""

    details: str
    episodes: int = 0
    first: list[str] = field(default_factory=list)


@dataclass
class Contradictions:
    """What episodes of one member say against the format, their metadata or each other.

    Memory grows by a number an episode.

    Parameters
    ----------
    episodes : int
        Episodes seen.
    rates : set of float
        Control rates that they have.
    """

    episodes: int = 0
    rates: set[float] = field(default_factory=set)
    _faults: dict[str, _Fault] = field(default_factory=dict)
    _periods: list[float] = field(default_factory=list)
    _wrong_periods: list[float] = field(default_factory=list)
    _more: int = 0

    def watch(self, episodes: Iterable[Episode]) -> Iterator[Episode]:
        """Yield the episodes, and add each."""
        for episode in episodes:
            self.add(episode)
            yield episode

    def add(self, episode: Episode) -> None:
        """Add an episode."""
        self.episodes += 1
        for problem in episode.problems:
            kind, _, details = problem.partition(": ")
            self._note(kind, details, episode.id)
        rate, period = episode.rate_hz, episode.period_s
        if rate is not None:
            self.rates.add(rate)
        if period is None:
            return
        self._periods.append(period)
        if rate is not None and abs(1 / period - rate) > RATE_TOLERANCE * rate:
            self._wrong_periods.append(period)
            self._note(_WRONG_RATE, f"{rate:g} Hz", episode.id)

    def _note(self, kind: str, details: str, name: str) -> None:
        if kind not in self._faults and len(self._faults) == KINDS:
            self._more += 1
            return
        fault = self._faults.setdefault(kind, _Fault(details))
        fault.episodes += 1
        if len(fault.first) < LISTED:
            fault.first.append(name)

    @property
    def rate_hz(self) -> float | None:
        """Control rate: the one that is stated, else by the median step of the time stamps."""
        return min(self.rates) if self.rates else self._measured_hz

    @property
    def clock_hz(self) -> float | None:
        """Control rate: by the time stamps where they contradict what is stated."""
        return self._measured_hz if self._wrong_periods else self.rate_hz

    @property
    def _measured_hz(self) -> float | None:
        return 1 / float(np.median(self._periods)) if self._periods else None

    def describe(self) -> list[str]:
        """Say what is wrong, one sentence a kind of fault, with the first episodes that have it."""
        sentences = []
        for kind, fault in self._faults.items():
            named = ", ".join(fault.first) + ", ..." * (fault.episodes > len(fault.first))
            where = f"in {fault.episodes} of {write_count(self.episodes, 'episode')} ({named})"
            details = fault.details
            if kind == _WRONG_RATE:
                period = float(np.median(self._wrong_periods))
                details = (
                    f"{details} is stated, the median step is {period:.4g} s ({1 / period:.4g} Hz);"
                    f" rate_hz = {1 / period:.4g} in ambient.toml states the latter"
                )
            sentences.append(f"{kind} {where}" + f": {details}" * bool(details))
        if self._more:
            sentences.append(f"and {write_count(self._more, 'problem')} of other kinds")
        if len(self.rates) > 1:
            sentences.append(f"its episodes have {len(self.rates)} different rates")
        return sentences


@dataclass
class _Tally:
    """Running sums over the episodes of one member; memory grows by a digest an episode."""

    lengths: list[int] = field(default_factory=list)
    contents: Counter[bytes] = field(default_factory=Counter)
    tasks: set[str] = field(default_factory=set)
    contradictions: Contradictions = field(default_factory=Contradictions)
    action_dims: set[int] = field(default_factory=set)
    state_dims: set[int] = field(default_factory=set)
    damages: Failures = field(default_factory=Failures)
    still: list[str] = field(default_factory=list)
    names: list[EpisodeName] = field(default_factory=list)
    first_frames: list[int] = field(default_factory=list)
    motion: Motion | None = None
    clean: Motion | None = None

    def add(self, episode: Episode) -> None:
        action = episode.action
        self.lengths.append(episode.length)
        self.names.append(EpisodeName(episode.id, episode.number))
        self.first_frames.append(-1 if episode.first_frame is None else episode.first_frame)
        self.contents[hashlib.sha256(repr(action.shape).encode() + action.tobytes()).digest()] += 1
        self.tasks |= {episode.task} if episode.task is not None else set()
        self.contradictions.add(episode)
        self.action_dims.add(action.shape[1])
        self.state_dims |= {episode.state.shape[1]} if episode.state is not None else set()
        if self.motion is None:
            self.motion = Motion.zeros(action.shape[1], self._clean_range(action.shape[1]))
        if len(self.action_dims) == 1:
            self.motion.add(action.astype(np.float64))
        if episode.length > 1 and (action == action[0]).all():
            self.still.append(episode.id)

    def _clean_range(self, size: int) -> tuple[np.ndarray, np.ndarray] | None:
        if self.clean is None or self.clean.low.size != size:
            return None
        return self.clean.low, self.clean.high


def _count_members(collection: Collection, progress: Progress) -> dict[str, _Tally]:
    """Count every member; the clean set first, whose range the others are held against."""
    found: dict[str, _Tally] = {}
    members = sorted(collection.members, key=lambda member: member.name != collection.clean)
    for member in members:
        clean = found[collection.clean].motion if collection.clean in found else None
        found[member.name] = _count_member(member, clean, progress=progress)
    return {member.name: found[member.name] for member in collection.members}


def _count_member(
    member: Member, clean: Motion | None = None, *, progress: Progress = silent
) -> _Tally:
    tally = _Tally(clean=clean)

    def report(path: Path, error: DatasetError) -> None:
        tally.damages.add(str(path), str(error), error.hint)

    try:
        for episode in read_episodes(member, on_error="skip", progress=progress, on_skip=report):
            tally.add(episode)
    except DatasetError as error:  # nothing is left; any damage is counted already
        if not tally.damages:
            tally.damages.add(str(member.dataset.path), str(error), error.hint)
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
        rates = (each.contradictions.clock_hz for each in (tally, tallies[clean]))
        problems += compare_rate(next(rates), clean, next(rates))
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
        rate_hz=tally.contradictions.rate_hz,
        tasks=len(tally.tasks),
        duplicates=sum(tally.contents.values()) - len(tally.contents),
        duplicates_elsewhere=sum(
            count for content, count in tally.contents.items() if content in repeated
        ),
        problems=tuple(problems),
        notes=(*_note_files(member, tally), *_list_notes(tally)),
        is_numbered=member.dataset.is_numbered,
        names=tuple(sorted(tally.names, key=lambda name: name.number)),
        hint=None if tally.lengths else tally.damages.hint(),
    )


def _list_problems(tally: _Tally) -> list[str]:
    problems = [*tally.damages.sentences(LISTED), *tally.contradictions.describe()]
    problems += _find_repeated_index(tally)
    for what, dims in (("action", tally.action_dims), ("state", tally.state_dims)):
        if len(dims) > 1:
            problems.append(f"its episodes differ in {what} dimension: {sorted(dims)}")
    motion = tally.motion
    if motion is not None and (constant := motion.constant_dims()):
        problems.append(f"constant: {name_dims(constant)}")
    if motion is not None and (hidden := motion.moves_where_constant()):
        problems.append(
            f"constant in the clean set and not here: {name_dims(hidden)}: annotate compares "
            "nothing there, and gives no sigma_min to a set that moves there"
        )
    if tally.still:
        problems.append(_describe_still(tally))
    return problems


def _find_repeated_index(tally: _Tally) -> list[str]:
    shared = find_shared_frames(np.array(tally.first_frames, int), np.array(tally.lengths, int))
    if shared is None:
        return []
    one, other = (
        f"{tally.names[place].number} begins at {tally.first_frames[place]}" for place in shared
    )
    return [
        f"index repeats (episode {one}, episode {other}): frames are joined by episode_index and "
        "frame_index"
    ]


def _describe_still(tally: _Tally) -> str:
    """Name the episodes that never move, with the line that leaves them out."""
    named = ", ".join(tally.still[:LISTED]) + ", ..." * (len(tally.still) > LISTED)
    text = f"{len(tally.still)} of {len(tally.lengths)} episodes never move: {named}"
    if len(tally.still) > EXCLUDED:
        return text
    return f"{text}; exclude = {json.dumps(tally.still, ensure_ascii=False)} leaves them out"


def _note_files(member: Member, tally: _Tally) -> list[str]:
    """Say that several files of several episodes each are one dataset, and how to part them."""
    dataset = member.dataset
    files = [file.stem for file in dataset.shards if file.parent == dataset.path]
    plain = isinstance(dataset, HDF5Dataset | ArrayDataset)
    if not plain or len(files) < 2 or len(tally.lengths) <= len(files):
        return []
    return [
        f"its {len(files)} files are read as one dataset: {name_some(files)}; to make each a "
        f"dataset, name one of them: --clean {shlex.quote(files[0])}, or a table "
        f"[datasets.{files[0]}] in {SETTINGS_FILE}"
    ]


def _list_notes(tally: _Tally) -> list[str]:
    motion, notes = tally.motion, list[str]()
    if motion is None or motion.frames == 0:
        return notes
    if absolute := motion.absolute_dims():
        named = name_dims(absolute)
        notes.append(f"far from zero for the motion, so perhaps absolute positions: {named}")
    if (share := motion.repeated / motion.frames) > LARGE_SHARE:
        notes.append(f"{share:.0%} of its frames repeat the action of the frame before")
    if (share := motion.idle / motion.frames) > LARGE_SHARE:
        notes.append(f"{share:.0%} of its frames are an idle start or end of an episode")
    notes += [f"copies of each other: {name_dims(dims)}" for dims in motion.copied_dims()]
    if saturated := motion.saturated_dims():
        notes.append(f"often at the end of their range, so perhaps cut off: {name_dims(saturated)}")
    if (outside := motion.share_outside()) > SLIGHT_SHARE:
        notes.append(f"{outside:.1%} of its action values lie outside the clean set's range")
    return notes


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
