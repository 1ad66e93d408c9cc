"""The figures of a finished run, or of any source, by name, written to files."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:  # each of these loads in a second, which --help must not cost
    from matplotlib.axes import Axes

    from ambient_curate.progress import Progress
    from ambient_curate.results import Run

Figure = Literal["accuracy", "delta", "tv", "bracket", "sigma-min", "reliability"]
FIGURES: tuple[Figure, ...] = get_args(Figure)
SourceFigure = Literal["spectrum", "field", "jacobian", "probe"]
AnyFigure = Literal[Figure, SourceFigure]
ALL_FIGURES: tuple[AnyFigure, ...] = get_args(AnyFigure)


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
    from ambient_curate import plots

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
    return plots.plot_reliability(run.reliability())


def save_any(
    source: Path,
    figure: AnyFigure,
    path: Path,
    *,
    progress: "Progress",
    policy: Path | None = None,
) -> Path:
    """Read a run or another source, measure what a figure shows, and save it as a run's.

    Parameters
    ----------
    source : Path
        A run; for ``spectrum``, ``field`` and ``jacobian`` also a dataset or collection; for
        ``probe`` the file that the command of that name wrote.
    figure : str
        One of `ALL_FIGURES`.
    path : Path
        The file.
    progress : Progress
        Told of all reading.
    policy : Path or None
        A policy trained on the run `source`, for ``field`` and ``jacobian``.

    Returns
    -------
    Path
        The file.
    """
    if figure in FIGURES:
        from ambient_curate.results import open_run_results

        return save_run_figure(open_run_results(source), figure, path)
    import matplotlib as mpl

    mpl.use("Agg")
    from ambient_curate.canvas import save_figure

    save_figure(_draw_source(source, figure, progress, policy), path)
    return path


def _draw_source(
    source: Path, figure: AnyFigure, progress: "Progress", policy: Path | None
) -> "Axes":
    from ambient_curate import portraits, surveys
    from ambient_curate.recordings import read_recordings

    if figure == "probe":
        return portraits.plot_probe(surveys.read_probes(source))
    with read_recordings(source, progress=progress) as recordings:
        if figure == "spectrum":
            return portraits.plot_spectrum(surveys.survey_spectra(recordings))
        frames = recordings.options.horizon if policy is not None or figure == "jacobian" else None
        fields = surveys.survey_fields(recordings, frames=frames)
    if policy is not None:
        fields.append(surveys.sense_policy(source, policy, progress=progress))
    return (portraits.plot_field if figure == "field" else portraits.plot_jacobian)(fields)
