"""Receipts: what an export says of itself."""

from ambient_curate.cli.tables import export_table, trainers_table
from ambient_curate.export.export import export_lines
from ambient_curate.export.trainers import TRAINERS

INFO = {
    "options": {"to": "lerobot", "schedule": "linear:10", "factor": 2.5},
    "rule": "usable at steps t >= t_min and at t <= t_max",
    "honours": "the gate",
    "lost": "weights",
    "n_obs_steps": 2,
    "members": {
        "p": {"rows": 1200, "padded": 90, "never_usable": 0, "effective": 1200.0, "share": 0.75},
        "q": {
            "rows": 5000,
            "padded": 2345,
            "never_usable": 1234,
            "effective": 400.4,
            "share": 0.25,
        },
    },
    "notes": ["p is counted by position"],
}


def test_every_dataset_has_a_row() -> None:
    columns, rows = export_table(INFO)
    assert len(columns) == len(rows[0]) == 6
    assert rows[1] == ["q", "5,000", "2,345", "1,234", "400", "25.0 %"]


def test_the_rule_the_losses_and_the_scale_are_told() -> None:
    text = "\n".join(export_lines(INFO))
    for part in ("linear:10", "t >= t_min", "the gate", "Lost: weights", "2.5 times"):
        assert part in text
    assert "begins 1 frame before it" in text
    assert "begins at it" in "\n".join(export_lines(INFO | {"n_obs_steps": 1}))
    assert "begins 2 frames before it" in "\n".join(export_lines(INFO | {"n_obs_steps": 3}))
    assert text.endswith("p is counted by position")
    same = INFO | {"options": INFO["options"] | {"factor": 1.0}, "notes": []}
    assert "times as large" not in "\n".join(export_lines(same))


def test_every_trainer_has_a_row() -> None:
    columns, rows = trainers_table(TRAINERS)
    assert [row[0] for row in rows] == list(TRAINERS)
    assert all(len(row) == len(columns) for row in rows)
