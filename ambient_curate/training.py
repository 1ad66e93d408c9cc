"""One training loop: AdamW, warm-up and cosine, an exponential moving average of the weights.

And the processes that share one.
"""

import copy
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class TrainOptions:
    """How a network is trained.

    Attributes
    ----------
    steps : int
        Steps of the cosine schedule.
    learning_rate : float
        Its peak, reached after `warm_up` steps.
    weight_decay : float
        AdamW's, on every parameter.
    average_decay : float
        Decay of the moving average; early steps use (step + 1) / (step + 10) where that is less.
    warm_up : int
        Steps of linear warm-up.
    clip : float
        Largest norm of the gradient.
    """

    steps: int = 1500
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    average_decay: float = 0.99
    warm_up: int = 50
    clip: float = 1.0


class Training:
    """What a step of training changes: weights, their moving average, the optimizer's moments.

    Parameters
    ----------
    network : Module
        Trained in place.
    average : Module
        A copy of `network`; holds the exponential moving average of its parameters, in place.
    options : TrainOptions
        Lengths and rates.

    Attributes
    ----------
    step : int
        Steps done.
    """

    def __init__(self, network: nn.Module, average: nn.Module, options: TrainOptions) -> None:
        self.network, self.average, self.options, self.step = network, average, options, 0
        self.optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            fused=True,
        )

    def advance(self, loss: Tensor) -> None:
        """Take a step down the gradient of a scalar loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, self.options)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.options.clip)
        self.optimizer.step()
        decay = min(self.options.average_decay, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.network.parameters()), 1.0 - decay
            )
        self.step += 1


def train(
    network: nn.Module,
    average: nn.Module,
    loss_at: Callable[[int], Tensor],
    options: TrainOptions,
) -> Iterator[tuple[int, float]]:
    """Train `network` step by step; the caller owns logging, validation and stopping.

    Parameters
    ----------
    network, average, options
        As in `Training`.
    loss_at : callable
        Gives the scalar loss of step 0, 1, ...; it draws its own batch and noise.

    Yields
    ------
    tuple of int and float
        Number of steps done, and the loss of the last.
    """
    state = Training(network, average, options)
    for step in range(options.steps):
        loss = loss_at(step)
        state.advance(loss)
        yield state.step, loss.item()


Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class StopOptions:
    """When a training ends before its last step.

    Attributes
    ----------
    every : int
        Steps between two evaluations of the held-out loss.
    patience : int
        Evaluations without improvement after which it ends.
    """

    every: int = 50
    patience: int = 4


def train_until_best(
    network: Network,
    loss_at: Callable[[int], Tensor],
    held_out_loss: Callable[[Network], float],
    options: TrainOptions,
    stop: StopOptions,
    report: Callable[[int, float, float], None] = lambda step, loss, held_out: None,
) -> Network:
    """Train until the held-out loss no longer falls; return the best moving average, frozen.

    Parameters
    ----------
    network : Module
        Trained in place.
    loss_at, options
        As in `train`.
    held_out_loss : callable
        Of a moving average; the first one counts, too.
    stop : StopOptions
        When to evaluate, and when to end.
    report : callable
        Called with the step, its loss and the held-out loss after every evaluation.
    """
    average = copy.deepcopy(network).requires_grad_(False)
    best, kept, waited = held_out_loss(average), copy.deepcopy(average.state_dict()), 0
    for step, loss in train(network, average, loss_at, options):
        if step % stop.every and step != options.steps:
            continue
        found = held_out_loss(average)
        if found < best:
            best, kept, waited = found, copy.deepcopy(average.state_dict()), 0
        else:
            waited += 1
        report(step, loss, found)
        if waited >= stop.patience:
            break
    average.load_state_dict(kept)
    return average


def learning_rate_at(step: int, options: TrainOptions) -> float:
    """Learning rate of a step: linear warm-up times a cosine that ends at 0."""
    warm = min(1.0, (step + 1) / max(options.warm_up, 1))
    return options.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * step / options.steps))


@dataclass(frozen=True)
class Ranks:
    """One process among those that train together.

    Parameters
    ----------
    rank, count : int
        Its number, from 0, and how many there are.
    device : torch.device
        Where it computes: a GPU where there is one.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait for the others."""
        if self.count > 1:
            distributed.barrier()

    def mean(self, value: Tensor) -> float:
        """Average a scalar over all processes."""
        whole = value.detach().clone()
        if self.count > 1:
            distributed.all_reduce(whole)
        return whole.item() / self.count

    def share(self, network: nn.Module) -> nn.Module:
        """Wrap a network so that its gradients are averaged over all processes."""
        if self.count == 1:
            return network
        return nn.parallel.DistributedDataParallel(network)


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started, or be the only one."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if count == 1:
        yield Ranks(0, 1, device)
        return
    distributed.init_process_group("gloo" if device.type == "cpu" else "nccl")
    try:
        yield Ranks(rank, count, device)
    finally:
        distributed.destroy_process_group()
