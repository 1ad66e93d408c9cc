"""Laws of episodes whose windows have exact densities under noise.

Three kinds: mixtures of normal laws of whole windows, independent frames of any marginal density,
and a Markov chain of a few values beside a normal motion.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import logsumexp, ndtr
from scipy.stats import expon, gamma

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
