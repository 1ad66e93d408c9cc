"""Per-mode preconditioning against the exact Wiener filter, computed from covariance matrices."""

import math

import pytest
import torch
from torch import Tensor, nn

from ambient_curate.policy.losses import noise_windows
from ambient_curate.policy.preconditioning import PerMode, find_motion, fit_modes

HORIZON, ACTION = 4, 3
DIM = HORIZON * ACTION
SIGMA = [0.002, 0.025, 0.1, 0.5, 0.9, 0.9999, 1.0]
FLOOR = 1e-9


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def exact_draws(count: int, sources: int, seed: int = 1) -> Tensor:
    """Independent flat windows (source, count, dim): mean exactly 0, covariance exactly 1."""
    raw = draw(count, sources * DIM, seed=seed)
    whole, _ = torch.linalg.qr(raw - raw.mean(dim=0))
    return (math.sqrt(count) * whole).reshape(count, sources, DIM).transpose(0, 1)


def law(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and covariance of smooth windows: eigenvalues from 1 down to 1e-6."""
    basis, _ = torch.linalg.qr(draw(DIM, DIM, seed=seed))
    variance = 10.0 ** torch.linspace(0, -6, DIM, dtype=torch.float64)
    return draw(DIM, seed=seed + 1), basis @ torch.diag(variance) @ basis.mT


def windows(flat: Tensor) -> Tensor:
    return flat.reshape(-1, HORIZON, ACTION)


def sample(sources: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    return windows(mean + sources @ torch.linalg.cholesky(spread).mT)


def levels(number: int, rows: int) -> tuple[Tensor, Tensor]:
    """Sigma and place of `rows` rows at one level."""
    sigma = torch.full((rows,), SIGMA[number], dtype=torch.float64)
    return sigma, torch.full((rows,), number)


def fit(*laws: tuple[Tensor, Tensor], band: list[int] | None = None) -> PerMode:
    """Modes in float64 of windows that have exactly these laws."""
    given = [sample(exact_draws(64, 1)[0], *each) for each in laws]
    fitted = fit_modes(given, torch.tensor(band or [0] * len(SIGMA)), floor=FLOOR)
    eigen = [torch.linalg.eigh(spread) for _, spread in laws]
    exact = PerMode(
        fitted.band,
        torch.stack([mean for mean, _ in laws]),
        torch.stack([basis for _, basis in eigen]),
        torch.stack([variance.clamp(min=FLOOR) for variance, _ in eigen]),
    )
    for name in ("mean", "variance"):
        torch.testing.assert_close(
            getattr(fitted, name).double(), getattr(exact, name), rtol=1e-5, atol=1e-6
        )
    return exact


def power(matrix: Tensor, exponent: float) -> Tensor:
    value, vector = torch.linalg.eigh(matrix)
    return vector @ torch.diag(value**exponent) @ vector.mT


def spread_at(spread: Tensor, number: int) -> Tensor:
    sigma = SIGMA[number]
    return (1 - sigma**2) * spread + sigma**2 * torch.eye(DIM, dtype=torch.float64)


def wiener(x_t: Tensor, number: int, mean: Tensor, spread: Tensor) -> Tensor:
    """Exact posterior mean of normal windows: mu + C a (a^2 C + sigma^2)^-1 (x_t - a mu)."""
    a = math.sqrt(1 - SIGMA[number] ** 2)
    centred = x_t.flatten(1) - a * mean
    gain = a * torch.linalg.solve(spread_at(spread, number), spread).mT
    return windows(mean + centred @ gain.mT)


@pytest.mark.parametrize("number", range(len(SIGMA)))
def test_without_a_network_it_is_the_posterior_mean_of_normal_windows(number: int) -> None:
    mean, spread = law()
    modes, (sigma, level) = fit((mean, spread)), levels(number, 9)
    x_t = windows(draw(9, DIM, seed=5))
    found = modes.estimate_x0(torch.zeros_like(x_t), x_t, sigma, level)
    torch.testing.assert_close(found, wiener(x_t, number, mean, spread), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("number", range(len(SIGMA)))
def test_input_and_target_are_white_and_uncorrelated(number: int) -> None:
    """For windows of the very law: the network is asked for what the filter cannot know."""
    mean, spread = law()
    modes, (sigma, level) = fit((mean, spread)), levels(number, 64)
    sources = exact_draws(64, 2, seed=3)
    x0 = sample(sources[0], mean, spread)
    x_t = noise_windows(x0, sigma, windows(sources[1])).x_t
    seen = modes.whiten(x_t, sigma, level).flatten(1)
    target = modes.find_target(x0, x_t, sigma, level).flatten(1)
    unit = torch.eye(DIM, dtype=torch.float64)
    for one, other, expected in (
        (seen, seen, unit),
        (target, target, unit),
        (seen, target, 0 * unit),
    ):
        torch.testing.assert_close(one.mT @ other / 64, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("number", range(len(SIGMA)))
def test_the_input_is_whitened_symmetrically(number: int) -> None:
    mean, spread = law()
    modes, (sigma, level) = fit((mean, spread)), levels(number, 9)
    x_t = windows(draw(9, DIM, seed=5))
    centred = x_t.flatten(1) - math.sqrt(1 - SIGMA[number] ** 2) * mean
    expected = windows(centred @ power(spread_at(spread, number), -0.5))
    torch.testing.assert_close(modes.whiten(x_t, sigma, level), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("number", range(len(SIGMA)))
def test_estimates_invert_targets_whatever_the_windows(number: int) -> None:
    modes, (sigma, level) = fit(law()), levels(number, 9)
    x0, z = windows(3 * draw(9, DIM, seed=6)), windows(draw(9, DIM, seed=7))
    x_t = noise_windows(x0, sigma, z).x_t
    target = modes.find_target(x0, x_t, sigma, level)
    found = modes.estimate_x0(target, x_t, sigma, level)
    torch.testing.assert_close(found, x0, rtol=1e-8, atol=1e-8)


def test_signs_and_order_of_eigenvectors_do_not_matter() -> None:
    modes = fit(law())
    order = torch.randperm(DIM, generator=generator(0))
    sign = torch.where(draw(DIM, seed=9) > 0, 1.0, -1.0)
    other = PerMode(
        modes.band, modes.mean, (modes.basis * sign)[..., order], modes.variance[:, order]
    )
    assert not torch.allclose(other.basis, modes.basis)
    x0, x_t, output = (windows(draw(9, DIM, seed=s)) for s in range(3))
    for number in range(len(SIGMA)):
        at = levels(number, 9)
        for one, same in (
            (modes.whiten(x_t, *at), other.whiten(x_t, *at)),
            (modes.find_target(x0, x_t, *at), other.find_target(x0, x_t, *at)),
            (modes.estimate_x0(output, x_t, *at), other.estimate_x0(output, x_t, *at)),
        ):
            torch.testing.assert_close(one, same, rtol=1e-10, atol=1e-9)


def test_rows_of_mixed_levels_use_the_modes_of_their_bands() -> None:
    laws, band = [law(0), law(10), law(20)], [0, 0, 1, 1, 1, 2, 2]
    modes = fit(*laws, band=band)
    level = torch.tensor([3, 0, 6, 2, 5, 1, 4, 3, 3, 0, 2, 6])  # as many rows as dimensions
    sigma = torch.tensor(SIGMA, dtype=torch.float64)[level]
    x0, x_t, output = (windows(draw(DIM, DIM, seed=s)) for s in range(3))
    seen = modes.whiten(x_t, sigma, level)
    target = modes.find_target(x0, x_t, sigma, level)
    estimate = modes.estimate_x0(output, x_t, sigma, level)
    for row, place in enumerate(level.tolist()):
        alone = fit(laws[band[place]])
        at, one = (sigma[[row]], level[[row]]), [row]
        torch.testing.assert_close(seen[one], alone.whiten(x_t[one], *at))
        torch.testing.assert_close(target[one], alone.find_target(x0[one], x_t[one], *at))
        torch.testing.assert_close(estimate[one], alone.estimate_x0(output[one], x_t[one], *at))
    zero = modes.estimate_x0(0 * output, x_t, sigma, level)
    expected = [
        wiener(x_t[[row]], place, *laws[band[place]]) for row, place in enumerate(level.tolist())
    ]
    torch.testing.assert_close(zero, torch.cat(expected), rtol=1e-8, atol=1e-8)


MOTION = 2


def joint_law() -> tuple[Tensor, Tensor]:
    """Mean and covariance of (motion, window), which go together."""
    root = draw(MOTION + DIM, MOTION + DIM, seed=40)
    return draw(MOTION + DIM, seed=41), root @ root.mT / (MOTION + DIM)


def fit_with_motion() -> tuple[PerMode, Tensor, Tensor, Tensor]:
    """Modes fitted to exact draws of the joint law; motion, windows and noise of these draws."""
    mean, spread = joint_law()
    raw = draw(64, 2 * DIM + MOTION, seed=42)
    whole, _ = torch.linalg.qr(raw - raw.mean(dim=0))
    both = mean + 8.0 * whole[:, : MOTION + DIM] @ torch.linalg.cholesky(spread).mT
    motion, x0 = both[:, :MOTION], windows(both[:, MOTION:])
    band = torch.zeros(len(SIGMA), dtype=torch.int64)
    modes = fit_modes([x0], band, floor=FLOOR, motion_by_band=[motion])
    return modes, motion, x0, windows(8.0 * whole[:, MOTION + DIM :])


def see(modes: PerMode, motion: Tensor) -> Tensor:
    """What a policy sees of it: states of one dimension, the present one at 0."""
    return modes.see_motion(torch.cat([motion, 0 * motion[:, :1]], dim=1), 1)


@pytest.mark.parametrize("number", range(len(SIGMA)))
def test_without_a_network_it_is_the_posterior_mean_given_noised_window_and_motion(
    number: int,
) -> None:
    """By the covariance of (motion, noised window), without eigenvectors or slopes."""
    modes, motion, _, _ = fit_with_motion()
    mean, spread = joint_law()
    a, s = math.sqrt(1 - SIGMA[number] ** 2), SIGMA[number]
    shrink = torch.cat([torch.ones(MOTION), a * torch.ones(DIM)]).double()
    noise = s**2 * torch.cat([torch.zeros(MOTION), torch.ones(DIM)]).double()
    seen = shrink[:, None] * spread * shrink + torch.diag(noise)
    gain = torch.linalg.solve(seen, shrink[:, None] * spread[:, MOTION:])
    x_t, (sigma, level) = windows(draw(64, DIM, seed=43)), levels(number, 64)
    told = torch.cat([motion, x_t.flatten(1)], dim=1) - shrink * mean
    expected = windows(mean[MOTION:] + told @ gain)
    found = modes.double().estimate_x0(torch.zeros_like(x_t), x_t, sigma, level, see(modes, motion))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("number", range(len(SIGMA)))
def test_given_motion_input_and_target_are_white_and_tell_nothing_of_each_other(
    number: int,
) -> None:
    modes, motion, x0, z = fit_with_motion()
    modes, (sigma, level) = modes.double(), levels(number, 64)
    x_t = noise_windows(x0, sigma, z).x_t
    known = see(modes, motion)
    seen = modes.whiten(x_t, sigma, level, known).flatten(1)
    target = modes.find_target(x0, x_t, sigma, level, known)
    unit, flat = torch.eye(DIM, dtype=torch.float64), target.flatten(1)
    moved = motion - motion.mean(dim=0)
    for one, other, expected in (
        (seen, seen, unit),
        (flat, flat, unit),
        (seen, flat, 0 * unit),
        (moved, seen, torch.zeros(MOTION, DIM).double()),
        (moved, flat, torch.zeros(MOTION, DIM).double()),
    ):
        torch.testing.assert_close(one.mT @ other / 64, expected, rtol=0, atol=1e-3)
    found = modes.estimate_x0(target, x_t, sigma, level, known)
    torch.testing.assert_close(found, x0, rtol=1e-6, atol=1e-6)


def test_what_motion_tells_of_a_window_is_kept_whatever_the_network_says() -> None:
    """The first action is where the robot went: known, not guessed."""
    motion, rest = draw(500, ACTION, seed=50), draw(500, DIM - ACTION, seed=51)
    x0 = windows(torch.cat([-motion, rest], dim=1))
    modes = fit_modes(
        [x0], torch.zeros(len(SIGMA), dtype=torch.int64), floor=1e-6, motion_by_band=[motion]
    ).double()
    (sigma, level), x_t = levels(4, 500), windows(draw(500, DIM, seed=52))
    output = windows(draw(500, DIM, seed=53))
    found = modes.estimate_x0(output, x_t, sigma, level, see(modes, motion))
    assert (found[:, 0] + motion).abs().max() < 0.01
    assert (modes.estimate_x0(output, x_t, sigma, level)[:, 0] + motion).abs().max() > 1.0


def test_motion_is_where_the_robot_was_seen_from_where_it_is() -> None:
    condition = torch.tensor([[1.0, 2.0, 4.0, 7.0, 5.0, 5.0, 9.0]])  # three states, and a goal
    assert find_motion(condition, 4, 2).tolist() == [[-4.0, -3.0, -1.0, 2.0]]
    assert find_motion(condition, 2, 2).tolist() == [[-3.0, -5.0]]
    assert find_motion(torch.zeros(1, 0), 0, 2).shape == (1, 0)


def test_motion_is_seen_in_units_of_its_spread() -> None:
    x0, motion = (
        windows(draw(500, DIM, seed=60)),
        torch.tensor([1e-3, 10.0]) * draw(500, 2, seed=61),
    )
    band = torch.tensor([0] * (len(SIGMA) - 1) + [1])
    halves = ([x0[:250], x0[250:]], [motion[:250], motion[250:]])
    modes = fit_modes(halves[0], band, floor=1e-6, motion_by_band=halves[1]).double()
    spread = see(modes, motion).square().mean(dim=0)
    torch.testing.assert_close(spread, torch.ones(2).double(), rtol=1e-5, atol=0)


def test_motion_that_never_varies_tells_nothing() -> None:
    x0 = windows(draw(50, DIM, seed=60))
    band = torch.tensor([0] * len(SIGMA))
    still = fit_modes([x0], band, floor=1e-6, motion_by_band=[torch.zeros(50, 2).double()])
    alone = fit_modes([x0], band, floor=1e-6)
    assert not still.motion_scale.any() and not still.slope.any()
    assert torch.equal(still.mean, alone.mean) and torch.equal(still.variance, alone.variance)


def test_frames_and_dimensions_keep_their_places() -> None:
    """Dimension d has variance v_d at every frame: each shrinks by its own factor."""
    variance = torch.tensor([1.0, 0.1, 0.001], dtype=torch.float64)
    modes = fit((torch.zeros(DIM, dtype=torch.float64), torch.diag(variance.repeat(HORIZON))))
    sigma, level = levels(3, 5)
    x_t = windows(draw(5, DIM, seed=2))
    found = modes.estimate_x0(torch.zeros_like(x_t), x_t, sigma, level)
    a = math.sqrt(1 - SIGMA[3] ** 2)
    torch.testing.assert_close(found, x_t * a * variance / (a**2 * variance + SIGMA[3] ** 2))
    whitened = x_t / torch.sqrt(a**2 * variance + SIGMA[3] ** 2)
    torch.testing.assert_close(modes.whiten(x_t, sigma, level), whitened)


@pytest.mark.parametrize("number", [0, 5])
def test_float32_is_near_float64(number: int) -> None:
    exact = fit(law())
    sources = exact_draws(64, 2, seed=3).float()
    modes = fit(law()).float()
    mean, spread = (part.float() for part in law())
    x0 = windows(mean + sources[0] @ torch.linalg.cholesky(spread.double()).float().mT)
    sigma, level = torch.full((64,), SIGMA[number]), torch.full((64,), number)
    x_t = noise_windows(x0, sigma, windows(sources[1])).x_t
    output = windows(sources[1])
    wide = x0.double(), x_t.double(), output.double(), sigma.double()
    pairs = {
        "whiten": (modes.whiten(x_t, sigma, level), exact.whiten(wide[1], wide[3], level)),
        "target": (
            modes.find_target(x0, x_t, sigma, level),
            exact.find_target(wide[0], wide[1], wide[3], level),
        ),
        "estimate": (
            modes.estimate_x0(output, x_t, sigma, level),
            exact.estimate_x0(wide[2], wide[1], wide[3], level),
        ),
    }
    errors = {
        name: float((found - truth).norm() / truth.norm()) for name, (found, truth) in pairs.items()
    }
    print(f"sigma {SIGMA[number]}:", {name: f"{error:.1e}" for name, error in errors.items()})
    assert all(found.dtype == torch.float32 for found, _ in pairs.values())
    assert all(error < 1e-4 for error in errors.values())  # nan fails too


def test_a_network_in_bfloat16_does_not_coarsen_the_modes() -> None:
    modes, (sigma, level) = fit(law()).float(), levels(1, 9)
    x_t, output = windows(draw(9, DIM, seed=5)).float(), windows(draw(9, DIM)).float()
    at = sigma.float(), level
    with torch.autocast("cpu", torch.bfloat16):
        assert (x_t.flatten(1) @ modes.basis[0]).dtype == torch.bfloat16
        seen, found = modes.whiten(x_t, *at), modes.estimate_x0(output, x_t, *at)
    assert torch.equal(seen, modes.whiten(x_t, *at))
    assert torch.equal(found, modes.estimate_x0(output, x_t, *at))


def test_a_state_is_restored_into_modes_of_the_same_sizes() -> None:
    modes = fit(law(0), law(5), band=[0, 0, 0, 1, 1, 1, 1]).float()
    empty = PerMode(
        torch.zeros(len(SIGMA), dtype=torch.int64),
        torch.zeros(2, DIM),
        torch.zeros(2, DIM, DIM),
        torch.ones(2, DIM),
    )
    empty.load_state_dict(modes.state_dict())
    names = {"band", "mean", "basis", "variance", "slope", "motion_scale"}
    assert set(modes.state_dict()) == names
    assert list(modes.parameters()) == []
    x_t, level = windows(draw(7, DIM)).float(), torch.arange(7)
    sigma = torch.tensor(SIGMA)
    assert torch.equal(empty.whiten(x_t, sigma, level), modes.whiten(x_t, sigma, level))
    with pytest.raises(RuntimeError, match="size mismatch"):
        empty.load_state_dict(fit(law()).state_dict())


def test_gradients_pass_through_estimates_to_the_network() -> None:
    modes, network = fit(law()).float(), nn.Linear(ACTION, ACTION)
    sigma, level = torch.tensor(SIGMA), torch.arange(7)
    x_t = windows(draw(7, DIM)).float()
    output = network(modes.whiten(x_t, sigma, level))
    modes.estimate_x0(output, x_t, sigma, level).square().sum().backward()
    assert network.weight.grad is not None and network.weight.grad.abs().sum() > 0


def test_modes_are_fitted_to_moments_with_a_floor() -> None:
    """Fewer windows than dimensions: the rest of the basis is at the floor."""
    given = windows(draw(5, DIM)).float()
    modes = fit_modes([given, 2 * given], torch.tensor([0, 1, 1]), floor=1e-3)
    flat = given.flatten(1).double()
    for band, factor in ((0, 1.0), (1, 2.0)):
        basis, variance = modes.basis[band], modes.variance[band]
        torch.testing.assert_close(basis.mT @ basis, torch.eye(DIM), rtol=0, atol=1e-6)
        torch.testing.assert_close(modes.mean[band], factor * flat.mean(dim=0).float())
        assert (variance > 1.1e-3).sum() == 4 and torch.isclose(
            variance, torch.tensor(1e-3)
        ).sum() == 8
        kept = torch.where(variance > 1.1e-3, variance, 0.0)
        expected = factor**2 * torch.cov(flat.mT, correction=0).float()
        torch.testing.assert_close(basis * kept @ basis.mT, expected, rtol=0, atol=1e-5)
    assert modes.band.tolist() == [0, 1, 1]
    assert {modes.mean.dtype, modes.basis.dtype, modes.variance.dtype} == {torch.float32}


def test_what_cannot_be_fitted_is_refused() -> None:
    given, band = windows(draw(5, DIM)).float(), torch.tensor([0, 1])
    for floor in (0.0, math.nan):
        with pytest.raises(ValueError, match="least variance"):
            fit_modes([given, given], band, floor=floor)
    for count in (1, 3):
        with pytest.raises(ValueError, match=f"windows of {count} bands"):
            fit_modes([given] * count, band, floor=1e-3)
    with pytest.raises(ValueError, match="no windows"):
        fit_modes([given, given[:0]], band, floor=1e-3)
