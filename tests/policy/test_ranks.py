"""Ranks: two processes train as one does, up to the order of sums."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_fitting import read_losses

from ambient_curate.training import join_ranks

PROGRAM = Path(__file__).with_name("ranks_program.py")


def train(work: Path, processes: int, loss: str) -> list[str]:
    work.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), str(PROGRAM), str(work), loss],
        env=os.environ | {"PYTHONPATH": str(PROGRAM.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return sorted(file.name for file in work.glob("rank-*"))


@pytest.mark.parametrize("loss", [pytest.param("denoise", marks=pytest.mark.slow), "ambient"])
def test_two_processes_train_as_one(tmp_path: Path, loss: str) -> None:
    assert train(tmp_path / "one", 1, loss) == ["rank-0-of-1"]
    assert train(tmp_path / "two", 2, loss) == ["rank-0-of-2", "rank-1-of-2"]
    one, two = (read_losses(tmp_path / name) for name in ("one", "two"))
    np.testing.assert_allclose([v for _, v in two], [v for _, v in one], rtol=1e-5)
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two")]
    for name, values in weights[0].items():
        torch.testing.assert_close(weights[1][name], values, rtol=0, atol=1e-5)
    assert (tmp_path / "two" / "validation.csv").exists()


def test_a_process_alone_waits_for_nobody() -> None:
    with join_ranks() as ranks:
        assert (ranks.rank, ranks.count, ranks.is_first) == (0, 1, True)
        ranks.wait()
        assert ranks.mean(torch.tensor(2.5)) == 2.5
        network = torch.nn.Linear(1, 1)
        assert ranks.share(network) is network
