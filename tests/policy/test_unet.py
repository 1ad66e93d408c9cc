"""The U-Net: its published form, what its architecture promises, and that it learns."""

from itertools import pairwise

import network_laws as laws
import numpy as np
import pytest
import torch

from ambient_curate.policy.networks import PUBLISHED, SMALL, ConditionalUnet1d

CHANNELS, GROUPS, KERNEL, TIME_DIM = (8, 12, 16), 4, 3, 8


def make(
    sizes: tuple[int, int, int] = laws.SIZES,
    *,
    channels: tuple[int, ...] = CHANNELS,
    seed: int = 0,
) -> ConditionalUnet1d:
    return ConditionalUnet1d(
        *sizes[1:],
        channels=channels,
        kernel_size=KERNEL,
        groups=GROUPS,
        time_dim=TIME_DIM,
        generator=torch.Generator().manual_seed(seed),
    )


def count_by_hand(action: int, condition: int, channels: tuple[int, ...]) -> int:
    def conv(inputs: int, outputs: int, kernel: int) -> int:
        return inputs * outputs * kernel + outputs

    def block(inputs: int, outputs: int) -> int:
        convolutions = conv(inputs, outputs, 5) + conv(outputs, outputs, 5) + 4 * outputs
        film = conv(256 + condition, 2 * outputs, 1)
        return convolutions + film + (inputs != outputs) * conv(inputs, outputs, 1)

    total = conv(256, 1024, 1) + conv(1024, 256, 1) + 2 * block(channels[-1], channels[-1])
    for a, b in pairwise((action, *channels)):
        total += block(a, b) + block(b, b)
    for a, b in pairwise(channels):
        total += conv(a, a, 3) + conv(a, a, 4) + block(2 * b, a) + block(a, a)
    return (
        total + conv(channels[0], channels[0], 5) + 2 * channels[0] + conv(channels[0], action, 1)
    )


@pytest.mark.parametrize(
    ("condition", "channels", "count"),
    [
        (40, PUBLISHED, 65_783_298),  # push-T from keypoints: 2 observations of 20 numbers
        (6, SMALL, 5_290_306),
    ],
)
def test_the_parameters_are_as_many_as_the_published_layers_say(
    condition: int, channels: tuple[int, ...], count: int
) -> None:
    network = ConditionalUnet1d(2, condition, channels=channels, generator=torch.Generator())
    found = sum(p.numel() for p in network.parameters())
    assert found == count_by_hand(2, condition, channels) == count


class Naive:
    """The U-Net again, in NumPy, float64 and loops, from the names of its weights."""

    def __init__(self, network: ConditionalUnet1d) -> None:
        self.w = {n: v.double().numpy() for n, v in network.state_dict().items()}

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def conv(self, name: str, x: np.ndarray, stride: int = 1) -> np.ndarray:
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        outputs, _, kernel = weight.shape
        padded = np.pad(x, ((0, 0), (0, 0), (kernel // 2, kernel // 2)))
        result = np.empty((x.shape[0], outputs, x.shape[2] // stride))
        for frame in range(result.shape[2]):
            seen = padded[:, :, stride * frame : stride * frame + kernel]
            result[:, :, frame] = np.einsum("rik,oik->ro", seen, weight) + bias
        return result

    def spread(self, name: str, x: np.ndarray) -> np.ndarray:
        """Transposed convolution: every frame adds its kernel, and the ends are cut."""
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        frames = x.shape[2]
        result = np.zeros((x.shape[0], weight.shape[1], 2 * frames + 2))
        for frame in range(frames):
            result[:, :, 2 * frame : 2 * frame + 4] += np.einsum(
                "ri,iok->rok", x[:, :, frame], weight
            )
        return result[:, :, 1:-1] + bias[:, None]

    def conv_block(self, name: str, x: np.ndarray) -> np.ndarray:
        x = self.conv(f"{name}.conv", x)
        grouped = x.reshape(x.shape[0], GROUPS, -1)
        centred = grouped - grouped.mean(axis=2, keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(axis=2, keepdims=True) + 1e-5)
        gain, shift = self.w[f"{name}.norm.weight"], self.w[f"{name}.norm.bias"]
        return mish(unit.reshape(x.shape) * gain[:, None] + shift[:, None])

    def residual(self, name: str, x: np.ndarray, context: np.ndarray) -> np.ndarray:
        change = self.conv_block(f"{name}.before", x)
        scale, shift = np.split(self.linear(f"{name}.film", context), 2, axis=1)
        change = change * (1 + scale[:, :, None]) + shift[:, :, None]
        skip = self.conv(f"{name}.skip", x) if f"{name}.skip.weight" in self.w else x
        return self.conv_block(f"{name}.after", change) + skip

    def level(self, name: str, x: np.ndarray, context: np.ndarray) -> np.ndarray:
        return self.residual(f"{name}.second", self.residual(f"{name}.first", x, context), context)

    def __call__(self, x: np.ndarray, time: np.ndarray, condition: np.ndarray) -> np.ndarray:
        angle = time[:, None] * np.geomspace(1.0, 1e-4, TIME_DIM // 2)
        embedding = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
        embedding = self.linear("time.2", mish(self.linear("time.0", embedding)))
        c = mish(np.concatenate([embedding, condition], axis=1))
        fine = self.level("down.0", x.transpose(0, 2, 1), c)
        half = self.level("down.1", self.conv("coarsen.0", fine, 2), c)
        quarter = self.level("down.2", self.conv("coarsen.1", half, 2), c)
        x = np.concatenate([self.level("middle", quarter, c), quarter], axis=1)
        x = self.spread("refine.0", self.level("up.0", x, c))
        x = self.spread("refine.1", self.level("up.1", np.concatenate([x, half], axis=1), c))
        return self.conv("outlet", self.conv_block("last", x)).transpose(0, 2, 1)


def mish(x: np.ndarray) -> np.ndarray:
    return x * np.tanh(np.log1p(np.exp(x)))


@pytest.mark.parametrize("block", ["down.0.first", "down.0.second", "up.1.first"])
def test_a_residual_block_equals_its_formula(block: str) -> None:
    network = make().double()
    laws.disturb(network)
    module = network.get_submodule(block)
    inputs = {"down.0.first": 2, "down.0.second": 8, "up.1.first": 24}[block]
    rng = np.random.default_rng(5)
    x, context = rng.normal(size=(3, inputs, 6)), rng.normal(size=(3, TIME_DIM + 3))
    found = module(torch.from_numpy(x), torch.from_numpy(context)).detach().numpy()
    np.testing.assert_allclose(found, Naive(network).residual(block, x, context), rtol=1e-11)


def test_the_network_equals_its_formula() -> None:
    network = make()
    laws.disturb(network)
    inputs = laws.draw_inputs(5)
    exact = Naive(network)(*(each.double().numpy() for each in inputs))
    found = network(*inputs).detach().numpy()
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)


def test_an_untrained_network_says_zero_and_its_last_layer_learns_first() -> None:
    laws.starts_at_zero(make())


@pytest.mark.parametrize("condition", [3, 0])
def test_gradients_reach_every_parameter(condition: int) -> None:
    laws.learns_with_every_parameter(make((8, 2, condition)), (8, 2, condition))


@pytest.mark.parametrize("sizes", [(4, 4, 4), (8, 2, 3), (12, 1, 0)])
def test_rows_do_not_see_one_another(sizes: tuple[int, int, int]) -> None:
    laws.keeps_rows_apart(make(sizes), sizes)


def test_nothing_is_mixed_up_when_all_sizes_agree() -> None:
    sizes = (4, 4, 4)
    network, inputs = make(sizes), laws.draw_inputs(4, sizes)
    laws.disturb(network)
    exact = Naive(network)(*(each.double().numpy() for each in inputs))
    np.testing.assert_allclose(network(*inputs).detach().numpy(), exact, rtol=1e-4, atol=1e-5)


def test_jacobians_of_rows_are_those_of_plain_autograd() -> None:
    laws.has_jacobians(make())


def test_bfloat16_is_near_float32() -> None:
    laws.bears_bfloat16(make())


@pytest.mark.slow
def test_it_learns_to_denoise_by_time_and_condition() -> None:
    network = make((8, 2, 1), channels=(16, 16))
    assert laws.learns_to_denoise(network, steps=150, rate=1e-2) < 0.15


def test_the_generator_alone_decides_the_weights() -> None:
    before = torch.get_rng_state()
    one, same, other = (make(seed=seed).state_dict() for seed in (0, 0, 1))
    make()(*laws.draw_inputs(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["time.0.weight"], other["time.0.weight"])


@pytest.mark.parametrize(("levels", "works", "fails"), [(1, 7, None), (2, 6, 7), (3, 12, 10)])
def test_the_horizon_must_be_halved_without_rest(levels: int, works: int, fails: int) -> None:
    network = make(channels=CHANNELS[:levels])
    assert network(*laws.draw_inputs(2, (works, 2, 3))).shape == (2, works, 2)
    if fails is not None:
        takes = f"the horizon is {fails} frames; this U-Net takes multiples of {2 ** (levels - 1)}"
        with pytest.raises(ValueError, match=takes):
            network(*laws.draw_inputs(2, (fails, 2, 3)))


def test_sizes_that_no_layer_can_have_are_refused() -> None:
    for channels in ((), (8, 10)):
        with pytest.raises(ValueError, match="expected multiples of 4 groups"):
            make(channels=channels)
    with pytest.raises(ValueError, match="4 frames; expected an odd number"):
        ConditionalUnet1d(2, 0, kernel_size=4, generator=torch.Generator())
