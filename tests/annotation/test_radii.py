"""Radii: crops of every frame, averaged over their own draws, and where curves cross."""

import numpy as np
import pytest
import torch
from test_crop_network import ACTION, DIM, HORIZON, SIGMA, make
from torch import nn

from ambient_curate.annotation.sigma_max import (
    AROUND,
    cross_crops,
    find_radius,
    reach_at,
    score_crops,
)
from ambient_curate.classifier.channels import CROP, crop_channel
from ambient_curate.classifier.crop_network import radius_levels
from ambient_curate.classifier.fit import FoldClassifier, PairClassifier

LEVELS = radius_levels(HORIZON)


def test_every_frame_is_scored_by_the_draws_that_have_it_as_centre() -> None:
    channel, members = crop_channel(HORIZON, SIGMA, dim=DIM), nn.ModuleDict({CROP: make()})
    flat = torch.full((2, HORIZON), 0.5), torch.zeros(HORIZON)
    classifier = FoldClassifier({1: PairClassifier(channel, members, *flat)}, LEVELS)
    generator = torch.Generator().manual_seed(0)
    windows = torch.randn(7, HORIZON, ACTION, generator=generator)
    noise = torch.randn(7, AROUND * HORIZON, DIM, generator=generator)
    found = score_crops(classifier, windows, noise, 1)
    assert found.shape == (7, HORIZON, HORIZON)
    for centre in range(HORIZON):
        c = [
            # a single row has centre 0: put the wanted one at its place
            classifier.predict(windows, noise[:, [draw] * HORIZON], [1], slice(0, HORIZON))[
                :, :, centre, 0
            ]
            for draw in range(centre, AROUND * HORIZON, HORIZON)
        ]
        expected = torch.stack(c).mean(dim=0).T.numpy()
        np.testing.assert_allclose(found[:, centre], expected, atol=1e-5)


@pytest.mark.parametrize("horizon", [2, 5, 16])
def test_a_curve_that_fails_from_a_radius_on_is_alike_up_to_the_one_before(horizon: int) -> None:
    levels = radius_levels(horizon)
    radii = np.arange(horizon)[::-1]
    failing = np.arange(horizon + 1)
    curves = np.where(radii < failing[:, None], 0.5, 0.3)
    assert cross_crops(curves, levels, 0.45).tolist() == (failing - 1).tolist()


def test_a_gap_is_not_jumped() -> None:
    curves = np.array([[0.5, 0.5, 0.4, 0.5, 0.5]])  # radii 4 .. 0: it fails at 2
    assert cross_crops(curves, LEVELS, 0.45).tolist() == [1]


def test_reaches_are_looked_up() -> None:
    reaches = np.array([0.1, 0.3, 1.0])
    assert reach_at(np.array([-1, 0, 1, 2]), reaches).tolist() == [0.0, 0.1, 0.3, 1.0]
    assert find_radius(np.array([0.0, 1.0]), 3).tolist() == [2, -1]
