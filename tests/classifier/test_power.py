"""What the classifier sees of laws with exact densities, and whether its intervals hold them."""

from collections.abc import Sequence

import numpy as np
import pytest
from oracle_study import EPSILON, SIGMA, cross
from power_families import FAMILIES
from power_laws import HORIZON, Episodes, Scaling
from power_truths import find_truth, read_oracle

from ambient_curate.annotation.curves import PopulationCurves
from ambient_curate.classifier.fit import FitOptions
from ambient_curate.training import TrainOptions

SMALL = FitOptions(
    folds=3, windows=2_048, held_out=512, train=TrainOptions(steps=100, learning_rate=2e-3)
)
Rows = list[tuple[str, PopulationCurves, float, float]]


def scale(clean: Episodes) -> Scaling:
    """Mean 0 and standard deviation 1 of the clean frames."""
    frames = np.concatenate(clean)
    return Scaling(frames.mean(axis=0), 1.0 / frames.std(axis=0))


def read_family(
    name: str, laws: Sequence[str], seed: int, options: FitOptions, *, exact: bool = True
) -> Rows:
    """Curves of some corrupt laws of a family, with the truth and the oracle's reading of each."""
    family = FAMILIES[name]()
    laws = list(laws or family.corrupt)
    drawn = family.draw(seed)
    scaling = scale(drawn["clean"])
    clean, *corrupt = (
        [scaling.apply(episode) for episode in drawn[member]] for member in ("clean", *laws)
    )
    found = cross(clean, corrupt, horizon=HORIZON, options=options)
    rows = []
    for law, curves in zip(laws, found, strict=True):
        pair = family.clean, family.corrupt[law]
        episodes = drawn["clean"], drawn[law]
        reading = read_oracle(*pair, *episodes, scaling, SIGMA, epsilon=EPSILON)
        truth = find_truth(*pair, scaling, SIGMA, epsilon=EPSILON).sigma_min if exact else np.nan
        rows.append((f"{name}/{law}", curves, truth, reading.sigma_min))
    return rows


@pytest.mark.parametrize(("family", "law"), [("f", "held4"), ("g", "fast"), ("d", "t4")])
def test_sparse_structure_is_seen(family: str, law: str) -> None:
    """Held commands, a toggling gripper, heavy tails: each was answered far too low before."""
    ((_, curves, _, reading),) = read_family(family, [law], 1, SMALL, exact=False)
    assert reading > 0.4
    assert reading - 0.15 < curves.sigma_min < reading + 0.1
    assert curves.lower <= curves.sigma_min <= curves.upper


@pytest.mark.slow
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("family", ["a", "b", "c", "d", "e", "f", "g", "h"])
def test_every_law_is_read_about_as_the_exact_ratio_reads_it(family: str) -> None:
    rows = read_family(family, [], 1, FitOptions())
    for name, curves, truth, reading in rows:
        print(
            f"{name}: truth {truth:.3f}, oracle {reading:.3f}, found {curves.sigma_min:.3f} "
            f"[{curves.lower:.3f}, {curves.upper:.3f}]"
        )
    errors = [curves.sigma_min - reading for _, curves, _, reading in rows]
    assert np.mean(np.abs(errors)) < 0.1
    assert min(errors) > -0.2


@pytest.mark.validity
@pytest.mark.timeout(14_400)
def test_intervals_hold_the_truth() -> None:
    """At the nominal rate less three standard errors, over draws of laws of these kinds."""
    options = FitOptions(windows=2_048, held_out=512, train=SMALL.train)
    held = []
    for seed in range(3, 14):
        for family in ("a", "b", "d", "e", "f", "g"):
            for name, curves, truth, _ in read_family(family, [], seed, options):
                held.append(curves.lower - 2e-3 <= truth <= curves.upper + 2e-3)
                print(name, seed, f"{truth:.3f} [{curves.lower:.3f}, {curves.upper:.3f}]", held[-1])
    assert len(held) > 150
    error = (0.95 * 0.05 / len(held)) ** 0.5
    assert np.mean(held) >= 0.95 - 3.0 * error
