"""Figures of a run or a source, by name, written to files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:  # each of these loads in a second, which --help must not cost
    from matplotlib.axes import Axes

    from ambient_curate.progress import Progress
    from ambient_curate.run.records import Run

Figure = Literal[
    "accuracy",
    "delta",
    "tv",
    "bracket",
    "sigma-min",
    "reliability",
    "tilt",
    "locality",
    "legibility",
    "episode",
]
FIGURES: tuple[Figure, ...] = get_args(Figure)
_ASKED: tuple[Figure, ...] = ("locality", "legibility")  # of runs where these were asked for
SourceFigure = Literal["spectrum", "field", "jacobian", "probe"]
AnyFigure = Literal[Figure, SourceFigure]
ALL_FIGURES: tuple[AnyFigure, ...] = get_args(AnyFigure)


def list_figures(run: "Run") -> list[Figure]:
    """List the figures that a run has the numbers for, without the one of a single episode."""
    missing: list[Figure] = ["episode"]
    missing += [name for name in _ASKED if not run.info.get(name)]
    if not any(row["tilt"] for row in run.info["verdict"]):
        missing.append("tilt")
    return [figure for figure in FIGURES if figure not in missing]


def save_run_figure(
    run: "Run",
    figure: Figure,
    path: Path,
    *,
    dataset: str = "",
    episode: str = "",
    data: Path | None = None,
) -> Path:
    """Draw one figure of a run, write it in the format that the name of the file says, and close.

    Parameters
    ----------
    run : Run
        A finished run.
    figure : str
        One of `FIGURES`.
    path : Path
        File to write.
    dataset, episode : str
        Which episode the figure of that name shows.
    data : Path or None
        Where the collection lies now, for that figure; None: where the run found it.

    Returns
    -------
    Path
        The file.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    from ambient_curate.report.canvas import save_figure

    if figure == "episode":
        drawn = _draw_episode(run, dataset, episode, data)
    else:
        drawn = _draw(run, figure)
    save_figure(drawn, path)
    plt.close(drawn.get_figure(root=True))
    return path


def _draw(run: "Run", figure: Figure) -> "Axes":
    from ambient_curate.report import plots, sigma_max_plots

    info = run.info
    match figure:
        case "accuracy":
            return _draw_accuracy(run)
        case "delta":
            return plots.plot_delta(run.curves(), epsilon=info["epsilon"])
        case "tv":
            return plots.plot_tv(run.curves(), epsilon=info["epsilon"])
        case "bracket":
            return plots.plot_bracket(info["verdict"], schedule=info["schedule"])
        case "sigma-min":
            return plots.plot_sigma_min(run.manifest())
        case "tilt":
            return plots.plot_tilt(info["verdict"])
        case "locality":
            return sigma_max_plots.plot_locality(info.get("locality", []), epsilon=info["epsilon"])
        case "legibility":
            entries = info.get("legibility", [])
            return sigma_max_plots.plot_legibility(run.curves(), entries, epsilon=info["epsilon"])
        case _:
            return plots.plot_reliability(run.reliability())


def _draw_accuracy(run: "Run") -> "Axes":
    """Draw the accuracy, and beneath it what it says for certain: the total variation."""
    from ambient_curate.report import canvas, plots

    above, beneath = canvas.stack_axes(2)
    plots.plot_accuracy(run.curves(), ax=above)
    plots.plot_certificate(run.curves(), epsilon=run.info["epsilon"], ax=beneath)
    above.set_xlabel("")
    return above


def _draw_episode(run: "Run", dataset: str, episode: str, data: Path | None) -> "Axes":
    """Draw sigma_min along an episode, its curves where stored, its actions where still there."""
    import numpy as np

    from ambient_curate.report import canvas, episode_plots
    from ambient_curate.run.source_data import look_up

    found = look_up(run, dataset, episode, data)
    rows, seen = found.rows, found.episode
    rate = None if seen is None else seen.rate_hz
    stored = rows["p_clean"].null_count < rows.num_rows and not rows["start"].null_count
    if seen is None and not stored:
        return episode_plots.plot_episode(rows)
    panels = canvas.stack_axes(1 + stored + (seen is not None), 2.4)
    episode_plots.plot_episode(rows, rate_hz=rate, ax=panels[0])
    if stored:
        grid = np.array(run.info["grid"])
        episode_plots.plot_p_clean(rows, grid, rate_hz=rate, ax=panels[1])
    if seen is not None:
        episode_plots.plot_actions(seen.action, rate_hz=rate, ax=panels[-1])
    for panel in panels[:-1]:
        panel.set_xlabel("")
    return panels[0]


def save_any(
    source: Path,
    figure: AnyFigure,
    path: Path,
    *,
    progress: "Progress",
    policy: Path | None = None,
    **episode: Any,
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
    **episode
        ``dataset``, ``episode`` and ``data`` of `save_run_figure`.

    Returns
    -------
    Path
        The file.
    """
    if figure in FIGURES:
        from ambient_curate.run.records import open_run_results

        return save_run_figure(open_run_results(source), figure, path, **episode)
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    from ambient_curate.report.canvas import save_figure

    drawn = _draw_source(source, figure, progress, policy)
    save_figure(drawn, path)
    plt.close(drawn.get_figure(root=True))
    return path


def _draw_source(
    source: Path, figure: AnyFigure, progress: "Progress", policy: Path | None
) -> "Axes":
    from ambient_curate.analysis import survey
    from ambient_curate.analysis.sources import read_recordings
    from ambient_curate.report import source_plots

    if figure == "probe":
        return source_plots.plot_probe(survey.read_probes(source))
    with read_recordings(source, progress=progress) as recordings:
        if figure == "spectrum":
            return source_plots.plot_spectrum(survey.survey_spectra(recordings))
        frames = recordings.options.horizon if policy is not None or figure == "jacobian" else None
        fields = survey.survey_fields(recordings, frames=frames)
    if policy is not None:
        fields.append(survey.sense_policy(source, policy, progress=progress))
    return (source_plots.plot_field if figure == "field" else source_plots.plot_jacobian)(fields)
