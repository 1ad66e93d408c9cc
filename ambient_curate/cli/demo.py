"""The demo: a small collection with known faults, made and annotated in a minute or two.

A planar hand picks at one place and puts down at another, in minimum-jerk reaches (Flash and Hogan
1985). Four corrupt datasets each bring one fault, and the width of its spectrum says up to which
noise level it can be distinguished from clean motion (docs/experiments.md, "The demo").
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ambient_curate.annotation.annotate import annotate
from ambient_curate.errors import ConfigError
from ambient_curate.progress import Progress, silent
from ambient_curate.run.records import Run

RATE_HZ = 20.0
CLEAN_EPISODES = 60
CORRUPT_EPISODES = 150
HOME_M = (0.0, 0.0)
PICK_M = (0.0, 0.4)
PLACE_M = (0.5, 0.4)
SHIFTED_PLACE_M = (-0.5, 0.4)
SPREAD_M = 0.1  # half the width of the region that a start, pick or place is drawn from
TREMOR_M = 0.01  # root mean square, each axis
TREMOR_HZ = (4.0, 8.0)
LAG_S = 0.3
HELD_FRAMES = 4

SETTINGS = f"""\
clean = "clean"
represent = "relative"

[datasets]
clean.rate_hz = {RATE_HZ}
coarse.rate_hz = {RATE_HZ}
lag.rate_hz = {RATE_HZ}
shifted.rate_hz = {RATE_HZ}
tremor.rate_hz = {RATE_HZ}
"""

Motion = Float[np.ndarray, "frame 2"]


def make_demo(directory: Path, *, seed: int = 0) -> Path:
    """Write the collection; one that is there already is left as it is.

    Parameters
    ----------
    directory : Path
        Gets ``ambient.toml`` and an ``.npz`` file for each dataset: positions in metres at 20 Hz.
    seed : int, default 0
        Seed of every draw.

    Returns
    -------
    Path
        `directory`.

    Raises
    ------
    ConfigError
        If the directory holds something else.
    """
    settings = f"# ambient-curate demo, seed {seed}\n{SETTINGS}"
    toml = directory / "ambient.toml"
    if toml.is_file() and toml.read_text(encoding="utf-8") == settings:
        return directory
    if directory.exists():
        raise ConfigError(
            f"{directory} exists and is not the collection of this demo",
            "choose another directory with --out, or delete it",
        )
    half_made = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(half_made, ignore_errors=True)
    half_made.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for name, make_episode in MAKERS.items():
        count = CLEAN_EPISODES if name == "clean" else CORRUPT_EPISODES
        episodes = [make_episode(rng) for _ in range(count)]
        np.savez(
            half_made / f"{name}.npz",
            action=np.concatenate(episodes).astype(np.float32),
            episode_ends=np.cumsum([len(episode) for episode in episodes]),
        )
    (half_made / toml.name).write_text(settings, encoding="utf-8")
    half_made.rename(directory)
    return directory


def run_demo(directory: Path, *, force: bool = False, progress: Progress = silent) -> Run:
    """Make the collection under ``directory/data`` and annotate it into ``directory/run``.

    Parameters
    ----------
    directory : Path
        Made if missing; what an earlier demo left there is used.
    force : bool, default False
        Replace the run.
    progress : Progress
        Told of all long work.

    Raises
    ------
    CurateError
        If the directory holds something else.
    """
    data = make_demo(directory / "data")
    return annotate(data, out=directory / "run", force=force, progress=progress)


def move(rng: np.random.Generator, place: tuple[float, float] = PLACE_M) -> Motion:
    """Draw a clean motion: from home to the pick, then to the place, with pauses and own speeds."""
    home, pick, put = (
        np.add(centre, rng.uniform(-SPREAD_M, SPREAD_M, 2)) for centre in (HOME_M, PICK_M, place)
    )
    return np.concatenate([home[None], _reach(rng, home, pick), _reach(rng, pick, put)])


def _reach(rng: np.random.Generator, start: np.ndarray, goal: np.ndarray) -> Motion:
    distance = float(np.linalg.norm(goal - start))
    frames = round((0.5 + 1.2 * distance) * rng.lognormal(0.0, 0.2) * RATE_HZ)
    time = np.arange(1, frames + 1)[:, None] / frames
    path = start + time**3 * (10 - 15 * time + 6 * time**2) * (goal - start)
    return np.concatenate([path, np.repeat(goal[None], rng.integers(2, 10), axis=0)])


def add_tremor(motion: Motion, rng: np.random.Generator) -> Motion:
    """Add Gaussian noise of the band `TREMOR_HZ`, `TREMOR_M` strong."""
    size = 8 * len(motion)  # drawn on a longer circle, so that its ends are independent
    frequency = np.fft.rfftfreq(size, 1 / RATE_HZ)
    band = (frequency >= TREMOR_HZ[0]) & (frequency <= TREMOR_HZ[1])
    white = np.fft.rfft(rng.normal(size=(size, 2)), axis=0)
    noise = np.fft.irfft(white * band[:, None], n=size, axis=0)[: len(motion)]
    share = (TREMOR_HZ[1] - TREMOR_HZ[0]) / (RATE_HZ / 2)
    return motion + TREMOR_M / np.sqrt(share) * noise


def delay(motion: Motion) -> Motion:
    """Follow with a first-order lag of time constant `LAG_S`."""
    gain = 1 - np.exp(-1 / (RATE_HZ * LAG_S))
    followed = motion.copy()
    for frame in range(1, len(motion)):
        followed[frame] = followed[frame - 1] + gain * (motion[frame] - followed[frame - 1])
    return followed


def hold(motion: Motion) -> Motion:
    """Keep every `HELD_FRAMES`-th command until the next."""
    return motion[np.arange(len(motion)) // HELD_FRAMES * HELD_FRAMES]


MAKERS: dict[str, Callable[[np.random.Generator], Motion]] = {
    "clean": move,
    "coarse": lambda rng: hold(move(rng)),
    "lag": lambda rng: delay(move(rng)),
    "shifted": lambda rng: move(rng, SHIFTED_PLACE_M),
    "tremor": lambda rng: add_tremor(move(rng), rng),
}
