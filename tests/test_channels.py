"""Channels: what is built for noise and for crops, and how few episodes are shrunk."""

import numpy as np
import torch
from oracle_study import SIGMA

from ambient_curate.channels import WORTH, crop_channel, noise_channel
from ambient_curate.crops import CropClassifier, radius_levels
from ambient_curate.networks import NoiseClassifier
from ambient_curate.noise import log_snr
from ambient_curate.samples import Sample


def sample(episodes: int = 8, rows: int = 400) -> Sample:
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = (torch.randn(rows, 6, generator=generator) for _ in range(2))
    member = torch.arange(rows) % episodes
    weight, head = torch.ones(rows, 1), torch.zeros(rows, dtype=torch.int64)
    return Sample(clean, weight, 3.0 * corrupt + 1.0, head, member, member)


def test_noise_is_drawn_between_the_lowest_level_and_more_than_anything_shows() -> None:
    channel = noise_channel(SIGMA)
    assert channel.anchored and channel.levels is SIGMA
    assert channel.range == (-2 * np.log(20.0), float(log_snr(SIGMA[0])))
    network = channel.build(sample(), sample(), torch.Generator().manual_seed(0))
    assert isinstance(network, NoiseClassifier)


def test_every_radius_of_crops_is_drawn_as_often() -> None:
    channel = crop_channel(3, 0.1)
    assert not channel.anchored
    np.testing.assert_array_equal(channel.levels, radius_levels(3))
    network = channel.build(sample(), sample(), torch.Generator().manual_seed(0))
    assert isinstance(network, CropClassifier)
    even = torch.linspace(*channel.range, 3001)
    counts = torch.bincount(network.radius(even), minlength=3)
    assert (counts - 1000).abs().max() <= 1


def test_an_arm_of_few_episodes_keeps_a_share_of_its_difference() -> None:
    for episodes in (2, 100):
        seen = sample(episodes)
        network = crop_channel(3, 0.1).build(seen, seen, torch.Generator().manual_seed(0))
        assert isinstance(network, CropClassifier)
        share = WORTH * episodes / (WORTH * episodes + 6)
        shift = seen.corrupt.mean(0) - seen.clean.mean(0)
        torch.testing.assert_close(
            network.mean[1] - network.mean[0], share * shift, rtol=1e-3, atol=1e-4
        )
        grown = network.covariance[1].trace() / network.covariance[0].trace()
        assert abs(float(grown) - (1 + share * 8)) < 0.8
