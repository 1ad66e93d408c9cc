"""The metadata of a LeRobot dataset: what ``meta/`` says, checked, and where the data files are."""

import json
import re
import reprlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import isfile
from pathlib import Path, PurePosixPath
from typing import Any

from ambient_curate.errors import DatasetError, name_some
from ambient_curate.files import find_stand_in
from ambient_curate.readers.parquet import read_batches, read_integers, read_schema

_VERSION = re.compile(r"v(\d{1,3})\.(\d{1,3})")
_NEWEST_MINOR = {2: 1, 3: 0}
_STANDARD_PATH = {
    2: "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    3: "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
}
_FIELD = re.compile(r"\{(episode_chunk|episode_index|chunk_index|file_index)(?::0?(\d{1,2})d)?\}")
_NUMBER = re.compile(r"(float|u?int)\d+|bool")
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = 100
_DAMAGED = "the dataset is damaged or incomplete: copy or download it again"


@dataclass(frozen=True, slots=True)
class ListedEpisode:
    """One episode as the metadata lists it.

    Parameters
    ----------
    episode_index : int
        The dataset's own number of it.
    length : int
        Number of frames.
    tasks : tuple of str
        Its tasks.
    chunk, file : int
        Numbers of its data file.
    first_frame : int or None
        Global index of its first frame, where listed (v3).
    """

    episode_index: int
    length: int
    tasks: tuple[str, ...]
    chunk: int
    file: int
    first_frame: int | None = None


@dataclass(frozen=True)
class Metadata:
    """What ``meta/`` says of a dataset, checked.

    Parameters
    ----------
    version : str
        ``codebase_version``, such as ``"v2.1"``.
    fps : float or None
        Control rate in Hz; None where the file gives no positive number.
    widths : mapping of str to int
        Number of values a frame of each one-dimensional feature of numbers.
    tasks : mapping of int to str
        Task by ``task_index``.
    shards : mapping of Path to list of ListedEpisode
        Episodes of each data file, both in the order of ``episode_index``.
    files : sequence of Path
        The metadata files read.
    problems : sequence of str
        Deviations from the format, one sentence each.
    absent : mapping of Path to DatasetError
        Why a data file cannot be read: it is not there.
    """

    version: str
    fps: float | None
    widths: Mapping[str, int]
    tasks: Mapping[int, str]
    shards: Mapping[Path, Sequence[ListedEpisode]]
    files: Sequence[Path]
    problems: Sequence[str]
    absent: Mapping[Path, DatasetError]


def read_metadata(root: Path) -> Metadata:
    """Read and check ``meta/`` of the dataset at `root`, and find its data files.

    Raises
    ------
    DatasetError
        If a metadata file is missing or damaged, the version is unknown, or all data files that
        the metadata names are absent.
    """
    info_file = root / "meta" / "info.json"
    info = _read_info(info_file)
    major, problems = _parse_version(info_file, info)
    chunks_size = _whole(info.get("chunks_size"), f"chunks_size of {info_file}")
    if chunks_size == 0:
        raise DatasetError(f"chunks_size of {info_file} is 0, expected 1 or more", _DAMAGED)
    if major == 2:
        listing = [root / "meta" / "episodes.jsonl"]
        tasks_file = root / "meta" / "tasks.jsonl"
        episodes = _sort(_episodes_v2(listing[0], chunks_size), listing[0])
    else:
        listing = sorted((root / "meta" / "episodes").rglob("*.parquet"))
        tasks_file = root / "meta" / "tasks.parquet"
        episodes = _sort(_episodes_v3(listing), root / "meta" / "episodes")
    tasks: Mapping[int, str] | None = None
    if isfile(tasks_file):
        tasks = _tasks_v2(tasks_file) if major == 2 else _tasks_v3(tasks_file)
        listing.append(tasks_file)
    if tasks is None:
        how = "names no tasks" if isfile(tasks_file) else "is missing"
        problems.append(f"{tasks_file} {how}; each episode's own first task is used.")
    widths = _widths(info_file, info.get("features"))
    shards, misses, absent = _locate(root, info_file, info.get("data_path"), major, episodes)
    return Metadata(
        version=info["codebase_version"],
        fps=_fps(info.get("fps")),
        widths=widths,
        tasks=tasks or {},
        shards=shards,
        files=[info_file, *listing],
        problems=[
            *problems,
            *misses,
            *_disagreements(info, episodes),
            *_list_unlisted(root, shards),
        ],
        absent=absent,
    )


def _read_info(path: Path) -> dict[str, Any]:
    if not isfile(path):
        raise DatasetError(
            f"{path} is missing or not a file, in what looks like a LeRobot dataset", _DAMAGED
        )
    return _parse_object(_read_text(path), str(path))


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as text: {error}", _DAMAGED) from error
    if text and (stand_in := find_stand_in(path)):
        raise stand_in
    return text


def _parse_object(text: str, where: str) -> dict[str, Any]:
    if not text.strip():
        raise DatasetError(f"{where} is empty", _DAMAGED)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where} is not valid JSON: {error}", _DAMAGED) from error
    if not isinstance(value, dict):
        raise DatasetError(
            f"{where} holds a {type(value).__name__}, expected a JSON object", _DAMAGED
        )
    return value


def _read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line of a JSON Lines file with its place, for errors."""
    if not isfile(path):
        raise DatasetError(f"{path} is missing", _DAMAGED)
    # split at "\n" only: a JSON string may hold other line separators as they are
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"line {number} of {path}"
            yield where, _parse_object(line, where)


def _whole(value: object, where: str) -> int:
    """Check that a JSON value is a whole number of 0 or more, as counts and indexes are."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    raise DatasetError(
        f"{where} is {_SHOWN.repr(value)}, expected a whole number from 0 to 2^63 - 1", _DAMAGED
    )


def _text(value: object) -> str | None:
    """Return a JSON value if it is text that can be written out again (no lone surrogates)."""
    if isinstance(value, str) and not re.search("[\ud800-\udfff]", value):
        return value
    return None


def _fps(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9:
        return float(value)
    return None


def _parse_version(path: Path, info: Mapping[str, Any]) -> tuple[int, list[str]]:
    version = info.get("codebase_version")
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if not match or int(match[1]) not in _NEWEST_MINOR:
        raise DatasetError(
            f"codebase_version of {path} is {_SHOWN.repr(version)}, expected v2.0, v2.1 or v3.0",
            "convert the dataset with LeRobot's own scripts",
        )
    major, minor = int(match[1]), int(match[2])
    newest = _NEWEST_MINOR[major]
    if minor > newest:
        return major, [f"{version} is newer than this reader; it is read as v{major}.{newest}."]
    return major, []


def _widths(path: Path, features: object) -> dict[str, int]:
    if not isinstance(features, dict):
        raise DatasetError(
            f"features of {path} is {_SHOWN.repr(features)}, expected an object", _DAMAGED
        )
    widths = {}
    for name, feature in features.items():
        match feature:
            case {"dtype": str(dtype), "shape": []} if _NUMBER.fullmatch(dtype):
                widths[name] = 1
            case {"dtype": str(dtype), "shape": [int(width)]} if _NUMBER.fullmatch(dtype):
                if 0 < width < 2**31:
                    widths[name] = width
    return widths


def _episodes_v2(path: Path, chunks_size: int) -> Iterator[ListedEpisode]:
    for where, line in _read_lines(path):
        episode = _whole(line.get("episode_index"), f"episode_index in {where}")
        length = _whole(line.get("length"), f"length in {where}")
        tasks = _list_tasks(line.get("tasks"))
        yield ListedEpisode(episode, length, tasks, chunk=episode // chunks_size, file=episode)


def _episodes_v3(paths: Sequence[Path]) -> Iterator[ListedEpisode]:
    numbers = (
        "episode_index",
        "length",
        "data/chunk_index",
        "data/file_index",
        "dataset_from_index",
    )
    for path in paths:
        tasks = ["tasks"] if "tasks" in read_schema(path)[0].names else []
        for batch in read_batches(path, [*numbers, *tasks]):
            columns = [read_integers(batch.column(n), f"{n} of {path}").tolist() for n in numbers]
            texts = batch.column("tasks").to_pylist() if tasks else [None] * len(batch)
            for *row, names in zip(*columns, texts, strict=True):
                if min(row) < 0:
                    raise DatasetError(f"{path} holds a negative number in {row}", _DAMAGED)
                episode, length, chunk, file, start = row
                yield ListedEpisode(episode, length, _list_tasks(names), chunk, file, start)


def _list_tasks(tasks: object) -> tuple[str, ...]:
    texts = map(_text, tasks) if isinstance(tasks, list) else ()
    return tuple(text for text in texts if text is not None)


def _sort(episodes: Iterator[ListedEpisode], where: Path) -> list[ListedEpisode]:
    listed: dict[int, ListedEpisode] = {}
    for episode in episodes:
        if episode.episode_index in listed:
            raise DatasetError(
                f"{where} lists episode {episode.episode_index} more than once", _DAMAGED
            )
        listed[episode.episode_index] = episode
    if not listed:
        raise DatasetError(f"{where} lists no episodes", _DAMAGED)
    return [listed[key] for key in sorted(listed)]


def _tasks_v2(path: Path) -> dict[int, str]:
    tasks = {}
    for where, line in _read_lines(path):
        task = _text(line.get("task"))
        if task is not None:
            tasks[_whole(line.get("task_index"), f"task_index in {where}")] = task
    return tasks


def _tasks_v3(path: Path) -> dict[int, str] | None:
    names = read_schema(path)[0].names
    # pandas stores the index, which holds the task, under its name or under this one
    column = "task" if "task" in names else "__index_level_0__"
    if not {"task_index", column}.issubset(names):
        return None
    tasks = {}
    for batch in read_batches(path, ["task_index", column]):
        indexes = read_integers(batch.column("task_index"), f"task_index of {path}")
        for index, value in zip(indexes.tolist(), batch.column(column).to_pylist(), strict=True):
            task = _text(value)
            if task is not None:
                tasks[index] = task
    return tasks


def _locate(
    root: Path, info_file: Path, template: object, major: int, episodes: Sequence[ListedEpisode]
) -> tuple[dict[Path, list[ListedEpisode]], list[str], dict[Path, DatasetError]]:
    """Find the data file of every episode: by the template, the standard path, or its name.

    An absent file stands where the template has it, as long as another one is there.
    """
    if not isinstance(template, str):
        raise DatasetError(
            f"data_path of {info_file} is {_SHOWN.repr(template)}, not text", _DAMAGED
        )
    shards: dict[Path, list[ListedEpisode]] = {}
    located: dict[str, Path] = {}  # data file by what the template calls it
    by_name: dict[str, list[Path]] = {}  # every file under data/, filled when first needed
    absent: dict[Path, DatasetError] = {}
    for episode in episodes:
        name = _fill(template, episode, info_file)
        if name not in located:
            standard = _fill(_STANDARD_PATH[major], episode, info_file)
            try:
                located[name] = _find(root, name, standard, by_name)
            except DatasetError as error:
                located[name] = root / name
                absent[root / name] = error
        shards.setdefault(located[name], []).append(episode)
    if len(absent) == len(located):
        raise next(iter(absent.values()))
    missed = sum(root / name != path for name, path in located.items())
    problem = (
        f"data_path {_SHOWN.repr(template)} of meta/info.json misses {missed} of {len(located)} "
        "data files; they were found by the standard layout or by name."
    )
    return shards, [problem] if missed else [], absent


def _fill(template: str, episode: ListedEpisode, info_file: Path) -> str:
    """Fill a path template, which is no format string: a hostile one would reach attributes."""
    values = {
        "episode_chunk": episode.chunk,
        "episode_index": episode.episode_index,
        "chunk_index": episode.chunk,
        "file_index": episode.file,
    }
    filled = _FIELD.sub(lambda m: f"{values[m[1]]:0{int(m[2] or 0)}d}", template)
    path = PurePosixPath(filled)
    if set(filled) & set("{}\0") or path.is_absolute() or ".." in path.parts or not path.parts:
        raise DatasetError(
            f"data_path of {info_file} is {_SHOWN.repr(template)}, expected a path inside the "
            "dataset like 'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'",
            _DAMAGED,
        )
    return filled


def _find(root: Path, name: str, standard: str, by_name: dict[str, list[Path]]) -> Path:
    for candidate in (name, standard):
        if isfile(root / candidate):
            return root / candidate
    if not by_name:
        for path in sorted((root / "data").rglob("*.parquet")):
            by_name.setdefault(path.name, []).append(path)
    names = {PurePosixPath(name).name, PurePosixPath(standard).name}
    matches = [path for each in names for path in by_name.get(each, [])]
    if len(matches) == 1:
        return matches[0]
    raise DatasetError(
        f"{root} lacks the data file {_SHOWN.repr(name)}; {len(matches)} other files under data/ "
        "have its name",
        _DAMAGED,
    )


def _list_unlisted(root: Path, shards: Collection[Path]) -> Iterator[str]:
    """Say which data files no episode of the list is in."""
    files = sorted(set((root / "data").rglob("*.parquet")) - set(shards))
    if names := [file.relative_to(root).as_posix() for file in files]:
        yield f"not read, since meta/ lists no episode of them: {name_some(names)}"


def _disagreements(info: Mapping[str, Any], episodes: Sequence[ListedEpisode]) -> Iterator[str]:
    """Say where info.json contradicts the episode list, which is what is read."""
    frames = sum(episode.length for episode in episodes)
    for key, listed in (("total_episodes", len(episodes)), ("total_frames", frames)):
        if info.get(key) != listed:
            stated = _SHOWN.repr(info.get(key))
            yield f"{key} of meta/info.json is {stated}, the episodes listed make {listed}."
    splits = info.get("splits")
    ranges = splits.values() if isinstance(splits, dict) else []
    matches = [
        re.fullmatch(r"\d{1,18}:(\d{1,18})", each) for each in ranges if isinstance(each, str)
    ]
    ends = [int(match[1]) for match in matches if match]
    if ends and max(ends) != len(episodes):
        yield (
            f"splits of meta/info.json end at episode {max(ends)}, {len(episodes)} are listed; "
            "splits are not used."
        )
    if "index" not in info["features"]:
        yield "meta/info.json has no feature index: frames have no global number to join on."
