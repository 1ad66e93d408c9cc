"""An episode of a run in Rerun: its actions beside sigma_min and its curve."""

import os
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ambient_curate.errors import ConfigError
from ambient_curate.files import replace_whole
from ambient_curate.noise import Levels
from ambient_curate.option_fields import check_path
from ambient_curate.run.records import Run
from ambient_curate.run.source_data import Sight, look_up

NEVER = {"sigma_min": 1.0, "sigma_min_lower": 1.0, "sigma_min_upper": 1.0, "sigma_max": 0.0}
VIEWER = "rerun"  # the program
NO_VIEWER = (
    "install it beside this program, pip install 'ambient-curate[rerun]'; or write what it would "
    "show with --save FILE.rrd, and open that where there is a viewer"
)
CURVES = 5  # levels at which p_clean is shown along an episode


def view_episode(
    run: Run,
    dataset: str = "",
    episode: str = "",
    *,
    save: Path | str | None = None,
    data: Path | str | None = None,
) -> Path | None:
    """Show an episode in Rerun's viewer, or write what it would show.

    Parameters
    ----------
    run : Run
        A finished run, by episode or window.
    dataset, episode : str
        Which one; empty: the first.
    save : Path, str or None
        Recording to write (``.rrd``); None: the viewer is started.
    data : Path, str or None
        Where the collection lies now; None: where the run found it, if it is still there.

    Returns
    -------
    Path or None
        `save`.

    Raises
    ------
    CurateError
        If there is no such episode, the extra is missing, or no viewer is found.
    OSError
        If the file system refuses; a file that was there stays as it was.
    """
    try:
        import rerun as rr
    except ImportError as error:
        raise ConfigError(
            "viewing needs rerun, which is not installed", "pip install 'ambient-curate[rerun]'"
        ) from error
    save = None if save is None else check_path("save", save)
    if save is None:
        _require_viewer()
    found = look_up(run, dataset, episode, data)
    row = found.rows.slice(0, 1).to_pylist()[0]
    title = f"{row['dataset']} / {row['episode_id']}"
    stream = rr.RecordingStream("ambient-curate", recording_id=title)
    with ExitStack() as stack:
        if save is None:
            _start_viewer(stream)
        else:
            recording = stack.enter_context(replace_whole(save))
            recording.touch()  # what the file system refuses is raised here, as an OSError
            stream.save(recording)
        stack.callback(stream.disconnect)  # before the file gets its name
        stream.send_property("RecordingInfo", rr.archetypes.RecordingInfo(name=title))
        stream.send_blueprint(_lay_out())
        _log(rr, stream, found, np.array(run.info["grid"]))
        if save is None:
            _wait_until_shown(stream)
    return save


def _list_places() -> str:
    """Give PATH, and the folder of this Python: its environment may not be activated."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])


def _require_viewer() -> None:
    if shutil.which(VIEWER, path=_list_places()) is None:
        raise ConfigError(
            f"no viewer of Rerun: there is no {VIEWER!r} on PATH or beside {sys.executable}",
            NO_VIEWER,
        )


def _start_viewer(stream: Any) -> None:
    before = dict(os.environ)
    os.environ["PATH"] = _list_places()  # where Rerun searches for its viewer
    try:
        stream.spawn()
    except RuntimeError as error:
        raise ConfigError(f"the viewer of Rerun does not start: {error}", NO_VIEWER) from error
    finally:
        os.environ.pop("PATH")
        os.environ |= before


def _wait_until_shown(stream: Any) -> None:
    """Refuse a viewer that has ended, as one does where there is no display."""
    try:
        stream.flush()
    except RuntimeError as error:
        raise ConfigError(
            f"the viewer of Rerun takes nothing; is there a display? {error}", NO_VIEWER
        ) from error


def _lay_out() -> Any:
    """Give each kind of series a view of its own, one above the other."""
    import rerun.blueprint as rrb

    series = {"actions": ["action"], "noise levels": ["sigma"], "curves": ["p_clean"]}
    views = [
        rrb.TimeSeriesView(name=name, contents=[f"+ /{root}/**" for root in roots])
        for name, roots in series.items()
    ]
    return rrb.Blueprint(rrb.Vertical(*views, rrb.BarChartView(origin="mean_p_clean")))


def _log(rr: Any, stream: Any, found: Sight, grid: Levels) -> None:
    """Send the series, each in one column over the frames, and over time where the rate is known.

    Windows stand where they begin; one without an answer has the levels of never.
    """
    rate = None if found.episode is None else found.episode.rate_hz

    def send(path: str, frame: np.ndarray, values: np.ndarray) -> None:
        index = [rr.TimeColumn("frame", sequence=frame)]
        if rate is not None:
            index.append(rr.TimeColumn("time", duration=frame / rate))
        scalars = rr.Scalars.columns(scalars=values.astype(np.float64))
        stream.send_columns(path, index, [*scalars])

    if found.episode is not None:
        for number, values in enumerate(found.episode.action.T):
            send(f"action/{number}", np.arange(values.size), values)
    start = found.rows["start"].fill_null(0).to_numpy().astype(np.int64)
    for name, never in NEVER.items():
        values = np.nan_to_num(found.rows[name].to_numpy(), nan=never)
        send(f"sigma/{name.removeprefix('sigma_')}", start, values)
    given = np.array([curve is not None for curve in found.rows["p_clean"].to_pylist()])
    if not given.any():
        return
    curves = np.array([curve for curve in found.rows["p_clean"].to_pylist() if curve is not None])
    stream.log("mean_p_clean", rr.BarChart(curves.mean(axis=0), abscissa=grid), static=True)
    for place in np.linspace(0, grid.size - 1, CURVES).astype(int):
        send(f"p_clean/at_sigma_{grid[place]:.3f}", start[given], curves[:, place])
