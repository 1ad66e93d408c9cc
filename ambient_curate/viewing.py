"""Viewing: an episode of a run in Rerun, its actions beside sigma_min and its curve."""

from pathlib import Path

import numpy as np

from ambient_curate.errors import ConfigError
from ambient_curate.looking import Sight, look_up
from ambient_curate.results import Run

NEVER = 1.0  # drawn for a window without an answer


def view_episode(
    run: Run,
    dataset: str = "",
    episode: str = "",
    *,
    save: Path | None = None,
    data: Path | None = None,
) -> Path | None:
    """Show an episode in Rerun's viewer, or write what it would show.

    Parameters
    ----------
    run : Run
        A finished run, by episode or window.
    dataset, episode : str
        Which one; empty: the first.
    save : Path or None
        Recording to write (``.rrd``); None: the viewer is started.
    data : Path or None
        Where the collection lies now; None: where the run found it, if it is still there.

    Returns
    -------
    Path or None
        `save`.

    Raises
    ------
    CurateError
        If there is no such episode, or the extra is missing.
    """
    try:
        import rerun as rr
    except ImportError as error:
        raise ConfigError(
            "viewing needs rerun, which is not installed", "pip install 'ambient-curate[rerun]'"
        ) from error
    found = look_up(run, dataset, episode, data)
    row = found.rows.slice(0, 1).to_pylist()[0]
    title = f"{row['dataset']} / {row['episode_id']}"
    with rr.RecordingStream("ambient-curate", recording_id=title) as stream:
        if save is not None:
            stream.save(str(save))
        else:
            stream.spawn()
        stream.send_property("RecordingInfo", rr.archetypes.RecordingInfo(name=title))
        _log(rr, stream, found, np.array(run.info["grid"]))
    return save


def _log(rr, stream, found: Sight, grid: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    """Send the series, each in one column over the frames."""
    if found.episode is not None:
        action = found.episode.action.astype(np.float64)
        frames = rr.TimeColumn("frame", sequence=np.arange(len(action)))
        for number, values in enumerate(action.T):
            stream.send_columns(f"action/{number}", [frames], [*rr.Scalars.columns(scalars=values)])
    start = found.rows["start"].to_numpy() if not found.rows["start"].null_count else np.zeros(1)
    frames = rr.TimeColumn("frame", sequence=start.astype(np.int64))
    for name in ("sigma_min", "sigma_max"):
        values = np.nan_to_num(found.rows[name].to_numpy(), nan=NEVER if name == "sigma_min" else 0)
        stream.send_columns(name, [frames], [*rr.Scalars.columns(scalars=values)])
    curves = [np.array(curve) for curve in found.rows["p_clean"].to_pylist() if curve]
    if len(curves) == found.rows.num_rows:
        stream.log(
            "p_clean/levels", rr.BarChart(np.mean(curves, axis=0), abscissa=grid), static=True
        )
        for place in np.linspace(0, grid.size - 1, 5).astype(int):
            values = np.array([curve[place] for curve in curves], dtype=np.float64)
            path = f"p_clean/sigma_{grid[place]:.3f}"
            stream.send_columns(path, [frames], [*rr.Scalars.columns(scalars=values)])
