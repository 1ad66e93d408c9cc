"""Runs ``lerobot-train`` and writes down every frame, time and weight of the training.

``python record_training.py RECORD [arguments of lerobot-train]``. The times are those that the
network was given, not those that the plug-in drew. With ``WEIGHTS=FILE`` in the environment losses
are weighted by that file, as LeRobot's pull request 4222 does, which no release has.
"""

import json
import os
import sys
from pathlib import Path

import pyarrow.parquet as pq
import torch
from lerobot.scripts import lerobot_train
from lerobot_policy_ambient_diffusion.annotation import Annotation

SEEN: list[torch.Tensor] = []
DRAWN: list[tuple[list[int], list[float], list[float]]] = []


def record_times(owner: type, name: str, place: int) -> None:
    """Have a method note one of its arguments."""
    method = getattr(owner, name)

    def noted(self, *given, **named):
        SEEN.append(given[place])
        return method(self, *given, **named)

    setattr(owner, name, noted)


def record_draws() -> None:
    """Have the plug-in note frames and weights, and the networks their times."""
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionConditionalUnet1d
    from lerobot.policies.smolvla.modeling_smolvla import VLAFlowMatching

    record_times(DiffusionConditionalUnet1d, "forward", 1)
    record_times(VLAFlowMatching, "embed_suffix", 1)
    draw = Annotation.draw

    def noted(self, batch, schedule, **law):
        keep()
        found = draw(self, batch, schedule, **law)
        DRAWN.append((batch["index"].tolist(), [], found.weight.tolist()))
        return found

    Annotation.draw = noted


def keep() -> None:
    """Put what the network saw to the draw that it was of."""
    if DRAWN:
        (seen,) = SEEN
        DRAWN[-1][1].extend(seen.tolist())
        SEEN.clear()


class FileWeights:
    """Weights of frames from columns ``index`` and ``weight``; a batch's add up to its size."""

    def __init__(self, file: str) -> None:
        table = pq.read_table(file)
        self.weight = torch.ones(table["index"].to_numpy().max() + 1)
        self.weight[torch.tensor(table["index"].to_numpy())] = torch.tensor(
            table["weight"].to_numpy()
        )

    def compute_batch_weights(self, batch):
        """Give the weights of a batch."""
        found = self.weight[batch["index"].cpu()]
        return found * len(found) / found.sum(), {"mean": float(found.mean())}

    def get_stats(self):
        """Give nothing."""
        return {}


def weigh(file: str) -> None:
    """Let LeRobot take its weights from a file."""
    from lerobot.utils import sample_weighting

    sample_weighting.make_sample_weighter = lambda *_, **__: FileWeights(file)


def main() -> None:
    """Train and write the record."""
    record = Path(sys.argv.pop(1))
    record_draws()
    if "WEIGHTS" in os.environ:
        weigh(os.environ["WEIGHTS"])
    lerobot_train.main()
    keep()
    rows = [row for each in DRAWN for row in zip(*each, strict=True)]
    record.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
