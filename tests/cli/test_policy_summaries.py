"""Policies in words: levels, holes, weights, episodes."""

from ambient_curate.cli.tables import coverage_lines, policy_table, rollout_table


def test_a_policy_is_told_level_by_level() -> None:
    info = {
        "sigma": [0.02, 0.5, 1.0],
        "coverage": {"own": [1.0, 1.0, 1.0], "sim": [0.0, 0.25, 1.0]},
        "held_out": {"levels": [0, 2], "sigma": [0.02, 1.0], "error": [0.000123, 0.5]},
    }
    assert policy_table(info) == (
        ["level", "sigma", "own", "sim", "held-out error"],
        [
            ["0", "0.0200", "100 %", "0 %", "1.23e-04"],
            ["2", "1.0000", "100 %", "100 %", "5.00e-01"],
        ],
    )
    columns, rows = policy_table({**info, "held_out": None})
    assert columns == ["level", "sigma", "own", "sim"]
    assert rows[1] == ["1", "0.5000", "100 %", "25 %"]


def test_coverage_tells_ends_holes_and_what_weights_cost() -> None:
    coverage = {
        "own": [1.0] * 4,
        "sim": [0.0, 0.5, 1.0, 1.0],
        "far": [0.2, 0.0, 0.0, 1.0],
        "no": [0.0] * 4,
    }
    sizes = {"own": (1000, 1000.0), "sim": (20, 12.4), "far": (5, 5.0), "no": (7, 7.0)}
    assert list(coverage_lines(coverage, [0.1, 0.2, 0.3, 1.0], sizes)) == [
        "own: 1,000 windows, admitted from sigma 0.100 to 1.000, "
        "100 % of them at a level on average",
        "sim: 20 windows, by their weights worth 12, admitted from sigma 0.200 to 1.000, "
        "62 % of them at a level on average",
        "far: 5 windows, admitted from sigma 0.100 to 1.000 (with holes: 2 levels), "
        "30 % of them at a level on average",
        "no: 7 windows, admitted at no noise level",
    ]


def test_rollouts_are_told_in_a_row() -> None:
    found = {
        "successes": (True, False, True, True),
        "rewards": (1.0, 0.0, 2.0, 1.0),
        "frames": (3, 9, 4, 4),
    }
    assert rollout_table(found, (0.3006, 0.9544)) == (
        ["episodes", "successes", "rate", "95 % (Wilson)", "mean reward", "mean frames"],
        [["4", "3", "75.0 %", "[30.1 %, 95.4 %]", "1.000", "5.0"]],
    )
