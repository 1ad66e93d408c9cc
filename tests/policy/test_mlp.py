"""The residual MLP: what its architecture promises, and that it learns."""

import network_laws as laws
import pytest
import torch
from torch import Tensor

from ambient_curate.policy.networks import TIME_DIM, ResidualMlp


def make(sizes: tuple[int, int, int] = laws.SIZES, *, seed: int = 0) -> ResidualMlp:
    generator = torch.Generator().manual_seed(seed)
    return ResidualMlp(*sizes, width=32, depth=2, generator=generator)


def test_the_parameters_are_as_many_as_the_layers_say() -> None:
    width, inputs, condition = 256, 16 * 2, 6
    block = 2 * width + (width + 1) * 2 * width + 2 * (width + 1) * width
    context = (TIME_DIM + condition + 1) * width + (width + 1) * width
    by_hand = (inputs + 1) * width + context + 3 * block + 2 * width + (width + 1) * inputs
    network = ResidualMlp(16, 2, condition, generator=torch.Generator())
    assert sum(p.numel() for p in network.parameters()) == by_hand == 892_192


def test_the_network_equals_its_formula() -> None:
    """A second writing of it, in float64 and from the names of the weights."""
    network = make()
    laws.disturb(network)
    x, time, condition = (each.double() for each in laws.draw_inputs(6))
    weights = {name: value.double() for name, value in network.state_dict().items()}

    def layer(name: str, values: Tensor) -> Tensor:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def silu(values: Tensor) -> Tensor:
        return values / (1.0 + torch.exp(-values))

    def norm(name: str, values: Tensor) -> Tensor:
        centred = values - values.mean(dim=1, keepdim=True)
        unit = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
        return unit * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    angle = time[:, None] * torch.logspace(0, -4, TIME_DIM // 2, dtype=torch.float64)
    context = torch.cat([angle.sin(), angle.cos(), condition], dim=1)
    context = silu(layer("context.2", silu(layer("context.0", context))))
    hidden = layer("inlet", x.reshape(6, 16))
    for block in ("blocks.0", "blocks.1"):
        film = layer(f"{block}.film", context)
        change = silu(norm(f"{block}.norm", hidden) * (1 + film[:, :32]) + film[:, 32:])
        hidden = hidden + layer(f"{block}.second", silu(layer(f"{block}.first", change)))
    exact = layer("outlet", silu(norm("norm", hidden))).reshape(6, 8, 2)
    found = network(*laws.draw_inputs(6)).double()
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)


def test_an_untrained_network_says_zero_and_its_last_layer_learns_first() -> None:
    laws.starts_at_zero(make())


@pytest.mark.parametrize("condition", [3, 0])
def test_gradients_reach_every_parameter(condition: int) -> None:
    laws.learns_with_every_parameter(make((8, 2, condition)), (8, 2, condition))


@pytest.mark.parametrize("sizes", [(4, 4, 4), (8, 2, 3), (1, 1, 0)])
def test_rows_do_not_see_one_another(sizes: tuple[int, int, int]) -> None:
    laws.keeps_rows_apart(make(sizes), sizes)


def test_jacobians_of_rows_are_those_of_plain_autograd() -> None:
    laws.has_jacobians(make())


def test_bfloat16_is_near_float32() -> None:
    laws.bears_bfloat16(make())


def test_it_learns_to_denoise_by_time_and_condition() -> None:
    assert laws.learns_to_denoise(make((8, 2, 1)), steps=300, rate=3e-3) < 0.1


def test_the_generator_alone_decides_the_weights() -> None:
    before = torch.get_rng_state()
    one, same, other = (make(seed=seed).state_dict() for seed in (0, 0, 1))
    make()(*laws.draw_inputs(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["inlet.weight"], other["inlet.weight"])


def test_a_window_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"windows of shape \(2, 8\); expected \(8, 2\)"):
        make()(*laws.draw_inputs(5, (2, 8, 3)))
