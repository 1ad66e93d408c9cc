"""A study: a collection as memory-mapped frames, windows, folds, and the populations p and q_i."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt64

from ambient_curate import memory
from ambient_curate.data.cache import Frames, load_frames, write_frames
from ambient_curate.data.collection import (
    REASONS,
    Collection,
    Member,
    check_action_dims,
    read_episodes,
    require_clean,
)
from ambient_curate.data.folds import assign_folds
from ambient_curate.data.inspection import Contradictions
from ambient_curate.data.normalizer import (
    Normalizer,
    Scaling,
    fit_normalizer,
    fit_normalizer_on_all,
    share_outside,
)
from ambient_curate.data.planted_controls import Control, plant_controls
from ambient_curate.data.populations import Population, label_groups
from ambient_curate.data.trainer_scales import scale_members
from ambient_curate.data.windows import Windows, clean_values, observe, read_values
from ambient_curate.errors import DatasetError, Failures, NotEnoughDataError, write_count
from ambient_curate.files import write_json_atomic
from ambient_curate.options import AnnotateOptions
from ambient_curate.progress import Progress, warn

STUDY_FILE = "study.json"


@dataclass(frozen=True, eq=False)
class Study:
    """Everything the fit and the scores need.

    Parameters
    ----------
    options : AnnotateOptions
        With `clean` resolved to a member's name.
    clean : Population
        The clean set p.
    corrupt : tuple of Population
        q_1 .. q_K that are compared with p in every fold: whole members, then groups.
    controls : tuple of Control
        The planted controls, if there are clean episodes enough; their pairs come last.
    frames, windows, folds : dict by member
        Cached frames, their windows, and every episode's fold (-1: no whole window).
    groups : dict by member, or None
        Group label of every episode, with granularity ``group``.
    normalizer : Normalizer
        Of the clean set; that of every member, unless a trainer scales each by its own statistics.
    reference : str or None
        What relative windows refer to: ``"state"`` or ``"first action"``; None: absolute.
    skipped : tuple of dict
        Files left out, each with ``file`` and ``error``.
    sources : dict by member
        What was read: ``format``, and ``problems`` that did not stop the reader.
    noted : dict by member
        ``contradictions`` of its episodes, and ``clock_hz``: see `inspection.Contradictions`.
    opened : dict
        ``path`` of the collection and ``clean``, by which it can be opened again.
    """

    options: AnnotateOptions
    clean: Population
    corrupt: tuple[Population, ...]
    controls: tuple[Control, ...]
    frames: dict[str, Frames]
    windows: dict[str, Windows]
    folds: dict[str, np.ndarray]
    groups: dict[str, list[str]] | None
    normalizer: Normalizer
    reference: str | None
    skipped: tuple[dict[str, str], ...]
    sources: dict[str, dict[str, Any]]
    noted: dict[str, dict[str, Any]]
    opened: dict[str, str]

    @property
    def populations(self) -> tuple[Population, ...]:
        """What the clean set is compared with, pair by pair."""
        return (*self.corrupt, *(control.population for control in self.controls))

    @property
    def normalizers(self) -> dict[str, Normalizer]:
        """Normaliser of every member, by name."""
        return {name: each.normalizer or self.normalizer for name, each in self.windows.items()}

    @property
    def scaled_apart(self) -> bool:
        """Whether a trainer scales members by statistics of their own."""
        return any(each is not self.normalizer for each in self.normalizers.values())

    @property
    def by_row(self) -> bool:
        """Whether episodes or windows have rows of their own."""
        return self.options.granularity in ("episode", "datapoint")

    @property
    def by_window(self) -> bool:
        """Whether every window has a row of its own."""
        return self.options.granularity == "datapoint"

    def head(self, dataset: str, group: str | None = None) -> int | None:
        """Output that stands for a member or a group; None where it has too few episodes."""
        for number, population in enumerate(self.corrupt):
            if (population.dataset, population.group) == (dataset, group):
                return number
        return None


def prepare_study(
    collection: Collection,
    options: AnnotateOptions,
    folder: Path,
    progress: Progress,
    scalings: Mapping[str, Scaling] | None = None,
) -> Study:
    """Read a collection into `folder` (or find it there) and lay out the populations.

    Parameters
    ----------
    collection : Collection
        Opened.
    options : AnnotateOptions
        Of the annotation.
    folder : Path
        Where the frames are cached.
    progress : Progress
        Of reading.
    scalings : mapping of str to Scaling, or None
        A trainer's scaling of every member; None: a normaliser is fitted.

    Raises
    ------
    CurateError
        If the data cannot be read or compared, or there is too little for a sound answer.
    """
    name = require_clean(collection)
    _warn_of_problems(collection, progress)
    _require_corrupt(collection, name)
    members, notes = _cache_members(collection, options, folder, progress)
    broken = [{"file": name, "error": str(error)} for name, error in collection.broken]
    kept = replace(options, clean=name, out=None, workers=None, normalizer=None)
    content = {
        "options": asdict(replace(kept, shard_index=None, num_shards=None)),
        "scalings": None
        if scalings is None
        else {member: scaling.as_dict() for member, scaling in scalings.items()},
        "fitted_on_all": None,
        "dims": {member.name: member.options.dims for member in collection.members},
        "members": members,
        "skipped": broken + [entry for each in notes.values() for entry in each["skipped"]],
        "sources": {
            member.name: {
                "format": member.dataset.format,
                "problems": [*member.dataset.problems, *notes[member.name]["contradictions"]],
            }
            for member in collection.members
        },
        "noted": notes,
        "opened": _name_collection(collection),
    }
    if options.normalize_on == "all" and scalings is None:  # once, not in every process
        content["fitted_on_all"] = _fit_on_all(folder, members, kept).as_dict()
    write_json_atomic(folder / STUDY_FILE, content)
    return open_study(folder)


def open_study(folder: Path) -> Study:
    """Open what `prepare_study` has read, from its files alone."""
    content = json.loads((folder / STUDY_FILE).read_text(encoding="utf-8"))
    options = AnnotateOptions(**content["options"])
    name = str(options.clean)
    frames, windows, reference = _open_windows(folder, content["members"], options)
    normalizers = _find_normalizers(windows, name, options, content)
    _require_motion(normalizers[name], name, options)
    windows = {n: replace(w, normalizer=normalizers[n]) for n, w in windows.items()}
    folds = _assign_folds(frames, windows, name, options.folds)
    groups = None
    if options.granularity == "group":
        groups = label_groups(frames, windows, options.group_by, seed=options.seed)
    conditioned = options.condition == "state"
    shown: Mapping[str, Windows] = observe(windows, frames, name) if conditioned else windows
    clean = _whole_population(name, shown[name], folds[name])
    _require_folds(clean, options.folds)
    corrupt = _list_populations(name, shown, folds, groups, options.folds)
    # the condition may give a planted shift away: where it is found is then not known
    controls = (
        () if conditioned else plant_controls(clean, options.folds, options.epsilon, options.seed)
    )
    return Study(
        options=options,
        clean=clean,
        corrupt=corrupt,
        controls=controls,
        frames=frames,
        windows=windows,
        folds=folds,
        groups=groups,
        normalizer=normalizers[name],
        reference=reference,
        skipped=tuple(content["skipped"]),
        sources=content["sources"],
        noted=content["noted"],
        opened=content["opened"],
    )


def _open_windows(
    folder: Path, members: Mapping[str, str], options: AnnotateOptions
) -> tuple[dict[str, Frames], dict[str, Windows], str | None]:
    """Open the cached frames of all members, and lay windows in them that are not scaled yet."""
    frames = {name: load_frames(folder / place) for name, place in members.items()}
    name = str(options.clean)
    dims = {member: each.action_dim for member, each in frames.items()}
    check_action_dims({name: dims[name]} | dims)
    windows, reference = _lay_windows(frames, options)
    _require_windows(windows[name], name, options)
    return frames, windows, reference


def _fit_on_all(folder: Path, members: Mapping[str, str], options: AnnotateOptions) -> Normalizer:
    _, windows, _ = _open_windows(folder, members, options)
    values = clean_values(windows[str(options.clean)])
    return fit_normalizer_on_all(options.normalize, values, lambda: read_values(windows))


def _warn_of_problems(collection: Collection, progress: Progress) -> None:
    """Tell what is not read, and what was unusual where it was opened."""
    for text in collection.unread:
        warn(progress, text)
    for member in collection.members:
        for text in member.dataset.problems:
            warn(progress, f"{member.name}: {text}")


def _name_collection(collection: Collection) -> dict[str, str]:
    """Say where the collection lies, and what its clean set is called, or where that lies."""
    clean = require_clean(collection)
    if collection.clean_elsewhere:
        lying = {member.name: member.dataset.path for member in collection.members}
        clean = str(lying[clean].resolve())
    return {"path": str(collection.path.resolve()), "clean": clean}


def _require_corrupt(collection: Collection, clean: str) -> None:
    if len(collection.members) < 2:
        broken = "; ".join(f"{name} was left out: {error}" for name, error in collection.broken)
        raise NotEnoughDataError(
            f"{broken}; " * bool(broken)
            + f"{collection.path} holds only the clean set {clean!r}: there is nothing to annotate",
            "add a dataset, or split this one in ambient.toml: two [datasets.NAME] with the same "
            "path and different `episodes` or `where`",
        )


def _cache_members(
    collection: Collection, options: AnnotateOptions, folder: Path, progress: Progress
) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Cache the frames of every member; where each lies in `folder`, and what was noted of it."""
    places: dict[str, str] = {}
    noted: dict[str, dict[str, Any]] = {}
    for name, error in collection.broken:
        warn(progress, f"skipped {name}: {error}")
    folder.mkdir(parents=True, exist_ok=True)
    for number, member in enumerate(collection.members):
        place = folder / f"{number:04d}"
        notes = place.with_suffix(".json")
        if not (place.exists() and notes.exists()):
            write_json_atomic(notes, _cache_member(member, place, options, progress))
        noted[member.name] = json.loads(notes.read_text(encoding="utf-8"))
        places[member.name] = place.name
    return places, noted


def _cache_member(
    member: Member, place: Path, options: AnnotateOptions, progress: Progress
) -> dict[str, Any]:
    """Cache the frames of a member, and return what was skipped and what was contradictory."""
    skipped: list[dict[str, str]] = []
    failures = Failures()
    contradictions = Contradictions()

    def note(path: Path, error: DatasetError) -> None:
        skipped.append({"file": str(path), "error": str(error)})
        failures.add(str(path), f"skipped {path}: {error}")

    if place.exists():  # written, but its list of skipped files was not: read it again
        shutil.rmtree(place)
    episodes = read_episodes(
        member, limit=options.limit, on_error=options.on_error, progress=progress, on_skip=note
    )
    write_frames(contradictions.watch(episodes), place)
    for text in failures.sentences(REASONS):
        warn(progress, text)
    memory.trim()  # of millions of episodes the table alone is large
    return {
        "skipped": skipped,
        "contradictions": contradictions.describe(),
        "clock_hz": contradictions.clock_hz,
    }


def _lay_windows(
    frames: Mapping[str, Frames], options: AnnotateOptions
) -> tuple[dict[str, Windows], str | None]:
    """Lay windows over the frames; relative ones refer to the state where all members have it."""
    reference = None
    if options.represent != "absolute":
        stated = all(member.state_dim == member.action_dim for member in frames.values())
        reference = "state" if stated else "first action"
    return {
        name: Windows(
            member.data["action"],
            member.data["state"] if reference == "state" else None,
            member.offset,
            member.length,
            options.horizon,
            options.stride,
            options.represent,
        )
        for name, member in frames.items()
    }, reference


def _require_windows(clean: Windows, name: str, options: AnnotateOptions) -> None:
    if clean.counts.sum() == 0:
        raise NotEnoughDataError(
            f"the clean set {name} has no whole window of "
            f"{write_count(options.horizon, 'frame')}: its longest episode has "
            f"{clean.length.max()}",
            f"use --horizon {max(int(clean.length.max()), 1)} or less",
        )


def _find_normalizers(
    windows: Mapping[str, Windows], clean: str, options: AnnotateOptions, content: Mapping[str, Any]
) -> dict[str, Normalizer]:
    """Fit the normaliser of all members, or take what a trainer makes of each."""
    if content["fitted_on_all"] is not None:
        return dict.fromkeys(windows, Normalizer.from_dict(content["fitted_on_all"]))
    values = clean_values(windows[clean])
    if content["scalings"] is None:
        return dict.fromkeys(windows, fit_normalizer(options.normalize, values))
    given = {name: Scaling.from_dict(each) for name, each in content["scalings"].items()}
    absolute = options.represent == "absolute"
    return scale_members(given, content["dims"], values, options.normalize, absolute=absolute)


def _require_motion(normalizer: Normalizer, name: str, options: AnnotateOptions) -> None:
    """Refuse a clean set in which nothing moves: every dataset would be equal to it."""
    if len(normalizer.still) < normalizer.scale.size:
        _require_scale(normalizer)
        return
    alone = options.represent != "absolute" and options.horizon == 1
    raise NotEnoughDataError(
        f"every action dimension is constant in the clean set {name} (represent = "
        f"{options.represent}, horizon = {options.horizon}): there is nothing to compare with",
        "a window of one frame is 0 relative to itself: use --represent absolute or a larger "
        "--horizon"
        if alone
        else "name columns that move (`action` in ambient.toml), or another clean set (--clean)",
    )


def _require_scale(normalizer: Normalizer) -> None:
    """Refuse a trainer's statistics that leave nothing of what moves in the clean set."""
    if not np.delete(normalizer.scale, normalizer.still).any():
        raise NotEnoughDataError(
            "the trainer multiplies every action dimension that moves in the clean set by 0",
            "give statistics of this data with --normalizer",
        )


def _assign_folds(
    frames: Mapping[str, Frames], windows: Mapping[str, Windows], clean: str, folds: int
) -> dict[str, np.ndarray]:
    """Deal the episodes that have a whole window to the folds; the others get -1.

    Only they are ranked: an episode too short to be scored would leave a hole in its fold.
    """
    order = [clean, *(name for name in frames if name != clean)]
    whole = {name: np.flatnonzero(windows[name].counts) for name in order}
    dealt = assign_folds(
        {name: frames[name].ids.take(whole[name]) for name in order},
        {name: _begin(frames[name].digest)[whole[name]] for name in order},
        folds,
    )
    result = {name: np.full(frames[name].n_episodes, -1) for name in order}
    for name in order:
        result[name][whole[name]] = dealt[name]
    return result


def _begin(digest: Shaped[np.ndarray, " episode"]) -> UInt64[np.ndarray, " episode"]:
    """First 8 of the 32 bytes: enough, since two that agree by chance only share a fold."""
    return digest.view(np.uint64)[::4]


def _require_folds(clean: Population, folds: int) -> None:
    if not _fills(clean, folds):
        found = len(clean.episodes)
        different = _count_filled(clean)
        raise NotEnoughDataError(
            f"the clean set {clean.dataset} has {write_count(found, 'episode')} with a whole "
            f"window, which fill {different} of {folds} folds (copies share a fold); every fold "
            "needs one",
            f"add clean episodes, or use --folds {max(3, min(found, different))}"
            if different >= 3
            else "add clean episodes: at least 3 different ones are needed",
        )


def _fills(population: Population, folds: int) -> bool:
    return _count_filled(population) == folds


def _count_filled(population: Population) -> int:
    return len(np.unique(population.fold[population.episodes]))


def _whole_population(name: str, windows: Windows, fold: np.ndarray) -> Population:
    return Population(name, None, windows, np.flatnonzero(windows.counts > 0), fold)


def _list_populations(
    clean: str,
    windows: Mapping[str, Windows],
    folds: Mapping[str, np.ndarray],
    groups: Mapping[str, list[str]] | None,
    count: int,
) -> tuple[Population, ...]:
    """List whole members, then their groups, that have an episode in every fold."""
    whole = [
        _whole_population(name, windows[name], folds[name]) for name in windows if name != clean
    ]
    parts = (
        []
        if groups is None
        else [p for population in whole for p in _split(population, groups[population.dataset])]
    )
    populations = tuple(population for population in (*whole, *parts) if _fills(population, count))
    if not populations:
        filled = max((_count_filled(each) for each in (*whole, *parts)), default=0)
        fewer = f"--folds {filled}" if filled >= 3 else "a smaller --horizon"
        raise NotEnoughDataError(
            f"no corrupt dataset has an episode with a whole window in each of the {count} folds; "
            f"the best fills {filled} of them, and at least 3 are needed",
            f"add episodes, or use {fewer}",
        )
    return populations


def _split(population: Population, groups: Sequence[str]) -> list[Population]:
    labels = np.array(groups)[population.episodes]
    return [
        replace(population, group=label, episodes=population.episodes[labels == label])
        for label in sorted(set(labels.tolist()))
    ]


def find_outside(study: Study, name: str) -> float | None:
    """Share of a member's action values outside the clean range.

    None where windows are not absolute, or members are scaled apart: values do not compare.
    """
    if study.options.represent != "absolute" or study.scaled_apart:
        return None
    return share_outside(study.windows[name].action.numpy(), study.normalizer)


def describe_member(study: Study, name: str) -> dict[str, Any]:
    """Give a member's size, shape and rate, for ``run.json``."""
    frames, windows = study.frames[name], study.windows[name]
    return {
        "episodes": frames.n_episodes,
        "frames": frames.n_frames,
        "windows": int(windows.counts.sum()),
        "too_short": int((windows.counts == 0).sum()),
        "action_dim": frames.action_dim,
        "rate_hz": frames.rate_hz,
        "is_clean": name == study.clean.dataset,
        "outside": find_outside(study, name),
        "actions_sha256": hashlib.sha256(frames.digest.tobytes()).hexdigest(),
        **study.sources[name],
    }
