"""Data sets of episodes with dependent windows, and the exact divergences of their windows.

An episode follows one mode, drawn first: a mean, smooth motion and white shake, all of them
stationary normal processes. Wherever a window starts, and however long its episode is, its law is
therefore the same mixture of normal laws; so it is after any affine normaliser, and after noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp

Array = NDArray[np.float64]

DRIFT = 0.3  # share of an episode's motion that stays: what makes all its windows dependent
FLOOR = 1e-3  # share that is white, so that every covariance has an inverse
FRAMES = 4.0  # over which the rest changes
MOST_WINDOWS = 5
NOMINAL = 1.0 / 3.0  # a clean set's range is about three standard deviations to either side
CHUNK = 10_000
SHAPES = ((1, 2), (8, 2), (16, 7))  # horizon and actions
SIZES = ((50, 1_000), (500, 5_000))  # clean and corrupt episodes
KINDS = (  # what differs, the level where Delta is about .2, and a factor on the strength
    ("shift", 0.9, 1.0),
    ("narrow shift", 0.2, 1.0),
    ("shake", 0.6, 1.0),
    ("shift", 0.1, 0.7),
    ("some elsewhere", 0.8, 1.0),
    ("still", 0.15, 1.0),
    ("narrow shift", 0.7, 1.0),
    ("wide", 0.4, 1.0),
    ("shake", 0.15, 1.0),
    ("other shares", 0.6, 1.0),
)


@dataclass(frozen=True)
class Mode:
    """What an episode may follow, with probability `share`."""

    share: float
    mean: Array
    motion: Array  # covariance of the smooth part over the actions
    shake: Array  # of the white part

    def window(self, horizon: int) -> tuple[Array, Array]:
        """Mean and covariance of a flattened window."""
        smooth = np.kron(correlation(horizon), self.motion)
        return np.tile(self.mean, horizon), smooth + np.kron(np.eye(horizon), self.shake)

    def rescaled(self, offset: Array, scale: Array) -> "Mode":
        both = np.outer(scale, scale)
        mean = (self.mean - offset) * scale
        return replace(self, mean=mean, motion=self.motion * both, shake=self.shake * both)


Law = Sequence[Mode]


@dataclass(frozen=True)
class Case:
    """Two laws, and how many episodes are drawn from each."""

    name: str
    horizon: int
    clean: Law
    corrupt: Law
    n_clean: int
    n_corrupt: int
    seed: int


@dataclass(frozen=True)
class Divergences:
    """Delta and TV at every level, with standard errors of the Monte Carlo."""

    delta: Array
    delta_error: Array
    tv: Array
    tv_error: Array


def correlation(frames: int) -> Array:
    """Correlation of the smooth part between frames."""
    apart = np.subtract.outer(np.arange(frames), np.arange(frames))
    smooth = np.exp(-0.5 * (apart / FRAMES) ** 2)
    return DRIFT + (1.0 - DRIFT - FLOOR) * smooth + FLOOR * np.eye(frames)


def draw_episodes(law: Law, count: int, horizon: int, rng: np.random.Generator) -> list[Array]:
    """Episodes of one to `MOST_WINDOWS` whole windows, shape (frame, action)."""
    frames = horizon + MOST_WINDOWS - 1
    time = np.linalg.cholesky(correlation(frames))
    chosen = rng.choice(len(law), size=count, p=[mode.share for mode in law])
    noise = rng.standard_normal((2, count, frames, law[0].mean.size))
    path = np.empty_like(noise[0])
    for number, mode in enumerate(law):
        rows = chosen == number
        smooth, white = noise[:, rows]
        path[rows] = mode.mean + time @ smooth @ square_root(mode.motion).T
        path[rows] += white @ square_root(mode.shake).T
    lengths = rng.integers(horizon, frames + 1, size=count)
    return [episode[:length] for episode, length in zip(path, lengths, strict=True)]


def square_root(covariance: Array) -> Array:
    variance, basis = np.linalg.eigh(covariance)
    return basis * np.sqrt(np.maximum(variance, 0.0))


def write_case(case: Case, folder: Path) -> None:
    """Write a collection of two ``.npz`` files, ``clean`` and ``corrupt``."""
    rng = np.random.default_rng([20260410, case.seed])
    folder.mkdir(parents=True)
    sides = {"clean": (case.clean, case.n_clean), "corrupt": (case.corrupt, case.n_corrupt)}
    for name, (law, count) in sides.items():
        episodes = draw_episodes(law, count, case.horizon, rng)
        np.savez(
            folder / f"{name}.npz",
            action=np.concatenate(episodes).astype(np.float32),
            episode_ends=np.cumsum([len(episode) for episode in episodes]),
        )
    text = 'clean = "clean"\n[datasets]\nclean.rate_hz = 20.0\ncorrupt.rate_hz = 20.0\n'
    (folder / "ambient.toml").write_text(text, encoding="utf-8")


def exact_divergences(
    clean: Law, corrupt: Law, horizon: int, sigma: Array, *, draws: int = 100_000
) -> Divergences:
    """Monte Carlo over `draws` windows of either law, by their exact densities after noise.

    With ``t = (p - q) / (p + q)``, ``Delta = 2 E t^2`` and ``TV = E |t|`` under ``(p + q) / 2``.
    """
    rng = np.random.default_rng(0)
    moments = []
    for law in (clean, corrupt):
        for first in range(0, draws, CHUNK):
            count = min(CHUNK, draws - first)
            x, z = _draw_windows(law, count, horizon, rng)
            ratio = _log_density(clean, horizon, x, z, sigma)
            ratio -= _log_density(corrupt, horizon, x, z, sigma)
            t = np.tanh(0.5 * ratio)
            values = np.stack([2.0 * t**2, np.abs(t)])
            moments.append([values.sum(axis=1), (values**2).sum(axis=1)])
    first_moment, second = np.sum(moments, axis=0) / (2 * draws)
    error = np.sqrt(np.maximum(second - first_moment**2, 0.0) / (2 * draws))
    return Divergences(first_moment[0], error[0], first_moment[1], error[1])


def _draw_windows(
    law: Law, count: int, horizon: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Windows and noise, shape (count, dim); modes in exact shares, but for rounding."""
    ends = np.round(np.cumsum([mode.share for mode in law]) * count).astype(int)
    sizes = np.diff(ends, prepend=0)
    parts = []
    for mode, size in zip(law, sizes, strict=True):
        mean, covariance = mode.window(horizon)
        parts.append(mean + rng.standard_normal((size, mean.size)) @ square_root(covariance).T)
    x = np.concatenate(parts)
    return x, rng.standard_normal(x.shape)


def _log_density(law: Law, horizon: int, x: Array, z: Array, sigma: Array) -> Array:
    """Log-density of ``a x + sigma z`` at every level, but for a constant; shape (n, level)."""
    signal = np.sqrt(1.0 - sigma**2)
    logs = []
    for mode in law:
        mean, covariance = mode.window(horizon)
        variance, basis = np.linalg.eigh(covariance)
        spread = signal**2 * np.maximum(variance, 0.0)[:, None] + sigma**2  # (dim, level)
        u, w = (x - mean) @ basis, z @ basis
        square = u**2 @ (signal**2 / spread) + w**2 @ (sigma**2 / spread)
        square += (u * w) @ (2.0 * signal * sigma / spread)
        logs.append(np.log(mode.share) - 0.5 * (square + np.log(spread).sum(axis=0)))
    return np.asarray(logsumexp(logs, axis=0))


def base_mode(actions: int, seed: int) -> Mode:
    """A clean mode: standard deviations of 1, and directions a hundred times narrower in variance.

    The white part has a thousandth of the variance.
    """
    rng = np.random.default_rng([7, actions, seed])
    basis = np.linalg.qr(rng.standard_normal((actions, actions)))[0]
    motion = basis @ np.diag(np.geomspace(1.0, 0.01, actions)) @ basis.T
    size = np.sqrt(np.diag(motion))
    motion = motion / np.outer(size, size)
    return Mode(1.0, np.zeros(actions), motion, 1e-3 * np.eye(actions))


def widest(mode: Mode, rank: int = -1) -> Array:
    """Direction in which a mode varies most, or with `rank` 0 least."""
    return np.linalg.eigh(mode.motion)[1][:, rank]


def change(mode: Mode, kind: str, strength: float) -> tuple[Law, Law]:
    """A clean and a corrupt law, the further apart the higher `strength` > 0."""
    far = mode.mean + strength * widest(mode)
    if kind == "shift":
        corrupt = [replace(mode, mean=far)]
    elif kind == "narrow shift":
        corrupt = [replace(mode, mean=mode.mean + strength * widest(mode, 0))]
    elif kind == "shake":
        corrupt = [replace(mode, shake=mode.shake + strength**2 * np.eye(mode.mean.size))]
    elif kind == "wide":
        corrupt = [replace(mode, motion=mode.motion * (1.0 + strength) ** 2)]
    elif kind == "still":
        corrupt = [replace(mode, motion=mode.motion / (1.0 + strength) ** 2)]
    elif kind == "some elsewhere":
        corrupt = two_places(mode, far, 0.5)
    elif kind == "other shares":
        return two_places(mode, far, 0.5), two_places(mode, far, 0.85)
    else:
        raise ValueError(kind)
    return [mode], corrupt


def two_places(mode: Mode, far: Array, share: float) -> Law:
    return [replace(mode, share=1.0 - share), replace(mode, mean=far, share=share)]


def with_strength(mode: Mode, kind: str, horizon: int, sigma_min: float) -> float:
    """How much to corrupt a mode for a Delta of .2 at `sigma_min`, with a nominal normaliser."""
    level = np.array([sigma_min])
    scale = np.full(mode.mean.size, NOMINAL)

    def excess(log_strength: float) -> float:
        clean, corrupt = (
            [m.rescaled(np.zeros_like(scale), scale) for m in law]
            for law in change(mode, kind, float(np.exp(log_strength)))
        )
        return float(exact_divergences(clean, corrupt, horizon, level, draws=4_000).delta[0]) - 0.2

    return float(np.exp(brentq(excess, -7.0, 4.0, xtol=1e-3)))


def planned_cases() -> list[Case]:
    """20 pairs of laws and 14 equal ones in every dimension, in an order whose parts inform.

    Each kind comes at both sizes.
    """
    cases = []
    for number, (kind, target, factor) in enumerate(KINDS):
        for horizon, actions in SHAPES:
            mode = base_mode(actions, number)
            strength = factor * with_strength(mode, kind, horizon, target)
            clean, corrupt = change(mode, kind, strength)
            for sizes in SIZES:
                name = f"{kind} {target}" if factor == 1.0 else f"faint {kind}"
                cases.append(
                    Case(
                        f"{name}, dim {horizon * actions}, {sizes[0]}/{sizes[1]}",
                        horizon,
                        clean,
                        corrupt,
                        *sizes,
                        seed=len(cases),
                    )
                )
    return cases


def equal_cases(count: int) -> list[Case]:
    """Data sets of two equal laws, with one place or two."""
    cases = []
    for number in range(count):
        horizon, actions = SHAPES[number % 3]
        sizes = SIZES[number // 3 % 2]
        mode = base_mode(actions, 100 + number)
        law = [mode] if number // 6 % 2 else two_places(mode, 2.0 * widest(mode), 0.3)
        name = f"equal {number}, dim {horizon * actions}, {sizes[0]}/{sizes[1]}"
        cases.append(Case(name, horizon, law, law, *sizes, seed=1_000 + number))
    return cases
