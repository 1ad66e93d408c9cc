"""What every denoising network must keep to, whatever its layers."""

import torch
from torch import Tensor, nn

SIZES = (8, 2, 3)  # horizon, action, condition


def draw_inputs(rows: int, sizes: tuple[int, int, int] = SIZES) -> list[Tensor]:
    horizon, action, condition = sizes
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(rows, horizon, action, generator=generator)
    time = 100.0 * torch.rand(rows, generator=generator)
    return [x, time, torch.randn(rows, condition, generator=generator)]


def disturb(network: nn.Module) -> None:
    """Move every parameter off zero and one, where a wrong formula may hide."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def starts_at_zero(network: nn.Module, sizes: tuple[int, int, int] = SIZES) -> None:
    output = network(*draw_inputs(5, sizes))
    assert output.shape == (5, *sizes[:2])
    assert (output == 0.0).all()
    torch.autograd.backward((output - 1.0).square().mean())
    moved = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"outlet.weight", "outlet.bias"}


def learns_with_every_parameter(network: nn.Module, sizes: tuple[int, int, int] = SIZES) -> None:
    disturb(network)
    torch.autograd.backward(network(*draw_inputs(64, sizes)).square().mean())
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0.0, name


def keeps_rows_apart(network: nn.Module, sizes: tuple[int, int, int] = SIZES) -> None:
    disturb(network)
    inputs, order = draw_inputs(4, sizes), torch.tensor([2, 0, 3, 1])
    output = network(*inputs)
    assert output.std(dim=0).min() > 1e-3  # rows differ
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(network(*(each[order] for each in inputs)), output[order], **close)
    torch.testing.assert_close(network(*(each[1:2] for each in inputs)), output[1:2], **close)
    for each in inputs:
        each.requires_grad_()
    for gradient in torch.autograd.grad(network(*inputs)[1].square().sum(), inputs):
        touched = gradient.reshape(4, -1).any(dim=1)
        assert touched.tolist() == [False, gradient.numel() > 0, False, False]


def has_jacobians(network: nn.Module, sizes: tuple[int, int, int] = SIZES) -> None:
    """Compare one row's, and many at once, with plain reverse passes."""
    disturb(network)
    x, time, condition = draw_inputs(3, sizes)

    def of_row(x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        return network(x[None], time[None], condition[None])[0]

    one = torch.func.jacrev(of_row)(x[1], time[1], condition[1])
    every = torch.func.vmap(torch.func.jacrev(of_row))(x, time, condition)
    x.requires_grad_()
    output = network(x, time, condition)
    for frame in range(sizes[0]):
        for action in range(sizes[1]):
            whole = output[:, frame, action].sum()
            (exact,) = torch.autograd.grad(whole, x, retain_graph=True)
            torch.testing.assert_close(every[:, frame, action], exact, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(one[frame, action], exact[1], rtol=1e-4, atol=1e-5)


def bears_bfloat16(network: nn.Module, sizes: tuple[int, int, int] = SIZES) -> None:
    disturb(network)
    inputs = draw_inputs(64, sizes)
    exact = network(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(*inputs)
    assert rough.dtype == torch.bfloat16
    error = float((rough.float() - exact).detach().square().mean().sqrt() / exact.detach().std())
    print(f"bfloat16: relative error {error:.4f}")
    assert 0.0 < error < 0.03


def learns_to_denoise(network: nn.Module, *, steps: int, rate: float) -> float:
    """Train on signed waves; return the relative error, once time and condition have mattered."""
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    for _ in range(steps):
        inputs, target = _noise_waves(64, generator)
        optimizer.zero_grad()
        torch.autograd.backward((network(*inputs) - target).square().mean())
        optimizer.step()
    (x, time, sign), target = _noise_waves(1000, generator)
    with torch.no_grad():
        error, wrong_sign, wrong_time = (
            float((network(x, *rest) - target).square().mean() / target.square().mean())
            for rest in ((time, sign), (time, -sign), (time.flip(0), sign))
        )
    print(f"error {error:.3f}; of a wrong condition {wrong_sign:.2f}, time {wrong_time:.2f}")
    assert wrong_sign > 5 * error
    assert wrong_time > 2 * error
    return error


def _noise_waves(rows: int, generator: torch.Generator) -> tuple[list[Tensor], Tensor]:
    """Windows +-w noised at ten levels, the sign as condition; and their v-target."""
    wave = torch.sin(torch.arange(16.0)).reshape(8, 2)
    sign = torch.randint(2, (rows, 1), generator=generator) * 2.0 - 1.0
    level = torch.randint(10, (rows,), generator=generator)
    sigma = ((level + 0.5) / 10)[:, None, None]
    a, x0 = (1.0 - sigma.square()).sqrt(), sign[:, :, None] * wave
    z = torch.randn(rows, 8, 2, generator=generator)
    return [a * x0 + sigma * z, 10.0 * level, sign], a * z - sigma * x0
