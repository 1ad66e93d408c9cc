"""A collection: its datasets, which one is clean, and the episodes selected of each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from ambient_curate import readers
from ambient_curate.data.selection import (
    MemberOptions,
    Selection,
    SkipReport,
    check_episode,
    count_skips,
    read_chosen,
    warn_of_kinds,
)
from ambient_curate.data.settings import (
    SETTINGS_FILE,
    CollectionSettings,
    dataset_name,
    describe_split,
    find_sources,
)
from ambient_curate.errors import ConfigError, DatasetError, Failures, write_count
from ambient_curate.option_fields import check_path, raise_problems
from ambient_curate.options import ANNOTATE_OPTIONS, OnError, check_given
from ambient_curate.progress import Progress, silent, track
from ambient_curate.readers.episodes import Dataset, Episode, ReaderOptions
from ambient_curate.readers.hdf5 import HDF5Dataset
from ambient_curate.readers.lerobot import LeRobotDataset
from ambient_curate.readers.plain_arrays import ArrayDataset

RATE_TOLERANCE = 0.05  # relative; a classifier reads the clock

REASONS = 3  # kinds of failures in one message


@dataclass(frozen=True)
class Member:
    """One dataset of a collection, opened, and what the user says about it."""

    name: str
    dataset: Dataset
    options: MemberOptions
    checksums: bool = True
    order: Sequence[Path] | None = None

    @property
    def shards(self) -> Sequence[Path]:
        """Files of the dataset in the order in which they are read: `order`, else the reader's."""
        return self.dataset.shards if self.order is None else self.order


@dataclass(frozen=True)
class Collection:
    """The datasets that are annotated together.

    Parameters
    ----------
    path : Path
        What was opened: a directory of datasets, or one dataset.
    name : str
        Name of that directory or file.
    members : tuple of Member
        Sorted by name.
    clean : str or None
        What the user calls the clean set; `require_clean` checks that it is a member.
    settings : CollectionSettings
        The content of ``ambient.toml``; empty without one.
    broken : tuple of (str, DatasetError)
        Members left out under ``on_error="skip"``, with the reason.
    checksums, on_error : bool, {"fail", "skip"}
        What it was opened with.
    clean_elsewhere : bool
        Whether the clean set is a dataset that lies elsewhere, added by its path.
    unread : tuple of str
        What lies there and belongs to no member, in sentences.
    """

    path: Path
    name: str
    members: tuple[Member, ...]
    clean: str | None
    settings: CollectionSettings
    broken: tuple[tuple[str, DatasetError], ...] = ()
    checksums: bool = True
    on_error: OnError = "fail"
    clean_elsewhere: bool = False
    unread: tuple[str, ...] = ()


def open_collection(
    path: Path | str,
    *,
    clean: Path | str | None = None,
    checksums: bool | None = None,
    on_error: OnError | None = None,
) -> Collection:
    """Open one dataset, or every dataset of a directory and of its ``ambient.toml``.

    Parameters
    ----------
    path : Path or str
        Dataset or directory of datasets (`find_sources` says what counts as one).
    clean : str, Path or None
        Name of the clean member, or path of a dataset elsewhere that becomes a member. None: what
        ``ambient.toml`` says, else the member named ``clean``, else none.
    checksums : bool or None
        Verify payload checksums where the format has them. None: what ``ambient.toml`` says,
        else True.
    on_error : {"fail", "skip"} or None
        Raise for a member that cannot be opened, or leave it out and list it in `broken`. None:
        what ``ambient.toml`` says, else "fail".

    Raises
    ------
    DatasetError
        If there is no dataset at `path`, or a member is damaged.
    ConfigError
        If ``ambient.toml`` or an argument is wrong.
    """
    path = check_path("path", path)
    given = check_opening(clean=clean, checksums=checksums, on_error=on_error)
    sources = find_sources(path, given.get("clean"))
    checksums, on_error = (
        given.get(name, sources.settings.options.get(name, ANNOTATE_OPTIONS[name].default))
        for name in ("checksums", "on_error")
    )
    members, broken = [], []
    for name, (source, options) in sorted(sources.members.items()):
        try:
            dataset = readers.open_dataset(source, _reader_options(options, checksums))
            members.append(Member(name, dataset, options, checksums))
        except DatasetError as error:
            if on_error == "fail":
                raise DatasetError(f"{name}: {error}", error.hint) from error
            broken.append((name, error))
    if not members:
        raise _nothing_opened(path, broken)
    return Collection(
        path,
        dataset_name(path),
        tuple(members),
        sources.clean,
        sources.settings,
        tuple(broken),
        checksums,
        on_error,
        sources.clean_elsewhere,
        tuple(sources.describe_unread(path)),
    )


def check_opening(**given: Any) -> dict[str, Any]:
    """Give the options of an opening that are not None; `ConfigError` lists the wrong ones."""
    present = {name: value for name, value in given.items() if value is not None}
    taken, problems = check_given(present, ANNOTATE_OPTIONS)
    raise_problems(problems)
    return taken


def reopen_member(member: Member, checksums: bool) -> Member:
    """Open a member again, verifying payload checksums or not."""
    options = _reader_options(member.options, checksums)
    dataset = readers.open_dataset(member.dataset.path, options)
    return replace(member, dataset=dataset, checksums=checksums)


def _nothing_opened(path: Path, broken: Sequence[tuple[str, DatasetError]]) -> DatasetError:
    if len(broken) == 1:
        return broken[0][1]
    failures = Failures()
    for name, error in broken:
        failures.add(name, f"{name}: {error}", error.hint)
    reasons = "; ".join(failures.sentences(REASONS))
    return DatasetError(f"no member of {path} can be opened: {reasons}", failures.hint())


def require_clean(collection: Collection) -> str:
    """Return the name of the clean member.

    Raises
    ------
    ConfigError
        If no clean set is named, or what is named is no member.
    """
    names = [member.name for member in collection.members]
    if collection.clean in names:
        return collection.clean
    if collection.clean is None:
        message = "no clean set is named"
    elif collection.clean in dict(collection.broken):
        message = f"the clean set {collection.clean} was skipped as broken"
    else:
        message = f"the clean set {collection.clean!r} is no member"
    hint = f'add clean = "{names[0]}", or another, to {SETTINGS_FILE}, or give --clean NAME or PATH'
    if len(names) == 1:
        hint = (
            f"there is one dataset: give another by --clean PATH, or split it in {SETTINGS_FILE}: "
            f"{describe_split(collection.path, collection.members[0].dataset.path)}"
        )
    raise ConfigError(f"{message}; members of {collection.path}: {', '.join(names)}", hint)


def check_action_dims(dims: Mapping[str, int]) -> None:
    """Refuse to compare members whose actions have different dimensions.

    Parameters
    ----------
    dims : mapping of str to int
        Action dimension by member; all must equal the first.

    Raises
    ------
    ConfigError
        Naming two members that differ, and the lines that would make them equal.
    """
    first = next(iter(dims), None)
    for name, size in dims.items():
        if first is None or size == dims[first]:
            continue
        large, small = (name, first) if size > dims[first] else (first, name)
        raise ConfigError(
            f"actions cannot be compared: {first} has "
            f"{write_count(dims[first], 'dimension')}, {name} has {size}",
            f"add to {SETTINGS_FILE}, under [datasets.{large}]: dims = {list(range(dims[small]))} "
            f'(the ones that {small} has), or action = ["..."] (the columns to join)',
        )


def compare_rate(rate: float | None, clean: str, clean_rate: float | None) -> list[str]:
    """Tell in a sentence whether a member's rate differs from that of the clean set `clean`."""
    if clean_rate is None:
        return []
    if rate is None:
        return [f"its rate is unknown, and that of {clean} is {clean_rate:.4g} Hz: add rate_hz"]
    if abs(rate - clean_rate) <= RATE_TOLERANCE * clean_rate:
        return []
    return [
        f"{rate:.4g} Hz against {clean_rate:.4g} Hz of {clean}: a window spans another time, which "
        "a classifier tells apart"
    ]


def compare_rates(rates: Mapping[str, float | None]) -> list[str]:
    """Tell in a sentence whether the rates of members differ, as far as they are known."""
    known = {name: rate for name, rate in rates.items() if rate is not None}
    if not known or max(known.values()) <= min(known.values()) * (1 + RATE_TOLERANCE):
        return []
    listed = ", ".join(f"{name} {rate:.4g} Hz" for name, rate in known.items())
    return [f"rates differ: {listed}; a window spans another time in each"]


def open_split(member: Member, split: str) -> Member:
    """Open another split of a member's dataset, all its episodes with the same columns.

    Raises
    ------
    DatasetError
        If that split is damaged.
    """
    return _open_whole(member, f"{member.name}, split {split}", member.dataset.path, split)


def open_another(member: Member, path: Path) -> Member:
    """Open another dataset, all its episodes with the columns and dimensions of a member's.

    Raises
    ------
    DatasetError
        If there is none at `path`, or it is damaged.
    """
    return _open_whole(member, str(path), path, None)


def _open_whole(member: Member, name: str, path: Path, split: str | None) -> Member:
    """Open a dataset as a member's is, without the choice of episodes."""
    options = replace(member.options, split=split, episodes=None, where=None, exclude=())
    dataset = readers.open_dataset(path, _reader_options(options, member.checksums))
    return Member(name, dataset, options, member.checksums)


def _reader_options(options: MemberOptions, checksums: bool) -> ReaderOptions:
    return ReaderOptions(
        action=options.action,
        state=options.state,
        split=options.split,
        rate_hz=options.rate_hz,
        transpose=options.transpose,
        checksums=checksums,
    )


def list_positions(member: Member) -> dict[int, int]:
    """Find the position that an episode of each number has in runs of schema version 1.

    There LeRobot's episodes are counted by their number, and files in the order of code points.
    """
    dataset = member.dataset
    names = [name for shard in _order_by_code(dataset) for name in dataset.list_episodes(shard)]
    numbers = [name.number for name in names]
    if isinstance(dataset, LeRobotDataset):
        numbers.sort()
    return {number: position for position, number in enumerate(numbers)}


def select_by_position(member: Member) -> Member:
    """Read what a member's options mean where their numbers are positions (schema version 1)."""
    position = list_positions(member)
    number = {place: each for each, place in position.items()}
    options = member.options
    kept = Selection(options, np.fromiter(number, np.int64))
    episodes = tuple(number[place] for place in number if kept.keeps_number(place))
    exclude = tuple(
        number.get(each, each) if isinstance(each, int) else each for each in options.exclude
    )
    changed = replace(options, episodes=episodes if options.episodes else None, exclude=exclude)
    return replace(member, options=changed, order=_order_by_code(member.dataset))


def _order_by_code(dataset: Dataset) -> Sequence[Path]:
    files = isinstance(dataset, ArrayDataset | HDF5Dataset)
    return sorted(dataset.shards) if files else dataset.shards


def read_episodes(
    member: Member,
    *,
    limit: int | None = None,
    on_error: OnError = "fail",
    progress: Progress = silent,
    on_skip: SkipReport | None = None,
) -> Iterator[Episode]:
    """Yield the episodes of a member that its options ask for, in source order.

    One episode is in memory at a time. Nothing is read of an episode that `episodes` or `exclude`
    leaves out, nor of a shard beyond its last wanted one, so that damage there is no error.

    Parameters
    ----------
    member : Member
        A member of an opened collection.
    limit : int or None
        Stop after this many episodes, counted after the selection.
    on_error : {"fail", "skip"}
        Raise at a damaged file or episode, or leave out the one episode that is damaged, empty or
        not finite; of a file that cannot be read on, those that have not been read.
    progress : Progress
        Told of every shard.
    on_skip : callable or None
        Called with the file and the error, which names the episodes, of everything left out;
        None: `progress` is given a message.

    Raises
    ------
    DatasetError
        At a damaged file, an episode without frames or with a value that is not finite or beyond
        `LARGEST`; if no episode is left.
    ConfigError
        If `where` names no label, `dims` no dimension, or `exclude` no episode.
    """
    selection = Selection(member.options, list_numbers(member.dataset))
    failures = Failures()
    report = count_skips(selection, failures, on_skip or warn_of_kinds(progress))
    if on_error == "fail":
        _check_excluded(member)
    picked = 0
    for episode in _read_shards(member, selection, on_error, progress, report):
        wanted = selection.pick(episode)
        if wanted is None:
            continue
        try:
            check_episode(wanted)
        except DatasetError as error:
            if on_error == "fail":
                raise
            report(wanted.source, error)
            continue
        yield wanted
        picked += 1
        if picked == limit:
            return
    if picked == 0:
        raise _nothing_left(member, selection, failures)


def list_numbers(dataset: Dataset) -> Int64[np.ndarray, " episode"]:
    """List the numbers of all episodes of a dataset, shard by shard, without reading frames."""
    names = (name for shard in dataset.shards for name in dataset.list_episodes(shard))
    return np.fromiter((name.number for name in names), np.int64)


def _read_shards(
    member: Member,
    selection: Selection,
    on_error: OnError,
    progress: Progress,
    report: SkipReport,
) -> Iterator[Episode]:
    dataset = member.dataset
    with track(progress, f"reading {member.name}", total=len(member.shards)) as advance:
        for shard in member.shards:
            yield from read_chosen(dataset, shard, selection, on_error, report)
            advance()


def _check_excluded(member: Member) -> None:
    unmatched = dict.fromkeys(member.options.exclude)
    for shard in member.dataset.shards if unmatched else ():
        for name in member.dataset.list_episodes(shard):
            unmatched.pop(name.id, None)
            unmatched.pop(name.number, None)
    if unmatched:
        raise ConfigError(
            f"[datasets.{member.name}] exclude names no episode: {list(unmatched)}",
            "ids are text, numbers are the source's own where it has them, else positions: "
            "`ambient-curate inspect` shows both",
        )


def _nothing_left(member: Member, selection: Selection, failures: Failures) -> DatasetError:
    reasons = "; ".join(f"{what} left out {count}" for what, count in selection.left_out.items())
    if set(selection.left_out) == {"damage"}:
        text = "; ".join(failures.sentences(REASONS))
        return DatasetError(f"{member.name} gives no episode: {text}", failures.hint())
    return DatasetError(
        f"{member.name} ({member.dataset.path}) gives no episode: {reasons or 'it holds none'}",
        f"change the selection under [datasets.{member.name}] in {SETTINGS_FILE}"
        if reasons
        else "check the path",
    )
