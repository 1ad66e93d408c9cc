"""The network of windows: what its architecture promises before it has learnt anything."""

import math

import pytest
import torch
from torch import Tensor, nn

from ambient_curate.classifier.networks import (
    BANDS,
    CONSTANT,
    LARGEST_RATIO,
    SQUASH,
    Sizes,
    WindowNetwork,
    saturate,
)
from ambient_curate.classifier.samples import Sample, find_basis, find_contrast

SIZES = Sizes(6, 2)
DIM = SIZES.dim
SNR = (-6.0, 12.0)


def make_network(
    sizes: Sizes = SIZES, *, seed: int = 0, trained: bool = False, alike: bool = False
) -> WindowNetwork:
    """Make a network; `trained` fills the layers that start at zero too.

    Its corrupt set has moments of its own, or with `alike` those of the clean set.
    """
    generator = torch.Generator().manual_seed(seed)
    network, dim = WindowNetwork(sizes, SNR, generator=generator), sizes.dim
    network.mean.normal_(generator=generator)
    network.variance.copy_(torch.rand(dim, generator=generator).sort().values)
    basis, _ = torch.linalg.qr(torch.randn(sizes.moved, sizes.moved, generator=generator))
    network.basis[: sizes.moved, : sizes.moved] = basis
    network.clean_mean.copy_(0.5 * torch.randn(dim, generator=generator))
    network.corrupt_mean.copy_(network.clean_mean)
    network.corrupt_variance.copy_(network.variance)
    if not alike:
        network.corrupt_mean.copy_(0.5 * torch.randn(dim, generator=generator))
        network.corrupt_variance.mul_(torch.exp(0.5 * torch.randn(dim, generator=generator)))
    if trained:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def place(network: WindowNetwork, coordinates: Tensor, log_snr: Tensor) -> Tensor:
    """Windows, each at a level of its own, whose coordinates along the basis are these."""
    signal = torch.sigmoid(log_snr).sqrt()[:, None].repeat(1, network.sizes.dim)
    signal[:, network.sizes.moved :] = 1.0  # of what no noise hides
    return signal * network.mean + coordinates @ network.basis.T


def inlet_input(network: WindowNetwork, coordinates: Tensor, log_snr: Tensor) -> Tensor:
    """Return the features that enter the first layer: of the eigenbasis, relative, the ratio."""
    features, ratio = network.describe(place(network, coordinates, log_snr)[:, None], log_snr)
    return torch.cat([*features, ratio[..., None]], dim=-1)[:, 0]


def run(network: WindowNetwork, coordinates: Tensor, log_snr: Tensor) -> Tensor:
    """Log-odds, by the network and by the normal laws, of rows that have a level each."""
    return network(place(network, coordinates, log_snr)[:, None], log_snr)[:, 0]


def test_an_untrained_network_says_one_half_of_a_set_that_is_like_the_clean_one() -> None:
    logits = run(make_network(alike=True), 3.0 * draw(7, DIM), torch.linspace(*SNR, 7))
    assert logits.shape == (7, 2)
    assert logits.dtype == torch.float32
    assert logits.abs().max() < 1e-4


def test_an_untrained_network_gives_the_log_ratio_of_normal_laws() -> None:
    network = make_network()
    log_snr = torch.linspace(-4.0, 4.0, 9, dtype=torch.float64)
    a, sigma = torch.sigmoid(log_snr).sqrt()[:, None], torch.sigmoid(-log_snr).sqrt()[:, None]
    x = 0.1 * draw(9, DIM).double()
    logits = run(network, x.float(), log_snr.float()).double()

    def log_density(mean: Tensor, variance: Tensor) -> Tensor:
        spread = (a**2 * variance.double() + sigma**2).sqrt()
        return torch.distributions.Normal(a * mean.double(), spread).log_prob(x).sum(dim=1)

    clean = log_density(network.clean_mean, network.variance)
    exact = clean - log_density(network.corrupt_mean, network.corrupt_variance)
    bounded = exact / (1.0 + (exact / LARGEST_RATIO).square()).sqrt()
    for found in logits.T:
        torch.testing.assert_close(found, bounded, rtol=0.02, atol=0.02)  # SQUASH: a little less
    assert exact.abs().max() > 1.0


def test_the_second_estimate_is_the_ratio_whatever_the_network_has_learnt() -> None:
    plain, network = make_network(), make_network(trained=True)
    x, snr = draw(7, DIM), torch.linspace(*SNR, 7)
    ratio = inlet_input(network, x, snr)[:, -1]
    logits = run(network, x, snr)
    torch.testing.assert_close(logits[:, 1], ratio)
    torch.testing.assert_close(logits[:, 1], run(plain, x, snr)[:, 1])
    assert (logits[:, 0] - ratio).abs().max() > 0.1


def test_rows_do_not_see_one_another() -> None:
    network = make_network(trained=True)
    x, snr = draw(9, DIM), torch.linspace(*SNR, 9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    logits = run(network, x, snr)
    torch.testing.assert_close(run(network, x[order], snr[order]), logits[order])
    torch.testing.assert_close(run(network, x[4:5], snr[4:5]), logits[4:5])
    assert logits.std(dim=0).min() > 1e-3


def test_rows_of_a_level_equal_rows_with_a_level_each() -> None:
    network = make_network(trained=True)
    x, snr = draw(2, 20, DIM), torch.tensor([0.5, 7.0])
    logits = network(x, snr)
    assert logits.shape == (2, 20, 2)
    flat = network(x.flatten(0, 1)[:, None], snr.repeat_interleave(20))[:, 0]
    torch.testing.assert_close(logits.flatten(0, 1), flat)


def test_coordinates_of_a_noised_window_are_its_noised_coordinates() -> None:
    network = make_network()
    u, z, snr = draw(6, DIM), draw(6, DIM, seed=3), torch.full((6,), 0.7)
    a, sigma = (float(torch.sigmoid(s * snr[0]).sqrt()) for s in (1.0, -1.0))
    noised = a * (network.mean + u @ network.basis.T) + sigma * z
    in_coordinates = a * u + sigma * z @ network.basis
    torch.testing.assert_close(place(network, in_coordinates, snr), noised)
    exact = network(noised[:, None], snr)[:, 0]
    torch.testing.assert_close(run(network, in_coordinates, snr), exact)


@pytest.mark.parametrize("log_snr", [-6.0, 0.0, 8.0, 15.0])
def test_coordinates_are_whitened_at_every_level(log_snr: float) -> None:
    network = make_network()
    network.variance[0] = 0.0  # a coordinate that is nothing but noise
    network.mean.zero_()  # it is subtracted in single precision
    ratio = math.exp(-log_snr)  # sigma^2 / a^2
    sigma2 = ratio / (1.0 + ratio)
    spread = (network.variance.double() * (1.0 - sigma2) + sigma2).sqrt()
    z = draw(4, DIM)
    features = inlet_input(network, (z * spread).float(), torch.full((4,), log_snr))
    soft = z / (1.0 + z.square() / SQUASH**2).sqrt()
    torch.testing.assert_close(features[:, :DIM], soft, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        features[:, DIM : 2 * DIM], 0.5 * (soft.square() - 1.0), rtol=1e-2, atol=2e-3
    )


@pytest.mark.parametrize("dim", [1, 5, BANDS, 3 * BANDS + 7])
def test_bands_average_neighbours_and_cover_every_coordinate_once(dim: int) -> None:
    bands = make_network(Sizes(dim, 1)).bands
    assert bands.shape == (dim, min(dim, BANDS))
    torch.testing.assert_close(bands.sum(dim=0), torch.ones(bands.shape[1]))
    member = bands > 0
    assert (member.sum(dim=1) == 1).all()
    which = member.long().argmax(dim=1)
    assert (which.diff() >= 0).all()
    sizes = member.sum(dim=0)
    assert int(sizes.max() - sizes.min()) <= 1


def test_band_energies_of_noise_have_about_unit_spread() -> None:
    network = make_network(Sizes(128, 2))
    spread = (network.variance * 0.5 + 0.5).sqrt()
    features = inlet_input(network, draw(2_000, 256) * spread, torch.zeros(2_000))
    energy = features[:, 512 : 512 + BANDS]
    assert energy.shape == (2_000, BANDS)
    torch.testing.assert_close(energy.std(dim=0), torch.ones(BANDS), rtol=0.25, atol=0.0)


def test_frames_are_compared_with_the_first_and_halves_of_stretches_with_each_other() -> None:
    rows = make_network(Sizes(13, 1)).relative
    later = [torch.eye(13)[frame] - torch.eye(13)[0] for frame in (3, 6, 9, 12)]
    halves = torch.zeros(2, 13)
    halves[0, :4], halves[0, 4:8] = 0.25, -0.25
    halves[1, 4:8], halves[1, 8:12] = 0.25, -0.25
    torch.testing.assert_close(rows, torch.cat([torch.stack(later), halves]))
    assert make_network(Sizes(2, 1)).relative.tolist() == [[-1.0, 1.0]]
    assert make_network(Sizes(1, 3)).relative.shape == (0, 1)


def random_sample(sizes: Sizes, *, rows: int = 4_000, seed: int = 0) -> Sample:
    """Random walks, and corrupt ones that are wider and lie elsewhere."""
    steps = draw(2, rows, sizes.horizon, sizes.action, seed=seed)
    known = 3.0 * draw(2, rows, sizes.condition_dim, seed=seed + 9)
    clean, corrupt = torch.cat([0.3 * steps.cumsum(dim=2).flatten(2), known], dim=2)
    number = torch.arange(rows) % 40
    return Sample(clean + 1.0, 2.0 * corrupt + 1.5, number, number)


def test_scales_are_those_of_both_sets() -> None:
    sizes = Sizes(13, 2)
    seen, unseen = random_sample(sizes), random_sample(sizes, seed=5)
    network = make_network(sizes)
    network.learn_scales(seen, unseen)
    mean, basis, variance = find_basis(seen, unseen)
    for found, exact in ((network.mean, mean), (network.basis, basis)):
        torch.testing.assert_close(found, exact)
    contrast = find_contrast(seen.map(lambda x: (x - mean) @ basis), variance)
    found = network.clean_mean, network.corrupt_mean, network.corrupt_variance
    for one, other in zip((network.variance, *found), (variance, *contrast), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("log_snr", [-3.0, 0.0, 6.0])
def test_relative_frames_of_both_sets_have_unit_squares_at_every_level(log_snr: float) -> None:
    sizes = Sizes(13, 2)
    network, sample = make_network(sizes), random_sample(sizes)
    network.learn_scales(sample, sample)
    rows, snr = torch.cat([sample.clean, sample.corrupt]), torch.tensor([log_snr])
    noise = torch.sigmoid(-snr).sqrt() * draw(*rows.shape, seed=7)
    features, _ = network.describe((torch.sigmoid(snr).sqrt() * rows + noise)[None], snr)
    later, squares = features[-2:]
    count = len(network.relative) * sizes.action
    assert later.shape == squares.shape == (1, len(rows), count)
    unbound = later / (1.0 - (later / SQUASH).square()).sqrt()  # of `saturate`
    ones = torch.ones(count)
    torch.testing.assert_close(unbound[0].square().mean(dim=0), ones, rtol=0.12, atol=0.0)
    torch.testing.assert_close(squares, 0.5 * (later.square() - 1.0))


def test_values_that_no_noise_hides_are_seen_alike_at_every_level() -> None:
    sizes = Sizes(6, 2, condition_dim=3)
    network, sample = make_network(sizes), random_sample(sizes)
    sample.clean[:, -1] = sample.corrupt[:, -1] = 2.0  # constant
    network.learn_scales(sample, sample)
    assert float(network.variance[-1]) == pytest.approx(CONSTANT)
    torch.testing.assert_close(network.basis[-3:, -3:], torch.eye(3))
    rows = torch.lerp(network.mean, sample.clean[:5], 0.3)  # near: SQUASH changes little there
    x = rows.expand(2, -1, -1).clone()
    x[1, :, : sizes.moved] = draw(5, sizes.moved)  # nothing but noise
    (soft, square, _, *_), ratio = network.describe(x, torch.tensor([9.0, -30.0]))
    torch.testing.assert_close(soft[0, :, -3:], soft[1, :, -3:])
    scaled = (rows - network.mean)[:, -3:-1] * network.variance[-3:-1].rsqrt()
    torch.testing.assert_close(soft[1, :, -3:-1], saturate(scaled, SQUASH))
    known = slice(sizes.moved, sizes.dim - 1)
    clean, corrupt = (
        torch.distributions.Normal(mean[known], variance[known].sqrt())
        .log_prob((rows - network.mean)[:, known])
        .sum(dim=1)
        for mean, variance in (
            (network.clean_mean, network.variance),
            (network.corrupt_mean, network.corrupt_variance),
        )
    )
    # at full noise it is all that the ratio has
    torch.testing.assert_close(
        ratio[1], saturate(clean - corrupt, LARGEST_RATIO), rtol=0.03, atol=0.03
    )
    assert square.isfinite().all()


def test_far_away_coordinates_saturate() -> None:
    network = make_network(trained=True)
    x = draw(3, DIM)
    far, farther = (run(network, scale * x, torch.zeros(3)) for scale in (1e4, 2e4))
    assert torch.isfinite(farther).all()
    # only the logarithm of a band's energy still moves
    features = inlet_input(network, 1e4 * x, torch.zeros(3))
    assert features[:, :DIM].abs().max() <= SQUASH
    assert (far - farther).abs().max() < 5.0
    assert torch.isfinite(run(network, 1e30 * x, torch.zeros(3))).all()


def test_noise_levels_outside_the_range_are_embedded_at_its_ends() -> None:
    network = make_network(trained=True)
    bumps = network._bumps(torch.tensor([SNR[0] - 9.0, SNR[0], SNR[1], SNR[1] + 9.0]))
    assert bumps[0].tolist() == bumps[1].tolist()
    assert bumps[2].tolist() == bumps[3].tolist()
    assert bumps[0, 0] == bumps[3, -1] == 1.0


def test_every_parameter_learns() -> None:
    network = make_network(trained=True)
    loss = run(network, draw(64, DIM), torch.linspace(*SNR, 64))[:, 0].square().mean()
    torch.autograd.backward(loss)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0.0, name


def test_the_first_step_moves_only_the_last_layers_and_the_third_everything() -> None:
    network = make_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    label, moved = (torch.arange(64) % 3 == 0).float(), []
    for _ in range(3):
        before = network.weights.detach().clone()
        logits = run(network, draw(64, DIM), torch.linspace(*SNR, 64))[:, 0]
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.binary_cross_entropy_with_logits(logits, label))
        optimizer.step()
        change, layers = network.weights - before, network._layers()
        network.weights.data.copy_(change)
        moved.append([bool(matrix.any()) for matrix, _ in network._layers()])
        network.weights.data.copy_(before + change)
    others = [False] * (len(layers) - 1)
    assert moved[0] == [False, True, *others[1:-1], True]  # the trust is of the second
    assert all(moved[2])


def test_a_generator_decides_the_weights() -> None:
    one, same, other = (make_network(seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["weights"], other["weights"])


def test_a_quadratic_log_likelihood_ratio_is_within_reach() -> None:
    """Its features are linear in it: least squares on them finds the Gaussian ratio exactly."""
    network = make_network(Sizes(4, 1))
    network.variance[:] = torch.tensor([0.1, 0.2, 0.5, 1.0])
    spread = (network.variance * 0.5 + 0.5).sqrt()
    x = 0.3 * draw(2_000, 4) * spread
    shift, wider = torch.tensor([0.2, 0.0, -0.1, 0.4]), torch.tensor([1.0, 1.3, 0.8, 1.0])
    ratio = (x.square() - ((x - shift) / wider).square()).sum(dim=1)
    features = inlet_input(network, x, torch.zeros(2_000))[:, :8]
    design = torch.cat([features, torch.ones(2_000, 1)], dim=1).double()
    solved = torch.linalg.lstsq(design, ratio.double()[:, None]).solution
    residual = (design @ solved).flatten() - ratio
    assert residual.std() < 0.01 * ratio.std()
