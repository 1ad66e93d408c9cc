"""Devices: where networks answer, on a GPU where PyTorch finds one."""

import torch

CPU_ROWS = 1_024  # rows of one call: what the cache of a core holds
GPU_ROWS = 32_768  # a GPU waits for its calls unless they are long


def pick_device() -> torch.device:
    """Return the first GPU, or the processor where there is none.

    ``CUDA_VISIBLE_DEVICES`` says which GPU is the first; empty, that there is none.
    """
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def rows_at_once(device: torch.device) -> int:
    """Rows that a network on `device` should be asked for in one call."""
    return CPU_ROWS if device.type == "cpu" else GPU_ROWS
