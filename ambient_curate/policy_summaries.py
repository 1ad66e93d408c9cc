"""Policies in words and columns of text: what they were trained on, and what came of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Table = tuple[list[str], list[list[str]]]


def policy_table(info: Mapping[str, Any]) -> Table:
    """Lay out what a policy was trained on, level by level, and how far it errs there.

    Parameters
    ----------
    info : mapping
        Content of ``policy.json``.

    Returns
    -------
    tuple of list of str and list of list of str
        A row for each of some levels: the share of every dataset's windows that was admitted, and
        the mean squared error on held-out clean windows, where there are any.
    """
    measured, sigma = info["held_out"], info["sigma"]
    levels = range(len(sigma)) if measured is None else measured["levels"]
    columns = ["level", "sigma", *info["coverage"]]
    rows = [
        [str(level), f"{sigma[level]:.4f}"]
        + [f"{100 * share[level]:.0f} %" for share in info["coverage"].values()]
        for level in levels
    ]
    if measured is not None:
        columns.append("held-out error")
        rows = [[*row, f"{error:.2e}"] for row, error in zip(rows, measured["error"], strict=True)]
    return columns, rows


def rollout_table(found: Mapping[str, Any], interval: tuple[float, float]) -> Table:
    """Lay out what came of a policy's episodes, in one row."""
    n, successes = len(found["successes"]), sum(found["successes"])
    low, high = interval
    columns = ["episodes", "successes", "rate", "95 % (Wilson)", "mean reward", "mean frames"]
    cells = [
        str(n),
        str(successes),
        f"{100 * successes / n:.1f} %",
        f"[{100 * low:.1f} %, {100 * high:.1f} %]",
        f"{sum(found['rewards']) / n:.3f}",
        f"{sum(found['frames']) / n:.1f}",
    ]
    return columns, [cells]


def coverage_lines(
    coverage: Mapping[str, Sequence[float]],
    sigma: Sequence[float],
    sizes: Mapping[str, tuple[int, float]],
) -> Iterator[str]:
    """Say at which noise levels each dataset will be used, before it is.

    Parameters
    ----------
    coverage : mapping of str to sequence of float
        Share of the dataset's windows that is admitted at every level.
    sigma : sequence of float
        The levels.
    sizes : mapping of str to (int, float)
        Number of windows, and how many their weights make them worth.
    """
    for name, share in coverage.items():
        used = [level for level, part in enumerate(share) if part > 0]
        windows, effective = sizes[name]
        text = f"{name}: {windows:,} windows, "
        if round(effective) != windows:
            text += f"by their weights worth {effective:,.0f}, "
        if not used:
            yield text + "admitted at no noise level"
            continue
        mean = sum(share) / len(share)
        holes = f" (with holes: {used[-1] - used[0] + 1 - len(used)} levels)" * (
            used[-1] - used[0] + 1 > len(used)
        )
        yield text + (
            f"admitted from sigma {sigma[used[0]]:.3f} to {sigma[used[-1]]:.3f}{holes}, "
            f"{100 * mean:.0f} % of them at a level on average"
        )
