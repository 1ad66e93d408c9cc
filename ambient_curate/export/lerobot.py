"""LeRobot: rows by the index of a frame, episodes to train on, weights, and copies with features.

A plug-in policy finds the rows by the ``index`` of a batch, which LeRobot's own preprocessing
keeps while it drops columns that it does not know. The dataset makes a window at every frame, from
``n_obs_steps - 1`` frames before it, and repeats the first and last frames of an episode.

LeRobot trains on one dataset. Several members may lie in one, and datasets that were annotated may
have been merged since: then the rows go by the frames of the merged one.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float64, Int64

from ambient_curate.data.collection import Collection, Member, list_numbers, open_another
from ambient_curate.data.selection import Selection
from ambient_curate.errors import ConfigError, write_count
from ambient_curate.export.job import AnnotatedMember, Job, Samples, name_folder, write_tables
from ambient_curate.export.trainer_time import round_outward
from ambient_curate.export.trainers import ExportOptions
from ambient_curate.readers import parquet
from ambient_curate.run.source_data import match_sequences

FEATURES = ("ambient.sigma_min", "ambient.sigma_max", "ambient.weight")
_ROWS = ("index", "episode_index", "frame_index")
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Placement:
    """A LeRobot dataset that is trained on, and where its episodes are in the run.

    Parameters
    ----------
    source : Member
        The dataset.
    folder : Path
        Of its files in the export.
    number : ndarray, int64, shape (episode,)
        ``episode_index`` of those that the run has, rising.
    member, episode : ndarray, int64, shape (episode,)
        Number of the member among the job's, and of the episode among the member's.
    """

    source: Member
    folder: Path
    number: Int64[np.ndarray, " episode"]
    member: Int64[np.ndarray, " episode"]
    episode: Int64[np.ndarray, " episode"]

    def find(
        self, number: Int64[np.ndarray, " row"]
    ) -> tuple[Int64[np.ndarray, " row"], Int64[np.ndarray, " row"]]:
        """Find member and episode of rows by their ``episode_index``; -1: the run has it not."""
        place = np.searchsorted(self.number, number)
        known = np.append(self.number, -1)[place] == number
        place = np.where(known, place, -1)
        return np.append(self.member, -1)[place], np.append(self.episode, -1)[place]


def check(collection: Collection, chosen: ExportOptions) -> None:
    """Refuse what cannot be copied or is no merged dataset, before anything is read.

    Raises
    ------
    ConfigError
        If features are asked for of what is no LeRobot v3 dataset, or that has some already; if
        what was merged is no LeRobot dataset, or members differ in the columns of their action.
    """
    sources = list(collection.members)
    if chosen.merged is not None:
        read = {(tuple(s.options.action), tuple(s.options.dims)) for s in sources}
        if len(read) > 1:
            raise ConfigError(
                f"members read other actions ({' and '.join(map(str, sorted(read)))}); merged "
                "datasets have one",
                "annotate and export them one after the other",
            )
        sources = [open_another(sources[0], chosen.merged)]
        if not sources[0].dataset.format.startswith("LeRobot"):
            raise ConfigError(
                f"{chosen.merged} is {sources[0].dataset.format}, not a LeRobot dataset",
                "give the directory that LeRobot's aggregation wrote",
            )
    for source in sources if chosen.as_ == "features" else ():
        _check_copied(source)


def _check_copied(source: Member) -> None:
    if not source.dataset.format.startswith("LeRobot v3"):
        raise ConfigError(
            f"{source.name} is {source.dataset.format}: features are written into LeRobot v3.0",
            "convert it with LeRobot's own scripts, or export without --as features",
        )
    info = source.dataset.path / "meta/info.json"
    taken = set(FEATURES) & json.loads(info.read_text(encoding="utf-8"))["features"].keys()
    if taken:
        raise ConfigError(
            f"{info} has a feature {min(taken)} already",
            "export from the dataset without them; --merged DIR takes one that was merged since",
        )


def write(job: Job) -> None:
    """Write what LeRobot and its plug-in read.

    A member gets ``ambient.parquet`` and ``exclude_episodes.json``, or, if they were merged, the
    merged dataset does. A dataset gets ``episodes.json`` and ``weights.parquet``, and, as
    features, a copy of itself as ``dataset``.

    Raises
    ------
    ConfigError
        If the episodes of a merged dataset are not those that were annotated.
    """
    if job.options.merged is not None:
        placements = [_place_merged(job, job.options.merged)]
        _write_merged(job, placements[0])
    else:
        _write_members(job)
        placements = list(_place_members(job))
    if placements:
        job.notes.append(_describe_weights(job))
    for placement in placements:
        _write_episodes(job, placement)
        _write_weights(job, placement)
        if job.options.as_ == "features":
            _copy_dataset(job, placement)


def _write_members(job: Job) -> None:
    for member in job.members:
        folder = job.folder(member)
        job.write_frames(member, folder / "ambient.parquet", before=job.n_obs_steps - 1)
        usable = find_usable(member)
        _write_list(folder / "exclude_episodes.json", member.frames.number[~usable])
        if not member.format.startswith("LeRobot"):
            _write_list(folder / "episodes.json", member.frames.number[usable])
    counted = [
        member.name for member in job.members if not (member.has_index or member.frames.index_fails)
    ]
    if counted:
        job.notes.append(
            "no global index, so frames are counted in the order of the annotated episodes: "
            f"{', '.join(counted)}"
        )


def find_usable(member: AnnotatedMember) -> Bool[np.ndarray, " episode"]:
    """Tell which episodes have a window that may be used at some noise level."""
    low = np.nan_to_num(member.values["sigma_min"], nan=1.0)
    usable = (low < 1.0) | (np.nan_to_num(member.values["sigma_max"], nan=0.0) > 0.0)
    known, first = np.append(0, np.cumsum(usable)), member.first_window
    return np.asarray(known[first + member.windows.counts] > known[first])


def _place_members(job: Job) -> Iterator[Placement]:
    """Yield every LeRobot dataset, with the episodes of all members that lie in it."""
    by_root: dict[Path, list[int]] = {}
    for number, member in enumerate(job.members):
        if member.format.startswith("LeRobot"):
            by_root.setdefault(member.source.dataset.path.resolve(), []).append(number)
    for numbers in by_root.values():
        members = [job.members[number] for number in numbers]
        own = np.concatenate([member.frames.number for member in members])
        order = np.argsort(own, kind="stable")
        sizes = [member.frames.n_episodes for member in members]
        if (np.diff(own[order]) == 0).any():
            again = own[order][1:][np.diff(own[order]) == 0]
            raise ConfigError(
                f"episode {again[0]} of {members[0].source.dataset.path} is in several members",
                "give every episode to one member in ambient.toml",
            )
        folder = job.out / name_folder("+".join(member.name for member in members))
        folder.mkdir(exist_ok=True)
        yield Placement(
            members[0].source,
            folder,
            own[order],
            np.repeat(numbers, sizes)[order],
            np.concatenate([np.arange(size) for size in sizes])[order],
        )


def _place_merged(job: Job, path: Path) -> Placement:
    """Find every episode of a merged dataset in the run, by its actions and its neighbours."""
    source = open_another(job.members[0].source, path)
    number, digest = _read_digests(source)
    own = np.concatenate([member.frames.digest for member in job.members])
    sizes = [member.frames.n_episodes for member in job.members]
    member = np.repeat(np.arange(len(sizes)), sizes)
    episode = np.concatenate([np.arange(size) for size in sizes])
    codes = np.unique(
        np.frombuffer(own.tobytes() + b"".join(digest), np.uint64).reshape(-1, 4),
        axis=0,
        return_inverse=True,
    )[1].ravel()
    place, doubtful = match_sequences(codes[len(own) :], codes[: len(own)], member)
    for row in doubtful:
        candidates = np.flatnonzero(codes[: len(own)] == codes[len(own) + row])
        _check_alike(job, path, int(number[row]), member[candidates], episode[candidates])
    found = place >= 0
    job.notes.extend(_describe_match(job, path, place, member))
    order = np.argsort(number[found])
    rows = place[found][order]
    return Placement(source, job.out, number[found][order], member[rows], episode[rows])


def _read_digests(source: Member) -> tuple[Int64[np.ndarray, " episode"], list[bytes]]:
    """Read number and digest of every episode, in the order of their numbers."""
    pick = Selection(source.options, list_numbers(source.dataset)).pick
    found = []
    for shard in source.dataset.shards:
        for episode in source.dataset.read_shard(shard):
            picked = pick(episode)
            if picked is not None:
                found.append((picked.number, picked.digest))
    found.sort()
    return np.array([number for number, _ in found]), [digest for _, digest in found]


def _check_alike(
    job: Job,
    path: Path,
    number: int,
    member: Int64[np.ndarray, " candidate"],
    episode: Int64[np.ndarray, " candidate"],
) -> None:
    """Refuse an episode that may be one of several which the run says different things of."""
    found = set()
    for which, each in zip(member.tolist(), episode.tolist(), strict=True):
        one = job.members[which]
        first = int(one.first_window[each])
        span = slice(first, first + int(one.windows.counts[each]))
        plain = {"sigma_min": 1.0, "sigma_max": 0.0, "weight": -1.0}
        found.add(
            tuple(
                np.nan_to_num(one.values[name][span], nan=nothing).tobytes()
                for name, nothing in plain.items()
            )
        )
    if len(found) > 1:
        names = ", ".join(
            f"{job.members[m].name} {job.members[m].frames.ids[e]}"
            for m, e in list(zip(member.tolist(), episode.tolist(), strict=True))[:_SHOWN]
        )
        raise ConfigError(
            f"episode {number} of {path} has the actions of several annotated ones ({names}), "
            "which have other noise levels, and its neighbours do not say which it is",
            "annotate the merged dataset itself, its parts as members by episodes in ambient.toml",
        )


def _describe_match(
    job: Job, path: Path, place: Int64[np.ndarray, " row"], member: Int64[np.ndarray, " place"]
) -> Iterator[str]:
    """Say which episodes are on one side only; refuse a dataset that has none of the run's."""
    unknown = int((place < 0).sum())
    if unknown == len(place):
        raise ConfigError(
            f"{path} has no episode of the run: the actions of all "
            f"{write_count(len(place), 'episode')} are others",
            "give what the annotated datasets were merged into",
        )
    if unknown:
        yield (
            f"{path}: {write_count(unknown, 'episode')} of {len(place)} were not annotated by this "
            "run and are not in its table: never used, unless another table has them"
        )
    there = np.zeros(len(member), dtype=bool)
    there[place[place >= 0]] = True
    for number, one in enumerate(job.members):
        missing = int((~there[member == number]).sum())
        if missing:
            yield (
                f"{one.name}: {write_count(missing, 'episode')} of {one.frames.n_episodes} not in "
                f"{path}"
            )


def _write_merged(job: Job, placement: Placement) -> None:
    """Write ``ambient.parquet`` by the frames of the merged dataset."""
    for member in job.members:  # so that one which is not there has its counts, 0
        job.count(member, member.look_up(*np.zeros((2, 0), dtype=np.int64)))
    job.write_rows(placement.folder / "ambient.parquet", _lay_merged(job, placement))


def _lay_merged(job: Job, placement: Placement) -> Iterator[pa.Table]:
    for index, number, frame in _read_rows(placement):
        samples, member = _look_up(job, placement, number, frame)
        for which in np.unique(member[member >= 0]).tolist():
            job.count(job.members[which], samples.take(member == which))
        known = samples.take(member >= 0)
        yield pa.table(
            {
                "index": index[member >= 0],
                "episode_index": number[member >= 0],
                "episode_id": pa.array(number[member >= 0]).cast(pa.string()),
                "frame_index": frame[member >= 0],
                **job.times(known),
            }
        )


def _read_rows(
    placement: Placement,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield index, episode and frame of the rows of a dataset, some thousand at a time."""
    for shard in placement.source.dataset.shards:
        for batch in parquet.read_batches(shard, _ROWS):
            index, number, frame = (
                parquet.read_integers(batch.column(name), f"{name} of {shard}") for name in _ROWS
            )
            yield index, number, frame


def _look_up(
    job: Job,
    placement: Placement,
    number: Int64[np.ndarray, " row"],
    frame: Int64[np.ndarray, " row"],
) -> tuple[Samples, Int64[np.ndarray, " row"]]:
    """Give the windows of frames, and whose they are; one that the run has not is never usable."""
    member, episode = placement.find(number)
    samples = Samples.unusable(episode, frame - (job.n_obs_steps - 1))
    for which in np.unique(member[member >= 0]).tolist():
        rows = member == which
        samples.put(rows, job.members[which].look_up(episode[rows], samples.start[rows]))
    return samples, member


def _write_episodes(job: Job, placement: Placement) -> None:
    """Write which episodes to train on, and all others."""
    listed = np.unique(np.concatenate([np.unique(n) for _, n, _ in _read_rows(placement)]))
    usable = [find_usable(member) for member in job.members]
    pairs = zip(placement.member.tolist(), placement.episode.tolist(), strict=True)
    kept = placement.number[np.array([usable[m][e] for m, e in pairs], dtype=bool)]
    _write_list(placement.folder / "episodes.json", kept)
    _write_list(placement.folder / "exclude_episodes.json", np.setdiff1d(listed, kept))


def _write_weights(job: Job, placement: Placement) -> None:
    """Write a weight for every frame, for trainers whose weights come from a file."""

    def lay() -> Iterator[pa.Table]:
        for index, number, frame in _read_rows(placement):
            samples, _ = _look_up(job, placement, number, frame)
            yield pa.table({"index": index, "weight": _weigh(job, samples)})

    job.write_rows(placement.folder / "weights.parquet", lay())


def _weigh(job: Job, samples: Samples) -> np.ndarray:
    """Give the run's own weights, or, of a run without, shares of the trainer's time."""
    if _has_weights(job):
        return np.nan_to_num(samples.weight, nan=0.0).astype(np.float32)
    return job.clock.share(samples.sigma_min, samples.sigma_max).astype(np.float32)


def _has_weights(job: Job) -> bool:
    return any(np.isfinite(member.values["weight"]).any() for member in job.members)


def _describe_weights(job: Job) -> str:
    what = (
        "the run's own, in place of noise levels"
        if _has_weights(job)
        else "the share of the trainer's times at which a frame may be used, for who takes no "
        "noise levels"
    )
    return f"weights.parquet has a weight for every frame: {what}. Not together with the plug-in."


def _write_list(path: Path, numbers: Int64[np.ndarray, " episode"]) -> None:
    path.write_text(json.dumps(sorted(numbers.tolist())) + "\n", encoding="utf-8")


def _copy_dataset(job: Job, placement: Placement) -> None:
    """Write the dataset with its annotation as features; its videos are linked."""
    root, copy = placement.source.dataset.path, placement.folder / "dataset"
    shutil.copytree(root / "meta", copy / "meta", copy_function=shutil.copyfile)
    totals = {name: _Totals() for name in FEATURES}
    for shard in placement.source.dataset.shards:
        target = copy / shard.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        features = _add_features(job, placement, shard, totals)
        write_tables(target, features, compression="snappy")
    videos = (root / "videos").resolve()
    if videos.is_dir():
        (copy / "videos").symlink_to(videos, target_is_directory=True)
    _describe_features(copy / "meta", totals)


def _add_features(
    job: Job, placement: Placement, shard: Path, totals: Mapping[str, "_Totals"]
) -> Iterator[pa.Table]:
    with parquet.reading(shard), closing(pq.ParquetFile(shard)) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            number, frame = (
                parquet.read_integers(table.column(name), f"{name} of {shard}")
                for name in ("episode_index", "frame_index")
            )
            samples, _ = _look_up(job, placement, number, frame)
            low, high = round_outward(samples.sigma_min, samples.sigma_max)
            for name, column in zip(FEATURES, (low, high, _weigh(job, samples)), strict=True):
                table = table.append_column(name, pa.array(column, pa.float32()))
                totals[name].add(column.astype(np.float64))
            yield table.replace_schema_metadata(_declare(table.schema.metadata or {}))


def _declare(metadata: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Add the features to what the datasets library notes in a file, if it did."""
    declared = dict(metadata)
    if b"huggingface" in declared:
        content = json.loads(declared[b"huggingface"])
        value = {"dtype": "float32", "_type": "Value"}
        content["info"]["features"] |= dict.fromkeys(FEATURES, value)
        declared[b"huggingface"] = json.dumps(content).encode()
    return declared


class _Totals:
    """Statistics of a column, as LeRobot keeps them."""

    def __init__(self) -> None:
        self.count, self.sum, self.squares = 0, 0.0, 0.0
        self.low, self.high = np.inf, -np.inf

    def add(self, values: Float64[np.ndarray, " row"]) -> None:
        self.count += values.size
        self.sum, self.squares = self.sum + values.sum(), self.squares + (values**2).sum()
        self.low = min(self.low, values.min(initial=np.inf))
        self.high = max(self.high, values.max(initial=-np.inf))

    def as_dict(self) -> dict[str, list[float]]:
        mean = self.sum / self.count
        std = float(np.sqrt(max(self.squares / self.count - mean**2, 0.0)))
        numbers = {"min": self.low, "max": self.high, "mean": mean, "std": std, "count": self.count}
        return {name: [value] for name, value in numbers.items()}


def _describe_features(meta: Path, totals: Mapping[str, _Totals]) -> None:
    """Add the features to ``info.json`` and ``stats.json``."""
    added: dict[str, dict[str, Any]] = {
        "info.json": {
            "features": {
                name: {"dtype": "float32", "shape": [1], "names": None} for name in FEATURES
            }
        },
        "stats.json": {name: total.as_dict() for name, total in totals.items()},
    }
    for name, more in added.items():
        file = meta / name
        if file.is_file():
            content = json.loads(file.read_text(encoding="utf-8"))
            for key, value in more.items():
                content[key] = content.get(key, {}) | value
            file.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
