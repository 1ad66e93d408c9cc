"""Processes that train one policy together, as ``torchrun`` starts them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


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
