"""What the policy's networks share: times apart, channels scaled, weights from a generator."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ambient_curate.policy.networks import embed_condition, embed_time, modulate, seed_weights


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dim", [4, 64, 256])
def test_a_time_becomes_sines_and_cosines_of_geometric_frequencies(dim: int) -> None:
    time = np.array([0.0, 0.5, 1.0, 37.25, 99.0])
    angle = time[:, None] * np.geomspace(1.0, 1e-4, dim // 2)
    exact = torch.from_numpy(np.concatenate([np.sin(angle), np.cos(angle)], axis=1))
    found = embed_time(torch.from_numpy(time).float(), dim)
    torch.testing.assert_close(found.double(), exact, rtol=0.0, atol=3e-5)


def test_a_hundred_levels_lie_apart_and_neighbours_nearest() -> None:
    found = embed_time(torch.arange(100.0), 64)
    distance = torch.cdist(found, found) + 1e3 * torch.eye(100)
    assert distance.min() > 0.5
    assert ((distance.argmin(dim=1) - torch.arange(100)).abs() == 1).all()


def test_times_keep_their_digits_under_autocast() -> None:
    time = torch.arange(100.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = embed_time(time, 32)
    assert torch.equal(found, embed_time(time, 32))


@pytest.mark.parametrize("dim", [0, 2, 7])
def test_an_embedding_has_an_even_length_of_four_or_more(dim: int) -> None:
    with pytest.raises(ValueError, match=f"in {dim} numbers; expected an even count >= 4"):
        embed_time(torch.zeros(3), dim)


def test_conditions_are_told_with_their_sines_and_cosines_octave_by_octave() -> None:
    condition = torch.tensor([[0.5, -1.0], [0.25, 0.0]])
    root = math.sqrt(0.5)
    expected = [
        [0.5, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0, -1.0, 1.0],
        [0.25, 0.0, root, 0.0, 1.0, 0.0, root, 1.0, 0.0, 1.0],
    ]
    torch.testing.assert_close(
        embed_condition(condition, 2), torch.tensor(expected), rtol=0.0, atol=1e-6
    )
    assert embed_condition(condition, 0) is condition
    assert embed_condition(torch.zeros(3, 0), 4).shape == (3, 0)


def test_octaves_tell_near_places_apart() -> None:
    near = torch.tensor([[0.300], [0.304]])  # a centimetre of five metres
    plain, found = (embed_condition(near, octaves) for octaves in (0, 4))
    assert float((found[1] - found[0]).norm()) > 25 * float((plain[1] - plain[0]).norm())


@pytest.mark.parametrize("frames", [(), (5,)], ids=["flat", "frames"])
def test_each_channel_of_each_row_has_its_own_scale_and_shift(frames: tuple[int, ...]) -> None:
    hidden, film = draw(5, 5, *frames), draw(5, 10, seed=2)
    found = modulate(hidden, film.reshape(5, 10, *(1 for _ in frames)))
    for row in range(5):
        for channel in range(5):
            exact = hidden[row, channel] * (1 + film[row, channel]) + film[row, 5 + channel]
            torch.testing.assert_close(found[row, channel], exact)


def test_without_film_nothing_is_changed() -> None:
    hidden = draw(2, 3, 4)
    assert torch.equal(modulate(hidden, torch.zeros(2, 6, 1)), hidden)


def build(*, seed: int = 0) -> nn.Sequential:
    with torch.device("meta"):
        network = nn.Sequential(
            nn.Linear(6, 8),
            nn.GroupNorm(2, 8),
            nn.Sequential(nn.Conv1d(3, 8, 5), nn.LayerNorm(4)),
            nn.ConvTranspose1d(8, 6, 4),
            nn.Conv1d(6, 2, 1),
        )
    outlet = network[-1]
    assert isinstance(outlet, nn.Conv1d)
    seed_weights(network, outlet, generator=torch.Generator().manual_seed(seed))
    return network


def test_first_weights_follow_the_law_of_pytorch() -> None:
    generator = torch.Generator().manual_seed(0)
    found = build().state_dict()
    for name in ("0", "2.0", "3"):
        weight, bias = found[f"{name}.weight"], found[f"{name}.bias"]
        exact = nn.init.kaiming_uniform_(
            torch.empty_like(weight), a=math.sqrt(5), generator=generator
        )
        torch.testing.assert_close(weight, exact)
        bound = 1.0 / math.sqrt(weight[0].numel())
        torch.testing.assert_close(
            bias, torch.empty_like(bias).uniform_(-bound, bound, generator=generator)
        )
    for name in ("1", "2.1"):
        assert (found[f"{name}.weight"] == 1.0).all()
        assert (found[f"{name}.bias"] == 0.0).all()
    assert (found["4.weight"] == 0.0).all()
    assert (found["4.bias"] == 0.0).all()


def test_the_generator_alone_decides_the_weights() -> None:
    before = torch.get_rng_state()
    one, same, other = (build(seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["0.weight"], other["0.weight"])


def test_a_layer_without_a_law_is_no_silent_garbage() -> None:
    with torch.device("meta"):
        outlet = nn.Linear(2, 2)
        network = nn.Sequential(nn.Embedding(3, 2), outlet)
    with pytest.raises(TypeError, match=r"no law is known .* Embedding\(3, 2\)"):
        seed_weights(network, outlet, generator=torch.Generator())
