"""Families of laws that share a clean one, each annotated as one collection.

`FAMILIES` were in use when the classifier was designed, `OTHER_FAMILIES` were not. `Reaches` has no
density; it is told from its reversal by speed alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from zlib import crc32

import numpy as np
from power_laws import (
    N_CLEAN,
    N_CORRUPT,
    Array,
    EpisodeLaw,
    Episodes,
    IndependentFrames,
    WindowLaw,
    autoregression,
    clipped_value,
    cycling,
    follow,
    gripper,
    held,
    jittered,
    lagged,
    laplace_value,
    normal_value,
    paused,
    places,
    rotating,
    spiked,
    steady,
    student_value,
)


@dataclass(frozen=True)
class Reaches:
    """Moves from point to point that start fast and end slowly, or with `reverse` backwards.

    A single frame has the same law in both.

    Parameters
    ----------
    reverse : bool
        Whether episodes are played backwards.
    warp : float
        Exponent of the time of a move, in (0, 1]; 1: as fast in the end as at the start.
    tremor : float
        Standard deviation of white noise on every value; points have one of 1.
    actions, frames : int
        Size of an episode.
    """

    reverse: bool = False
    warp: float = 0.38
    tremor: float = 0.03
    actions: int = 4
    frames: int = 120

    def draw_episodes(self, rng: np.random.Generator, count: int) -> Episodes:
        return [self._draw(rng)[:: -1 if self.reverse else 1] for _ in range(count)]

    def _draw(self, rng: np.random.Generator) -> Array:
        point, path = rng.standard_normal(self.actions), list[Array]()
        skipped = int(rng.integers(40))  # an episode starts anywhere in a move
        while len(path) < self.frames + skipped + 40:
            following, count = rng.standard_normal(self.actions), int(rng.integers(15, 35))
            time = (np.arange(count) / count) ** self.warp
            share = time**3 * (10.0 - 15.0 * time + 6.0 * time**2)  # minimum jerk
            path.extend(point + share[:, None] * (following - point))
            point = following
        episode = np.array(path[skipped : skipped + self.frames])
        return np.asarray(episode + self.tremor * rng.standard_normal(episode.shape))


@dataclass(frozen=True, eq=False)
class Family:
    """A clean law, and the corrupt ones that are annotated with it in one collection."""

    name: str
    clean: EpisodeLaw
    corrupt: Mapping[str, EpisodeLaw]
    n_clean: int = N_CLEAN
    n_corrupt: int = N_CORRUPT
    counts: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        counts = {"clean": self.n_clean} | dict.fromkeys(self.corrupt, self.n_corrupt)
        object.__setattr__(self, "counts", counts)

    def draw(self, seed: int) -> dict[str, Episodes]:
        """Episodes of every member; a member's do not depend on which others there are."""
        laws = {"clean": self.clean, **self.corrupt}
        return {
            name: law.draw_episodes(
                np.random.default_rng([seed, crc32(f"{self.name}/{name}".encode())]),
                self.counts[name],
            )
            for name, law in laws.items()
        }

    def only(self, names: Sequence[str]) -> "Family":
        """The same, with some of the corrupt laws."""
        return replace(self, corrupt={name: self.corrupt[name] for name in names})


def _coefficients() -> Family:
    others = {"phi8": 0.8, "phi97": 0.97, "phi6": 0.6}
    corrupt = {name: autoregression(phi, 2) for name, phi in others.items()}
    return Family("a", autoregression(0.9, 2), corrupt)


def _covariances() -> Family:
    motion = steady(0.95, 4)
    corrupt = {
        "jit1": jittered(motion, 0.2, 1),
        "wide": autoregression(0.95, 4, sd=1.6),
        "narrow": autoregression(0.95, 4, sd=0.6),
    }
    return Family("b", follow([motion]), corrupt)


def _places() -> Family:
    two = [[1, 1], [-1, -1]]
    corrupt = {
        "lacks": places([1, 0], two),
        "third30": places([35, 35, 30], [*two, [1, -1]]),
        "rare5": places([47.5, 47.5, 5], [*two, [1, -1]]),
        "near30": places([35, 35, 30], [*two, [0.5, 0.5]]),
    }
    return Family("c", places([1, 1], two), corrupt)


def _tails() -> Family:
    corrupt = {f"t{df:g}": IndependentFrames(student_value(df), 2) for df in (4, 2.5)}
    return Family("d", IndependentFrames(normal_value(), 2), corrupt)


def _heavy() -> Family:
    clean = IndependentFrames(student_value(3), 2)
    moved = {"mu.1": 0.1, "mu.25": 0.25}
    corrupt = {name: IndependentFrames(student_value(3, by), 2) for name, by in moved.items()}
    return Family("d2", clean, {"same": clean, **corrupt})


def _constants() -> Family:
    motion = steady(0.7, 2)
    clean, tau2, tau04 = (follow([replace(motion, constant=sd)]) for sd in (1.0, 2.0, 0.4))
    corrupt = {"same": clean, "same2": clean, "tau2": tau2, "tau.4": tau04}
    return Family("e", clean, corrupt)


def _held() -> Family:
    motion = steady(0.95, 2)
    return Family("f", follow([motion]), {"held2": held(motion, 2), "held4": held(motion, 4)})


def _gripper() -> Family:
    rates = {"fast": (0.15, 0.15), "open": (0.02, 0.08), "fast10": (0.1, 0.1)}
    corrupt = {name: gripper(3, 0.9, *both) for name, both in rates.items()}
    return Family("g", gripper(3, 0.9, 0.05, 0.05), corrupt)


def _fourteen() -> Family:
    rng, actions = np.random.default_rng(5), 14
    mixing = np.linalg.qr(rng.standard_normal((actions, actions)))[0]
    mixing = mixing * np.exp(np.linspace(0.0, -2.5, actions))
    direction = rng.standard_normal(actions)
    shift = 0.5 * direction / np.linalg.norm(direction)
    motion = replace(steady(0.95, actions), covariance=mixing @ mixing.T)
    clean = follow([motion])
    corrupt = {
        "phi9": follow([replace(motion, phi=0.9)]),
        "shift": follow([replace(motion, mean=shift)]),
        "same": clean,
    }
    return Family("h", clean, corrupt, n_clean=20)


def _lengths() -> Family:
    short = replace(steady(0.6, 2, frames=24, sd=np.sqrt(0.5)), mean=np.array([0.6, 0.0]))
    long = replace(steady(0.95, 2, frames=96), mean=np.array([-0.6, 0.0]))

    def share(of_short: float) -> WindowLaw:
        both = [replace(short, share=of_short), replace(long, share=1.0 - of_short)]
        return follow(motion for motion in both if motion.share > 0.0)

    clean = share(0.5)
    return Family("i", clean, {"same": clean, "short8": share(0.8), "short1": share(1.0)})


def _few(n_clean: int) -> Family:
    motion = steady(0.95, 7, frames=31)
    corrupt = {
        "jit1": jittered(motion, np.sqrt(0.05), 1),
        "phi9": follow([replace(motion, phi=0.9)]),
    }
    return Family(f"few{n_clean}", follow([motion]), corrupt, n_clean, n_corrupt=150)


def _held_slower() -> Family:
    motion = steady(0.9, 2)
    return Family("hold", follow([motion]), {"held3": held(motion, 3)})


def _frames() -> Family:
    values = {"t3": student_value(3), "laplace": laplace_value(), "clipped": clipped_value(1.0)}
    corrupt = {name: IndependentFrames(value, 3) for name, value in values.items()}
    return Family("frames", IndependentFrames(normal_value(), 3), corrupt)


def _switch() -> Family:
    clean = gripper(5, 0.9, 0.05, 0.05)
    closed, opened = gripper(5, 0.9, 0.2, 0.05), gripper(5, 0.9, 0.02, 0.1)
    return Family("switch", clean, {"closed": closed, "open": opened, "same": clean})


def _seven() -> Family:
    motion = steady(0.95, 7)
    corrupt = {
        "jit1": jittered(motion, 0.3, 1),
        "spikes": spiked(motion, 1.0, 20),
        "pause": paused(motion, 1.0 / 3.0),
    }
    return Family("seven", follow([motion]), corrupt)


def _late() -> Family:
    together = 0.2 * np.eye(3) + 0.8
    motion = replace(steady(0.9, 3), covariance=together)
    return Family("late", follow([motion]), {"lag1": lagged(motion, 1), "lag3": lagged(motion, 3)})


def _turns() -> Family:
    clean = rotating(0.9, 0.05)
    return Family("turn", clean, {"reversed": rotating(0.9, 0.05, reverse=True), "same": clean})


def _cycle() -> Family:
    clean = cycling(0.12, 0.03)
    return Family("cycle", clean, {"reversed": cycling(0.03, 0.12), "same": clean})


def _reaches() -> Family:
    return Family(
        "reach", Reaches(), {"reversed": Reaches(reverse=True), "same": Reaches()}, 30, 60
    )


FAMILIES: dict[str, Callable[[], Family]] = {
    "a": _coefficients,
    "b": _covariances,
    "c": _places,
    "d": _tails,
    "d2": _heavy,
    "e": _constants,
    "f": _held,
    "g": _gripper,
    "h": _fourteen,
    "i": _lengths,
    "few10": lambda: _few(10),
    "few20": lambda: _few(20),
    "few50": lambda: _few(50),
}
OTHER_FAMILIES: dict[str, Callable[[], Family]] = {
    "hold": _held_slower,
    "frames": _frames,
    "switch": _switch,
    "seven": _seven,
    "late": _late,
    "turn": _turns,
    "cycle": _cycle,
    "reach": _reaches,
}
