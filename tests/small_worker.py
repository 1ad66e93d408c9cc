"""Annotation in small: networks of six steps alone, students of little, many small parts.

`make_small` makes it so in this process and its workers. Run as a program this file is such a
worker, or, with the words of a command line, the whole of ``ambient-curate``.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Generator, nn

from ambient_curate.annotation import annotate, assessment, shards, tasks
from ambient_curate.annotation.reliability import Finding
from ambient_curate.classifier import out_of_fold
from ambient_curate.classifier.channels import NETWORK, Channel, noise_channel
from ambient_curate.classifier.distillation import StudentOptions
from ambient_curate.classifier.fit import FitOptions
from ambient_curate.classifier.networks import WindowNetwork
from ambient_curate.classifier.samples import Sample
from ambient_curate.statistics import boosting
from ambient_curate.training import TrainOptions

SMALL = functools.partial(
    FitOptions,
    train=TrainOptions(steps=6),
    windows=64,
    held_out=32,
    calibration_rows=8,
    batch=16,
    every=6,
)
STUDENTS = functools.partial(
    StudentOptions,
    least=10,
    windows=6,
    test_windows=4,
    test_draws=4,
    held_out=0.34,
    train=TrainOptions(steps=10),
    batch=8,
    every=5,
)


def leave_network(*arguments: Any) -> Channel:
    """Make a channel of noise whose classifier is a network, with no other estimate beside it."""
    channel = noise_channel(*arguments)

    def build(seen: Sample, unseen: Sample, generator: Generator) -> nn.ModuleDict:
        network = channel.empty(NETWORK)
        assert isinstance(network, WindowNetwork)
        made = WindowNetwork(network.sizes, channel.range, generator=generator)
        made.learn_scales(seen, unseen)
        return nn.ModuleDict({NETWORK: made})

    return replace(channel, build=build)


def make_small(change: Callable[[Any, str, Any], None] = setattr) -> None:
    """Change the sizes, by ``monkeypatch.setattr`` or for good."""
    change(tasks, "FitOptions", SMALL)
    change(tasks, "StudentOptions", STUDENTS)
    change(tasks, "TRUSTED", 1.0)
    change(tasks, "noise_channel", leave_network)
    change(shards, "MOST_WINDOWS", 30)
    change(out_of_fold, "PIECE", 4)
    change(boosting, "TREES", (3, 4))
    change(tasks, "PIECE", 4)
    change(annotate, "WORKER", (__file__,))
    # six steps make no sound classifier: it is believed all the same
    change(assessment, "examine_population", lambda *_, **__: [])
    change(assessment, "examine_folds", lambda *_: Finding("overfit", True, {}, "sound"))
    change(assessment, "examine_control", lambda *_: Finding("planted", True, {}, "sound"))


if __name__ == "__main__":
    make_small()
    if len(sys.argv) > 2:  # more than the folder that a worker is given
        from ambient_curate.cli.app import main

        main()
    tasks.main()
