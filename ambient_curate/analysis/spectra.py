"""Power spectra of actions, and the noise level that hides each frequency band.

Time is the frame index: the channel adds white noise a frame, whatever the clock did between two
of them, so that neither resampling nor a Lomb-Scargle periodogram of the timestamps would say what
the noise hides. Power is two-sided and a frame: white noise of variance v has power v at every
frequency (method.md section 12).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64

from ambient_curate.divergence import delta_at
from ambient_curate.errors import NotEnoughDataError
from ambient_curate.noise import Numbers, sigma_from_ve

LONGEST = 256  # frames of a segment
SHORTEST = 6  # a fit needs a few frequencies
BANDWIDTH = 2.0  # of the tapers, in bins
TAPERS = 2
MOST_ORDER = 3  # of the differences that whiten a series
_ROUNDS = 4  # in which the order of the differences settles
_TAIL = 0.1  # share of the episodes that may be too short for a segment


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Power spectral densities of the episodes of one dataset.

    Parameters
    ----------
    frequency : ndarray, float64, shape (bin,)
        Rising, in cycles a frame, in (0, 0.5].
    power : ndarray, float64, shape (episode, bin, dim)
        Of every episode that was long enough; in squared units of the actions.
    order : ndarray, int64, shape (dim,)
        Differences that whitened each dimension before its power was measured.
    segment : int
        Frames that are transformed together.
    too_short : int
        Episodes left out because they are shorter.
    """

    frequency: Float64[np.ndarray, " bin"]
    power: Float64[np.ndarray, "episode bin dim"]
    order: Int64[np.ndarray, " dim"]
    segment: int
    too_short: int

    @property
    def n_episodes(self) -> int:
        """Number of episodes measured."""
        return len(self.power)

    @property
    def moving(self) -> Int64[np.ndarray, " moving"]:
        """Dimensions that move at all."""
        return np.flatnonzero(self.power.sum(axis=(0, 1)) > 0.0)


@dataclass(frozen=True, eq=False)
class Estimate:
    """Values with a two-sided 95 % interval over episodes; NaN where there are too few.

    Parameters
    ----------
    value, lower, upper : ndarray, float64
        Of one shape.
    """

    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def choose_segment(lengths: Sequence[int] | Int64[np.ndarray, " episode"]) -> int:
    """Choose how many frames to transform together: at most a tenth of the episodes are shorter.

    Raises
    ------
    NotEnoughDataError
        If they would be fewer than `SHORTEST`.
    """
    typical = float(np.quantile(np.asarray(lengths), _TAIL, method="lower"))
    segment = min(LONGEST, int(typical) - MOST_ORDER)
    if segment < SHORTEST:
        raise NotEnoughDataError(
            f"episodes of {typical:.0f} frames are too short for a spectrum: expected "
            f"{SHORTEST + MOST_ORDER} or more",
            "leave the short ones out in ambient.toml, or choose another dataset",
        )
    return segment


def estimate_spectrum(
    episodes: Sequence[Float[np.ndarray, "_frame dim"]], *, segment: int | None = None
) -> Spectrum:
    """Measure the power of every episode: tapered segments that overlap by half, averaged.

    Steep spectra leak: what a taper lets through from low frequencies hides the high ones. Each
    dimension is therefore differenced until it is about white, measured with two Slepian tapers,
    and divided by the gain of the differences. They also remove each segment's mean and trend.

    Parameters
    ----------
    episodes : sequence of ndarray, shape (frame, dim)
        Actions, scaled as the noise will meet them; at least one episode.
    segment : int or None
        Frames transformed together, >= `SHORTEST`. None: `choose_segment`.

    Raises
    ------
    NotEnoughDataError
        If no episode is long enough.

    References
    ----------
    Thomson, Spectrum estimation and harmonic analysis, Proc. IEEE 70(9), 1982. Welch, IEEE Trans.
    Audio and Electroacoustics 15(2), 1967. Prewhitening: Percival and Walden, Spectral Analysis
    for Physical Applications, 1993, section 6.5.
    """
    lengths = np.array([len(episode) for episode in episodes])
    segment = choose_segment(lengths) if segment is None else segment
    whole = [e for e in episodes if len(e) >= segment + MOST_ORDER]
    if not whole:
        raise NotEnoughDataError(
            f"no episode has the {segment + MOST_ORDER} frames that a spectrum of {segment} needs: "
            f"the longest has {lengths.max()}",
            "use shorter segments",
        )
    frequency = np.fft.rfftfreq(segment)[1:]
    by_order: dict[int, np.ndarray] = {}
    order = np.ones(whole[0].shape[1], dtype=np.int64)
    for _ in range(_ROUNDS):
        for degree in np.unique(order).tolist():
            if degree not in by_order:
                by_order[degree] = np.stack([_power(e, segment, degree) for e in whole])
        power = np.stack([by_order[d][..., i] for i, d in enumerate(order.tolist())], axis=-1)
        found = Spectrum(frequency, power, order, segment, len(episodes) - len(whole))
        slopes = fit_decay(found).value
        # the order below which a power law still leaks, and above which it is over-whitened
        order = np.clip(np.ceil((np.nan_to_num(slopes, nan=1.0) - 0.3) / 2), 0, MOST_ORDER)
        order = order.astype(np.int64)
        if np.array_equal(order, found.order):
            break
    return found


@cache
def _tapers(segment: int) -> np.ndarray:
    from scipy.signal.windows import dpss

    return dpss(segment, BANDWIDTH, TAPERS)  # unit energy each


def _power(episode: np.ndarray, segment: int, order: int) -> Float64[np.ndarray, "bin dim"]:
    """Mean power of the segments, without frequency 0."""
    values = np.diff(episode.astype(np.float64), n=order, axis=0)
    starts = np.arange(0, len(values) - segment + 1, max(segment // 2, 1))
    parts = values[starts[:, None] + np.arange(segment)]  # (segment, frame, dim)
    if order == 0:
        parts = parts - parts.mean(axis=1, keepdims=True)
    tapered = _tapers(segment)[:, None, :, None] * parts
    power = np.square(np.abs(np.fft.rfft(tapered, axis=2))).mean(axis=(0, 1))[1:]
    gain = (2.0 * np.sin(np.pi * np.fft.rfftfreq(segment)[1:])) ** (2 * order)
    return power / gain[:, None]


def mean_power(spectrum: Spectrum) -> Estimate:
    """Mean power of the episodes, shape (bin, dim), with a pointwise interval.

    The interval is Student's for the mean, carried over to its logarithm (delta method): few
    episodes of very unequal power make it too narrow.
    """
    value, error = _log_mean(spectrum.power)
    width = np.exp(_student(spectrum.n_episodes) * error)
    return Estimate(value, value / width, value * width)


def _log_mean(values: Float64[np.ndarray, "episode ..."]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over episodes, and the standard error of its logarithm."""
    mean = values.mean(axis=0)
    if len(values) < 2:
        return mean, np.full_like(mean, np.nan)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return mean, np.divide(error, mean, out=np.full_like(mean, np.nan), where=mean > 0.0)


def _student(n: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, n - 1)) if n > 1 else np.nan


def fit_decay(
    spectrum: Spectrum, *, low: float | None = None, high: float = 0.5, pooled: bool = False
) -> Estimate:
    """Fit the exponent alpha of a power law ``f^-alpha`` to every dimension.

    A straight line through the logarithms of an episode's power, every octave weighing the same;
    then Student's interval for the mean over episodes, which are the independent units. The line
    is a summary of any spectrum; alpha is a law only where it does not depend on the band.

    Parameters
    ----------
    spectrum : Spectrum
        An episode in which a dimension never moves says nothing of it and is left out.
    low, high : float
        Band of frequencies, in cycles a frame. None: from 1.5 bandwidths of the tapers; nearer to
        0 what they smear over a steep spectrum would bend the line.
    pooled : bool
        Fit the power summed over dimensions instead, as one.

    Returns
    -------
    Estimate
        Shape (dim,), or (1,) if `pooled`. NaN where the band holds fewer than two frequencies or
        no episode moves; an interval needs two.
    """
    low = 1.5 * BANDWIDTH / spectrum.segment if low is None else low
    chosen = (spectrum.frequency >= low * (1 - 1e-9)) & (spectrum.frequency <= high)
    power = spectrum.power.sum(axis=2, keepdims=True) if pooled else spectrum.power
    result = np.full((3, power.shape[2]), np.nan)
    if chosen.sum() >= 2:
        for dim in range(power.shape[2]):
            part = power[:, chosen, dim]
            moving = part[(part > 0.0).all(axis=1)]
            if len(moving):
                slopes = _fit_slopes(spectrum.frequency[chosen], moving)
                error = slopes.std(ddof=1) / np.sqrt(len(slopes)) if len(slopes) > 1 else np.nan
                width = _student(len(slopes)) * error
                result[:, dim] = slopes.mean() + np.array([0.0, -width, width])
    return Estimate(*result)


def _fit_slopes(frequency: np.ndarray, power: np.ndarray) -> Float64[np.ndarray, " episode"]:
    """Falling slope of every episode in double logarithms, a frequency weighing 1 / f."""
    x, weight = np.log(frequency), 1.0 / frequency / np.sum(1.0 / frequency)
    centred = weight * (x - weight @ x)
    return -(np.log(power) @ centred) / (centred @ x)


def drowning_sigma(power: Numbers) -> np.ndarray:
    """VP noise level at which the noise has as much power as the signal.

    ``sigma^2 = (1 - sigma^2) S``, or VE noise ``sqrt(S)``: there the best linear estimate of that
    frequency, the Wiener filter, lets half of it through.

    Parameters
    ----------
    power : float or ndarray
        S >= 0, of actions as the noise meets them.

    Examples
    --------
    >>> float(drowning_sigma(0.5625))
    0.6
    """
    return sigma_from_ve(np.sqrt(np.asarray(power, dtype=np.float64)))


@dataclass(frozen=True, eq=False)
class Contrast:
    """Where along the frequencies two datasets differ, their dimensions together.

    Parameters
    ----------
    frequency : ndarray, float64, shape (band,)
        Geometric centres of the bands, in cycles a frame.
    ratio : Estimate
        Power of the corrupt over that of the clean, shape (band,), with its interval.
    clean, corrupt : ndarray, float64, shape (band,)
        Mean powers of a dimension.
    delta : ndarray, float64, shape (band,)
        Triangular discrimination, 0 to 2, of one coefficient of the band without noise, if both
        are normal with these powers.
    hidden : ndarray, float64, shape (band,)
        VP noise level from which on that is below 4 epsilon; 0 if it always is.
    """

    frequency: Float64[np.ndarray, " band"]
    ratio: Estimate
    clean: Float64[np.ndarray, " band"]
    corrupt: Float64[np.ndarray, " band"]
    delta: Float64[np.ndarray, " band"]
    hidden: Float64[np.ndarray, " band"]


def compare_spectra(clean: Spectrum, corrupt: Spectrum, *, epsilon: float = 0.05) -> Contrast:
    """Compare the power of two datasets, half octave by half octave.

    Parameters
    ----------
    clean, corrupt : Spectrum
        Of equal segments and dimensions.
    epsilon : float
        Tolerance of the annotation, in (0, 0.5).

    Raises
    ------
    ValueError
        If segments or dimensions differ.
    """
    if clean.power.shape[1:] != corrupt.power.shape[1:]:
        raise ValueError(f"spectra of {clean.power.shape[1:]} and {corrupt.power.shape[1:]}")
    edges = _band_edges(clean.frequency)
    p, q = (_band_powers(spectrum, edges) for spectrum in (clean, corrupt))
    (p_mean, p_error), (q_mean, q_error) = _log_mean(p), _log_mean(q)
    # the smaller number of episodes decides: Welch's degrees of freedom are at least as many
    width = np.exp(_student(min(len(p), len(q))) * np.hypot(p_error, q_error))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = q_mean / p_mean
    centre = np.array([f[0] * (f[-1] / f[0]) ** 0.5 for f in np.split(clean.frequency, edges)])
    return Contrast(
        frequency=centre,
        ratio=Estimate(ratio, ratio / width, ratio * width),
        clean=p_mean,
        corrupt=q_mean,
        delta=np.array([coefficient_delta(value) for value in ratio]),
        hidden=hiding_sigma(p_mean, q_mean, epsilon=epsilon),
    )


def _band_edges(frequency: np.ndarray) -> list[int]:
    """Where one half octave ends and the next begins, counted from the highest frequency."""
    band = np.floor(2.0 * np.log2(0.5 / frequency) + 1e-9)
    return (np.flatnonzero(np.diff(band)) + 1).tolist()


def _band_powers(spectrum: Spectrum, edges: list[int]) -> Float64[np.ndarray, "episode band"]:
    parts = np.split(spectrum.power.mean(axis=2), edges, axis=1)
    return np.stack([part.mean(axis=1) for part in parts], axis=1)


def coefficient_delta(ratio: float) -> float:
    """Triangular discrimination of two centred complex normal coefficients, by their powers' ratio.

    Their squared moduli, exponential laws, say all of the difference. With u uniform under the
    first it is ``int_0^1 (1 - g)^2 / (1 + g) du``, ``g = u^(1/r - 1) / r``.

    Parameters
    ----------
    ratio : float
        r >= 0, or inf; r and 1 / r give the same. NaN gives NaN.
    """
    from scipy.integrate import quad

    if np.isnan(ratio):
        return np.nan
    least = min(ratio, 1.0 / ratio) if ratio > 0 else 0.0
    if least < 1e-12:
        return 2.0

    def integrand(x: float) -> float:  # x = -ln u; g changes within some r of 0
        g = math.exp(-x * (1.0 / least - 1.0)) / least
        return (1.0 - g) ** 2 / (1.0 + g) * math.exp(-x)

    near = 30.0 * least
    return float(quad(integrand, 0.0, near)[0] + quad(integrand, near, 60.0)[0])


def hiding_sigma(
    clean: Float[np.ndarray, "*shape"], corrupt: Float[np.ndarray, "*shape"], *, epsilon: float
) -> Float64[np.ndarray, "*shape"]:
    """VP noise level from which on one coefficient is usable by the rule: Delta < 4 epsilon.

    Noise of VE power v makes the ratio of the powers ``(q + v) / (p + v)``; it is solved for v
    where `coefficient_delta` is 4 epsilon. A window holds many coefficients, which together show
    more: sigma_min is larger.

    Parameters
    ----------
    clean, corrupt : ndarray
        Powers p and q >= 0.
    epsilon : float
        Tolerance of the annotation, in (0, 0.5).
    """
    from scipy.optimize import brentq

    threshold = delta_at(epsilon)
    largest = np.exp(brentq(lambda x: coefficient_delta(np.exp(x)) - threshold, 1e-6, 27.0))
    high, low = np.maximum(clean, corrupt), np.minimum(clean, corrupt)
    return sigma_from_ve(np.sqrt(np.maximum((high - largest * low) / (largest - 1.0), 0.0)))


class Sounding(NamedTuple):
    """The spectrum of one dataset, and what it differs by from the clean set.

    Parameters
    ----------
    name : str
        Of the dataset.
    spectrum : Spectrum
        Of its scaled actions.
    rate_hz : float or None
        Control rate.
    contrast : Contrast or None
        To the clean set; None for the clean set, and where there is none.
    """

    name: str
    spectrum: Spectrum
    rate_hz: float | None
    contrast: Contrast | None = None
