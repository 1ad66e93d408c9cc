"""What sigma_min means for a policy, on channels and laws of a few values, summed up exactly.

A chain of stochastic matrices takes the place of noise, its exact reverse kernels that of ideal
denoisers. The step from level t down to t - 1 uses the mixture admitted at t - 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from ambient_curate.statistics.policy_bounds import (
    arbitrary_share,
    bound_output,
    epsilon_for,
    list_handovers,
)

Array = np.ndarray
CASES = 3_000
SLACK = 1e-12


def total_variation(p: Array, q: Array) -> float:
    return float(np.abs(p - q).sum() / 2.0)


def triangular(p: Array, q: Array) -> float:
    total = np.where(p + q > 0.0, p + q, 1.0)
    return float(((p - q) ** 2 / total).sum())


@dataclass(frozen=True)
class World:
    """Clean law first, then corrupt ones: ``laws[t][i]`` at level t, 0 being the lowest.

    `kernels` lead from level t to t + 1; `first` is the lowest level at which a set is admitted.
    """

    laws: list[Array]
    kernels: list[Array]
    shares: Array
    first: tuple[int, ...]
    epsilon: float

    @property
    def sigma_min(self) -> list[float]:
        """In the order of `first`; 0 where a set is admitted everywhere, 1 where nowhere."""
        return [level / len(self.laws) for level in self.first]

    @property
    def clean(self) -> float:
        return float(self.shares[0])

    @property
    def corrupt(self) -> list[float]:
        return self.shares[1:].tolist()

    def mixture(self, level: int, out_of: int) -> Array:
        """Law at `level` of the mixture that is admitted at the level `out_of`."""
        admitted = np.array([True, *(first <= out_of for first in self.first)])
        weight = np.where(admitted, self.shares, 0.0)
        return weight @ self.laws[level] / weight.sum()

    def sample(self) -> Array:
        """Law of the samples: reverse kernels of what is admitted, from the highest level down."""
        top = len(self.laws) - 1
        law = self.mixture(top, top)
        for level in range(top - 1, -1, -1):
            joint = self.mixture(level, level)[:, None] * self.kernels[level]
            seen = joint.sum(axis=0)
            anything = np.full_like(joint, 1.0 / len(joint))  # what was never seen: no denoiser
            law = np.divide(joint, seen, out=anything, where=seen > 0.0) @ law
            assert abs(law.sum() - 1.0) < 1e-9
        return law

    def moved(self) -> float:
        """Total variation of the samples and the clean law."""
        return total_variation(self.sample(), self.laws[0][0])

    def bound(self) -> float:
        return bound_output(self.sigma_min, self.corrupt, self.clean, self.epsilon)

    def exact_sum(self) -> float:
        """The sum over the handovers, with the total variations as they are."""
        found = 0.0
        for each in list_handovers(self.sigma_min, self.corrupt, self.clean):
            level = round(each.sigma * len(self.laws))
            leaving = np.zeros(self.shares.size)
            leaving[[1 + place for place in each.sets]] = self.shares[
                [1 + place for place in each.sets]
            ]
            left = np.array([True, *(first < level for first in self.first)]) * self.shares
            q, r = (weight @ self.laws[level] / weight.sum() for weight in (leaving, left))
            assert left[0] / left.sum() == pytest.approx(each.clean_share)
            found += each.share * total_variation(q, r)
        return found

    def naive(self) -> float:
        """(1 - L) times the largest total variation from clean data, each at its sigma_min."""
        admitted = [i for i, first in enumerate(self.first) if first < len(self.laws)]
        if not admitted:
            return 0.0
        weight = self.shares[[0, *(1 + i for i in admitted)]]
        laws = [self.laws[self.first[i]] for i in admitted]
        worst = max(
            total_variation(law[1 + i], law[0]) for i, law in zip(admitted, laws, strict=True)
        )
        return float(1.0 - weight[0] / weight.sum()) * worst


def spread(start: Array, kernels: Sequence[Array]) -> list[Array]:
    laws = [start]
    for kernel in kernels:
        laws.append(laws[-1] @ kernel)
    return laws


def first_admitted(laws: Sequence[Array], number: int, epsilon: float) -> int:
    """Last failing level and one more: Delta < 4 epsilon there and above."""
    fails = [triangular(law[number], law[0]) >= 4.0 * epsilon for law in laws]
    return max((level + 1 for level, fail in enumerate(fails) if fail), default=0)


def draw_world(rng: np.random.Generator, sets: int) -> World:
    """Random laws, channels, shares and margin; corrupt laws may be near the clean one."""
    levels, sizes = int(rng.integers(2, 7)), rng.integers(2, 5, size=7)
    kernels = []
    for level in range(levels - 1):
        kernel = rng.dirichlet(np.full(sizes[level + 1], rng.choice([0.2, 1.0])), sizes[level])
        if rng.random() < 0.3:  # a level that hides nothing
            kernel, sizes[level + 1] = np.eye(sizes[level]), sizes[level]
        kernels.append(kernel)
    start = rng.dirichlet(np.ones(sizes[0]), sets + 1)
    start[1:] += rng.choice([0.0, 1.0, 3.0], (sets, 1)) * start[0]
    laws = spread(start / start.sum(axis=1, keepdims=True), kernels)
    shares = rng.dirichlet(np.full(sets + 1, 0.4))
    shares = (shares + 1e-6) / (shares + 1e-6).sum()
    number, level = int(rng.integers(1, sets + 1)), int(rng.integers(levels))
    delta = triangular(laws[level][number], laws[level][0])
    # next to what one set has at one level, or any
    epsilon = (delta * (1 + 1e-9) + 1e-9) / 4 if rng.random() < 0.7 else rng.uniform(0.005, 0.3)
    epsilon = min(float(epsilon), 0.5)
    first = tuple(first_admitted(laws, i, epsilon) for i in range(1, sets + 1))
    return World(laws, kernels, shares, first, epsilon)


def draw_worlds(sets: int, seed: int) -> Iterator[World]:
    rng = np.random.default_rng(seed)
    return (draw_world(rng, sets) for _ in range(CASES))


def two_sets(t: float, shares: Sequence[float]) -> World:
    """A counterexample: u is seen at every level, v at the lower ones only; both are 0 or 1.

    ``p(u = 1) = t``, ``q_1(u = 1) = 2 t``, ``q_2(u = 1) = t``. v = 0 where u = 0; where u = 1, it
    is 1 in a hundredth of p and q_1, and always in q_2. Atoms are (u, v) = (0, 0), (1, 0), (1, 1).
    """
    rare = np.array([0.99, 0.01])
    start = np.array([[1 - t, *(t * rare)], [1 - 2 * t, *(2 * t * rare)], [1 - t, 0.0, t]])
    kernels = [np.eye(3), np.eye(3), np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.eye(2)]
    laws = spread(start, kernels)
    epsilon = max(triangular(law, start[0]) for law in start) / 4 + SLACK
    return World(laws, kernels, np.array(shares), (3, 1), epsilon)


@pytest.mark.parametrize("sets", [1, 2, 3, 4])
def test_samples_differ_from_clean_data_by_no_more_than_the_bound(sets: int) -> None:
    """And by no more than the sum over the handovers, which the bound is never below."""
    closest, exact, lowest = 0.0, 0.0, 0
    for world in draw_worlds(sets, seed=sets):
        moved, total, bound = world.moved(), world.exact_sum(), world.bound()
        assert moved <= total + SLACK
        assert total <= bound + SLACK or bound == 1.0
        closest = max(closest, moved / bound) if bound > 0.0 else closest
        exact = max(exact, moved / total) if total > 1e-9 else exact
        lowest += 0.0 in world.sigma_min
    print(f"{sets} sets, {CASES} cases: at most {closest:.3f} of the bound, {exact:.3f} of the sum")
    assert exact > 0.9
    assert lowest > CASES / 20  # sets that are admitted everywhere are among them


@pytest.mark.parametrize("clean", [0.05, 0.5])
@pytest.mark.parametrize("tv", [0.1, 0.316])
def test_for_one_set_the_bound_is_attained(clean: float, tv: float) -> None:
    """Two points of masses (1 +- t)/2: Delta = 2 t^2. Nothing is hidden below sigma_min."""
    start = np.array([[1 + tv, 1 - tv], [1 - tv, 1 + tv]]) / 2
    kernels = [np.eye(2)] * 2
    world = World(spread(start, kernels), kernels, np.array([clean, 1 - clean]), (1,), tv**2 / 2)
    assert triangular(*start) == pytest.approx(4.0 * world.epsilon)
    assert world.moved() == pytest.approx((1 - clean) * tv)
    assert world.bound() == pytest.approx((1 - clean) * np.sqrt(2.0 * world.epsilon))
    assert world.moved() == pytest.approx(world.bound())


@pytest.mark.parametrize("sets", [2, 3])
def test_the_largest_distance_from_clean_data_is_no_bound_for_several_sets(sets: int) -> None:
    """(1 - L) max TV holds for one set only: what is found by chance, and a case by hand."""
    worlds = list(draw_worlds(sets, seed=sets))
    excess = [world.moved() - world.naive() for world in worlds]
    worst = worlds[int(np.argmax(excess))]
    print(
        f"{sets} sets: {sum(e > 1e-6 for e in excess)} of {CASES} cases beyond the naive bound, "
        f"{worst.moved():.3f} for {worst.naive():.3f}"
    )
    assert max(excess) > 0.02
    assert all(world.moved() <= world.naive() + SLACK for world in draw_worlds(1, seed=1))


def test_two_sets_can_move_a_policy_nearly_twice_as_far_as_either_is_from_clean_data() -> None:
    world = two_sets(0.3, [0.001, 0.899, 0.1])
    for number, level in enumerate(world.first, start=1):
        law = world.laws[level]
        assert triangular(law[number], law[0]) < 4.0 * world.epsilon
        assert total_variation(law[number], law[0]) <= 0.3 + SLACK
    assert world.naive() == pytest.approx(0.999 * 0.3)
    assert world.moved() == pytest.approx(0.3 * (1.899 * 0.10001 / 0.101 - 0.01))
    print(f"by hand: {world.moved():.4f}, naive {world.naive():.4f}, sum {world.exact_sum():.4f}")
    assert world.naive() + 0.2 < world.moved() <= world.exact_sum() <= world.bound()


def test_sets_of_equal_sigma_min_leave_together() -> None:
    together = list_handovers([0.5, 0.5, 0.2], [3.0, 2.0, 4.0], 1.0)
    assert [each.sets for each in together] == [(0, 1), (2,)]
    assert [each.share for each in together] == pytest.approx([0.5, 0.8])
    assert [each.clean_share for each in together] == pytest.approx([0.2, 1.0])
    apart = bound_output([0.5 + 1e-9, 0.5, 0.2], [3.0, 2.0, 4.0], 1.0, 0.005)
    assert bound_output([0.5, 0.5, 0.2], [3.0, 2.0, 4.0], 1.0, 0.005) < apart
    one = bound_output([0.5], [5.0], 1.0, 0.02)
    assert bound_output([0.5, 0.5], [3.0, 2.0], 1.0, 0.02) == pytest.approx(one)  # convexity


def test_sets_that_are_never_admitted_have_no_part() -> None:
    alone = bound_output([0.3], [2.0], 1.0, 0.05)
    assert bound_output([1.0, 0.3, None], [50.0, 2.0, 9.0], 1.0, 0.05) == alone
    assert bound_output([0.2, 0.3], [0.0, 2.0], 1.0, 0.05) == alone
    assert bound_output([1.0, None], [1.0, 1.0], 1.0, 0.05) == 0.0
    assert bound_output([], [], 1.0, 0.05) == 0.0
    assert bound_output([0.1] * 3, [99.0] * 3, 1.0, 0.5) <= 1.0
    assert bound_output([0.3, 0.2, 0.1], [99.0, 9.0, 9.0], 1.0, 0.5) == 1.0


def test_epsilon_for_undoes_the_bound_of_one_set() -> None:
    for tau, clean in ((0.05, 0.0), (0.1, 0.3), (0.2, 0.75)):
        epsilon = epsilon_for(tau, clean)
        assert bound_output([0.4], [1 - clean], max(clean, 1e-15), epsilon) == pytest.approx(tau)
    assert epsilon_for(0.9, 0.5) == 0.5  # beyond 1 - L all will do


@pytest.mark.parametrize("epsilon", [0.001, 0.05, 0.3, 0.5])
def test_an_arbitrary_share_of_that_size_has_the_delta_of_the_rule(epsilon: float) -> None:
    m = arbitrary_share(epsilon)
    clean = np.array([0.2, 0.8, 0.0, 0.0])
    corrupt = (1 - m) * clean + m * np.array([0.0, 0.0, 0.7, 0.3])
    assert triangular(clean, corrupt) == pytest.approx(4.0 * epsilon)
    assert 2.0 * m / (2.0 - m) == pytest.approx(4.0 * epsilon)
    for rest in np.random.default_rng(0).dirichlet(np.full(4, 0.5), 500):  # most where it is apart
        assert triangular(clean, (1 - m) * clean + m * rest) <= 4.0 * epsilon + SLACK


def test_values_out_of_range_are_refused() -> None:
    for wrong in (
        lambda: bound_output([0.1], [], 1.0, 0.05),
        lambda: bound_output([1.1], [1.0], 1.0, 0.05),
        lambda: bound_output([float("nan")], [1.0], 1.0, 0.05),
        lambda: bound_output([0.1], [-1.0], 1.0, 0.05),
        lambda: bound_output([0.1], [1.0], 0.0, 0.05),
        lambda: bound_output([0.1], [1.0], 1.0, 0.0),
        lambda: arbitrary_share(0.6),
        lambda: epsilon_for(0.0, 0.5),
        lambda: epsilon_for(0.1, 1.0),
    ):
        with pytest.raises(ValueError, match=r"must be|shares"):
            wrong()
