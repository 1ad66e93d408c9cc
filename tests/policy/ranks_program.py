"""Trains a small policy; run alone or under ``torchrun``, with the folder of its files."""

import sys
from pathlib import Path

import torch
from test_fitting import OPTIONS, make_denoiser, make_lesson

from ambient_curate.policy.checkpoints import save_weights
from ambient_curate.policy.fitting import fit_policy
from ambient_curate.policy.options import PolicyOptions
from ambient_curate.progress import silent
from ambient_curate.training import join_ranks

if __name__ == "__main__":
    torch.set_num_threads(1)
    work, loss = Path(sys.argv[1]), sys.argv[2]
    with join_ranks() as ranks:
        lesson = make_lesson()
        options = PolicyOptions(**OPTIONS, loss=loss)
        trained = fit_policy(make_denoiser(lesson), lesson, options, work, ranks, silent)
        if ranks.is_first:
            save_weights(trained, work / "weights.safetensors")
        ranks.wait()
        (work / f"rank-{ranks.rank}-of-{ranks.count}").touch()
