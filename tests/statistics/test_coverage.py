"""Simulated coverage of the intervals and of the certified bounds, and of what must fail."""

import math
from dataclasses import replace

import numpy as np
import pytest
from episode_oracle import (
    CLASSIFIERS,
    LOSSES,
    SMALLEST,
    Classifier,
    distance_at,
    in_fold,
    simulate,
    true_losses,
)
from numpy.typing import NDArray
from reference_intervals import bernstein, clopper_pearson, hoeffding
from scipy.special import logsumexp
from scipy.stats import t as student

from ambient_curate.statistics.intervals import betting, smallest_rejected, stakes
from ambient_curate.statistics.lower_bounds import (
    Losses,
    _bet_folds,
    _capitals,
    _merge,
    certify_delta,
    certify_jsd,
    certify_tv,
)

pytestmark = pytest.mark.validity

Array = NDArray[np.float64]
REPETITIONS = 1000
REDRAWN = 200  # data sets a cell, where only means are compared
FOLDS = 5
ALPHA = 0.05


def least_share(nominal: float, repetitions: int) -> float:
    """Nominal coverage less three standard errors of the simulation."""
    return nominal - 3.0 * math.sqrt(nominal * (1.0 - nominal) / repetitions)


@pytest.mark.parametrize("n", [10, 30, 100, 1000])
def test_intervals_cover_means_of_episodes_with_correlated_windows(n: int) -> None:
    rng = np.random.default_rng(n)
    distance = distance_at(0.7)
    drawn = simulate(
        rng, n, REPETITIONS, distance, is_clean=True, classifiers=CLASSIFIERS, within=0.8
    )
    methods = {"hoeffding": hoeffding, "bernstein": bernstein, "betting": betting}
    print(f"\nn = {n}: share covered, both ends / below / above, and mean width")
    for name, classifier in CLASSIFIERS.items():
        truth = true_losses(classifier, distance, is_clean=True)
        for loss in ("brier", "errors"):
            line = f"{name:15}{loss:7}"
            for method, interval in methods.items():
                low, high = interval(drawn[name, loss])
                near = 1e-6  # of the quadrature
                covered = (low <= truth[loss] + near) & (truth[loss] - near <= high)
                above = interval(drawn[name, loss], side="upper").upper >= truth[loss] - near
                below = interval(drawn[name, loss], side="lower").lower <= truth[loss] + near
                shares = [float(np.mean(held)) for held in (covered, below, above)]
                line += f"  {method} " + "/".join(f"{s:.3f}" for s in shares)
                line += f" {np.mean(high - low):.3f}"
                assert min(shares) >= least_share(1.0 - ALPHA, REPETITIONS), line
            print(line)


def bounds_of(losses: dict[str, Losses], alpha: float = ALPHA) -> dict[str, Array]:
    return {
        "Delta": certify_delta(losses["brier"], losses["errors"], alpha=alpha),
        "TV": certify_tv(losses["errors"], alpha=alpha),
        "JSD": certify_jsd(losses["bce"], smallest=SMALLEST, alpha=alpha),
    }


def provable(loss: dict[str, float]) -> dict[str, float]:
    """What the true balanced losses of one classifier prove."""
    tv = max(1.0 - 2.0 * loss["errors"], 0.0)
    return {
        "Delta": max(2.0 - 8.0 * loss["brier"], 2.0 * tv**2),
        "TV": tv,
        "JSD": max(math.log(2.0) - loss["bce"], 0.0),
    }


@pytest.mark.parametrize(
    ("clean", "corrupt"), [(10, 10), (30, 30), (100, 100), (1000, 1000), (50, 1000)]
)
@pytest.mark.parametrize("delta", [0.7, 1.7])
def test_certified_bounds_cover_what_the_best_fold_could_prove(
    clean: int, corrupt: int, delta: float
) -> None:
    """The claim itself, without the slack between what a classifier proves and the truth."""
    rng = np.random.default_rng([clean, corrupt])
    distance = distance_at(delta)
    folds = {True: np.arange(clean) % FOLDS, False: np.arange(corrupt) % FOLDS}
    drawn = {
        is_clean: simulate(
            rng,
            fold.size,
            REPETITIONS,
            distance,
            is_clean=is_clean,
            classifiers={name: c.in_folds(fold) for name, c in CLASSIFIERS.items()},
        )
        for is_clean, fold in folds.items()
    }
    print(f"\nDelta {delta}, {clean}/{corrupt} episodes: share covered, mean bound of provable")
    for name, classifier in CLASSIFIERS.items():
        each = []
        for fold in range(FOLDS):
            own = classifier.in_folds(np.int64(fold))
            p, q = (true_losses(own, distance, is_clean) for is_clean in (True, False))
            each.append(provable({loss: (p[loss] + q[loss]) / 2.0 for loss in LOSSES}))
        losses = {
            loss: Losses(*(drawn[c][name, loss] for c in (True, False)), folds[True], folds[False])
            for loss in LOSSES
        }
        line = f"{name:15}"
        for divergence, bound in bounds_of(losses).items():
            best = max(fold[divergence] for fold in each)
            share = float(np.mean(bound <= best + 1e-5))
            line += f"  {divergence} {share:.3f} {bound.mean():.3f} of {best:.3f}"
            assert share >= least_share(1.0 - ALPHA, REPETITIONS), line
        print(line)


def paired_blocks(losses: Losses, fold: int) -> Array:
    """Means of a clean and a corrupt block each, independent and of one mean: a plainer bet."""
    sides = losses.clean[losses.clean_fold == fold], losses.corrupt[losses.corrupt_fold == fold]
    n = min(map(len, sides))
    return sum(np.stack([s[i::n].mean(axis=0) for i in range(n)]) for s in sides) / 2.0


def pooled(losses: Losses) -> Losses:
    return replace(losses, clean_fold=0 * losses.clean_fold, corrupt_fold=0 * losses.corrupt_fold)


def rivals(brier: Losses, errors: Losses) -> dict[str, Array]:
    """Other lower bounds on Delta from the same folds; the last is valid for one network only."""
    folds, shape = range(FOLDS), brier.clean.shape[1:]
    bets = _bet_folds(brier, ALPHA)
    blocks = [paired_blocks(brier, fold) for fold in folds]
    plain = [stakes(z, ALPHA) for z in blocks]
    gained = [np.log(a - z).sum(axis=0) for a, z in zip(plain, blocks, strict=True)]

    def by_blocks(mean: Array) -> Array:
        logs = [g - np.log(a - mean).sum(axis=0) for g, a in zip(gained, plain, strict=True)]
        return _merge(np.array(logs))

    alone = [
        certify_delta(in_fold(brier, fold), in_fold(errors, fold), alpha=ALPHA / FOLDS)
        for fold in folds
    ]
    each = 1.0 / len(brier.clean) + 1.0 / len(brier.corrupt)
    width = math.sqrt(FOLDS * each * math.log(1.0 / ALPHA) / 8.0)
    highest = {
        "Brier alone": smallest_rejected(lambda m: _merge(_capitals(bets, m)), shape, ALPHA),
        "Brier, mean of folds": smallest_rejected(
            lambda m: logsumexp(_capitals(bets, m), axis=0) - math.log(FOLDS), shape, ALPHA
        ),
        "Brier, paired blocks": smallest_rejected(by_blocks, shape, ALPHA),
        "mean, Hoeffding": (brier.clean.mean(axis=0) + brier.corrupt.mean(axis=0)) / 2.0 + width,
    }
    return {
        **{name: np.maximum(2.0 - 8.0 * mean, 0.0) for name, mean in highest.items()},
        "errors alone": 2.0 * certify_tv(errors, alpha=ALPHA) ** 2,
        "best of folds": np.max(alone, axis=0),
        "(one network)": certify_delta(pooled(brier), pooled(errors), alpha=ALPHA),
    }


@pytest.mark.parametrize("within", [0.5, 1.0])
@pytest.mark.parametrize(("clean", "corrupt"), [(500, 5000), (1000, 1000), (50, 1000)])
def test_share_of_delta_that_the_exact_classifier_certifies(
    clean: int, corrupt: int, within: float
) -> None:
    rng = np.random.default_rng(7)
    print(f"\n{clean}/{corrupt} episodes, correlation within {within}: mean bound / Delta")
    shares = []
    for delta in (0.3, 0.5, 0.7, 1.0, 1.4, 1.7, 1.9):
        distance = distance_at(delta)
        p, q = (
            simulate(
                rng,
                n,
                REDRAWN,
                distance,
                is_clean=is_clean,
                classifiers={"exact": Classifier()},
                within=within,
            )
            for n, is_clean in ((clean, True), (corrupt, False))
        )
        brier, errors = (
            Losses(p["exact", x], q["exact", x], np.arange(clean) % 5, np.arange(corrupt) % 5)
            for x in ("brier", "errors")
        )
        bounds = {"certified": certify_delta(brier, errors, alpha=ALPHA), **rivals(brier, errors)}
        shares.append([float(bound.mean()) / delta for bound in bounds.values()])
        line = ", ".join(f"{k} {v:.3f}" for k, v in zip(bounds, shares[-1], strict=True))
        print(f"{delta:.1f}  {line}")
        if clean == 500 and delta >= 0.5:
            assert shares[-1][0] >= 0.7
    mean = dict(zip(bounds, np.mean(shares, axis=0), strict=True))
    print("mean " + ", ".join(f"{k} {v:.3f}" for k, v in mean.items()))
    assert mean["certified"] > max(mean["mean, Hoeffding"], mean["best of folds"])
    assert mean["certified"] > mean["Brier alone"] - 0.02
    assert mean["Brier alone"] > mean["Brier, mean of folds"]


def test_windows_are_no_unit() -> None:
    rng = np.random.default_rng(1)
    p = rng.standard_normal((30, REPETITIONS, 1)) * 0.8**0.5
    windows = (p + 0.2**0.5 * rng.standard_normal((30, REPETITIONS, 20)) > 0.5).astype(float)
    truth = 0.30853754  # P(N(0, 1) > 0.5)
    by_window = betting(windows.transpose(0, 2, 1).reshape(600, REPETITIONS), alpha=ALPHA)
    by_episode = betting(windows.mean(axis=2), alpha=ALPHA)
    shares = [
        float(np.mean((i.lower <= truth) & (truth <= i.upper))) for i in (by_window, by_episode)
    ]
    print(f"\nnominal .95: window as the unit {shares[0]:.3f}, episode {shares[1]:.3f}")
    assert shares[0] < 0.75
    assert shares[1] >= least_share(0.95, REPETITIONS)


def retrained(
    rng: np.random.Generator, episodes: int, dim: int, repetitions: int
) -> tuple[Array, Array]:
    """Errors and squared errors of nearest means, fitted to the other folds, where p = q.

    Shape (episode, repetition), both classes after one another; one window an episode.
    """
    x = rng.standard_normal((2, episodes, repetitions, dim))
    wrong = np.empty((2, episodes, repetitions))
    for fold in range(FOLDS):
        held = np.arange(episodes) % FOLDS == fold
        mean = x[:, ~held].mean(axis=1)
        weight = mean[0] - mean[1]
        logit = ((x[:, held] - mean.mean(axis=0)) * weight).sum(axis=-1)
        wrong[:, held] = 1.0 / (1.0 + np.exp(logit * np.array([1.0, -1.0])[:, None, None]))
    return (wrong > 0.5).astype(float), wrong**2


def naive_alarm(values: Array, null: float) -> Array:
    """Student's test of "the mean is at least `null`", all episodes as one independent sample."""
    n = len(values)
    statistic = (values.mean(axis=0) - null) / (values.std(axis=0, ddof=1) / math.sqrt(n))
    return statistic < student.ppf(ALPHA, n - 1)


@pytest.mark.parametrize(("episodes", "dim"), [(25, 2), (50, 5), (50, 20), (200, 10)])
def test_pooled_folds_of_retrained_classifiers_raise_false_alarms(episodes: int, dim: int) -> None:
    rng = np.random.default_rng([episodes, dim])
    fold = np.arange(episodes) % FOLDS
    errors, squares = (
        Losses(*values, fold, fold) for values in retrained(rng, episodes, dim, 4 * REPETITIONS)
    )
    together = np.concatenate([errors.clean, errors.corrupt])
    hits = (1.0 - together).sum(axis=0).astype(np.int64)
    exact = clopper_pearson(hits, 2 * episodes, alpha=ALPHA, side="lower").lower > 0.5
    rates = {
        "Student": naive_alarm(together, 0.5).mean(),
        "Clopper-Pearson": exact.mean(),
        "certified TV": (certify_tv(errors) > 0.0).mean(),
        "certified Delta": (certify_delta(squares, errors) > 0.0).mean(),
    }
    line = ", ".join(f"{name} {rate:.4f}" for name, rate in rates.items())
    print(f"\np = q, {episodes} episodes a side, {dim} dimensions, nominal .05: {line}")
    assert rates["Student"] > ALPHA + 3.0 * math.sqrt(ALPHA * 0.95 / (4 * REPETITIONS))
    assert max(rates["certified TV"], rates["certified Delta"]) <= ALPHA


def paper_upper(values: Array, stop: float) -> Array:
    """Waudby-Smith and Ramdas (2024), the predictable plug-in bets of section 4, for one n."""
    n = len(values)
    count = np.arange(1, n + 1)[:, None]
    mean = (0.5 + np.cumsum(values, axis=0)) / (count + 1)
    variance = (0.25 + np.cumsum((values - mean) ** 2, axis=0)) / (count + 1)
    before = np.vstack([np.full_like(variance[:1], 0.25), variance[:-1]])
    wanted = np.sqrt(2.0 * math.log(1.0 / ALPHA) / (n * before))

    def capital(m: Array) -> Array:
        bets = np.minimum(wanted, stop / np.maximum(1.0 - m, 1e-12))
        return np.log1p(bets * (m - values)).sum(axis=0)

    return smallest_rejected(capital, values.shape[1:], ALPHA)


def mixture_upper(values: Array) -> Array:
    """Capital of an equal mixture over fixed bets, which no order of the values moves."""
    n = len(values)
    top = max(math.sqrt(n / 24.0), 0.3)
    bets = 1.0 + top * 0.5 ** np.arange(math.ceil(math.log2(top / 0.02)) + 1)[:, None]
    gained = np.stack([np.log(bet - values).sum(axis=0) for bet in bets])
    return smallest_rejected(
        lambda m: logsumexp(gained - n * np.log(bets - m), axis=0) - math.log(len(bets)),
        values.shape[1:],
        ALPHA,
    )


@pytest.mark.parametrize("n", [10, 30, 100, 1000])
def test_bets_are_on_the_whole_sharper_than_the_papers_and_than_a_mixture(n: int) -> None:
    rng = np.random.default_rng(n)
    shape = (n, 400)
    laws = {f"Bernoulli({p})": (rng.random(shape) < p).astype(float) for p in (0.1, 0.5, 0.9)}
    laws["uniform"] = rng.random(shape)
    for a, b in ((0.2, 0.8), (2, 8), (20, 80), (80, 20), (10, 10)):
        laws[f"Beta({a},{b})"] = rng.beta(a, b, shape)
    laws["zero"] = np.zeros(shape)
    print(f"\nn = {n}: upper bound less mean")
    logs = []
    for name, values in laws.items():
        widths = {
            "betting": betting(values, alpha=ALPHA, side="upper").upper,
            "paper, c = 1/2": paper_upper(values, 0.5),
            "paper, c = 3/4": paper_upper(values, 0.75),
            "mixture": mixture_upper(values),
            "Hoeffding": hoeffding(values, alpha=ALPHA, side="upper").upper,
            "Bernstein": bernstein(values, alpha=ALPHA, side="upper").upper,
        }
        means = {k: float((v - values.mean(axis=0)).mean()) for k, v in widths.items()}
        print(f"{name:15}", *(f"{k} {v:.4f}" for k, v in means.items()))
        logs.append(np.log(list(means.values())))
    overall = np.exp(np.mean(logs, axis=0))
    print("geometric mean ", *(f"{v:.4f}" for v in overall))
    assert (overall[0] <= 1.02 * overall[1:]).all()
