"""The noise classifier's network: what its architecture promises before it has learnt anything."""

import math

import pytest
import torch
from torch import Tensor, nn

from ambient_curate.networks import BANDS, LARGEST_RATIO, SQUASH, NoiseClassifier

DIM, HEADS = 12, 3
LAST = ("outlet", "trust")
SNR = (-6.0, 12.0)


def make_network(
    dim: int = DIM, *, seed: int = 0, trained: bool = False, alike: bool = False
) -> NoiseClassifier:
    """Make a network; `trained` fills the layers that start at zero too.

    Its arms have moments of their own, or with `alike` those of the clean set.
    """
    generator = torch.Generator().manual_seed(seed)
    variance = torch.rand(dim, generator=generator).sort().values
    moments = 0.5 * torch.randn(3, HEADS, dim, generator=generator)
    contrast = (moments[0], moments[1], variance * torch.exp(moments[2]))
    if alike:
        contrast = (moments[0], moments[0], variance.expand(HEADS, dim))
    basis, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator))
    network = NoiseClassifier(
        torch.randn(dim, generator=generator),
        basis,
        variance,
        contrast,
        SNR,
        generator=generator,
    )
    if trained:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inlet_input(
    network: NoiseClassifier, coordinates: Tensor, log_snr: Tensor, keep: Tensor | None = None
) -> Tensor:
    """Return the features that enter the first layer."""
    seen = []
    hook = network.inlet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    run(network, coordinates, log_snr, keep)
    hook.remove()
    return seen[0][:, 0]


def run(
    network: NoiseClassifier, coordinates: Tensor, log_snr: Tensor, keep: Tensor | None = None
) -> Tensor:
    """Logits of rows that have a level each."""
    return network(coordinates[:, None], log_snr, None if keep is None else keep[:, None])[:, 0]


def test_an_untrained_network_says_one_half_of_arms_that_are_like_the_clean_set() -> None:
    logits = run(make_network(alike=True), 3.0 * draw(7, DIM), torch.linspace(*SNR, 7))
    assert logits.shape == (7, HEADS + 1)
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

    for head in range(HEADS):
        clean = log_density(network.clean_mean[head], network.variance)
        corrupt = log_density(network.corrupt_mean[head], network.corrupt_variance[head])
        exact = clean - corrupt
        bounded = exact / (1.0 + (exact / LARGEST_RATIO).square()).sqrt()
        found = logits[:, 0] - logits[:, head + 1]
        torch.testing.assert_close(found, bounded, rtol=0.02, atol=0.02)  # SQUASH: a little less
        assert exact.abs().max() > 1.0


def test_a_head_that_relies_on_the_normal_laws_gives_their_ratio_alone() -> None:
    plain, network = make_network(trained=True), make_network(trained=True)
    x, snr = draw(7, DIM), torch.linspace(*SNR, 7)
    ratio = inlet_input(network, x, snr)[:, -HEADS:]
    network.reliance[:] = torch.tensor([0.0, 0.5, 1.0])
    before, after = (run(each, x, snr) for each in (plain, network))
    before, after = (logits[:, :1] - logits[:, 1:] for logits in (before, after))
    torch.testing.assert_close(after[:, 0], before[:, 0])
    torch.testing.assert_close(after[:, 1], (before[:, 1] + ratio[:, 1]) / 2)
    torch.testing.assert_close(after[:, 2], ratio[:, 2])


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
    assert logits.shape == (2, 20, HEADS + 1)
    flat = run(network, x.flatten(0, 1), snr.repeat_interleave(20))
    torch.testing.assert_close(logits.flatten(0, 1), flat)


def test_the_channel_commutes_with_the_projection() -> None:
    network = make_network()
    x0, z = draw(6, DIM), draw(6, DIM, seed=3)
    a, sigma = 0.8, 0.6
    noised = network.project(a * x0 + sigma * z) - (a - 1.0) * network.mean @ network.basis
    in_coordinates = a * network.project(x0) + sigma * (z @ network.basis)
    torch.testing.assert_close(noised, in_coordinates)
    torch.testing.assert_close(
        network.project(x0).square().sum(1), (x0 - network.mean).square().sum(1)
    )


@pytest.mark.parametrize("log_snr", [-6.0, 0.0, 8.0, 15.0])
def test_coordinates_are_whitened_at_every_level(log_snr: float) -> None:
    network = make_network()
    network.variance[0] = 0.0  # a coordinate that is nothing but noise
    ratio = math.exp(-log_snr)  # sigma^2 / a^2
    sigma2 = ratio / (1.0 + ratio)
    spread = (network.variance.double() * (1.0 - sigma2) + sigma2).sqrt()
    z = draw(4, DIM)
    features = inlet_input(network, (z * spread).float(), torch.full((4,), log_snr))
    soft = z / (1.0 + z.square() / SQUASH**2).sqrt()
    torch.testing.assert_close(features[:, :DIM], soft, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        features[:, DIM : 2 * DIM], 0.5 * (soft.square() - 1.0), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("dim", [1, 5, BANDS, 3 * BANDS + 7])
def test_bands_average_neighbours_and_cover_every_coordinate_once(dim: int) -> None:
    bands = make_network(dim).bands
    assert bands.shape == (dim, min(dim, BANDS))
    torch.testing.assert_close(bands.sum(dim=0), torch.ones(bands.shape[1]))
    member = bands > 0
    assert (member.sum(dim=1) == 1).all()
    which = member.long().argmax(dim=1)
    assert (which.diff() >= 0).all()
    sizes = member.sum(dim=0)
    assert int(sizes.max() - sizes.min()) <= 1


def test_band_energies_of_noise_have_about_unit_spread() -> None:
    network = make_network(256)
    spread = (network.variance * 0.5 + 0.5).sqrt()
    features = inlet_input(network, draw(4_000, 256) * spread, torch.zeros(4_000))
    energy = features[:, 512 : 512 + BANDS]
    assert energy.shape == (4_000, BANDS)
    torch.testing.assert_close(energy.std(dim=0), torch.ones(BANDS), rtol=0.25, atol=0.0)


def test_far_away_coordinates_saturate() -> None:
    network = make_network(trained=True)
    x = draw(3, DIM)
    far, farther = (run(network, scale * x, torch.zeros(3)) for scale in (1e4, 2e4))
    assert torch.isfinite(farther).all()
    # only the logarithm of a band's energy still moves
    features = inlet_input(network, 1e4 * x, torch.zeros(3))
    assert features[:, :DIM].abs().max() <= SQUASH
    assert (far - farther).abs().max() < 5.0


def test_noise_levels_outside_the_range_are_embedded_at_its_ends() -> None:
    network = make_network(trained=True)
    bumps = network._bumps(torch.tensor([SNR[0] - 9.0, SNR[0], SNR[1], SNR[1] + 9.0]))
    assert bumps[0].tolist() == bumps[1].tolist()
    assert bumps[2].tolist() == bumps[3].tolist()
    assert bumps[0, 0] == bumps[3, -1] == 1.0


def test_dropout_hides_a_coordinate_but_not_its_share_of_the_energy() -> None:
    network = make_network()
    keep = torch.ones(2, DIM)
    keep[1, 4] = 0.0
    coordinates = draw(1, DIM).expand(2, DIM).contiguous()
    kept, hidden = inlet_input(network, coordinates, torch.zeros(2), keep)
    ratios = list(range(kept.numel() - HEADS, kept.numel()))
    assert (kept != hidden).nonzero().flatten().tolist() == [4, DIM + 4, *ratios]
    assert hidden[4] == hidden[DIM + 4] == 0.0


def test_the_log_ratio_does_not_see_a_hidden_coordinate() -> None:
    network = make_network()
    x, keep = draw(2, DIM), torch.ones(2, DIM)
    keep[:, 4] = 0.0
    moved = x.clone()
    moved[:, 4] += 3.0
    seen, other = (inlet_input(network, u, torch.zeros(2), keep)[:, -HEADS:] for u in (x, moved))
    torch.testing.assert_close(seen, other)
    network.variance[4] = network.corrupt_variance[:, 4] = 1.0
    network.clean_mean[:, 4] = network.corrupt_mean[:, 4] = 0.0  # nothing to tell there
    torch.testing.assert_close(inlet_input(network, x, torch.zeros(2))[:, -HEADS:], seen)


def test_every_parameter_learns() -> None:
    network = make_network(trained=True)
    loss = run(network, draw(64, DIM), torch.linspace(*SNR, 64)).square().mean()
    torch.autograd.backward(loss)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0.0, name


def test_the_first_step_moves_only_the_last_layers_and_the_third_everything() -> None:
    network = make_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    moved = []
    for _ in range(3):
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        logits = run(network, draw(64, DIM), torch.linspace(*SNR, 64))
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(logits, torch.arange(64) % 3))
        optimizer.step()
        moved.append({n for n, p in network.named_parameters() if not torch.equal(p, before[n])})
    assert moved[0] == {f"{layer}.{part}" for layer in LAST for part in ("weight", "bias")}
    assert moved[2] == {name for name, _ in network.named_parameters()}


def test_a_generator_decides_the_weights() -> None:
    one, same, other = (make_network(seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["inlet.weight"], other["inlet.weight"])


def test_a_quadratic_log_likelihood_ratio_is_within_reach() -> None:
    """Its features are linear in it: least squares on them finds the Gaussian ratio exactly."""
    network = make_network(4)
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
