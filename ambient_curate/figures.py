"""The figures of a finished run by name, written to files."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:  # each of these loads in a second, which --help must not cost
    from matplotlib.axes import Axes

    from ambient_curate.results import Run

Figure = Literal["accuracy", "delta", "tv", "bracket", "sigma-min", "reliability", "locality"]
FIGURES: tuple[Figure, ...] = get_args(Figure)


def save_run_figure(run: "Run", figure: Figure, path: Path) -> Path:
    """Draw one figure of a run, write it in the format that the name of the file says, and close.

    Returns
    -------
    Path
        The file.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from ambient_curate.canvas import save_figure

    save_figure(_draw(run, figure), path)
    return path


def _draw(run: "Run", figure: Figure) -> "Axes":
    from ambient_curate import local_plots, plots

    if figure == "accuracy":
        return plots.plot_accuracy(run.curves())
    if figure == "delta":
        return plots.plot_delta(run.curves(), epsilon=run.info["epsilon"])
    if figure == "tv":
        return plots.plot_tv(run.curves(), epsilon=run.info["epsilon"])
    if figure == "bracket":
        return plots.plot_bracket(run.info["verdict"], schedule=run.info["schedule"])
    if figure == "sigma-min":
        return plots.plot_sigma_min(run.manifest())
    if figure == "locality":
        located = run.info.get("locality", [])
        return local_plots.plot_locality(located, epsilon=run.info["epsilon"])
    return plots.plot_reliability(run.reliability())
