"""Channels: what is built for noise and for crops, and how few episodes are shrunk."""

import numpy as np
import pytest
import torch
from oracle_study import SIGMA

from ambient_curate.classifier.channels import (
    WORTH,
    Channel,
    add_noise,
    crop_channel,
    noise_channel,
)
from ambient_curate.classifier.crop_network import CropNetwork, radius_levels
from ambient_curate.classifier.local_ratios import LocalRatios
from ambient_curate.classifier.networks import Sizes, WindowNetwork
from ambient_curate.classifier.samples import Sample
from ambient_curate.classifier.temporal_mixtures import MixtureRatio
from ambient_curate.noise import log_snr
from ambient_curate.statistics.sigma_min import sparse_levels

SIZES = Sizes(3, 2)
pytestmark = pytest.mark.usefixtures("one_thread")


def sample(episodes: int = 8, rows: int = 400, dim: int = SIZES.dim) -> Sample:
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = (torch.randn(rows, dim, generator=generator) for _ in range(2))
    member = torch.arange(rows) % episodes
    return Sample(clean, 3.0 * corrupt + 1.0, member, member)


def build(channel: Channel, seen: Sample) -> torch.nn.ModuleDict:
    return channel.build(seen, seen, torch.Generator().manual_seed(0))


def test_noise_is_drawn_between_the_lowest_level_and_more_than_anything_shows() -> None:
    channel = noise_channel(SIGMA, SIZES)
    assert channel.anchored
    assert channel.levels.tolist() == SIGMA[sparse_levels(SIGMA.size)].tolist()
    assert channel.range == (-2 * np.log(20.0), float(log_snr(SIGMA[0])))
    assert not noise_channel(
        SIGMA, Sizes(3, 2, condition_dim=1)
    ).anchored  # that remains to be seen


def test_windows_are_looked_at_in_four_ways() -> None:
    members = build(noise_channel(SIGMA, SIZES), sample())
    kinds = [WindowNetwork, MixtureRatio, LocalRatios, LocalRatios]
    assert [type(member) for member in members.values()] == kinds
    learnt = [any(True for _ in member.parameters()) for member in members.values()]
    assert learnt == [True, False, False, False]
    assert (members["network"].variance != 1.0).all()  # the scales are those of the windows


CHANNELS = {
    "noise": noise_channel(SIGMA, SIZES),
    "noise and what it does not hide": noise_channel(SIGMA, Sizes(2, 2, condition_dim=2)),
    "crops": crop_channel(3, 0.1, dim=6),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_members_give_as_many_estimates_as_the_channel_says_and_can_be_filled_anew(
    name: str,
) -> None:
    channel, seen = CHANNELS[name], sample(rows=200)
    members = build(channel, seen)
    assert list(members) == list(channel.names)
    levels = torch.from_numpy(log_snr(channel.levels)).float()[::7]
    noise = torch.randn(1, 12, 6, generator=torch.Generator().manual_seed(1))
    noised = channel.blur(seen.clean[None, :12], noise.expand(len(levels), -1, -1), levels)
    for each, member in members.items():
        again = channel.empty(each)
        again.load_state_dict(member.state_dict())
        found = member(noised, levels)
        assert found.shape == (len(levels), 12, channel.names[each])
        assert torch.equal(again(noised, levels), found)


def test_a_generator_decides_what_is_built() -> None:
    channel = CHANNELS["noise"]
    states = [build(channel, sample(rows=200)).state_dict() for _ in range(2)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_noise_is_that_of_the_level_and_leaves_what_is_known() -> None:
    windows, noise = torch.full((1, 3, 6), 2.0), torch.full((1, 3, 6), 5.0)
    sigma = np.array([0.1, 0.6, 0.9999])
    levels = torch.from_numpy(log_snr(sigma)).float()
    exact = torch.from_numpy(np.sqrt(1.0 - sigma**2) * 2.0 + sigma * 5.0).float()
    found = add_noise(windows, noise, levels, moved=6)
    torch.testing.assert_close(found, exact[:, None, None].expand(3, 3, 6))
    known = add_noise(windows, noise.expand(3, 3, 6), levels, moved=4)
    torch.testing.assert_close(known[..., :4], found[..., :4])
    assert (known[..., 4:] == 2.0).all()
    each = CHANNELS["noise and what it does not hide"].blur(windows, noise.expand(3, 3, 6), levels)
    torch.testing.assert_close(each, known)


def test_noise_without_digits_in_the_signal_still_has_them() -> None:
    """At the lowest levels 1 - a^2 is 0 in single precision; the noise is not."""
    levels = torch.tensor([20.0])
    found = add_noise(torch.zeros(1, 1, 2), torch.ones(1, 1, 2), levels, moved=2)
    assert float(found[0, 0, 0]) == pytest.approx(np.exp(-10.0), rel=1e-5)


def test_every_radius_of_crops_is_drawn_as_often() -> None:
    channel = crop_channel(3, 0.1, dim=6)
    assert not channel.anchored
    np.testing.assert_array_equal(channel.levels, radius_levels(3))
    network = build(channel, sample())["crop"]
    assert isinstance(network, CropNetwork)
    even = torch.linspace(*channel.range, 3001)
    counts = torch.bincount(network.radius(even), minlength=3)
    assert (counts - 1000).abs().max() <= 1


def test_a_set_of_few_episodes_keeps_a_share_of_its_difference() -> None:
    for episodes in (2, 100):
        seen = sample(episodes)
        network = build(crop_channel(3, 0.1, dim=6), seen)["crop"]
        assert isinstance(network, CropNetwork)
        share = WORTH * episodes / (WORTH * episodes + 6)
        shift = seen.corrupt.mean(0) - seen.clean.mean(0)
        torch.testing.assert_close(
            network.mean[1] - network.mean[0], share * shift, rtol=1e-3, atol=1e-4
        )
        grown = network.covariance[1].trace() / network.covariance[0].trace()
        assert abs(float(grown) - (1 + share * 8)) < 0.8
