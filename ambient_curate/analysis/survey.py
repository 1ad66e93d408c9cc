"""Spectra, receptive fields and probes of every dataset of a source."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ambient_curate.analysis.probes import Probe, ProbeOptions, probe_dataset
from ambient_curate.analysis.receptive_field import (
    Denoise,
    Field,
    measure_sensitivity,
    spectrum_sensitivity,
)
from ambient_curate.analysis.sources import Recording, Recordings, read_recordings
from ambient_curate.analysis.spectra import (
    Sounding,
    choose_segment,
    compare_spectra,
    estimate_spectrum,
)
from ambient_curate.data.cache import write_frames
from ambient_curate.data.normalizer import fit_normalizer
from ambient_curate.data.windows import clean_values
from ambient_curate.errors import ManifestError, NotEnoughDataError
from ambient_curate.files import replace_whole, to_json
from ambient_curate.noise import grid
from ambient_curate.option_fields import check_values
from ambient_curate.policy.checkpoints import POLICY, build_from_card, load_weights
from ambient_curate.policy.denoiser import Denoiser
from ambient_curate.policy.options import PolicyOptions
from ambient_curate.policy.training_data import Curriculum, Kept, build_curriculum
from ambient_curate.progress import Progress, silent, warn
from ambient_curate.readers.episodes import Episode
from ambient_curate.run.records import open_run_results, read_run
from ambient_curate.run.source_data import read_own_manifest, reopen_study

WINDOWS = 256  # at which a Jacobian is taken
LEVELS = 24  # of a receptive field
HIGHEST = 0.999  # VE noise 22: nothing changes beyond it
PROBE_SCHEMA = "ambient-curate probe"


def survey_spectra(recordings: Recordings) -> list[Sounding]:
    """Measure every dataset, and compare it with the clean set where they have one scale.

    A comparison uses the shorter of both segments. Datasets of episodes too short for a spectrum
    are left out.

    Raises
    ------
    NotEnoughDataError
        If no dataset has episodes that are long enough.
    """
    clean = recordings.clean if recordings.shared_scale else None
    found, last = [], None
    for member in recordings.members:
        try:
            spectrum = estimate_spectrum(member.actions)
        except NotEnoughDataError as error:
            last = error
            continue
        contrast = None
        if clean is not None and member is not clean:
            with suppress(NotEnoughDataError):  # the clean set's episodes are too short
                contrast = _compare(clean, member, recordings.options.epsilon)
        found.append(Sounding(member.name, spectrum, member.frames.rate_hz, contrast))
    if last is not None and not found:
        raise last
    return found


def _compare(clean: Recording, member: Recording, epsilon: float) -> Any:
    segment = min(choose_segment(part.frames.length - 1) for part in (clean, member))
    spectra = (estimate_spectrum(part.actions, segment=segment) for part in (clean, member))
    return compare_spectra(*spectra, epsilon=epsilon)


def survey_fields(
    recordings: Recordings, *, frames: int | None = None, levels: int = LEVELS
) -> list[Field]:
    """Give the receptive field of the best linear denoiser of every dataset, from its spectrum.

    Parameters
    ----------
    recordings : Recordings
        Of a source.
    frames : int or None
        Length of the window to look at. None: as long as the spectrum's segments.
    levels : int
        Noise levels, evenly spaced over the trainer's grid.
    """
    sigma = _choose_levels(recordings.options.schedule, levels)
    return [
        Field(s.name, "closed form", spectrum_sensitivity(s.spectrum, sigma, frames=frames))
        for s in survey_spectra(recordings)
    ]


def _choose_levels(schedule: str, count: int) -> np.ndarray:
    levels = grid(schedule)
    levels = levels[levels < HIGHEST]
    return levels[np.unique(np.linspace(0, levels.size - 1, count).round().astype(int))]


def sense_policy(
    run: Path | str, policy: Path | str, *, levels: int = LEVELS, progress: Progress = silent
) -> Field:
    """Give the receptive field of a trained policy, from its Jacobian at held-out clean windows.

    What it observes is left as it is: only the derivatives by the noised actions count.

    Parameters
    ----------
    run : Path or str
        The run that it was trained on.
    policy : Path or str
        A directory that ``train`` wrote.
    levels : int
        Noise levels, evenly spaced among those it was trained at.
    progress : Progress
        Told of all reading.

    Raises
    ------
    CurateError
        If the policy is of another run, or the run's data is not there.
    """
    policy = Path(policy)
    card = read_run(policy, POLICY)
    results = open_run_results(run)
    if card["run"] != results.info["digest"]:
        raise ManifestError(
            f"{policy} was trained on another run than {run}", "give the run it was trained on"
        )
    denoiser, interface = build_from_card(card)
    load_weights(denoiser, policy / POLICY.results[0])
    denoiser.eval().requires_grad_(False)
    with tempfile.TemporaryDirectory(prefix="ambient-curate-") as folder:
        _, study = reopen_study(results, Path(folder), progress)
        options = _trained_options(card["options"])
        kept = Kept.from_card(card, interface)
        curriculum = build_curriculum(study, read_own_manifest(results), options, kept)
        return Field(policy.name, "Jacobian", _sense(denoiser, curriculum, levels))


def _trained_options(stored: dict[str, Any]) -> PolicyOptions:
    known = {name: value for name, value in stored.items() if name in PolicyOptions.declared}
    return PolicyOptions(**check_values(known, PolicyOptions.declared)[0])


def _sense(denoiser: Denoiser, curriculum: Curriculum, count: int) -> Any:
    data = curriculum.held_out or curriculum.data
    size = len(data) if curriculum.held_out else data.size[0]  # the clean set comes first
    picked = np.random.default_rng(0).choice(size, size=min(size, WINDOWS), replace=False)
    batch = data.read(np.sort(picked))
    sigma = denoiser.sigma.double().numpy()
    usable = np.flatnonzero((sigma > 0.0) & (sigma < HIGHEST))
    chosen = usable[np.unique(np.linspace(0, usable.size - 1, count).round().astype(int))]

    def at(number: int) -> Denoise:
        def denoise(x: Tensor) -> Tensor:
            level = torch.full((len(x),), int(chosen[number]))
            return denoiser.estimate_x0(x, level, batch["condition"])

        return denoise

    generator = torch.Generator().manual_seed(0)
    return measure_sensitivity(at, batch["action"], sigma[chosen], generator=generator)


def survey_probes(
    source: Path | str,
    of: str,
    options: ProbeOptions | None = None,
    *,
    limit: int | None = None,
    progress: Progress = silent,
) -> list[Probe]:
    """Probe every dataset of a source for a task variable.

    A dataset that does not have it, or in too few episodes, is reported and left out. With
    `of` dataset the question is which dataset a window is from, for each number of dimensions.

    Parameters
    ----------
    source : Path or str
        As for `read_recordings`.
    of : str
        What to read: task, goal, dataset, cluster:K, or an episode column.
    options : ProbeOptions or None
        Sizes; None: the defaults. Schedule, folds and seed are those of the source.
    limit : int or None
        Episodes of each dataset to read at most.
    progress : Progress
        Told of every fold.

    Raises
    ------
    CurateError
        If no dataset can be probed: the reason of the last.
    """
    options = options or ProbeOptions()
    found: list[Probe] = []
    last: NotEnoughDataError | None = None
    with (
        read_recordings(source, limit=limit, progress=progress) as recordings,
        tempfile.TemporaryDirectory(prefix="ambient-curate-") as folder,
    ):
        stored = recordings.options
        fit = replace(options.fit, seed=stored.seed, folds=stored.folds)
        options = replace(options, of=of, schedule=stored.schedule, fit=fit)
        pooled = of == "dataset"
        members = _pool(recordings, Path(folder)) if pooled else iter(recordings.members)
        for member in members:
            part = (member.name, member.frames, member.windows)
            try:
                found.append(probe_dataset(*part, options, progress=progress))
            except NotEnoughDataError as error:
                warn(progress, f"left out {member.name}: {error}")
                last = error
    if last is not None and not found:
        raise last
    return found


def _pool(recordings: Recordings, folder: Path) -> Iterator[Recording]:
    """Join the datasets of each action space into one, with their names as a column."""
    spaces = Counter(member.frames.action_dim for member in recordings.members)
    for dim in sorted(spaces):
        members = [m for m in recordings.members if m.frames.action_dim == dim]
        frames = write_frames(_label_members(members), folder / str(dim))
        windows = replace(
            members[0].windows,
            action=frames.data["action"],
            state=None,
            offset=frames.offset,
            length=frames.length,
            normalizer=None,
        )
        normalizer = members[0].windows.normalizer
        if not recordings.shared_scale:
            normalizer = fit_normalizer(recordings.options.normalize, clean_values(windows))
        name = recordings.name + (f", {dim} dimensions" if len(spaces) > 1 else "")
        yield Recording(name, False, frames, replace(windows, normalizer=normalizer))


def _label_members(members: Sequence[Recording]) -> Iterator[Episode]:
    number = 0
    for member in members:
        flat, frames = member.frames.data["action"].numpy(), member.frames
        for row, (first, length) in enumerate(zip(frames.offset, frames.length, strict=True)):
            action = np.array(flat[first : first + length])
            name, source = f"{member.name}/{frames.ids[row]}", Path(frames.source[row])
            yield Episode(name, number, action, source, labels={"dataset": member.name})
            number += 1


def write_probes(probes: Sequence[Probe], path: Path) -> None:
    """Write probes as JSON; the file appears only whole."""
    content = {"schema": PROBE_SCHEMA, "probes": [probe.as_dict() for probe in probes]}
    with replace_whole(path) as temporary:
        temporary.write_text(to_json(content, indent=2), encoding="utf-8")


def read_probes(path: Path) -> list[Probe]:
    """Read what `write_probes` wrote.

    Raises
    ------
    ManifestError
        If it is no such file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != PROBE_SCHEMA:
            raise ValueError(f"schema {content['schema']!r}")
        return [Probe.from_dict(stored) for stored in content["probes"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{path} holds no probes: {error}", "give a file that `probe --out` wrote"
        ) from error


def probes_table(probes: Sequence[Probe]) -> tuple[list[str], list[list[str]]]:
    """Lay out probes in columns, a row each, as a terminal shows them."""
    columns = ["dataset", "of", "classes", "episodes", "chance", "no noise", "half gone", "read to"]
    rows = [
        [
            *(probe.dataset, probe.of, str(len(probe.classes)), str(sum(probe.episodes))),
            f"{probe.chance:.2f}",
            f"{probe.accuracy[0]:.2f} [{probe.lower[0]:.2f}, {probe.upper[0]:.2f}]",
            "-" if probe.halfway is None else f"{probe.halfway:.4f}",
            f"{probe.readable:.4f}",
        ]
        for probe in probes
    ]
    return columns, rows
