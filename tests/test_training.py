"""The training loop against a plain one, and its schedule against its formula."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from ambient_curate.training import TrainOptions, learning_rate_at, train

OPTIONS = TrainOptions(steps=40, learning_rate=0.05, warm_up=5, average_decay=0.8, clip=0.5)


def make_network() -> nn.Linear:
    network = nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.linspace(-1.0, 1.0, parameter.numel()).view_as(parameter))
    return network


def loss_of(network: nn.Linear, step: int) -> Tensor:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
    return 30.0 * (network(x) - x[:, :2]).square().mean()  # large, so that it is clipped


def test_every_step_is_that_of_a_plain_loop() -> None:
    network, average = make_network(), make_network()
    plain, mean = make_network(), make_network()
    optimizer = torch.optim.AdamW(plain.parameters(), weight_decay=OPTIONS.weight_decay)
    clipped = 0
    for done, loss in train(network, average, lambda step: loss_of(network, step), OPTIONS):
        step = done - 1
        expected = loss_of(plain, step)
        assert loss == pytest.approx(float(expected.detach()))
        optimizer.zero_grad()
        torch.autograd.backward(expected)
        clipped += nn.utils.clip_grad_norm_(plain.parameters(), OPTIONS.clip) > OPTIONS.clip
        optimizer.param_groups[0]["lr"] = learning_rate_at(step, OPTIONS)
        optimizer.step()
        decay = min(OPTIONS.average_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, new in zip(mean.parameters(), plain.parameters(), strict=True):
                kept.copy_(decay * kept + (1.0 - decay) * new)
        torch.testing.assert_close(network.state_dict(), plain.state_dict())
        torch.testing.assert_close(average.state_dict(), mean.state_dict())
    assert done == OPTIONS.steps
    assert clipped > 0


def test_the_learning_rate_warms_up_linearly_and_ends_near_zero() -> None:
    options = TrainOptions(steps=200, learning_rate=0.1, warm_up=10)
    rates = [learning_rate_at(step, options) for step in range(200)]
    for step in (0, 4, 9, 10, 100, 199):
        cosine = 0.05 * (1.0 + math.cos(math.pi * step / 200))
        assert rates[step] == pytest.approx(min((step + 1) / 10, 1.0) * cosine)
    assert max(rates) == rates[9]
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0.0 < rates[-1] < 1e-4
    assert learning_rate_at(0, TrainOptions(warm_up=0)) == TrainOptions().learning_rate


def test_the_caller_may_stop_early_and_sees_the_average_of_that_step() -> None:
    network, average = make_network(), make_network()
    asked = []

    def loss_at(step: int) -> Tensor:
        asked.append(step)
        return loss_of(network, step)

    for done, _ in train(network, average, loss_at, OPTIONS):
        snapshot = copy.deepcopy(average.state_dict())
        if done == 7:
            break
    assert asked == list(range(7))
    torch.testing.assert_close(average.state_dict(), snapshot)
    assert not torch.equal(average.weight, network.weight)


def test_the_average_takes_no_gradient_and_keeps_its_buffers() -> None:
    network = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    average = copy.deepcopy(network).requires_grad_(False)
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0)) + 5.0
    list(train(network, average, lambda _: network(x).pow(4).mean(), TrainOptions(steps=3)))
    assert average[1].running_mean.tolist() == [0.0]
    assert network[1].running_mean.tolist() != [0.0]
    assert not torch.equal(average[0].weight, copy.deepcopy(network)[0].weight)
    assert all(p.grad is None for p in average.parameters())


def test_least_squares_is_solved() -> None:
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    truth = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.3, 0.7]])
    network, average = make_network(), make_network()
    options = TrainOptions(steps=250, learning_rate=0.1, weight_decay=0.0, clip=10.0)
    target = x @ truth.T + 0.25
    list(train(network, average, lambda _: (network(x) - target).square().mean(), options))
    torch.testing.assert_close(average.weight.detach(), truth, atol=1e-3, rtol=0.0)
    torch.testing.assert_close(average.bias.detach(), torch.full((2,), 0.25), atol=1e-3, rtol=0.0)
