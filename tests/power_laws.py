"""Laws of episodes whose windows have exact densities under noise, and what can be read of them.

Three kinds: mixtures of normal laws of whole windows, independent frames of any marginal density,
and a Markov chain of a few values beside a normal motion. `find_truth` gives sigma_min and Delta of
two laws under a run's normaliser, `read_oracle` the sigma_min that a perfect classifier would have
read from the run's own episodes. Families share a clean law: `FAMILIES` were in use when the
classifier was designed, `OTHER_FAMILIES` were not. `Reaches` has no density; it is told from its
reversal by speed alone.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol, runtime_checkable
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import expit, logsumexp, ndtr
from scipy.stats import expon, gamma

from ambient_curate.crossing import last_crossing, rising_fit
from ambient_curate.episodes import draw_evenly
from ambient_curate.noise import log_snr, sigma_from_log_snr, ve_from_sigma

Array = NDArray[np.float64]
Episodes = list[Array]

HORIZON, FRAMES = 16, 47
N_CLEAN, N_CORRUPT = 50, 120
MOST_WINDOWS, DRAWS = 64, 2  # of an episode, and of noise for a window, that a run scores
LOG_2_PI = float(np.log(2.0 * np.pi))
TRUTH_LEVELS = 48
ERRORS = 2.0  # standard errors of the Monte Carlo, to either side of a truth


@dataclass(frozen=True, eq=False)
class Scaling:
    """Normaliser of a run: ``(x - offset) * scale``, both of shape (action,)."""

    offset: Array
    scale: Array

    def apply(self, x: Array) -> Array:
        return (x - self.offset) * self.scale


class EpisodeLaw(Protocol):
    """What episodes can be drawn from."""

    def draw_episodes(self, rng: np.random.Generator, count: int) -> Episodes:
        """Independent episodes, each of shape (frame, action)."""
        ...


@runtime_checkable
class WindowLaw(Protocol):
    """An episode law whose windows have an exact density under Gaussian noise."""

    def draw_episodes(self, rng: np.random.Generator, count: int) -> Episodes:
        """Independent episodes, each of shape (frame, action)."""
        ...

    def draw_windows(self, rng: np.random.Generator, count: int) -> Array:
        """Independent windows, shape (count, horizon, action)."""
        ...

    def log_density(self, x: Array, z: Array, noise_std: Array, scaling: Scaling) -> Array:
        """Log-density of ``x + noise_std z``, shape (window, level); `x` is normalised."""
        ...


# ---- mixtures of normal windows


@dataclass(frozen=True, eq=False)
class Component:
    """A normal law of flattened windows; mean of shape (horizon * action,)."""

    share: float
    mean: Array
    covariance: Array


@dataclass(frozen=True, eq=False)
class NormalMixture:
    """Windows that follow one of several normal laws."""

    components: Sequence[Component]
    actions: int
    draw: Callable[[np.random.Generator, int], Episodes]

    def draw_episodes(self, rng: np.random.Generator, count: int) -> Episodes:
        return self.draw(rng, count)

    def draw_windows(self, rng: np.random.Generator, count: int) -> Array:
        share = np.array([one.share for one in self.components])
        chosen = rng.choice(share.size, count, p=share / share.sum())
        x = rng.standard_normal((count, self.components[0].mean.size))
        for number, one in enumerate(self.components):
            rows = chosen == number
            x[rows] = one.mean + x[rows] @ _square_root(one.covariance).T
        return x.reshape(count, -1, self.actions)

    def log_density(self, x: Array, z: Array, noise_std: Array, scaling: Scaling) -> Array:
        flat, noise = x.reshape(len(x), -1), z.reshape(len(z), -1)
        frames = flat.shape[1] // self.actions
        offset, scale = np.tile(scaling.offset, frames), np.tile(scaling.scale, frames)
        logs = []
        for one in self.components:
            variance, basis = np.linalg.eigh(one.covariance * np.outer(scale, scale))
            spread = np.maximum(variance, 0.0)[:, None] + noise_std**2  # (dim, level)
            u, w = (flat - (one.mean - offset) * scale) @ basis, noise @ basis
            square = u**2 @ (1.0 / spread) + w**2 @ (noise_std**2 / spread)
            square += (u * w) @ (2.0 * noise_std / spread)
            square += np.log(spread).sum(axis=0) + flat.shape[1] * LOG_2_PI
            logs.append(np.log(one.share) - 0.5 * square)
        return np.asarray(logsumexp(logs, axis=0))


def _square_root(covariance: Array) -> Array:
    variance, basis = np.linalg.eigh(covariance)
    return np.asarray(basis * np.sqrt(np.maximum(variance, 0.0)))


def _frames_at(frames: int, actions: int) -> NDArray[np.int64]:
    return np.tile(np.arange(frames)[:, None], (1, actions))


@dataclass(frozen=True, eq=False)
class Motion:
    """What an episode may follow: an AR(1) process read at given times, plus white noise.

    Parameters
    ----------
    phi : float
        Coefficient of the process.
    covariance : ndarray, shape (action, action)
        Of a frame of the process.
    times : ndarray, int64, shape (frame, action)
        Frame of the process that each value is read from, >= 0.
    mean : ndarray, shape (action,)
        Added to every frame.
    constant : float
        Standard deviation of an offset that each action keeps through the episode.
    white : ndarray, shape (frame, action), or float
        Standard deviation of independent noise on each value.
    share : float
        Probability that an episode follows this motion.
    """

    phi: float
    covariance: Array
    times: NDArray[np.int64]
    mean: Array | float = 0.0
    constant: float = 0.0
    white: Array | float = 0.0
    share: float = 1.0

    def draw(self, rng: np.random.Generator) -> Array:
        """One episode."""
        path = rng.standard_normal((int(self.times.max()) + 1, len(self.covariance)))
        for before, now in pairwise(path):
            now *= np.sqrt(1.0 - self.phi**2)
            now += self.phi * before
        path = path @ _square_root(self.covariance).T
        episode = path[self.times, np.arange(path.shape[1])] + self.mean
        episode += self.constant * rng.standard_normal(path.shape[1])
        return np.asarray(episode + self.white * rng.standard_normal(episode.shape))

    def windows(self) -> list[Component]:
        """Laws of the windows, one for each different pattern of times and noise."""
        starts = len(self.times) - HORIZON + 1
        white = np.broadcast_to(self.white, self.times.shape)
        first: dict[bytes, int] = {}
        counts = Counter[bytes]()
        for start in range(starts):
            times = self.times[start : start + HORIZON]
            key = (times - times.min()).tobytes() + white[start : start + HORIZON].tobytes()
            first.setdefault(key, start)
            counts[key] += 1
        return [
            Component(self.share * counts[key] / starts, self._window_mean(), self._covariance(one))
            for key, one in first.items()
        ]

    def _window_mean(self) -> Array:
        mean = np.broadcast_to(np.asarray(self.mean, dtype=np.float64), len(self.covariance))
        return np.tile(mean, HORIZON)

    def _covariance(self, start: int) -> Array:
        time = self.times[start : start + HORIZON].ravel()
        white = np.broadcast_to(self.white, self.times.shape)[start : start + HORIZON].ravel()
        process = self.phi ** np.abs(np.subtract.outer(time, time)).astype(float)
        offsets = np.tile(np.eye(len(self.covariance)), (HORIZON, HORIZON))
        between = np.tile(self.covariance, (HORIZON, HORIZON))
        return np.asarray(between * process + self.constant**2 * offsets + np.diag(white**2))


def follow(motions: Iterable[Motion]) -> NormalMixture:
    """Law of episodes that each follow one of some motions."""
    motions = tuple(motions)
    share = np.array([motion.share for motion in motions])

    def draw(rng: np.random.Generator, count: int) -> Episodes:
        return [motions[i].draw(rng) for i in rng.choice(share.size, count, p=share / share.sum())]

    components = _merge(one for motion in motions for one in motion.windows())
    return NormalMixture(components, len(motions[0].covariance), draw)


def _merge(components: Iterable[Component]) -> list[Component]:
    """Add the shares of equal laws."""
    found: dict[bytes, Component] = {}
    for one in components:
        key = one.mean.tobytes() + one.covariance.tobytes()
        share = one.share + (found[key].share if key in found else 0.0)
        found[key] = replace(one, share=share)
    return list(found.values())


def steady(phi: float, actions: int, *, frames: int = FRAMES, sd: float = 1.0) -> Motion:
    """AR(1) in independent actions."""
    return Motion(phi, sd**2 * np.eye(actions), _frames_at(frames, actions))


def autoregression(phi: float, actions: int, *, frames: int = FRAMES, sd: float = 1.0) -> WindowLaw:
    return follow([steady(phi, actions, frames=frames, sd=sd)])


def jittered(motion: Motion, sd: float, dims: int | None = None) -> WindowLaw:
    """White noise on the first `dims` actions; None: on all."""
    actions = len(motion.covariance)
    where = np.arange(actions) < (actions if dims is None else dims)
    white = np.tile(np.where(where, sd, 0.0), (len(motion.times), 1))
    return follow([replace(motion, white=white)])


def held(motion: Motion, frames: int) -> WindowLaw:
    """Every value held for `frames` frames."""
    return follow([replace(motion, times=motion.times // frames * frames)])


def lagged(motion: Motion, frames: int) -> WindowLaw:
    """The first action late by `frames` frames."""
    late = np.arange(len(motion.covariance)) == 0
    return follow([replace(motion, times=motion.times + frames * ~late)])


def paused(motion: Motion, share: float) -> WindowLaw:
    """The first action constant through an episode, with probability `share`."""
    moving = np.arange(len(motion.covariance)) > 0
    still = replace(motion, times=motion.times * moving, share=share)
    return follow([replace(motion, share=1.0 - share), still])


def spiked(motion: Motion, sd: float, period: int) -> WindowLaw:
    """Independent noise on the first action in one frame of `period`, the first one by chance."""
    first = np.arange(len(motion.covariance)) == 0
    phases = np.arange(len(motion.times))[:, None] % period
    return follow(
        replace(motion, white=sd * ((phases == phase) & first), share=1.0 / period)
        for phase in range(period)
    )


def places(shares: Sequence[float], means: Sequence[Sequence[float]]) -> WindowLaw:
    """Narrow motions about one of some means."""
    around = steady(0.8, 2, sd=0.35)
    return follow(
        replace(around, mean=np.array(mean, dtype=np.float64), share=share)
        for share, mean in zip(np.array(shares) / sum(shares), means, strict=True)
        if share > 0
    )


def rotating(radius: float, angle_rad: float, *, reverse: bool = False) -> NormalMixture:
    """``x' = A x + noise`` with A a rotation times `radius`, variances of 1; or in reversed time.

    Both have the same law of a frame, and of any number of frames without their order.
    """
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    step = radius * np.array([[cos, -sin], [sin, cos]])
    powers = [np.linalg.matrix_power(step, lag) for lag in range(HORIZON)]
    covariance = np.block(
        [
            [powers[i - j] if i >= j else powers[j - i].T for j in range(HORIZON)]
            for i in range(HORIZON)
        ]
    )

    def draw(rng: np.random.Generator, count: int) -> Episodes:
        path = rng.standard_normal((count, FRAMES, 2))
        for t in range(1, FRAMES):
            path[:, t] = path[:, t - 1] @ step.T + np.sqrt(1.0 - radius**2) * path[:, t]
        return list(path[:, ::-1] if reverse else path)

    if reverse:  # the flip of the frames of a window
        order = np.arange(2 * HORIZON).reshape(HORIZON, 2)[::-1].ravel()
        covariance = covariance[np.ix_(order, order)]
    return NormalMixture([Component(1.0, np.zeros(2 * HORIZON), covariance)], 2, draw)


# ---- independent frames


@dataclass(frozen=True, eq=False)
class Marginal:
    """Density of one value as a sum of normal ones, all of shape (node,); an `sd` may be 0."""

    share: Array
    mean: Array
    sd: Array

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        node = rng.choice(self.share.size, shape, p=self.share)
        return np.asarray(self.mean[node] + self.sd[node] * rng.standard_normal(shape))

    def log_density(self, y: Array, noise_std: float) -> Array:
        """Log-density under noise, for `y` of any shape, by a spline between exact values."""
        spread = np.hypot(self.sd, noise_std)
        end = np.arcsinh(np.abs(y).max() + 1e-6)
        knots = np.sinh(np.linspace(-end, end, int(16.0 * end / min(spread.min(), 0.5)) + 9))
        distance = (knots[:, None] - self.mean) / spread
        exact = logsumexp(-0.5 * distance**2, axis=1, b=self.share / spread) - 0.5 * LOG_2_PI
        return np.asarray(CubicSpline(knots, exact)(y))

    def rescaled(self, offset: float, scale: float) -> "Marginal":
        return Marginal(self.share, (self.mean - offset) * scale, self.sd * scale)


@dataclass(frozen=True, eq=False)
class IndependentFrames:
    """All frames and actions independent, with one marginal density."""

    marginal: Marginal
    actions: int

    def draw_episodes(self, rng: np.random.Generator, count: int) -> Episodes:
        return list(self.marginal.draw(rng, (count, FRAMES, self.actions)))

    def draw_windows(self, rng: np.random.Generator, count: int) -> Array:
        return self.marginal.draw(rng, (count, HORIZON, self.actions))

    def log_density(self, x: Array, z: Array, noise_std: Array, scaling: Scaling) -> Array:
        result = np.zeros((len(x), noise_std.size))
        for action in range(self.actions):
            mine = self.marginal.rescaled(scaling.offset[action], scaling.scale[action])
            for level, sd in enumerate(noise_std):
                y = x[..., action] + sd * z[..., action]
                result[:, level] += mine.log_density(y, float(sd)).sum(axis=1)
        return result


def normal_value(sd: float = 1.0) -> Marginal:
    return Marginal(np.ones(1), np.zeros(1), np.array([sd]))


def student_value(df: float, mean: float = 0.0) -> Marginal:
    """Student's t of variance 1 about `mean`: normal, given a precision that is gamma."""
    log_precision = np.arange(-60.0 / df, 5.0, 0.2)
    share = gamma.pdf(np.exp(log_precision), df / 2.0, scale=2.0 / df) * np.exp(log_precision)
    sd = np.exp(-0.5 * log_precision) * np.sqrt((df - 2.0) / df)
    return Marginal(share / share.sum(), np.full_like(sd, mean), sd)


def laplace_value() -> Marginal:
    """Laplace's density of variance 1: normal, given a variance that is exponential."""
    log_variance = np.arange(-30.0, 4.0, 0.2)
    share = expon.pdf(np.exp(log_variance)) * np.exp(log_variance)
    return Marginal(share / share.sum(), np.zeros_like(share), np.exp(0.5 * log_variance))


def clipped_value(bound: float) -> Marginal:
    """Standard normal values clipped to ``[-bound, bound]``."""
    node, weight = np.polynomial.legendre.leggauss(300)
    inside = bound * weight * np.exp(-0.5 * (bound * node) ** 2 - 0.5 * LOG_2_PI)
    share = np.concatenate([inside, np.full(2, ndtr(-bound))])
    mean = np.concatenate([bound * node, [-bound, bound]])
    return Marginal(share / share.sum(), mean, np.zeros_like(mean))


# ---- a Markov chain beside a motion


@dataclass(frozen=True, eq=False)
class WithChain:
    """A motion, and a further action that follows a stationary Markov chain of some values.

    Parameters
    ----------
    motion : NormalMixture
        Of all other actions, independent of the chain.
    values : ndarray, shape (state,)
        Value of the last action in every state.
    transition : ndarray, shape (state, state)
        Rows sum to 1.
    """

    motion: NormalMixture
    values: Array
    transition: Array

    @property
    def stationary(self) -> Array:
        size = self.values.size
        equations = np.vstack([self.transition.T - np.eye(size), np.ones(size)])
        return np.asarray(np.linalg.lstsq(equations, np.eye(size + 1)[-1], rcond=None)[0])

    def draw_chain(self, rng: np.random.Generator, count: int, frames: int) -> Array:
        states = np.empty((count, frames), dtype=np.int64)
        states[:, 0] = rng.choice(self.values.size, count, p=self.stationary)
        below = np.cumsum(self.transition, axis=1)[:, :-1]
        for t in range(1, frames):
            states[:, t] = (rng.random((count, 1)) >= below[states[:, t - 1]]).sum(axis=1)
        return np.asarray(self.values[states])

    def draw_episodes(self, rng: np.random.Generator, count: int) -> Episodes:
        return [
            np.column_stack([motion, self.draw_chain(rng, 1, len(motion))[0]])
            for motion in self.motion.draw_episodes(rng, count)
        ]

    def draw_windows(self, rng: np.random.Generator, count: int) -> Array:
        motion = self.motion.draw_windows(rng, count)
        chain = self.draw_chain(rng, count, motion.shape[1])
        return np.concatenate([motion, chain[..., None]], axis=2)

    def log_density(self, x: Array, z: Array, noise_std: Array, scaling: Scaling) -> Array:
        rest = Scaling(scaling.offset[:-1], scaling.scale[:-1])
        result = self.motion.log_density(x[..., :-1], z[..., :-1], noise_std, rest)
        value = (self.values - scaling.offset[-1]) * scaling.scale[-1]
        for level, sd in enumerate(noise_std):
            y = x[..., -1] + sd * z[..., -1]
            emission = -0.5 * ((y[..., None] - value) / sd) ** 2 - np.log(sd) - 0.5 * LOG_2_PI
            result[:, level] += self._forward(emission)
        return result

    def _forward(self, emission: Array) -> Array:
        """Log-likelihood of chains, from log-densities of shape (window, frame, state)."""
        state, total = self.stationary, np.zeros(len(emission))
        for frame in range(emission.shape[1]):
            highest = emission[:, frame].max(axis=1)
            joint = state * np.exp(emission[:, frame] - highest[:, None])
            sums = joint.sum(axis=1)
            total += highest + np.log(sums)
            state = joint / sums[:, None] @ self.transition
        return total


def gripper(actions: int, phi: float, p_close: float, p_open: float) -> WindowLaw:
    """A gripper that is 0 or 1 beside an AR(1) motion; probabilities of a change in a frame."""
    motion = follow([steady(phi, actions - 1)])
    transition = np.array([[1.0 - p_close, p_close], [p_open, 1.0 - p_open]])
    return WithChain(motion, np.array([0.0, 1.0]), transition)


def cycling(p_on: float, p_back: float) -> WithChain:
    """Three values visited in a cycle; with the probabilities swapped, in reversed time."""
    stay = 1.0 - p_on - p_back
    transition = np.array([[stay, p_on, p_back], [p_back, stay, p_on], [p_on, p_back, stay]])
    return WithChain(follow([steady(0.9, 1)]), np.array([-1.0, 0.0, 1.0]), transition)


# ---- reversed motions without a density


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


# ---- families


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


# ---- truths and readings


@dataclass(frozen=True, eq=False)
class Truth:
    """What is true of two laws, from Monte Carlo over their exact densities.

    Parameters
    ----------
    sigma_min : float
        Noise level above which Delta stays below ``4 epsilon``.
    lower, upper : float
        The same of the curve less and plus `ERRORS` standard errors.
    sigma, delta : ndarray, float64, shape (level,)
        Delta over noise levels.
    """

    sigma_min: float
    lower: float
    upper: float
    sigma: Array
    delta: Array


@dataclass(frozen=True, eq=False)
class Reading:
    """What the exact likelihood ratio reads from given episodes.

    Parameters
    ----------
    sigma_min : float
        Last crossing of the isotonic fit of `corrupt`.
    clean, corrupt : ndarray, float64, shape (level,)
        Means of the probability of "clean" over the episodes of either set.
    """

    sigma_min: float
    clean: Array
    corrupt: Array


def find_truth(
    p: WindowLaw,
    q: WindowLaw,
    scaling: Scaling,
    grid: Array,
    *,
    epsilon: float,
    draws: int = 8_000,
) -> Truth:
    """Find sigma_min and Delta of two laws under a normaliser.

    ``Delta = 2 E t^2`` under ``(p + q) / 2``, where ``t = (p - q) / (p + q)``.

    Parameters
    ----------
    p, q : WindowLaw
        Clean and corrupt.
    scaling : Scaling
        Normaliser of the run.
    grid : ndarray, shape (level,)
        Levels of the run: the truth lies between its ends.
    epsilon : float
        Margin of the rule.
    draws : int
        Windows of each law.
    """
    first, last = log_snr(grid[[0, -1]])
    sigma = sigma_from_log_snr(np.linspace(first, last, TRUTH_LEVELS))
    rng, squares = np.random.default_rng(99), []
    for law in (p, q):
        x = scaling.apply(law.draw_windows(rng, draws))
        ratio = _log_ratio(p, q, x, rng.standard_normal(x.shape), sigma, scaling)
        squares.append(2.0 * np.tanh(0.5 * ratio) ** 2)
    delta = np.mean(squares, axis=(0, 1))
    error = np.sqrt(np.var(squares, axis=1).mean(axis=0) / (2.0 * draws))
    found, lower, upper = (
        float(last_crossing(0.5 - (delta + by * error) / 4.0, sigma, 0.5 - epsilon))
        for by in (0.0, -ERRORS, ERRORS)
    )
    return Truth(found, lower, upper, sigma, delta)


def _log_ratio(
    p: WindowLaw, q: WindowLaw, x: Array, z: Array, sigma: Array, scaling: Scaling
) -> Array:
    """Shape (window, level); exactly 0 for one and the same law."""
    if p is q:
        return np.zeros((len(x), sigma.size))
    noise_std = ve_from_sigma(sigma)
    p_log, q_log = (law.log_density(x, z, noise_std, scaling) for law in (p, q))
    return np.asarray(p_log - q_log)


def read_oracle(
    p: WindowLaw,
    q: WindowLaw,
    clean: Episodes,
    corrupt: Episodes,
    scaling: Scaling,
    grid: Array,
    *,
    epsilon: float,
) -> Reading:
    """Read sigma_min from a run's episodes with the exact likelihood ratio.

    As a run does: all windows of an episode, at most 64, two draws of noise each, means over
    windows and then over episodes, an isotonic fit, the last crossing.
    """
    rng = np.random.default_rng(7)
    means = []
    for episodes in (clean, corrupt):
        x, owner = _windows_scored(episodes, scaling, rng)
        c = expit(_log_ratio(p, q, x, rng.standard_normal(x.shape), grid, scaling))
        of_episode = np.zeros((len(episodes), grid.size))
        np.add.at(of_episode, owner, c)
        means.append((of_episode / np.bincount(owner)[:, None]).mean(axis=0))
    crossing = last_crossing(rising_fit(means[1]), grid, 0.5 - epsilon)
    return Reading(float(crossing), *means)


def _windows_scored(
    episodes: Episodes, scaling: Scaling, rng: np.random.Generator
) -> tuple[Array, NDArray[np.int64]]:
    """Normalised windows, each as often as noise is drawn for it, and their episodes."""
    windows, owner = [], []
    for number, episode in enumerate(episodes):
        starts = draw_evenly(len(episode) - HORIZON + 1, MOST_WINDOWS, rng)
        stored = np.asarray(episode, dtype=np.float32).astype(np.float64)
        windows.append(stored[starts[:, None] + np.arange(HORIZON)])
        owner.append(np.full(len(starts), number))
    x = scaling.apply(np.concatenate(windows))
    return np.repeat(x, DRAWS, axis=0), np.repeat(np.concatenate(owner), DRAWS)
