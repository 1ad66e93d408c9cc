"""Receipts: what was exported, and what each trainer can make of it, for people."""

from collections.abc import Iterator, Mapping
from typing import Any

from ambient_curate.trainers import Trainer

Table = tuple[list[str], list[list[str]]]


def trainers_table(trainers: Mapping[str, Trainer]) -> Table:
    """Lay out all trainers: a row each."""
    rows = [[name, t.honours, t.lost, t.schedule] for name, t in trainers.items()]
    return ["to", "what it honours", "what is lost", "time"], rows


def export_table(info: Mapping[str, Any]) -> Table:
    """Lay out what was written of every dataset.

    Parameters
    ----------
    info : mapping
        Content of ``export.json``.
    """
    columns = ["dataset", "windows", "never usable", "on average usable", "share"]
    rows = [
        [
            name,
            f"{member['rows']:,}",
            f"{member['never_usable']:,}",
            f"{member['effective']:,.0f}",
            f"{100 * member['share']:.1f} %",
        ]
        for name, member in info["members"].items()
    ]
    return columns, rows


def export_lines(info: Mapping[str, Any]) -> Iterator[str]:
    """Say when the trainer may use a window, what it honours, and what a user has to know."""
    options = info["options"]
    yield f"{options['to']}, {options['schedule']}: {info['rule']}."
    yield f"Honoured: {info['honours']}. Lost: {info['lost']}."
    yield (
        f"A window begins {info['n_obs_steps'] - 1} frames before its frame; one that leaves its "
        "episode has the values of the nearest whole one."
    )
    if options["factor"] != 1.0:
        yield (
            f"The trainer's actions are {options['factor']:.4g} times as large as the run's: noise "
            "levels were rescaled."
        )
    yield from info["notes"]
